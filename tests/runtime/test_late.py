"""Late findings through the whole guard: late.yaml, on every door a call has, recorded, told in spans, explained, and replayed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.errors import StateUnavailable
from guard.model import Decision, Delegation, Outcome, Signal
from guard.ops import Applied, Lookup, Op, Put, Refused
from guard.record import AuditFile, ListSink, Spans
from guard.replay import Replay
from guard.sources import read
from guard.state import MemoryState, open_state
from guard.taskflow import task_key
from guard.telemetry import EVENT_VIOLATION, RULE, RULES
from guard.testing import FakeSignals, FrozenClock

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "late.yaml").read_text("utf-8"))
SOUND = {"device.compliant": True, "risk": "low", "place": "office", "session": "live"}


class Panic(BaseException):
    pass


class Signals(FakeSignals):
    """`fails`: what the port does instead of answering."""

    fails = ""

    def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> Mapping[str, Signal]:
        if self.fails == "raise":
            raise OSError("the feed is down")
        if self.fails == "panic":
            raise Panic
        if self.fails == "rubbish":
            return "compliant"  # type: ignore[return-value]
        return super().get(delegation, names, now=now)


class World:
    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = open_state("memory:" if store == "memory" else f"sqlite:{folder / 'state.db'}")
        self.clock = FrozenClock(datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2))  # after the birth of the store
        self.signals = Signals(self.clock)
        self.iam = LocalIssuer("till", clock=lambda: self.clock.now().timestamp())
        self.guard = Guard(
            Policy.from_text(TABLE["policy"]), trust=self.iam, sinks=[AuditFile(folder)], clock=self.clock, signals=self.signals,
            state=self.store, deadline=timedelta(seconds=10),
        )  # fmt: skip
        self.say(SOUND)

    def say(self, what: object) -> None:
        if isinstance(what, str):
            self.signals.fails = what
            return
        for name, value in dict(what or {}).items():  # type: ignore[call-overload]
            self.signals.said.pop(name, None)
            if value is not None:
                self.signals.say(name, value)

    def again(self) -> None:
        """Whoever judges the next call hears what is said then."""
        self.signals.fails = ""

    def verdict(self, tool: str = "look", **args: object) -> str:
        decision = self.guard.before(ToolCall(tool, args or {"x": "a"}))
        if not decision.blocks:
            self.guard.after(decision, Outcome("ok"))
        return said(decision)

    def outcomes(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.folder / "audit.jsonl").read_text("utf-8").splitlines()]
        return [line for line in lines if line["kind"] == "outcome"]


class Traced:
    """A guard whose spans end in a list."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        clock = FrozenClock()
        self.signals = FakeSignals(clock)
        for name, value in SOUND.items():
            self.signals.say(name, value)
        self.iam = LocalIssuer("till", clock=lambda: clock.now().timestamp())
        policy = Policy.from_text(TABLE["policy"])
        self.guard = Guard(policy, trust=self.iam, sinks=[ListSink(), Spans(provider)], clock=clock, signals=self.signals)


def said(decision: Decision) -> str:
    return decision.verdict if decision.verdict == "allow" else f"{decision.verdict} {decision.code}"


