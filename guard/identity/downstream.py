"""Credentials for one call at the issuer that made the task's token: RFC 8693 for a resource (RFC 8707), and RFC 7009 to take them back.

| asked as   | the client whose actor is who acts now; where only one is configured, that one: the program acts for its agent             |
| without    | the client's own key (`holder`): what is bound to it would be of no use to a body, which has none                            |
| subject    | the token the task was opened with, as it is. Of an offline chain nothing: the issuer does not know its hops, and its root  |
|            | alone would be more than the last hop has                                                                                   |
| never kept | each call asks anew, and what it got is handed out once: an answer that was given before is refused                         |

`obtain` says what the server answered; whether that is what was asked for, the guard compares (`guard/tokens/lent.py`).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from secrets import token_bytes
from threading import Lock
from typing import Final

from guard.errors import GuardError
from guard.identity.client import Client
from guard.identity.exchange import Endpoint, ask
from guard.identity.http import HttpFailed
from guard.model import CredentialRequest, Issued
from guard.reasons import ReasonCode
from guard.tokens.lent import ACCESS_TOKEN, GRANT

__all__ = ["DownstreamTokens"]

_TOKENS: Final = ("access_token", "refresh_token", "id_token")
_SEEN: Final = 4096
_WAIT: Final = (408, 429)
"""Statuses below 500 that ask for patience."""


class DownstreamTokens:
    """`guard.ports.Credentials` over the endpoints of one issuer."""

    def __init__(self, endpoint: Endpoint, clients: Mapping[str, Client]) -> None:
        self._endpoint = endpoint
        self._clients = {actor: client.without_key() for actor, client in clients.items()}
        self._salt = token_bytes(32)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"DownstreamTokens({self._endpoint.issuer!r})"

    def obtain(self, request: CredentialRequest) -> Issued:
        """See the port."""
        if "~" in request.token:
            raise _refused("the issuer does not know the hops of an offline chain")
        client = self._client(request.delegation.actor)
        form = {
            "grant_type": GRANT,
            "subject_token": request.token,
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
            "resource": request.resource,
            "scope": " ".join(sorted(request.scopes)),
        }
        if request.details is not None:
            form["authorization_details"] = json.dumps(list(request.details), separators=(",", ":"))
        body = ask(self._endpoint, client, form, ReasonCode.CREDENTIAL_REFUSED, ReasonCode.CREDENTIAL_UNAVAILABLE)
        issued = _issued(body, client.id)
        if self._known(issued.token):
            # Attack or mistake: a server that hands the same token to two calls; the first that ends takes it from the other, and one that
            # is stolen from the first serves as long as the second.
            raise _refused("it answered with a token it has given before")
        return issued

    def take_back(self, issued: Issued) -> None:
        """See the port. What came along first: taking back a refresh token often ends the others too."""
        client = next((each for each in self._clients.values() if each.id == issued.client), None)
        try:
            url = self._endpoint.find_revocation(mtls=client is not None and client.certificate is not None)
        except GuardError as error:
            raise _unavailable(str(error)) from None
        if client is None or url is None:
            raise _refused("the issuer's metadata names no place where tokens are taken back")
        failed: GuardError | None = None
        for token, hint in [*((each, "refresh_token") for each in issued.more), (issued.token, "access_token")]:
            try:
                self._revoke(url, client, token, hint)
            except GuardError as error:  # the others are taken back all the same
                failed = error
        if failed is not None:
            raise failed

    def _revoke(self, url: str, client: Client, token: str, hint: str) -> None:
        """RFC 7009 2.2: 200, also of a token it does not know."""
        more, headers = client.shown(url, self._endpoint.issuer, "")
        try:
            answer = self._endpoint.post(url, {"token": token, "token_type_hint": hint, **more}, headers, client.certificate)
        except HttpFailed as error:
            raise _unavailable(str(error)) from None
        if answer.status == 200:
            return
        text = f"it answered {answer.status}: the token was not taken back"
        raise _refused(text) if 400 <= answer.status < 500 and answer.status not in _WAIT else _unavailable(text)

    def _client(self, actor: str) -> Client:
        found = self._clients.get(actor)
        if found is None and len(self._clients) == 1:
            (found,) = self._clients.values()
        if found is None:
            raise _refused("several clients are configured, and none of them is who acts")
        return found

    def _known(self, token: str) -> bool:
        key = sha256(self._salt + token.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            known = key in self._seen
            self._seen[key] = None
            while len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        return known


def _issued(body: Mapping[str, object], client: str) -> Issued:
    """RFC 8693 2.2.1, as it came. What is of another type than the RFC says is said as what nobody asked for."""
    token, kind, scheme = (body.get(name) for name in ("access_token", "issued_token_type", "token_type"))
    if not isinstance(token, str) or not token:
        raise _unavailable("the answer holds no access token")
    seconds, scope = body.get("expires_in"), body.get("scope")
    more = tuple(other for name in _TOKENS[1:] if isinstance(other := body.get(name), str) and other)
    return Issued(
        token,
        kind if isinstance(kind, str) else "",
        scheme if isinstance(scheme, str) else "",
        None if seconds is None else seconds if type(seconds) is int else -1,
        None if scope is None else frozenset(scope.split()) if isinstance(scope, str) else frozenset({""}),
        more,
        client,
    )


def _refused(text: str) -> GuardError:
    return GuardError(text, code=ReasonCode.CREDENTIAL_REFUSED)


def _unavailable(text: str) -> GuardError:
    return GuardError(text, code=ReasonCode.CREDENTIAL_UNAVAILABLE)
