"""Spans as the SDKs print them: one object a line, lists of them, or under `spans`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from guard.sources.lines import Lines
from guard.sources.seen import Seen
from guard.sources.spans import DEPTH, WHOLE, Span, span_id
from guard.sources.traces import Traces

__all__ = ["is_span", "of_object", "read_documents"]


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
    """Attributes with nested objects joined by dots. What is JSON text stays text, arguments and results stay objects."""
    out: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and depth < DEPTH and f"{prefix}{name}" not in WHOLE:
            out.update(_flat(value, f"{prefix}{name}.", depth + 1))
        else:
            out[f"{prefix}{name}"] = value
    return out


def read_documents(lines: Lines, values: Iterable[tuple[int, Any]]) -> Iterator[Seen]:
    """The calls of spans that stand one in a line, in lists, or under `spans`."""
    with Traces(lines) as traces:
        for number, value in values:
            listed = value.get("spans") if isinstance(value, dict) and isinstance(value.get("spans"), list) else value
            for one in listed if isinstance(listed, list) else [listed]:
                try:
                    if not isinstance(one, dict) or not is_span(one):
                        raise TypeError("span")
                    traces.add(of_object(one, number))
                except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                    lines.broken()
        yield from traces.calls()
