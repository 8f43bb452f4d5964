"""One call through the whole house: the table in calls.yaml, and what a table cannot say."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from guard import ApprovalRequired, Decision, Denied, Outcome, ToolCall
from guard.errors import ConfigError, GuardError
from guard.events import DecisionRecord
from guard.record import AuditFile, ListSink
from tests.runtime.conftest import World, make_world

CASES = yaml.safe_load((Path(__file__).parent / "calls.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_table(case: dict[str, Any]) -> None:
    world = make_world()
    expect = case["expect"] if isinstance(case["expect"], list) else [case["expect"]]
    with world.guard.task(world.mint()):
        dry = world.guard.check(ToolCall(case["tool"], case["args"]))
        try:
            world.call(case["tool"], **case["args"])
            got = "allow"
        except Denied as denied:
            got = str(denied.code)
    assert got in expect
    assert len(world.ran) == (got == "allow")
    assert len(world.sink.decisions) == 1
    assert (dry.verdict == "allow") == (got == "allow")
    assert dry.code == ("permit" if got == "allow" else got)


@pytest.mark.parametrize(
    "args",
    [
        {"order": "A-17", "amount": 2**64},
        {"order": "A-17", "amount": "x" * 10_000_000},
        {"order": "\ud800", "amount": "1"},
        {"order": None, "amount": None},
        {"order": {"a": "A-17"}, "amount": "1"},
        {"order": b"A-17", "amount": "1"},
        {1: "A-17", "amount": "1"},
    ],
    ids=["2^64", "10 MB", "lone surrogate", "nulls", "object", "bytes", "key that is no name"],
)
def test_bad_arguments_deny(world: World, args: dict[Any, Any]) -> None:
    with world.guard.task(world.mint()):
        with pytest.raises(Denied) as caught:
            world.guard.call(ToolCall("refund", args), world.body)
    assert caught.value.code.startswith("args.")
    assert world.ran == []


def test_deep_and_cyclic_arguments_deny(world: World) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with world.guard.task(world.mint()):
        for value in (deep, cyclic):
            with pytest.raises(Denied) as caught:
                world.call("mail", to=["a@acme.example"], body=value)
            assert caught.value.code in ("args.type", "args.size")
        with pytest.raises(Denied):
            world.guard.call(ToolCall("refund", "not a mapping"), world.body)  # type: ignore[arg-type]
        with pytest.raises(Denied):
            world.guard.call(ToolCall(["refund"], {}), world.body)  # type: ignore[arg-type]
    assert world.ran == []
    while isinstance(deep, list):  # unwind by hand: freeing a chain of 10^5 lists is the interpreter's business, not the test's
        deep = deep[0]


def test_limit_of_the_intent(world: World) -> None:
    with world.guard.task(world.mint()):
        world.call("refund", order="A-17", amount="20")
        with pytest.raises(Denied, match=r"^refund denied: 1 of 1 calls used in this task \[limit.calls\]$") as caught:
            world.call("refund", order="A-17", amount="20")
    assert caught.value.decision.witnesses == (world.sink.decisions[0].id,)
    assert caught.value.decision.fix == "a new task"


def test_order_of_the_intent(world: World) -> None:
    with world.guard.task(world.mint()):
        world.call("close")
        with pytest.raises(Denied) as caught:
            world.call("refund", order="A-17", amount="20")
        assert caught.value.code == "intent.order"
        world.call("close")


def test_monitor_records_and_never_votes(world: World) -> None:
    with world.guard.task(world.mint()):
        for _ in range(3):
            world.call("look", order="A-17")
    assert [(r.verdict, r.mode) for r in world.sink.decisions] == [("allow", "enforce"), ("allow", "enforce"), ("allow", "monitor")]
    finding = next(f for f in world.sink.decisions[-1].findings if f.mode == "monitor")
    assert finding.code == "rule.limit"
    assert finding.rule == "few-looks"


def test_monitor_enforces_from_its_end_date(world: World) -> None:
    world.clock.advance(5 * 365 * 86400)
    with world.guard.task(world.mint()):
        world.call("look", order="A-17")
        world.call("look", order="A-17")
        with pytest.raises(Denied, match="rule.limit"):
            world.call("look", order="A-17")


def test_intent_expires_before_a_refreshed_token_does(world: World) -> None:
    first = world.mint(txn="t-1")
    with world.guard.task(first):
        world.clock.advance(9 * 60)
        world.call("close")
        with world.guard.task(world.mint(txn="t-1")):
            world.call("close")
            world.clock.advance(2 * 60)
            with pytest.raises(Denied, match="task.expired"):
                world.call("close")


def test_token_expires_inside_the_task(world: World) -> None:
    with world.guard.task(world.mint(ttl="1m")):
        world.call("close")
        world.clock.advance(120)
        with pytest.raises(Denied, match="token.expired"):
            world.call("close")


def test_revoked_inside_the_task(world: World) -> None:
    with world.guard.task(world.mint()) as task:
        world.call("close")
        revocations: Any = world.guard._house.revocations
        revocations.revoke("task", task.id, issuer="acme-dev")
        with pytest.raises(Denied, match="token.revoked"):
            world.call("close")


def test_outside_a_task(world: World) -> None:
    with pytest.raises(Denied, match=r"called outside a task; open one with `with guard.task\(token\):` \[task.none\]"):
        world.call("close")
    assert world.codes == ["deny task.none"]
    for _ in range(50):
        with pytest.raises(Denied):
            world.call("close")
    assert len(world.sink.decisions) == 1, "a flood before authentication is one record a minute"
    world.clock.advance(60)
    with pytest.raises(Denied):
        world.call("close")
    assert [r.count for r in world.sink.decisions] == [1, 51]


def test_ended_task_leaves_a_tombstone(world: World) -> None:
    token = world.mint(txn="t-2")
    with world.guard.task(token):
        world.call("close")
    with pytest.raises(Denied, match="task.ended"), world.guard.task(token):
        pass
    with pytest.raises(Denied, match="task.ended"), world.guard.task(world.mint(txn="t-2")):
        pass


def test_a_known_task_with_another_intent_or_origin_is_refused(world: World) -> None:
    with world.guard.task(world.mint(txn="t-3")):
        for other in ({"origin": "mallory"}, {"params": {"order": "B-99", "ceiling": "5000"}}):
            with pytest.raises(Denied, match="task.mismatch"), world.guard.task(world.mint(txn="t-3", **other)):
                pass


def test_leaving_a_reentered_task_does_not_end_it(world: World) -> None:
    token = world.mint(txn="t-4")
    with world.guard.task(token) as outer:
        with world.guard.task(token):
            world.call("close")
        with outer:
            world.call("close")
        world.call("close")
    with pytest.raises(Denied, match="task.ended"), world.guard.task(token):
        pass


def test_who_enters_while_another_does_is_counted(world: World) -> None:
    """Found by threads: of two that entered at once one was not counted, and the task ended while its outermost `with` was open."""
    entered, leave = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def other() -> None:
        with task:
            entered.set()
            assert leave.wait(30)

    class Meanwhile(dict[Any, Any]):
        def get(self, *key: Any) -> Any:
            found = super().get(*key)
            if not threads:
                threads.append(threading.Thread(target=other))
                threads[0].start()
                entered.wait(0.2)  # time to come in between, if anybody may
            return found

    with world.guard.task(world.mint()) as task:
        world.guard._opened = Meanwhile(world.guard._opened)
        with task:
            assert entered.wait(30)
        leave.set()
        threads[0].join(30)
        world.call("close")
    with pytest.raises(Denied, match="task.ended"), task:
        pass


def test_unknown_intent_and_bad_params(world: World) -> None:
    with world.guard.task(world.mint(intent="everything", params={})), pytest.raises(Denied, match="intent.unknown"):
        world.call("close")
    for params in ({"order": "A-17"}, {"order": "A-17", "ceiling": "many"}, {"order": "A-17", "ceiling": "50", "more": 1}):
        with world.guard.task(world.mint(params=params)), pytest.raises(Denied, match="intent.params"):
            world.call("close")


def test_grants_and_intent_must_both_allow(world: World) -> None:
    token = world.mint(tools={"refund": {"order": {"eq": "A-17"}, "amount": {"range": {"min": 1, "max": 5}}}})
    with world.guard.task(token):
        with pytest.raises(Denied, match=r"grant.tool"):
            world.call("close")
        with pytest.raises(Denied, match=r"grant.args"):
            world.call("refund", order="A-17", amount="20")
        world.call("refund", order="A-17", amount="5")


def test_decision_is_neither_true_nor_false(world: World) -> None:
    with world.guard.task(world.mint()):
        decision = world.guard.check(ToolCall("wipe", {"order": "A-17"}))
    with pytest.raises(TypeError, match="blocks"):
        bool(decision)
    assert decision.blocks
    assert world.sink.decisions == []


def test_no_value_in_exception_record_or_model_text(world: World) -> None:
    with world.guard.task(world.mint(params={"order": "CANARY-PARAM", "ceiling": "50"})), pytest.raises(Denied) as caught:
        world.call("refund", order="CANARY-ARG", amount="20")
    said = str(caught.value) + caught.value.for_model() + caught.value.decision.model_dump_json() + repr(world.sink.decisions)
    assert "CANARY" not in said
    assert "CANARY-ARG" in caught.value.decision.explain(), "values are shown in the process, on demand"


# -- at most once ----------------------------------------------------------------------------------------------------------------


def test_resumed_call_gets_its_outcome_and_runs_once(world: World) -> None:
    with world.guard.task(world.mint()):
        first = world.call("refund", id="call-1", order="A-17", amount="20")
        again = world.call("refund", id="call-1", order="A-17", amount="20")
    assert (first, again, len(world.ran), len(world.sink.decisions)) == ("done", "done", 1, 1)


def test_resumed_call_without_its_outcome_is_denied(world: World) -> None:
    with world.guard.task(world.mint()):
        world.call("close", id="call-1")
        world.guard._house.outcomes._held.clear()  # another process, or long ago
        with pytest.raises(Denied, match="call.replayed"):
            world.call("close", id="call-1")
    assert len(world.ran) == 1


def test_before_denies_a_call_that_was_decided_before(world: World) -> None:
    """`call` hands out the outcome; who asks with `before` would run the body again."""
    call = ToolCall("refund", {"order": "A-17", "amount": "20"}, "call-1")
    with world.guard.task(world.mint()):
        first = world.guard.before(call)
        assert world.guard.before(call).code == "call.replayed"  # in flight
        world.guard.after(first, Outcome("ok", "done"))
        again = world.guard.before(call)
        assert (first.verdict, again.verdict, again.code, again.blocks) == ("allow", "deny", "call.replayed", True)
        assert world.call("refund", id="call-1", order="A-17", amount="20") == "done"
    assert not world.ran


def test_changed_arguments_are_another_call(world: World) -> None:
    with world.guard.task(world.mint()):
        world.call("look", id="call-1", order="A-17")
        world.call("look", id="call-1", order="A-18")
    assert len(world.ran) == 2


def test_the_same_id_in_flight_is_denied(world: World) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(**_: object) -> str:
        inside.set()
        go.wait(30)
        return "slow"

    with world.guard.task(world.mint()):
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(context.run, world.guard.call, ToolCall("close", {}, "c-1"), slow)
            assert inside.wait(30)
            with pytest.raises(Denied, match="call.replayed"):
                world.call("close", id="c-1")
            go.set()
            assert first.result(30) == "slow"


def test_one_hundred_callers_one_limit(world: World) -> None:
    def one() -> str:
        try:
            world.call("refund", order="A-17", amount="1")
            return "ran"
        except Denied as denied:
            return str(denied.code)

    with world.guard.task(world.mint()), ThreadPoolExecutor(16) as pool:
        contexts = [contextvars.copy_context() for _ in range(100)]
        got = [f.result() for f in [pool.submit(c.run, one) for c in contexts]]
    assert got.count("ran") == len(world.ran) == 1
    assert set(got) == {"ran", "limit.calls"}
    assert len({r.step for r in world.sink.decisions}) == 100


def test_context_is_lost_in_a_bare_thread_and_denies(world: World) -> None:
    with world.guard.task(world.mint()), ThreadPoolExecutor(1) as pool:
        with pytest.raises(Denied, match="task.none"):
            pool.submit(world.call, "close").result(30)
        pool.submit(contextvars.copy_context().run, world.call, "close").result(30)


# -- bodies ----------------------------------------------------------------------------------------------------------------------


def test_a_raising_body(world: World) -> None:
    def body(**_: object) -> None:
        raise LookupError("secret-canary-value")

    with world.guard.task(world.mint()):
        with pytest.raises(LookupError):
            world.guard.call(ToolCall("close", {}), body)
    (outcome,) = world.sink.outcomes
    assert (outcome.status, outcome.error) == ("error", "LookupError")
    assert "canary" not in repr(outcome)


def test_errors_without_effect_are_refunded(world: World) -> None:
    def broken(**_: object) -> None:
        raise OSError("disk full")

    args = {"path": "/srv/notes/a", "text": "x"}
    with world.guard.task(world.mint()):
        for _ in range(5):
            with pytest.raises(OSError, match="disk full"):
                world.guard.call(ToolCall("note", args), broken)
        world.call("note", **args)
        world.call("note", **args)
        with pytest.raises(Denied, match="limit.calls"):
            world.call("note", **args)


def test_a_cancelled_body_is_unknown_and_counts(world: World) -> None:
    async def run() -> None:
        async with world.guard.task(world.mint()):
            started = asyncio.Event()

            async def hang(**_: object) -> None:
                started.set()
                await asyncio.sleep(60)

            call = asyncio.create_task(world.guard.acall(ToolCall("refund", {"order": "A-17", "amount": "1"}), hang))
            await started.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(Denied, match="limit.calls"):
                await world.guard.acall(ToolCall("refund", {"order": "A-17", "amount": "1"}), hang)

    asyncio.run(run())
    assert [o.status for o in world.sink.outcomes] == ["unknown"]


@pytest.mark.timeout(60, method="thread")
def test_a_body_that_is_cancelled_in_every_round_ends(world: World, tmp_path: Path) -> None:
    """Attack: a scope of anyio (Pydantic AI, MCP and Starlette have them) cancels in every round of the loop until the call is over; the loop span for ever."""
    world.guard._house.sinks = (*world.guard._house.sinks, AuditFile(tmp_path))

    async def run() -> None:
        async with world.guard.task(world.mint()):

            async def hang(**_: object) -> None:
                scope.cancel()
                await asyncio.sleep(60)

            with anyio.CancelScope() as scope:
                await world.guard.acall(ToolCall("refund", {"order": "A-17", "amount": "1"}), hang)
            assert scope.cancelled_caught

    asyncio.run(run())
    assert [o.status for o in world.sink.outcomes] == ["unknown"]


def test_before_and_after(world: World) -> None:
    with world.guard.task(world.mint()):
        allowed = world.guard.before(ToolCall("close", {}))
        world.guard.after(allowed, Outcome("ok"))
        world.guard.after(allowed, Outcome("error"))
        refused = world.guard.before(ToolCall("wipe", {"order": "A-17"}))
        left = world.guard.before(ToolCall("close", {}))
        broken = world.guard.before(None)  # type: ignore[arg-type]
    assert (allowed.blocks, refused.blocks, left.blocks, broken.blocks) == (False, True, False, True)
    assert [(o.decision == allowed.id, o.status) for o in world.sink.outcomes] == [(True, "ok"), (False, "unknown")]


def test_before_and_after_in_an_event_loop(world: World) -> None:
    async def run() -> list[Decision]:
        async with world.guard.task(world.mint()):
            allowed = await world.guard.abefore(ToolCall("close", {}))
            await world.guard.aafter(allowed, Outcome("ok"))
            await world.guard.aafter(allowed, Outcome("error"))
            refused = await world.guard.abefore(ToolCall("wipe", {"order": "A-17"}))
            left = await world.guard.abefore(ToolCall("close", {}))
            return [allowed, refused, left, await world.guard.abefore(None)]  # type: ignore[arg-type]

    decided = asyncio.run(run())
    assert [decision.blocks for decision in decided] == [False, True, False, True]
    assert [(o.decision == decided[0].id, o.status) for o in world.sink.outcomes] == [(True, "ok"), (False, "unknown")]


def test_before_a_call_that_was_made_before_denies(world: World) -> None:
    """A framework that runs a step again would run the body again: there is nobody to hand the recorded outcome out."""
    call = ToolCall("refund", {"order": "A-17", "amount": "1"}, id="c1")
    with world.guard.task(world.mint()):
        world.guard.after(world.guard.before(call), Outcome("ok"))
        again, anew = world.guard.before(call), asyncio.run(world.guard.abefore(call))
    assert [(each.verdict, each.code) for each in (again, anew)] == [("deny", "call.replayed")] * 2
    assert [record.verdict for record in world.sink.decisions] == ["allow"] and len(world.sink.outcomes) == 1


def test_the_arguments_between_before_and_after(world: World) -> None:
    with world.guard.task(world.mint()):
        decision = world.guard.before(ToolCall("refund", {"order": "A-17", "amount": Decimal("1.50")}))
        assert dict(world.guard.arguments(decision)) == {"order": "A-17", "amount": Decimal("1.50")}
        world.guard.after(decision, Outcome("ok"))
        for ended in (decision, world.guard.before(ToolCall("wipe", {"order": "A-17"}))):
            with pytest.raises(GuardError, match="no call is open"):
                world.guard.arguments(ended)


def test_ask_is_a_denial_until_answered() -> None:
    world = make_world(
        """
