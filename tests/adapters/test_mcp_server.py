"""The middleware of the SDK's own server, with real servers: in memory, over stdio, over streamable HTTP. What every adapter does is in tests/conformance."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import httpx2
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from opentelemetry import trace

from guard import Guard
from guard.adapters.mcp import GuardedSession
from guard.adapters.mcp_server import GuardMiddleware, coverage
from guard.errors import ConfigError
from guard.identity.holder import HolderKey
from guard.record import ListSink, ListSpans
from guard.telemetry import META_CALL, META_CODE, META_DECISION, META_PROOF, META_TOKEN
from tests.adapters.shop import POLICY, ROOT, TRANSPORTS, Shop, Wire, asked, in_memory, over_http, said
from tests.adapters.shop_mcp import make

SCRIPT = Path(__file__).with_name("shop_mcp.py")
PROMPT = "guardtrail.io/approval"
LARGE = {"order": "A-17", "amount": "2000.17"}
YES = {PROMPT: ElicitResult(action="accept", content={})}
Test = Callable[[Wire], Awaitable[None]]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, shop: Shop) -> Callable[..., Shop]:
    """Runs an async test against a server on each transport: none is trusted more (fail-open row F36)."""
    return lambda test, **options: play(shop, TRANSPORTS[request.param], test, **options)


@pytest.fixture
def once(shop: Shop) -> Callable[..., Shop]:
    """The same in memory only, for what no transport has a part in."""
    return lambda test, **options: play(shop, in_memory, test, **options)


def play(shop: Shop, served: Any, test: Test, **options: Any) -> Shop:
    async def main() -> BaseException | None:
        async with served(shop, options.pop("make", make), SCRIPT, **options) as wire:
            try:
                await test(wire)
            except BaseException as error:  # raised outside, where no task group wraps it
                return error
        return None

    error = asyncio.run(main())
    if error is not None:
        raise error
    return shop


def test_f36_the_same_verdicts_on_every_transport(run: Callable[..., Shop]) -> None:
    calls: list[tuple[str, dict[str, object], str | None, str]] = [
        ("look", {"order": "A-17"}, "", "order A-17, 1 page(s)"),
        ("look", {"order": "B-99"}, "", "args.constraint"),
        ("look", {"order": "A-17"}, None, "token.missing"),
        ("look", {"order": "A-17"}, "nobody", "token."),
        ("wipe", {"order": "A-17"}, "", "intent.tool"),
        ("unmapped", {}, "", "tool.unknown"),
        ("no_such_tool", {}, "", "tool.unknown"),
        ("refund", {"order": "A-17", "amount": "20"}, "", "refunded 20"),
        ("refund", {"order": "A-17"}, "", "args.missing"),
        ("refund", {"order": "A-17", "amount": "20", "to": "eve"}, "", "args.unknown"),
        ("look", {"order": "A-17", "pages": "1"}, "", "args.type"),
    ]

    async def test(wire: Wire) -> None:
        for tool, args, token, says in calls:
            result = await wire.call(tool, args, token=token)
            assert says in said(result), tool
            assert result.is_error is (says[:2] not in ("or", "re"))

    shop = run(test)
    assert shop.ran == ["look", "refund"]
    verdicts = ["allow", "deny", "deny", "deny", "deny", "deny", "deny", "allow", "deny", "deny", "deny"]
    assert [code.split()[0] for code in shop.codes] == verdicts


def test_f57_a_tool_that_is_not_shown_is_not_callable(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        assert await wire.listed(wire.shop.token()) == ["look", "refund", "fail", "echo"]
        assert await wire.listed(wire.shop.token("look-order")) == ["look"]
        assert await wire.listed(None) == []
        with pytest.raises(MCPError) as denied:
            await wire.listed("nobody")
        assert denied.value.code == -32010
        for tool in ("refund", "fail", "echo", "wipe", "unmapped"):
            assert (await wire.call(tool, {"order": "A-17", "amount": "1"}, token=wire.shop.token("look-order"))).is_error

    assert run(test).ran == []


def test_f66_a_ready_made_yes_authorizes_nothing(run: Callable[..., Shop]) -> None:
    """A client that says yes to everything, before it is asked and after: the call waits for a person of the guard's."""

    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        for answers in (YES, YES | {"ok": ElicitResult(action="accept")}):
            result = await wire.call("refund", LARGE, token=token, answers=answers)
            assert result.is_error and "needs approval" in said(result)
        prompt = asked(await wire.call("refund", LARGE, token=token))
        assert list(prompt.input_requests or {}) == [PROMPT]
        assert "2000.17" not in prompt.model_dump_json() and prompt.request_state is None
        whole = await wire.client.call_tool("refund", LARGE, meta={META_TOKEN: token})  # asked, said yes, made again: by the SDK itself
        assert whole.is_error and "needs approval" in said(whole)
        declined = await wire.call("refund", LARGE, token=token, answers={PROMPT: ElicitResult(action="decline")})
        assert declined.is_error and "did not accept" in said(declined)
        assert wire.shop.ran == []
        waiting = list(wire.shop.desk.pending())
        for each in waiting[:1]:
            wire.shop.desk.approve(each.request.id, wire.shop.iam.login("bob", groups=["treasury"]))
        assert "refunded 2000.17" in said(await wire.call("refund", LARGE, token=token, answers=YES))
        assert (await wire.call("refund", {**LARGE, "amount": "2000.18"}, token=token, answers=YES)).is_error

    assert run(test).ran == ["refund"]


