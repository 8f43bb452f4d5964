"""A small real MCP server. Run as a script it speaks stdio; `make_server` gives it in process. Every body that runs leaves a line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError


def make_server(ran: Path) -> MCPServer:
    server = MCPServer("shop", version="1")

    def note(tool: str) -> None:
        with ran.open("a") as file:
            file.write(tool + "\n")

    @server.tool()
    def look(order: str, pages: int = 1) -> str:
        note("look")
        return f"order {order}, {pages} page(s)"

    @server.tool()
    def refund(order: str, amount: str) -> str:
        note("refund")
        return f"refunded {amount} on {order}"

    @server.tool()
    def wipe(order: str) -> str:
        note("wipe")
        return f"wiped {order}"

    @server.tool()
    def nobody_declared_this() -> str:
        note("nobody_declared_this")
        return "ran"

    @server.tool(structured_output=False)
    def echo(ctx: Context) -> str:
        """What arrives beside the arguments: the request's `_meta`."""
        note("echo")
        meta = ctx.request_context.meta
        return json.dumps(dict(meta) if meta else {})

    @server.tool()
    def fail(order: str) -> str:
        note("fail")
        raise ToolError(f"no such order {order}")

    @server.tool()
    async def slow(order: str) -> str:
        note("slow")
        await anyio.sleep(20)
        return "done"

    @server.tool()
    def crash() -> str:
        note("crash")
        os._exit(3)

    return server


if __name__ == "__main__":
    make_server(Path(sys.argv[1])).run("stdio")
