"""A real FastMCP server with the middleware, driven by the official client in memory, as the SDK's own server is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from fastmcp import Client as FastClient
from fastmcp import FastMCP

from guard.adapters.fastmcp import GuardMiddleware, coverage
from guard.telemetry import META_TOKEN
from guard.testing.conformance import Call, Script, World
from tests.conformance.drivers.mcp_server import App, McpServerDriver, attempt

__all__ = ["DRIVER", "FastMcpDriver"]


class FastApp(App):
    def make(self, world: World) -> Any:
        self.fast = FastMCP("desk", middleware=[GuardMiddleware(world.guard)])
        for body in world.tools():
            self.fast.tool(body)
        return self.fast._mcp_server


class FastMcpDriver(McpServerDriver):
    name: ClassVar[str] = "fastmcp"

    def build(self, world: World, script: Script) -> FastApp:
        return FastApp(world, script)

    def coverage(self, app: App) -> Mapping[str, bool]:
        assert isinstance(app, FastApp)
        return {seen.path: seen.covered for seen in coverage(app.fast)}

    async def _bypass(self, app: App, call: Call) -> Mapping[str, object]:
        assert isinstance(app, FastApp)
        args, tool = dict(call.args), await app.fast.get_tool(call.tool)
        assert tool is not None
        found = {
            "server.call_tool(run_middleware=False)": await attempt(app.fast.call_tool(call.tool, args, run_middleware=False)),
            "tool.run(...)": await attempt(tool.run(args)),
            "tool.fn(...)": await attempt(asyncio.to_thread(tool.fn, **args)),  # type: ignore[attr-defined]
            "tool.fn.__wrapped__(...)": await attempt(asyncio.to_thread(tool.fn.__wrapped__, **args)),  # type: ignore[attr-defined]
        }
        async with FastClient(app.fast) as client:
            meta: Any = {META_TOKEN: app.world.token}
            found["client.session.call_tool(...)"] = await attempt(client.session.call_tool(call.tool, args, meta=meta))
        return found


DRIVER = FastMcpDriver
