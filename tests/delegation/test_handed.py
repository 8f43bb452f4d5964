"""A token from an exchange dies with what it was made of, although it does not name it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.errors import StateUnavailable
from guard.identity.holder import HolderKey
from guard.identity.revoked import StoreRevocations
from guard.model import ExchangeRequest
from guard.ops import Applied, Mark, Op, Refused
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from tests.delegation.model import POLICY, claims_of

LOADED = Policy.from_text(POLICY)


class Iam(LocalIssuer):
    """Binds what it gives to `key`, where its parent was bound."""

    key: HolderKey | None = None
    depth = 0

    def exchange(self, request: ExchangeRequest) -> str:
        claims = claims_of(super().exchange(request))
        if request.delegation.bound and self.key is not None:
            claims["cnf"] = {"jwk": dict(self.key.public)}
            claims |= {"mdp": self.depth} if self.depth else {}
        return self.sign(json.dumps(claims).encode())


class Broken(MemoryState):
    """Takes no mark of a descent, or says nonsense where it is asked for one."""

    takes, says = True, ""

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        mine = any(getattr(op, "key", "").rpartition("|")[0].endswith("|by") for op in ops)
        if mine and isinstance(ops[0], Mark) and not self.takes:
            raise StateUnavailable("full")
        answer = super().apply(ops, now=now, commit=commit)
        if mine and self.says and isinstance(answer, Applied):  # it is asked for when a task is opened, last of all
            return Applied((*answer.values[:-1], self.says), answer.now)
        return answer


def guard(iam: LocalIssuer, store: Any, **more: Any) -> Guard:
    return Guard(
        LOADED,
        trust=iam,
        state=store,
        sinks=[ListSink()],
        revocations=StoreRevocations(store, check_every=0),
        deadline=timedelta(seconds=20),
        **more,
    )


def look(one: Guard) -> str:
    try:
        one.call(ToolCall("look", {"order": "A-1"}), lambda order: order)
    except Denied as denied:
        return str(denied.code)
    return "allow"


@pytest.mark.parametrize("which", ["parent", "grandparent", "parent's key", "kept"])
@pytest.mark.parametrize("where", ["memory", "another process", "opened later"])
def test_an_ancestor_that_is_taken_back_takes_its_descendants_along(which: str, where: str, tmp_path: Path) -> None:
    key, other = HolderKey.generate(), HolderKey.generate()
    iam = Iam("acme-dev")
    iam.key = other
    store = MemoryState() if where == "memory" else SqliteState(tmp_path / "state.db")
    one = guard(iam, store)
    more = {"key": key.public} if which == "parent's key" else {}
    root = iam.mint(origin="alice", actor="lead", intent=None, tools=["look"], **more)
    with one.task(root) as task:
        child = task.delegate("mailer")
        with child:
            grandchild = child.delegate("worker")
        second = guard(iam, SqliteState(tmp_path / "state.db") if where != "memory" else store)
        presented = grandchild.token
        value = {
            "parent": claims_of(child.token)["jti"],
            "grandparent": claims_of(root)["jti"],
            "parent's key": key.thumbprint,
            "kept": "another",
        }[which]
        holder = other if which == "parent's key" else None

        def takes() -> None:
            StoreRevocations(store).revoke("key" if which == "parent's key" else "credential", value)

        if where == "opened later":
            takes()
            if which == "kept":
                with second.task(presented, key=holder):
                    assert look(second) == "allow"
                return
            with pytest.raises(Denied) as caught, second.task(presented, key=holder):
                pass
            assert caught.value.code == "token.revoked"
            return
        with second.task(presented, key=holder) as deep:
            assert look(second) == "allow"
            takes()
            assert look(second) == ("allow" if which == "kept" else "token.revoked")
            if which != "kept":
                with pytest.raises(Denied) as caught:
                    deep.delegate("last")
                assert caught.value.code == "token.revoked"


@pytest.mark.parametrize("which", ["parent", "kept"])
@pytest.mark.parametrize("hops", [1, 2])
def test_hops_of_a_token_from_an_exchange_die_with_what_it_was_made_of(which: str, hops: int) -> None:
    """Attack: whoever holds the exchanged token hands it on offline, and the first token is taken back."""
    keys = [HolderKey.generate() for _ in range(4)]
    iam, store = Iam("acme-dev"), MemoryState()
    iam.key, iam.depth = keys[1], 3
    one = guard(iam, store)
    root = iam.mint(origin="alice", actor="lead", intent=None, tools=["look"], key=keys[0].public, depth=3)
    with one.task(root) as task:  # without its key: the issuer is asked
        text = task.delegate("mailer").token
        assert "~" not in text
        for n in range(hops):
            text = keys[1 + n].attenuate(text, actor=f"hop-{n}", key=keys[2 + n].public, tools=["look"])
        with one.task(text, key=keys[1 + hops]):
            assert look(one) == "allow"
            StoreRevocations(store).revoke("credential", claims_of(root)["jti"] if which == "parent" else "another")
            assert look(one) == ("allow" if which == "kept" else "token.revoked")


def test_what_cannot_be_remembered_is_not_handed_out() -> None:
    store, iam = Broken(), LocalIssuer("acme-dev")
    one = guard(iam, store)
    with one.task(iam.mint(origin="alice", actor="lead", intent=None, tools=["look"])) as task:
        store.takes = False
        with pytest.raises(Denied) as caught:
            task.delegate("mailer")
        assert caught.value.code == "state.unavailable"
        assert look(one) == "allow", "the parent goes on"


@pytest.mark.parametrize(
    "says",
    ["x", "{}", "[1]", '[["j"]]', '[["j","k","t","soon"]]', "[[]]", '[["j","k","t",Infinity]]', json.dumps([["j", "k", "", 1]] * 17)],
)
def test_what_nobody_can_read_denies(says: str) -> None:
    store, iam = Broken(), LocalIssuer("acme-dev")
    one = guard(iam, store)
    with one.task(iam.mint(origin="alice", actor="lead", intent=None, tools=["look"])) as task:
        child = task.delegate("mailer")
        store.says = says
        with pytest.raises(Denied) as caught, child:
            pass
        assert caught.value.code == "state.unavailable"


@pytest.mark.parametrize("which", ["grandparent", "kept"])
def test_a_hop_that_was_made_beside_the_guard_descends_from_them_too(which: str, tmp_path: Path) -> None:
    """Attack: the holder of a child puts a hop behind it, which no store was told of, and goes on under that."""
    key, other = HolderKey.generate(), HolderKey.generate()
    iam, store = LocalIssuer("acme-dev"), SqliteState(tmp_path / "state.db")
    one = guard(iam, store)
    root = iam.mint(origin="alice", actor="lead", intent=None, tools=["look"])

    def exchange(request: ExchangeRequest) -> str:
        claims = claims_of(LocalIssuer.exchange(iam, request))
        return iam.sign(json.dumps(claims | {"cnf": {"jwk": dict(key.public)}, "mdp": 2}).encode())

    iam.exchange = exchange  # type: ignore[method-assign]
    with one.task(root) as task:
        chain = key.attenuate(task.delegate("mailer").token, actor="worker", key=other)
        if which == "grandparent":
            StoreRevocations(store).revoke("credential", claims_of(root)["jti"])
        try:
            with guard(iam, store).task(chain, key=other):
                code = "opened"
        except Denied as denied:
            code = str(denied.code)
    assert code == ("opened" if which == "kept" else "token.revoked")


def test_hops_as_deep_as_a_chain_may_be() -> None:
    iam, key = LocalIssuer("acme-dev"), HolderKey.generate()
    one = guard(iam, MemoryState())
    task = one.task(iam.mint(origin="alice", actor="a0", intent=None, tools=["look"], key=key.public, depth=7), key=key)
    with ExitStack() as opened:
        for n in range(1, 8):
            task = opened.enter_context(task).delegate(f"a{n}")
        opened.enter_context(task)
        assert look(one) == "allow"


def test_what_is_not_handed_out_is_not_remembered() -> None:
    """Attack: an issuer answers one parent with another one's child; it is refused, and would be remembered as of the wrong parent."""
    iam, store = LocalIssuer("acme-dev"), MemoryState()
    one = guard(iam, store)
    first, second = (iam.mint(origin="alice", actor="lead", intent=None, tools=["look"], txn="T-1") for _ in range(2))
    with one.task(first) as task, one.task(second) as beside:
        child = task.delegate("mailer")
        iam.exchange = lambda request: child.token  # type: ignore[method-assign]
        with pytest.raises(Denied) as caught:
            beside.delegate("worker")
        assert caught.value.code == "delegation.widened"
        StoreRevocations(store).revoke("credential", claims_of(first)["jti"])
        with pytest.raises(Denied) as caught, child:
            pass
        assert caught.value.code == "token.revoked"
