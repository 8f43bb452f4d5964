"""Lines of a trace that are no calls: an approval, a signal, words of the user.

    approve(four-eyes, by=bob, groups=[treasury])
    signal(device.compliant, true)
    user_says("please pay it today", quoted="as the letter says")

Such a line has a positional argument; `approve(iban="...")` is a call of a tool of that name. Values are written as in YAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

from guard.frozen import frozen
from guard.policy.codes import CODES
from guard.policy.data import Event
from guard.policy.problems import Mark, Report, suggest
from guard.policy.yamltext import Leaf, Node, Seq, parse, plain

__all__ = ["happening"]

Kind = Literal["approve", "signal", "user_says"]
Known = Callable[[str], bool]
_HEAD: Final = re.compile(r"(approve|signal|user_says)\((?!\s*\))(?!\s*[A-Za-z_]\w*\s*=)")
_KEYWORD: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)")
_CLOSERS: Final = {"(": ")", "[": "]", "{": "}"}


@frozen
class _Form:
    """What an event takes: names of its positional arguments, what may follow by name, what must be there, what else is assumed."""

    places: tuple[str, ...]
    named: tuple[str, ...]
    needed: tuple[str, ...]
    otherwise: Mapping[str, object]
    example: str


_FORMS: Final[Mapping[str, _Form]] = {
    "approve": _Form(("ask",), ("by", "groups"), ("ask", "by"), {"groups": []}, "approve(four-eyes, by=bob)"),
    "signal": _Form(("name", "value"), (), ("name", "value"), {}, "signal(device.compliant, true)"),
    "user_says": _Form(("text",), ("quoted",), ("text",), {"quoted": ""}, 'user_says("...")'),
}


@frozen
class _Piece:
    name: str
    text: str
    offset: int


def happening(report: Report, text: str, start: int, at: Mark, rules: frozenset[str] | None) -> tuple[bool, Event | None]:
    """(whether the line is such an event, the event or None where it has problems). `rules`: what may be asked, None: not known here."""
    head = _HEAD.match(text, start)
    if head is None:
        return False, None
    kind = cast(Kind, head[1])
    if report.lacks(kind, _along(at, start, len(kind)), kind):
        return True, None
    pieces = _pieces(report, text, head.end(), at)
    args = _args(report, kind, pieces, at, start) if pieces is not None else None
    if args is None:
        return True, None
    if kind == "approve" and rules is not None and args["ask"] not in rules and args["ask"] not in CODES:
        hint = suggest(str(args["ask"]), {*rules, *CODES})
        shown = str(args["ask"])[:60]
        report.error(
            "unknown-ask", _along(at, head.end(), len(shown)), f"`{shown}` is neither a rule of this policy nor a reason code", hint
        )
        return True, None
    return True, Event(kind, args, line=at.line, text=text, kind=kind)


def _along(at: Mark, offset: int, width: int = 1) -> Mark:
    return Mark(at.line, at.column + offset, max(1, width))


def _pieces(report: Report, text: str, start: int, at: Mark) -> list[_Piece] | None:
    """The arguments, cut at the commas outside of quotes and brackets; nothing but a comment may follow the closing bracket."""
    pieces, closers, begin, place, quote = list[_Piece](), [")"], start, start, ""
    while place < len(text):
        char = text[place]
        if quote:
            place += 1 if char == "\\" and quote == '"' else 0
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in _CLOSERS:
            closers.append(_CLOSERS[char])
        elif char in ")]}":
            if closers.pop() != char:
                report.error("trace", _along(at, place), f"`{char}` closes nothing")
                return None
            if not closers:
                pieces.append(_piece(text, begin, place))
                return pieces if _ends(report, text, place + 1, at) else None
        elif char == "," and len(closers) == 1:
            pieces.append(_piece(text, begin, place))
            begin = place + 1
        place += 1
    report.error("trace", _along(at, len(text) - 1), "the event does not end", "a `)` is missing")
    return None


def _piece(text: str, begin: int, end: int) -> _Piece:
    named = _KEYWORD.match(text, begin, end)
    first = named.end() if named else begin
    raw = text[first:end]
    shift = len(raw) - len(raw.lstrip())
    return _Piece(named[1] if named else "", raw.strip(), first + shift)


def _ends(report: Report, text: str, after: int, at: Mark) -> bool:
    rest = text[after:].lstrip()
    if rest and not rest.startswith("#"):
        report.error("trace", _along(at, len(text) - len(rest)), "nothing follows an event: it has no result")
        return False
    return True


def _args(report: Report, kind: str, pieces: list[_Piece], at: Mark, start: int) -> dict[str, object] | None:
    form, found, before = _FORMS[kind], dict[str, object](), report.errors
    for number, piece in enumerate(pieces):
        place = _along(at, piece.offset, len(piece.text))
        name = piece.name or (form.places[number] if number < len(form.places) else "")
        if not name or (piece.name and piece.name not in form.named) or name in found:
            report.error("trace", place, f"`{kind}` has no such argument", f"write `{form.example}`")
            continue
        value = _value(report, piece.text, place)
        if value is not None:
            found[name] = value
    for name in form.needed:
        if name not in found and report.errors == before:
            report.error("trace", _along(at, start, len(kind)), f"`{kind}` needs `{name}`", f"write `{form.example}`")
    for name, value in found.items():
        if why := _unfit(name, value):
            report.error("trace", _along(at, start, len(kind)), f"`{name}` of `{kind}` is not {why}", f"write `{form.example}`")
    return {**form.otherwise, **found} if report.errors == before else None


def _unfit(name: str, value: object) -> str | None:
    """What the value of that name should be and is not."""
    if name == "value":
        return None  # a signal may be anything
    if name == "groups":
        return None if isinstance(value, list) and all(isinstance(one, str) for one in value) else "a list of names"
    return None if isinstance(value, str) and value.strip() else "text"


def _value(report: Report, text: str, at: Mark) -> Any:
    """The value as YAML has it; None is reported."""
    own = Report("\n" * (at.line - 1) + " " * (at.column - 1) + text, report.file, report.parts)
    node: Node | None = parse(text, own, line=at.line, column=at.column) if text else None
    for problem in own.problems:
        report.error(
            problem.code.removeprefix("lint."), Mark(problem.line, problem.column, problem.width), problem.text, problem.suggestion
        )
    if own.failed:
        return None
    if node is None or not isinstance(node, (Leaf, Seq)) or plain(node) is None:
        report.error("trace", at, "a value must stand here")
        return None
    return plain(node)
