"""The receiver's endpoints, as one ASGI app.

| path       | what is sent                                   | answer                                                                             |
|------------|------------------------------------------------|------------------------------------------------------------------------------------|
| `/events`  | one security event token (push, RFC 8935)      | 202 taken (or here before); 400 `{err, description}`: never send it again; 503: do  |
| `/signals` | telemetry, one JSON object a line              | 202; 400 with the lines that were not taken; 503: send all of it again             |

An event is believed for its signature, a signal for the token of its source. Nothing that was sent comes back in an answer, or in a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

from guard.errors import ConfigError, GuardError
from guard.identity.revoked.inbox import Inbox
from guard.identity.signals import SignalFeed, SignalRefused
from guard.server.bodies import body_of
from guard.tokens.events import EventRefused

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError:
    raise ConfigError('guard.server needs starlette >= 0.40: pip install "guardtrail[server]"') from None

__all__ = ["events_app"]

_MOST_EVENT = 16 * 1024
_MOST_SIGNALS = 256 * 1024
_MOST_LINES = 1000
_LEAST_TOKEN = 24
"""Within which a request must have come."""


def events_app(
    inbox: Inbox, *, authorization: str | None = None, feed: SignalFeed | None = None, sources: Mapping[str, str] = {}
) -> Starlette:
    """`authorization`: the exact header that senders of events must bring too; None: the signature is enough. `feed`: where telemetry goes,
    `sources`: name of a source -> its bearer token, 24 characters or more. Without a feed there is no `/signals`."""
    tokens = {name: _digest(token) for name, token in sources.items()}
    if feed is not None and (not tokens or not all(len(token) >= _LEAST_TOKEN and token.isascii() for token in sources.values())):
        raise ConfigError(f"events_app: `sources` gives every source of telemetry a bearer token of {_LEAST_TOKEN} characters or more")
    if len(set(tokens.values())) != len(tokens):
        raise ConfigError("events_app: two sources have the same token; who is who could not be told")
    wanted = None if authorization is None else _digest(authorization)

    async def events(request: Request) -> Response:
        if wanted is not None and not compare_digest(_digest(request.headers.get("authorization", "")), wanted):
            return _refused(EventRefused("authentication_failed", "not a sender that is known here"), 401)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/secevent+jwt":
            return _refused(EventRefused("invalid_request", "the content type is not application/secevent+jwt"))
        try:
            raw = await body_of(request, _MOST_EVENT)
        except (TimeoutError, ClientDisconnect):
            return _later("it came too slowly, or in part")
        if raw is None or not raw.isascii():
            return _refused(EventRefused("invalid_request", "not a security event token in compact form"))
        try:
            await run_in_threadpool(inbox.receive, raw.decode("ascii"))
        except EventRefused as refused:
            return _refused(refused)
        except GuardError as error:
            return _later(str(error.code))
        return Response(status_code=202)

    async def signals(request: Request) -> Response:
        source = _source(request.headers.get("authorization", ""), tokens)
        if source is None:
            return JSONResponse({"err": "authentication_failed"}, 401, {"WWW-Authenticate": "Bearer"})
        try:
            raw = await body_of(request, _MOST_SIGNALS)
        except (TimeoutError, ClientDisconnect):
            return _later("it came too slowly, or in part")
        lines = [line for line in raw.splitlines() if line.strip()] if raw is not None else []
        if feed is None or raw is None or len(lines) > _MOST_LINES:
            return JSONResponse({"err": "invalid_request", "description": "too much at once"}, 413)
        return await run_in_threadpool(_take, feed, source, lines)

    routes = [Route("/events", events, methods=["POST"])]
    if feed is not None:
        routes.append(Route("/signals", signals, methods=["POST"]))
    return Starlette(routes=routes)


def _take(feed: SignalFeed, source: str, lines: list[bytes]) -> Response:
    refused: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        try:
            feed.take(line, source=source)
        except SignalRefused as error:
            refused.append({"line": number, "description": str(error)})
        except GuardError as error:
            return _later(str(error.code))
    return JSONResponse({"taken": len(lines) - len(refused), "refused": refused}, 400 if refused else 202)


def _refused(refused: EventRefused, status: int = 400) -> Response:
    return JSONResponse({"err": refused.err, "description": str(refused)}, status, {"Content-Language": "en"})


def _later(why: str) -> Response:
    return JSONResponse({"err": "unavailable", "description": why}, 503, {"Retry-After": "5"})


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _source(header: str, tokens: Mapping[str, bytes]) -> str | None:
    """Whose token it is. All of them are compared: how long it takes tells nothing of how much was right."""
    scheme, _, token = header.partition(" ")
    given = _digest(token)
    found = [name for name, digest in tokens.items() if compare_digest(given, digest)]
    return found[0] if found and scheme.lower() == "bearer" else None
