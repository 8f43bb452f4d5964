"""Security events that come in: verified, taken once, written where every process sees them. It decides nothing.

The mark that an event was taken, its entries and its signals are one transaction of the store: killed midway, all of it is there or nothing,
and the sender, who got no answer, sends it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import NamedTuple

from guard.errors import ConfigError, GuardError
from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.identity.revoked.store import StoreRevocations
from guard.identity.signals import SignalFeed
from guard.ops import Absent, Mark, Op
from guard.reasons import ReasonCode
from guard.tokens.effects import Effects, effects
from guard.tokens.events import ALGORITHMS, MAX_AGE, EventRefused, Events, Sender, read_events
from guard.tokens.jose import split, token_json
from guard.tokens.keys import ALGORITHMS as KNOWN
from guard.tokens.keys import KID
from guard.tokens.text import is_name

__all__ = ["Inbox", "Receipt", "Transmitter"]

_KEEP = 2 * 24 * 3600
_SECONDS = 5.0
"""How long an event may wait for its sender's keys."""
_TRIES = 16


class Transmitter:
    """A sender of security events (an SSF transmitter): its keys are those of an issuer."""

    def __init__(
        self,
        issuer: Issuer | LocalIssuer,
        *,
        audience: str | None = None,
        owns: Iterable[str] | None = None,
        algorithms: Iterable[str] = ALGORITHMS,
        max_age: timedelta = timedelta(seconds=MAX_AGE),
    ) -> None:
        """`audience`: who we are to it, the issuer's own unless said. `owns`: the issuers of whose tokens it may speak, itself unless said;
        what it says of others is refused. `algorithms`: what it signs with. `max_age`: older events are refused, 7 days at most."""
        chosen, mine = frozenset(algorithms), frozenset([issuer.url] if owns is None else owns)
        if not chosen or not chosen <= KNOWN.keys():
            raise ConfigError(f"Transmitter: `algorithms` are among {', '.join(KNOWN)}")
        if not mine or not all(map(is_name, mine)) or not (audience is None or is_name(audience)):
            raise ConfigError("Transmitter: `owns` are issuers by their exact `iss`, `audience` is a name")
        if not timedelta(seconds=1) <= max_age <= timedelta(seconds=MAX_AGE):
            raise ConfigError("Transmitter: `max_age` is a timedelta up to 7 days")
        self.url = issuer.url
        self._issuer = issuer
        self._rest = (audience or issuer.audience, mine, chosen, int(max_age.total_seconds()))

    def __repr__(self) -> str:
        return f"Transmitter({self.url!r})"

    def sender(self) -> Sender:
        """As it is now. Raises GuardError `keys.unavailable`. Keys over HTTP are waited for, if none are here."""
        audience, owns, algorithms, max_age = self._rest
        if isinstance(self._issuer, Issuer):
            self._issuer.fetch(_SECONDS)
        return Sender(self.url, audience, self._issuer.rules().keys, owns, algorithms, max_age)

    def fetched(self, kid: str) -> bool:
        """Whether keys over HTTP were fetched anew because of `kid`. How often that may be, the keys' own room says."""
        if not isinstance(self._issuer, Issuer) or not self._issuer.wants(kid):
            return False
        try:
            return self._issuer.fetching(kid).result(timeout=_SECONDS)
        except TimeoutError:
            return False


class Receipt(NamedTuple):
    """What came of one SET. `repeated`: it was here before, nothing was done. `idle`: events of it that have no effect here."""

    sender: str
    jti: str
    repeated: bool
    entries: int
    signals: int
    idle: tuple[str, ...]


class Inbox:
    """Takes security events. `signals` None: events that are signals have no effect, and the receipt says so."""

    def __init__(
        self,
        transmitters: Sequence[Transmitter],
        revocations: StoreRevocations,
        signals: SignalFeed | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transmitters = {one.url: one for one in transmitters}
        if not transmitters or len(self._transmitters) != len(transmitters):
            raise ConfigError("Inbox: there is one Transmitter for each `iss`, and one at least")
        self._revocations, self._signals, self._clock = revocations, signals, clock

    def receive(self, text: str) -> Receipt:
        """Take one SET. Raises EventRefused: it is none we take, and sending it again changes nothing. Raises GuardError (keys or store not
        available): it was not taken, and must be sent again."""
        now = int(self._clock())
        told = self._read(text, now)
        found = effects(told, now=now)
        if self._signals is None and found.says:
            found = Effects(found.revokes, (), found.idle + tuple(say.name for say in found.says))
        key = "rv|s|" + sha256(f"{told.sender}\x00{told.jti}".encode()).hexdigest()[:32]
        payload = sha256(text.split(".")[1].encode()).hexdigest()[:32]
        once: tuple[Op, ...] = (Absent(key), Mark(key, ttl=MAX_AGE + _KEEP, value=payload))
        for _ in range(_TRIES):
            also = [*once, *(self._signals.ops(found.says) if self._signals is not None else ())]
            refused = self._revocations.put(found.revokes, also=also)
            if refused is None:
                return _receipt(told, found, repeated=False)
            if refused.index == 0:
                if refused.value != payload:  # whoever can send has one go with a `jti`
                    raise EventRefused("invalid_request", "another event with this `jti` was taken before")
                return _receipt(told, found, repeated=True)
        raise GuardError("others write the same signals all the time", code=ReasonCode.STATE_UNAVAILABLE)

    def _read(self, text: str, now: int) -> Events:
        try:
            return self._verified(text, now)
        except EventRefused as error:
            refused = error
        if refused.err != "invalid_key" or not self._renewed(text):
            raise refused  # outside the handler: nothing hangs on it
        return self._verified(text, now)

    def _renewed(self, text: str) -> bool:
        """Whether a `kid` that nobody knows has brought new keys of the sender it names."""
        jws = split(text)
        url, kid = token_json(jws.payload).get("iss"), token_json(jws.header).get("kid")
        sender = self._transmitters.get(url) if isinstance(url, str) else None
        return sender is not None and isinstance(kid, str) and KID.fullmatch(kid) is not None and sender.fetched(kid)

    def _verified(self, text: str, now: int) -> Events:
        senders: dict[str, Sender] = {}
        for url, one in self._transmitters.items():
            try:
                senders[url] = one.sender()
            except GuardError:  # its keys are not here: that must not stop the others
                continue
        try:
            return read_events(text, senders, now=now)
        except EventRefused as refused:
            if refused.err != "invalid_issuer" or len(senders) == len(self._transmitters):
                raise
        # Perhaps of the one whose keys are missing: it must come again, not be thrown away.
        raise GuardError("the keys of a sender of events are not available", code=ReasonCode.KEYS_UNAVAILABLE)


def _receipt(told: Events, found: Effects, *, repeated: bool) -> Receipt:
    done = (0, 0) if repeated else (len(found.revokes), len(found.says))
    return Receipt(told.sender, told.jti, repeated, *done, found.idle)
