"""Laws of keys over HTTP, over any order of rotations, failures, waiting and tokens, by a clock of our own:

- what counts is the last set the server gave, if that was less than an hour ago, and nothing else;
- with keys at hand, two requests are at least thirty seconds apart;
- a server that answers is believed: what it took out is out, what it put in is in, after the times the page names.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from guard.errors import KeysWanted, TokenRefused
from guard.identity import Issuer, TrustedIssuers, remote
from guard.identity.http import HttpFailed
from guard.tokens.jose import b64url_encode
from tests.tokens.forge import AUD, ED, ISS, KEY, NOW, OTHER, jwk, token

KEYS = {"k1": KEY, "k2": OTHER, "k3": ED}
TOKENS = {kid: token(key=key, kid=kid, alg="EdDSA" if key is ED else "ES256") for kid, key in KEYS.items()}
JWKS = {kid: jwk(key, kid) for kid, key in KEYS.items()}
sets = st.sets(st.sampled_from(sorted(KEYS)), min_size=1)
BROKEN = [
    b"", b"<html>", b'{"keys": []}', json.dumps({"keys": [JWKS["k1"], JWKS["k1"]]}).encode(),
    json.dumps({"keys": [*JWKS.values(), {"kty": "oct", "kid": "s", "k": b64url_encode(b"x" * 32)}]}).encode(),
]  # fmt: skip


class Request(NamedTuple):
    at: float
    got: frozenset[str] | None


class Rotations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0
        self.log: list[Request] = []
        self.published: frozenset[str] = frozenset({"k1"})
        self.broken: bytes | Exception | None = None
        self.flights: list[Any] = []
        self._patches = [patch.object(remote, "get_bytes", self.get), patch.object(remote, "Thread", self.thread)]
        for each in self._patches:
            each.start()

    def teardown(self) -> None:
        for each in self._patches:
            each.stop()

    def thread(self, *, target: Any, args: Any, **_: object) -> Any:
        """A thread that runs when the test lets it (`lands`)."""
        return SimpleNamespace(start=lambda: self.flights.append(lambda: target(*args)))

    @initialize()
    def begin(self) -> None:
        self.issuer = Issuer(ISS, audience=AUD, keys=f"{ISS}/jwks")
        found: Any = self.issuer._remote
        self.remote: remote.RemoteKeys = found
        self.remote._clock = lambda: self.at
        self.trust = TrustedIssuers(self.issuer)

    def get(self, url: str, **_: object) -> bytes:
        self.log.append(Request(self.at, self.published if self.broken is None else None))
        if isinstance(self.broken, Exception):
            raise self.broken
        return self.broken if self.broken is not None else json.dumps({"keys": [JWKS[kid] for kid in sorted(self.published)]}).encode()

    @rule(kids=sets)
    def publish(self, kids: set[str]) -> None:
        self.published, self.broken = frozenset(kids), None

    @rule(how=st.sampled_from([*BROKEN, HttpFailed(ISS, "late"), OSError("x"), KeyError("x")]))
    def breaks(self, how: bytes | Exception) -> None:
        self.broken = how

    @rule(seconds=st.one_of(st.integers(0, 70), st.sampled_from([30, 60, 299, 300, 301, 600, 3300, 3599, 3600, 3601])))
    def passes(self, seconds: int) -> None:
        self.at += seconds

    @rule(kid=st.sampled_from(sorted(KEYS)))
    def shows(self, kid: str) -> None:
        asked = len(self.log)
        allowed = self.verify(kid)
        known = self.last  # what a refresh in the background brings is for the next one
        assert allowed == (known is not None and self.fresh(known) and kid in known.got)
        self.lands()
        assert len(self.log) - asked <= 1, "one token is one request at most"
        if self.broken is None and (not self.log or self.at - self.log[-1].at >= remote.SILENCE):
            assert (kid in self.published) <= allowed, "published, and the server answers"

    def verify(self, kid: str) -> bool:
        for _ in range(2):
            try:
                return self.trust.verify(TOKENS[kid], now=NOW).origin == "alice"
            except KeysWanted as wanted:
                answer = self.trust.fetch(wanted)
                self.lands()
                assert answer.done()
            except TokenRefused:
                return False
        return False

    def lands(self) -> None:
        """What was begun comes back."""
        while self.flights:
            self.flights.pop()()

    @property
    def last(self) -> Any:
        return next((each for each in reversed(self.log) if each.got is not None), None)

    def fresh(self, request: Request) -> bool:
        return self.at - request.at < remote.STALE

    @invariant()
    def apart(self) -> None:
        for n, (first, second) in enumerate(zip(self.log, self.log[1:], strict=False)):
            before = next((each for each in reversed(self.log[: n + 1]) if each.got is not None), None)
            if before is not None and second.at - before.at < remote.STALE:
                assert second.at - first.at >= remote.APART, "keys at hand"
            assert second.at - first.at >= 1

    @rule()
    def believed(self) -> None:
        """Two looks at a server that answers, thirty seconds after the last request: what counts is at most five minutes old."""
        if self.broken is not None or self.last is None or self.at - self.log[-1].at < remote.APART:
            return
        for _ in range(2):
            self.verify("k1")
            self.lands()
        assert self.at - self.last.at <= remote.TTL
        if self.last.at == self.at:
            assert {kid for kid in KEYS if self.verify(kid)} == self.published


Rotations.TestCase.settings = settings(stateful_step_count=30, deadline=None)
TestRotations = Rotations.TestCase
