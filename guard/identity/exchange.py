"""Asking an issuer for a narrower token: RFC 8693 over its token endpoint, as the client of whoever is to act.

| the server's answer                                            | then                                                           |
|----------------------------------------------------------------|----------------------------------------------------------------|
| 200, an access token for this grant (RFC 8693 2.2.1)           | the token; the guard verifies and compares it                  |
| 200 and anything else                                          | `delegation.unavailable`                                       |
| 400, 401, 403 with an `error` (RFC 6749 5.2)                   | `delegation.refused`, naming the error word                    |
| `use_dpop_nonce` (RFC 9449 8), of a client with a key          | once more, the same, with the nonce                            |
| 200, and `token_type` is not `DPoP` for such a client          | `delegation.unavailable`; so is a token bound to another key (`guard/delegating.py`) |
| 5xx, a time-out, no connection                                 | once more, the same; then `delegation.unavailable`             |

A retry is the same question again: never fewer details, another scope or another audience. Answers are kept until they are about to end, by everything that was
asked, and of those who ask for the same at once one goes to the server.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from guard.constraints import canonical
from guard.errors import ConfigError, GuardError
from guard.identity.client import Client
from guard.identity.discovery import MetadataRefused, server_metadata
from guard.identity.http import Answer, Certificate, HttpFailed, post_form
from guard.model import ExchangeRequest
from guard.ports import Prover
from guard.reasons import ReasonCode
from guard.tokens.lent import ACCESS_TOKEN, GRANT, JWT_TOKEN

__all__ = ["Endpoint", "TokenExchange", "ask", "by_actor"]

_KEPT = 256
_NONCE = 512
"""Characters of a nonce, at most."""
_NEARLY_OVER = 30
"""Seconds before its end at which a kept token is asked for anew."""
_WORDS = frozenset(
    {
        "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target",
        "invalid_authorization_details", "invalid_dpop_proof", "access_denied",
    }
)  # fmt: skip
"""Error words that are told on (RFC 6749, 8707, 9396, 9449). Any other text of a server stays out of records."""


class Endpoint:
    """The token endpoint of one issuer, where its metadata says it is (RFC 8414). Asked for once an hour."""

    def __init__(self, issuer: str, *, seconds: float = 4.0) -> None:
        self.issuer = issuer
        self._seconds = seconds
        self._url = self._mtls = ""
        self._until = 0.0
        self.nonce = ""
        """The server's latest (RFC 9449 section 8), for the next proof."""
        self._revocation: str | None = None
        self._mtls_revocation: str | None = None

    def find(self, *, mtls: bool = False) -> str:
        """Its address; with `mtls` that for clients with a certificate, where it is another. Raises GuardError."""
        if not self._url or time.monotonic() > self._until:
            found = server_metadata(self.issuer, seconds=self._seconds)
            if found.token_endpoint is None:
                raise GuardError("the issuer's metadata names no token endpoint", code=ReasonCode.DELEGATION_UNAVAILABLE)
            self._url, self._until = found.token_endpoint, time.monotonic() + 3600
            self._mtls = found.mtls_token_endpoint or found.token_endpoint
            self._revocation = found.revocation_endpoint
            self._mtls_revocation = found.mtls_revocation_endpoint or found.revocation_endpoint
        return self._mtls if mtls else self._url

    def find_revocation(self, *, mtls: bool = False) -> str | None:
        """Where tokens are taken back (RFC 7009); None: nowhere. As `find`."""
        self.find()
        return self._mtls_revocation if mtls else self._revocation

    def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str], certificate: Certificate | None = None) -> Answer:
        """Whatever it answers. Raises HttpFailed."""
        return post_form(url, form, headers=headers, seconds=self._seconds, certificate=certificate)


class _Asked:
    """One question that is under way, or its answer."""

    __slots__ = ("error", "ready", "token", "until")

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.token = ""
        self.until = 0.0
        self.error: GuardError | None = None