guardtrail: 1
name: ask
owner: o@acme.example
tools: {close: {effect: write}}
intents: {refund-order: {description: d, allow: {close: {}}}}
rules: [{id: ask-first, when: {tool: close}, then: ask}]
"""
    )
    with world.guard.task(world.mint(params={})):
        with pytest.raises(ApprovalRequired) as caught:
            world.call("close")
    assert caught.value.request["asks"] == ["ask-first"]
    assert isinstance(caught.value, Denied)
    assert world.ran == []


# -- the decorator ---------------------------------------------------------------------------------------------------------------


def test_decorated_functions(world: World) -> None:
    @world.guard.tool
    def refund(order: str, amount: Decimal = Decimal("20")) -> str:
        """Give money back."""
        return f"refunded {amount} on {order}"

    with world.guard.task(world.mint()):
        assert refund.check("A-17").verdict == "allow"
        assert refund.check("B-99", amount=Decimal(1)).code == "args.constraint"
        assert refund("A-17") == "refunded 20 on A-17"
        with pytest.raises(Denied, match="args.unknown"):
            refund("A-17", Decimal(1), order="A-17")
    assert refund.__doc__ == "Give money back."
    assert refund.__name__ == "refund"


def test_positional_and_keyword_are_one_call(world: World) -> None:
    @world.guard.tool
    def refund(order: str, amount: Decimal) -> str:
        return "ran"

    with world.guard.task(world.mint()):
        for bad in (
            lambda: refund("B-99", Decimal(1)),
            lambda: refund(order="B-99", amount=Decimal(1)),
            lambda: refund("B-99", amount=Decimal(1)),
        ):
            with pytest.raises(Denied, match="args.constraint"):
                bad()


def test_the_body_is_sealed(world: World) -> None:
    @world.guard.tool
    def close() -> str:
        world.ran.append("close")
        return "closed"

    sealed = close.__wrapped__  # type: ignore[attr-defined]
    with world.guard.task(world.mint()):
        with pytest.raises(Denied, match="call.sealed"):
            sealed()
        assert world.guard.call(ToolCall("close", {}), sealed) == "closed"
        assert world.guard.call(ToolCall("close", {}), close) == "closed"
        with pytest.raises(Denied, match="call.sealed"):
            sealed()
    assert not hasattr(sealed, "__wrapped__")
    assert len(world.ran) == 2
    assert len(world.sink.decisions) == 2, "handing the guarded function to guard.call is one call, not two"


def test_the_signature_is_kept(world: World) -> None:
    """Frameworks make their schemas of it, of the guarded function or of the sealed body below it."""

    def close(order: str = "A-17") -> str:
        return order

    guarded = world.guard.tool(close, name="look")
    kept = inspect.signature(close, eval_str=True)
    assert inspect.signature(guarded) == inspect.signature(guarded.__wrapped__) == kept  # type: ignore[attr-defined]
    assert kept.parameters["order"].annotation is str, "and what was written as text is a type"


def test_a_lease_is_for_one_tool(world: World) -> None:
    """A body must not use its own lease to run another sealed body."""

    @world.guard.tool
    def close() -> str:
        world.ran.append("close")
        return "closed"

    def sneaky(**_: object) -> object:
        return close.__wrapped__()  # type: ignore[attr-defined]

    with world.guard.task(world.mint()), pytest.raises(Denied, match="call.sealed"):
        world.guard.call(ToolCall("look", {"order": "A-17"}), sneaky)
    assert world.ran == []


def test_a_body_may_not_run_what_is_sealed(world: World) -> None:
    """Neither its own nor, inside another's call, what that one might: the lease is for the body that the guard was handed."""

    @world.guard.tool
    def close() -> str:
        with pytest.raises(Denied, match="call.sealed"):
            close.__wrapped__()  # type: ignore[attr-defined]
        with pytest.raises(Denied, match="call.sealed"):
            look.__wrapped__("A-17")  # type: ignore[attr-defined]
        world.ran.append("close")
        return "closed"

    @world.guard.tool
    def look(order: str) -> str:
        world.ran.append("look")
        return "seen"

    def nested(**_: object) -> object:
        close()
        return look.__wrapped__("A-17")  # type: ignore[attr-defined]

    with world.guard.task(world.mint()):
        assert close() == "closed"
        assert world.guard.call(ToolCall("look", {"order": "A-17"}), nested) == "seen"
    assert world.ran == ["close", "close", "look"]


