"""One server behind the gateway: its handshake, its requests, and its tools as they were pinned.

| what happens to a request                                     | raises             | outcome of the call |
|---------------------------------------------------------------|--------------------|---------------------|
| the server says no (a JSON-RPC error), or was never reached   | `ServerError`      | `error`             |
| no answer in time, the process or the connection ends within  | `NoAnswer`         | `unknown`           |
| whoever asked has gone                                        | CancelledError     | `unknown`; the server is told |

A process that has ended is started again for the next request, at most once a second. What it then says of its tools is compared with the pins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any, Final, NamedTuple

from guard.gateway.headers import Repeats, param_headers, repeated, request_headers
from guard.gateway.links import Heard, Link, SessionOver
from guard.gateway.pins import Pins, State, descriptor, digest
from guard.gateway.rpc import ENVELOPE, HANDSHAKE, META_CAPABILITIES, META_CLIENT, META_VERSION, NO_METHOD, notification, request
from guard.gateway.wire import LinkLost, NotSent

__all__ = ["MOST_TOOLS", "NoAnswer", "Server", "ServerError", "Tool"]

MOST_TOOLS: Final = 10_000
_PAGES: Final = 1_000
_HANDSHAKE: Final = 30.0
_AGAIN: Final = 1.0
_POST: Final = 5.0
_FRESH: Final = 30.0
"""Seconds after which a list of tools is read again before it is shown: over HTTP nobody says that it has changed."""


class ServerError(Exception):
    """The server's own no, as a JSON-RPC error; or it was not reached, `code` None. Nothing of it is ours."""

    def __init__(self, message: str, code: int | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.message, self.code, self.data = message, code, data


class NoAnswer(BaseException):
    """Nobody knows whether the request was carried out. Not an Exception: of one the guard would think that the tool has failed, and give limits back."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Tool(NamedTuple):
    """`shown`: what is handed on of its descriptor. `repeats`: which arguments stand in headers too."""

    shown: Mapping[str, Any]
    digest: str
    state: State
    repeats: Repeats = ()


class Server:
    """`name`: in the policy, tools are `name/tool`; "" where there is one server and the policy says `tool`."""

    def __init__(
        self,
        name: str,
        link: Link,
        pins: Pins,
        *,
        seconds: float = 300.0,
        capabilities: Mapping[str, Any] | None = None,
        lend: bool = False,
        changed: Callable[[Server], None] = lambda server: None,
    ) -> None:
        """`seconds`: how long an answer may take. `capabilities`: what servers are told that clients can do. `lend`: it finds what a call is lent
        (`credential:`) in `_meta`. `changed`: called when its tools were read again and are others."""
        self.name, self.lend = name, lend
        self.tools: dict[str, Tool] = {}
        self.capabilities: Mapping[str, Any] = {}
        self.instructions = ""
        self.version = ""
        self._link, self._pins, self._seconds, self._changed = link, pins, seconds, changed
        self._can = dict(capabilities or {})
        self._ids = count(1)
        self._lock = asyncio.Lock()
        self._tried = self._read_at = 0.0
        self.unread = False
        """Has it failed to say, when it was last asked, what its tools are? Then nobody knows that they are those that were pinned."""

    @property
    def label(self) -> str:
        """As people read it."""
        return f"server `{self.name}`" if self.name else "the server"

    def tool_name(self, tool: str) -> str:
        """As the policy names it."""
        return f"{self.name}/{tool}" if self.name else tool

    # -- the connection ------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises ServerError, NoAnswer."""
        async with self._lock:
            await self._connect()

    async def close(self) -> None:
        await self._link.close()

    async def _connect(self) -> None:
        wait = self._tried + _AGAIN - monotonic()
        if self._tried and wait > 0:
            await asyncio.sleep(wait)  # a server that dies as it starts is not started all the time
        self._tried = monotonic()
        try:
            await self._link.open()
        except NotSent as error:
            raise ServerError(f"{self.label} cannot be reached: {error}") from None
        hello = (self._discover, self._initialize) if self._link.stateless else (self._initialize, self._discover)
        try:
            try:
                await hello[0]()
            except (ServerError, NoAnswer) as error:
                if not self._link.alive or (isinstance(error, ServerError) and error.code is None and not self._link.stateless):
                    raise
                await hello[1]()
            await self._read()
        except NoAnswer as nothing:  # of the handshake: no call was sent
            raise ServerError(f"{self.label} does not answer: {nothing.why}") from None

    async def _discover(self) -> None:
        self.version = ENVELOPE[-1]
        found = await self._ask("server/discover", {}, seconds=_HANDSHAKE)
        offered = found.get("supportedVersions")
        both = [version for version in ENVELOPE if isinstance(offered, list) and version in offered]
        if not both:
            raise ServerError(f"{self.label} speaks no revision of the protocol that this gateway does", NO_METHOD)
        self.version = both[-1]
        self._introduced(found)

    async def _initialize(self) -> None:
        self.version = ""
        params = {"protocolVersion": HANDSHAKE[-1], "capabilities": self._can, "clientInfo": _WHO}
        found = await self._ask("initialize", params, seconds=_HANDSHAKE)
        version = found.get("protocolVersion")
        if version not in HANDSHAKE:
            raise ServerError(f"{self.label} speaks no revision of the protocol that this gateway does", NO_METHOD)
        self.version = version
        self._introduced(found)
        await self.post(notification("notifications/initialized", None))

    def _introduced(self, found: Mapping[str, Any]) -> None:
        capabilities, said = found.get("capabilities"), found.get("instructions")
        self.capabilities = capabilities if isinstance(capabilities, Mapping) else {}
        self.instructions = said if isinstance(said, str) else ""

    # -- requests ------------------------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, params: Mapping[str, Any], heard: Heard | None = None, *, progress: bool = False
    ) -> dict[str, Any]:
        """The result. Raises ServerError, NoAnswer. `heard`: takes the server's own requests within this one, and `progress` if it is wanted."""
        if not self._link.alive:
            async with self._lock:
                if not self._link.alive:
                    await self._connect()
        self._as_pinned(method, params)
        try:
            return await self._ask(method, params, heard=heard, progress=progress)
        except SessionOver:  # not looked at: the session of the handshake is over
            async with self._lock:
                await self._connect()
            self._as_pinned(method, params)
            try:
                return await self._ask(method, params, heard=heard, progress=progress)
            except SessionOver:
                raise ServerError(f"{self.label} forgets its sessions at once") from None

    def _as_pinned(self, method: str, params: Mapping[str, Any]) -> None:
        """Attack: a server ends, and is another one when a call that was judged by the pins starts it again."""
        if method == "tools/call":
            tool = self.tools.get(str(params.get("name")))
            if tool is None or tool.state != "pinned":
                raise ServerError(f"{self.label} began anew and does not describe the tool as it was pinned")

    async def _ask(
        self, method: str, params: Mapping[str, Any], *, heard: Heard | None = None, progress: bool = False, seconds: float | None = None
    ) -> dict[str, Any]:
        number = next(self._ids)
        given: dict[str, Any] = dict(params)
        meta = dict(given.get("_meta") or {})
        if progress:
            meta["progressToken"] = number
        if self.version in ENVELOPE:
            meta |= {META_VERSION: self.version, META_CLIENT: _WHO, META_CAPABILITIES: self._can}
        if meta:
            given["_meta"] = meta
        seconds = seconds or self._seconds
        try:
            async with asyncio.timeout(seconds):
                message = request(number, method, given)
                found = await self._link.exchange(message, self._headers(method, given), heard or _deaf)
        except TimeoutError:
            await self._cancel(number, method)
            raise NoAnswer(f"no answer within {seconds:g} s") from None
        except asyncio.CancelledError:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.ensure_future(self._cancel(number, method)))
            raise
        except NotSent as error:
            raise ServerError(f"{self.label} cannot be reached: {error}") from None
        except LinkLost as error:
            raise NoAnswer(str(error)) from None
        return self._result(found)

    def _result(self, found: Mapping[str, Any]) -> dict[str, Any]:
        said = found.get("error")
        if isinstance(said, Mapping):
            code, text = said.get("code"), said.get("message")
            raise ServerError(text if isinstance(text, str) else "an error", code if type(code) is int else -32603, said.get("data"))
        result = found.get("result")
        if not isinstance(result, dict):
            raise NoAnswer("an answer that is none")
        return result

    def _headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        if not self.version:
            return {}
        if self.version not in ENVELOPE:
            return {"mcp-protocol-version": self.version}
        more: dict[str, str] = {}
        if method == "tools/call" and (tool := self.tools.get(str(params.get("name")))) is not None:
            more = param_headers(tool.repeats, params.get("arguments") or {})
        return {"mcp-protocol-version": self.version, **request_headers(method, params), **more}

    async def _cancel(self, number: int, method: str) -> None:
        """Where the era has no such message, the connection was closed: that says it."""
        if method in ("initialize", "server/discover") or (self.version in ENVELOPE and self._link.stateless):
            return
        await self.post(notification("notifications/cancelled", {"requestId": number, "reason": "nobody waits any more"}))

    async def post(self, message: Mapping[str, Any]) -> None:
        """Send what has no answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_POST):
                await self._link.post(message, self._headers(str(message.get("method", "")), {}))

    # -- its tools -----------------------------------------------------------------------------------------------------------------

    async def fresh(self) -> None:
        """Read the tools again where that was long ago. Attack: a server that changes a tool, and fails only `tools/list`: see `unread`."""
        if monotonic() - self._read_at > _FRESH and not self._lock.locked():
            self._read_at = monotonic()  # one that hangs is not waited for again with every list
            try:
                await self.reread()
            except (ServerError, NoAnswer):
                self.unread = True

    async def looked_at(self) -> None:
        """Before a call. Attack: over HTTP nobody says that a list has changed, and a client that only calls never asks for it."""
        if self._link.stateless or self.unread:
            await self.fresh()

    async def reread(self) -> None:
        """The server's list may have changed. Raises ServerError, NoAnswer."""
        async with self._lock:
            try:
                if self._link.alive:
                    return await self._read()
            except SessionOver:
                pass
            await self._connect()
        return None

    async def _read(self) -> None:
        found: dict[str, Tool] = {}
        async for shown in self._listed():
            name = str(shown["name"])
            mark = digest(shown)
            state = self._pins.state(self.name, name, mark)
            if name in found and found[name].digest != mark:
                mark, state = (
                    "",
                    "changed",
                )  # Attack: one tool listed twice, once as it was pinned. Such a one has no digest, and cannot be pinned.
            found[name] = Tool(shown, mark, state, repeated(shown["inputSchema"]))
        before, self.tools, self._read_at, self.unread = self.tools, found, monotonic(), False
        if before != found:
            self._changed(self)

    async def _listed(self) -> Any:
        cursor, number = None, 0
        seen: set[str] = set()
        for _ in range(_PAGES if "tools" in self.capabilities else 0):
            page = await self._ask("tools/list", {} if cursor is None else {"cursor": cursor}, seconds=_HANDSHAKE)
            for shown in _tools_of(page):
                number += 1
                if number > MOST_TOOLS:
                    raise ServerError(f"{self.label} lists more than {MOST_TOOLS:,} tools")
                yield shown
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str):
                return
            if cursor in seen:
                raise ServerError(f"{self.label} lists its tools in a circle")
            seen.add(cursor)

    def pin(self) -> None:
        """Everything as it is now; `Pins.save` writes it."""
        self._pins.pin(self.name, {name: tool.digest for name, tool in self.tools.items() if tool.digest}, self.instructions)
        self.tools = {name: tool._replace(state="pinned" if tool.digest else "changed") for name, tool in self.tools.items()}

    def pinned_instructions(self) -> str:
        return self.instructions if self.instructions and self._pins.says(self.name, self.instructions) else ""


def _tools_of(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    tools = page.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, Mapping) and isinstance(tool.get("name"), str) and isinstance(tool.get("inputSchema"), Mapping):
            yield descriptor(tool)


def _deaf(message: Mapping[str, Any]) -> None:
    """Nobody asked for it."""


_WHO: Final = {"name": "guardtrail", "version": "0.1.0"}
