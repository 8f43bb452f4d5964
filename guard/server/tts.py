"""The Transaction Token service as one ASGI app.

| path                                            | what                                                              |
|-------------------------------------------------|-------------------------------------------------------------------|
| POST `/token`                                   | RFC 8693: a form in, a token or an OAuth error out                |
| GET `/jwks.json`                                | the keys (RFC 7517)                                               |
| GET `/.well-known/oauth-authorization-server`   | the metadata (RFC 8414): a guard needs nothing but the issuer     |

All of them below the path of the issuer, where it has one; the metadata as RFC 8414 section 3.1 says. A request is read up to 64 KiB and for ten
seconds; nothing that was sent comes back in an answer, or in a log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlsplit

from guard.errors import ConfigError, GuardError
from guard.server.bodies import body_of
from guard.server.forms import Asking
from guard.server.issuing import TokenService
from guard.server.requesters import METHODS
from guard.tokens.keys import ALGORITHMS
from guard.tokens.lent import GRANT

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError:
    raise ConfigError('guard.server needs starlette >= 0.40: pip install "guardtrail[server]"') from None

__all__ = ["tts_app"]

_MOST = 64 * 1024
_FIELDS = 32
_FORM = "application/x-www-form-urlencoded"
_NOT_KEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_KEPT = {"Cache-Control": "public, max-age=60"}


def tts_app(service: TokenService) -> Starlette:
    """The endpoints of `service`, at the paths its issuer has."""
    url = service.service.issuer.removesuffix("/")
    path = urlsplit(url).path
    metadata = {
        "issuer": service.service.issuer,
        "token_endpoint": service.token_endpoint,
        "jwks_uri": f"{url}/jwks.json",
        "response_types_supported": [],
        "grant_types_supported": [GRANT],
        "token_endpoint_auth_methods_supported": list(METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "authorization_details_types_supported": ["agent_task", "agent_tool"],
    }

    async def token(request: Request) -> Response:
        if request.url.query:  # attack A115: what stands in an address ends up in logs
            return _wrong("nothing may stand in the query")
        if not _is_form(request.headers.getlist("content-type")) or len(request.headers.getlist("authorization")) > 1:
            return _wrong(f"the content type is {_FORM}, and `Authorization` comes once at most")
        try:
            raw = await body_of(request, _MOST)
        except TimeoutError:
            return _wrong("it came too slowly", 408)
        except ClientDisconnect:
            return _wrong("it came in part")
        if raw is None:
            return _wrong("it is too large", 413)
        try:
            text = raw.decode("ascii")
            form = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=_FIELDS, errors="strict") if text else []
        except ValueError:
            return _wrong("the form is not well formed")
        asking = Asking(form, request.headers.get("authorization", ""), request.headers.getlist("dpop"))
        answer = await run_in_threadpool(service.answer, asking)
        return JSONResponse(dict(answer.body), answer.status, {**answer.headers, **_NOT_KEPT})

    async def jwks(request: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(service.ring.jwks), headers=_KEPT)
        except GuardError as error:
            return JSONResponse({"error": "temporarily_unavailable", "error_description": str(error.code)}, 503, {"Retry-After": "5"})

    async def said(request: Request) -> Response:
        return JSONResponse(metadata, headers=_KEPT)

    return Starlette(
        routes=[
            Route(f"{path}/token", _closed(token), methods=["POST"]),
            Route(f"{path}/jwks.json", jwks, methods=["GET"]),
            Route(f"/.well-known/oauth-authorization-server{path}", said, methods=["GET"]),
        ]
    )


def _closed(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Whatever goes wrong is an answer without words: the server's own page would name the exception."""

    async def closed(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception:
            return JSONResponse({"error": "server_error"}, 500, _NOT_KEPT)

    return closed


def _is_form(types: list[str]) -> bool:
    kind, _, more = types[0].partition(";") if len(types) == 1 else ("", "", "")
    return kind.strip().lower() == _FORM and more.strip().lower() in ("", "charset=utf-8", 'charset="utf-8"')


def _wrong(text: str, status: int = 400) -> Response:
    return JSONResponse({"error": "invalid_request", "error_description": text}, status, _NOT_KEPT)