def test_what_a_body_leaves_behind_may_not_use_its_lease(world: World) -> None:
    """Attack: something of the body goes on in its context (a thread, a task) and takes the lease when the call is over, with other arguments."""
    kept: list[contextvars.Context] = []

    @world.guard.tool
    def look(order: str) -> str:
        world.ran.append(order)
        return "seen"

    with world.guard.task(world.mint()):
        world.guard.call(ToolCall("look", {"order": "A-17"}), lambda **_: kept.append(contextvars.copy_context()))

        async def leave(**_: object) -> None:
            kept.append(contextvars.copy_context())

        asyncio.run(world.guard.acall(ToolCall("look", {"order": "A-17"}), leave))
        for context in kept:
            with pytest.raises(Denied, match="call.sealed"):
                context.run(look.__wrapped__, "B-1")  # type: ignore[attr-defined]
            assert context.run(look, "B-1") == "seen"
    assert world.ran == ["B-1", "B-1"]
    assert len(world.sink.decisions) == 4, "each of them judged for itself"


ORDINARY = """
guardtrail: 1
name: shop
owner: payments@acme.example
tools: {look: {effect: read, control: {order: id}}}
intents:
  refund-order: {description: Look., params: {order: id, ceiling: decimal}, ttl: 10m, allow: {look: {args: {order: {eq: $order}}}}}
"""


