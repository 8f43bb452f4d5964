"""Where spans go: the program's own provider, else what the OTEL_* variables say, else a file beside the records.

| what is configured                                             | then                                                        |
|----------------------------------------------------------------|-------------------------------------------------------------|
| OTEL_SDK_DISABLED=true                                         | no spans                                                    |
| the program set a tracer provider                              | that one, from a millisecond after it was set               |
| OTEL_TRACES_EXPORTER=none                                      | no spans                                                    |
| OTEL_TRACES_EXPORTER=console                                   | standard error                                              |
| OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT, or OTEL_TRACES_EXPORTER=otlp | OTLP over HTTP, with the exporter's own variables       |
| nothing                                                        | `spans.jsonl` beside the records                            |

A provider made here samples every span, whatever the caller's flag says: decisions are few, and the one that matters is always the
one that was not sampled. It is ours alone; the program's global provider is never set from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult

from guard.record.tracer import OwnProvider

__all__ = ["disabled", "embedded", "of_the_program"]


def disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def of_the_program() -> trace.TracerProvider | None:
    """The provider the program set, None where it set none (yet)."""
    provider = trace.get_tracer_provider()
    return None if type(provider) is trace.ProxyTracerProvider else provider


def embedded(folder: Path) -> OwnProvider | None:
    """A provider of our own as the variables say; None: no spans."""
    exporter = _exporter(folder)
    return None if exporter is None else OwnProvider(BatchSpanProcessor(exporter))


def _exporter(folder: Path) -> SpanExporter | None:
    wanted = [word.strip().lower() for word in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if word.strip()]
    if "none" in wanted:
        return None
    if "otlp" in wanted or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return _Http()
    if "console" in wanted:
        return ConsoleSpanExporter(out=sys.stderr)  # never stdout: a tool server speaks its protocol there
    from guard.record.otlp import FileExporter

    return FileExporter(folder / "spans.jsonl")


class _Http(SpanExporter):
    """The OTLP exporter, imported and made by the batch processor's thread: it takes longer to load than a call may take."""

    def __init__(self) -> None:
        self._inner: Any = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._inner is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self._inner = OTLPSpanExporter()
        result: SpanExportResult = self._inner.export(spans)
        return result

    def shutdown(self) -> None:
        if self._inner is not None:
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner is None or bool(self._inner.force_flush(timeout_millis))
