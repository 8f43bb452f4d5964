"""What is counted, through the real guard and the SDK's in-memory reader; and that nothing is where nobody asked."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall, telemetry
from guard.record import ListSink, Spans
from guard.record.metrics import Metrics
from tests.record.test_roots import POLICY
from tests.record.test_spans import RULE, decided, state

ROOT = Path(__file__).resolve().parents[2]
LABELS = {telemetry.DECISION, telemetry.MODE, telemetry.CODE, telemetry.RULE, telemetry.EFFECT, telemetry.INTENT, telemetry.TOOL_NAME}


class World:
    """A guard whose metrics are read in this process."""

    def __init__(self, spans: Spans | None = None) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
        self.iam = LocalIssuer("acme-dev")
        made = spans or Spans(provider=TracerProvider(shutdown_on_exit=False), meters=self.meters)
        # Also in a process of its own, where a guard waits for a quarter of a second, and a loaded machine must not change a verdict.
        self.guard = Guard(Policy.from_text(POLICY), trust=self.iam, sinks=[ListSink(), made], deadline=timedelta(seconds=30))

    def run(self, *tools: str, intent: str = "desk", **more: Any) -> None:
        try:
            with self.guard.task(self.iam.mint(origin="alice", actor="clerk", intent=intent, **more)):
                for tool in tools:
                    self.call(tool)
        except Denied:
            pass

    def call(self, tool: str) -> None:
        try:
            self.guard.call(
                ToolCall(tool, {"to": "x@evil.example"} if tool == "send" else {} if tool == "close" else {"id": "1"}), lambda **_: "text"
            )
        except Denied:
            pass

    def read(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {m.name: list(m.data.data_points) for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}


@pytest.fixture
def world() -> World:
    return World()


def test_how_long_a_decision_took(world: World) -> None:
    world.run("record", "record", "close", "nonsense")
    points = world.read()["guardtrail.decision.duration"]
    assert {tuple(sorted(p.attributes.items())): p.count for p in points} == {
        (("guardtrail.code", "permit"), ("guardtrail.decision", "allow"), ("guardtrail.effect", "read"), ("guardtrail.intent", "desk"),
         ("guardtrail.mode", "enforce")): 2,
        (("guardtrail.code", "permit"), ("guardtrail.decision", "allow"), ("guardtrail.effect", "write"), ("guardtrail.intent", "desk"),
         ("guardtrail.mode", "enforce")): 1,
        (("guardtrail.code", "tool.unknown"), ("guardtrail.decision", "deny"), ("guardtrail.mode", "enforce")): 1,
    }  # fmt: skip
    assert all(0 < p.min <= p.max < 30 for p in points)
    if "explicit_bucket_boundaries_advisory" in inspect.signature(Meter.create_histogram).parameters:
        assert points[0].explicit_bounds[0] < 0.001  # seconds: the SDK's own buckets are for milliseconds


def test_rules_that_fired(world: World) -> None:
    world.run("letter", "letter", "record", "send", "close")
    world.run("record")
    points = world.read()["guardtrail.workflow.violations"]
    told = {(p.attributes[telemetry.RULE], p.attributes[telemetry.DECISION], p.attributes[telemetry.MODE]): p.value for p in points}
    assert told == {
        ("few", "allow", "monitor"): 1,
        ("no-leak", "ask", "enforce"): 1,
        ("told", "allow", "enforce"): 1,
        ("log-closed", "deny", "enforce"): 1,
    }
    assert not [p for p in points if p.attributes.get(telemetry.TOOL_NAME) == "task.end"]  # that is no tool
    leak = next(p.attributes for p in points if p.attributes[telemetry.RULE] == "no-leak")
    assert leak == {
        telemetry.RULE: "no-leak", telemetry.CODE: "rule.forbid_after", telemetry.DECISION: "ask", telemetry.MODE: "enforce",
        telemetry.TOOL_NAME: "send", telemetry.EFFECT: "send", telemetry.INTENT: "desk",
    }  # fmt: skip


def test_coverage(world: World) -> None:
    world.run("record", "close")
    world.call("record")  # outside of a task: nobody knows whose
    got = world.read()
    assert [p.value for p in got["guardtrail.coverage.calls"]] == [3]
    assert [p.value for p in got["guardtrail.coverage.known"]] == [2]
    assert [dict(p.attributes) for p in got["guardtrail.coverage.calls"]] == [{}]


def test_a_dry_run_is_not_measured(world: World) -> None:
    with world.guard.task(world.iam.mint(origin="alice", actor="clerk", intent="desk", txn="t")):
        world.guard.check(ToolCall("record", {"id": "1"}))
        assert "guardtrail.decision.duration" not in world.read()
        world.call("close")


def test_labels_hold_no_id_and_nothing_a_caller_chooses(world: World) -> None:
    """A model makes up tools; a token may name any intent."""
    for n in range(30):
        world.run(f"tool-{n}", "letter", "record", "send", "close")
        world.run("record", "send", intent=f"intent-{n}", tools=["record", "send"])
    points = [p for several in world.read().values() for p in several]
    assert {name for p in points for name in p.attributes} <= LABELS
    said = {str(value) for p in points for value in p.attributes.values()}
    assert not [each for each in said if each.startswith(("tool-", "intent-", "acme-dev", "p-"))]
    assert len(points) < 30


def test_where_no_spans_are_made_it_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    reader = InMemoryMetricReader()
    world = World(Spans(meters=MeterProvider(metric_readers=[reader], shutdown_on_exit=False)))
    world.reader = reader
    world.run("letter", "record", "send")
    assert {"guardtrail.decision.duration", "guardtrail.workflow.violations"} <= set(world.read())


def test_without_a_provider_nothing_is_looked_up_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import metrics

    asked: list[int] = []
    own = metrics.get_meter_provider
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: (asked.append(1), own())[1])
    monkeypatch.setattr("guard.record.metrics.monotonic", lambda: 1.0)  # a second later it looks again
    made = Metrics()
    for _ in range(1000):
        made.decided(decided(), state(), 0.0)
    assert len(asked) == 1


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from guard.record import Spans
from tests.record.test_metrics import World
from opentelemetry import metrics
from opentelemetry.sdk.trace import TracerProvider
world = World(Spans(provider=TracerProvider(shutdown_on_exit=False)))
world.run("record")
{then}
world.run("record")
print(sorted(world.read()))
"""


@pytest.mark.parametrize(("then", "found"), [("", False), ("metrics.set_meter_provider(world.meters)", True)])
def test_the_programs_provider_is_found_whenever_it_is_set(then: str, found: bool) -> None:
    """In a process of its own: a program sets it once. A task that opens looks at once, so not a second later."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT), then=then)], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert ("guardtrail.decision.duration" in done.stdout) == found


def test_metrics_that_fail_cost_no_call(world: World) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    made = world.guard._house.spans._metrics
    for name in ("_duration", "_violations", "_calls", "_known"):
        setattr(made, name, type("Broken", (), {"record": broken, "add": broken})())
    ran: list[int] = []
    with world.guard.task(world.iam.mint(origin="alice", actor="clerk", intent="desk")):
        world.guard.call(ToolCall("close", {}), lambda **_: ran.append(1))
    assert ran == [1]

    class NoMeter(MeterProvider):
        def get_meter(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError

    Metrics().decided(decided("deny", "rule.limit", RULE), state(), 0.0)
    with pytest.raises(RuntimeError):
        Metrics(NoMeter(shutdown_on_exit=False))  # given by hand and wrong: said at the start, not at a call