class Dead(ListSink):
    """From some time on it takes no decision that allows."""

    dead = False

    def decision(self, record: DecisionRecord) -> None:
        if self.dead and record.verdict == "allow":
            raise OSError
        super().decision(record)


def test_records_of_ordinary_calls_are_like_each_other() -> None:
    """They say what a record says that was made from nothing; and what is refused after all is like none of them."""
    world = make_world(ORDINARY, sinks=[dead := Dead(), sink := ListSink()])
    with world.guard.task(world.mint()):
        for order, call in (("A-17", ""), ("A-17", "7"), ("A-17", "8"), ("B-18", "9")):
            try:
                world.call("look", call, order=order)
            except Denied as denied:
                assert order == "B-18", denied
        dead.dead = True
        with pytest.raises(Denied, match="record.unavailable"):
            world.call("look", order="A-17")
    plain, *others, forbidden, refused = sink.decisions
    assert plain.like is None
    for step, record in enumerate(others, 2):
        assert record.like is not None
        assert record == replace(
            plain, id=record.id, at=record.at, step=step, call=str(step + 5), findings=record.findings, generation="", args_hmac=plain.args_hmac
        )  # fmt: skip
        assert [f.text for f in record.findings] == [f.text for f in plain.findings]
    for record, code in ((forbidden, "args.constraint"), (refused, "record.unavailable")):
        assert record.like is None
        assert (record.verdict, record.code) == ("deny", code)
    for outcome, record in zip(sink.outcomes, [plain, *others], strict=False):
        assert (outcome.decision, outcome.task, outcome.step, outcome.tool, outcome.status) == (
            record.id,
            record.task,
            record.step,
            "look",
            "ok",
        )


