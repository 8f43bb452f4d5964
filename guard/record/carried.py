"""The trace of a call, in what is sent beside it (W3C Trace Context): the caller's on the way in, the guard's own span on the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import context
from opentelemetry.propagate import inject
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["TRACE", "came_from", "goes_on"]

TRACE = ("traceparent", "tracestate")
_propagator = TraceContextTextMapPropagator()


def came_from(carrier: Mapping[str, Any]) -> object | None:
    """Make the caller's span the parent of what follows in this context. None: it named none."""
    if not isinstance(carrier.get("traceparent"), str):
        return None
    return context.attach(_propagator.extract({name: value for name in TRACE if isinstance(value := carrier.get(name), str)}))


def goes_on(carrier: dict[str, Any]) -> None:
    """Put the span that is current here into `carrier`."""
    inject(carrier)
