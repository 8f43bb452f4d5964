"""The fixture `guardtrail`: the page's own snippet, and what of a guard is the test's and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import guard.testing.plugin  # noqa: F401 - see test_policies
from guard import ApprovalRequired, Denied, Guard, Issuer, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError
from guard.record import ListSink
from guard.testing import Desk
from tests.refunds import with_look

pytest_plugins = ["pytester"]

POLICY = (
    with_look("{args: {order: {eq: $order}}}")
    + """\
rules:
  - {id: healthy, when: {tool: look}, require: {signals.device.ok: {eq: true}}}
"""
)
TASK = {"origin": "alice", "intent": "refund-order", "params": {"order": "A-17", "ceiling": "50"}}

# The page's snippet, word for word, below an app that trusts its own issuer and keeps its own records.
APP = """\
from decimal import Decimal
from guard import Guard, LocalIssuer

iam = LocalIssuer("acme-dev")
guard = Guard("policy.yaml", trust=iam)

@guard.tool
def refund(order: str, amount: Decimal) -> str:
    raise AssertionError("a dry run runs nothing")
"""
SNIPPET = """\
from decimal import Decimal
from app import guard, refund

def test_only_the_order_of_the_task(guardtrail):           # a local issuer, frozen clock, memory state, records in a list
    with guardtrail.task(guard, origin="alice", intent="refund-order", params={"order": "A-17", "ceiling": "50"}):
        assert refund.check("A-17", Decimal("20")).verdict == "allow"      # a dry run: nothing executed, nothing used up
        assert refund.check("B-99", Decimal("20")).code == "args.constraint"
    assert guardtrail.records == []                        # a check is not a call
"""


def test_the_pages_snippet(pytester: pytest.Pytester) -> None:
    (pytester.path / "policy.yaml").write_text(POLICY, "utf-8")
    pytester.makepyfile(app=APP, test_refunds=SNIPPET)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert not (pytester.path / ".guardtrail").exists()


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture
def iam() -> LocalIssuer:
    return LocalIssuer("acme-dev")


@pytest.fixture
def own(iam: LocalIssuer, sink: ListSink) -> Guard:
    """A program's guard, with records of its own."""
    return Guard(Policy.from_text(POLICY), trust=iam, sinks=[sink])


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as made:
        yield made


def refund(order: str, amount: Decimal) -> str:
    return f"refunded {amount} on {order}"


def test_a_call_is_recorded_in_the_test_and_nowhere_else(own: Guard, sink: ListSink, guardtrail: Desk) -> None:
    tool = own.tool(refund)
    with guardtrail.task(own, **TASK) as task:
        assert tool("A-17", Decimal("20")) == "refunded 20 on A-17"
        with pytest.raises(Denied, match=r"limit\.calls"):
            tool("A-17", Decimal("20"))
        assert task.delegation.local
    assert [record.kind for record in guardtrail.records] == ["decision", "outcome", "decision"]
    assert [record.kind for record in guardtrail.notes] == ["task"]
    assert guardtrail.records[0].issuer == "local"
    assert len(guardtrail.everything) == 4
    assert sink.records == []


def test_the_next_test_starts_anew(own: Guard) -> None:
    tool = own.tool(refund)
    for _ in range(2):
        with Desk() as desk:
            with desk.task(own, **TASK, txn="same"):
                assert tool("A-17", Decimal("20"))


def test_everything_comes_back(own: Guard, iam: LocalIssuer, sink: ListSink) -> None:
    before = dict(vars(own))
    with pytest.raises(ZeroDivisionError):
        with Desk() as desk:
            with desk.task(own, **TASK):
                assert vars(own) != before
                raise ZeroDivisionError
    assert vars(own) == before
    assert [record.kind for record in sink.records] == []
    with own.task(iam.mint(actor="support", **TASK)):
        own.call(ToolCall("refund", {"order": "A-17", "amount": "20"}), refund)
    assert [record.kind for record in sink.records] == ["decision", "outcome", "task"]


def test_two_tasks_of_a_guard_share_a_desk_and_are_put_back_once(own: Guard) -> None:
    before = dict(vars(own))
    with Desk() as desk:
        with desk.task(own, **TASK) as one, desk.task(own, **TASK, txn="other") as other:
            assert one.id != other.id
            assert own.current() is other
        with pytest.raises(Denied, match=r"task\.ended"):
            desk.task(own, **TASK, txn="other").__enter__()
    assert vars(own) == before