def test_methods_generators_and_async(world: World) -> None:
    class Desk:
        @world.guard.tool
        def close(self) -> str:
            return type(self).__name__

    @world.guard.tool
    def look(order: str) -> Any:
        yield order
        yield "more"

    @world.guard.tool
    async def refund(order: str, amount: Decimal) -> str:
        return order

    @world.guard.tool
    async def mail(to: list[str], body: str) -> Any:
        for address in to:
            yield address

    async def run() -> None:
        async with world.guard.task(world.mint()):
            assert await refund("A-17", Decimal(1)) == "A-17"
            assert [a async for a in mail(["x@acme.example"], "hi")] == ["x@acme.example"]
            with pytest.raises(Denied):
                [a async for a in mail(["x@evil.example"], "hi")]

    with world.guard.task(world.mint()):
        assert Desk().close() == "Desk"
        assert list(look("A-17")) == ["A-17", "more"]
        stream = look("A-17")
        next(stream)
        stream.close()
    asyncio.run(run())
    assert [o.status for o in world.sink.outcomes] == ["ok", "ok", "unknown", "ok", "ok"]


def test_a_body_that_returns_a_generator(world: World) -> None:
    def body(order: str) -> Any:
        return (letter for letter in order)

    with world.guard.task(world.mint()):
        stream = world.guard.call(ToolCall("look", {"order": "A-17"}), body)
        assert world.sink.outcomes == []
        assert "".join(stream) == "A-17"
        assert [o.status for o in world.sink.outcomes] == ["ok"]