def test_an_older_client_reads_that_approval_is_needed(shop: Shop) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("refund", LARGE)
        assert result.is_error and "needs approval" in said(result)
        assert result.meta[PROMPT]["tool"] == "refund" and "2000.17" not in result.model_dump_json()

    assert play(shop, in_memory, test, mode="legacy").ran == []
    no_prompt = lambda shop: make(shop, prompt=False)  # noqa: E731
    assert play(shop, in_memory, test, make=no_prompt).ran == []


def test_f47_the_chain_is_the_tasks_not_the_sessions(shop: Shop) -> None:
    """Each call on a connection of its own, of either era: the fourth refund is one too many."""
    token = shop.token()
    answers = []

    async def test(wire: Wire) -> None:
        answers.append((await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token)).is_error)

    for mode in ("auto", "legacy", "auto", "legacy"):
        play(shop, in_memory, test, mode=mode)
    assert answers == [False, False, False, True]
    assert shop.ran == ["refund"] * 3


def test_the_tool_sees_neither_token_nor_proof(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        meta = {META_CALL: "c", "auth": f"Bearer {token}", "deep": [{"in": token, "too": 1}], "kept": "yes"}
        seen = json.loads(said(await wire.call("echo", token=token, meta=meta)))
        assert token not in json.dumps(seen)
        assert {key: value for key, value in seen["meta"].items() if not key.startswith("io.model")} == {
            "deep": [{"too": 1}],
            "kept": "yes",
        }

    run(test)


def test_over_http_the_token_may_stand_in_the_header(shop: Shop) -> None:
    token, other = shop.token(), shop.token(order="B-99")
    table: list[tuple[list[tuple[str, str]], str | None, str]] = [
        ([("authorization", f"Bearer {token}")], None, "order A-17"),
        ([("authorization", f"bearer {token}")], None, "order A-17"),
        ([("authorization", f"Bearer {other}")], None, "args.constraint"),
        ([("authorization", f"Bearer {other}")], token, "order A-17"),  # what comes with the call is nearer to it
        ([("authorization", f"Bearer {token}")], "nobody", "token."),  # and what does not verify there is not made good here
        ([("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")], None, "token.missing"),
        ([("authorization", f"Basic {token}")], None, "token.missing"),
        ([("authorization", f"DPoP {token}")], None, "token.missing"),
        ([("x-token", token)], None, "token.missing"),
    ]

    for headers, sent, says in table:

        async def test(wire: Wire, sent: str | None = sent, says: str = says) -> None:
            assert says in said(await wire.call("look", {"order": "A-17"}, token=sent))
            if says.startswith("order") and sent is None:
                assert token not in said(await wire.call("echo", token=None))

        play(shop, over_http, test, http=httpx2.AsyncClient(headers=headers))  # type: ignore[arg-type]


def test_a_process_that_serves_one_task(shop: Shop) -> None:
    """Its own token counts where a request brings none, and not for whoever sends one over HTTP."""
    token = shop.token()

    async def test(wire: Wire) -> None:
        assert "order A-17" in said(await wire.call("look", {"order": "A-17"}, token=None))
        assert await wire.listed(None) == ["look", "refund", "fail", "echo"]
        assert (await wire.call("look", {"order": "A-17"}, token="nobody")).is_error
        assert (await wire.call("look", {"order": "A-17"}, token=None, meta={META_TOKEN: ["x"]})).is_error

    async def refused(wire: Wire) -> None:
        assert "token.missing" in said(await wire.call("look", {"order": "A-17"}, token=None))

    for own in (token, lambda: token):
        play(shop, in_memory, test, make=lambda shop, own=own: make(shop, token=own))
        play(shop, over_http, refused, make=lambda shop, own=own: make(shop, token=own))
    for wrong in (lambda: None, lambda: 7, lambda: ""):
        result = play(shop, in_memory, nothing_runs, make=lambda shop, wrong=wrong: make(shop, token=wrong))
    assert result.ran == ["look"] * 2


async def nothing_runs(wire: Wire) -> None:
    try:
        assert (await wire.call("look", {"order": "A-17"}, token=None)).is_error
    except MCPError:
        pass


def test_a_token_that_cannot_be_read_runs_nothing(once: Callable[..., Shop]) -> None:
    def broken() -> str:
        raise OSError("hunter2-9f1c")

    async def test(wire: Wire) -> None:
        for attempt in (wire.call("look", {"order": "A-17"}, token=None), wire.listed(None)):
            with pytest.raises(MCPError) as failed:
                await attempt
            assert "hunter2" not in str(failed.value)

    assert once(test, make=lambda shop: make(shop, token=broken)).ran == []


def test_a_task_around_the_client_is_not_the_requests(once: Callable[..., Shop]) -> None:
    """In memory client and server share a context: a verdict must not depend on that (fail-open row F36)."""
    guards: list[Guard] = []

    def one(shop: Shop) -> MCPServer:
        server = make(shop)
        guards.append(server.middleware[-1]._guard)  # type: ignore[attr-defined]
        return server

    async def test(wire: Wire) -> None:
        async with guards[0].task(wire.shop.token()):
            assert "token.missing" in said(await wire.call("look", {"order": "A-17"}, token=None))
            assert await wire.listed(None) == []

    assert once(test, make=one).ran == []


def test_a_bound_token_needs_a_proof_of_each_call(once: Callable[..., Shop]) -> None:
    key = HolderKey.generate()

    async def test(wire: Wire) -> None:
        token = wire.shop.token(key=key.public)
        guard = Guard(_policy(), trust=wire.shop.iam, sinks=[ListSink()])
        async with guard.task(token, key=key):
            tools = GuardedSession(guard, wire.client.session, present=key)
            assert [tool.name for tool in (await tools.list_tools()).tools] == ["look", "refund", "fail", "echo"]
            assert "order A-17" in said(await tools.call_tool("look", {"order": "A-17"}))
        proof = key.prove(token, "look", {"order": "A-17"})
        assert "order A-17" in said(await wire.call("look", {"order": "A-17"}, token=token, meta={META_PROOF: proof}))
        for meta in ({META_PROOF: proof}, {}, {META_PROOF: 7}):
            assert "token.proof" in said(await wire.call("look", {"order": "A-17"}, token=token, meta=meta))

    assert once(test).ran == ["look"] * 2


def _policy() -> Any:
    from guard import Policy

    return Policy.from_text(POLICY, file="shop.yaml")


def test_everything_else_is_a_call_too(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        client, token = wire.client.session, wire.shop.token()
        meta: Any = {META_TOKEN: token}
        assert "order A-17" in str(await client.read_resource("shop://orders/A-17", meta=meta))
        assert "speak of tea" in str(await client.get_prompt("greet", {"topic": "tea"}, meta=meta))
        for attempt in (
            client.read_resource("shop://orders/B-99", meta=meta),
            client.read_resource("shop://orders/A-17"),
            client.read_resource("shop://orders/A-17", meta={META_TOKEN: wire.shop.token("look-order")}),
            client.get_prompt("other", {"topic": "tea"}, meta=meta),
            client.get_prompt("greet", {"topic": "tea", "more": "x"}, meta=meta),
        ):
            with pytest.raises(MCPError) as denied:
                await attempt
            assert denied.value.code == -32010 and set(denied.value.error.data) == {"code", "decision"}
        assert wire.shop.ran == ["order", "greet"]

    run(test)


def test_lists_of_resources_and_prompts_are_empty_where_none_may_be_read(once: Callable[..., Shop]) -> None:
    from mcp.types import PaginatedRequestParams

    async def test(wire: Wire) -> None:
        for intent, many in (("refund-order", 1), ("look-order", 0)):
            params = PaginatedRequestParams(_meta={META_TOKEN: wire.shop.token(intent)})
            assert len((await wire.client.session.list_prompts(params=params)).prompts) == many
            assert len((await wire.client.session.list_resource_templates(params=params)).resource_templates) == many
        assert (await wire.client.session.list_prompts()).prompts == []

    once(test)


def test_other_methods_are_denied_by_default(shop: Shop) -> None:
    from mcp.types import ResourceTemplateReference

    async def test(wire: Wire) -> None:
        with pytest.raises(MCPError) as denied:
            await wire.client.session.complete(
                ResourceTemplateReference(type="ref/resource", uri="shop://orders/{id}"), {"name": "id", "value": "A"}
            )
        assert denied.value.code == -32010
        await wire.client.session.send_ping()

    play(shop, in_memory, test, mode="legacy")


def test_a_call_that_is_to_be_carried_out_later_is_none(once: Callable[..., Shop]) -> None:
    """Its body would run when this call is over, past the guard."""
    from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult, TaskMetadata

    async def test(wire: Wire) -> None:
        params = CallToolRequestParams(
            name="look", arguments={"order": "A-17"}, task=TaskMetadata(ttl=1000), _meta={META_TOKEN: wire.shop.token()}
        )
        with pytest.raises(MCPError):
            await wire.client.session.send_request(CallToolRequest(params=params), CallToolResult)

    assert once(test).ran == []


def test_a_call_with_an_id_runs_once(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        token, meta = wire.shop.token(), {META_CALL: "toolu_1"}
        first = await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token, meta=meta)
        again = await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token, meta=meta)
        assert said(first) == said(again) == "refunded 1 on A-17"

    assert once(test).ran == ["refund"]


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


def test_what_a_tool_raises_is_in_no_record(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("fail", {"order": "A-17"})
        assert result.is_error and META_DECISION not in (result.meta or {})  # the framework's own, untouched

    shop = once(test)
    assert shop.ran == ["fail"]
    assert [record["status"] for record in shop.records if "status" in record] == ["error"]
    assert "hunter2" not in json.dumps(shop.records)


def test_a_refusal_names_its_decision(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("look", {"order": "B-99"})
        assert result.meta[META_CODE] == "args.constraint" and len(result.meta[META_DECISION]) == 26
        assert "B-99" not in result.model_dump_json()

    once(test)


def test_traceparent_of_the_client_goes_on(shop: Shop) -> None:
    spans = ListSpans()
    guard = Guard(_policy(), trust=shop.iam, sinks=[ListSink(), spans])

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

    policy = _policy().text.replace("  wipe: {", "  shop/look: {effect: read, control: {order: id}}\n  wipe: {").replace("      echo: {}", "      shop/look: {args: {order: {eq: $order}}}")  # fmt: skip

    async def on_call(ctx: Any, params: Any) -> CallToolResult:
        shop.note(params.name)
        return CallToolResult(content=[TextContent(type="text", text="ran")])

    def low(shop: Shop) -> Server[Any]:
        from guard import Policy

        server: Server[Any] = Server("shop", on_call_tool=on_call)
        server.middleware.append(GuardMiddleware(Guard(Policy.from_text(policy), trust=shop.iam, sinks=[ListSink()]), server="shop"))
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
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (file.with_suffix(".txt")).read_text("utf-8")
