"""Status lists over HTTP: which may be fetched, how long one is kept. What one says is judged in `guard.tokens.statuslist`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from guard.errors import ConfigError, TokenRefused
from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.identity.revoked.asking import Get, Kept, Over, getting, unanswered
from guard.model import Delegation
from guard.ports import Verifier
from guard.reasons import ReasonCode
from guard.tokens.events import ALGORITHMS
from guard.tokens.jose import split, token_json
from guard.tokens.statuslist import MAX_LIST, StatusList, place, read_list

__all__ = ["StatusLists"]

# No user, query, fragment, escape, backslash: what looks like the allowed place must be it.
_URI = re.compile(
    r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?|http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?"
)

_GET = getting(5.0, MAX_LIST)


class StatusLists:
    """Looks up the status of every token of `issuer` that names one. Stands in `Guard(revocations=[...])`.

    `uris`: where lists may be fetched from: an exact address, or a folder with a `/` at its end. A token that names another place is
    refused and nothing is fetched: who writes a token must not make this machine call others. A list is kept for its `ttl` (without one 5
    minutes), never past its `exp`; one that cannot be fetched anew denies.
    """

    inline = True

    def __init__(
        self,
        issuer: Issuer | LocalIssuer,
        *,
        uris: Iterable[str],
        get: Get = _GET,
        algorithms: Iterable[str] = (*ALGORITHMS, "Ed25519"),
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uris = tuple(uris)
        if not self._uris or not all(_plain(one) for one in self._uris):
            raise ConfigError("StatusLists: `uris` are https addresses without query, or folders of them that end in `/`")
        self._issuer, self._get, self._algorithms = issuer, get, frozenset(algorithms)
        self._kept: Kept[StatusList] = Kept(steady, most=256)

    def __repr__(self) -> str:
        return f"StatusLists({self._issuer!r}, uris={self._uris!r})"

    def over(self, verifier: Verifier) -> Over:
        """`verifier`, and then this look-up."""
        return Over(verifier, self.ask)

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """Nothing: whose status is not valid was stopped when the token was verified."""
        return None

    def ask(self, token: str, delegation: Delegation, now: int) -> None:
        """Raises TokenRefused unless the token has no status, or a valid one. Of a chain the root has it."""
        if delegation.issuer != self._issuer.url:
            return
        where = place(token_json(split(token.partition("~")[0]).payload))  # verified a moment ago
        if where is None:
            return
        uri, index = where
        if not _plain(uri) or not any(uri == one or (one.endswith("/") and uri.startswith(one)) for one in self._uris):
            raise unanswered("the token's status list lies where none may be fetched from")
        found = self._kept.get(uri, lambda: self._fetch(uri, now))
        if not found.until > now:
            raise unanswered("the status list has expired")
        if found.status(index) != 0:
            raise TokenRefused(ReasonCode.TOKEN_REVOKED, "the issuer's status list says that the token is not valid")

    def _fetch(self, uri: str, now: int) -> tuple[StatusList, float]:
        try:
            status, raw = self._get(uri, {"Accept": "application/statuslist+jwt"})
            text = raw.decode("ascii").strip() if status == 200 and len(raw) <= MAX_LIST else ""
        except Exception:
            text = ""
        if not text:
            raise unanswered("the status list could not be fetched")
        found = read_list(text, uri=uri, keys=self._issuer.rules().keys, algorithms=self._algorithms, now=now)
        return found, min(found.ttl, found.until - now)


def _plain(uri: object) -> bool:
    return isinstance(uri, str) and _URI.fullmatch(uri) is not None and "/../" not in f"{uri}/" and "/./" not in f"{uri}/"
