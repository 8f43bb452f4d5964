"""Revocation alone, as hypothesis drives it: revoke, call, expire, clock jump, store down, restart, parallel calls.

Two guards stand for two processes. What must hold after every call:
- taken back more than 15 seconds ago: denied, whatever else is the case;
- taken back a second ago or more, and the store answered all that time: denied;
- never taken back, not expired, the clock right, the store there: allowed.
"""

from __future__ import annotations

import tempfile
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied
from guard.identity.revoked import StoreRevocations
from guard.record import ListSink
from guard.state import SqliteState
from guard.tokens import verify
from guard.tokens.effects import ALWAYS, Revoke
from tests.identity.revoked.test_store import POLICY, Breaking

LOADED = Policy.from_text(POLICY)
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.sampled_from(["a", "b", "c"])
CALL = ToolCall("look", {"order": "A-17"})


class Clock:
    """Wall time and steady time; the wall can be set."""

    inline = True

    def __init__(self) -> None:
        self.steady, self.off = 0.0, 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.steady + self.off)

    def monotonic(self) -> float:
        return self.steady

    def seconds(self) -> float:
        return self.now().timestamp()

    def right(self) -> float:
        """What the issuer's clock says: a token from the future would outlive the entry that took it back."""
        return START.timestamp() + self.steady


class Token(NamedTuple):
    text: str
    issued: int
    ends: int
    names: frozenset[tuple[str, str]]


class Taken(NamedTuple):
    """`before`: in epoch seconds. `at`: steady time at which it was written."""

    kind: str
    value: str
    before: float
    at: float


