"""What is needed to ask others over HTTP, and what all who ask have in common: answers kept for a short time, one question at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Generic, Protocol, TypeVar

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.ports import Verifier
from guard.reasons import ReasonCode

__all__ = ["Get", "Kept", "Over", "Post", "getting", "posting", "unanswered"]

T = TypeVar("T")


class Post(Protocol):
    """Sends `body`; answers (status, body). Bounded in size and time, follows no redirect to another host; raises where nothing came."""

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]: ...


class Get(Protocol):
    """The same without a body."""

    def __call__(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]: ...


def posting(seconds: float, most: int) -> Post:
    """`Post` as the one file that speaks HTTP does it: https only, no redirects, `seconds` in all, `most` bytes."""

    def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        from guard.identity.http import post_bytes

        return post_bytes(url, body, headers, seconds=seconds, most=most)

    return post


def getting(seconds: float, most: int) -> Get:
    """`Get`, the same way."""

    def get(url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        from guard.identity.http import get_whatever

        return get_whatever(url, headers, seconds=seconds, most=most)

    return get


def unanswered(what: str) -> TokenRefused:
    """No answer is a no."""
    return TokenRefused(ReasonCode.REVOCATION_UNAVAILABLE, what)


class Kept(Generic[T]):
    """Answers by key, each until its time. Who asks for what somebody is fetching waits for that answer instead of asking too.

    What raises is not kept. `most` answers are held: the oldest goes, and is asked for again.
    """

    def __init__(self, steady: Callable[[], float], *, most: int = 4096) -> None:
        self._steady, self._most = steady, most
        self._held: dict[Hashable, tuple[float, T]] = {}
        self._flights: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable, fetch: Callable[[], tuple[T, float]]) -> T:
        """`fetch` answers (what, for how many seconds). They count from before it was asked: an answer is as old as its question."""
        with self._lock:
            held = self._held.get(key)
            if held is not None and self._steady() < held[0]:
                return held[1]
            flight = self._flights.setdefault(key, Lock())
        with flight:
            try:
                with self._lock:
                    held = self._held.get(key)
                    if held is not None and self._steady() < held[0]:
                        return held[1]
                started = self._steady()
                answer, seconds = fetch()
                with self._lock:
                    self._held.pop(key, None)
                    self._held[key] = (started + seconds, answer)
                    while len(self._held) > self._most:
                        del self._held[next(iter(self._held))]
                return answer
            finally:
                with self._lock:
                    self._flights.pop(key, None)


class Over:
    """A verifier that has one more question about every token another verifier has let through."""

    inline = False  # it asks over the network, when its time has come

    def __init__(self, verifier: Verifier, ask: Callable[[str, Delegation, int], None]) -> None:
        self._verifier, self._ask = verifier, ask

    def __getattr__(self, name: str) -> object:
        return getattr(self._verifier, name)  # what else a verifier can do (fetching keys), it does as before

    @property
    def generation(self) -> int:
        return self._verifier.generation

    def verify(self, token: str, *, now: int) -> Delegation:
        """Raises TokenRefused and nothing else, as far as the verifier below does."""
        found = self._verifier.verify(token, now=now)
        try:
            self._ask(token, found, now)
        except TokenRefused:
            raise
        except Exception:
            raise unanswered("whether the token was taken back could not be asked") from None
        return found
