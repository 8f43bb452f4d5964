"""The index in the shared store: the same deaths as by file, known to every process within a second, never older than 15 seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, Denied, GuardError, StateUnavailable
from guard.identity import RevocationList
from guard.identity.revoked import AnyRevocations, StoreRevocations
from guard.identity.revoked.index import Index, entry_text, parse_entry
from guard.ops import Add, Applied, Mark, Op, Refused
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from guard.tokens import verify
from guard.tokens.effects import ALWAYS, Revoke
from guard.tokens.jose import NotStrict
from tests.tokens.forge import ISS, ISSUERS, NOW, claims, token

ROOT = Path(__file__).resolve().parents[3]
DELEGATION = verify(token(claims(sid="s-1", person="p-1", act={"sub": "payer", "act": {"sub": "orchestrator"}})), ISSUERS, now=NOW)
POLICY = """\
guardtrail: 1
name: t
owner: o@acme.example
tools: {look: {effect: read, control: {order: id}}}
flow: {read: {allow: [any]}}
intents: {see: {description: See., params: {}, ttl: 1h, allow: {look: {}}}}
"""


class Steady:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Breaking:
    """A real store with a switch: while it is off, it does not answer."""

    inline = True

    def __init__(self) -> None:
        self.store = MemoryState()
        self.off = False
        self.asked = 0

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        self.asked += 1
        if self.off:
            raise StateUnavailable("off")
        return self.store.apply(ops, now=now, commit=commit)


def over(store: Any, steady: Any = None, **more: Any) -> StoreRevocations:
    return StoreRevocations(store, clock=lambda: float(NOW), **({} if steady is None else {"steady": steady}), **more)


@pytest.mark.parametrize(
    ("kind", "value", "more", "found"),
    [
        ("credential", "t-1", {}, "credential"),
        ("credential", "t-2", {}, None),
        ("credential", "t-1", {"issuer": ISS}, "credential"),
        ("credential", "t-1", {"issuer": "https://other.example"}, None),
        ("session", "s-1", {}, "session"),
        ("origin", "alice", {}, "origin"),
        ("origin", "p-1", {"at": NOW}, "origin"),
        ("origin", "alice", {"at": NOW - 10}, None),
        ("origin", "alice", {"at": NOW - 9}, "origin"),
        ("actor", "payer", {}, "actor payer"),
        ("actor", "orchestrator", {}, "actor orchestrator"),
        ("actor", "alice", {}, None),
        ("key", "k1", {}, "key"),
        ("task", "task-1", {}, "task"),
        ("task", "task-1", {"by": "CAEP session-revoked, event jti e-1"}, "task\tCAEP session-revoked, event jti e-1"),
        ("task", "Task-1", {}, None),
    ],
)
def test_what_dies(kind: Any, value: str, more: dict[str, Any], found: str | None, tmp_path: Path) -> None:
    for store in (MemoryState(), SqliteState(tmp_path / "state.db")):
        mine, theirs = over(store), over(store, check_every=0)
        assert theirs.find(DELEGATION, now=NOW) is None
        mine.revoke(kind, value, **more)
        assert mine.find(DELEGATION, now=NOW) == found, "the one that wrote it sees it at once"
        assert theirs.find(DELEGATION, now=NOW) == found
        assert over(store).find(DELEGATION, now=NOW) == found, "and so does one that comes later"


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (("tasks", "x"), {}),
        (("task", ""), {}),
        (("task", "a\tb"), {}),
        (("task", "x"), {"issuer": ""}),
        (("task", "x"), {"at": float("nan")}),
        (("task", "x"), {"by": "x" * 600}),
    ],
)
def test_what_is_no_entry_is_not_written(args: Any, more: Any) -> None:
    store = MemoryState()
    with pytest.raises(ConfigError):
        over(store).revoke(*args, **more)
    assert over(store).entries() == []


@pytest.mark.parametrize(("every", "stale"), [(-1, 15), (2, 1), (1, 16), (float("nan"), 15)])
def test_nobody_makes_it_staler(every: float, stale: float) -> None:
    with pytest.raises(ConfigError):
        over(MemoryState(), check_every=every, stale=stale)


def test_what_stands_is_read_when_it_is_made() -> None:
    """Not within the deadline of the first call."""
    store, steady = Breaking(), Steady()
    over(store).put([Revoke("task", f"task-{n}", None, ALWAYS) for n in range(600)])
    revoked = over(store, steady)
    asked = store.asked
    assert revoked.find(DELEGATION, now=NOW) == "task"
    assert store.asked == asked


def test_one_look_a_second() -> None:
    store, steady = Breaking(), Steady()
    revoked = over(store, steady)
    for _ in range(100):
        revoked.find(DELEGATION, now=NOW)
    assert store.asked == 1
    over(store.store).revoke("task", "task-1")
    steady.at = 0.99
    assert revoked.find(DELEGATION, now=NOW) is None
    steady.at = 1.0
    assert revoked.find(DELEGATION, now=NOW) == "task"


def test_older_than_fifteen_seconds_is_no_answer() -> None:
    store, steady = Breaking(), Steady()
    revoked = over(store, steady)
    assert revoked.find(DELEGATION, now=NOW) is None
    store.off = True
    asked = store.asked
    for second in range(1, 16):
        steady.at = float(second)
        assert revoked.find(DELEGATION, now=NOW) is None
    assert store.asked == asked + 15, "a store that is down is asked once a second"
    steady.at = 15.01
    for _ in range(3):
        with pytest.raises(GuardError) as caught:
            revoked.find(DELEGATION, now=NOW)
        assert caught.value.code == "revocation.unavailable"
    store.off = False
    steady.at = 17.0
    assert revoked.find(DELEGATION, now=NOW) is None, "it is back"


def test_a_store_that_never_answered_is_no_answer() -> None:
    store = Breaking()
    store.off = True
    with pytest.raises(GuardError, match="has not answered"):
        over(store).find(DELEGATION, now=NOW)
    with pytest.raises(GuardError, match="nothing was revoked there"):
        over(store).revoke("task", "task-1")


def test_a_store_that_was_set_back_is_never_believed_again() -> None:
    """Attack: the state file is replaced by an older copy, and what was taken back since lives again."""
    store, steady = Breaking(), Steady()
    revoked = over(store, steady)
    for n in range(3):
        revoked.revoke("task", f"task-{n}")
    assert revoked.find(DELEGATION, now=NOW) == "task"
    store.store = MemoryState()
    for n in range(3):
        over(store.store).revoke("actor", f"other-{n}")
        steady.at += 1
        with pytest.raises(GuardError, match="fewer entries than it had"):
            revoked.find(DELEGATION, now=NOW)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"kind":"task"}', '{"kind":"tasks","value":"x"}', '{"kind":"task","value":"x","more":1}', '{"kind":"task","value":"x","at":"now"}',
     '{"kind":"task","value":"x","at":NaN}', '{"kind":"task","value":"x","value":"y"}', '{"kind":"task","value":"x","at":true}'],
)  # fmt: skip
def test_an_entry_that_cannot_be_understood_stops_everything(text: str) -> None:
    store = MemoryState()
    store.apply((Mark("rv|1", value=text), Add("rv|n")), now=datetime.fromtimestamp(NOW, UTC))
    with pytest.raises(GuardError, match="cannot be understood"):
        over(store).find(DELEGATION, now=NOW)
    with pytest.raises((NotStrict, ValueError)):
        parse_entry(text)


def test_entries_read_as_they_were_written() -> None:
    for entry in (
        Revoke("task", "t", None, ALWAYS),
        Revoke("origin", "ä b", ISS, 5.5, "by whom"),
        Revoke("origin", "a", ISS, ALWAYS, "RISC account-disabled, event jti e", "account of x", 7),
    ):
        assert parse_entry(entry_text(entry)) == entry


def test_entries_lapse_when_no_token_can_match_them_any_more() -> None:
    store = MemoryState()
    revoked = over(store)
    revoked.revoke("origin", "alice")
    revoked.revoke("credential", "t-1")
    revoked.revoke("task", "task-9")
    assert {entry.kind for entry in over(store).entries()} == {"origin", "credential", "task"}
    later = StoreRevocations(store, clock=lambda: NOW + 25 * 3600.0 + 1)
    assert {entry.kind for entry in later.entries()} == {"task"}
    assert {entry.kind for entry in revoked.entries()} == {"origin", "credential", "task"}, "who has read them keeps them"


def test_more_than_a_reader_reads_is_no_list() -> None:
    store = MemoryState()
    for n in range(3):
        over(store).revoke("task", f"t-{n}")
    with pytest.raises(GuardError, match="more than 2 entries"):
        over(store, most=2).find(DELEGATION, now=NOW)


def test_an_account_is_as_its_latest_event_says_whatever_the_order() -> None:
    closed = Revoke("origin", "alice", ISS, ALWAYS, "", "account of x", 5)
    opened = Revoke("origin", "alice", ISS, NOW - 50, "", "account of x", 6)
    closed_again = closed._replace(since=7)
    for entries, dead in (
        ((closed,), True),
        ((closed, opened), False),
        ((opened, closed), False),
        ((closed, opened, closed_again), True),
        ((closed_again, closed, opened), True),
        ((opened._replace(since=5), closed), True),
        ((closed, opened._replace(channel="account of y")), True),
        ((Revoke("origin", "alice", ISS, ALWAYS), closed, opened), True),
    ):
        index = Index()
        for entry in entries:
            index.put(entry)
        assert (index.find(DELEGATION) is not None) == dead, entries


def test_writers_do_not_lose_each_others_entries(tmp_path: Path) -> None:
    stores = [SqliteState(tmp_path / "state.db", timeout=20) for _ in range(4)]

    def write(n: int) -> None:
        revoked = over(stores[n])
        for i in range(25):
            revoked.put([Revoke("task", f"t-{n}-{i}", None, ALWAYS), Revoke("actor", f"a-{n}-{i}", None, ALWAYS)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(over(stores[0]).entries()) == 200


def test_an_entry_is_never_written_over() -> None:
    """Whatever happened to the counter: what stands there is somebody's entry."""
    store = MemoryState()
    over(store).revoke("task", "task-1")
    store.apply((Add("rv|n", -1),), now=datetime.fromtimestamp(NOW, UTC))
    with pytest.raises(GuardError, match="nothing was revoked there"):
        over(store).revoke("task", "task-2")
    store.apply((Add("rv|n", 1),), now=datetime.fromtimestamp(NOW, UTC))
    assert [entry.value for entry in over(store).entries()] == ["task-1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    program = str(Path(__file__).with_name("killed.py"))
    done = subprocess.run(
        [sys.executable, program, str(tmp_path / "state.db"), "20"], capture_output=True, text=True, env=environment, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == []
    assert found["signalled"] == 21
    assert found["acked"] <= found["known"] <= found["acked"] + 21
    assert found["acked"] > 100, "the children hardly ran"


def test_several_lists_are_one() -> None:
    file, store = RevocationList(), Breaking()
    shared = over(store)
    both = AnyRevocations([file, shared])
    assert both.inline
    assert both.find(DELEGATION, now=NOW) is None
    file.revoke("task", "task-1")
    assert both.find(DELEGATION, now=NOW) == "task"
    other = AnyRevocations([RevocationList(), shared])
    shared.revoke("actor", "payer")
    assert other.find(DELEGATION, now=NOW) == "actor payer"
    store.off = True
    with pytest.raises(GuardError, match="has not answered"):
        AnyRevocations([RevocationList(), over(store)]).find(DELEGATION, now=NOW)
    for wrong in ([], [object()]):
        with pytest.raises(ConfigError):
            AnyRevocations(wrong)  # type: ignore[arg-type]


def test_a_guard_on_a_store_looks_at_its_index(tmp_path: Path) -> None:
    """The kill switch reaches a guard that was told nothing but `state=`; the other process is a process."""
    iam, sink, path = LocalIssuer("acme-dev"), ListSink(), tmp_path / "state.db"
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[sink], state=f"sqlite:{path}")
    call = ToolCall("look", {"order": "A-17"})
    with guard.task(iam.mint(origin="alice", actor="payer", intent="see")) as task:
        assert guard.call(call, lambda order: order) == "A-17"
        code = (
            "from guard.identity.revoked import StoreRevocations; from guard.state import open_state\n"
            f"StoreRevocations(open_state('sqlite:{path}')).revoke('task', {task.id!r})"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        time.sleep(1.0)
        with pytest.raises(Denied) as caught:
            guard.call(call, lambda order: order)
    assert str(caught.value) == "look denied: task was revoked [token.revoked]"


def test_lists_in_a_guard() -> None:
    iam, sink, file = LocalIssuer("acme-dev"), ListSink(), RevocationList()
    shared = StoreRevocations(MemoryState())
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[sink], revocations=[file, shared])
    call = ToolCall("look", {"order": "A-17"})
    with guard.task(iam.mint(origin="alice", actor="payer", intent="see")):
        assert guard.call(call, lambda order: order) == "A-17"
        shared.revoke("actor", "payer", by="RISC account-disabled, event jti e-1")
        with pytest.raises(
            Denied, match=r"^look denied: actor payer was revoked by RISC account-disabled, event jti e-1 \[token.revoked\]$"
        ):
            guard.call(call, lambda order: order)
