"""The FastMCP middleware, with real servers: in memory, over stdio, over streamable HTTP. What every adapter does is in tests/conformance."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastmcp")

from fastmcp import Client as FastClient
from fastmcp import Context, FastMCP
from fastmcp.server import create_proxy
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from fastmcp.server.middleware.timing import TimingMiddleware
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from guard import Guard
from guard.adapters.fastmcp import GuardMiddleware, coverage
from guard.errors import ConfigError
from guard.record import ListSink
from guard.telemetry import META_CALL, META_TOKEN
from tests.adapters.common import ROOT
from tests.adapters.served import *  # noqa: F403
from tests.adapters.served import YES, play, policy
from tests.adapters.shop import Shop, Wire, asked, in_memory, over_http, said
from tests.patience import PYTHONPATH


@pytest.fixture
def kind() -> str:
    return "shop_fastmcp"


def guarded(shop: Shop, name: str = "shop", **options: Any) -> FastMCP:
    return FastMCP(name, middleware=[GuardMiddleware(shop.guard())], **options)


def test_what_a_tool_calls_on_its_server_is_judged_in_the_task_of_the_request(shop: Shop) -> None:
    def calling(shop: Shop) -> FastMCP:
        server = guarded(shop)

        @server.tool
        async def echo(ctx: Context) -> str:
            found = []
            for tool, args in (("look", {"order": "A-17"}), ("look", {"order": "B-99"}), ("wipe", {"order": "A-17"})):
                found.append((await ctx.fastmcp.call_tool(tool, args)).content[0].text)
            return " | ".join(found)

        @server.tool
        def look(order: str) -> str:
            shop.note("look")
            return "seen"

        @server.tool
        def wipe(order: str) -> str:
            shop.note("wipe")
            return "wiped"

        return server

    async def test(wire: Wire) -> None:
        seen, other, wiped = said(await wire.call("echo")).split(" | ")
        assert seen == "seen" and "args.constraint" in other and "intent.tool" in wiped

    assert play(shop, in_memory, test, make=calling).ran == ["look"]
    assert shop.codes == ["allow permit", "allow permit", "deny args.constraint", "deny intent.tool"]


def test_a_call_of_the_program_itself_is_in_the_task_of_its_context(shop: Shop) -> None:
    server = shop.make()

    async def main() -> None:
        assert (await server.call_tool("look", {"order": "A-17"})).is_error
        assert [tool.name for tool in await server.list_tools()] == []
        async with shop.guard().task(shop.token()):
            assert (await server.call_tool("look", {"order": "A-17"})).content[0].text == "order A-17, 1 page(s)"
            assert [tool.name for tool in await server.list_tools()] == ["look", "refund", "fail", "echo"]
            assert (await server.call_tool("look", {"order": "B-99"})).is_error

    asyncio.run(main())
    assert shop.ran == ["look"]


def test_a_task_around_the_client_of_another_server_in_memory_is_not_its_requests(shop: Shop) -> None:
    """A tool that is a client itself: what it is allowed is not what it may hand on (fail-open row F36)."""
    inner = shop.make()

    def outer(shop: Shop) -> FastMCP:
        server = guarded(shop, "outer")

        @server.tool
        async def echo() -> str:
            async with FastClient(inner) as client:
                names = [tool.name for tool in await client.list_tools()]
                result = await client.session.call_tool("look", {"order": "A-17"})
            return f"{names} {result.content[0].text}"  # type: ignore[union-attr]

        return server

    async def test(wire: Wire) -> None:
        assert said(await wire.call("echo")).startswith("[] ") and "token.missing" in said(await wire.call("echo"))

    assert play(shop, in_memory, test, make=outer).ran == []


@pytest.mark.parametrize("served", [in_memory, over_http])
def test_a_proxy_keeps_the_token_to_itself(shop: Shop, served: Any) -> None:
    backend = FastMCP("backend")

    @backend.tool
    def echo(ctx: Context) -> str:
        shop.note("echo")
        assert ctx.request_context is not None
        return json.dumps(
            [dict(ctx.request_context.meta or {}), dict(ctx.request_context.request.headers) if ctx.request_context.request else {}]
        )

    @backend.tool
    def wipe(order: str) -> str:
        shop.note("wipe")
        return "wiped"

    def proxied(shop: Shop) -> Any:
        proxy = create_proxy(backend)
        proxy.add_middleware(GuardMiddleware(shop.guard()))
        return proxy

    token = shop.token()

    async def test(wire: Wire) -> None:
        assert await wire.listed(token) == ["echo"]
        assert token not in said(await wire.call("echo", token=token, meta={"also": [token]}))
        assert (await wire.call("wipe", {"order": "A-17"}, token=token)).is_error

    assert play(shop, served, test, make=proxied).ran == ["echo"]


def test_a_mounted_server_is_behind_the_one_that_was_called(shop: Shop) -> None:
    text = policy().text.replace("  wipe: {effect", "  child_look: {effect: read, control: {order: id}}\n  wipe: {effect").replace("      echo: {}", "      child_look: {args: {order: {eq: $order}}}")  # fmt: skip

    def mounted(shop: Shop) -> FastMCP:
        from guard import Policy

        child = FastMCP("child")

        @child.tool
        def look(order: str) -> str:
            shop.note("look")
            return "seen"

        @child.tool
        def wipe(order: str) -> str:
            shop.note("wipe")
            return "wiped"

        guard = Guard(Policy.from_text(text), trust=shop.iam, sinks=[ListSink()])
        server = FastMCP("shop", middleware=[GuardMiddleware(guard)])
        server.mount(child, namespace="child")
        assert {seen.path: seen.covered for seen in coverage(server)}["child_wipe"] is True
        return server

    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        assert await wire.listed(token) == ["child_look"]
        assert said(await wire.call("child_look", {"order": "A-17"}, token=token)) == "seen"
        for tool in ("child_wipe", "look", "wipe"):
            assert (await wire.call(tool, {"order": "A-17"}, token=token)).is_error
        assert (await wire.call("child_look", {"order": "B-99"}, token=token)).is_error

    assert play(shop, in_memory, test, make=mounted).ran == ["look"]


def test_a_mounted_server_with_a_guard_of_its_own_judges_too(shop: Shop) -> None:
    text = policy().text.replace("  wipe: {effect", "  child_look: {effect: read, control: {order: id}}\n  wipe: {effect").replace("      echo: {}", "      child_look: {args: {order: {any: true}}}")  # fmt: skip

    def mounted(shop: Shop) -> FastMCP:
        from guard import Policy

        child = guarded(shop, "child")

        @child.tool
        def look(order: str) -> str:
            shop.note("look")
            return "seen"

        guard = Guard(Policy.from_text(text), trust=shop.iam, sinks=[ListSink()])
        server = FastMCP("shop", middleware=[GuardMiddleware(guard)])
        server.mount(child, namespace="child")
        return server

    async def test(wire: Wire) -> None:
        assert said(await wire.call("child_look", {"order": "A-17"})) == "seen"
        assert "args.constraint" in said(await wire.call("child_look", {"order": "B-99"}))

    assert play(shop, in_memory, test, make=mounted).ran == ["look"]


def test_a_tool_that_may_run_in_the_background_does_not_run(shop: Shop) -> None:
    """Its body would run in a worker, when the call it was allowed for is over."""
    from fastmcp.utilities.tasks import TaskConfig

    server = guarded(shop)

    @server.tool
    async def look(order: str) -> str:
        shop.note("look")
        return "seen"

    async def main() -> None:
        tool = await server.get_tool("look")
        assert tool is not None
        tool.task_config = TaskConfig(mode="optional")
        async with shop.guard().task(shop.token()):
            result = await server.call_tool("look", {"order": "A-17"})
            assert result.is_error and "background" in result.content[0].text  # type: ignore[union-attr]

    asyncio.run(main())
    assert shop.ran == []


def test_a_tool_that_asks_in_rounds_of_its_own(shop: Shop) -> None:
    seen: list[Any] = []

    def asking(shop: Shop) -> FastMCP:
        server = guarded(shop)

        @server.tool
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


def test_coverage_names_what_stands_before_the_guard(shop: Shop) -> None:
    guard = GuardMiddleware(shop.guard())
    table: list[tuple[list[Any], bool]] = [
        ([guard], True),
        ([TimingMiddleware(), guard], True),
        ([guard, ResponseCachingMiddleware()], True),
        ([ResponseCachingMiddleware(), guard], False),
        ([], False),
    ]
    for middleware, covered in table:
        server = FastMCP("shop", middleware=middleware)

        @server.tool
        def look(order: str) -> str:
            return "seen"

        assert [(each.path, each.covered) for each in coverage(server)] == [
            (path, covered) for path in ("look", "resources/read", "prompts/get")
        ]
    assert coverage(object()) == []


def test_f63_f65_what_goes_past_the_middleware_ends_at_a_sealed_body(shop: Shop) -> None:
    guard = shop.guard()
    server = guarded(shop)

    def wipe(order: str) -> str:
        shop.note("wipe")
        return "wiped"

    def look(order: str, pages: int = 1) -> str:
        shop.note("look")
        return "seen"

    server.tool(guard.tool(wipe))
    server.tool(guard.tool(look))

    async def ways() -> None:
        tool = await server.get_tool("wipe")
        assert tool is not None
        for way in (server.call_tool("wipe", {"order": "A-17"}, run_middleware=False), tool.run({"order": "A-17"})):
            with pytest.raises(Exception, match="wipe"):
                await way
        async with FastClient(server) as client:
            result = await client.session.call_tool("wipe", {"order": "A-17"}, meta={META_TOKEN: shop.token()})  # type: ignore[arg-type]
            assert result.is_error

    asyncio.run(ways())

    async def test(wire: Wire) -> None:
        assert said(await wire.call("look", {"order": "A-17"})) == "seen"  # judged once, not twice

    play(shop, in_memory, test, make=lambda shop: server)
    assert shop.ran == ["look"]
    assert shop.codes.count("allow permit") == 1


def test_it_wants_a_guard() -> None:
    with pytest.raises(ConfigError, match="is the Guard that decides"):
        GuardMiddleware("policy.yaml")  # type: ignore[arg-type]


def test_a_framework_that_is_not_there_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import guard.adapters.fastmcp as adapter

    monkeypatch.setitem(sys.modules, "fastmcp", None)
    with pytest.raises(ConfigError, match=r'guard\.adapters\.fastmcp needs fastmcp >= 4\.0: pip install "guardtrail\[fastmcp\]"'):
        importlib.reload(adapter)


def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    file = ROOT / "examples" / "adapters" / "fastmcp_server.py"
    env = {"PYTHONPATH": PYTHONPATH, "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == file.with_suffix(".txt").read_text("utf-8")


def test_a_tool_that_is_there_only_later_is_bound_to_its_own_schema(shop: Shop) -> None:
    """It is called before it is there. Attack: from then on nobody would ask what its arguments are."""
    servers: list[FastMCP] = []

    def empty(shop: Shop) -> FastMCP:
        servers.append(guarded(shop))
        return servers[0]

    async def test(wire: Wire) -> None:
        assert "order A-17" not in said(await wire.call("look", {"order": "A-17"}))

        @servers[0].tool
        def look(order: str = "A-17") -> str:
            shop.note("look")
            return f"order {order}"

        assert said(await wire.call("look")) == "order A-17"

    assert play(shop, in_memory, test, make=empty).ran == ["look"]
