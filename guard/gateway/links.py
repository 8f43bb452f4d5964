"""How messages reach one server and come back: over standard input and output of a process, or over streamable HTTP.

A link knows nothing of tools. Whatever a server sends that is no answer (progress, its own requests) goes to the `Heard` of the request it belongs to; over
standard input and output a server does not say to which, so its own requests go to all that wait (`Heard` decides).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from guard.gateway.rpc import dumps, is_id, loads
from guard.gateway.wire import MOST, LinkLost, NotSent, Reply, Wire

__all__ = ["Heard", "HttpLink", "Link", "SessionOver", "StdioLink", "child_environment"]

_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")
_ENDING: Final = 3.0
"""Seconds a process has to end by itself, twice: after its input is closed, and after it was asked to."""

Heard = Callable[[Mapping[str, Any]], None]
"""Takes what a server sends beside the answer. Must not block."""


class Link(Protocol):
    """One way to a server."""

    stateless: bool
    """Is the newest era to be tried first?"""

    @property
    def alive(self) -> bool: ...

    async def open(self) -> None:
        """Raises NotSent."""

    async def exchange(self, message: Mapping[str, Any], headers: Mapping[str, str], heard: Heard) -> Mapping[str, Any]:
        """Send a request and return its answer. Raises NotSent, LinkLost."""

    async def post(self, message: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Send what has no answer. Best effort."""

    async def close(self) -> None: ...


def child_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a server's process has in its environment: little, and what was said. Attack: GUARDTRAIL_TOKEN and every secret of the agent's host handed to it."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(given)


class StdioLink:
    """A process of ours. `unasked`: takes what belongs to no request."""

    stateless = False

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, unasked: Heard) -> None:
        self._command, self._env, self._cwd, self._unasked = list(command), env, cwd, unasked
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[object, tuple[asyncio.Future[Mapping[str, Any]], Heard]] = {}

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None and self._reading is not None and not self._reading.done()

    async def open(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=None,
                env=child_environment(self._env), cwd=self._cwd, limit=MOST,
            )  # fmt: skip
        except OSError as error:
            raise NotSent(f"`{self._command[0]}` cannot be started: {(error.strerror or type(error).__name__).lower()}") from None
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                try:
                    message = loads(line)
                except ValueError:
                    continue  # a server that prints to its standard output: not a message
                if isinstance(message, Mapping):
                    self._take(message)
        except (ValueError, OSError):  # longer than a line may be
            with suppress(ProcessLookupError):
                process.kill()
        finally:
            waiting, self._waiting = self._waiting, {}
            for future, _ in waiting.values():
                if not future.done():
                    future.set_exception(LinkLost("the server's process ended"))

    def _take(self, message: Mapping[str, Any]) -> None:
        if "method" not in message:
            known = self._waiting.pop(message.get("id"), None) if is_id(message.get("id")) else None
            if known is not None and not known[0].done():
                known[0].set_result(message)
            return
        params = message.get("params")
        token = params.get("progressToken") if isinstance(params, Mapping) and message["method"] == "notifications/progress" else None
        found = self._waiting.get(token) if is_id(token) else None
        (found[1] if found is not None else self._unasked)(message)

    async def exchange(self, message: Mapping[str, Any], headers: Mapping[str, str], heard: Heard) -> Mapping[str, Any]:
        process = self._process
        if not self.alive or process is None or process.stdin is None:
            raise NotSent("the server's process does not run")
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[message["id"]] = (future, heard)
        try:
            process.stdin.write(dumps(message) + b"\n")
            await process.stdin.drain()
            return await future
        except OSError:
            raise LinkLost("the server's process took no more") from None
        finally:
            self._waiting.pop(message["id"], None)

    async def post(self, message: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        if self.alive and self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(dumps(message) + b"\n")
                await self._process.stdin.drain()

    async def close(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        asks: tuple[Callable[[], None] | None, ...] = (None, process.terminate, process.kill)
        for ask in asks:
            with suppress(ProcessLookupError):
                if ask is not None:
                    ask()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _ENDING)
                break
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading


_ACCEPT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


class SessionOver(Exception):
    """The server knows the session no more: it has not looked at the request."""


class HttpLink:
    """Streamable HTTP. `session`: what the server called the session of its handshake, "" where it has none."""

    stateless = True
    alive = True

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._wire = Wire(url, headers)
        self.session = ""

    async def open(self) -> None:
        self.session = ""

    async def exchange(self, message: Mapping[str, Any], headers: Mapping[str, str], heard: Heard) -> Mapping[str, Any]:
        reply = await self._wire.send("POST", dumps(message), self._with(headers))
        try:
            if message["method"] == "initialize" and reply.status < 300:
                self.session = reply.headers.get("mcp-session-id", "")
            streamed, raw = None, b""
            if reply.kind == "text/event-stream" and reply.status < 300:
                streamed = await self._streamed(reply, message["id"], heard)
            else:
                raw = await reply.body()
        except BaseException:
            reply.drop()
            raise
        reply.done()
        return streamed if streamed is not None else self._said(reply, message["id"], raw)

    def _with(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**_ACCEPT, **headers, **({"mcp-session-id": self.session} if self.session else {})}

    async def _streamed(self, reply: Reply, id: object, heard: Heard) -> Mapping[str, Any]:
        async for text in reply.events():
            try:
                message = loads(text)
            except ValueError:
                continue
            if isinstance(message, Mapping) and "method" in message:
                heard(message)
            elif isinstance(message, Mapping) and message.get("id") == id:
                return message
        raise LinkLost("the stream ended without an answer")

    def _said(self, reply: Reply, id: object, raw: bytes) -> Mapping[str, Any]:
        found: Any = None
        if reply.kind == "application/json":
            try:
                found = loads(raw)
            except ValueError:
                found = None
        if reply.status < 300:
            if isinstance(found, Mapping) and found.get("id") == id:
                return found
            raise LinkLost("the answer is not one to this request")
        if reply.status == 404 and self.session:
            raise SessionOver
        if isinstance(found, Mapping) and isinstance(found.get("error"), Mapping) and reply.status < 500:
            return {"jsonrpc": "2.0", "id": id, "error": found["error"]}
        if reply.status < 500:  # 3xx too: nobody follows it
            raise NotSent(f"the server answered HTTP {reply.status}")
        raise LinkLost(f"the server answered HTTP {reply.status}")

    async def post(self, message: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        with suppress(NotSent, LinkLost):
            reply = await self._wire.send("POST", dumps(message), self._with(headers))
            await _unread(reply)

    async def close(self) -> None:
        try:
            if self.session:
                with suppress(NotSent, LinkLost, TimeoutError):
                    async with asyncio.timeout(_ENDING):
                        await _unread(await self._wire.send("DELETE", b"", self._with({})))
        finally:
            self._wire.close()


async def _unread(reply: Reply) -> None:
    try:
        await reply.body(1 << 20)
    except BaseException:
        reply.drop()
        raise
    reply.done()
