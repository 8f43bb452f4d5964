"""The tracer behind the embedded provider: OpenTelemetry's public interface, for spans that nobody but our own exporter waits for.

A span of the SDK pays for what is not asked of it here: a sampler, processors at its start, a lock, and a check of every attribute, also of
those we have put together ourselves. Here a span is a few fields while the body runs, and becomes the SDK's `ReadableSpan` when it ends; the
batch processor and the exporters behind it are the SDK's. What others set on the current span (the body may) goes through the SDK's own
`BoundedAttributes` and `BoundedList`, so the OTEL_* limits hold.

Every span is sampled. Where the program has a provider of its own, none of this is used: its spans are the SDK's.
"""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Mapping, Sequence
from random import getrandbits
from time import time_ns
from types import MappingProxyType
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

__all__ = ["OwnProvider", "OwnSpan", "OwnTracer"]

_ROOT = TraceFlags(TraceFlags.SAMPLED | getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
_NO_STATE = TraceState()
_UNSET = Status(StatusCode.UNSET)
_INTERNAL = SpanKind.INTERNAL
_lock = threading.Lock()
"""Held while somebody adds to a span: seldom, so one for all of them."""


class OwnProvider:
    """What `embedded` makes. `processor`: where spans go when they end; shut down with the interpreter unless `at_exit` is False."""

    def __init__(self, processor: SpanProcessor, *, limits: SpanLimits | None = None, at_exit: bool = True) -> None:
        self.processor = processor
        self.resource = Resource.create()
        self.limits = limits or SpanLimits()
        if at_exit:
            atexit.register(self.shutdown)

    def get_tracer(self, name: str) -> OwnTracer:
        return OwnTracer(self, InstrumentationScope(name))

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self.processor.force_flush(timeout_millis))

    def shutdown(self) -> None:
        atexit.unregister(self.shutdown)
        self.processor.shutdown()


class OwnTracer:
    """`start_span` as `opentelemetry.trace.Tracer` has it."""

    def __init__(self, provider: OwnProvider, scope: InstrumentationScope) -> None:
        self.provider = provider
        self.scope = scope
        self._last: tuple[SpanContext | None, int, str, TraceFlags, TraceState] = (None, 0, "", _ROOT, _NO_STATE)
        """The parent of the last span with what its children take from it: the calls of a task have the same one."""
        limits = provider.limits
        # Ours have fewer attributes than any sensible limit, so only a limit on their length or a strange number of them makes work.
        self.plain = limits.max_span_attribute_length is None and (limits.max_span_attributes is None or limits.max_span_attributes >= 64)

    def start_span(
        self,
        name: str,
        context: Any = None,
        kind: SpanKind = _INTERNAL,
        attributes: dict[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
    ) -> OwnSpan:
        """A span below the current one of `context`. `attributes` becomes the span's own: give it one that nobody else holds."""
        span = self.below(
            trace.get_current_span(context), name, attributes if attributes is not None else {}, start_time or time_ns(), kind
        )
        for link in links or ():
            span.add_link(link.context, link.attributes)
        return span

    def below(self, parent: trace.Span, name: str, attributes: dict[str, Any], start: int, kind: SpanKind = _INTERNAL) -> OwnSpan:
        """The same for who knows the current span already."""
        above: SpanContext | None = parent.get_span_context()
        known, trace_id, told, flags, state = self._last
        if above is not known or above is None:
            if above is not None and above.is_valid:
                trace_id, state = above.trace_id, above.trace_state
                told, flags = f"{trace_id:032x}", TraceFlags(above.trace_flags | TraceFlags.SAMPLED)
                self._last = above, trace_id, told, flags, state
            else:
                above, trace_id, flags, state = None, getrandbits(128) or 1, _ROOT, _NO_STATE
                told = f"{trace_id:032x}"
        span_id = getrandbits(64) or 1
        span = OwnSpan(self, name, SpanContext(trace_id, span_id, False, flags, state), above, kind, attributes, start)
        span.trace_id, span.span_id = told, f"{span_id:016x}"
        return span


class OwnSpan(trace.Span):
    """One span. Not ended: adding is open to everybody. Ended: nothing changes any more."""

    __slots__ = (
        "_attributes",
        "_events",
        "_kind",
        "_links",
        "_name",
        "_parent",
        "_start",
        "_status",
        "_tracer",
        "span_id",
        "trace_id",
        "where",
    )

    trace_id: str
    span_id: str

    def __init__(
        self,
        tracer: OwnTracer,
        name: str,
        where: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        start: int,
    ) -> None:
        self._tracer: OwnTracer | None = tracer
        """None: it has ended."""
        self._name = name
        self.where = where
        self._parent = parent
        self._kind = kind
        self._attributes: Any = attributes
        self._events: Any = ()
        self._links: Any = ()
        self._start = start
        self._status = _UNSET
        if not tracer.plain:
            self._bound(tracer)

    # -- what it says ------------------------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> Mapping[str, Any]:
        return MappingProxyType(self._attributes)

    @property
    def name(self) -> str:
        return self._name

    def get_span_context(self) -> SpanContext:
        return self.where

    def is_recording(self) -> bool:
        return self._tracer is not None

    # -- what others add ---------------------------------------------------------------------------------------------------------

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        tracer = self._tracer
        if tracer is None:
            return
        with _lock:
            if type(self._attributes) is dict:
                self._bound(tracer)
            for key, value in attributes.items():
                self._attributes[key] = value

    def set_attribute(self, key: str, value: Any) -> None:
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        tracer = self._tracer
        if tracer is None:
            return
        limits = tracer.provider.limits
        kept = BoundedAttributes(limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length)
        with _lock:
            if not self._events:
                self._events = BoundedList(limits.max_events)
            self._events.append(Event(name, kept, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        tracer = self._tracer
        if tracer is None or not (context.is_valid or attributes or context.trace_state):
            return
        limits = tracer.provider.limits
        kept = BoundedAttributes(limits.max_link_attributes, attributes, max_value_len=limits.max_attribute_length)
        with _lock:
            if not self._links:
                self._links = BoundedList(limits.max_links)
            self._links.append(Link(context, kept))

    def update_name(self, name: str) -> None:
        if self._tracer is not None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """As the specification has it: `OK` is final, `UNSET` says nothing."""
        given = status if isinstance(status, Status) else Status(status, description)
        if self._tracer is not None and given.status_code is not StatusCode.UNSET and self._status.status_code is not StatusCode.OK:
            self._status = given

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        kind = type(exception)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        told = {
            "exception.type": f"{module}{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def _bound(self, tracer: OwnTracer) -> None:
        limits = tracer.provider.limits
        self._attributes = BoundedAttributes(
            limits.max_span_attributes, self._attributes, immutable=False, max_value_len=limits.max_span_attribute_length
        )

    # -- its end -----------------------------------------------------------------------------------------------------------------

    def end(self, end_time: int | None = None) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        provider = tracer.provider
        provider.processor.on_end(
            ReadableSpan(
                self._name,
                self.where,
                self._parent,
                provider.resource,
                self._attributes,
                self._events,
                self._links,
                self._kind,
                None,
                self._status,
                self._start,
                end_time or time_ns(),
                tracer.scope,
            )
        )
