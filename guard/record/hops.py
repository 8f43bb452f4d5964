"""Trace context in a carrier that is no header: the `_meta` of an MCP request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import context
from opentelemetry.propagate import inject
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["continue_trace", "hand_on"]

_traces = TraceContextTextMapPropagator()


def continue_trace(carrier: Mapping[str, Any]) -> None:
    """Make the span that `carrier` names the parent of what follows in this context. Of anything that is none, nothing."""
    if not isinstance(carrier.get("traceparent"), str):
        return
    found = {name: value for name in ("traceparent", "tracestate") if isinstance(value := carrier.get(name), str)}
    context.attach(_traces.extract(found))


def hand_on(carrier: dict[str, Any]) -> None:
    """Name the current span in `carrier`, as the program's propagators do."""
    inject(carrier)
