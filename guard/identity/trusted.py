"""Whose tokens count, and what was verified already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from guard.errors import ConfigError, KeysWanted, TokenRefused
from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.model import Delegation
from guard.ports import Credentials, Exchanger, Registrations
from guard.reasons import ReasonCode
from guard.tokens import IssuerRules, split, token_json
from guard.tokens import verify as verify_one
from guard.tokens.claims import SKEW
from guard.tokens.rules import MAX_CHAIN

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["TrustedIssuers"]


class _Held(NamedTuple):
    """A verified delegation, the generation it was verified under, and when."""

    delegation: Delegation
    generation: int
    at: int


class TrustedIssuers:
    """`guard.ports.Verifier` over issuers whose keys are in memory, in a file or at a server.

    Verified delegations are kept by the SHA-256 of their token: a cache key and nothing else, since one credential can have several
    texts (an ECDSA signature has a twin). Expiry is looked at on every hit. When any key changes, everything is verified anew.
    Refusals are not kept: a flood of bad tokens cannot push a good one out.

    `verify` never waits for a server. A token whose keys are not here is refused with `KeysWanted`; who can wait does so for what `fetch`
    answers, and verifies again.
    """

    inline = True  # no I/O but one `stat` of a key file a second, and reading it when it changed

    def __init__(
        self, trust: Issuer | LocalIssuer | Sequence[Issuer | LocalIssuer], *, most: int = 4096, registry: Registrations | None = None
    ) -> None:
        issuers = _issuers(trust)
        self._issuers: Mapping[str, Issuer | LocalIssuer] = {issuer.url: issuer for issuer in issuers}
        if len(self._issuers) != len(issuers):
            raise ConfigError("`trust` names an issuer twice; one `iss` has one set of keys and one audience")
        files = tuple(issuer for issuer in issuers if isinstance(issuer, Issuer))
        self._remote = any(issuer.remote for issuer in files)
        # What changes under us. The registry is asked elsewhere; its change verifies everything anew, and so every plan is made anew.
        self._watched: tuple[Issuer | Registrations, ...] = files if registry is None else (*files, registry)
        self._seen: tuple[int, ...] = ()
        self._generation = 0
        self._rules = _Rules(self._issuers)
        self._most = most
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._last: tuple[str, _Held] | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"TrustedIssuers({', '.join(self._issuers)})"

    @property
    def generation(self) -> int:
        """Changes whenever keys did, in a file or at a server, or the registry."""
        if self._watched:
            seen = tuple(each.generation for each in self._watched)
            if seen != self._seen:
                with self._lock:
                    if seen != self._seen:
                        self._seen = seen
                        self._generation += 1
                        self._held.clear()
                        self._last = None
        return self._generation

    def exchanger(self, issuer: str) -> Exchanger | None:
        """Whom to ask for a narrower token; None where the issuer was given no client."""
        found = self._issuers.get(issuer)
        return found.exchanger if isinstance(found, Issuer) else found

    def lender(self, issuer: str) -> Credentials | None:
        """Whom to ask for what a tool needs downstream; None where the issuer was given no client, and for a development issuer."""
        found = self._issuers.get(issuer)
        return found.lender if isinstance(found, Issuer) else None

    def verify(self, token: str, *, now: int) -> Delegation:
        """Raises `TokenRefused` and nothing else; `KeysWanted` where a fetch may help."""
        if type(token) is not str or len(token) > MAX_CHAIN or not token.isascii():
            return verify(token, self._rules, now=now)  # refused there, before ten megabytes are hashed
        generation = self.generation if self._watched else self._generation
        last = self._last
        if last is not None and last[0] is token:  # the very same text object as before: a task asks for its own token, call after call
            recent = last[1]
            if recent.generation == generation and recent.at <= now and recent.delegation.expires_at > now - SKEW:
                return recent.delegation
        key = sha256(token.encode("ascii")).digest()
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                if held.generation == generation and held.at <= now and held.delegation.expires_at > now - SKEW:
                    self._held.move_to_end(key)
                    self._last = (token, held)
                    return held.delegation
                del self._held[key]
        delegation = self._anew(token, now, generation) if self._remote else verify(token, self._rules, now=now)
        with self._lock:
            if generation == self._generation:
                self._held[key] = _Held(delegation, generation, now)
                while len(self._held) > self._most:
                    self._held.popitem(last=False)
        return delegation

    def fetch(self, wanted: KeysWanted) -> Future[bool]:
        """Begin to fetch what `verify` wanted, or join who is at it. Never raises; whether it helped is seen by verifying again."""
        issuer = self._issuers[wanted.issuer]
        assert isinstance(issuer, Issuer)
        return issuer.fetching(wanted.kid)

    def _anew(self, token: str, now: int, generation: int) -> Delegation:
        """`verify`, and a look at what was refused: a `kid` nobody knows may be a new key of an issuer whose keys come over HTTP."""
        try:
            return verify(token, self._rules, now=now)
        except TokenRefused as error:
            refused = error
        unknown = refused.reason is ReasonCode.TOKEN_SIGNATURE
        wanted = self._unknown(token) if unknown else None  # outside the handler: nothing hangs on it
        if wanted is None and unknown and self.generation != generation:  # the keys came while it was looked at: it has not seen them
            return verify(token, self._rules, now=now)
        raise wanted or refused

    def _unknown(self, token: str) -> KeysWanted | None:
        jws = split(token.partition("~")[0])
        url, kid = token_json(jws.payload).get("iss"), token_json(jws.header).get("kid")
        issuer = self._issuers.get(url) if isinstance(url, str) else None
        if not isinstance(issuer, Issuer) or not isinstance(kid, str) or issuer.rules().keys.find(kid) is not None:
            return None
        return KeysWanted(issuer.url, kid=kid) if issuer.wants(kid) else None


def verify(token: str, issuers: Mapping[str, IssuerRules], *, now: int) -> Delegation:
    """A token, or a chain of them; what reads chains is loaded with the first."""
    if type(token) is not str or "~" not in token:
        return verify_one(token, issuers, now=now)
    from guard.tokens.chain import verify_presented

    return verify_presented(token, issuers, now=now)


def _issuers(trust: object) -> list[Issuer | LocalIssuer]:
    given = list(trust) if isinstance(trust, Sequence) and not isinstance(trust, str) else [trust]
    issuers = [issuer for issuer in given if isinstance(issuer, (Issuer, LocalIssuer))]
    if not issuers or len(issuers) != len(given):
        raise ConfigError('`trust` is an Issuer, a LocalIssuer or a list of them; there is no default and no "none"')
    return issuers


class _Rules(Mapping[str, IssuerRules]):
    """Rules by exact `iss`, asked only for the issuer a token names: one unreadable key file does not stop the others."""

    def __init__(self, issuers: Mapping[str, Issuer | LocalIssuer]) -> None:
        self._issuers = issuers

    def __getitem__(self, url: str) -> IssuerRules:
        return self._issuers[url].rules()

    def __iter__(self) -> Iterator[str]:
        return iter(self._issuers)

    def __len__(self) -> int:
        return len(self._issuers)
