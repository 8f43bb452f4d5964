"""Handing on, through the whole guard: delegate.yaml on a local issuer, and issuers that lie, fail or stall."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import Denied, Guard, LocalIssuer, Policy, Task, ToolCall
from guard.errors import ConfigError, GuardError
from guard.events import DecisionRecord
from guard.identity import RevocationList
from guard.model import ExchangeRequest
from guard.reasons import ReasonCode
from guard.record import ListSink
from guard.testing import FrozenClock

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "delegate.yaml").read_text("utf-8"))
POLICY = Policy.from_text(TABLE["policy"])


class World:
    def __init__(self, iam: LocalIssuer | None = None) -> None:
        self.clock = FrozenClock()
        self.iam = iam or LocalIssuer("post")
        self.iam.clock = lambda: self.clock.now().timestamp()
        self.sink = ListSink()
        self.revocations = RevocationList(clock=lambda: self.clock.now().timestamp())
        self.guard = Guard(POLICY, trust=self.iam, sinks=[self.sink], clock=self.clock, revocations=self.revocations)

    def task(self, *, tools: Any = None, limits: dict[str, int] | None = None, ttl: str = "10m", intent: str | None = "work") -> Task:
        params = {"most": "10"} if intent else {}
        token = self.iam.mint(
            origin="alice",
            actor="lead",
            intent=intent,
            params=params,
            tools=tools,
            limits=limits or {},
            ttl=ttl,
            txn="t1",
            person="alice.a",
        )
        return self.guard.task(token)

    def told(self, calls: list[list[Any]]) -> list[str]:
        found = []
        for tool, args, _ in calls:
            try:
                self.guard.call(ToolCall(tool, args), lambda **_: None)
                found.append("allow")
            except Denied as denied:
                found.append(str(denied.code))
        return found

    def last(self) -> DecisionRecord:
        return [one for one in self.sink.records if isinstance(one, DecisionRecord) and one.tool == "task.delegate"][-1]


def hand(task: Task, row: dict[str, Any], how: str) -> Task:
    ask = row.get("ask", {})
    if how == "delegate":
        return task.delegate(row.get("actor", "mailer"), **ask)
    return asyncio.run(task.adelegate(row.get("actor", "mailer"), **ask))


@pytest.mark.parametrize("how", ["delegate", "adelegate"])
@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: row["name"])
def test_handed_on(row: dict[str, Any], how: str) -> None:
    world = World()
    with world.task(**row["parent"]) as task:
        if "says" in row:
            with pytest.raises(Denied) as refused:
                hand(task, row, how)
            assert refused.value.code == row["says"]
            assert (world.last().verdict, world.last().code) == ("deny", row["says"])
            return
        child = hand(task, row, how)
        assert (world.last().verdict, world.last().step) == ("allow", 1)
        assert world.told(row.get("parent_calls", [])) == [each[2] for each in row.get("parent_calls", [])]
        world.clock.advance(timedelta(seconds=0))
        with child:
            world.clock.advance(row.get("wait", 0))
            d = child.delegation
            assert (d.actors, d.origin, d.person, d.txn) == (("lead", "mailer"), "alice", "alice.a", "t1")
            assert d.credential != task.delegation.credential and d.expires_at <= task.delegation.expires_at
            assert world.told(row["calls"]) == [each[2] for each in row["calls"]]
        if "wait" not in row:
            assert world.told([["look", {"x": "q"}, ""]]) in (["allow"], ["grant.tool"], ["grant.args"]), "the parent goes on"


LIES: dict[str, Callable[[ExchangeRequest, LocalIssuer], ExchangeRequest]] = {
    "it ignores what was asked": lambda asked, iam: replace(asked, details=None),
    "another tool besides": lambda asked, iam: replace(asked, details=(*(asked.details or ()), {"type": "agent_tool", "tool": "mail"})),
    "the constraint is dropped": lambda asked, iam: replace(asked, details=({"type": "agent_tool", "tool": "look"},)),
    "no task any more": lambda asked, iam: replace(asked, details=tuple(one for one in asked.details or () if one["type"] != "agent_task")),
    "other parameters": lambda asked, iam: replace(asked, details=tuple(
        {**one, "params": {"most": "1000"}} if one["type"] == "agent_task" else one for one in asked.details or ())),
    "a longer life": lambda asked, iam: replace(asked, seconds=None),
    "a life beyond the parent's": lambda asked, iam: replace(asked, seconds=None, delegation=replace(asked.delegation, expires_at=asked.delegation.expires_at + 60)),
    "another task": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, txn="t2")),
    "another origin": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, origin="mallory")),
    "another person": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, person="mallory")),
    "another actor": lambda asked, iam: replace(asked, actor="helper"),
    "history rewritten": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, actors=("boss",))),
    "history left out": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, actors=())),
    "a scope besides": lambda asked, iam: replace(asked, scopes=asked.scopes | {"mail.send"}),
    "another session": lambda asked, iam: replace(asked, delegation=replace(asked.delegation, session="s2")),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_an_issuer_that_lies(lie: str) -> None:
    class Liar(LocalIssuer):
        def exchange(self, request: ExchangeRequest) -> str:
            return super().exchange(LIES[lie](request, self))

    world = World(Liar("post"))
    with world.task(tools={"look": {"x": {"prefix": "a"}}, "mail": None}) as task:
        with pytest.raises(Denied) as refused:
            task.delegate("mailer", tools={"look": {"x": {"eq": "ab"}}}, ttl="1m")
        assert refused.value.code == "delegation.widened"
        assert world.last().code == "delegation.widened"
        assert "mallory" not in str(refused.value) and "1000" not in str(refused.value)


@pytest.mark.parametrize(
    ("does", "code"),
    [
        (lambda: (_ for _ in ()).throw(OSError("connection refused")), "delegation.unavailable"),
        (lambda: (_ for _ in ()).throw(GuardError("invalid_scope", code=ReasonCode.DELEGATION_REFUSED)), "delegation.refused"),
        (lambda: None, "delegation.unavailable"),
        (lambda: 7, "delegation.unavailable"),
        (lambda: "", "token.missing"),
        (lambda: "a.b.c", "token.malformed"),
        (lambda: "x" * 100_000, "token.too_large"),
    ],
)
def test_an_issuer_that_fails(does: Callable[[], Any], code: str) -> None:
    class Broken(LocalIssuer):
        def exchange(self, request: ExchangeRequest) -> str:
            found: str = does()
            return found

    world = World(Broken("post"))
    with world.task() as task:
        with pytest.raises(Denied) as refused:
            task.delegate("mailer")
        assert refused.value.code == code
        assert world.told([["look", {"x": "a"}, ""]]) == ["allow"], "the parent goes on"


def test_of_a_task_that_may_do_nothing() -> None:
    world = World()
    with world.task() as task:
        world.revocations.revoke("credential", task.delegation.credential.jti)
        with pytest.raises(Denied, match=r"token\.revoked"):
            task.delegate("mailer")
    with World().task() as task:
        pass
    with pytest.raises(Denied, match=r"task\.ended"):
        task.delegate("mailer")


def test_revoked_parts_of_a_parent_kill_the_child() -> None:
    world = World()
    for kind, value in (("actor", "lead"), ("task", "t1")):
        world = World()
        with world.task() as task:
            with task.delegate("mailer") as child:
                assert world.told([["look", {"x": "a"}, ""]]) == ["allow"]
                world.revocations.revoke(kind, value)
                assert world.told([["look", {"x": "a"}, ""]]) == ["token.revoked"]
            assert child.delegation.actors == ("lead", "mailer")


def test_a_long_line_of_hands() -> None:
    world = World()
    with world.task() as first:
        task = first
        for number in range(7):
            task = task.delegate(f"hand{number}")
            task.__enter__()
        assert world.told([["look", {"x": "a"}, ""]]) == ["allow"]
        with pytest.raises(Denied, match=r"delegation\.refused"):
            task.delegate("one too many")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"actor": ""}, "actor"),
        ({"actor": 7}, "actor"),
        ({"actor": "a\u200bb"}, "actor"),
        ({"actor": "m", "tools": "mail"}, "tools"),
        ({"actor": "m", "tools": []}, "tools"),
        ({"actor": "m", "tools": {"mail": None}}, "tools"),
        ({"actor": "m", "ttl": "soon"}, "ttl"),
        ({"actor": "m", "ttl": timedelta(0)}, "ttl"),
    ],
)
def test_misuse_is_said_at_once(args: dict[str, Any], says: str) -> None:
    world = World()
    with world.task() as task, pytest.raises(ConfigError, match=says):
        task.delegate(**args)


def test_many_at_once_share_one_limit() -> None:
    world = World()
    with world.task(tools={"pay": None}, limits={"pay": 1}) as task:
        children = [task.delegate(f"hand{n}") for n in range(6)]
        ready, ran = threading.Barrier(6), []

        def one(child: Task) -> None:
            with child:
                ready.wait(20)
                ran.extend(world.told([["pay", {"to": "bob", "amount": "1"}, ""]]))

        threads = [threading.Thread(target=one, args=(child,)) for child in children]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert sorted(ran) == ["allow", *["limit.calls"] * 5]


def test_no_token_in_the_records() -> None:
    world = World()
    with world.task() as task, task.delegate("mailer") as child:
        world.told([["look", {"x": "a"}, ""]])
    text = json.dumps([one.to_dict() for one in world.sink.records], default=str)
    for token in (task.token, child.token):
        assert token not in text and token.split(".")[2] not in text
