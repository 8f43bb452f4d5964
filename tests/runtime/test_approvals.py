"""Asks and their answers: who may answer, what an answer is worth, and that it is worth it once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError
from guard.model import Approval, Decision, Outcome
from guard.record import AuditFile, ListSink
from guard.replay import Replay
from guard.sources import read
from guard.state import MemoryState
from guard.testing import FakeApprovals, FrozenClock, run_case

POLICY = """
guardtrail: 1
name: desk
owner: tests@acme.example
tools:
  look: {effect: read, control: {x: id}, returns: none}
  pay: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}
intents:
  work: {description: Anything., allow: {look: {}, pay: {args: {amount: {range: {min: "0"}}, to: {len: {max: 30}}}}}}
rules:
  - {id: big, when: {tool: pay, args: {amount: {range: {above: "100"}}}}, then: ask}
  - {id: huge, when: {tool: pay, args: {amount: {range: {above: "1000"}}}}, then: ask}
  - {id: never, when: {tool: pay, args: {to: {eq: mallory}}}, then: deny}
  - {id: thrice, when: {tool: pay}, limit: {calls: 3}, then: ask}
asks:
  default: {by: origin, within: 15m}
  huge: {by: {group: treasury, not: [origin, actors]}, count: 2, within: 1h}
"""
CASES = {
    "the origin answers what it is asked": """
      pay(to="bob", amount="200")
      approve(big, by=alice)
      pay(to="bob", amount="200")
      pay(to="bob", amount="200")
    | ask big, allow, ask big""",
    "another person is not the origin": """
      pay(to="bob", amount="200")
      approve(big, by=bob, groups=[treasury])
      pay(to="bob", amount="200")
    | ask big, ask big""",
    "an answer is for these arguments": """
      pay(to="bob", amount="200")
      approve(big, by=alice)
      pay(to="bob", amount="201")
      pay(to="eve", amount="200")
    | ask big, ask big, ask big""",
    "an answer holds for its time": """
      pay(to="bob", amount="200")
      approve(big, by=alice)
      +16m pay(to="bob", amount="200")
    | ask big, ask big""",
    "two asks, one answered: not answered": """
      pay(to="bob", amount="2000")
      approve(big, by=alice)
      pay(to="bob", amount="2000")
    | ask big, ask big""",
    "two persons of the group, and the origin for the other rule": """
      pay(to="bob", amount="2000")
      approve(big, by=alice)
      approve(huge, by=tina, groups=[treasury])
      pay(to="bob", amount="2000")
      approve(huge, by=theo, groups=[treasury])
      pay(to="bob", amount="2000")
    | ask big, ask huge, allow""",
    "the same person twice is one": """
      pay(to="bob", amount="2000")
      approve(big, by=alice)
      approve(huge, by=tina, groups=[treasury])
      approve(huge, by=tina, groups=[treasury])
      pay(to="bob", amount="2000")
    | ask big, ask huge""",
    "neither the origin nor an actor, whatever their groups": """
      pay(to="bob", amount="2000")
      approve(big, by=alice)
      approve(huge, by=alice, groups=[treasury])
      approve(huge, by=payer, groups=[treasury])
      pay(to="bob", amount="2000")
    | ask big, ask huge""",
    "an ask of the store is answered too": """
      pay(to="bob", amount="1")
      pay(to="bob", amount="1")
      pay(to="bob", amount="1")
      pay(to="bob", amount="1")
      approve(thrice, by=alice)
      pay(to="bob", amount="1")
    | allow, allow, allow, ask thrice, allow""",
    "asks that come up one after the other": """
      pay(to="bob", amount="1")
      pay(to="bob", amount="1")
      pay(to="bob", amount="1")
      pay(to="bob", amount="200")
      approve(big, by=alice)
      approve(thrice, by=alice)
      pay(to="bob", amount="200")
    | allow, allow, allow, ask big, allow""",
}


def _case(name: str) -> str:
    trace, _, expect = CASES[name].partition("|")
    lines = "\n".join(f"      {line.strip()}" for line in trace.strip().splitlines())
    words = ", ".join(word.strip() for word in expect.split(","))
    return (
        POLICY
        + f'tests:\n  - name: "{name}"\n    as: {{origin: alice, actor: payer, intent: work}}\n    trace: |\n{lines}\n    expect: [{words}]\n'
    )


@pytest.mark.parametrize("name", CASES)
def test_table(name: str) -> None:
    policy = Policy.from_text(_case(name), file="desk.yaml")
    result = run_case(policy, policy.tests[0])
    assert result.ok, (result.message, [step.got.text() for step in result.steps])


class World:
    def __init__(self, sink: Any = None) -> None:
        self.clock = FrozenClock()
        self.iam = LocalIssuer("ask", clock=lambda: self.clock.now().timestamp())
        self.approvals = FakeApprovals(self.clock)
        self.sink = sink or ListSink()
        self.store = MemoryState()
        self.guard = Guard(
            Policy.from_text(POLICY, file="desk.yaml"), trust=self.iam, state=self.store, sinks=[self.sink], clock=self.clock, approvals=self.approvals,
            deadline=timedelta(seconds=60),
        )  # fmt: skip

    def task(self) -> Any:
        return self.guard.task(self.iam.mint(origin="alice", actor="payer", intent="work", txn="t", ttl="1h"))

    def pay(self, amount: str = "200", to: str = "bob") -> Decision:
        decision = self.guard.before(ToolCall("pay", {"to": to, "amount": amount}))
        if not decision.blocks:
            self.guard.after(decision, Outcome("ok"))
        return decision


def test_an_approval_never_cures_a_deny() -> None:
    world = World()
    with world.task():
        denied = world.pay(to="mallory")
        assert (denied.verdict, denied.code) == ("deny", "rule.match")
        world.approvals.given.append(
            Approval("a", "t", "pay", denied.args_hmac, ("big", "never", "rule.match"), "alice", frozenset(), 1_767_225_600, denied.id)
        )
        assert world.pay(to="mallory").verdict == "deny"


@pytest.mark.parametrize(
    "over",
    [
        {"task": "other"},
        {"tool": "look"},
        {"args_hmac": "0" * 32},
        {"asks": ("huge",)},
        {"approver": "eve"},
        {"at": 0},
        {"at": 2**40},
        {"asks": "no big deal"},
        {"asks": None},
        {"asks": 1},
        {"approver": "alice "},
        {"approver": "alice\u200b"},
        {"groups": None},
    ],
)
def test_an_approval_of_something_else_is_none(over: dict[str, Any]) -> None:
    world = World()
    with world.task():
        world.approvals.approve(world.pay(), by="alice")
        world.approvals.given = [replace(one, **over) for one in world.approvals.given]
        world.approvals.find = lambda *args, **kwargs: world.approvals.given  # type: ignore[method-assign]
        assert world.pay().verdict == "ask"


@pytest.mark.parametrize(
    "second",
    [
        {"id": "b", "approver": "tina "},
        {"id": "b", "approver": "tina\u200b"},
        {"id": "b", "approver": " alice"},
        {"id": "a", "approver": "theo"},
        {"id": "b", "approver": "theo", "groups": "not of treasury"},
    ],
)
def test_one_person_is_not_two_however_it_is_written(second: dict[str, Any]) -> None:
    """Attacks: a name with a blank is somebody else, and not the origin; one approval names two; a text holds every group."""
    world = World()
    with world.task():
        asked = world.pay("2000")
        world.approvals.approve(asked, "big", by="alice")
        first = replace(world.approvals.approve(asked, "huge", by="tina", groups=["treasury"]), id="a")
        world.approvals.given[1:] = [first, replace(first, **second)]
        assert world.pay("2000").verdict == "ask"
        world.approvals.given[2:] = [replace(first, id="c", approver="theo")]
        assert world.pay("2000").verdict == "allow"


def test_a_full_drawer_is_not_looked_through_on_every_call() -> None:
    """Attack: a hundred thousand answers to one call, each of them a look into the state."""
    world = World()
    most, apply = [0], world.store.apply

    def counts(ops: Any, **more: Any) -> Any:
        most[0] = max(most[0], len(ops))
        return apply(ops, **more)

    world.store.apply = counts  # type: ignore[method-assign]
    with world.task():
        one = world.approvals.approve(world.pay(), by="alice")
        world.approvals.given = [replace(one, id=f"old-{n}", at=one.at - 1) for n in range(5000)] + [one]
        assert world.pay().verdict == "allow"
    assert most[0] < 300


@pytest.mark.parametrize("answer", [True, "yes", None, 1, ["approved"], {"approved": True}, [object()]])
def test_what_is_no_approval_approves_nothing(answer: object) -> None:
    world = World()
    world.approvals.find = lambda *args, **kwargs: answer  # type: ignore[method-assign,assignment,return-value]
    with world.task():
        assert world.pay().verdict == "ask"


def test_a_port_that_raises_leaves_the_ask() -> None:
    def fails(*args: object, **kwargs: object) -> Any:
        raise RuntimeError("secret")

    world = World()
    world.approvals.find = fails  # type: ignore[method-assign]
    with world.task():
        decision = world.pay()
    assert decision.verdict == "ask" and "secret" not in decision.model_dump_json()


def test_a_dry_check_uses_nothing_up() -> None:
    world = World()
    with world.task():
        world.approvals.approve(world.pay(), by="alice")
        for _ in range(3):
            assert world.guard.check(ToolCall("pay", {"to": "bob", "amount": "200"})).verdict == "allow"
        assert world.pay().verdict == "allow"
        assert world.guard.check(ToolCall("pay", {"to": "bob", "amount": "200"})).verdict == "ask"


def test_a_no_is_a_denial_whatever_else_was_said() -> None:
    world = World()
    with world.task():
        asked = world.pay("2000")
        world.approvals.reject(asked, "huge", by="alice")  # who may not answer `huge`
        world.approvals.reject(asked, "huge", by="eve", groups=["sales"])
        assert world.pay("2000").verdict == "ask"
        world.approvals.approve(asked, "big", by="alice")
        for person in ("tina", "theo"):
            world.approvals.approve(asked, "huge", by=person, groups=["treasury"])
        world.approvals.reject(asked, "huge", by="tom", groups=["treasury"])
        denied = world.pay("2000")
        assert (denied.verdict, denied.code) == ("deny", "ask.rejected") and "tom" not in denied.model_dump_json()
        assert world.guard.check(ToolCall("pay", {"to": "bob", "amount": "2000"})).code == "ask.rejected"


def test_an_approval_is_used_once_whoever_races() -> None:
    for _ in range(20):
        world = World()
        with world.task() as task:
            world.approvals.approve(world.pay(), by="alice")
            found: list[str] = []
            start = threading.Barrier(6)

            def go(world: World = world, task: Any = task, found: list[str] = found, start: threading.Barrier = start) -> None:
                start.wait()
                with task:
                    found.append(world.pay().verdict)

            threads = [threading.Thread(target=go) for _ in range(6)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
        assert sorted(found) == ["allow", *["ask"] * 5]


def test_what_a_record_says_of_an_approval() -> None:
    world = World()
    with world.task():
        asked = world.pay()
        with pytest.raises(ApprovalRequired) as required:
            world.guard.call(ToolCall("pay", {"to": "bob", "amount": "200"}), lambda to, amount: None)
        assert required.value.request["asks"] == ["big"]
        world.approvals.approve(asked, by="alice")
        decision = world.pay()
    said = next(f for f in decision.findings if f.rule == "big")
    pseudonym = world.sink.decisions[-1].origin
    assert said.text == f"approved: big by {pseudonym}" and "alice" not in decision.model_dump_json()


def test_a_replay_comes_to_the_same(tmp_path: Path) -> None:
    world = World(AuditFile(tmp_path))
    with world.task():
        for amount in ("1", "200", "1", "200", "2000", "200"):
            for _ in range(3):
                if (decision := world.pay(amount)).verdict != "ask":
                    break
                for ask in decision.request()["asks"]:  # type: ignore[attr-defined]
                    for person in ("tina", "theo") if ask == "huge" else ("alice",):
                        world.approvals.approve(decision, ask, by=person, groups=["treasury"])
            assert decision.verdict == "allow"
        world.guard.decline(ToolCall("pay", {"to": "bob", "amount": "200"}))
    run = Replay(world.guard._house.layers)  # type: ignore[arg-type]
    for event in read([tmp_path]):
        list(run.feed(event))
    list(run.close())
    assert (run.summary.differ, dict(run.summary.not_judged), run.summary.calls) == (0, {}, 11)


def test_a_task_that_keeps_asking_is_denied() -> None:
    world = World()
    with world.task():
        assert [world.pay().verdict for _ in range(10)] == ["ask"] * 10
        last = world.pay()
        assert (last.verdict, last.code) == ("deny", "ask.too_many")
        assert last.fix == "a new task"
        world.approvals.approve(Decision(**{**{f: getattr(last, f) for f in Decision.__slots__}, "verdict": "ask"}), "big", by="alice")
        assert world.pay().verdict == "allow", "an answer to what was asked still counts"


# --- what a person vouches for

VOUCH = """
guardtrail: 1
name: vouch
owner: tests@acme.example
tools:
  page: {effect: fetch, control: {url: url}, returns: {format: text, labels: [untrusted]}}
  send: {effect: send, control: {"to[]": email}, data: {body: text}, returns: none}
