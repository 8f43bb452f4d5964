"""The index of what was taken back, in the state store that all processes share. Survives what the store survives.

In the store: the counter `rv|n`, and `rv|1`, `rv|2`, ... with one entry each. An entry is appended and counted in one transaction, so that
a process killed midway has written all of it or nothing; nobody ever changes one. A reader asks for the counter once a second and reads what
is new. Entries that no living token can match any more (a token lives 24 hours at most) lapse after 25.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from random import random
from threading import Lock
from typing import TYPE_CHECKING

from guard.errors import ConfigError, GuardError
from guard.identity.revocation import KINDS, RevocationKind
from guard.identity.revoked.index import Index, entry_text, parse_entry
from guard.model import Delegation
from guard.ops import Absent, Add, Applied, Lookup, Mark, Op, Refused, Sum
from guard.reasons import ReasonCode
from guard.suggest import did_you_mean
from guard.tokens.effects import ALWAYS, Revoke
from guard.tokens.jose import NotStrict
from guard.tokens.text import is_name

if TYPE_CHECKING:
    from guard.ports import StateStore

__all__ = ["StoreRevocations"]

_COUNT = "rv|n"
_BATCH = 256
_TRIES = 64
_LAPSE = 25 * 3600
"""Seconds after which an entry about tokens issued before some time is of no use: the longest a token may live, and one hour."""


class StoreRevocations:
    """`guard.ports.Revocations` over the state store: an entry written by any process is known to all of them within a second.

    `stale`: how old, in seconds, what is known may be, 15 at most. Older, because the store does not answer: every call is denied
    `revocation.unavailable`. So it is where an entry cannot be understood, and where the store has fewer entries than it had: half a list is
    none. `clock`: epoch seconds. `most`: entries that are read at all; a list that outgrew its reader is not a list.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        clock: Callable[[], float] = time.time,
        check_every: float = 1.0,
        stale: float = 15.0,
        most: int = 1_000_000,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= check_every <= stale <= 15:
            raise ConfigError("StoreRevocations: `check_every` and `stale` are seconds, 0 <= check_every <= stale <= 15")
        self._store, self._clock, self._steady = store, clock, steady
        self._every, self._stale, self._most = check_every, stale, most
        self._index = Index()
        self._read = 0  # entries up to this number are in the index
        self._known: float | None = None  # steady time at which everything there was had been read
        self._next = float("-inf")
        self._broken = ""
        self._lost = False
        self._lock = Lock()
        self._look(None)  # ten thousand entries take a third of a second: now, not within the deadline of the first call

    def __repr__(self) -> str:
        return f"StoreRevocations({self._store!r}, {len(self._index)} names)"

    @property
    def inline(self) -> bool:
        """A look in memory, unless it is time to ask the store."""
        return self._steady() < self._next or getattr(self._store, "inline", False) is True

    # -- asking ----------------------------------------------------------------------------------------------------------------

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """What of `delegation` was taken back, after a tab by what; or None. Raises where what is known is too old or unsound."""
        self.refresh(now=now)
        return self._index.find(delegation)

    def refresh(self, *, now: float | None = None, at_once: bool = False) -> None:
        """Read what is new, if it is time. Raises GuardError `revocation.unavailable`."""
        steady = self._steady()
        if steady >= self._next or at_once:
            with self._lock:  # who comes meanwhile waits: what is read now may be about him
                if self._steady() >= self._next or at_once:
                    self._look(now)
        if self._broken:
            raise _unavailable(self._broken)
        if self._known is None or not self._steady() - self._known <= self._stale:
            raise _unavailable(f"has not answered for {self._stale:g} s")

    def entries(self) -> list[Revoke]:
        """What stands now. Raises GuardError `revocation.unavailable`."""
        self.refresh(at_once=True)
        return sorted(self._index.entries(), key=lambda entry: (entry.kind, entry.value, entry.issuer or "", entry.channel))

    def _look(self, now: float | None) -> None:
        started = self._steady()
        self._next = started + self._every  # also where it fails: a store that is down is asked once a second, not on every call
        at = datetime.fromtimestamp(self._clock() if now is None else now, UTC)
        try:
            count = self._count(at)
            if self._lost or count < self._read:  # never unsaid: new entries would make up the number, and hide what is gone
                self._lost = True
                self._broken = "has fewer entries than it had: it was replaced or set back; restore it, and start this process again"
            elif count > self._most:
                self._broken = f"has more than {self._most:,} entries"
            else:
                for entry in self._entries(self._read + 1, count, at):
                    self._index.put(entry)
                self._read, self._known, self._broken = count, started, ""
        except NotStrict:
            self._broken = "has an entry that cannot be understood"
        except Exception:  # noqa: S110 - the store does not answer: what is known grows old, and `refresh` says so in time
            pass

    def _count(self, at: datetime) -> int:
        answer = self._store.apply((Sum(_COUNT),), now=at, commit=False)
        value = answer.values[0] if type(answer) is Applied else None
        if not isinstance(value, tuple) or type(value[0]) is not int:
            raise GuardError("the store gave no count", code=ReasonCode.REVOCATION_UNAVAILABLE)
        return value[0]

    def _entries(self, first: int, last: int, at: datetime) -> Iterator[Revoke]:
        """Entries by number. A missing one has lapsed: it was written with its end."""
        for start in range(first, last + 1, _BATCH):
            looks = tuple(Lookup(f"rv|{i}") for i in range(start, min(start + _BATCH, last + 1)))
            answer = self._store.apply(looks, now=at, commit=False)
            if type(answer) is not Applied or len(answer.values) != len(looks):
                raise GuardError("the store gave no entries", code=ReasonCode.REVOCATION_UNAVAILABLE)
            for text in answer.values:
                if text is not None:
                    yield parse_entry(text)

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def revoke(self, kind: RevocationKind, value: str, *, issuer: str | None = None, at: float | None = None, by: str = "") -> None:
        """Take back `value`, as `RevocationList.revoke` does. In the store when this returns; `by`: what did it, for the denial's text."""
        if kind not in KINDS:
            raise ConfigError(f"revoke: `kind` is one of {', '.join(KINDS)}{did_you_mean(str(kind), KINDS)}")
        if at is None:
            at = self._clock() if kind == "origin" else ALWAYS
        self.put((Revoke(kind, value, issuer, float(at), by),))

    def put(self, entries: Sequence[Revoke], *, also: Sequence[Op] = ()) -> Refused | None:
        """Append `entries`, and apply `also`, in one transaction. Refused: one of `also` was, and nothing was written.

        Raises GuardError `revocation.unavailable` where nothing could be written, ConfigError where an entry is none.
        """
        texts = [_checked(entry) for entry in entries]
        at = datetime.fromtimestamp(self._clock(), UTC)
        try:
            for turn in range(_TRIES):
                count = self._count(at) if texts else 0
                ops = [*also, *_appended(entries, texts, count, at.timestamp())]
                answer = self._store.apply(ops, now=at)
                if type(answer) is Applied:
                    self._next = float("-inf")  # this process sees it at its next call
                    return None
                if type(answer) is Refused and answer.index < len(also):
                    return answer
                time.sleep(random() * 0.001 * (turn + 1))  # noqa: S311 - another process wrote first
        except GuardError as error:
            raise _unavailable(f"could not be written, nothing was revoked there: {error}") from None
        except Exception as error:
            raise _unavailable(f"could not be written, nothing was revoked there: {type(error).__name__}") from None
        raise _unavailable("could not be written, nothing was revoked there: others write all the time")