@pytest.mark.parametrize(
    ("name", "source", "text"),
    [
        ("refnd", "def refnd(order, amount): ...", "`refnd` is not in policy.yaml; did you mean `refund`"),
        ("refund", "def refund(ordr, amount): ...", "argument `ordr` is not declared in policy.yaml; did you mean `order`"),
        ("refund", "def refund(order): ...", "declares `amount`, which the function does not take"),
    ],
)
def test_misuse_is_told_at_decoration(world: World, name: str, source: str, text: str) -> None:
    scope: dict[str, Any] = {}
    exec(source, scope)
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        world.guard.tool(scope[name])


def test_guards_do_not_mix() -> None:
    """Two guards in one process: a task of one is no task of the other."""
    one, two = make_world(), make_world()
    with one.guard.task(one.mint()):
        with pytest.raises(Denied, match="task.none"):
            two.call("close")
        with pytest.raises(Denied, match="token."), two.guard.task(one.mint()):
            pass
    assert isinstance(one.guard.check(ToolCall("close", {})), Decision)


def test_what_a_guard_waits_by_default() -> None:
    """In a process of its own: the suite waits longer (tests/conftest.py)."""
    text = "from guard import Guard; from guard.record import AuditFile as A; print(*(x.__init__.__kwdefaults__[n].total_seconds() for x, n in ((Guard, 'deadline'), (A, 'patience'))))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.25", "0.25"]
