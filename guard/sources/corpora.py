"""The outside test corpora: chains of calls without a guard, one task a line. Labels in them are for scoring and are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.sources.lines import Lines
from guard.sources.seen import Found, Seen

__all__ = ["is_corpus", "read_corpus"]

_STEP = 1_000_000


def is_corpus(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    calls = value.get("calls")
    listed = isinstance(calls, list) and all(isinstance(call, dict) and isinstance(call.get("tool"), str) for call in calls)
    return listed or ("user_tool" in value and "user_case" in value)


def read_corpus(lines: Lines) -> Iterator[Seen]:
    """A call a second, in the order they stand; each task begins an hour after the one before."""
    results = _results(lines.path.parent / "results.jsonl")
    cases = _cases(lines.path.parent / "user_cases.jsonl")
    for number, value in lines:
        if not is_corpus(value):
            lines.broken()
            continue
        name = str(value.get("pair") or value.get("id") or value.get("user_case") or number)
        prompt = value.get("prompt") or (cases.get(str(value.get("user_case"))) or value).get("user_instruction")
        for step, call in enumerate(_calls(value, cases), 1):
            result = call.get("result", results.get(str(call.get("result_id"))))
            args = call.get("args")
            yield Seen(
                "call", ("", "", name), (number * 3600 + step) * _STEP, step=step, id=f"{name}.{step}", tool=str(call["tool"]),
                args={str(k): v for k, v in args.items()} if isinstance(args, Mapping) else None, status="ok", result=result,
                known_result=result is not None, actors=("agent",), origin="user", prompt=prompt if isinstance(prompt, str) else None,
                file=lines.name, line=number,
            )  # fmt: skip


def _calls(value: Mapping[str, Any], cases: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if isinstance(value.get("calls"), list):
        return value["calls"]  # type: ignore[no-any-return]
    case = cases.get(str(value["user_case"]), value)
    first = {"tool": str(value["user_tool"]), "args": case.get("user_args"), "result": value.get("text")}
    return [first, *({"tool": str(tool), "args": None} for tool in value.get("attacker_tools") or ())]


def _results(path: Path) -> dict[str, str]:
    return {str(row.get("id")): str(row.get("text", "")) for row in _rows(path)}


def _cases(path: Path) -> dict[str, Mapping[str, Any]]:
    return {str(row.get("user_case")): row for row in _rows(path)}


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    for _, row in Lines(path, Found(), lambda _: None):
        if isinstance(row, dict):
            yield row
