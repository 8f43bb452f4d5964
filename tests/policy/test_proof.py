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
        ("proof: {pay: workload}", "lint.not-supported-yet"),
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
