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
from guard.identity import HolderKey, RevocationList
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

    def task(
        self, *, tools: Any = None, limits: dict[str, int] | None = None, ttl: str = "10m", intent: str | None = "work", depth: int = 0,
        scope: str | None = None,
    ) -> Task:  # fmt: skip
        """`depth`: of hops that the holder may add; the token is bound to a key then."""
        key = HolderKey.generate(clock=lambda: self.clock.now().timestamp()) if depth else None
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
            scope=scope,
            key=None if key is None else key.public,
            depth=depth,
        )
        return self.guard.task(token, key=key)

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


@pytest.mark.parametrize("depth", [0, 2], ids=["by exchange", "by a hop"])
@pytest.mark.parametrize("how", ["delegate", "adelegate"])
@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: row["name"])
def test_handed_on(row: dict[str, Any], how: str, depth: int) -> None:
    world = World()
    with world.task(**row["parent"], depth=depth) as task:
        if "says" in row:
            with pytest.raises(Denied) as refused:
                hand(task, row, how)
            assert refused.value.code == row["says"]
            assert (world.last().verdict, world.last().code) == ("deny", row["says"])
            return
        child = hand(task, row, how)
        assert ("~" in child.token) is bool(depth)
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


# -- by a hop ----------------------------------------------------------------------------------------------------------------------


class Silent(World):
    """A guard whose issuer was given no client."""

    def __init__(self) -> None:
        super().__init__()
        self.guard._house.verifier.exchanger = lambda issuer: None  # type: ignore[attr-defined]


LOOK: list[list[Any]] = [["look", {"x": "a"}, ""]]


def test_the_child_has_a_key_of_its_own() -> None:
    world = Silent()
    with world.task(depth=3) as task:
        child = task.delegate("mailer", tools=["look"], ttl="5m")
        with child:
            d = child.delegation
            assert d.bound == "jkt" and d.above[0].credential == task.delegation.credential
            assert d.credential.thumbprint not in (None, task.delegation.credential.thumbprint)
            assert str(d.credential).startswith(f"{task.delegation.credential}~")
            assert world.told(LOOK) == ["allow"]
            with child.delegate("printer") as grandchild:
                assert grandchild.delegation.actors == ("lead", "mailer", "printer")
                assert world.told([*LOOK, ["mail", {"to": ["a@acme.example"], "body": "hi"}, ""]]) == ["allow", "grant.tool"]
        with world.guard.task(child.token):  # who sees the chain has nothing without its key
            assert world.told(LOOK) == ["token.proof"]
        with pytest.raises(ConfigError, match="not the one"), world.guard.task(child.token, key=task.state.holder):
            pass


def test_where_no_depth_is_granted() -> None:
    world = Silent()
    with world.task(depth=1) as task, task.delegate("mailer") as child, pytest.raises(Denied, match=r"delegation\.refused") as refused:
        child.delegate("printer")
    assert "an issuer that can be asked" in str(refused.value.decision.fix)
    assert world.last().verdict == "deny"
    key = HolderKey.generate(clock=lambda: world.clock.now().timestamp())
    token = world.iam.mint(origin="alice", actor="lead", intent="work", params={"most": "10"}, key=key.public)
    with world.guard.task(token, key=key) as task, pytest.raises(Denied, match=r"the root allows no hop here .*delegation\.refused"):
        task.delegate("mailer")


def test_a_chain_is_handed_on_by_its_holder_alone() -> None:
    """An issuer would exchange the root, which is wider than the chain."""
    for world in (World(), Silent()):
        with world.task(depth=3) as task:
            child = task.delegate("mailer", tools=["look"])
            with world.guard.task(child.token) as seen, pytest.raises(Denied, match=r"delegation\.refused"):
                seen.delegate("printer")


def test_nobody_can_hand_on() -> None:
    world = Silent()
    with world.task() as task, pytest.raises(ConfigError, match="open the task with its key"):
        task.delegate("mailer")


def test_scopes_cannot_be_handed_on_offline() -> None:
    world = Silent()
    world.guard._house.layers = (replace(world.guard._house.layers[0], scopes={"s": ("look",)}),)
    with world.task(depth=1, intent=None, scope="s") as task:
        assert world.told(LOOK) == ["allow"]
        with pytest.raises(Denied, match=r"scopes cannot be handed on"):
            task.delegate("mailer")
        with pytest.raises(Denied, match=r"delegation\.widened"):
            task.delegate("mailer", tools=["look"])


def test_an_issuer_that_binds_is_asked() -> None:
    class Binding(LocalIssuer):
        asked = 0

        def holder(self, actor: str) -> Any:
            return HolderKey.generate()

        def exchange(self, request: ExchangeRequest) -> str:
            Binding.asked += 1
            raise GuardError("no", code=ReasonCode.DELEGATION_REFUSED)

    world = World(Binding("post"))
    with world.task(depth=1) as task, pytest.raises(Denied, match=r"delegation\.refused"):
        task.delegate("mailer")
    assert Binding.asked == 1


def test_an_exchanger_of_somebodys_own_that_fails_to_say_its_key() -> None:
    class Odd(LocalIssuer):
        def holder(self, actor: str) -> Any:
            raise ZeroDivisionError

    world = World(Odd("post"))
    with world.task(depth=1) as task, pytest.raises(Denied, match=r"guard\.error"):
        task.delegate("mailer")


def test_a_holder_that_lies_gets_no_child() -> None:
    """What a holder signs is verified like anybody's."""
    world = Silent()
    with world.task(depth=2, tools={"look": {"x": {"eq": "a"}}}) as task:
        holder = task.state.holder
        assert isinstance(holder, HolderKey)

        class Liar:
            thumbprint, prove = holder.thumbprint, holder.prove

            def hand_on(self, token: str, actor: str, details: Any, seconds: int | None) -> Any:
                return holder.hand_on(token, self.actor or actor, [{"type": "agent_tool", "tool": self.tool}], seconds)

            actor, tool = "", "mail"

        for actor, tool, code in (
            ("", "mail", "delegation.widened"),
            ("", "look", "delegation.widened"),
            ("other", "look", "delegation.widened"),
        ):
            liar = Liar()
            liar.actor, liar.tool = actor, tool
            task.state.holder = liar
            with pytest.raises(Denied) as refused:
                task.delegate("mailer")
            assert refused.value.code == code


def test_one_budget_for_all_hands() -> None:
    world = Silent()
    with world.task(tools={"pay": None}, limits={"pay": 1}, depth=1) as task:
        children = [task.delegate(f"hand{n}") for n in range(3)]
        told = []
        for child in children:
            with child:
                told += world.told([["pay", {"to": "bob", "amount": "1"}, ""]])
        assert told == ["allow", "limit.calls", "limit.calls"]
