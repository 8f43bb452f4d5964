"""A real `MCPServer` with the middleware, driven by the SDK's own client in memory; each turn of the script is what a host's model would call.

Calls carry the token, the proof-free way: in `_meta`, as on every transport. Transports themselves are the business of tests/adapters/test_mcp_server.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.types import ElicitResult, InputRequiredResult, PaginatedRequestParams

from guard.adapters._mcp import PROMPT
from guard.adapters.mcp_server import GuardMiddleware, coverage
from guard.telemetry import META_APPROVAL, META_CALL, META_TOKEN
from guard.testing.conformance import Answer, Call, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "McpServerDriver"]


class App:
    """A server, what the model on the other side will say, and where it is."""

    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script = world, script
        self.server = self.make(world)
        self.trace, self.at = Trace(), 0
        self.waiting: list[Call] = []

    def make(self, world: World) -> Any:
        server = MCPServer("desk", version="1", middleware=[GuardMiddleware(world.guard)])
        for body in world.tools():
            server.tool()(body)
        return server


class McpServerDriver(Driver):
    name: ClassVar[str] = "mcp_server"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async"})
    carries: ClassVar[bool] = True
    gaps: ClassVar[Mapping[str, str]] = {
        "stream": "a tool's result comes whole; there is no other way to run a call",
        "sub_agent": "a server has tools, not agents",
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        async with Client(app.server, elicitation_callback=nobody) as client:
            return await self._go_on(app, client)

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        waiting, app.waiting, app.trace.pending = app.waiting, [], []
        async with Client(app.server, elicitation_callback=nobody) as client:
            answer = ElicitResult(action="accept", content={}) if yes else ElicitResult(action="decline")
            await asyncio.gather(*(self._call(app, client, call, {PROMPT: answer}) for call in waiting))
            return app.trace if app.waiting else await self._go_on(app, client)

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        return asyncio.run(self._bypass(app, call))

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.server)}

    async def _go_on(self, app: App, client: Client) -> Trace:
        for turn in app.script[app.at :]:
            app.at += 1
            app.trace.shown.append(await self._list(app, client))
            if isinstance(turn, str):
                app.trace.final = turn
                break
            await asyncio.gather(*(self._call(app, client, call, None) for call in turn))  # type: ignore[arg-type]
            if app.waiting:
                break
        return app.trace

    async def _list(self, app: App, client: Client) -> tuple[str, ...]:
        try:
            listed = await client.session.list_tools(params=PaginatedRequestParams(_meta={META_TOKEN: app.world.token}))
        except MCPError:
            return ()
        return tuple(tool.name for tool in listed.tools)

    async def _call(self, app: App, client: Client, call: Call, answers: Any) -> None:
        meta: Any = {META_TOKEN: app.world.token, META_CALL: call.id}
        try:
            result = await client.session.call_tool(
                call.tool, dict(call.args), meta=meta, input_responses=answers, allow_input_required=True
            )
        except MCPError as error:
            app.trace.answers[call.id] = Answer(error.message, True)
            return
        if isinstance(result, InputRequiredResult):
            app.waiting.append(call)
            app.trace.pending.append(call.id)
            app.trace.requests[call.id] = (result.meta or {})[META_APPROVAL]
        else:
            app.trace.answers[call.id] = Answer(said(result), result.is_error)

    async def _bypass(self, app: App, call: Call) -> Mapping[str, object]:
        args, tool = dict(call.args), app.server._tool_manager.get_tool(call.tool)
        assert tool is not None
        return {
            "server.call_tool(...)": await attempt(app.server.call_tool(call.tool, args)),
            "tool.run(...)": await attempt(tool.run(args, None)),  # type: ignore[arg-type]
            "tool.fn(...)": await attempt(asyncio.to_thread(tool.fn, **args)),
            "tool.fn.__wrapped__(...)": await attempt(asyncio.to_thread(tool.fn.__wrapped__, **args)),  # type: ignore[attr-defined]
        }


async def nobody(*_: Any) -> ElicitResult:
    """There, so that the client says it can ask; the driver answers by itself."""
    raise AssertionError("asked past the driver")


def said(result: Any) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


async def attempt(call: Any) -> object:
    """What came of it: its value, or the exception."""
    try:
        return await call
    except Exception as error:
        return error


DRIVER = McpServerDriver