@pytest.mark.parametrize("kind", ["local", "issuer"])
def test_a_production_guard_trusts_the_test_for_the_test_only(kind: str, iam: LocalIssuer, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(iam.jwks, "utf-8")
    trust = iam if kind == "local" else Issuer("https://iam.acme.example", audience="refunds", keys=tmp_path / "jwks.json")
    own = Guard(Policy.from_text(POLICY), trust=trust, sinks=[ListSink()])
    with Desk() as desk:
        task = desk.task(own, **TASK)
        with task:
            token = task.token
            assert not own.check(ToolCall("refund", {"order": "A-17", "amount": "20"})).blocks
            with pytest.raises(Denied, match=r"token\."):  # and nobody else's token while it lasts
                own.task(iam.mint(actor="support", **TASK)).__enter__()
    for late in (own.task(token), task):
        with pytest.raises(Denied, match=r"token\."):
            late.__enter__()


def test_an_open_task_of_the_program_is_not_the_tests(own: Guard, iam: LocalIssuer) -> None:
    with own.task(iam.mint(actor="support", **TASK)) as outer:
        with Desk() as desk:
            task = desk.task(own, **TASK)
            with pytest.raises(Denied, match=r"task\.none"):
                own.current()
            with task:
                assert own.current() is task
        assert own.current() is outer
        assert not own.check(ToolCall("refund", {"order": "A-17", "amount": "20"})).blocks


def test_the_clock_stands_until_it_is_moved(own: Guard, guardtrail: Desk) -> None:
    with guardtrail.task(own, **TASK):
        call = ToolCall("refund", {"order": "A-17", "amount": "20"})
        assert not own.check(call).blocks
        guardtrail.clock.advance(599)
        assert not own.check(call).blocks
        guardtrail.clock.advance(1)
        assert own.check(call).code == "task.expired"


def test_signals_are_what_the_test_says(own: Guard, guardtrail: Desk) -> None:
    with guardtrail.task(own, **TASK):
        call = ToolCall("look", {"order": "A-17"})
        assert own.check(call).code == "rule.require"
        guardtrail.signal("device.ok", True)
        assert not own.check(call).blocks


def test_a_person_answers_once(own: Guard, guardtrail: Desk) -> None:
    own.reload(
        Policy.from_text(POLICY + "  - {id: look-twice, when: {tool: refund}, require: {signals.desk.seen: {eq: true}}, then: ask}\n")
    )
    tool = own.tool(refund)
    with guardtrail.task(own, **TASK):
        with pytest.raises(ApprovalRequired) as asked:
            tool("A-17", Decimal("20"))
        guardtrail.approve(asked.value, by="mallory")
        assert tool.check("A-17", Decimal("20")).verdict == "ask"
        guardtrail.approve(asked.value, by="alice")
        assert tool("A-17", Decimal("20")) == "refunded 20 on A-17"


def test_a_reload_in_a_test_ends_with_it(own: Guard, iam: LocalIssuer) -> None:
    with Desk() as desk:
        desk.task(own, **TASK)
        own.reload(Policy.from_text(POLICY.replace('min: "0.01"', 'min: "30"')))
        tool = own.tool(refund)
        with desk.task(own, **TASK):
            assert tool.check("A-17", Decimal("20")).blocks
    with own.task(iam.mint(actor="support", **TASK)):
        assert tool("A-17", Decimal("20"))


def test_revocations_are_the_tests(own: Guard, guardtrail: Desk) -> None:
    with guardtrail.task(own, **TASK, person="alice@acme.example") as task:
        guardtrail.revocations.revoke("task", task.id)
        assert own.check(ToolCall("refund", {"order": "A-17", "amount": "20"})).code == "token.revoked"


def test_async(own: Guard, guardtrail: Desk) -> None:
    async def body(order: str, amount: Decimal) -> str:
        return "ok"

    async def run() -> str:
        async with guardtrail.task(own, **TASK):
            return await own.acall(ToolCall("refund", {"order": "A-17", "amount": "20"}), body)

    assert asyncio.run(run()) == "ok"


def test_a_tool_declared_in_a_test_stays(own: Guard, iam: LocalIssuer) -> None:
    with Desk() as desk:
        desk.task(own, **TASK)
        tool = own.tool(refund)
    with own.task(iam.mint(actor="support", **TASK)):
        assert tool("A-17", Decimal("20"))


def test_the_first_argument_is_a_guard(guardtrail: Desk) -> None:
    with pytest.raises(ConfigError, match=r"guardtrail\.task: the first argument is the guard"):
        guardtrail.task("policy.yaml", **TASK)  # type: ignore[arg-type]


def test_a_token_that_cannot_be_made_changes_nothing(own: Guard, guardtrail: Desk) -> None:
    before = dict(vars(own))
    with pytest.raises(ConfigError, match="mint"):
        guardtrail.task(own, origin="alice", intent="refund-order", actor="alice")
    assert vars(own) == before