class TokenExchange:
    """`guard.ports.Exchanger` over the token endpoint of one issuer. `clients`: by the actor each of them is."""

    def __init__(self, endpoint: Endpoint, clients: Mapping[str, Client], audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = endpoint
        self._clients = dict(clients)
        self._audience = audience
        self._clock = clock
        self._kept: OrderedDict[bytes, _Asked] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"TokenExchange(as {', '.join(self._clients)})"

    def holder(self, actor: str) -> Prover | None:
        """The key that a token for `actor` is bound to; None: to none."""
        client = self._clients.get(actor)
        return None if client is None else client.holder

    def exchange(self, request: ExchangeRequest) -> str:
        """The new token. Raises GuardError `delegation.refused` or `delegation.unavailable`."""
        client = self._clients.get(request.actor)
        if client is None:
            raise GuardError(f"no client is configured for actor `{request.actor}`", code=ReasonCode.DELEGATION_REFUSED)
        key = _key(request)
        while True:
            with self._lock:
                held = self._kept.get(key)
                if held is not None and held.ready.is_set() and (held.error is not None or held.until <= self._clock()):
                    held = None
                mine = held is None
                if held is None:
                    held = self._kept[key] = _Asked()
                    while len(self._kept) > _KEPT:
                        self._kept.popitem(last=False)
            if mine:
                return self._first(key, held, client, request)
            held.ready.wait()
            if held.error is not None:
                raise held.error  # of those who waited with it; the next one asks again
            return held.token

    def _first(self, key: bytes, held: _Asked, client: Client, request: ExchangeRequest) -> str:
        try:
            held.token, seconds = self._ask(client, request)
            held.until = self._clock() + seconds - _NEARLY_OVER
            return held.token
        except GuardError as error:
            held.error = error
            raise
        except BaseException:
            held.error = GuardError("the question was broken off", code=ReasonCode.DELEGATION_UNAVAILABLE)
            raise
        finally:
            if held.error is not None:
                with self._lock:
                    if self._kept.get(key) is held:
                        del self._kept[key]
            held.ready.set()

    def _ask(self, client: Client, request: ExchangeRequest) -> tuple[str, float]:
        form = {
            "grant_type": GRANT,
            "subject_token": request.token,
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
        }
        if request.scopes:
            form["scope"] = " ".join(sorted(request.scopes))
        if request.details is not None:
            form["authorization_details"] = json.dumps(list(request.details), separators=(",", ":"))
        # RFC 8707: one resource, and the same for every hop; a name that is no URI goes where RFC 8693 has names.
        form["resource" if is_uri(self._audience) else "audience"] = self._audience
        return _token(ask(self._endpoint, client, form), client)


def ask(
    endpoint: Endpoint,
    client: Client,
    form: Mapping[str, str],
    refused: ReasonCode = ReasonCode.DELEGATION_REFUSED,
    unavailable: ReasonCode = ReasonCode.DELEGATION_UNAVAILABLE,
) -> Mapping[str, object]:
    """The body of a 200 to `form`, asked as `client`; the table above. Raises GuardError with one of the two codes."""
    nonce, renewed, again = endpoint.nonce if client.bound else "", False, True
    while True:
        try:
            url = endpoint.find(mtls=client.certificate is not None)
            more, headers = client.shown(url, endpoint.issuer, nonce)
            answer = endpoint.post(url, {**form, **more}, headers, client.certificate)
        except (HttpFailed, MetadataRefused) as error:
            if again and isinstance(error, HttpFailed) and error.why in ("unreachable", "late"):
                again = False
                continue
            raise GuardError(str(error), code=unavailable) from None
        body = answer.json()
        word = body.get("error") if body is not None else None
        fresh = answer.headers.get("dpop-nonce", "") if client.bound else ""
        if 0 < len(fresh) <= _NONCE:
            endpoint.nonce = fresh  # for the next question: else each would be asked twice
        # Once, and never more: a server could go on like that for ever.
        if word == "use_dpop_nonce" and 0 < len(fresh) <= _NONCE and not renewed:
            nonce, renewed = fresh, True
        elif answer.status >= 500 and again:
            again = False
        elif answer.status == 200 and body is not None:
            return body
        elif answer.status in (400, 401, 403) and isinstance(word, str):
            told = word if word in _WORDS else "an error"
            raise GuardError(f"it answered {answer.status} {told}", code=refused)
        else:
            raise GuardError(f"it answered {answer.status}", code=unavailable)


def _token(body: Mapping[str, object], client: Client) -> tuple[str, float]:
    """RFC 8693 2.2.1. Attack: a refresh token, an ID token or an opaque text handed out in an access token's place."""
    token, kind, of = body.get("access_token"), body.get("issued_token_type"), body.get("token_type")
    if not isinstance(token, str) or not token or kind not in (ACCESS_TOKEN, JWT_TOKEN) or not isinstance(of, str):
        raise GuardError("the answer holds no access token", code=ReasonCode.DELEGATION_UNAVAILABLE)
    if of.lower() != ("dpop" if client.bound else "bearer"):
        raise GuardError(
            f"the token is not {'bound to the key' if client.bound else 'a bearer token'}", code=ReasonCode.DELEGATION_UNAVAILABLE
        )
    seconds = body.get("expires_in")
    return token, float(seconds) if type(seconds) is int and 0 < seconds < 1 << 31 else 0.0


def is_uri(text: str) -> bool:
    """An absolute URI without a fragment (RFC 8707 section 2)."""
    return bool(urlsplit(text).scheme) and "#" not in text and ":" in text


def _key(request: ExchangeRequest) -> bytes:
    asked = {
        "token": sha256(request.token.encode()).hexdigest(),
        "actor": request.actor,
        "scopes": sorted(request.scopes),
        "details": None if request.details is None else list(request.details),
        "seconds": request.seconds,
    }
    return sha256(canonical(asked)).digest()


def by_actor(clients: object) -> dict[str, Client]:
    """Raises ConfigError."""
    given = [clients] if isinstance(clients, Client) else list(clients) if isinstance(clients, (list, tuple)) else []
    if not given or not all(isinstance(one, Client) for one in given):
        raise ConfigError("Issuer: `client` is a Client, or a list of them: one for each agent that this process acts as")
    found = {one.actor: one for one in given}
    if len(found) != len(given):
        raise ConfigError("Issuer: two clients are the same actor")
    return found
