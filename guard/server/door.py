"""The door of a resource server: ASGI middleware that verifies who sends a request, and opens the task that its token names, for that request.

    app.add_middleware(Door, guard=guard, url="https://desk.acme.example")

| a request                                              | what happens                                                            |
|--------------------------------------------------------|-------------------------------------------------------------------------|
| `Authorization: DPoP TOKEN` and `DPoP: PROOF` (RFC 9449) | the proof is verified for this method and URL; one request, one permit  |
| `Authorization: Bearer TOKEN` (RFC 6750)               | for tokens that are bound to nothing, or to the certificate of the connection |
| neither, or what does not count                        | 401 with `WWW-Authenticate`, which names the metadata (RFC 9728)        |
| of the metadata                                        | answered here                                                           |
| of a path in `free`                                    | passed on as it came, without a task: a guarded call in it is denied `task.none` |
| a WebSocket                                            | closed: one proof is no proof of what follows                           |

Inside, `guard.current()` is the task. What a guarded call is denied becomes an answer where the application lets `Denied` pass. The credentials of
such a request are taken out of the headers before the application sees them. Leaving the request closes its delegation and does not end the task.

The URL of a request is `url` and the path as it was asked for: the header `Host` is the client's choice and is not asked.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from guard.drive import Flow, Need, adrive
from guard.errors import ApprovalRequired, ConfigError, Denied
from guard.house import House
from guard.ops import Applied, Know, Lookup, parse_map
from guard.reasons import ReasonCode
from guard.runtime import Guard
from guard.server.headers import ALGS, Certificate, HttpRefused, Named, Sender, challenges, path_of, refusal_of, sender_of, tls_certificate
from guard.server.nonces import Nonces
from guard.server.requests import Keeper, RequestTask
from guard.shown import Shown
from guard.tokens.proof import NonceWanted
from guard.tokens.urls import is_endpoint

__all__ = ["Door"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_METADATA = "/.well-known/oauth-protected-resource"
_TAKEN_OUT = (b"authorization", b"dpop")


class Door:
    """ASGI middleware; see the module."""

    def __init__(
        self,
        app: App,
        guard: Guard,
        *,
        url: str,
        servers: Sequence[str] = (),
        nonces: bool = True,
        bearer: bool = True,
        free: Collection[str] = (),
        certificate: Certificate = tls_certificate,
        keep: int = 0,
    ) -> None:
        """`url`: of this server as clients know it, with the path that a proxy takes away; also the audience its tokens should have.

        `servers`: authorization servers, for the metadata. `nonces`: demand a nonce of ours in proofs; its key stands in the guard's state. `bearer`
        False: only tokens that are bound to a key. `free`: exact paths that need no token. `certificate`: the client certificate of a request,
        DER; `guard.server.client_cert` reads it from a proxy's header. `keep`: so many tasks of tokens that are bound to nothing stay open from one
        request to the next, which saves opening them; only for an application that leaves nothing running behind a request.
        """
        if not isinstance(guard, Guard):
            raise ConfigError("Door: `guard` is the Guard whose tasks it opens")
        if not is_endpoint(url, loopback=True) or "?" in url or '"' in url:
            raise ConfigError(
                "Door: `url` is this server's address as its clients know it, https://... (http:// only on loopback), without query"
            )
        self._app, self._guard = app, guard
        self._url = url.rstrip("/")
        self._named = Named(_metadata_url(self._url), bearer)
        self._document = _document(self._url, servers, bearer)
        self._here = urlsplit(self._named.metadata).path.encode("ascii")
        self._free = frozenset(path.encode("ascii") for path in free)
        self._certificate = certificate
        self._wants_nonces = nonces
        self._nonces: Nonces | None = None
        self._keeper = Keeper(keep) if keep else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise ConfigError("Door: only http comes in here")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        if scope["method"] in ("GET", "HEAD") and path == self._here:
            return await _answer(send, 200, self._document, [])
        if path in self._free:
            return await self._app(scope, receive, send)
        answer = _Sent(send)
        try:
            if not path.isascii():
                raise HttpRefused(400, "invalid_request", "the path is not percent-encoded")
            await self._let({**scope, "headers": list(scope["headers"])}, receive, answer, path)
        except HttpRefused as refused:
            if answer.started:
                raise
            await self._refuse(refused, send)
        return None

    async def _let(self, scope: Scope, receive: Receive, send: _Sent, path: bytes) -> None:
        sender = sender_of(scope["headers"], scope.get("query_string", b""))
        if sender.scheme == "bearer" and not self._named.bearer:
            raise HttpRefused(401, "invalid_token", "only tokens that are bound to a key are taken", scheme="DPoP")
        nonces = await self._own_nonces() if sender.scheme == "dpop" and self._wants_nonces else None
        shown = Shown(
            sender.scheme, sender.proofs, method=scope["method"], url=self._url + path.decode("ascii"), certificate=self._certificate(scope), nonces=nonces
        )  # fmt: skip
        if nonces is not None:
            send.more.append((b"dpop-nonce", nonces.fresh().encode("ascii")))  # the next request has one without asking (RFC 9449 8.2)
        scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() not in _TAKEN_OUT]
        keeper = self._keeper if sender.scheme == "bearer" and not sender.proofs else None
        task = keeper.task(sender.token) if keeper is not None else None
        if task is None:
            task = RequestTask(self._guard, sender.token, shown, keeper=keeper)
        try:
            await task.__aenter__()
        except NonceWanted:
            raise refusal_of(ReasonCode.TOKEN_PROOF, entering=True, nonce=True, scheme="DPoP") from None
        except Denied as denied:
            raise _entering(denied, sender) from None
        try:
            await self._app(scope, receive, send)
        except Denied as denied:
            if keeper is not None:
                keeper.forget(sender.token)
            await task.leave()
            if send.started:
                raise
            raise self._scoped(_inside(denied, sender), denied.decision.tool) from None
        except BaseException as error:
            await task.leave(error)
            raise
        await task.leave()

    def _scoped(self, refused: HttpRefused, tool: str) -> HttpRefused:
        """With the scopes of the policy that would grant the tool: a client can ask for one of them."""
        scopes = self._guard._house.layers[0].scopes
        refused.scope = " ".join(sorted(scope for scope, tools in scopes.items() if tool in tools))
        return refused

    async def _own_nonces(self) -> Nonces:
        if self._nonces is None:
            house = self._guard._house
            key = await adrive(_nonce_key(house), house.seconds)
            if key is None:
                raise refusal_of(ReasonCode.STATE_UNAVAILABLE, entering=True)
            self._nonces = Nonces(key, lambda: house.clock.now().timestamp())
        return self._nonces

    async def _refuse(self, refused: HttpRefused, send: Send) -> None:
        more = challenges(refused, self._named)
        if refused.nonce and self._nonces is not None:
            more += [(b"dpop-nonce", self._nonces.fresh().encode("ascii")), (b"cache-control", b"no-store")]
        if refused.status == 503:
            more.append((b"retry-after", b"5"))
        said = {"error": refused.error or None, "code": refused.code or None, "error_description": refused.text or None}
        await _answer(send, refused.status, {name: value for name, value in said.items() if value}, more)


class _Sent:
    """`send`, and whether the answer has begun. `more`: headers that go with it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.more: list[tuple[bytes, bytes]] = []

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *self.more]}
        await self._send(message)


