"""The span of a call: its shape for every verdict, in the program's own trace, sampled or not; and where spans go."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import StatusCode

from guard import telemetry
from guard.events import OutcomeRecord
from guard.model import Credential, Decision, Delegation, Finding
from guard.record import Spans
from guard.record.otlp import request
from guard.record.tracer import OwnProvider

ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """Spans, and what came out of them. `own`: through the embedded provider, not through one of the program."""

    def __init__(self, *, own: bool = False, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        embedded = OwnProvider(SimpleSpanProcessor(self.exporter), limits=options.get("span_limits"), at_exit=False)
        self.spans = Spans(provider=embedded if own else self.provider)

    @property
    def out(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def call(self, decision: Decision, task: Any, call_id: str = "", status: str = "ok", error: str | None = None) -> Any:
        span = self.spans.start(decision, task, call_id, 1_700_000_000_000_000_000)
        assert span is not None
        if decision.blocks:
            span.denied(decision)
        else:
            span.attach()
            span.detach()
            span.end(OutcomeRecord(decision.id, 1, decision.task, 1, decision.tool, status, error))  # type: ignore[arg-type]
        return span


@pytest.fixture(params=["embedded", "program"])
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(own=request.param == "embedded")


def delegation(jti: str = "7Qm2", actors: tuple[str, ...] = ("orchestrator", "worker")) -> Delegation:
    return Delegation(
        "txntoken+jwt", "default", "acme-dev", "t-1", Credential("acme-dev", jti, "k"), "alice", "person", actors, 0, 1, "x",
        intent="refund-order", workload="spiffe://dev/agent", local=True,
    )  # fmt: skip


def state(**over: Any) -> Any:
    plan = SimpleNamespace(tool=SimpleNamespace(effects=("pay",)))
    return SimpleNamespace(delegation=delegation(**over), plans={"refund": plan}, key="k1", origin="p-0011", token="secret", owner="")


def decided(verdict: str = "allow", code: str = "permit", *findings: Finding, id: str = "D1", **over: Any) -> Decision:
    given: dict[str, Any] = {
        "mode": "enforce",
        "fix": None,
        "witnesses": (),
        "task": "t-1",
        "step": 3,
        "tool": "refund",
        "args_hmac": "ab",
        "policy": "shop@1",
    }
    given |= over
    return Decision(
        id,
        verdict,
        given["mode"],
        code,
        findings,
        given["fix"],
        given["witnesses"],
        given["task"],
        given["step"],
        given["tool"],
        given["args_hmac"],
        given["policy"],
    )  # type: ignore[arg-type]


RULE = Finding("rules", "forbid", "rule.limit", rule="few-refunds", text="2 of 2 used")  # type: ignore[arg-type]


def test_an_allowed_call(desk: Desk) -> None:
    made = desk.call(decided(), state(), "call-9")
    (span,) = desk.out
    assert span.name == "execute_tool refund"
    assert span.kind is trace.SpanKind.INTERNAL
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund", "gen_ai.tool.call.id": "call-9",
        "guardtrail.decision": "allow", "guardtrail.mode": "enforce", "guardtrail.executed": True, "guardtrail.effect": "pay",
        "guardtrail.intent": "refund-order", "guardtrail.task.id": "t-1", "guardtrail.step": 3, "guardtrail.decision.id": "D1",
        "guardtrail.credential": "acme-dev/7Qm2", "guardtrail.origin": "p-0011", "guardtrail.actor": "worker", "guardtrail.depth": 1,
        "guardtrail.chain": "orchestrator > worker", "guardtrail.workload": "spiffe://dev/agent", "guardtrail.issuer": "local",
    }  # fmt: skip
    assert span.status.status_code is StatusCode.UNSET
    assert not span.events
    assert not span.links
    assert span.start_time == 1_700_000_000_000_000_000
    assert (made.trace_id, made.span_id) == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")


def test_a_denied_call(desk: Desk) -> None:
    desk.call(decided("deny", "rule.limit", RULE, fix="a new task"), state())
    authorize, execute = desk.out
    assert (execute.name, authorize.name) == ("execute_tool refund", "authorize refund")
    assert authorize.parent is not None
    assert authorize.parent.span_id == execute.context.span_id
    assert execute.status.status_code is StatusCode.ERROR
    facts = {
        "guardtrail.decision": "deny",
        "guardtrail.executed": False,
        "guardtrail.code": "rule.limit",
        "guardtrail.rule": "few-refunds",
        "guardtrail.fix": "a new task",
    }
    assert facts.items() <= dict(execute.attributes or {}).items()
    assert (execute.attributes or {})["error.type"] == "guardtrail.denied.rule.limit"
    violation, event = execute.events
    assert (violation.name, event.name) == ("guardtrail.violation", "guardtrail.decision")
    assert facts.items() <= dict(event.attributes or {}).items()
    assert {**facts, "openinference.span.kind": "GUARDRAIL", "guardtrail.decision.id": "D1"}.items() <= dict(
        authorize.attributes or {}
    ).items()
    assert authorize.status.status_code is StatusCode.UNSET  # the check itself worked
    assert "error.type" not in (authorize.attributes or {})


def test_an_ask_is_not_an_error(desk: Desk) -> None:
    desk.call(decided("ask", "rule.require_before"), state())
    authorize, execute = desk.out
    assert execute.status.status_code is StatusCode.UNSET
    assert (execute.attributes or {})["guardtrail.decision"] == "ask"
    assert (execute.attributes or {})["guardtrail.executed"] is False
    assert authorize.name == "authorize refund"


def test_nothing_spoke(desk: Desk) -> None:
    desk.call(decided("deny", "default.deny"), None)
    assert (desk.out[-1].attributes or {})["guardtrail.rule"] == "default-deny"


def test_a_monitored_finding(desk: Desk) -> None:
    finding = Finding("rules", "forbid", "rule.limit", rule="few-looks", mode="monitor")  # type: ignore[arg-type]
    desk.call(decided("allow", "permit", finding, mode="monitor"), state())
    (span,) = desk.out
    assert (span.attributes or {})["guardtrail.mode"] == "monitor"
    assert (span.attributes or {})["guardtrail.monitored"] == "few-looks"
    assert span.status.status_code is StatusCode.UNSET


def test_no_sink_took_the_record(desk: Desk) -> None:
    """Opened as allowed, refused afterwards: the refusal is what stands."""
    span = desk.spans.start(decided(), state(), "", 1)
    assert span is not None
    span.denied(decided("deny", "record.unavailable"))
    execute = desk.out[-1]
    assert ((execute.attributes or {})["guardtrail.decision"], (execute.attributes or {})["guardtrail.executed"]) == ("deny", False)


@pytest.mark.parametrize(("status", "error"), [("error", "ValueError"), ("unknown", "CancelledError"), ("unknown", None)])
def test_a_body_that_fails(desk: Desk, status: str, error: str | None) -> None:
    desk.call(decided(), state(), status=status, error=error)
    (span,) = desk.out
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == (error or status)
    assert (span.attributes or {})["guardtrail.outcome"] == status


def test_the_body_runs_inside_the_span(desk: Desk) -> None:
    tracer = desk.provider.get_tracer("body")
    with tracer.start_as_current_span("turn") as turn:
        span = desk.spans.start(decided(), state(), "", 1)
        assert span is not None
        span.attach()
        tracer.start_span("inside").end()
        span.detach()
        tracer.start_span("after").end()
        span.end(OutcomeRecord("D1", 1, "t-1", 1, "refund", "ok"))
    inside, after, execute, _ = desk.out
    assert inside.parent is not None and after.parent is not None and execute.parent is not None
    assert f"{inside.parent.span_id:016x}" == span.span_id
    assert after.parent.span_id == execute.parent.span_id == turn.get_span_context().span_id


@pytest.mark.parametrize("tool", ["refund", "other"])
def test_the_frameworks_own_span(desk: Desk, tool: str) -> None:
    """Enriched where it traces this very execution, and then not ended by us; else ours stands below it."""
    tracer = desk.provider.get_tracer("framework")
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, "framework": "yes"}
    with tracer.start_as_current_span(f"execute_tool {tool}", attributes=attributes):
        made = desk.call(decided(), state())
        assert len(desk.out) == (tool == "other")
    theirs = desk.out[-1]
    assert ((theirs.attributes or {}).get("guardtrail.decision") == "allow") == (tool == "refund")
    assert (made.span_id == f"{theirs.context.span_id:016x}") == (tool == "refund")
    assert (theirs.attributes or {})["framework"] == "yes"


def test_links_to_witnesses(desk: Desk) -> None:
    first = desk.call(decided(id="W1"), state())
    desk.call(decided("deny", "rule.limit", RULE, witnesses=("W1", "unknown")), state())
    (link,) = desk.out[-1].links
    assert f"{link.context.span_id:016x}" == first.span_id
    assert dict(link.attributes or {}) == {"guardtrail.link": "witness"}
    assert (desk.out[-1].attributes or {})["guardtrail.witnesses"] == ("W1", "unknown")


def test_links_across_a_pivot(desk: Desk) -> None:
    first = desk.call(decided(id="A"), state())
    desk.call(decided(id="B"), state())  # a token verified anew is no pivot
    second = desk.out[-1]
    desk.call(decided(id="C"), state(jti="other", actors=("orchestrator", "mailer")))
    assert not second.links
    (link,) = desk.out[-1].links
    assert dict(link.attributes or {}) == {"guardtrail.link": "pivot"}
    assert link.context.span_id == second.context.span_id
    assert first.trace_id


def test_an_unsampled_trace_does_not_swallow_a_refusal() -> None:
    desk = Desk(sampler=ParentBased(root=ALWAYS_ON))
    caller = trace.SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=trace.TraceFlags(0))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(caller)))
    try:
        allowed = desk.call(decided(), state())
        desk.call(decided("deny", "rule.limit", RULE), state())
    finally:
        context.detach(token)
    (authorize,) = desk.out
    assert authorize.name == "authorize refund"
    assert authorize.parent is None
    assert [link.context.trace_id for link in authorize.links] == [caller.trace_id]
    assert allowed.trace_id == f"{caller.trace_id:032x}"


@pytest.mark.parametrize("own", [True, False])
def test_limits_of_the_sdk_are_kept(own: bool) -> None:
    desk = Desk(own=own, span_limits=SpanLimits(max_span_attribute_length=4))
    desk.call(decided(), state())
    assert (desk.out[0].attributes or {})["guardtrail.credential"] == "acme"


def test_names_come_from_one_module(desk: Desk) -> None:
    known = {value for name, value in vars(telemetry).items() if name.isupper()}
    for verdict, code in (("allow", "permit"), ("deny", "rule.limit"), ("ask", "rule.require_before")):
        desk.call(decided(verdict, code, RULE, fix="x", witnesses=("w",)), state(), "c")
    for span in desk.out:
        assert set(span.attributes or {}) <= known
        assert all(set(event.attributes or {}) <= known for event in span.events)


def test_no_secret_and_no_person(desk: Desk) -> None:
    for verdict in ("allow", "deny", "ask"):
        desk.call(decided(verdict, "rule.limit", RULE), state())
    told = json.dumps(request(desk.out))
    assert "secret" not in told
    assert "alice" not in told


def test_telemetry_that_fails_costs_a_span_not_a_call() -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
            return SimpleNamespace(start_span=lambda *a, **k: 1 / 0)

    assert Spans(provider=Broken(shutdown_on_exit=False)).start(decided(), state(), "", 1) is None
    desk = Desk()
    span = desk.spans.start(decided(), state(), "", 1)
    assert span is not None
    span._span = None  # type: ignore[assignment]
    span.attach()
    span.detach()
    span.denied(decided("deny", "rule.limit"))
    span.end(OutcomeRecord("D1", 1, "t-1", 1, "refund", "error"))


def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record import spans

    monkeypatch.setattr(spans, "_HELD", 8)
    for i in range(40):
        task = state()
        task.key = f"k{i}"
        desk.call(decided(id=f"D{i}"), task)
    assert max(len(desk.spans._seen), len(desk.spans._holders), len(desk.spans._fixed)) <= 9


# -- where they go -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from guard.record import Spans
from tests.record.test_spans import RULE, decided, state
from guard.events import OutcomeRecord
spans = Spans()
{before}
made = spans.start(decided(), state(), "call-9", 1_700_000_000_000_000_000)
print(made is not None)
if made is not None:
    made.end(OutcomeRecord("D1", 1, "t-1", 1, "refund", "ok"))
    spans.start(decided("deny", "rule.limit", RULE), state(), "", 2).denied(decided("deny", "rule.limit", RULE))
"""


