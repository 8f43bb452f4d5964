"""The embedded provider's spans say what the SDK's would, whatever is done to them; and they get out before the process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, TraceState

from guard.record.otlp import request
from guard.record.tracer import OwnProvider

CALLER = SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(0), trace_state=TraceState([("vendor", "x")]))
OTHER = SpanContext(1 << 101, 1 << 51, is_remote=False, trace_flags=TraceFlags(1))
NOWHERE = trace.INVALID_SPAN_CONTEXT

keys = st.sampled_from(["a", "b", "c", "long-name"])
values = st.one_of(st.text(max_size=12), st.integers(-5, 5), st.booleans(), st.lists(st.text(max_size=3), max_size=3), st.none())
attributes = st.dictionaries(keys, values, max_size=4)
step = st.one_of(
    st.tuples(st.just("set_attribute"), keys, values),
    st.tuples(st.just("set_attributes"), attributes),
    st.tuples(st.just("add_event"), st.text(max_size=5), attributes, st.just(7)),
    st.tuples(st.just("add_link"), st.sampled_from([OTHER, NOWHERE]), attributes),
    st.tuples(st.just("update_name"), st.text(max_size=5)),
    st.tuples(st.just("set_status"), st.sampled_from(list(StatusCode)), st.sampled_from(["why", None])),
    st.tuples(st.just("set_status"), st.sampled_from([Status(StatusCode.OK), Status(StatusCode.ERROR, "x"), Status(StatusCode.UNSET)])),
    st.tuples(st.just("record_exception"), st.just(ValueError("no")), attributes, st.just(8)),
    st.tuples(st.just("end"), st.just(99)),
)
LIMITS = [{}, {"max_span_attributes": 2}, {"max_span_attribute_length": 3}, {"max_events": 2, "max_links": 1, "max_attribute_length": 2}]


def told(tracer: Any, exporter: InMemorySpanExporter, where: Any, first: dict[str, Any], links: list[Link], steps: list[Any]) -> Any:
    span = tracer.start_span("name", where, attributes=dict(first), links=links, start_time=5)
    for name, *args in steps:
        getattr(span, name)(*args)
    recording = span.is_recording()
    span.end(100)
    (out,) = exporter.get_finished_spans()
    (said,) = request([out])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert said.pop("spanId") == f"{span.get_span_context().span_id:016x}"
    trace_id = said.pop("traceId")
    assert int(trace_id, 16)
    return recording, trace_id if where is not None else "", said, out.dropped_attributes, out.dropped_events, out.dropped_links


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LIMITS), st.sampled_from([None, CALLER, OTHER]), attributes, st.booleans(), st.lists(step, max_size=8))
def test_a_span_says_what_the_sdks_would(
    limits: dict[str, int], parent: Any, first: dict[str, Any], linked: bool, steps: list[Any]
) -> None:
    where = trace.set_span_in_context(trace.NonRecordingSpan(parent), context.Context()) if parent is not None else None
    links = [Link(OTHER, {"k": "v"})] if linked else []
    first = {key: value for key, value in first.items() if value is not None}  # ours are never without a value
    theirs, ours = InMemorySpanExporter(), InMemorySpanExporter()
    sdk = TracerProvider(sampler=ALWAYS_ON, span_limits=SpanLimits(**limits), shutdown_on_exit=False)
    sdk.add_span_processor(SimpleSpanProcessor(theirs))
    own = OwnProvider(SimpleSpanProcessor(ours), limits=SpanLimits(**limits), at_exit=False)
    expected = told(sdk.get_tracer("t"), theirs, where, first, links, steps)
    assert told(own.get_tracer("t"), ours, where, first, links, steps) == expected


def test_a_parent_that_stays_gives_its_children_the_same_trace() -> None:
    out = InMemorySpanExporter()
    tracer = OwnProvider(SimpleSpanProcessor(out), at_exit=False).get_tracer("t")
    root, other = tracer.start_span("root"), tracer.start_span("other")
    for above in (root, root, other, root):
        span = tracer.below(above, "child", {}, 1)
        assert span.get_span_context().trace_id == above.get_span_context().trace_id
        assert (span.trace_id, span.span_id) == (f"{above.where.trace_id:032x}", f"{span.where.span_id:016x}")
        span.end()
        assert out.get_finished_spans()[-1].parent == above.get_span_context()
    assert root.where.trace_id != other.where.trace_id


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise ValueError"])
def test_spans_get_out_before_the_process_ends(tmp_path: Path, ending: str) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom guard.record.provider import embedded\n"
        f"embedded(Path({str(tmp_path)!r})).get_tracer('t').start_span('one').end()\n{ending}\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=60, check=False)
    (line,) = (tmp_path / "spans.jsonl").read_text().splitlines()
    assert json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "one"


def test_what_comes_out_is_the_sdks_own_kind() -> None:
    out = InMemorySpanExporter()
    OwnProvider(SimpleSpanProcessor(out), at_exit=False).get_tracer("t").start_span("one").end()
    (span,) = out.get_finished_spans()
    assert type(span) is ReadableSpan
    assert json.loads(span.to_json())["name"] == "one"