def _entering(denied: Denied, sender: Sender) -> HttpRefused:
    """Nobody is authenticated: what is wrong is said in the code's public words."""
    return refusal_of(denied.decision.code, entering=True, scheme="DPoP" if sender.scheme == "dpop" else "")


def _inside(denied: Denied, sender: Sender) -> HttpRefused:
    """A guarded call was denied: whoever sent the request is authenticated, and is told what a model would be."""
    refused = refusal_of(denied.decision.code, entering=False, text=denied.for_model(), scheme="DPoP" if sender.scheme == "dpop" else "")
    if isinstance(denied, ApprovalRequired):
        refused.error = "approval_required"
    return refused


def _nonce_key(house: House) -> Flow[bytes | None]:
    ops = (Know("door|nonce", "k", secrets.token_hex(32)), Lookup("door|nonce"))
    answer = yield Need(house.store, house.store.apply, (ops,), {"now": house.clock.now()})
    text = parse_map(answer.values[1]).get("k", "") if type(answer) is Applied and len(answer.values) == 2 else ""
    return text.encode("ascii") if len(text) == 64 else None


def _metadata_url(url: str) -> str:
    """RFC 9728 3.1: the well-known part stands between host and path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{_METADATA}{parts.path}"


def _document(url: str, servers: Sequence[str], bearer: bool) -> Mapping[str, Any]:
    """RFC 9728 section 2."""
    if isinstance(servers, str) or not all(is_endpoint(server, loopback=True) for server in servers):
        raise ConfigError("Door: `servers` are the issuers whose tokens count, as https:// addresses")
    document: dict[str, Any] = {
        "resource": url,
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ALGS.split(),
        "dpop_bound_access_tokens_required": not bearer,
    }
    return document | ({"authorization_servers": list(servers)} if servers else {})


async def _answer(send: Send, status: int, body: Mapping[str, Any], more: Sequence[tuple[bytes, bytes]]) -> None:
    raw = json.dumps(body, separators=(",", ":")).encode("utf-8")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode("ascii")), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
