"""The four-eyes example of POLICY.md, whole: what is missing can be supplied by a person, or by the call that the rule names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, ToolCall
from guard.approvals import AnswerRefused, Approvals
from guard.record import ListSink
from guard.state import SqliteState
from tests.policy.reading import block_of, needs_cel

IBAN = "DE89370400440532013000"
VENDOR = [{"name": "Globex", "iban": IBAN, "email": "ap@globex.example"}]


class Payables:
    def __init__(self, folder: Path) -> None:
        from guard.policy import Policy

        self.iam = LocalIssuer("acme-dev")
        self.desk = Approvals(trust=self.iam, folder=folder)
        self.guard = Guard(
            Policy.from_text(block_of("POLICY.md"), file="policy.yaml"), trust=self.iam, state=SqliteState(folder / "state.db", timeout=20), sinks=[ListSink()],
            approvals=self.desk, deadline=timedelta(seconds=30),
        )  # fmt: skip
        self.paid: list[Any] = []

    def task(self, origin: str, actor: str, intent: str) -> Any:
        params = {"vendor": "Globex", "ceiling": "9000"}
        token = self.iam.mint(origin=origin, actor=actor, intent=intent, params=params)
        return self.guard.task(token, prompt="Please pay Globex's invoice INV-7")

    def look(self) -> None:
        self.guard.call(ToolCall("lookup_vendor", {"name": "Globex"}), lambda name: VENDOR)

    def pay(self, id: str = "p-1", amount: str = "2000") -> Any:
        run: Callable[..., Any] = lambda **args: self.paid.append(args["amount"])  # noqa: E731
        return self.guard.call(ToolCall("pay", {"iban": IBAN, "amount": amount, "reference": "INV-7"}, id=id), run)


@needs_cel
def test_a_person_of_treasury_stands_in_for_the_approval(tmp_path: Path) -> None:
    world = Payables(tmp_path)
    with pytest.raises(Denied, match=r"task\.end"), world.task("alice", "payer", "pay-invoice"):  # its log was not closed
        world.look()
        with pytest.raises(ApprovalRequired) as required:
            world.pay()
        assert required.value.request["asks"] == ["four-eyes"]
        id = str(required.value.request["id"])
        for person, groups in (("alice", ["treasury"]), ("payer", ["treasury"]), ("bob", ["sales"])):
            with pytest.raises(AnswerRefused) as refused:
                world.desk.approve(id, world.iam.login(person, groups=groups))
            assert refused.value.code == "approval.person"
        assert world.desk.approve(id, world.iam.login("bob", groups=["treasury"])).state == "approved"
        world.pay()
        world.pay()  # the same call again: its outcome, and no second payment
        with pytest.raises(Denied) as again:
            world.pay("p-2")
        assert (str(again.value.code), len(world.paid)) == ("limit.calls", 1), "a deny that no person cures"
        with pytest.raises(AnswerRefused):
            world.desk.approve(str(again.value.decision.id), world.iam.login("bob", groups=["treasury"]))


@needs_cel
def test_the_call_that_the_rule_names_needs_no_person(tmp_path: Path) -> None:
    world = Payables(tmp_path)
    with pytest.raises(Denied, match=r"task\.end"), world.task("bob", "treasurer", "approve-payment"):
        world.look()
        world.guard.call(ToolCall("approve", {"iban": IBAN, "amount": "2000"}), lambda iban, amount: None)
    with pytest.raises(Denied, match=r"task\.end"), world.task("alice", "payer", "pay-invoice"):
        world.look()
        world.pay()
        assert len(world.paid) == 1 and list(world.desk.pending(every=True)) == []
