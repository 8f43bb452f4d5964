"""Spans to a file: OTLP as JSON, one export request per line, the form a collector's file exporter writes and its receiver reads.

    {"resourceSpans":[{"resource":{"attributes":[...]},"scopeSpans":[{"scope":{"name":"guardtrail"},"spans":[...]}]}]}

A file that is full becomes `spans-000001.jsonl`, and so on: sorted by name they stand in their order, the current one last. None is deleted.

Ids are hex, times and 64-bit integers are strings, kinds and status codes are numbers: the JSON mapping of the OTLP specification.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from guard.record.chain import encode
from guard.record.files import ensure

__all__ = ["FileExporter", "request"]

LIMIT = 64 << 20
_TRIES = 16

Json = dict[str, Any]


class FileExporter(SpanExporter):
    """Appends to `path`. Called by the batch processor's thread, never by a call; what cannot be written is dropped.

    `limit`: a file of so many bytes is full.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = Path(os.path.abspath(path))  # noqa: PTH100
        self._limit = limit

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            ensure(self._path.parent)
            fd = self._open()
            try:
                _append(fd, encode(request(spans)).encode("ascii") + b"\n")
            finally:
                os.close(fd)
        except (OSError, ValueError, TypeError):
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _open(self) -> int:
        """The current file, locked, with room in it: other processes write here too, and a long line takes more than one write."""
        for _ in range(_TRIES):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                seen = os.fstat(fd)
                # While we waited for the lock, who held it may have found the file full and moved it away.
                if _same(self._path, seen):
                    if seen.st_size < self._limit:
                        return fd
                    os.rename(self._path, self._full())  # noqa: PTH104 - atomic: a kill leaves it here or there, whole
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError("others move the file away faster than it can be opened")

    def _full(self) -> Path:
        """The next name. Nobody else takes it: only who holds the lock of the current file gets here."""
        stem, suffix = self._path.stem, self._path.suffix
        numbers = [int(n) for p in self._path.parent.glob(f"{stem}-*{suffix}") if (n := p.stem.removeprefix(f"{stem}-")).isdigit()]
        return self._path.with_name(f"{stem}-{max(numbers, default=0) + 1:06}{suffix}")


def _same(path: Path, seen: os.stat_result) -> bool:
    try:
        now = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)


def _append(fd: int, line: bytes) -> None:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        line = b"\n" + line  # a process was killed while it wrote: its line stays broken, ours does not join it
    try:
        done = 0
        while done < len(line):
            done += os.write(fd, line[done:])
    except OSError:
        os.ftruncate(fd, size)
        raise


def request(spans: Sequence[ReadableSpan]) -> Json:
    """An OTLP trace export request."""
    resources: dict[int, tuple[Any, dict[Any, list[Json]]]] = {}
    for span in spans:
        scopes = resources.setdefault(id(span.resource), (span.resource, {}))[1]
        scopes.setdefault(span.instrumentation_scope, []).append(_span(span))
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes if resource is not None else {})},
                "scopeSpans": [{"scope": _scope(scope), "spans": listed} for scope, listed in scopes.items()],
            }
            for resource, scopes in resources.values()
        ]
    }


def _scope(scope: Any) -> Json:
    return {"name": scope.name, **({"version": scope.version} if scope.version else {})} if scope is not None else {}


def _span(span: ReadableSpan) -> Json:
    context = span.context
    out: Json = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "flags": int(context.trace_flags) & 0xFF,
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes or {}),
        "status": _status(span),
    }
    if span.parent is not None:
        out["parentSpanId"] = f"{span.parent.span_id:016x}"
    if context.trace_state:
        out["traceState"] = context.trace_state.to_header()
    if span.events:
        out["events"] = [
            {"timeUnixNano": str(e.timestamp), "name": e.name, "attributes": _attributes(e.attributes or {})} for e in span.events
        ]
    if span.links:
        out["links"] = [
            {
                "traceId": f"{each.context.trace_id:032x}",
                "spanId": f"{each.context.span_id:016x}",
                "attributes": _attributes(each.attributes or {}),
            }
            for each in span.links
        ]
    return out


def _status(span: ReadableSpan) -> Json:
    status: Json = {"code": span.status.status_code.value}
    if span.status.description:
        status["message"] = span.status.description
    return status


def _attributes(attributes: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: object) -> Json:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
