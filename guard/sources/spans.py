"""Spans of whatever origin, and which of them are tool calls.

| what        | names                                                                                                           |
|-------------|-----------------------------------------------------------------------------------------------------------------|
| a tool call | `gen_ai.operation.name: execute_tool`, `openinference.span.kind: TOOL`                                          |
| its tool    | `gen_ai.tool.name`, `tool.name`, `tool_call.function.name`, the span's name                                     |
| arguments   | `gen_ai.tool.call.arguments`, `gen_ai.tool.args`, `tool_call.function.arguments`, `input.value`; as JSON or flattened (`... .x`) |
| result      | `gen_ai.tool.call.result`, `gen_ai.output`, `output.value`                                                      |
| task        | `guardtrail.task.id`, `gen_ai.conversation.id`, `session.id` of it or of a span above, else the trace           |

A trace is sorted by the start of its spans and then by their depth; a span seen twice counts once, and so does a call that a framework
and another layer both traced (a tool span right under one of the same tool).
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from guard import telemetry as names
from guard.sources.lines import Lines
from guard.sources.seen import Seen, Status

__all__ = ["Span", "Traces", "is_span", "of_object", "read_documents", "span_id"]

_ARGS: Final = ("gen_ai.tool.call.arguments", "gen_ai.tool.args", "gen_ai.tool.arguments", "tool_call.function.arguments", "input.value")
_RESULTS: Final = ("gen_ai.tool.call.result", "gen_ai.output", "output.value")
_TOOLS: Final = (names.TOOL_NAME, "tool.name", "tool_call.function.name")
_TASKS: Final = (names.TASK_ID, "gen_ai.conversation.id", "session.id")
_HELD = 200_000
"""Spans kept until their traces are complete; beyond that the oldest trace is judged as it is."""
_DEPTH = 64


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
    if len(text) == 2 * size and all(c in "0123456789abcdefABCDEF" for c in text):
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


def is_span(value: object) -> bool:
    return isinstance(value, dict) and "attributes" in value and ("context" in value or "span_id" in value or "spanId" in value)


def of_object(value: Mapping[str, Any], line: int = 0) -> Span:
    """A span as the SDKs print it: ids under `context`, attributes an object. Raises TypeError, ValueError, KeyError."""
    context = value.get("context")
    where: Mapping[str, Any] = context if isinstance(context, Mapping) else value
    parent = value.get("parent", value.get("parent_id", value.get("parent_span_id")))
    if isinstance(parent, Mapping):
        parent = parent.get("span_id")
    status = value.get("status", value.get("status_code"))
    word = status.get("status_code", status.get("code")) if isinstance(status, Mapping) else status
    attributes = value["attributes"]
    if not isinstance(attributes, Mapping):
        raise TypeError("attributes")
    return Span(
        span_id(where.get("trace_id", where.get("traceId")), 16), span_id(where.get("span_id", where.get("spanId")), 8), span_id(parent, 8),
        str(value.get("name") or ""), _nanos(value.get("start_time", value.get("startTime"))), _flat(attributes), _failed(word), line,
    )  # fmt: skip


def _failed(word: object) -> bool:
    return word == 2 or (isinstance(word, str) and word.upper().rpartition(".")[2].removeprefix("STATUS_CODE_") == "ERROR")


def _nanos(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, str) and value:
        return int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1000
    return 0


def _flat(given: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Attributes with nested objects joined by dots. What is JSON text stays text."""
    out: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and depth < _DEPTH:
            out.update(_flat(value, f"{prefix}{name}.", depth + 1))
        else:
            out[f"{prefix}{name}"] = value
    return out


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
    """`to.0`, `to.1` as a list, `a.b` as an object."""
    root: dict[str, Any] = {}
    for key, value in flat.items():
        at = root
        *head, last = key.split(".")[:_DEPTH]
        for word in head:
            inner = at.setdefault(word, {})
            at = inner if isinstance(inner, dict) else at.setdefault(f"{word}.", {})
        at[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(one) for key, one in value.items()}


def _json(text: str) -> object:
    try:
        return json.loads(text)
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


