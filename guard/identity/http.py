"""HTTP as a client of identity servers needs it, and the only file that imports httpx (when something is asked, not before).

What is the same for every request, whoever makes it:

| | |
|---|---|
| where to  | https, http only on loopback; certificates are checked (roots: `SSL_CERT_FILE`, `SSL_CERT_DIR`, else certifi's)          |
| redirects | none is followed: an answer from another place than was configured is no answer                                        |
| how long  | one bound on all of it, from the look-up of the name to the last byte: a slow drip ends where silence does             |
| how much  | counted while it arrives, compression is not offered and not taken: fifty megabytes end after half of one              |
| what else | no proxies, no `.netrc`, no cookies, no connection is kept                                                             |
| errors    | `HttpFailed` names the host and what was wrong, and nothing of what was sent or came                                   |

One implementation, two ways to drive it: coroutines (`afetch`, `apost_form`), and functions that run them in a loop of their own (`get_json`,
`get_bytes`, `post_form`); those belong on a thread that may wait.
"""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

from guard.errors import GuardError
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.urls import is_endpoint

if TYPE_CHECKING:
    from ssl import SSLContext

    import httpx

__all__ = [
    "MOST", "SECONDS", "Answer", "Certificate", "HttpFailed", "aget_json", "apost_form", "checked_certificate", "get_bytes", "get_json", "get_whatever", "post_bytes", "post_form",
    "post_json",
]  # fmt: skip

T = TypeVar("T")
Json = dict[str, object]
Certificate = tuple[str, str]
"""Paths of a client certificate (PEM, its chain with it) and of its key (PEM, not encrypted)."""
Why = Literal["url", "unreachable", "late", "redirect", "status", "size", "type", "form"]

SECONDS = 10.0
MOST = 512 * 1024
_MEMBERS = 2048
"""Of a JSON document: a set of 64 keys with certificates, metadata with everything a server supports."""
_TOLD = ("content-type", "dpop-nonce", "www-authenticate", "retry-after")
_LONGEST = 8192
"""Of a header that is handed on."""

_TEXTS: Mapping[Why, str] = {
    "url": "is not asked: https only (http on loopback), without user and fragment",
    "unreachable": "could not be reached",
    "late": "did not answer in time",
    "redirect": "answered with a redirect; none is followed",
    "status": "answered with status",
    "size": "answered with more than is taken",
    "type": "answered with another kind of content than was asked for",
    "form": "answered with something that is not a strict JSON object",
}


class HttpFailed(GuardError):
    """No usable answer. `why` is for programs; `status`: of the answer, 0 where there was none. Inside the house only."""

    code = "http.failed"

    def __init__(self, url: str, why: Why, status: int = 0) -> None:
        super().__init__(f"{_host(url)} {_TEXTS[why]}{f' {status}' if why == 'status' else ''}")
        self.why: Why = why
        self.status = status


