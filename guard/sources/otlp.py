"""OTLP as JSON, one export request per line: what our exporter writes, and a collector's."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guard.sources.lines import Lines
from guard.sources.seen import Seen
from guard.sources.spans import Span, span_id
from guard.sources.traces import Traces

__all__ = ["is_otlp", "read_otlp"]


def is_otlp(value: object) -> bool:
    return isinstance(value, dict) and ("resourceSpans" in value or "resource_spans" in value)


def read_otlp(lines: Lines, values: Iterable[tuple[int, Any]]) -> Iterator[Seen]:
    with Traces(lines) as traces:
        for number, value in values:
            if not is_otlp(value):
                lines.broken()
                continue
            for raw in _spans(value):
                try:
                    traces.add(_span(raw, number))
                except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
                    lines.broken()
        yield from traces.calls()


def _list(value: object, *names: str) -> list[Any]:
    for name in names:
        found = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(found, list):
            return found
    return []


def _spans(request: Mapping[str, Any]) -> Iterator[Any]:
    for resource in _list(request, "resourceSpans", "resource_spans"):
        for scope in _list(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            yield from _list(scope, "spans")


def _span(raw: Mapping[str, Any], line: int) -> Span:
    status = raw.get("status") or {}
    code = status.get("code")
    return Span(
        span_id(raw.get("traceId", raw.get("trace_id")), 16), span_id(raw.get("spanId", raw.get("span_id")), 8),
        span_id(raw.get("parentSpanId", raw.get("parent_span_id")), 8), str(raw.get("name") or ""),
        int(raw.get("startTimeUnixNano", raw.get("start_time_unix_nano")) or 0),
        {str(one["key"]): _value(one.get("value")) for one in _list(raw, "attributes")},
        code in (2, "2", "STATUS_CODE_ERROR"), line,
    )  # fmt: skip


def _value(value: Any, depth: int = 0) -> Any:
    """An AnyValue. What is nested deeper than anybody writes is left out."""
    if not isinstance(value, Mapping) or depth > 64:
        return None
    for name, one in value.items():
        match name:
            case "stringValue" | "string_value":
                return str(one)
            case "boolValue" | "bool_value" | "doubleValue" | "double_value":
                return one
            case "intValue" | "int_value":
                return int(one)
            case "bytesValue" | "bytes_value":
                return b64decode(one).decode("utf-8", "replace") if isinstance(one, str) else None
            case "arrayValue" | "array_value":
                return [_value(each, depth + 1) for each in _list(one, "values")]
            case "kvlistValue" | "kvlist_value":
                return {str(each["key"]): _value(each.get("value"), depth + 1) for each in _list(one, "values")}
    return None
