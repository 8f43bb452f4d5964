"""Our own audit log: decisions, outcomes and ends of tasks, in the order they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from guard.model import Finding, Judge, Mode
from guard.reasons import ReasonCode
from guard.sources.lines import Lines
from guard.sources.seen import Seen

__all__ = ["KINDS", "is_audit", "of_record", "read_audit"]

KINDS: Final = frozenset(("decision", "outcome", "task", "pivot", "approval", "issue", "checkpoint", "writer"))
_JUDGES: Final = frozenset(get_args(Judge))
_MEMBERS: Final = ("judge", "says", "code", "rule", "where", "text", "mode", "fix")
_MOST: Final = 4096
_FAR: Final = 1 << 62
_held: dict[tuple[object, ...], Finding] = {}
_CODES: Final = {str(code.value): code for code in ReasonCode}


def is_audit(value: object) -> bool:
    return isinstance(value, dict) and value.get("kind") in KINDS and ("v" in value or "hash" in value)


def read_audit(lines: Lines) -> Iterator[Seen]:
    for number, row in lines:
        if not is_audit(row):
            lines.broken()
            continue
        try:
            seen = of_record(row, lines.name, number)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            lines.broken()
            continue
        if seen is not None:
            yield seen


def of_record(row: Mapping[str, Any], file: str = "", line: int = 0) -> Seen | None:
    """A record as an event; None for what replay has no use for. Raises KeyError, TypeError, ValueError for what is no record."""
    kind = row["kind"]
    at = _number(row["at"]) if kind in ("decision", "outcome", "task") else 0
    if kind == "decision":
        return _decision(row, at, file, line)
    if kind == "outcome":
        status = row["status"]
        if status not in ("not_executed", "ok", "error", "unknown"):
            raise ValueError("status")
        return Seen(
            "outcome", ("", "", _text(row["task"])), at, _number(row.get("order", 0)), _number(row["step"]), _text(row["decision"]), _text(row["tool"]),
            status=status, settled=_number(row.get("settled", 0)), file=file, line=line, trust="proven",
        )  # fmt: skip
    if kind == "task":
        return Seen(
            "task", ("", "", _text(row["task"])), at, verdict=_text(row["verdict"]), code=_text(row["code"]), file=file, line=line,
            tool="task.end", policy=_text(row.get("policy") or ""), trust="proven",
        )  # fmt: skip
    return None


def _decision(row: Mapping[str, Any], at: int, file: str, line: int) -> Seen:
    get = row.get
    verdict, origin, intent = row["verdict"], get("origin") or "", get("intent")
    name, tool, code = row["id"], row["tool"], row["code"]
    task = (row["tenant"], row["issuer"], row["task"])
    policy, tools, span = get("policy") or "", get("tools") or "", get("span") or ""
    for text in (verdict, origin, "" if intent is None else intent, name, tool, code, *task, policy, tools, span):
        if type(text) is not str:
            raise TypeError("text")
    judged = get("judged")
    atoms = get("atoms") or {}
    if not isinstance(atoms, Mapping):
        raise TypeError("atoms")
    subject = _text(get("subject") or "")
    return Seen(
        "call", task, at, _number(get("order", 0)), _number(row["step"]), name, tool,
        atoms=atoms, status="" if verdict == "allow" else "not_executed",
        actors=tuple(map(str, get("actors") or ())), origin=subject or origin,
        person=origin if origin and (subject or get("origin_kind") == "person") else None, proven=_text(get("proven") or "") or None,
        intent=intent, policy=policy, tools=tools, verdict=verdict,
        code=code, findings=tuple(map(_finding, get("findings") or ())),
        judged=(_number(judged[0]), _number(judged[1])) if judged else None, state=_text(get("state") or ""), span=span, file=file, line=line,
        trust="proven",
    )  # fmt: skip


def _finding(one: Mapping[str, Any]) -> Finding:
    """Most findings of a log are the same few: those without witnesses are made once."""
    if "witnesses" in one:
        return _made(one)
    key = tuple(one.items())
    try:
        held = _held.get(key)
    except TypeError:  # a member this format does not have may hold anything; those it has may not
        key = tuple([(name, one[name]) for name in _MEMBERS if name in one])
        held = _held.get(key)
    if held is None:
        if len(_held) >= _MOST:
            _held.clear()
        held = _held[key] = _made(one)
    return held


def _made(one: Mapping[str, Any]) -> Finding:
    code = _CODES.get(str(one["code"]), ReasonCode.DEFAULT_DENY)
    judge, says = one["judge"], one["says"]
    if judge not in _JUDGES or says not in ("permit", "forbid", "ask"):
        raise ValueError("finding")
    mode: Mode = "monitor" if one.get("mode") == "monitor" else "enforce"
    witnesses = tuple(map(str, one.get("witnesses") or ()))
    return Finding(judge, says, code, one.get("rule"), one.get("where"), str(one.get("text", "")), mode, one.get("fix"), witnesses)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not -_FAR <= value <= _FAR:
        raise TypeError("number")
    return value
