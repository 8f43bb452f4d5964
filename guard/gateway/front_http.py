"""In front: streamable HTTP, as one ASGI app behind `guard.server.Door`. Nothing is kept between requests: no session, no stream that outlives its request.

| a request                                             | what happens                                                            |
|-------------------------------------------------------|-------------------------------------------------------------------------|
| GET of the metadata (RFC 9728)                        | answered, without a token                                               |
| `Origin` of a page that is not ours                   | 403: attack by a page in a browser (DNS rebinding)                      |
| no credentials, or none that count                    | 401 with `WWW-Authenticate`, which names the metadata                   |
| the token in `_meta["guardtrail.io/token"]`, no header | as a header's; a token that is bound to a key is proven with each call |
| GET, DELETE                                           | 405: there are no sessions                                              |
| POST of one message of JSON-RPC 2.0                   | see `guard.gateway.relay`; JSON, or an event stream once there is progress |
| a grant of the token is missing                       | 403 `insufficient_scope`                                                |
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from guard.errors import Denied
from guard.gateway.carry import read_meta
from guard.gateway.front_stdio import answered
from guard.gateway.headers import era_of, matching
from guard.gateway.relay import Relay
from guard.gateway.rpc import INTERNAL, INVALID_REQUEST, PARSE, Refused, answer, dumps, error, is_id, notification, request, strict
from guard.server.door import Door
from guard.server.requests import RequestTask
from guard.telemetry import META_TOKEN

__all__ = ["HttpFront"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_MOST: Final = 4 << 20
_SLOW: Final = 30.0
_PING: Final = 15.0
_WAITING: Final = 1_000
_KEPT: Final = 512
_SOON: Final = 0.05
"""Seconds after which it is looked whether the client is still there. Most calls are done before."""
_READ: Final = "guardtrail.headers"
_FREE: Final = ("initialize", "server/discover", "ping", "notifications/initialized")
_STREAM: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class HttpFront:
    """The app. `url`: of the endpoint as clients know it; also the audience their tokens should have."""

    def __init__(
        self,
        relay: Relay,
        url: str,
        *,
        servers: Sequence[str] = (),
        origins: Collection[str] = (),
        open_handshake: bool = False,
        nonces: bool = True,
    ) -> None:
        """`servers`: authorization servers, for the metadata. `origins`: of pages that may call from a browser, besides the endpoint's own.
        `open_handshake`: without a token, what tells nothing of any task is answered: for clients whose token comes with each call."""
        self._relay, self._guard = relay, relay.guard
        self._path = urlsplit(url).path.rstrip("/")
        parts = urlsplit(url)
        self._origins = frozenset({f"{parts.scheme}://{parts.netloc}", *origins})
        self._free = frozenset(_FREE if open_handshake else ())
        self._door = Door(self._inside, self._guard, url=url, servers=servers, nonces=nonces, keep=_KEPT)
        self._answering: dict[tuple[object, ...], set[asyncio.Task[Any]]] = {}
        self._asking: dict[str, tuple[asyncio.Future[Mapping[str, Any]], tuple[str, ...]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._door(scope, receive, send)
        path = scope["path"]
        if path in (_WELL_KNOWN, f"{_WELL_KNOWN}{self._path}"):
            known = f"{_WELL_KNOWN}{self._path}"
            return await self._door({**scope, "path": known, "raw_path": known.encode("ascii")}, receive, send)
        if path.rstrip("/") != self._path:
            return await _plain(send, 404)
        headers = _headers(scope)
        if any(origin not in self._origins for origin in headers.get("origin", ())):
            return await _plain(send, 403)
        scope = {**scope, "path": path[len(self._path) :], "raw_path": path[len(self._path) :].encode("ascii"), _READ: headers}
        if "authorization" not in headers and scope["method"] == "POST":
            body = await _body(receive)
            if body is not None:
                # Who shows nothing makes nobody read a large message. (Written with an escape, the name is not found: then there is no token.)
                if (self._free or META_TOKEN.encode("ascii") in body) and await self._by_meta(scope, headers, body, receive, send):
                    return None
                receive = _again(body, receive)
        return await self._door(scope, receive, send)

    async def _by_meta(self, scope: Scope, headers: Mapping[str, list[str]], body: bytes, receive: Receive, send: Send) -> bool:
        """Was the request answered here: its token stands in `_meta`, or it needs none."""
        try:
            message = strict(body)
            method, params = (message.get("method"), message.get("params")) if isinstance(message, dict) else (None, None)
            token = read_meta(params).token if isinstance(params, dict) else ""
        except (ValueError, Refused):
            return False
        if token:
            task = RequestTask(self._guard, token, None)
            try:
                await task.__aenter__()
            except Denied:
                return False  # it is recorded; the answer is the challenge that whoever shows nothing gets
            try:
                await self._post(headers, body, receive, send, raises=False)
            finally:
                await task.leave()
            return True
        if method in self._free:
            await self._post(headers, body, receive, send, raises=False)
            return True
        return False

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The door has opened the task."""
        if scope["method"] != "POST":
            return await _plain(send, 405, [(b"allow", b"POST")])
        body = await _body(receive)
        if body is None:
            return await _plain(send, 413)
        return await self._post(scope[_READ], body, receive, send, raises=True)

    async def _post(self, headers: Mapping[str, list[str]], body: bytes, receive: Receive, send: Send, *, raises: bool) -> None:
        number: object = None
        try:
            if headers.get("content-type", [""])[0].partition(";")[0].strip().lower() != "application/json":
                raise Refused(INVALID_REQUEST, "the content type is application/json", status=415)
            message = self._message(body)
            number = message.get("id")
            method, params = message.get("method"), message.get("params", {})
            if method is None:
                self._answered(message)
                return await _plain(send, 202)
            if "id" not in message:
                self._told(method, params)
                return await _plain(send, 202)
            modern = era_of(method, params, headers)
            repeats = self._relay.routes.repeats(params.get("name")) if method == "tools/call" else ()
            matching(method, params, headers, modern=modern, repeats=repeats)
            client = _HttpClient(self, modern, raises, "text/event-stream" in ",".join(headers.get("accept", ())))
        except Refused as refused:
            return await _json(send, refused.status if refused.status != 200 else 400, refused.error(number if is_id(number) else None))
        await self._answer(number, method, params, client, receive, send)
        return None

    def _message(self, body: bytes) -> dict[str, Any]:
        try:
            message = strict(body)
        except ValueError:
            raise Refused(PARSE, "not JSON, or a name stands twice in it", status=400) from None
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or ("id" in message and not is_id(message["id"])):
            raise Refused(INVALID_REQUEST, "one message of JSON-RPC 2.0, not several", status=400)
        if not isinstance(message.get("params", {}), dict) or not isinstance(message.get("method", ""), str):
            raise Refused(INVALID_REQUEST, "`method` is text and `params` an object", status=400)
        return message

    async def _answer(self, id: object, method: str, params: dict[str, Any], client: _HttpClient, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        handling = loop.create_task(self._relay.handle(method, params, client))
        handling.add_done_callback(client.wake)
        gone: asyncio.Task[None] | None = None
        key = (self._who(), id)
        self._answering.setdefault(key, set()).add(handling)
        started, quiet = False, _SOON if client.modern else _PING
        try:
            while not handling.done():
                left = gone is not None and gone.done()
                news = left or await client.news(quiet)
                if gone is not None and gone.done() and not handling.done():
                    handling.cancel()  # of this era, closing the stream is how a client cancels
                    await asyncio.wait({handling})
                    return
                if news or handling.done():
                    started = await _flush(client, send, started)
                elif quiet == _SOON:
                    quiet = _PING
                    gone = loop.create_task(_gone(receive))
                    gone.add_done_callback(client.wake)
                elif client.streams:
                    client.waiting.append(b": ping\r\n\r\n")  # so that no proxy thinks that the connection is idle
                    started = await _flush(client, send, started)
            started = await _flush(client, send, started)
            status, said = _outcome(handling, id, raising=not started)
        finally:
            if gone is not None:
                gone.cancel()
            if not handling.done():
                handling.cancel()
                await asyncio.wait({handling})
            going = self._answering.get(key, set())
            going.discard(handling)
            if not going:
                self._answering.pop(key, None)
        if started:
            await send({"type": "http.response.body", "body": _event(said), "more_body": False})
        else:
            await _json(send, status, said)

    # -- what clients say beside requests ------------------------------------------------------------------------------------------------

    def _who(self) -> tuple[str, ...]:
        try:
            delegation = self._guard.current().delegation
        except Denied:
            return ()
        return (*delegation.task, delegation.credential.jti)

    def _told(self, method: object, params: Mapping[str, Any]) -> None:
        """A client cancels its own requests: those of the same token under that id."""
        number = params.get("requestId")
        if method == "notifications/cancelled" and is_id(number) and self._who():
            for handling in self._answering.get((self._who(), number), ()):
                handling.cancel()

    def _answered(self, message: Mapping[str, Any]) -> None:
        """An answer to what a server has asked. Attack: somebody else's answer; ids are not to be guessed, and belong to the token that was asked."""
        asked = message.get("id")
        known = self._asking.get(asked) if isinstance(asked, str) else None
        if known is None or known[1] != self._who() or not known[1]:
            raise Refused(INVALID_REQUEST, "nobody asked for this answer", status=400)
        if not known[0].done():
            known[0].set_result(message)

    async def ask(self, client: _HttpClient, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if client.modern or not client.streams:
            raise Refused(INVALID_REQUEST, "this client cannot be asked that way")
        number = secrets.token_urlsafe(16)
        waiting: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._asking[number] = (waiting, self._who())
        client.put(request(number, method, params))
        return await answered(waiting, lambda: self._asking.pop(number, None))


class _HttpClient:
    """Whose answer this is, and what waits to go into it."""

    def __init__(self, front: HttpFront, modern: bool, raises: bool, streams: bool) -> None:
        self._front, self.modern, self.raises, self.streams = front, modern, raises, streams
        self.waiting: list[bytes] = []
        self._bell: asyncio.Future[bool] | None = None

    def wake(self, done: object = None) -> None:
        if self._bell is not None:
            _ring(self._bell, True)

    async def news(self, seconds: float) -> bool:
        """False: for so long nothing has happened."""
        if self.waiting:
            return True
        loop = asyncio.get_running_loop()
        bell: asyncio.Future[bool] = loop.create_future()
        self._bell = bell
        timer = loop.call_later(seconds, _ring, bell, False)
        try:
            return await bell
        finally:
            timer.cancel()
            self._bell = None

    def put(self, message: Mapping[str, Any]) -> None:
        self.waiting.append(_event(message))
        self.wake()

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        if self.streams and len(self.waiting) < _WAITING:  # whoever reads too slowly misses progress, not the answer
            self.put(notification(method, params))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._front.ask(self, method, params)


def _ring(bell: asyncio.Future[bool], news: bool) -> None:
    if not bell.done():
        bell.set_result(news)


async def _flush(client: _HttpClient, send: Send, started: bool) -> bool:
    """What waits goes out; returns whether the stream has begun."""
    if not client.waiting:
        return started
    if not started:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
    body, client.waiting = b"".join(client.waiting), []
    await send({"type": "http.response.body", "body": body, "more_body": True})
    return True


def _outcome(handling: asyncio.Future[Any], id: object, *, raising: bool) -> tuple[int, dict[str, Any]]:
    """Status and message. Raises Denied where the door is to answer."""
    if handling.cancelled():
        return 200, error(id, -32800, "cancelled")
    failed = handling.exception()
    if failed is None:
        return 200, answer(id, handling.result())
    if isinstance(failed, Refused):
        return failed.status, failed.error(id)
    if isinstance(failed, Denied):
        if raising:
            raise failed
        return 200, error(id, -32010, failed.for_model())
    return 200, error(id, INTERNAL, "an error in the gateway")


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


async def _body(receive: Receive) -> bytes | None:
    """None: too large, too slow, or broken off."""
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(_SLOW):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                size += len(part)
                if size > _MOST:
                    return None
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        return None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return read


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(message: Mapping[str, Any]) -> bytes:
    return b"event: message\r\ndata: " + dumps(message) + b"\r\n\r\n"


async def _json(send: Send, status: int, message: Mapping[str, Any]) -> None:
    body = dumps(message)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii")), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _plain(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *headers]})
    await send({"type": "http.response.body", "body": b""})
