"""The middleware of the SDK's own server, with real servers: in memory, over stdio, over streamable HTTP. What every adapter does is in tests/conformance."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from opentelemetry import trace

from guard import Guard
from guard.adapters.mcp_server import GuardMiddleware, coverage
from guard.errors import ConfigError
from guard.record import ListSink, ListSpans
from guard.telemetry import META_CALL, META_TOKEN
from tests.adapters.common import ROOT
from tests.adapters.served import *  # noqa: F403
from tests.adapters.served import YES, play, policy
from tests.adapters.shop import Shop, Wire, asked, in_memory, said
from tests.patience import PYTHONPATH


@pytest.fixture
def kind() -> str:
    return "shop_mcp"


def test_a_tool_that_asks_in_rounds_of_its_own(shop: Shop) -> None:
    """Its second round is another call, also where the client gave both one id; what it is answered goes to the tool, what the guard is answered does not."""
    seen: list[Any] = []

    def asking(shop: Shop) -> MCPServer:
        server = MCPServer("shop", version="1", middleware=[GuardMiddleware(shop.guard())])

        @server.tool(structured_output=False)
        def look(order: str, ctx: Context) -> Any:
            seen.append(sorted(ctx.input_responses or {}))
            if not ctx.input_responses:
                form = ElicitRequestFormParams(message="which shelf?", requested_schema={"type": "object", "properties": {}})
                return InputRequiredResult(input_requests={"shelf": ElicitRequest(params=form)})
            return "found"

        return server

    async def test(wire: Wire) -> None:
        token, meta = wire.shop.token(), {META_CALL: "toolu_1"}
        asked(await wire.call("look", {"order": "A-17"}, token=token, meta=meta))
        answers = YES | {"shelf": ElicitResult(action="accept", content={})}
        assert said(await wire.call("look", {"order": "A-17"}, token=token, meta=meta, answers=answers)) == "found"

    play(shop, in_memory, test, make=asking)
    assert seen == [[], ["shelf"]]


def test_a_call_that_is_to_be_carried_out_later_is_none(shop: Shop) -> None:
    """Its body would run when this call is over, past the guard."""
    from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult, TaskMetadata

    async def test(wire: Wire) -> None:
        params = CallToolRequestParams(
            name="look", arguments={"order": "A-17"}, task=TaskMetadata(ttl=1000), _meta={META_TOKEN: wire.shop.token()}
        )
        with pytest.raises(MCPError):
            await wire.client.session.send_request(CallToolRequest(params=params), CallToolResult)

    assert play(shop, in_memory, test).ran == []


def test_traceparent_of_the_client_goes_on(shop: Shop) -> None:
    spans = ListSpans()
    guard = Guard(policy(), trust=shop.iam, sinks=[ListSink(), spans])

    def traced(shop: Shop) -> MCPServer:
        server = MCPServer("shop", version="1", middleware=[GuardMiddleware(guard)])
        server.tool()(look_at)
        return server

    async def test(wire: Wire) -> None:
        context = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(context)):
            await wire.call("look", {"order": "A-17"})

    play(shop, in_memory, test, make=traced)
    assert {f"{span.context.trace_id:032x}" for span in spans.finished() if span.name == "execute_tool look"} == {
        "0af7651916cd43dd8448eb211c80319c"
    }


def look_at(order: str, pages: int = 1) -> str:
    return f"order {order}"


look_at.__name__ = "look"


def test_a_low_level_server_with_a_name_in_the_policy(shop: Shop) -> None:
    from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult, TextContent

    text = policy().text.replace("  wipe: {", "  shop/look: {effect: read, control: {order: id}}\n  wipe: {").replace("      echo: {}", "      shop/look: {args: {order: {eq: $order}}}")  # fmt: skip

    async def on_call(ctx: Any, params: Any) -> CallToolResult:
        shop.note(params.name)
        return CallToolResult(content=[TextContent(type="text", text="ran")])

    def low(shop: Shop) -> Server[Any]:
        from guard import Policy

        server: Server[Any] = Server("shop", on_call_tool=on_call)
        server.middleware.append(GuardMiddleware(Guard(Policy.from_text(text), trust=shop.iam, sinks=[ListSink()]), server="shop"))
        return server

    async def test(wire: Wire) -> None:
        params = CallToolRequestParams(name="look", arguments={"order": "A-17"}, _meta={META_TOKEN: wire.shop.token()})
        assert said(await wire.client.session.send_request(CallToolRequest(params=params), CallToolResult)) == "ran"
        for tool, args in (("look", {"order": "B-99"}), ("look", {"order": "A-17", "x": 1}), ("refund", {"order": "A-17", "amount": "1"})):
            assert (await wire.call(tool, args)).is_error

    assert play(shop, in_memory, test, make=low).ran == ["look"]


def test_coverage_names_what_stands_before_the_guard(shop: Shop) -> None:
    async def answers(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    guard = GuardMiddleware(shop.guard())
    for middleware, covered in (([guard], True), ([guard, answers], True), ([answers, guard], False), ([], False)):
        server = MCPServer("shop", version="1", middleware=middleware)  # type: ignore[arg-type]
        server.tool()(look_at)
        seen = coverage(server)
        assert [(each.path, each.covered) for each in seen] == [(path, covered) for path in ("look", "resources/read", "prompts/get")]
        assert all(bool(each.why) is not covered for each in seen)
    assert [each.covered for each in coverage(Server("bare"))] == [False] * 3
    assert coverage(object()) == []


def test_f63_f65_what_goes_past_the_middleware_ends_at_a_sealed_body(shop: Shop) -> None:
    guard = shop.guard()
    server = MCPServer("shop", version="1", middleware=[GuardMiddleware(guard)])

    @guard.tool
    def wipe(order: str) -> str:
        shop.note("wipe")
        return "wiped"

    @guard.tool
    def look(order: str, pages: int = 1) -> str:
        shop.note("look")
        return "seen"

    server.tool()(wipe)
    server.tool()(look)
    tool = server._tool_manager.get_tool("wipe")
    assert tool is not None
    for way in (server.call_tool("wipe", {"order": "A-17"}), tool.run({"order": "A-17"}, None)):  # type: ignore[arg-type]
        with pytest.raises(Exception, match="wipe"):
            asyncio.run(way)  # type: ignore[arg-type]
    for function in (wipe, wipe.__wrapped__, tool.fn, tool.fn.__wrapped__):  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="denied"):
            function(order="A-17")

    async def test(wire: Wire) -> None:
        assert said(await wire.call("look", {"order": "A-17"})) == "seen"  # judged once, not twice

    play(shop, in_memory, test, make=lambda shop: server)
    assert shop.ran == ["look"]
    assert shop.codes.count("allow permit") == 1


def test_it_wants_a_guard() -> None:
    with pytest.raises(ConfigError, match="is the Guard that decides"):
        GuardMiddleware("policy.yaml")  # type: ignore[arg-type]


def test_an_sdk_that_is_not_there_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import guard.adapters.mcp_server as adapter

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigError, match=r'guard\.adapters\.mcp_server needs mcp >= 2\.0: pip install "guardtrail\[mcp_server\]"'):
        importlib.reload(adapter)


def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    file = ROOT / "examples" / "adapters" / "mcp_server.py"
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env={"PYTHONPATH": PYTHONPATH, "PATH": ""}, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (file.with_suffix(".txt")).read_text("utf-8")


def test_a_tool_that_is_there_only_later_is_bound_to_its_own_schema(shop: Shop) -> None:
    """It is called before it is there. Attack: from then on nobody would ask what its arguments are."""
    servers: list[MCPServer] = []

    def empty(shop: Shop) -> MCPServer:
        servers.append(MCPServer("shop", version="1", middleware=[GuardMiddleware(shop.guard())]))
        return servers[0]

    async def test(wire: Wire) -> None:
        assert "order A-17" not in said(await wire.call("look", {"order": "A-17"}))

        @servers[0].tool()
        def look(order: str = "A-17") -> str:
            shop.note("look")
            return f"order {order}"

        assert said(await wire.call("look")) == "order A-17"

    assert play(shop, in_memory, test, make=empty).ran == ["look"]
