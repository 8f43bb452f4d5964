"""HTTP/1.1 to one server: connections that are kept, one request at a time on each, answers read as they come.

| what fails                                                   | raises      | so the request                       |
|--------------------------------------------------------------|-------------|--------------------------------------|
| no connection, or a header that cannot be sent               | `NotSent`   | was not seen by anybody              |
| the connection, an answer that is no HTTP, or is too large   | `LinkLost`  | may have been carried out            |

Redirects are answers like any other: a request with somebody's data in it goes where the operator said, and nowhere else. A connection that brings more than was
asked for is used no more. Attack: a server writes the answer to a question that is yet to come.
"""

from __future__ import annotations

import asyncio
import re
import select
import ssl
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from guard.errors import ConfigError

try:
    import httptools
except ImportError:
    raise ConfigError('the gateway needs httptools: pip install "guardtrail[gateway]"') from None

__all__ = ["MOST", "LinkLost", "NotSent", "Reply", "Wire"]

MOST: Final = 64 << 20
"""Bytes of one answer, or of one event of a stream."""
_HEAD: Final = 64 << 10
"""Bytes that may come without a part of an answer among them: of its head, above all."""
_IDLE: Final = 3.0
"""Seconds a connection is kept unused: less than servers keep it, so that a request rarely meets a closing one."""
_KEPT: Final = 64
_CONNECT: Final = 10.0
_ENDING: Final = 1.0
"""Seconds the rest of a stream may take to its end, once its answer is here; else its connection is closed."""
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TARGET: Final = re.compile(r"[\x21-\x7e]+")


class NotSent(Exception):
    """Nobody has seen the request."""


class LinkLost(Exception):
    """Whether the request was carried out, nobody here knows."""


