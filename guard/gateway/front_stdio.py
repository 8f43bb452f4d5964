"""In front: standard input and output, one client. There are no headers: the token comes from where the gateway was started, or with each request.

| the token of a request                 | counts                                             |
|----------------------------------------|----------------------------------------------------|
| `_meta["guardtrail.io/token"]`         | first                                              |
| `--token`, else `$GUARDTRAIL_TOKEN`    | then; a file (`@FILE`) is read again as it changes |
| neither                                | every call is denied `task.none` (row F36: no transport is trusted more) |
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from guard.errors import Denied
from guard.gateway.answers import denial
from guard.gateway.carry import read_meta
from guard.gateway.ending import ending
from guard.gateway.headers import era_of
from guard.gateway.relay import Relay
from guard.gateway.rpc import INTERNAL, INVALID_REQUEST, PARSE, Refused, answer, dumps, error, is_id, notification, request, strict
from guard.ports import Prover
from guard.server.requests import RequestTask

__all__ = ["StdioFront", "token_source"]

_LINE: Final = 16 << 20
_OPEN: Final = 16
_MOST_TOKEN: Final = 64 << 10
_ANSWER: Final = 600.0
_MOST_WAITING: Final = 4 << 20
_FREE: Final = ("initialize", "server/discover", "ping")


def token_source(given: str | None) -> Callable[[], str]:
    """What `--token` says, read when it is asked for. A file that cannot be read is no token."""
    if given is None or not given.startswith("@"):
        text = (given if given is not None else os.environ.get("GUARDTRAIL_TOKEN", "")).strip()
        return lambda: text
    path, known = Path(given[1:]), ["", ""]

    def read() -> str:
        try:
            about = path.stat()
            mark = f"{about.st_mtime_ns} {about.st_size} {about.st_ino}"
            if mark != known[0]:
                with path.open("rb") as file:
                    known[:] = [mark, file.read(_MOST_TOKEN).decode("ascii", "ignore").strip()]
        except OSError:
            return ""
        return known[1]

    return read


class StdioFront:
    """Serves one client until its input ends."""

    def __init__(self, relay: Relay, token: Callable[[], str], key: Prover | None = None) -> None:
        self._relay, self._token, self._key = relay, token, key
        self._tasks: dict[str, RequestTask] = {}
        self._answering: dict[object, asyncio.Task[None]] = {}
        self._asking: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._number = 0
        self._write: Callable[[bytes], None] = lambda line: None
        self.waiting: Callable[[], int] = lambda: 0
        self._modern: bool | None = None

    async def serve(self, source: BinaryIO = sys.stdin.buffer, sink: BinaryIO = sys.stdout.buffer) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LINE)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        self._write, self.waiting = await _writer(loop, sink)
        self._relay.listeners.add(self._changed)
        try:
            with ending(reader.feed_eof):
                await self._read(reader)
        finally:
            self._relay.listeners.discard(self._changed)
            for task in list(self._answering.values()):
                task.cancel()
            await asyncio.gather(*self._answering.values(), return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than a line may be; what of it is left is read as the next
                self.send(error(None, INVALID_REQUEST, "the message is too large"))
                continue
            if not line:
                return
            if line.strip():
                self._take(line)

    def send(self, message: Mapping[str, Any]) -> None:
        self._write(dumps(message) + b"\n")

    def _changed(self) -> None:
        if self._modern is False:
            self.send(notification("notifications/tools/list_changed", None))

    def _take(self, line: bytes) -> None:
        try:
            message = strict(line)
        except ValueError:
            self.send(error(None, PARSE, "not JSON, or a name stands twice in it"))
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self.send(error(None, INVALID_REQUEST, "one message of JSON-RPC 2.0 a line"))
            return
        method, number = message.get("method"), message.get("id")
        if method is None:
            waiting = self._asking.pop(number, None) if isinstance(number, str) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        params = message.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict) or ("id" in message and not is_id(number)):
            self.send(
                error(number if is_id(number) else None, INVALID_REQUEST, "a request has an id, a method, and params that are an object")
            )
            return
        if "id" not in message:
            if (
                method == "notifications/cancelled"
                and is_id(params.get("requestId"))
                and (going := self._answering.get(params["requestId"]))
            ):
                going.cancel()
            return
        if number in self._answering:
            self.send(error(number, INVALID_REQUEST, "this id is in use"))
            return
        self._answering[number] = task = asyncio.get_running_loop().create_task(self._answer(number, method, params))
        task.add_done_callback(lambda _: self._answering.pop(number, None))

    async def _answer(self, id: object, method: str, params: dict[str, Any]) -> None:
        try:
            modern = era_of(method, params, None)
            if self._modern is None:
                self._modern = modern
            said = answer(id, await self._handled(method, params, _StdioClient(self, modern)))
        except Refused as refused:
            said = refused.error(id)
        except asyncio.CancelledError:  # nobody waits for an answer
            return
        except Exception:
            said = error(id, INTERNAL, "an error in the gateway")
        self.send(said)

    async def _handled(self, method: str, params: dict[str, Any], client: _StdioClient) -> dict[str, Any]:
        token = read_meta(params).token or self._token()
        if method in _FREE or not token:
            return await self._relay.handle(method, params, client)
        task = self._tasks.pop(token, None) or RequestTask(self._relay.guard, token, None, self._key_of(token))
        try:
            await task.__aenter__()
        except Denied as denied:
            return denial(method, denied, modern=client.modern)
        self._tasks[token] = task  # the last one used is the last one forgotten
        while len(self._tasks) > _OPEN:
            self._tasks.pop(next(iter(self._tasks)))
        try:
            return await self._relay.handle(method, params, client)
        finally:
            await task.__aexit__(None, None, None)

    def _key_of(self, token: str) -> Prover | None:
        return self._key if token == self._token() else None

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        self._number += 1
        number = f"gateway-{self._number}"
        self._asking[number] = waiting = asyncio.get_running_loop().create_future()
        self.send(request(number, method, params))
        return await answered(waiting, lambda: self._asking.pop(number, None))


async def answered(waiting: asyncio.Future[Mapping[str, Any]], forget: Callable[[], object]) -> Mapping[str, Any]:
    """A client's answer to what a server asked. Raises Refused."""
    try:
        async with asyncio.timeout(_ANSWER):
            found = await waiting
    except TimeoutError:
        raise Refused(-32001, "the client does not answer") from None
    finally:
        forget()
    result = found.get("result")
    if not isinstance(result, dict):
        raise Refused(-32600, "the client does not answer that")
    return result


class _StdioClient:
    raises = False

    def __init__(self, front: StdioFront, modern: bool) -> None:
        self._front, self.modern = front, modern

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        if self._front.waiting() < _MOST_WAITING:  # whoever reads too slowly misses progress, not the answer
            self._front.send(notification(method, params))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.modern:
            raise Refused(-32600, "of this revision, servers do not ask that way")
        return await self._front.ask(method, params)


async def _writer(loop: asyncio.AbstractEventLoop, sink: BinaryIO) -> tuple[Callable[[bytes], None], Callable[[], int]]:
    """How a line is written, and how many bytes wait to be read."""
    try:
        transport, _ = await loop.connect_write_pipe(asyncio.Protocol, sink)
    except ValueError:  # a file

        def write(line: bytes) -> None:
            with suppress(BrokenPipeError):
                sink.write(line)
                sink.flush()

        return write, lambda: 0
    return transport.write, transport.get_write_buffer_size
