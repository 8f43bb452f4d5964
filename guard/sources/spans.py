"""Spans of whatever origin, and which of them are tool calls.

| what        | names                                                                                                           |
|-------------|-----------------------------------------------------------------------------------------------------------------|
| a tool call | `gen_ai.operation.name: execute_tool`, `openinference.span.kind: TOOL`                                          |
| its tool    | `gen_ai.tool.name`, `tool.name`, `tool_call.function.name`, the span's name                                     |
| arguments   | `gen_ai.tool.call.arguments`, `gen_ai.tool.args`, `tool_call.function.arguments`, `input.value`; as JSON or flattened (`... .x`) |
| result      | `gen_ai.tool.call.result`, `gen_ai.output`, `output.value`                                                      |
| task        | `guardtrail.task.id`, `gen_ai.conversation.id`, `session.id` of it or of a span above, else the trace           |

Which of them counts, and when its turn is: `traces.py`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from guard import telemetry as names
from guard.sources.lines import value_of
from guard.sources.seen import Seen, Status

__all__ = ["DEPTH", "WHOLE", "Span", "agent_of", "seen_of", "span_id", "task_of", "tool_of"]

_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_ARGS: Final = ("gen_ai.tool.call.arguments", "gen_ai.tool.args", "gen_ai.tool.arguments", "tool_call.function.arguments", "input.value")
_RESULTS: Final = ("gen_ai.tool.call.result", "gen_ai.output", "output.value")
WHOLE: Final = frozenset((*_ARGS, *_RESULTS)) - {"gen_ai.output"}  # there stands `gen_ai.output.type` as well
"""What an object may stand under as it is: the names in it are those of arguments and of results, whatever characters they have."""
_TOOLS: Final = (names.TOOL_NAME, "tool.name", "tool_call.function.name")
_TASKS: Final = (names.TASK_ID, "gen_ai.conversation.id", "session.id")
DEPTH: Final = 64
"""So far up a trace is looked, and so deep into attributes."""


@dataclass(slots=True)
class Span:
    """A span in one form: ids in hex, nanoseconds, attributes flat."""

    trace: str
    id: str
    parent: str
    name: str
    start: int
    attributes: dict[str, Any]
    failed: bool
    line: int = 0


# -- one span ------------------------------------------------------------------------------------------------------------------


def span_id(value: object, size: int) -> str:
    """An id of `size` bytes as hex, whether it was hex, base64 or a number; "" where there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:0{2 * size}x}" if value > 0 else ""
    if not isinstance(value, str) or not value:
        return ""
    text = value.removeprefix("0x")
    if len(text) == 2 * size and _HEX.fullmatch(text):
        text = text.lower()
        return "" if not text.strip("0") else text
    if text.isascii() and text.isdigit():
        return span_id(int(text), size) if len(text) <= 40 else text
    if len(text.rstrip("=")) == -(-8 * size // 6):
        try:
            raw = b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
        except ValueError:
            return text
        if len(raw) == size:
            return raw.hex()
    return text


# -- tool calls ----------------------------------------------------------------------------------------------------------------


def tool_of(span: Span) -> str:
    """The tool a span is a call of, "" where it is none."""
    found = span.attributes
    if found.get(names.OPERATION) != names.SPAN_EXECUTE and str(found.get(names.OPENINFERENCE_KIND, "")).upper() != "TOOL":
        return ""
    for name in _TOOLS:
        value = found.get(name)
        if isinstance(value, str) and value:
            return value
    return span.name.removeprefix(f"{names.SPAN_EXECUTE} ").strip()


def _args(span: Span) -> dict[str, object] | None:
    """The arguments, whichever way they were written; None where they were not captured."""
    for name in _ARGS:
        value = span.attributes.get(name)
        for _ in range(2):  # JSON in JSON
            if isinstance(value, str):
                value = _json(value)
        if isinstance(value, Mapping):
            return {str(key): one for key, one in value.items()}
    for name in _ARGS:
        flat = {key[len(name) + 1 :]: one for key, one in span.attributes.items() if key.startswith(name + ".")}
        if flat:
            return _nested(flat)
    return None


def _nested(flat: Mapping[str, object]) -> dict[str, object]:
    """`to.0`, `to.1` as a list, `a.b` as an object. Where `a` is a value as well, the object is called `a.`: nothing is lost."""
    root: dict[str, Any] = {}
    for key, value in flat.items():
        at = root
        *head, last = key.split(".", DEPTH)
        for word in head:
            inner = at.setdefault(word, {})
            at = inner if isinstance(inner, dict) else at.setdefault(f"{word}.", {})
        if isinstance(at.get(last), dict):
            at[f"{last}."] = at[last]
        at[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(value: Any) -> Any:
    """Objects whose names are 0, 1, 2 ... as lists. Other digits are names as any: `2024`, and those of other scripts."""
    if not isinstance(value, dict):
        return value
    if value and all(str(place) in value for place in range(len(value))):
        return [_lists(value[str(place)]) for place in range(len(value))]
    return {key: _lists(one) for key, one in value.items()}


def _json(text: str) -> object:
    try:
        return value_of(text)
    except (ValueError, RecursionError):
        return None


def _status(span: Span) -> Status:
    found = span.attributes
    if found.get(names.DECISION) in ("deny", "ask"):
        return "not_executed"
    outcome = found.get(names.OUTCOME)
    if outcome in ("ok", "error", "unknown", "not_executed"):
        return outcome  # type: ignore[no-any-return]
    return "error" if span.failed or found.get(names.ERROR_TYPE) else "ok"


def agent_of(span: Span) -> str:
    """The agent a span names, "" where it names none."""
    found = span.attributes
    return str(found.get(names.ACTOR) or found.get("gen_ai.agent.name") or found.get("agent.name") or "")


def task_of(span: Span) -> str:
    """The task or conversation a span names, "" where it names none."""
    return next((str(span.attributes[name]) for name in _TASKS if span.attributes.get(name)), "")


def _result(span: Span) -> tuple[object, bool]:
    """The result, and whether it was captured."""
    for name in _RESULTS:
        if name in span.attributes:
            text = span.attributes[name]
            parsed = _json(text) if isinstance(text, str) else text
            return (text if parsed is None and text != "null" else parsed), True
    return None, False


def seen_of(span: Span, tool: str, *, key: str, task: str, actors: Sequence[str], file: str) -> Seen:
    """A tool span as a call. `key`: its id, or its place in a trace that gave it none. `task`, `actors`: as it and the spans above say.
    Its step is 0 where it says none: to be counted."""
    found = span.attributes
    result, known = _result(span)
    recorded, verdict = found.get(names.STEP), found.get(names.DECISION)
    said: Literal["allow", "deny", "ask", ""] = verdict if verdict in ("allow", "deny", "ask") else ""
    origin, intent = found.get(names.ORIGIN), found.get(names.INTENT)
    return Seen(
        "call", ("", str(found.get(names.ISSUER) or ""), task or span.trace), span.start // 1000, step=recorded if type(recorded) is int else 0,
        id=str(found.get(names.DECISION_ID) or span.id or f"{span.trace}:{key}"), tool=tool, args=_args(span), status=_status(span),
        result=result, known_result=known, actors=tuple(actors), origin=str(origin or ""),
        intent=intent if isinstance(intent, str) else None, verdict=said, code=str(found.get(names.CODE) or ""), span=span.id,
        file=file, line=span.line,
    )  # fmt: skip