class Revoking(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.iam = LocalIssuer("acme-dev", clock=self.clock.right)
        self.store = Breaking()
        self.tokens: list[Token] = []
        self.taken: list[Taken] = []
        self.up_since = 0.0
        self.file: SqliteState | None = None
        self.restart()

    def teardown(self) -> None:
        if self.file is not None:
            self.file.close()
        self.folder.cleanup()

    # -- what happens ------------------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """Both processes end, and the store is opened anew. Guards that stood for the old ones know nothing any more."""
        if self.file is not None:
            self.file.close()
        self.file = SqliteState(Path(self.folder.name) / "state.db", timeout=20)  # as with the deadline
        self.store.store = self.file  # type: ignore[assignment]
        self.clock.off = 0.0
        self.guards = [
            Guard(
                LOADED,
                trust=self.iam,
                sinks=[ListSink()],
                clock=self.clock,
                deadline=timedelta(seconds=20),  # a busy machine is no answer: it would be told as a difference
                revocations=StoreRevocations(self.store, clock=self.clock.seconds, steady=self.clock.monotonic),
            )
            for _ in range(2)
        ]
        self.open: dict[tuple[int, str], Context] = {}

    @rule(origin=NAMES, actors=st.lists(NAMES, min_size=1, max_size=2, unique=True), ttl=st.sampled_from(["5s", "24h", "24h"]))
    def mint(self, origin: str, actors: list[str], ttl: str) -> None:
        self._mint(f"o-{origin}", [f"a-{one}" for one in actors], ttl)

    def _mint(self, origin: str, actors: list[str], ttl: str) -> None:
        text = self.iam.mint(origin=origin, actor=actors, intent="see", ttl=ttl, txn=f"t-{len(self.tokens)}")
        found = self.iam.rules()
        d = verify(text, {found.url: found}, now=int(self.clock.right()))
        names = {("origin", d.origin), ("task", d.txn), ("credential", d.credential.jti), *(("actor", one) for one in d.actors)}
        self.tokens.append(Token(text, d.issued_at, d.expires_at, frozenset(names)))

    @precondition(lambda self: self.tokens and self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 2), for_good=st.booleans())
    def revoke(self, data: st.DataObject, by: int, for_good: bool) -> None:
        kind, value = data.draw(st.sampled_from(sorted(data.draw(st.sampled_from(self.tokens)).names)))
        before = None if for_good or kind != "origin" else self.clock.seconds()
        other = StoreRevocations(self.store.store, clock=self.clock.seconds)  # the store is down for the guards, not for everybody
        writer: Any = self.guards[by]._house.revocations if by < 2 and not self.store.off else other
        at = before if before is not None else self.clock.seconds() if kind == "origin" else ALWAYS
        writer.revoke(kind, value, at=before)
        self.taken.append(Taken(kind, value, at, self.clock.steady))

    @rule(seconds=st.sampled_from([0.5, 1.0, 14.0, 16.0, 16.0, 700.0, 90_000.0]))
    def passes(self, seconds: float) -> None:
        self.clock.steady += seconds

    @rule(seconds=st.sampled_from([-7200.0, -61.0, -30.0, 30.0, 61.0, 7200.0]))
    def jumps(self, seconds: float) -> None:
        """Somebody sets the clock. (What is written meanwhile would bear that time; nobody writes.)"""
        self.clock.off = seconds

    @rule()
    def is_set_right(self) -> None:
        self.clock.off = 0.0

    @rule(down=st.booleans())
    def store_is(self, down: bool) -> None:
        if self.store.off and not down:
            self.up_since = self.clock.steady
        self.store.off = down

    # -- what must hold ----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), by=st.integers(0, 1))
    def call(self, data: st.DataObject, by: int) -> None:
        self._checked(by, data.draw(st.sampled_from(self.tokens[-6:])))

    @precondition(lambda self: self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 1), seconds=st.sampled_from([1.0, 14.0, 16.0]), restarts=st.booleans())
    def called_revoked_and_called_again(self, data: st.DataObject, by: int, seconds: float, restarts: bool) -> None:
        """What chance makes too seldom: taken back where the guard, or a new one, has to find out by itself."""
        if self.store.off:
            self.store.off, self.up_since = False, self.clock.steady
            self.clock.steady += 1
        self._mint(f"o-{len(self.tokens)}", [f"a-{len(self.tokens)}"], "24h")  # named like nobody, so that it lives
        token = self.tokens[-1]
        self._checked(by, token)
        kind, value = data.draw(st.sampled_from(sorted(token.names)))
        at = self.clock.seconds() + 1 if kind == "origin" else ALWAYS
        StoreRevocations(self.store.store, clock=self.clock.seconds).put([Revoke(kind, value, None, at)])
        self.taken.append(Taken(kind, value, at, self.clock.steady))
        if restarts:
            self.clock.steady += 700
            self.restart()
        else:
            self.store.off = True
        self.clock.steady += seconds
        self._checked(by, token)

    def _checked(self, by: int, token: Token) -> None:
        said = self._call(by, token)
        mine = [one for one in self.taken if (one.kind, one.value) in token.names and one.before > token.issued]
        now, jumped, up = self.clock.steady, self.clock.off != 0, not self.store.off
        if any(now - one.at > 15 for one in mine):
            assert said != "ran"
        if up and any(one.at <= now - 1 and self.up_since <= now - 1 for one in mine):
            assert said != "ran"
        if self.clock.seconds() >= token.ends + 5:
            assert said != "ran"
        alive = token.issued <= self.clock.seconds() < token.ends
        if not mine and alive and not jumped and self._high(by) <= self.clock.seconds() and up and self.up_since <= now - 1:
            assert said == "ran", said

    @precondition(lambda self: self.tokens and not self.store.off and self.clock.off == 0)
    @rule(data=st.data())
    def calls_while_it_is_revoked(self, data: st.DataObject) -> None:
        """Whoever comes first: a second later nobody runs any more."""
        token = data.draw(st.sampled_from(self.tokens[-6:]))
        value = next(value for kind, value in token.names if kind == "task")
        start = Barrier(3)

        def calls(by: int) -> None:
            start.wait()
            for _ in range(3):
                self._call(by, token)

        def takes() -> None:
            start.wait()
            StoreRevocations(self.store, clock=self.clock.seconds).revoke("task", value)

        threads = [Thread(target=calls, args=(0,)), Thread(target=calls, args=(1,)), Thread(target=takes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.taken.append(Taken("task", value, ALWAYS, self.clock.steady))
        self.clock.steady += 1
        assert [self._call(by, token) for by in (0, 1)].count("ran") == 0

    def _high(self, by: int) -> float:
        return self.guards[by]._house.high

    def _call(self, by: int, token: Token) -> str:
        """`ran`, or the code of the refusal."""
        guard = self.guards[by]
        try:
            context = self.open.get((by, token.text))
            if context is None:
                context = copy_context()
                context.run(guard.task(token.text).__enter__)
                self.open[by, token.text] = context
            context.run(guard.call, CALL, lambda order: order)
        except Denied as denied:
            return str(denied.code)
        return "ran"


def test_no_call_after_revocation_and_staleness() -> None:
    run_state_machine_as_test(
        Revoking,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
    )


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_no_call_after_revocation_and_staleness_for_long() -> None:
    run_state_machine_as_test(
        Revoking, settings=settings(max_examples=5000, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    )
