"""HTTP/1.1 to one server: connections that are kept, one request at a time on each, answers read as they come.

| what fails                                                   | raises      | so the request                       |
|--------------------------------------------------------------|-------------|--------------------------------------|
| no connection, before anything was sent                      | `NotSent`   | was not seen by anybody              |
| the connection, an answer that is no HTTP, or is too large   | `LinkLost`  | may have been carried out            |

Redirects are answers like any other: a request with somebody's data in it goes where the operator said, and nowhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from guard.errors import ConfigError

try:
    import h11
except ImportError:
    raise ConfigError('the gateway needs h11: pip install "guardtrail[gateway]"') from None

__all__ = ["MOST", "LinkLost", "NotSent", "Reply", "Wire"]

MOST: Final = 64 << 20
"""Bytes of one answer, or of one event of a stream."""
_CHUNK: Final = 256 << 10
_IDLE: Final = 3.0
"""Seconds a connection is kept unused: less than servers keep it, so that a request rarely meets a closing one."""
_KEPT: Final = 64
_CONNECT: Final = 10.0


class NotSent(Exception):
    """Nobody has seen the request."""


class LinkLost(Exception):
    """Whether the request was carried out, nobody here knows."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 << 10)
        self.idle_since = 0.0

    async def next(self) -> Any:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.h11.receive_data(await self.reader.read(_CHUNK))

    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing() and monotonic() - self.idle_since < _IDLE

    def close(self) -> None:
        self.writer.close()


class Reply:
    """One answer. Read it whole with `body`, or as it comes with `events`; then `done`, whatever became of it."""

    def __init__(self, wire: Wire, connection: _Connection, response: Any) -> None:
        self._wire, self._connection = wire, connection
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            while True:
                event = await self._connection.next()
                if type(event) is h11.Data:
                    yield bytes(event.data)
                elif type(event) is h11.EndOfMessage:
                    return
                else:
                    raise LinkLost("the connection ended within an answer")
        except (OSError, h11.ProtocolError) as error:
            raise LinkLost(f"the answer broke off ({type(error).__name__})") from None

    async def body(self, most: int = MOST) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in self._parts():
            size += len(part)
            if size > most:
                raise LinkLost("the answer is too large")
            parts.append(part)
        return b"".join(parts)

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
        self._fixed = [("host", parts.netloc), *((name.lower(), value) for name, value in (headers or {}).items())]
        self._context = ssl.create_default_context() if self._tls else None
        self._free: list[_Connection] = []
        self._finishing: set[asyncio.Task[None]] = set()

    async def send(self, method: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Raises NotSent, LinkLost."""
        connection = await self._connected()
        try:
            whole = [*self._fixed, *headers.items(), ("content-length", str(len(body)))]
            head = connection.h11.send(h11.Request(method=method, target=self._target, headers=whole))
            rest = connection.h11.send(h11.Data(data=body)) if body else b""
            connection.h11.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            connection.close()
            raise NotSent("a header of the request cannot be sent") from None
        try:
            connection.writer.write((head or b"") + (rest or b""))
            await connection.writer.drain()
            while True:
                event = await connection.next()
                if type(event) is h11.Response:
                    return Reply(self, connection, event)
                if type(event) is not h11.InformationalResponse:
                    raise LinkLost("the connection was closed without an answer")
        except (OSError, h11.ProtocolError) as error:
            connection.close()
            raise LinkLost(f"the connection broke ({type(error).__name__})") from None
        except BaseException:
            connection.close()
            raise

    async def _connected(self) -> _Connection:
        while self._free:
            kept = self._free.pop()
            if kept.usable():
                return kept
            kept.close()
        try:
            async with asyncio.timeout(_CONNECT):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=1 << 20)
        except (OSError, TimeoutError) as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        return _Connection(reader, writer)

    def back(self, connection: _Connection) -> None:
        """Kept for the next request, once its answer was read to the end."""
        if connection.h11.their_state is h11.SEND_BODY:
            task = asyncio.create_task(self._finish(connection))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)
        elif connection.h11.our_state is h11.DONE and connection.h11.their_state is h11.DONE and len(self._free) < _KEPT:
            connection.h11.start_next_cycle()
            connection.idle_since = monotonic()
            self._free.append(connection)
        else:
            connection.close()

    async def _finish(self, connection: _Connection) -> None:
        """A stream has brought its answer, and its end is about to come."""
        try:
            async with asyncio.timeout(1.0):
                while type(await connection.next()) is h11.Data:
                    pass
        except (OSError, TimeoutError, h11.ProtocolError):
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            if connection.h11.their_state is h11.SEND_BODY:
                connection.close()
            else:
                self.back(connection)

    def close(self) -> None:
        for task in self._finishing:
            task.cancel()
        for connection in self._free:
            connection.close()
        self._free.clear()