intents:
  work: {description: Anything., allow: {page: {}, send: {}}}
flow: {fetch: {allow: [any]}, send: {allow: [prompt, endorsed]}}
rules:
  - {id: after, when: {tool: send}, forbid_after: [{label: untrusted}]}
asks: {ask.declassify: {by: {group: security}}}
"""


def vouching(store: Any = None) -> World:
    world = World()
    world.guard = Guard(
        Policy.from_text(VOUCH, file="v.yaml"), trust=world.iam, state=store or world.store, sinks=[world.sink], clock=world.clock,
        approvals=world.approvals,
    )  # fmt: skip
    return world


def _vouched(world: World, ask: Any, by: str, groups: tuple[str, ...] = ()) -> Any:
    with pytest.raises(ApprovalRequired) as required:
        ask()
    world.approvals.approve(required.value.decision, by=by, groups=groups)
    return ask()


def _send(world: World, *to: str) -> Decision:
    return world.guard.before(ToolCall("send", {"to": list(to), "body": "b"}))


def _page(world: World) -> None:
    decision = world.guard.before(ToolCall("page", {"url": "https://a.example/"}))
    world.guard.after(decision, Outcome("ok", "text"))


def test_an_endorsed_value_may_be_used_for_that_tool_and_argument() -> None:
    world = vouching()
    with world.task() as task:
        assert _send(world, "x@a.example").code == "flow.unknown"
        decision = _vouched(world, lambda: task.endorse("send", "to[]", "x@A.Example"), "alice")
        assert (decision.verdict, decision.tool, decision.step) == ("allow", "task.endorse", 3)
        assert _send(world, "x@a.example").verdict == "allow"
        assert _send(world, "x@a.example", "y@a.example").code == "flow.unknown"
    notes = [one for one in world.sink.records if one.kind == "approval"]
    assert [(one.what, one.tool, one.argument, bool(one.value)) for one in notes] == [("endorse", "send", "to[]", True)]  # type: ignore[union-attr]
    assert "a.example" not in repr([one for one in world.sink.records if one.kind != "decision" or one.tool == "task.endorse"])


def test_a_label_that_was_declassified_holds_again_after_the_next_such_call() -> None:
    world = vouching()
    with world.task() as task:
        _vouched(world, lambda: task.endorse("send", "to[]", "x@a.example"), "alice")
        _page(world)
        _page(world)
        assert _send(world, "x@a.example").code == "rule.forbid_after"
        with pytest.raises(ApprovalRequired):
            _vouched(world, lambda: task.declassify("untrusted"), "alice")  # not of the group
        _vouched(world, lambda: task.declassify("untrusted"), "sam", ("security",))
        assert _send(world, "x@a.example").verdict == "allow"
        _page(world)
        assert _send(world, "x@a.example").code == "rule.forbid_after"


def test_an_approval_to_take_a_label_back_is_for_what_was_done_when_it_was_given() -> None:
    """Attack: an agent gets the approval, does once more what sets the label, and then uses it."""
    world = vouching()
    with world.task() as task:
        _page(world)
        with pytest.raises(ApprovalRequired) as required:
            task.declassify("untrusted")
        world.approvals.approve(required.value.decision, by="sam", groups=["security"])
        _page(world)
        with pytest.raises(ApprovalRequired):
            task.declassify("untrusted")


def test_a_call_that_is_not_recorded_does_not_hide_a_label_after_it_was_declassified() -> None:
    """Attack: a call in flight sets the label, a person takes it back, the call fails to be recorded and takes it back once more."""
    world = vouching()
    with world.task() as task:
        _vouched(world, lambda: task.endorse("send", "to[]", "x@a.example"), "alice")
        whole = world.sink.decision

        def fails(record: Any) -> None:
            if record.tool == "page":
                world.sink.decision = whole  # type: ignore[method-assign]
                _vouched(world, lambda: task.declassify("untrusted"), "sam", ("security",))
                raise OSError("disk full")
            whole(record)

        world.sink.decision = fails  # type: ignore[method-assign]
        assert world.guard.before(ToolCall("page", {"url": "https://a.example/"})).code == "record.unavailable"
        assert _send(world, "x@a.example").verdict == "allow"
        _page(world)
        assert _send(world, "x@a.example").code == "rule.forbid_after"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda task: task.endorse("sned", "to[]", "x@a.example"), "did you mean `send`"),
        (lambda task: task.endorse("send", "body", "b"), "not a control argument"),
        (lambda task: task.endorse("send", "to[]", 17), "not a email"),
        (lambda task: task.declassify("untrsted"), "did you mean `untrusted`"),
        (lambda task: task.endorse(["send"], "to[]", "x@a.example"), "as texts"),
        (lambda task: task.endorse("send", None, "x@a.example"), "as texts"),
        (lambda task: task.declassify(["untrusted"]), "as a text"),
    ],
)
def test_what_cannot_be_vouched_for(ask: Any, says: str) -> None:
    world = vouching()
    with world.task() as task, pytest.raises(ConfigError, match=says):
        ask(task)


def test_an_ended_task_vouches_for_nothing() -> None:
    world = vouching()
    with world.task() as task:
        pass
    with pytest.raises(Denied) as refused:
        task.declassify("untrusted")
    assert refused.value.decision.code == "task.ended"


def test_what_goes_wrong_while_somebody_vouches_is_a_recorded_denial() -> None:
    class Strange(list[object]):
        def __iter__(self) -> Any:
            raise RuntimeError("secret")

    world = vouching()
    world.approvals.find = lambda *args, **kwargs: Strange([1])  # type: ignore[method-assign]
    with world.task() as task, pytest.raises(Denied) as refused:
        task.endorse("send", "to[]", "x@a.example")
    assert (refused.value.decision.code, "secret" in str(refused.value)) == ("guard.error", False)
    assert [str(record.code) for record in world.sink.decisions] == ["guard.error"]


def test_a_no_of_the_program_is_on_record_and_takes_nothing() -> None:
    world = World()
    call = ToolCall("pay", {"to": "bob", "amount": "200.75"}, "c1")
    with world.task():
        world.approvals.approve(world.pay(), by="alice")
        for declined in (world.guard.decline(call), asyncio.run(world.guard.adecline(call))):
            assert (declined.verdict, declined.code, declined.blocks) == ("deny", "ask.declined", True)
            assert declined.args_hmac and declined.step and "200.75" not in declined.model_dump_json()
        assert "said no" in declined.for_model()
        assert world.pay().verdict == "allow", "it is nobody's no but the program's"
    with pytest.raises(Denied):
        world.guard.current()
    assert world.guard.decline(call).code == "task.none"


def test_an_async_check_says_what_a_check_says() -> None:
    world = World()
    call = ToolCall("pay", {"to": "bob", "amount": "200"})
    with world.task():
        assert asyncio.run(world.guard.acheck(call)).findings == world.guard.check(call).findings
        world.approvals.approve(world.pay(), by="alice")
        assert asyncio.run(world.guard.acheck(call)).verdict == "allow"
        assert world.pay().verdict == "allow"