# -- traces --------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Trace:
    calls: dict[str, Span] = field(default_factory=dict)
    above: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Span id -> (parent, agent, task)."""


class Traces:
    """Collects spans until their trace is complete, then gives its calls in order. Foreign order is an assumption: clocks differ."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._held = 0

    def add(self, span: Span) -> Iterator[Seen]:
        trace = self._traces.get(span.trace)
        if trace is None:
            trace = self._traces[span.trace] = _Trace()
        if span.id in trace.above and span.id:
            return
        found = span.attributes
        agent = found.get(names.ACTOR) or found.get("gen_ai.agent.name") or found.get("agent.name") or ""
        task = next((str(found[name]) for name in _TASKS if found.get(name)), "")
        key = span.id or f"#{len(trace.above)}"
        trace.above[key] = (span.parent, str(agent), task)
        self._held += 1
        if tool_of(span):
            trace.calls[key] = span
        if self._held > _HELD:
            name, oldest = self._traces.popitem(last=False)
            yield from self._give(name, oldest)

    def close(self) -> Iterator[Seen]:
        """The calls of all traces, by the start of the trace."""
        rest, self._traces = self._traces, OrderedDict()
        last = 1 << 80
        for name, trace in sorted(rest.items(), key=lambda item: min((s.start for s in item[1].calls.values()), default=last)):
            yield from self._give(name, trace)

    def _give(self, name: str, trace: _Trace) -> Iterator[Seen]:
        self._held -= len(trace.above)
        calls = trace.calls
        twice = {key for key, span in calls.items() if span.parent in calls and tool_of(calls[span.parent]) == tool_of(span)}
        for key in twice:  # the inner one may be the guard's, which knows what was decided
            outer = calls[calls[key].parent]
            outer.attributes = {**calls[key].attributes, **outer.attributes}
        order = sorted((calls[key].start, self._depth(trace, key), key) for key in calls if key not in twice)
        for step, (_, _, key) in enumerate(order, 1):
            yield self._seen(name, trace, key, calls[key], step)

    def _depth(self, trace: _Trace, key: str) -> int:
        depth = 0
        while depth < _DEPTH and (above := trace.above.get(key)) is not None:
            key, depth = above[0], depth + 1
        return depth

    def _seen(self, name: str, trace: _Trace, key: str, span: Span, step: int) -> Seen:
        agents, task, at = list[str](), "", key
        for _ in range(_DEPTH):
            above = trace.above.get(at)
            if above is None:
                break
            at, agent, own = above
            if agent and (not agents or agents[-1] != agent):
                agents.append(agent)
            task = task or own
        found = span.attributes
        args = _args(span)
        result: object = None
        known = False
        for each in _RESULTS:
            if each in found:
                text, known = found[each], True
                parsed = _json(text) if isinstance(text, str) else text
                result = text if parsed is None and text != "null" else parsed
                break
        recorded = found.get(names.STEP)
        verdict: Literal["allow", "deny", "ask", ""] = (
            found[names.DECISION] if found.get(names.DECISION) in ("allow", "deny", "ask") else ""
        )
        origin, intent = found.get(names.ORIGIN), found.get(names.INTENT)
        return Seen(
            "call", ("", str(found.get(names.ISSUER) or ""), task or name), span.start // 1000, step=recorded if type(recorded) is int else step,
            id=str(found.get(names.DECISION_ID) or span.id or f"{name}:{key}"), tool=tool_of(span), args=args, status=_status(span),
            result=result, known_result=known, actors=tuple(reversed(agents)), origin=str(origin or ""),
            intent=intent if isinstance(intent, str) else None, verdict=verdict, code=str(found.get(names.CODE) or ""), span=span.id,
            file=self._file, line=span.line,
        )  # fmt: skip


def read_documents(lines: Lines, values: Iterable[tuple[int, Any]]) -> Iterator[Seen]:
    """Spans as objects: one per line, lists of them, or under `spans`."""
    traces = Traces(lines.name)
    for number, value in values:
        listed = value.get("spans") if isinstance(value, dict) and isinstance(value.get("spans"), list) else value
        for one in listed if isinstance(listed, list) else [listed]:
            try:
                if not isinstance(one, dict) or not is_span(one):
                    raise TypeError("span")
                span = of_object(one, number)
            except (KeyError, TypeError, ValueError, OverflowError):
                lines.broken()
                continue
            yield from traces.add(span)
    yield from traces.close()