class Answer(NamedTuple):
    """What came back. `headers`: some, by their lower-case name. `body`: at most what was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json | None:
        """The body as strict JSON object; None where it says or is something else."""
        if not _is_json(self.headers.get("content-type", "")):
            return None
        try:
            return strict_json(self.body, members=_MEMBERS)
        except NotStrict:
            return None


class _Ask(NamedTuple):
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    seconds: float
    most: int
    certificate: Certificate | None = None


def get_bytes(
    url: str, *, kinds: Sequence[str], seconds: float = SECONDS, most: int = MOST, headers: Mapping[str, str] | None = None
) -> bytes:
    """The body of a 200. `kinds`: the media types that will do. Raises `HttpFailed`."""
    return _run(_aget_bytes(url, kinds, seconds, most, headers or {}))


def get_json(url: str, *, seconds: float = SECONDS, most: int = MOST) -> Json:
    """The JSON object of a 200. Raises `HttpFailed`."""
    return _run(aget_json(url, seconds=seconds, most=most))


async def aget_json(url: str, *, seconds: float = SECONDS, most: int = MOST) -> Json:
    """`get_json` for a coroutine."""
    answer = await _send(_Ask("GET", url, {"accept": "application/json"}, None, seconds, most))
    if answer.status != 200:
        raise HttpFailed(url, "status", answer.status)
    if not _is_json(answer.headers.get("content-type", "")):
        raise HttpFailed(url, "type", 200)
    found = answer.json()
    if found is None:
        raise HttpFailed(url, "form", 200)
    return found


def post_form(
    url: str,
    form: Mapping[str, str] | Sequence[tuple[str, str]],
    *,
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    most: int = MOST,
    certificate: Certificate | None = None,
) -> Answer:
    """The answer to a form, whatever its status (a token endpoint says why with 400): the caller reads it. Raises `HttpFailed`.

    `certificate`: shown to a server that asks for one."""
    return _run(apost_form(url, form, headers=headers, seconds=seconds, most=most, certificate=certificate))


async def apost_form(
    url: str,
    form: Mapping[str, str] | Sequence[tuple[str, str]],
    *,
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    most: int = MOST,
    certificate: Certificate | None = None,
) -> Answer:
    """`post_form` for a coroutine."""
    told = {**(headers or {}), "accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
    pairs = list(form.items()) if isinstance(form, Mapping) else list(form)
    return await _send(_Ask("POST", url, told, urlencode(pairs).encode("ascii"), seconds, most, certificate))


def get_whatever(url: str, headers: Mapping[str, str], *, seconds: float = SECONDS, most: int = MOST) -> tuple[int, bytes]:
    """(status, body), whatever the status: the caller reads it. Raises `HttpFailed`."""
    answer = _run(_send(_Ask("GET", url, headers, None, seconds, most)))
    return answer.status, answer.body


def post_bytes(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float = SECONDS, most: int = MOST) -> tuple[int, bytes]:
    """The same for a body of any kind. Raises `HttpFailed`."""
    answer = _run(_send(_Ask("POST", url, headers, body, seconds, most)))
    return answer.status, answer.body


def post_json(
    url: str, value: Mapping[str, object], *, headers: Mapping[str, str] | None = None, seconds: float = SECONDS, most: int = MOST
) -> Answer:
    """The answer to a JSON object, whatever its status. Raises `HttpFailed`."""
    told = {**(headers or {}), "accept": "application/json", "content-type": "application/json"}
    return _run(_send(_Ask("POST", url, told, json.dumps(value).encode("ascii"), seconds, most)))


async def _aget_bytes(url: str, kinds: Sequence[str], seconds: float, most: int, headers: Mapping[str, str]) -> bytes:
    answer = await _send(_Ask("GET", url, {**headers, "accept": ", ".join(kinds)}, None, seconds, most))
    if answer.status != 200:
        raise HttpFailed(url, "status", answer.status)
    if _media(answer.headers.get("content-type", "")) not in kinds:
        raise HttpFailed(url, "type", 200)
    return answer.body


async def _send(ask: _Ask) -> Answer:
    """One request and its whole answer, or `HttpFailed` and nothing else (but cancellation)."""
    if not is_endpoint(ask.url, loopback=True):
        raise HttpFailed(ask.url, "url")
    import asyncio

    import httpx

    why: Why = "unreachable"
    status = 0
    try:
        async with asyncio.timeout(ask.seconds):
            return await _talk(ask)
    except HttpFailed as failed:
        why, status = failed.why, failed.status
    except (TimeoutError, httpx.TimeoutException):
        why = "late"
    except Exception:  # noqa: S110 - names that do not resolve, certificates, protocol errors: said below, without their texts
        pass
    raise HttpFailed(ask.url, why, status)  # outside the handler: what hangs on those exceptions holds the request


async def _talk(ask: _Ask) -> Answer:
    import httpx

    headers = {**ask.headers, "accept-encoding": "identity", "user-agent": "guardtrail", "connection": "close"}
    context = _roots(*_where()) if ask.certificate is None else _showing(ask.certificate, _stamps(ask.certificate), *_where())
    client = httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=ask.seconds)
    async with client, client.stream(ask.method, ask.url, headers=headers, content=ask.body) as response:
        _look(ask, response)
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > ask.most:
                raise HttpFailed(ask.url, "size", response.status_code)
            parts.append(part)
        told = {name: value for name in _TOLD if (value := response.headers.get(name)) is not None and len(value) <= _LONGEST}
        return Answer(response.status_code, told, b"".join(parts))


def _look(ask: _Ask, response: httpx.Response) -> None:
    """What can be refused before the body comes."""
    if 300 <= response.status_code < 400:
        raise HttpFailed(ask.url, "redirect", response.status_code)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpFailed(ask.url, "type", response.status_code)
    length = response.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > ask.most:
        raise HttpFailed(ask.url, "size", response.status_code)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine from here. Also from a thread whose event loop is running: then on a thread beside it."""
    import asyncio

    try:
        asyncio.get_running_loop()
        inside = True
    except RuntimeError:
        inside = False
    if not inside:
        return _in_a_loop(work)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="guardtrail-http") as beside:
        return beside.submit(_in_a_loop, work).result()


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    # A `Runner` since Ctrl-C then cancels the work. Where it is raised in the middle of a connection it comes out as a server that failed, or is
    # lost in a finalizer. Never closed by itself: that waits for the threads of its loop, and one that looks up a name may hang for long.
    loop = asyncio.new_event_loop()
    try:
        return asyncio.Runner(loop_factory=lambda: loop).run(work)
    except asyncio.CancelledError:  # before it had begun: nobody else cancels it
        raise KeyboardInterrupt from None
    finally:
        loop.close()


def _where() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


@lru_cache(maxsize=4)  # reading the roots takes longer than most requests
def _roots(file: str | None, folder: str | None) -> SSLContext:
    import ssl

    import httpx

    if file or folder:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    return httpx.create_ssl_context(trust_env=False)


@lru_cache(maxsize=8)
def _showing(certificate: Certificate, stamps: tuple[tuple[int, int], ...], file: str | None, folder: str | None) -> SSLContext:
    """A context of its own: what is shown to one server is not shown to the next. Made anew when a file was."""
    context = _roots.__wrapped__(file, folder)
    context.load_cert_chain(*certificate, password="")
    return context


def _stamps(certificate: Certificate) -> tuple[tuple[int, int], ...]:
    return tuple((found.st_mtime_ns, found.st_ino) for found in map(os.stat, certificate))


def checked_certificate(certificate: Certificate) -> str | None:
    """Why it cannot be shown; None where it can."""
    try:
        _showing(certificate, _stamps(certificate), *_where())
    except OSError as error:
        return error.strerror or "not readable"
    except Exception:  # what OpenSSL says may quote the file
        return "no certificate with its own key"
    return None


def _is_json(content_type: str) -> bool:
    media = _media(content_type)
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _host(url: object) -> str:
    try:
        return urlsplit(str(url)).netloc.rpartition("@")[2] or "a URL without host"
    except ValueError:
        return "a URL that is none"
