"""IAM over HTTP: the registry as its SCIM server has it (RFC 7644), and a webhook that asks it to rotate or revoke.

Both show a bearer token from a file that only its owner may open, read anew for each request, so that it can be rotated. What is sent is not signed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

from guard.errors import ConfigError, GuardError
from guard.identity._files import secret_bytes
from guard.identity.http import HttpFailed, get_bytes, post_json
from guard.identity.registered import MOST, Identity, RegistryUnreadable, page_of, whole
from guard.reasons import ReasonCode
from guard.tokens.urls import is_endpoint

__all__ = ["ScimSource", "Steward", "Webhook"]

_KINDS: Final = ("application/scim+json", "application/json")
_PAGE: Final = 200
_PAGES: Final = 500
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]{16,8192}=*", re.ASCII)


class ScimSource:
    """`RegistrySource` over a SCIM endpoint, as `https://iam.example/scim/v2/Agents`.

    Read whole when it is made (that may take `seconds`), then every `every` seconds on a thread of its own: no call waits for it. What was read
    holds for `stale` seconds; after that the registry is unavailable, and calls are denied.
    """

    def __init__(
        self,
        url: str,
        *,
        bearer: str | Path | None = None,
        every: float = 300.0,
        stale: float = 3600.0,
        seconds: float = 10.0,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        if not is_endpoint(url, loopback=True) or "?" in url:
            raise ConfigError("ScimSource: `url` is https (http on loopback), without user, query and fragment")
        if not 0 < every <= stale:
            raise ConfigError("ScimSource: `every` is more than 0 and at most `stale`")
        self.name = urlsplit(url).netloc
        self._url, self._bearer, self._every, self._stale, self._seconds, self._steady = url, bearer, every, stale, seconds, steady
        self._held: tuple[Identity, ...] | None = None
        self._why = "was not read yet"
        self._at = self._next = -1.0
        self._version = 0
        self._told: tuple[int, bool] = (-1, False)
        self._busy = False
        self._lock = Lock()
        if bearer is not None:
            _secret(bearer)  # a file that others may open is a mistake to hear of now
        self._fetch()

    def changed(self) -> bool:
        """Whether a newer answer came, or the last one is too old. Begins to ask anew where it is time to."""
        with self._lock:
            begin = not self._busy and self._steady() >= self._next
            self._busy = self._busy or begin
            fresh = self._fresh()
            changed = self._told != (self._version, fresh)
        if begin:
            Thread(target=self._fetch, name="guardtrail-scim", daemon=True).start()
        return changed

    def read(self) -> tuple[Identity, ...]:
        with self._lock:
            fresh = self._fresh()
            self._told = self._version, fresh
            if self._held is None or not fresh:
                raise RegistryUnreadable(f"{self.name} {self._why}")
            return self._held

    def _fresh(self) -> bool:
        return self._held is not None and self._steady() - self._at <= self._stale

    def _fetch(self) -> None:
        found: tuple[Identity, ...] | None = None
        why = "gave no usable answer"
        asked = self._steady()
        try:
            found = whole(self._pages(), self.name)
        except HttpFailed as failed:
            why = f"gave no usable answer ({failed.why})"
        except GuardError as error:
            why = str(error).removeprefix(self.name).strip()
        except Exception:  # noqa: S110 - whatever else went wrong on the way is no answer either
            pass
        with self._lock:
            if found is not None:
                self._held, self._at = found, asked  # as old as the question: what changed while it was answered may be missing
                why = f"has not answered for {int(self._stale)} seconds"
            self._why = why if self._held is None or found is not None else self._why
            self._version += found is not None
            # A server that fails is asked again soon, and not at every call.
            self._next = self._steady() + (self._every if found is not None else min(self._every, 15.0))
            self._busy = False

    def _pages(self) -> Iterator[Sequence[Identity]]:
        """RFC 7644 3.4.2.4: from 1, until `totalResults` were seen. Attack: a list that never ends, or that changes its length."""
        seen, total, left = 0, None, MOST
        headers = {} if self._bearer is None else {"authorization": f"Bearer {_secret(self._bearer)}"}
        until = self._steady() + self._seconds
        for _ in range(_PAGES):
            seconds = until - self._steady()
            if seconds <= 0 or left <= 0:
                break
            url = f"{self._url}?startIndex={seen + 1}&count={_PAGE}"
            raw = get_bytes(url, kinds=_KINDS, headers=headers, seconds=seconds, most=left)
            left -= len(raw)
            (found, number), of = page_of(raw, self.name)
            if total is not None and of != total:
                raise RegistryUnreadable(f"{self.name} changed while it was read")
            total, seen = of, seen + number
            yield found
            if seen == total:
                return
            if number == 0 or seen > total:
                break
        raise RegistryUnreadable(f"{self.name} did not give the whole list")


class Steward(Protocol):
    """Who can be asked to act on an identity: IAM. guardtrail changes nothing there by itself, and waits for nothing."""

    def ask(self, what: Literal["rotate", "revoke"], identity: Identity, why: str) -> None:
        """Raises GuardError `identity.unavailable` where the request was not taken. May block: not for the path of a call."""
        ...


class Webhook:
    """`Steward` that posts `{"action", "id", "kind", "issuer", "owner", "why"}` as JSON. Names only; taken is any 2xx.

    Not signed: the receiver knows us by the bearer token, over TLS. It must bear the same request twice.
    """

    def __init__(self, url: str, *, bearer: str | Path, seconds: float = 10.0) -> None:
        """`bearer`: a file with the token, which only its owner may open."""
        if not is_endpoint(url, loopback=True):
            raise ConfigError("Webhook: `url` is https (http on loopback), without user and fragment")
        _secret(bearer)
        self._url, self._bearer, self._seconds = url, bearer, seconds

    def __repr__(self) -> str:
        return f"Webhook({urlsplit(self._url).netloc})"

    def ask(self, what: Literal["rotate", "revoke"], identity: Identity, why: str) -> None:
        if what not in ("rotate", "revoke"):
            raise ConfigError("Webhook: `what` is rotate or revoke")
        body = {
            "action": what,
            "id": identity.id,
            "kind": identity.kind,
            "issuer": identity.issuer,
            "owner": identity.owner,
            "why": why,
        }
        said = ""
        try:
            answer = post_json(self._url, body, headers={"authorization": f"Bearer {_secret(self._bearer)}"}, seconds=self._seconds)
            if 200 <= answer.status < 300:
                return
            said = f"{urlsplit(self._url).netloc} answered with status {answer.status}"
        except HttpFailed as failed:
            said = str(failed)
        raise GuardError(f"the request to {what} was not taken: {said}", code=ReasonCode.IDENTITY_UNAVAILABLE)


def _secret(path: str | Path) -> str:
    """The token in a file. Raises ConfigError, which never quotes the file."""
    raw = secret_bytes(path, who="iam", what="a bearer token", most=16384)
    text = raw.decode("ascii", "replace").strip()
    if not _BEARER.fullmatch(text):
        raise ConfigError(f"{path} holds no bearer token (RFC 6750: 16 characters or more, no blanks)")
    return text