class _Connection(asyncio.Protocol):
    """One connection, and the answer that comes on it. The methods without a name of ours are called by asyncio and by the parser."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.idle_since = 0.0
        self._bell: asyncio.Future[None] | None = None
        self.clean()

    def clean(self) -> None:
        """Nothing is asked: whatever comes now is too much."""
        self._parser: Any = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()  # of small chunks a list would be a hundred times as large
        self._dry = 0
        self.ended = self.reusable = False
        self.failed = ""

    def ask(self, request: bytes) -> None:
        self.clean()
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)

    def usable(self) -> bool:
        """Has nothing come since, not even what the event loop has not read yet?"""
        return (
            not self.failed and not self.transport.is_closing() and monotonic() - self.idle_since < _IDLE and not _readable(self.transport)
        )

    def close(self) -> None:
        if self._parser is None or self.ended:
            self.transport.close()
        else:
            self.transport.abort()  # what of the request has not left yet never does

    # -- who reads -----------------------------------------------------------------------------------------------------------------------

    async def change(self) -> None:
        """Until something has come. Raises LinkLost where nothing can."""
        if self.failed:
            raise LinkLost(self.failed)
        self._bell = asyncio.get_running_loop().create_future()
        try:
            await self._bell
        finally:
            self._bell = None

    def taken(self) -> bytes:
        """What of the body has come since."""
        part, self.body = bytes(self.body), bytearray()
        return part

    def _ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    # -- what comes ----------------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.ended:
            self._break("more came than was asked for")
            return
        self._dry += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"an answer that is no HTTP ({type(error).__name__})")
            return
        if (self._dry > _HEAD or len(self.body) > MOST) and not self.ended:
            self._break("the answer is too large, or what comes beside its content")
        self._ring()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self.status and not self.failed and not {"content-length", "transfer-encoding"} & self.headers.keys():
            self.ended = True  # of such an answer, this is the end
        if not self.ended:
            self.failed = self.failed or f"the connection ended {'within' if self.status else 'without'} an answer"
        self.reusable = False
        self._ring()

    def _break(self, why: str) -> None:
        """An answer that was whole by then stays one."""
        self.reusable = False
        self.failed = self.failed or why
        self.transport.abort()
        self._ring()

    # -- what the parser finds -----------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            raise ValueError("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # what comes after the body changes nothing of it
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100 or status == 101 or self._parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another protocol")
        if status < 200:  # informational: the answer is yet to come
            self.headers.clear()
        elif self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise ValueError("a transfer encoding that is not ours")
        else:
            self.status = status

    def on_body(self, body: bytes) -> None:
        if not self.status:
            raise ValueError("a body of what has none")
        self._dry = 0
        self.body += body

    def on_message_complete(self) -> None:
        if self.status:
            self.ended, self.reusable = True, self._parser.should_keep_alive()


class Reply:
    """One answer. Read it whole with `body`, or as it comes with `events`; then `done`, whatever became of it."""

    def __init__(self, wire: Wire, connection: _Connection) -> None:
        self._wire, self._connection = wire, connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def _parts(self) -> AsyncIterator[bytes]:
        connection = self._connection
        while True:
            if connection.body:
                yield connection.taken()
            elif connection.ended:
                return
            else:
                await connection.change()

    async def body(self, most: int = MOST) -> bytes:
        whole = bytearray()
        async for part in self._parts():
            whole += part
            if len(whole) > most:
                raise LinkLost("the answer is too large")
        return bytes(whole)

    async def events(self) -> AsyncIterator[str]:
        """The data of each event of a `text/event-stream`. Other names than `message` are skipped."""
        parts: list[bytes] = []  # of a line that has not ended
        data: list[bytes] = []
        size, named = 0, b"message"
        async for part in self._parts():
            size += len(part)
            if size > MOST:
                raise LinkLost("an event is too large")
            first, *more = part.split(b"\n")
            parts.append(first)
            for following in more:
                line = b"".join(parts).rstrip(b"\r")
                parts = [following]
                if not line:
                    if data and named == b"message":
                        yield b"\n".join(data).decode("utf-8", "replace")
                    data, size, named = [], 0, b"message"
                    continue
                name, _, value = line.partition(b":")
                if name == b"data":
                    data.append(value.removeprefix(b" "))
                elif name == b"event":
                    named = value.removeprefix(b" ")

    def done(self) -> None:
        """What was wanted of it is here."""
        self._wire.back(self._connection)

    def drop(self) -> None:
        """Close it now: that tells a server that nobody waits any more."""
        self._connection.close()


class Wire:
    """To the endpoint `url`. `headers`: with every request; the gateway's own credential for that server may be among them."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.fragment:
            raise ConfigError("a server's address is http://... or https://..., without user and fragment")
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            if not _TARGET.fullmatch(self._target):
                raise ValueError
            self._fixed = _lines({"host": parts.netloc, **{name.lower(): value for name, value in (headers or {}).items()}})
        except ValueError:
            raise ConfigError("a server's address and headers are printable ASCII, without spaces around them") from None
        self._context = ssl.create_default_context() if self._tls else None
        self._free: list[_Connection] = []
        self._finishing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def send(self, method: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Raises NotSent, LinkLost."""
        try:
            head = f"{method} {self._target} HTTP/1.1\r\n{self._fixed}{_lines(headers)}content-length: {len(body)}\r\n\r\n"
        except ValueError:
            raise NotSent("a header of the request cannot be sent") from None
        connection = await self._connected()
        try:
            connection.ask(head.encode("latin-1") + body)
            while not connection.status:
                await connection.change()
        except BaseException:
            connection.close()
            raise
        return Reply(self, connection)

    async def _connected(self) -> _Connection:
        while self._free:
            kept = self._free.pop()
            if kept.usable():
                return kept
            kept.close()
        try:
            async with asyncio.timeout(_CONNECT):
                loop = asyncio.get_running_loop()
                _, made = await loop.create_connection(_Connection, self._host, self._port, ssl=self._context)
        except (OSError, TimeoutError) as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        return made

    def back(self, connection: _Connection) -> None:
        """Kept for the next request, once its answer was read to the end."""
        connection.taken()
        if self._closed:
            connection.close()
        elif not connection.ended:
            task = asyncio.create_task(self._finish(connection))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)
        elif connection.reusable and len(self._free) < _KEPT and not connection.transport.get_write_buffer_size():
            connection.clean()
            connection.idle_since = monotonic()
            self._free.append(connection)
        else:
            connection.close()

    async def _finish(self, connection: _Connection) -> None:
        """A stream has brought its answer, and its end is about to come."""
        try:
            async with asyncio.timeout(_ENDING):
                while not connection.ended:
                    await connection.change()
                    connection.taken()
        except (LinkLost, TimeoutError):
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            self.back(connection)

    def close(self) -> None:
        """Requests on their way come to their end, and their connections are closed then."""
        self._closed = True
        for task in self._finishing:
            task.cancel()
        for connection in self._free:
            connection.close()
        self._free.clear()


def _readable(transport: Any) -> bool:
    number = transport.get_extra_info("socket").fileno()
    if not hasattr(select, "poll"):  # Windows, where numbers may be large
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _lines(headers: Mapping[str, str]) -> str:
    """Attack: a line break in a value, and what follows is a header or a request of the attacker's. Raises ValueError."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError("not a header")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