def run(tmp_path: Path, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(root=str(ROOT), before=before)
    surroundings = {**os.environ, "GUARDTRAIL_DIR": str(tmp_path / "log"), **env}
    return subprocess.run([sys.executable, "-c", program], env=surroundings, capture_output=True, text=True, timeout=60, check=True)


def test_the_embedded_default_is_a_file_of_otlp_json_lines(tmp_path: Path) -> None:
    for _ in range(2):
        done = run(tmp_path)
        assert (done.stdout, done.stderr) == ("True\n", "")
    lines = (tmp_path / "log" / "spans.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        (resource,) = json.loads(line)["resourceSpans"]
        assert {"key": "telemetry.sdk.name", "value": {"stringValue": "opentelemetry"}} in resource["resource"]["attributes"]
        (scope,) = resource["scopeSpans"]
        assert scope["scope"] == {"name": "guardtrail"}
        execute, authorize, denied = scope["spans"]
        assert (execute["name"], execute["kind"], execute["status"]) == ("execute_tool refund", 1, {"code": 0})
        assert execute["startTimeUnixNano"] == "1700000000000000000"
        assert len(execute["traceId"]) == 32
        assert len(execute["spanId"]) == 16
        values = {each["key"]: each["value"] for each in execute["attributes"]}
        assert values["guardtrail.executed"] == {"boolValue": True}
        assert values["guardtrail.step"] == {"intValue": "3"}
        assert values["gen_ai.tool.name"] == {"stringValue": "refund"}
        assert authorize["parentSpanId"] == denied["spanId"]
        assert denied["status"]["code"] == 2
        assert [event["name"] for event in denied["events"]] == ["guardtrail.violation", "guardtrail.decision"]
    assert (tmp_path / "log" / "spans.jsonl").stat().st_mode & 0o077 == 0


def test_otlp_is_what_the_protocol_reads(desk: Desk) -> None:
    """The protocol's own JSON reader takes every line. (It writes ids in base64, OTLP in hex: the one difference in the mapping.)"""
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    desk.call(decided(id="W1"), state())
    desk.call(decided("deny", "rule.limit", RULE, witnesses=("W1",)), state())
    read = json_format.ParseDict(request(desk.out), TracesData())
    (scope,) = read.resource_spans[0].scope_spans
    assert [span.name for span in scope.spans] == [span.name for span in desk.out]
    assert scope.spans[-1].links[0].attributes[0].value.string_value == "witness"


@pytest.mark.parametrize(
    ("env", "spans"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
    ],
)
def test_the_standard_variables(tmp_path: Path, env: dict[str, str], spans: bool) -> None:
    done = run(tmp_path, **env, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert done.stdout == f"{spans}\n"
    assert not (tmp_path / "log" / "spans.jsonl").exists()
    if "console" in env.values():
        assert '"execute_tool refund"' in done.stderr


def test_the_programs_provider_comes_first(tmp_path: Path) -> None:
    before = (
        "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter\n"
        "provider = TracerProvider(); provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))\n"
        "spans.start(decided(), state(), '', 1)\n"  # the program sets its provider after the first call
        "trace.set_tracer_provider(provider); import time; time.sleep(0.01)\n"
    )
    done = run(tmp_path, before)
    assert done.stdout == "True\n"
    assert '"execute_tool refund"' in done.stderr
    assert not (tmp_path / "log" / "spans.jsonl").exists()


def test_a_collector_over_http(tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        run(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
            NO_PROXY="127.0.0.1",
        )
        server.shutdown()
        thread.join()
    assert b"execute_tool refund" in b"".join(got)


def test_a_file_that_cannot_be_written_is_let_go(tmp_path: Path, desk: Desk) -> None:
    from opentelemetry.sdk.trace.export import SpanExportResult

    from guard.record.otlp import FileExporter

    desk.call(decided(), state())
    (tmp_path / "file").touch()
    assert FileExporter(tmp_path / "file" / "spans.jsonl").export(desk.out) is SpanExportResult.FAILURE
    torn = tmp_path / "spans.jsonl"
    torn.write_bytes(b'{"resourceSp')
    assert FileExporter(torn).export(desk.out) is SpanExportResult.SUCCESS
    assert json.loads(torn.read_bytes().splitlines()[-1])["resourceSpans"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The SDK logs what it cuts off."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
