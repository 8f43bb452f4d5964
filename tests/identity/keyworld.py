"""A guard over an issuer whose keys come from a `KeyServer`, and whose time passes as a test wants. For tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.identity import remote
from guard.record import ListSink
from tests.identity.keyserver import JWKS, KeyServer, key_server
from tests.tokens.forge import AUD, KEY, OTHER, claims, jwk, token

POLICY = Policy.from_text(
    """
guardtrail: 1
name: shop
tools: {look: {effect: read, control: {order: id}}}
flow: {read: {allow: [any]}}
scopes: {"invoices.read": [look]}
""",
    file="policy.yaml",
)
PATIENT = 30.0
K1, K2 = jwk(KEY, "k1"), jwk(OTHER, "k2")


class Shifted:
    """Steady seconds that pass as a test wants, and not while the machine stands still."""

    def __init__(self) -> None:
        self.by, self._since = 0.0, time.monotonic()

    def __call__(self) -> float:
        return self._since + self.by


class World:
    """A guard over one issuer whose keys come from `server`."""

    def __init__(self, server: KeyServer, *, deadline: float = 30.0, **options: Any) -> None:
        self.server = server
        self.issuer = Issuer(server.url, audience=AUD, **options)
        self.clock = Shifted()
        assert self.issuer._remote is not None
        self.remote = self.issuer._remote
        self.remote._clock = self.clock
        self.guard = Guard(POLICY, trust=self.issuer, sinks=[ListSink()], deadline=timedelta(seconds=deadline))
        self._txn = 0

    def token(self, key: Any = KEY, kid: str = "k1", **header: Any) -> str:
        now = int(time.time())
        self._txn += 1
        named = {"iss": self.server.url, "iat": now - 10, "exp": now + 600, "txn": f"t{self._txn}", "jti": f"j{self._txn}"}
        return token(claims(**named), key=key, kid=kid, **header)

    def opens(self, text: str) -> str:
        """Open a task and call: `allow`, or the code."""
        try:
            with self.guard.task(text):
                return self.calls()
        except Denied as denied:
            return str(denied.code)

    def calls(self) -> str:
        try:
            self.guard.call(ToolCall("look", {"order": "A-17"}), lambda order: order)
        except Denied as denied:
            return str(denied.code)
        return "allow"

    def rest(self) -> None:
        """Until nobody is fetching."""
        flight = self.remote._flight
        if flight is not None:
            flight.result(timeout=2 * PATIENT)

    def lets_go(self) -> None:
        """Of whoever it keeps waiting, the server; without an answer."""
        does, self.server.does = self.server.does, "a closed connection"
        self.server.gate.set()
        self.rest()
        self.server.gate.clear()
        self.server.does = does

    def comes_to(self, fetches: int) -> int:
        """How many there were, once there were so many."""
        until = time.monotonic() + PATIENT
        while self.fetched < fetches and time.monotonic() < until:
            time.sleep(0.01)
        return self.fetched

    def passes(self, seconds: float) -> None:
        self.clock.by += seconds

    def patient(self) -> None:
        """From now on the guard waits for as long as others do: what comes is no longer about its deadline."""
        self.guard._house.seconds = 30.0

    @property
    def fetched(self) -> int:
        return self.server.asked[JWKS]


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server(K1) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """What a fetch may take: longer than a machine stands still. `patience(1.0)`: a second from now on, for a server that will not answer."""

    def may_take(seconds: float) -> None:
        monkeypatch.setattr(remote, "SECONDS", seconds)

    may_take(PATIENT)
    return may_take