def _appended(entries: Sequence[Revoke], texts: Sequence[str], count: int, at: float) -> Iterator[Op]:
    for i, (entry, text) in enumerate(zip(entries, texts, strict=True), count + 1):
        yield Absent(f"rv|{i}")
        yield Mark(f"rv|{i}", ttl=_lapses(entry, at), value=text)
    if texts:
        yield Add(_COUNT, len(texts), max=count + len(texts))


def _lapses(entry: Revoke, at: float) -> int | None:
    if entry.channel or (entry.at == ALWAYS and entry.kind != "credential"):
        return None
    return _LAPSE + (max(0, int(entry.at - at)) if entry.at != ALWAYS else 0)


def _checked(entry: Revoke) -> str:
    if not is_name(entry.value) or not (entry.issuer is None or is_name(entry.issuer)):
        raise ConfigError("revoke: `value` and `issuer` are names as they stand in tokens")
    text = entry_text(entry)
    try:
        parse_entry(text)  # nobody writes what nobody could read: one such entry would stop every call
    except (NotStrict, ValueError):
        raise ConfigError("revoke: `at` is a time in epoch seconds, `by` a short text") from None
    return text


def _unavailable(why: str) -> GuardError:
    return GuardError(f"the revocation list in the state store {why}", code=ReasonCode.REVOCATION_UNAVAILABLE)
