"""A real MCP server with everything in it. `python server.py NOTES stdio`, or `NOTES http PORT`. Every body that runs leaves a line in NOTES.

A file `NOTES.says` beside it changes how `look` is described: what a server says of its tools is its own affair.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import BaseModel


class Yes(BaseModel):
    sure: bool


def make_server(notes: Path) -> MCPServer:
    server = MCPServer("shop", version="1", instructions="Look before you refund.")
    says = notes.with_name(notes.name + ".says")

    def note(line: str) -> None:
        with notes.open("a") as file:  # O_APPEND, one write: whole lines from several processes
            file.write(line + "\n")

    @server.tool(description=says.read_text() if says.exists() else "Look at an order.")
    def look(order: str, pages: int = 1) -> str:
        note(f"look {order}")
        return f"order {order}, {pages} page(s)"

    @server.tool()
    def refund(order: str, amount: str) -> str:
        note(f"refund {order}")
        return f"refunded {amount} on {order}"

    @server.tool()
    def wipe(order: str) -> str:
        note("wipe")
        return f"wiped {order}"

    @server.tool(structured_output=False)
    def echo(ctx: Context, text: str = "") -> str:
        """What arrives: `_meta`, arguments, and headers where there are any."""
        note("echo")
        request = ctx.request_context.request
        headers = dict(request.headers) if request is not None else {}
        meta = ctx.request_context.meta
        return json.dumps({"meta": dict(meta) if meta else {}, "headers": headers, "text": text, "env": dict(os.environ)}, default=str)

    @server.tool()
    def fail(order: str) -> str:
        note("fail")
        raise ToolError(f"no such order {order}")

    @server.tool()
    async def slow(order: str) -> str:
        note("slow")
        try:
            await anyio.sleep(20)
        except anyio.get_cancelled_exc_class():
            note("slow was cancelled")
            raise
        return "done"

    @server.tool()
    def crash() -> str:
        note("crash")
        os._exit(3)

    @server.tool(structured_output=False)
    def big(size: int) -> str:
        note("big")
        return "x" * size

    @server.tool()
    async def steps(ctx: Context, number: int) -> str:
        note("steps")
        for i in range(number):
            await ctx.report_progress(i + 1, number, f"step {i + 1}")
            await anyio.sleep(0.01)
        return "done"

    @server.tool()
    async def sure(ctx: Context) -> str:
        """Asks a person."""
        note("sure")
        answer = await ctx.elicit("Are you sure?", Yes)
        note(f"sure {answer.action}")
        return answer.action

    @server.tool(structured_output=False)
    def certain(ctx: Context) -> str | InputRequiredResult:
        """Asks a person in the way of the newest revision: the answer comes with the call, made again."""
        if not ctx.input_responses:
            note("certain asks")
            schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
            asked = ElicitRequest(params=ElicitRequestFormParams(message="Are you certain?", requested_schema=schema))
            return InputRequiredResult(input_requests={"ok": asked}, request_state="where we were")
        note(f"certain {ctx.request_state} {ctx.input_responses['ok'].action}")
        return ctx.input_responses["ok"].action

    @server.tool()
    async def reload(ctx: Context, text: str) -> str:
        """Describes `look` otherwise from now on."""
        note("reload")
        server._tool_manager._tools["look"].description = text
        await ctx.session.send_tool_list_changed()
        return "done"

    @server.resource("memo://open")
    def open_memo() -> str:
        note("memo open")
        return "an open memo"

    @server.resource("memo://closed")
    def closed_memo() -> str:
        note("memo closed")
        return "a closed memo"

    @server.prompt()
    def greet(who: str) -> str:
        note("greet")
        return f"Greet {who}."

    return server


def older(app: Any) -> Any:
    """The same as it was before 2026-07-28: it knows no such revision."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if (b"mcp-protocol-version", b"2026-07-28") in scope.get("headers", ()):
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return refusing


if __name__ == "__main__":
    made = make_server(Path(sys.argv[1]))
    if sys.argv[2] == "stdio":
        made.run("stdio")
    else:
        import uvicorn

        app = made.streamable_http_app(json_response="json" in sys.argv)
        if "older" in sys.argv:
            app = older(app)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
