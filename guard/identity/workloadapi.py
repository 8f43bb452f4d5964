"""The SPIFFE Workload API: the agent on this machine hands out our JWT-SVID and the bundles. Needs the extra `[spiffe]`; loaded when used.

What the agent says is read by `tokens/svid.py` as a file would be. It also hands out bundles of federated trust domains: only those that are
named count. It is asked at most every 30 seconds for bundles; while it is silent, what it said last counts for an hour, and then nothing does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from threading import Lock
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from guard.errors import ConfigError, TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.evidence import Workload
from guard.tokens.keys import KeysRefused
from guard.tokens.svid import Bundle, SpiffeId, is_domain, verify_svid
from guard.tokens.text import is_name

__all__ = ["WorkloadApi"]

FRESH: Final = 30.0
AGAIN: Final = 2.0
"""Seconds after a failure before the agent is asked again."""
STALE: Final = 3600.0
_PATIENCE: Final = 2.0


class WorkloadApi:
    """Who vouches, and what this program shows: `Workloads(api, names=..., shown=api.svid)`."""

    inline = False

    def __init__(
        self,
        *,
        audience: str,
        domains: Sequence[str],
        id: str | None = None,
        socket: str | None = None,
        max_ttl: timedelta = timedelta(hours=1),
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`audience`: the exact `aud` of SVIDs for this guard. `domains`: the trust domains that count. `id`: which of several SVIDs this
        program shows. `socket`: the agent's, `unix:///...`; None: what `SPIFFE_ENDPOINT_SOCKET` says. Raises ConfigError where the extra
        is not installed or there is no such socket."""
        if not is_name(audience):
            raise ConfigError("WorkloadApi: `audience` must be the exact `aud` of SVIDs for this guard")
        if isinstance(domains, str) or not domains or not all(is_domain(domain) for domain in domains):
            raise ConfigError('WorkloadApi: `domains` lists the trust domains that count, without scheme, e.g. ["acme.example"]')
        if id is not None and SpiffeId.read(id) is None:
            raise ConfigError("WorkloadApi: `id` is a SPIFFE id")
        if not timedelta(seconds=1) <= max_ttl <= timedelta(hours=24):
            raise ConfigError("WorkloadApi: `max_ttl` must be a timedelta from one second to 24 hours")
        self._client = _client(socket)
        self._audience, self._domains, self._id = audience, frozenset(domains), id
        self._seconds = int(max_ttl.total_seconds())
        self._clock, self._steady = clock, steady
        self._lock = Lock()
        self._bundles: Mapping[str, Bundle] = {}
        self._said: Mapping[str, str] = {}
        self._heard = self._next = float("-inf")
        self._generation = 0
        self._own: tuple[str, float] | None = None

    def __repr__(self) -> str:
        return f"WorkloadApi({', '.join(sorted(self._domains))})"

    def close(self) -> None:
        """Let go of the socket."""
        self._client.close()

    def svid(self) -> str:
        """This program's own SVID; a new one from half of its life on. Raises `TokenRefused` `keys.unavailable` where there is none."""
        with self._lock:
            now = self._clock()
            if self._own is None or now >= self._own[1]:
                try:
                    found = self._client.fetch_jwt_svid({self._audience}, subject=_subject(self._id), timeout=_PATIENCE)
                    self._own = (found.token, now + (found.expiry - now) / 2)
                except Exception:
                    # Out of it: the exception may hold the agent's words. What is held goes on until it ends: `verify` looks at that.
                    self._own = None if self._own is None else (self._own[0], now + AGAIN)
            own = self._own
        if own is None:
            raise TokenRefused(ReasonCode.KEYS_UNAVAILABLE)
        return own[0]

    def generation(self) -> int:
        """Changes with any bundle, and when they lapse."""
        self._look()
        return self._generation

    def verify(self, token: str, *, now: int) -> Workload:
        """Raises `TokenRefused` and nothing else."""
        held = self._look()
        if not held:
            raise TokenRefused(ReasonCode.KEYS_UNAVAILABLE)
        return verify_svid(token, held, audience=self._audience, now=now, max_ttl=self._seconds)

    def _look(self) -> Mapping[str, Bundle]:
        with self._lock:
            at = self._steady()
            if at >= self._next:
                said = self._fetch()
                self._next = at + (AGAIN if said is None else FRESH)
                if said is not None:
                    self._heard = at
                    self._take(said)
            if self._bundles and at - self._heard > STALE:
                self._take({})
            return self._bundles

    def _take(self, said: Mapping[str, str]) -> None:
        if said == self._said:
            return
        found: dict[str, Bundle] = {}
        for domain, text in said.items():
            try:
                found[domain] = Bundle.read(text)
            except KeysRefused:
                continue  # nothing of this domain counts
        self._said, self._bundles = said, found
        self._generation += 1

    def _fetch(self) -> Mapping[str, str] | None:
        """The bundles of the domains that count, as JWK Sets; None where the agent does not answer."""
        try:
            held = self._client.fetch_jwt_bundles(timeout=_PATIENCE).bundles
            return {str(one.trust_domain): _jwks(one.jwt_authorities) for one in held if str(one.trust_domain) in self._domains}
        except Exception:
            return None


def _jwks(keys: Mapping[str, object]) -> str:
    entries = []
    for kid, key in sorted(keys.items()):
        if isinstance(key, EllipticCurvePublicKey):
            entries.append({**ECAlgorithm.to_jwk(key, as_dict=True), "kid": kid})
        elif isinstance(key, RSAPublicKey):
            entries.append({**RSAAlgorithm.to_jwk(key, as_dict=True), "kid": kid})
    return json.dumps({"keys": entries})


def _client(socket: str | None) -> Any:
    try:
        spiffe = import_module("spiffe")  # by its name: types are checked also where the extra is not installed
    except ImportError:
        raise ConfigError('WorkloadApi needs spiffe >= 0.3: pip install "guardtrail[spiffe]"') from None
    try:
        return spiffe.WorkloadApiClient(socket, default_timeout=_PATIENCE)
    except Exception:
        raise ConfigError("WorkloadApi: no such socket; name it (`unix:///run/spire/agent.sock`) or set SPIFFE_ENDPOINT_SOCKET") from None


def _subject(id: str | None) -> Any:
    return None if id is None else import_module("spiffe").SpiffeId(id)
