"""The client side: a `GuardedSession` on a real server in memory that has no guard of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from mcp import Client
from mcp.server import MCPServer

from guard.adapters.mcp import GuardedSession
from guard.testing.conformance import Answer, Call, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.mcp_server import attempt, said

__all__ = ["DRIVER", "McpDriver"]


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script = world, script
        self.server = MCPServer("desk", version="1")
        for body in world.tools():
            self.server.tool()(body)
        self.trace = Trace()


class McpDriver(Driver):
    name: ClassVar[str] = "mcp"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async"})
    gaps: ClassVar[Mapping[str, str]] = {
        "stream": "a tool's result comes whole; there is no other way to run a call",
        "pause": "a session answers each call; the model reads that approval is needed, and the call is made again",
        "sub_agent": "a session has tools, not agents",
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        async with Client(app.server) as client:
            tools = GuardedSession(app.world.guard, client.session)
            for turn in app.script:
                app.trace.shown.append(tuple(tool.name for tool in (await tools.list_tools()).tools))
                if isinstance(turn, str):
                    app.trace.final = turn
                    break
                await asyncio.gather(*(self._call(app, tools, call) for call in turn))
        return app.trace

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        app.trace = Trace()
        return await self.arun(app) if yes else app.trace

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        return asyncio.run(self._bypass(app, call))

    async def _call(self, app: App, tools: GuardedSession, call: Any) -> None:
        result = await tools.call_tool(call.tool, dict(call.args), call_id=call.id)
        app.trace.answers[call.id] = Answer(said(result), result.is_error)

    async def _bypass(self, app: App, call: Call) -> Mapping[str, object]:
        async with Client(app.server) as client:
            return {
                "client.call_tool(...)": await attempt(client.call_tool(call.tool, dict(call.args))),
                "session.call_tool(...)": await attempt(client.session.call_tool(call.tool, dict(call.args))),
            }


DRIVER = McpDriver
