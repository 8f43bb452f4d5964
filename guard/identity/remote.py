"""The keys of one issuer, over HTTP: fetched when first needed, refreshed in the background, kept while the server is ill.

| what                | how much        | why                                                                                     |
|---------------------|-----------------|-----------------------------------------------------------------------------------------|
| refreshed after     | 300 s           | a key that was taken out dies then: what was verified under it is verified anew           |
| not older than      | 1 h             | keys nobody confirmed for longer are no keys: `keys.unavailable`                        |
| one fetch at a time | whoever comes meanwhile waits for it, at most until its deadline | a thousand callers are one request       |
| fetches apart       | 30 s            | attack: a thousand tokens with a thousand unknown `kid`s make the guard flood its issuer |
| without any keys    | 1 s, doubling to 30 s | an issuer that starts later than the guard                                        |
| an unknown `kid`    | not asked about again for 60 s; 1,024 are remembered | the same, with one `kid`                            |

Nobody who was verified ever waits here: a set that does not load (another's, too large, HTML, duplicate `kid`, symmetric key) leaves the
one that is there, and a server that is slow is waited for by those who need its answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import sha256
from threading import Lock, Thread
from time import monotonic

from guard.identity.discovery import MetadataRefused, server_metadata
from guard.identity.http import SECONDS, HttpFailed, get_bytes
from guard.tokens import IssuerRules, KeySet, KeysRefused

__all__ = ["RemoteKeys"]

TTL = 300.0
STALE = 3600.0
APART = 30.0
SILENCE = 60.0
"""Seconds for which nothing is fetched for a `kid` that was not there."""
MOST_MISSING = 1024
METADATA = 3600.0
"""Seconds for which metadata is believed; a fetch that failed ends it."""
_NEVER = float("inf")
_KINDS = ("application/json", "application/jwk-set+json")


class RemoteKeys:
    """What tokens of one issuer are verified by, from its server. `uri`: of the key set; None: as its metadata says.

    `make`: a key set to the rules it is part of. `clock`: steady seconds. `generation` changes whenever the keys do.
    """

    def __init__(
        self, issuer: str, uri: str | None, make: Callable[[KeySet], IssuerRules], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self.generation = 0
        self.failed = ""
        """Why the last fetch gave nothing, without anything the server said."""
        self._issuer, self._uri, self._make, self._clock = issuer, uri, make, clock
        self._found: tuple[str, float] | None = None  # where the keys are, as the metadata said, and when it said so
        self._current: IssuerRules | None = None
        self._digest = b""
        self._due = self._dead = self._next = _NEVER
        self._allowed = 0.0
        self._failures = 0
        self._flight: Future[bool] | None = None
        self._given_up = 0.0
        self._missing: OrderedDict[str, float] = OrderedDict()
        self._lock = Lock()

    def look(self) -> IssuerRules | None:
        """The rules as they are now, None without keys. Never waits; starts a refresh where one is due."""
        if self._clock() >= self._next:
            self._tend()
        return self._current

    def wants(self, kid: str) -> bool:
        """Whether a fetch may find `kid`, which is not among the keys."""
        with self._lock:
            at = self._clock()
            if self._flying(at) is not None:
                return True  # also for a `kid` another caller asked for a moment ago: after a rotation they come together
            return at >= self._allowed and self._missing.get(kid, 0.0) <= at

    def fetch(self, kid: str | None = None) -> Future[bool]:
        """Begin a fetch, or join the one that is under way. The answer is whether there are new keys; it never raises.

        `kid`: what it is for; it is not asked for again before `SILENCE` has passed.
        """
        with self._lock:
            at = self._clock()
            if kid is not None:
                self._missing[kid] = at + SILENCE
                while len(self._missing) > MOST_MISSING:
                    self._missing.popitem(last=False)
            return self._begin(at) or _answered(False)

    def _tend(self) -> None:
        """Something is due: a refresh, or the end of keys nobody confirmed."""
        with self._lock:
            at = self._clock()
            if at >= self._dead and self._current is not None:
                self._current, self._digest = None, b""
                self._due = self._dead = _NEVER
                self.generation += 1
            if at >= self._due:
                self._begin(at)
                self._next = min(self._dead, max(self._allowed, self._given_up, at + 1))
            else:
                self._next = min(self._due, self._dead)

    def _flying(self, at: float) -> Future[bool] | None:
        # A fetch that did not come back (a process that was forked in the middle of it) does not stand in the way for ever.
        return self._flight if self._flight is not None and at < self._given_up else None

    def _begin(self, at: float) -> Future[bool] | None:
        flight = self._flying(at)
        if flight is None and at >= self._allowed:
            flight = Future()
            flight.set_running_or_notify_cancel()  # many may wait for it; nobody who stops waiting cancels it for the others
            self._flight, self._given_up, self._allowed = flight, at + SECONDS + 5, at + APART
            try:
                Thread(target=self._fly, args=(flight,), name="guardtrail-keys", daemon=True).start()
            except RuntimeError:  # no thread to be had: who was verified goes on, and it is tried again
                self._flight = flight = None
        return flight

    def _fly(self, flight: Future[bool]) -> None:
        raw, rules, why = b"", None, ""
        try:
            raw = self._get()
            rules = self._make(KeySet.from_jwks(raw))
        except (HttpFailed, MetadataRefused, KeysRefused) as error:
            why = str(error)
        except Exception as error:  # a mistake of ours: no keys are lost by it, and none are won
            why = f"an unexpected {type(error).__name__}"
        new = False
        with self._lock:
            if self._flight is flight:  # else given up, and another one is or was under way: what it brings is newer
                new = self._landed(self._clock(), raw, rules, why)
                self._flight = None
        flight.set_result(new)

    def _landed(self, at: float, raw: bytes, rules: IssuerRules | None, why: str) -> bool:
        self.failed = why
        if rules is None:
            self._failures += 1
            self._found = None  # perhaps they have moved
            self._missing.clear()  # it was not answered whether they are there
            self._allowed = at + (APART if self._current is not None else min(APART, 2.0 ** (self._failures - 1)))
            return False
        self._failures = 0
        self._allowed, self._due, self._dead = at + APART, at + TTL, at + STALE
        self._next = self._due
        digest = sha256(raw).digest()
        if digest == self._digest:
            return False
        self._current, self._digest = rules, digest
        self.generation += 1
        return True

    def _get(self) -> bytes:
        until = monotonic() + SECONDS
        uri = self._uri or self._metadata()
        return get_bytes(uri, kinds=_KINDS, seconds=max(0.1, until - monotonic()))

    def _metadata(self) -> str:
        """Where the keys are. The address is pinned for an hour: a set that changes does not also move."""
        at = self._clock()
        if self._found is not None and at < self._found[1] + METADATA:
            return self._found[0]
        uri = server_metadata(self._issuer, seconds=SECONDS * 0.7).jwks_uri
        if uri is None:
            raise MetadataRefused("the metadata has no `jwks_uri`")
        self._found = (uri, at)
        return uri


def _answered(answer: bool) -> Future[bool]:
    future: Future[bool] = Future()
    future.set_result(answer)
    return future
