"""The newest loaded policy governs the next call: also of a task that is open, and of every process that shares its state."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from guard import Denied, Guard, GuardError, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, PolicyError, StateUnavailable
from guard.model import Decision, Outcome
from guard.record import ListSink
from guard.state import MemoryState
from guard.testing import FrozenClock

HEAD = """
guardtrail: 1
name: shop
owner: tests@acme.example
tools:
  page: {effect: fetch, control: {url: url}, returns: {format: text, labels: [untrusted]}}
  file: {effect: read, control: {name: name}, returns: {format: text, labels: [private]}}
  send: {effect: send, control: {to: email}, data: {body: text}, returns: none}
intents:
  work: {description: Anything., allow: {page: {}, file: {}, send: {args: {to: {email: {domain: acme.example}}}}}}
"""
TRIFECTA = HEAD + "rules:\n  - {id: trifecta, when: {tool: send}, forbid_after: [{label: untrusted}, {label: private}]}\n"
FLOW = HEAD + "flow:\n  read: {allow: [any]}\n  fetch: {allow: [any]}\n  send: {allow: [prompt], ask: [text]}\n"
SHAPED = HEAD + "rules:\n  - {id: after-big, when: {tool: send}, forbid_after: [{tool: file, args: {name: {eq: big}}}]}\n"
MAIL = {"to": "a@acme.example", "body": "b"}


class World:
    def __init__(self, store: Any = None) -> None:
        self.clock = FrozenClock()
        self.iam = LocalIssuer("reload", clock=lambda: self.clock.now().timestamp())
        self.store = store or MemoryState()
        self.guard = self.make(HEAD)

    def make(self, text: str) -> Guard:
        return Guard(read(text), trust=self.iam, state=self.store, sinks=[ListSink()], clock=self.clock)

    def task(self, guard: Guard | None = None, txn: str = "t", prompt: str | None = None) -> Any:
        return (guard or self.guard).task(self.iam.mint(origin="alice", actor="agent", intent="work", txn=txn), prompt=prompt)


def read(text: str) -> Policy:
    return Policy.from_text(text, file="shop.yaml")


def call(guard: Guard, tool: str, result: object = None, **args: object) -> Decision:
    decision = guard.before(ToolCall(tool, args))
    if not decision.blocks:
        guard.after(decision, Outcome("ok", result))
    return decision


def test_the_next_call_of_an_open_task_is_judged_by_the_new_policy_and_the_past_counts() -> None:
    world = World()
    with world.task():
        assert call(world.guard, "page", url="https://a.example/").verdict == "allow"
        assert call(world.guard, "file", name="x").verdict == "allow"
        assert call(world.guard, "send", **MAIL).verdict == "allow"
        world.clock.advance(5)
        world.guard.reload(read(TRIFECTA))
        denied = call(world.guard, "send", **MAIL)
        assert (denied.code, denied.policy.partition("@")[0]) == ("rule.forbid_after", "shop")
        world.guard.reload(read(HEAD))
        assert call(world.guard, "send", **MAIL).verdict == "allow"


def test_a_call_in_flight_ends_under_the_policy_it_began_with() -> None:
    world = World()
    with world.task():
        first = world.guard.before(ToolCall("page", {"url": "https://a.example/"}))
        world.guard.reload(read(FLOW))
        world.guard.after(first, Outcome("ok", "text"))
        assert call(world.guard, "file", name="x").verdict == "allow"


@pytest.mark.parametrize(
    "text", [HEAD.replace("effect: send", "effect: sned"), "nonsense", HEAD + "rules: [{id: r, when: {tool: sned}, then: deny}]\n"]
)
def test_what_does_not_load_changes_nothing(text: str) -> None:
    world = World()
    before = world.guard._house
    with world.task(), pytest.raises(PolicyError):
        world.guard.reload(read(text))
    assert world.guard._house is before


def test_a_policy_that_a_guarded_function_does_not_fit_changes_nothing() -> None:
    world = World()

    @world.guard.tool
    def send(to: str, body: str) -> str:
        return to

    before = world.guard._house
    with pytest.raises(ConfigError, match="does not take"):
        world.guard.reload(read(HEAD.replace("data: {body: text}", "data: {body: text, subject: text}")))
    assert world.guard._house is before
    world.guard.reload(read(HEAD.replace("to: email", "to: name").replace("{email: {domain: acme.example}}", "{len: {max: 30}}")))
    with world.task():
        assert send("Not An Address", "b") == "Not An Address"
        assert send.check("Not An Address", "b").verdict == "allow"


def test_a_tool_that_is_gone_is_unknown() -> None:
    world = World()

    @world.guard.tool
    def send(to: str, body: str) -> str:
        return to

    gone = HEAD.replace("  send: {effect: send, control: {to: email}, data: {body: text}, returns: none}\n", "")
    world.guard.reload(read(gone.replace(", send: {args: {to: {email: {domain: acme.example}}}}", "")))
    with world.task():
        assert send.check(to="a@acme.example", body="b").code == "tool.unknown"
        assert call(world.guard, "file", name="x").verdict == "allow"


def test_what_a_new_rule_counts_begins_now() -> None:
    world = World()
    with world.task():
        call(world.guard, "file", name="big")
        world.guard.reload(read(SHAPED))  # in the same second: what was before it was not counted
        asked = call(world.guard, "send", **MAIL)
        assert (asked.verdict, asked.code) == ("ask", "state.incomplete")
    world.clock.advance(2)
    with world.task(txn="later"):
        assert call(world.guard, "send", **MAIL).verdict == "allow"


def test_a_rule_that_was_dropped_and_came_back_does_not_know_what_was_between() -> None:
    world = World()
    world.guard.reload(read(SHAPED))
    world.clock.advance(2)
    with world.task():
        assert call(world.guard, "send", **MAIL).verdict == "allow"
        world.guard.reload(read(HEAD))
        call(world.guard, "file", name="big")
        world.clock.advance(2)
        world.guard.reload(read(SHAPED))
        assert call(world.guard, "send", **MAIL).code == "state.incomplete"
        world.guard.reload(read(SHAPED + "  - {id: other, when: {tool: page}, then: alert}\n"))
    world.clock.advance(2)
    with world.task(txn="later"):
        assert call(world.guard, "send", **MAIL).verdict == "allow", "it is counted from one policy to the next"


def test_a_policy_that_is_loaded_again_is_the_newest() -> None:
    world = World()
    with world.task():
        call(world.guard, "file", name="x")
        world.guard.reload(read(TRIFECTA))
        call(world.guard, "file", name="x")
        world.guard.reload(read(HEAD))
        assert call(world.guard, "file", name="x").verdict == "allow"
        with pytest.raises(Denied) as stale, world.task(world.make(TRIFECTA)):
            pass
        assert stale.value.decision.code == "policy.older"


def test_a_flow_table_that_comes_later_asks_for_what_it_has_not_seen() -> None:
    world = World()
    with world.task(prompt="write to a@acme.example"):
        call(world.guard, "file", name="x", result="b@acme.example")
        world.clock.advance(3)
        world.guard.reload(read(FLOW))
        asked = call(world.guard, "send", **MAIL)
        assert (asked.verdict, asked.code) == ("ask", "state.incomplete")
    world.clock.advance(3)
    with world.task(txn="later", prompt="write to a@acme.example"):
        assert call(world.guard, "send", **MAIL).verdict == "allow"


def test_a_process_that_still_has_the_older_policy_denies_once_a_task_has_seen_the_newer() -> None:
    world = World()
    other = world.make(HEAD)
    with world.task(), world.task(other):
        assert call(other, "file", name="x").verdict == "allow"
        world.guard.reload(read(TRIFECTA))
        with world.task():
            assert call(world.guard, "file", name="x").verdict == "allow"
        assert call(other, "file", name="x").code == "policy.older"
        other.reload(read(TRIFECTA))
        assert call(other, "file", name="x").verdict == "allow"


def test_a_store_that_does_not_answer_changes_nothing() -> None:
    class Broken(MemoryState):
        broken = False

        def apply(self, ops: Any, *, now: datetime, commit: bool = True) -> Any:
            if self.broken:
                raise StateUnavailable("no")
            return super().apply(ops, now=now, commit=commit)

    store = Broken()
    world = World(store)
    before = world.guard._house
    store.broken = True
    with pytest.raises(GuardError) as failed:
        world.guard.reload(read(TRIFECTA))
    assert failed.value.code == "state.unavailable" and world.guard._house is before


class Meanwhile(str):
    """The name of a tool; the first time somebody looks it up among the plans, `happens` happens."""

    __slots__ = ("happens",)

    def __hash__(self) -> int:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return super().__hash__()

    __eq__ = str.__eq__


def test_a_call_in_flight_does_not_leave_its_plan_to_the_new_policy() -> None:
    """Attack: the policies are loaded anew while a call is about to be planned; found by threads, one reload in 300."""
    world = World()
    with world.task():
        name = Meanwhile("send")

        def reload() -> None:
            world.guard.reload(read(HEAD + "rules:\n  - {id: never, when: {tool: send}, then: deny}\n"))
            call(world.guard, "file", name="x")

        name.happens = reload
        world.guard.before(ToolCall(name, MAIL))
        assert name.happens is None
        assert call(world.guard, "send", **MAIL).code == "rule.match"


def test_policies_that_come_back_know_that_they_were_away() -> None:
    """Attack: one task open twice; while its own policies were away, the other one did what was not counted."""
    world = World()
    world.guard.reload(read(SHAPED))
    with world.task():
        assert call(world.guard, "send", **MAIL).verdict == "allow"
        world.guard.reload(read(HEAD))
        world.clock.advance(5)
        with world.task():
            assert call(world.guard, "file", name="big").verdict == "allow"
        world.guard.reload(read(SHAPED))
        assert call(world.guard, "send", **MAIL).code == "state.incomplete"
