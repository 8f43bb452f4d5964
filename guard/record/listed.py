"""Spans in a list, for tests."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guard.record.spans import Spans

__all__ = ["ListSpans"]


class ListSpans(Spans):
    """The spans of calls in a list, for tests: `finished()`, in the order they ended. Nothing is exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        super().__init__(provider)

    def finished(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())
