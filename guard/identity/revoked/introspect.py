"""Asking the issuer whether a token still counts (RFC 7662), and telling it that one does not any more (RFC 7009).

An answer is kept for 15 seconds at most, never longer than the token lives; a no for 5. Only `active`, and only the JSON value true, is a yes.
A status but 200, HTML, a time-out, another `iss`, `jti` or `sub` than the token's: no answer, and the call is denied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from urllib.parse import urlencode

from guard.errors import ConfigError, GuardError, TokenRefused
from guard.identity.client import basic_header
from guard.identity.revoked.asking import Kept, Over, Post, posting, unanswered
from guard.model import Delegation
from guard.ports import Verifier
from guard.reasons import ReasonCode
from guard.tokens.jose import NotStrict, strict_json

__all__ = ["Introspection", "basic", "take_back"]

MOST_SECONDS = 15.0
NO_SECONDS = 5.0
_MOST_BODY = 64 * 1024
_SECONDS = 5.0
_POST = posting(_SECONDS, _MOST_BODY)
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}

Headers = Callable[[], Mapping[str, str]]


def basic(client_id: str, secret: str) -> Headers:
    """`client_secret_basic` (RFC 6749 section 2.3.1). The secret is in the function, and in nothing that prints itself."""
    header = basic_header(client_id, secret)
    return lambda: header


class Introspection:
    """Asks `url` about every token of `issuer`. Stands in `Guard(revocations=[...])`; it needs the token's text, so it stands over the verifier."""

    inline = True

    def __init__(
        self,
        url: str,
        *,
        issuer: str,
        client: Headers,
        post: Post = _POST,
        seconds: float = MOST_SECONDS,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`client`: the headers by which the issuer knows us. `post`: how it is asked; a call waits no longer than the guard's deadline, and an
        answer that comes later serves the next. `seconds`: how long a yes is kept, 15 at most; 0 asks every time."""
        if not 0 <= seconds <= MOST_SECONDS:
            raise ConfigError(
                f"Introspection: `seconds` is from 0 to {MOST_SECONDS:g}: how long a token that was taken back may still count"
            )
        self._url, self._issuer, self._post, self._client, self._seconds = url, issuer, post, client, seconds
        self._kept: Kept[bool] = Kept(steady)

    def __repr__(self) -> str:
        return f"Introspection({self._url!r}, issuer={self._issuer!r})"

    def over(self, verifier: Verifier) -> Over:
        """`verifier`, and then this question."""
        return Over(verifier, self.ask)

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """Nothing: who could not say yes was stopped when the token was verified."""
        return None

    def ask(self, token: str, delegation: Delegation, now: int) -> None:
        """Raises TokenRefused unless the issuer says that the token counts. Of a chain it is asked about the root: the hops are not its own."""
        if delegation.issuer != self._issuer:
            return
        root = token.partition("~")[0]
        if not self._kept.get(sha256(root.encode("ascii")).digest(), lambda: self._fetch(root, delegation, now)):
            raise TokenRefused(ReasonCode.TOKEN_REVOKED, "the issuer says that the token is not active")

    def _fetch(self, token: str, delegation: Delegation, now: int) -> tuple[bool, float]:
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")
        try:
            status, raw = self._post(self._url, body, {**_FORM, **self._client()})
        except Exception:
            raise unanswered("the issuer did not answer whether the token is active") from None
        answer = _json(status, raw)
        if answer is None:
            raise unanswered("the issuer gave no usable answer whether the token is active")
        if answer.get("active") is not True:
            if answer.get("active") is False:
                return False, NO_SECONDS
            raise unanswered("the issuer gave no usable answer whether the token is active")  # "true" is a text, and no yes
        same = {"iss": delegation.issuer, "jti": delegation.credential.jti, "sub": delegation.origin}
        if any(name in answer and answer[name] != value for name, value in same.items()):
            raise unanswered("the issuer answered about another token")
        ends = answer.get("exp", delegation.expires_at)
        left = min(ends, delegation.expires_at) - now if type(ends) is int else 0
        return True, max(0.0, min(self._seconds, left))


def take_back(url: str, token: str, *, client: Headers, post: Post = _POST, hint: str = "access_token") -> None:
    """Tell the issuer that `token` counts no more (RFC 7009). Returns where it says so, also of a token it does not know; raises GuardError."""
    body = urlencode({"token": token, "token_type_hint": hint}).encode("ascii", "strict")
    try:
        status, _ = post(url, body, {**_FORM, **client()})
    except Exception:
        status = 0
    if status != 200:
        what = f"answered {status}" if status else "did not answer"
        raise GuardError(f"the issuer {what}: the token was not taken back there", code=ReasonCode.REVOCATION_UNAVAILABLE)


def _json(status: int, raw: bytes) -> dict[str, object] | None:
    if status != 200 or len(raw) > _MOST_BODY:
        return None
    try:
        return strict_json(raw)
    except NotStrict:
        return None
