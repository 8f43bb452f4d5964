"""`proof:`: which effect classes demand that the caller holds the key its token names."""

from __future__ import annotations

import pytest

from guard import Denied, ToolCall
from guard.errors import PolicyError
from guard.identity.holder import HolderKey
from guard.policy import Policy
from guard.policy.schema import json_schema
from guard.testing.cases import run_case
from tests.runtime.conftest import POLICY, make_world

DEMANDS = POLICY + "proof: {pay: key}\n"


def test_it_is_data() -> None:
    assert Policy.from_text(DEMANDS).proof == {"pay": "key"}
    assert Policy.from_text(POLICY).proof == {}
    assert Policy.from_text(POLICY + "proof: {pay: workload, send: key}\n").proof == {"pay": "workload", "send": "key"}
    assert "proof" in json_schema()["properties"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("proof: {}", "lint.value"),
        ("proof: {pya: key}", "lint.unknown-effect"),
        ("proof: {pay: bearer}", "lint.value"),
        ("proof: {pay: true}", "lint.type"),
        ("proof: {pay: [key]}", "lint.type"),
        ("proof: [pay]", "lint.type"),
        ("proof: {pay: workloads}", "lint.value"),
        ("proof: {pay: key, pay: workload}", "lint.duplicate-key"),
        ("proof: {buy: workload}", "lint.never-matches"),
    ],
)
def test_what_does_not_load(text: str, code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(POLICY + text + "\n")
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_bearer_token_may_do_the_rest() -> None:
    world = make_world(DEMANDS)
    with world.guard.task(world.mint()):
        world.call("look", order="A-17")
        with pytest.raises(Denied, match="demands a proof for refund") as caught:
            world.call("refund", order="A-17", amount="5")
    assert caught.value.code == "token.proof"
    assert len(world.ran) == 1


def test_who_holds_the_key_may() -> None:
    world = make_world(DEMANDS)
    key = HolderKey.generate(clock=lambda: world.clock.now().timestamp())
    with world.guard.task(world.mint(key=key.public), key=key):
        world.guard.call(ToolCall("refund", {"order": "A-17", "amount": "5"}), world.body)
    assert len(world.ran) == 1


def test_a_pack_may_demand_it() -> None:
    from guard import Guard, LocalIssuer
    from guard.record import ListSink

    pack = "guardtrail: 1\nname: careful\nowner: security@acme.example\nproof: {read: key}\n"
    iam = LocalIssuer("dev")
    guard = Guard([Policy.from_text(POLICY), Policy.from_text(pack)], trust=iam, sinks=[ListSink()])
    token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
    with guard.task(token):
        assert guard.check(ToolCall("look", {"order": "A-17"})).code == "token.proof"
        assert guard.check(ToolCall("refund", {"order": "A-17", "amount": "5"})).verdict == "allow"


def test_cases_of_such_a_policy_run() -> None:
    text = DEMANDS + (
        "tests:\n  - name: a refund\n    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: '50'}}\n"
        "    trace: |\n      refund(order='A-17', amount='5')\n    expect: [allow]\n"
    )
    policy = Policy.from_text(text)
    result = run_case(policy, policy.tests[0])
    assert result.ok, result.message


CASE = """
tests:
  - name: a refund
    as: {origin: alice, actor: [lead, support], intent: refund-order, params: {order: A-17, ceiling: '50'}, %s}
    trace: |
      @lead look(order='A-17')
      refund(order='A-17', amount='5')
    expect: [allow, %s]
"""


@pytest.mark.parametrize(
    ("demanded", "who", "expected"),
    [
        ("workload", "person: alice", "allow"),
        ("workload", "proven: support", "allow"),
        ("workload", "proven: [lead, support]", "allow"),
        ("workload", "proven: lead", "deny token.workload"),
        ("key", "proven: support", "allow"),
        ("key", "proven: lead", "deny token.proof"),
    ],
)
def test_a_case_says_who_has_proven_to_be_one(demanded: str, who: str, expected: str) -> None:
    policy = Policy.from_text(POLICY + f"proof: {{pay: {demanded}}}\n" + CASE % (who, expected))
    result = run_case(policy, policy.tests[0])
    assert result.ok, result.message


def test_a_name_that_does_not_act_is_a_slip() -> None:
    with pytest.raises(PolicyError, match="`proven` names `suport`") as caught:
        Policy.from_text(POLICY + CASE % ("proven: suport", "allow"))
    assert caught.value.problems[0].code == "lint.unknown-actor"
    assert "`support`" in str(caught.value.problems[0].suggestion)


MAKER = """
guardtrail: 1
name: two
owner: payments@acme.example
tools:
  pay: {effect: pay, control: {iban: iban}}
  approve: {effect: approve, control: {iban: iban}}
intents: {clear: {ttl: 10m, allow: {pay: {args: {iban: {any: true}}}, approve: {args: {iban: {any: true}}}}}}
rules:
  - id: two-programs
    when: {tool: pay}
    require_before: {tool: approve, outcome: ok, match: {iban: args.iban}, distinct: actor, within: 1h}
tests:
  - name: two programs
    as: {origin: alice, actor: payer, intent: clear%s}
    trace: |
      @clearer approve(iban="DE89370400440532013000")
      pay(iban="DE89370400440532013000")
    expect: [allow, %s]
"""


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("", "deny two-programs"),
        (", proven: [payer, clearer]", "allow"),
        (", proven: payer", "deny two-programs"),
        (", proven: clearer", "deny two-programs"),
    ],
)
def test_separation_of_duty_is_testable(who: str, expected: str) -> None:
    policy = Policy.from_text(MAKER % (who, expected))
    result = run_case(policy, policy.tests[0])
    assert result.ok, result.message
