"""Requests and answers as hypothesis drives them: ask, approve, reject, replay, time, restart, the end of a task, another task, parallel calls.

A model of its own, which knows nothing of the code: what each person has said to which request, and when. What must hold:
- no call runs that needed an ask without unused, fresh approvals of enough persons who may answer, and no standing rejection;
- an approval serves one call;
- an answer that counts by the model is taken, and a call that is approved by it runs.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.approvals.world import World, ended

PERSONS = {
    "alice": (), "alice-t": ("treasury",), "tina": ("treasury",), "theo": ("treasury",), "tom": ("treasury", "other"), "eve": ("other",),
    "payer": ("treasury",),
}  # fmt: skip
WITHIN = {"big": 900, "huge": 3600}
CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"


@dataclass
class Asked:
    """What the model knows of a request."""

    id: str
    task: str
    amount: int
    asks: tuple[str, ...]
    at: int
    yes: dict[str, int] = field(default_factory=dict)
    no: tuple[str, int] | None = None
    used: bool = False
    over: bool = False

    @property
    def until(self) -> int:
        return self.at + max(WITHIN[ask] for ask in self.asks)


def may(person: str, ask: str) -> bool:
    if ask == "big":
        return person == "alice"
    return "treasury" in PERSONS[person] and person not in ("alice", "payer")


class Asking(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.requests: list[Asked] = []
        self.gone: set[str] = set()
        self.ran = 0

    @initialize(disk=st.booleans())
    def begin(self, disk: bool) -> None:
        self.disk = disk
        self.world = World(Path(self.folder.name) if disk else None)

    def teardown(self) -> None:
        self.folder.cleanup()

    @property
    def now(self) -> int:
        return int(self.world.clock.now().timestamp())

    # -- the model -----------------------------------------------------------------------------------------------------------------

    def current(self, task: str, amount: int) -> Asked | None:
        """The request that is about this call."""
        found = [one for one in self.requests if (one.task, one.amount) == (task, amount)]
        return found[-1] if found else None

    def complete(self, one: Asked, at: int) -> bool:
        for ask in one.asks:
            who = [
                person
                for person, when in one.yes.items()
                if may(person, ask) and at - WITHIN[ask] < when and at < self._ends(one, person, when)
            ]
            if len(who) < (2 if ask == "huge" else 1):
                return False
        return True

    @staticmethod
    def _ends(one: Asked, person: str, when: int) -> int:
        return when + min(WITHIN[ask] for ask in one.asks if may(person, ask))

    def refused(self, one: Asked | None) -> bool:
        if one is None or one.no is None:
            return False
        person, when = one.no
        return self.now < self._ends(one, person, when)

    def expected(self, task: str, amount: int) -> str:
        if amount <= 100:
            return "allow"
        one = self.current(task, amount)
        if self.refused(one):
            return "deny ask.rejected"
        if one is not None and not one.used and not one.over and one.no is None and self.complete(one, self.now):
            return "allow"
        return "ask big" if amount <= 1000 else "ask big,huge"

    def after(self, task: str, amount: int, said: str) -> None:
        """What the call leaves in the model."""
        one = self.current(task, amount)
        if said == "allow" and amount > 100:
            assert one is not None
            one.used = True
        if said.startswith("ask"):
            id = self.world.asked[-1]
            if self.world.desk.open(id).request.id == id:
                if one is not None:
                    one.over = True
                self.requests.append(Asked(id, task, amount, tuple(said[4:].split(",")), self.now))
            else:
                assert one is not None and self.world.desk.open(id).request.id == one.id

    # -- what happens ----------------------------------------------------------------------------------------------------------------

    @rule(task=st.sampled_from(["one", "one", "two"]), amount=st.sampled_from([200, 2000, 200, 2000, 5]))
    def pay(self, task: str, amount: int) -> None:
        if task in self.gone:
            return
        expected = self.expected(task, amount)
        said = self.world.said(self.world.pay(amount, task=task))
        assert said == expected
        self.after(task, amount, said)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), person=st.sampled_from(sorted(PERSONS)), yes=st.sampled_from([True, True, True, False]))
    def answers(self, data: st.DataObject, person: str, yes: bool) -> None:
        one = data.draw(st.sampled_from(self.requests))
        self.say(one, person, yes)

    @precondition(lambda self: any(not (one.used or one.over or one.no) for one in self.requests))
    @rule()
    def everybody_answers(self) -> None:
        """Or hardly any call of a hundred would ever run."""
        one = [one for one in self.requests if not (one.used or one.over or one.no)][-1]
        for person in ("alice", "tina", "theo"):
            self.say(one, person, True)

    @precondition(lambda self: any(not (one.used or one.over or one.no) for one in self.requests))
    @rule(late=st.sampled_from([0, 0, 0, 899, 901]))
    def everybody_answers_and_it_runs(self, late: int) -> None:
        self.everybody_answers()
        one = [one for one in self.requests if not (one.used or one.over or one.no)][-1]
        if late:
            self.passes(late)
        self.pay(one.task, one.amount)

    @precondition(lambda self: any(not (one.used or one.over or one.no) for one in self.requests))
    @rule(late=st.sampled_from([0, 0, 899, 901]), after_all=st.booleans())
    def alice_says_no(self, late: int, after_all: bool) -> None:
        if after_all:
            self.everybody_answers()
        one = [one for one in self.requests if not (one.used or one.over or one.no)][-1]
        self.say(one, "alice", False)
        if late:
            self.passes(late)
        self.pay(one.task, one.amount)

    def say(self, one: Asked, person: str, yes: bool) -> None:
        said = self.world.answer("approve" if yes else "reject", by=person, groups=PERSONS[person], request=self.world.asked.index(one.id))
        asks = [ask for ask in one.asks if may(person, ask)]
        kept = self.now < one.at + 2 * (one.until - one.at) + 3600
        if one.task in self.gone or not kept:
            assert said == "approval.unknown"
        elif not asks:
            assert said == "approval.person"
        elif one.used or one.over or one.no is not None:
            assert said == "approval.closed"
        elif self.now >= one.until:
            assert said == "approval.expired"
        elif not yes:
            assert said == "ok"
            one.no = (person, self.now)
        elif person in one.yes and self.now < self._ends(one, person, one.yes[person]):
            assert said in ("approval.twice", "approval.closed")
        elif said != "ok":
            assert said == "approval.closed" and self.answered(one)
        else:
            one.yes[person] = self.now

    def answered(self, one: Asked) -> bool:
        """Everything was answered once, so nobody needs to be shown it any more."""
        return any(self.complete(one, at) for at in one.yes.values())

    @rule(seconds=st.sampled_from([1, 1, 60, 60, 60, 899, 901, 3601, 12_000]))
    def passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds=seconds)
        self.world.open.clear()  # tokens live ten minutes or a day: a fresh one of the same task

    @rule()
    def restarts(self) -> None:
        if self.disk:
            self.world.start()

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), of_another=st.booleans())
    def answers_are_copied(self, data: st.DataObject, of_another: bool) -> None:
        """Attack: the rows of one request's answers are put under another's."""
        here, there = data.draw(st.sampled_from(self.requests)), data.draw(st.sampled_from(self.requests))
        if here.id == there.id:
            return
        for place in range(3):
            text, row = self.world.opened(here.id, place), self.world.row(f"ap|a|{here.id}|{place}")
            if row is not None and of_another:
                self.world.put(f"ap|a|{there.id}|{20 + place}", row)
            elif text is not None and there.task not in self.gone and self.now < there.at + 2 * (there.until - there.at):
                self.world.slip_in(there.id, 20 + place, text)

    @rule(task=st.sampled_from(["two"]), sure=st.sampled_from([False, False, False, True]))
    def ends(self, task: str, sure: bool) -> None:
        if sure and task not in self.gone:
            self.world.task(task).end()
            self.gone.add(task)

    @rule(amount=st.sampled_from([200, 2000]))
    def at_once(self, amount: int) -> None:
        """Three threads make the same call: as many run as there are approvals, which is one or none."""
        if "one" in self.gone:
            return
        expected = self.expected("one", amount)
        self.world.task("one")
        found: list[str] = []
        start = threading.Barrier(3)

        def go() -> None:
            start.wait()
            found.append(self.world.said(self.world.pay(amount, task="one")))

        threads = [threading.Thread(target=copy_context().run, args=(go,)) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert found.count("allow") == (expected == "allow"), found
        if expected == "allow":
            one = self.current("one", amount)
            assert one is not None
            one.used = True
        self.learn(found, amount)

    def learn(self, found: Sequence[str], amount: int) -> None:
        """Of several that asked at once, one request is left."""
        asked = [said for said in found if said.startswith("ask")]
        if not asked:
            return
        ids = {self.world.desk.open(id).request.id for id in self.world.asked[-len(asked) :]}
        known = {one.id for one in self.requests}
        for id in [id for id in self.world.asked if id in ids - known]:
            one = self.current("one", amount)
            if one is not None:
                one.over = True
            self.requests.append(Asked(id, "one", amount, tuple(asked[0][4:].split(",")), self.now))
        assert sum(not one.over and not one.used for one in self.requests if (one.task, one.amount) == ("one", amount)) <= 1


def test_requests_and_answers() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Asking,
        settings=settings(
            max_examples=2000 if CAMPAIGN else 40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("task", ["t"])
def test_the_model_sees_a_call_that_runs(task: str) -> None:
    """The machine above is no good if nothing ever runs in it."""
    world = World()
    world.pay(2000, task=task)
    for person in ("alice", "tina", "theo"):
        assert world.answer("approve", by=person, groups=PERSONS[person]) == "ok"
    assert world.said(world.pay(2000, task=task)) == "allow"
    ended(world)