def through(door: str, world: World, call: ToolCall, body: Any) -> None:
    """Make the call as this door makes it; the body is the same."""
    guard = world.guard

    async def later(**args: object) -> object:
        return body(**args)

    if door == "call":
        guard.call(call, body)
    elif door == "acall":
        asyncio.run(guard.acall(call, later))
    else:
        decision = guard.before(call)
        assert not decision.blocks
        try:
            body(**call.args)
        except ValueError as error:
            guard.after(decision, Outcome("error", None, error))
        else:
            guard.after(decision, Outcome("ok"))


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("door", ["call", "acall", "before"])
@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: row["name"])
def test_what_is_found_late(row: dict[str, Any], door: str, store: str, tmp_path: Path) -> None:
    world = World(tmp_path, store)
    token = world.iam.mint(origin="alice", actor="clerk", intent="work", ttl="10m", txn="t1")
    task = world.guard.task(token)
    tool = row.get("tool", "pay")
    args = {"to": row.get("to", "bob"), "amount": row.get("amount", "10")} if tool == "pay" else {"x": "a"}

    def body(**_: object) -> str:
        world.clock.advance(timedelta(seconds=row.get("wait", 0)))
        world.say(row["during"])
        if row.get("ends"):
            thread = threading.Thread(target=lambda: world.guard.task(token).__enter__().end())
            thread.start()
            thread.join()
        if row.get("fails"):
            raise ValueError("no")
        return "done"

    with task:
        try:
            through(door, world, ToolCall(tool, args), body)
        except ValueError:
            assert row.get("fails")
        world.again()
        outcome = world.outcomes()[-1]
        late = outcome.get("late")
        assert (late and late["rule"]) == row["late"]
        assert outcome["status"] == ("error" if row.get("fails") else "ok"), "what ran, ran"
        assert world.verdict() == row["next"]
        if "pay" in row:
            assert world.verdict("pay", to="bob", amount="10") == row["pay"]
        if row["late"]:
            with pytest.raises(Denied) as denied:
                world.guard.call(ToolCall("look", {"x": "b"}), lambda **_: pytest.fail("it ran"))
            (found,) = [f for f in denied.value.decision.findings if f.says == "forbid"]
            assert (found.rule, found.witnesses) == (row["late"], (outcome["decision"],)), "the call that stopped it is the witness"
            stood = world.store.apply([Lookup(f"{task_key(task.state.delegation)}|life")], now=world.clock.now())
            assert isinstance(stood, Applied) and stood.values == (f"suspended:{row['late']}",)
        if row.get("ends"):
            return  # left by whoever ended it
        if row["late"]:
            replay = Replay([Policy.from_text(TABLE["policy"])])
            judged = [one for seen in read([tmp_path]) for one in replay.feed(seen)] + list(replay.close())
            assert replay.summary.differ == 0
            assert [(one.verdict, one.code) for one in judged if one.seen.kind == "call"][1:] == [("deny", "task.suspended")] * 2


def test_two_late_findings_at_once_are_one(tmp_path: Path) -> None:
    world = World(tmp_path, "sqlite")
    ready = threading.Barrier(8)

    def one(number: int) -> None:
        with world.guard.task(token):
            world.guard.call(ToolCall("pay", {"to": f"bob{number}", "amount": "10"}), body)

    def body(**_: object) -> None:
        ready.wait(20)
        world.say({"device.compliant": False})

    token = world.iam.mint(origin="alice", actor="clerk", intent="work", ttl="10m", txn="t1")
    with world.guard.task(token):
        threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        found = world.outcomes()
        assert len(found) == 8
        assert [each["late"]["rule"] for each in found if "late" in each] == ["sound"]


def test_a_store_that_does_not_take_it_leaves_nothing_as_it_was() -> None:
    """What was found cannot be said to others; in this process nothing of the task runs unasked any more."""

    class Failing(MemoryState):
        fails = False

        def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
            if self.fails and any(type(op) is Put for op in ops):
                raise StateUnavailable("no")
            return super().apply(ops, now=now, commit=commit)

    clock, store = FrozenClock(), Failing()
    signals, iam = FakeSignals(clock), LocalIssuer("till", clock=lambda: clock.now().timestamp())
    for name, value in SOUND.items():
        signals.say(name, value)
    guard = Guard(Policy.from_text(TABLE["policy"]), trust=iam, sinks=[ListSink()], clock=clock, signals=signals, state=store)

    def body(**_: object) -> None:
        signals.say("device.compliant", False)
        store.fails = True

    with guard.task(iam.mint(origin="alice", actor="clerk", intent="work", ttl="10m", txn="t1")):
        guard.call(ToolCall("pay", {"to": "bob", "amount": "10"}), body)
        store.fails = False
        assert said(guard.check(ToolCall("look", {"x": "a"}))) == "ask state.incomplete"


def test_told_on_the_span_of_the_call_and_on_the_root(tmp_path: Path) -> None:
    world = Traced()
    with world.guard.task(world.iam.mint(origin="alice", actor="clerk", intent="work", ttl="10m", txn="t1")):
        world.guard.call(ToolCall("pay", {"to": "bob", "amount": "10"}), lambda **_: world.signals.say("device.compliant", False))
    spans = {span.name: span for span in world.exporter.get_finished_spans()}
    for name in ("execute_tool pay", "invoke_workflow work"):
        (event,) = [event for event in spans[name].events if event.name == EVENT_VIOLATION]
        assert event.attributes is not None and event.attributes[RULE] == "sound"
    root = spans["invoke_workflow work"].attributes
    assert root is not None and root[RULES] == ("sound",)
