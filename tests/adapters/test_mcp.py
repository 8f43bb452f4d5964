"""The MCP adapter (client side) with a real server: over stdio as a child process, and in process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, ClientSession, MCPError, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, ElicitResult, PaginatedRequestParams
from opentelemetry import trace

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.adapters.mcp import GuardedSession
from guard.identity.holder import HolderKey
from guard.record import ListSink
from guard.telemetry import META_CREDENTIAL, META_PROOF, META_TOKEN
from guard.testing import FakeCredentials
from guard.tokens.proof import verify_pop
from tests.adapters.server import make_server
from tests.patience import PYTHONPATH

SERVER = Path(__file__).with_name("server.py")
POLICY = """
guardtrail: 1
name: shop
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}, data: {pages: int}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
  echo: {effect: read}
  fail: {effect: write, control: {order: id}, errors_have_no_effect: true}
  slow: {effect: write, control: {order: id}, errors_have_no_effect: true}
  crash: {effect: write, errors_have_no_effect: true}
  shop/look: {effect: read, control: {order: id}, data: {pages: int}}
intents:
  refund-order:
    description: Refund one order.
    params: {order: id}
    ttl: 10m
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}}, limit: {calls: 3}}
      echo: {}
      fail: {args: {order: {eq: $order}}, limit: {calls: 1}}
      slow: {args: {order: {eq: $order}}, limit: {calls: 1}}
      crash: {limit: {calls: 1}}
"""


@dataclass
class World:
    """One guard, one issuer, one session to a real server, and what the server itself says it ran."""

    guard: Guard
    iam: LocalIssuer
    sink: ListSink
    session: ClientSession
    ran_file: Path

    @property
    def ran(self) -> list[str]:
        return self.ran_file.read_text().split() if self.ran_file.exists() else []

    @property
    def codes(self) -> list[str]:
        return [f"{record.verdict} {record.code}" for record in self.sink.decisions]

    @property
    def outcomes(self) -> list[str]:
        return [record.status for record in self.sink.outcomes]

    def tools(self, **options: Any) -> GuardedSession:
        return GuardedSession(self.guard, self.session, **options)

    def task(self, order: str = "A-17") -> Any:
        return self.guard.task(self.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": order}))


Test = Callable[[World], Awaitable[None]]


@asynccontextmanager
async def stdio(ran: Path) -> AsyncIterator[ClientSession]:
    async with stdio_client(StdioServerParameters(command=sys.executable, args=[str(SERVER), str(ran)])) as streams:
        async with ClientSession(*streams) as session:
            await session.initialize()
            yield session


@asynccontextmanager
async def in_process(ran: Path) -> AsyncIterator[ClientSession]:
    """The newest protocol revision: no session at all on the server's side (fail-open row F47)."""
    async with Client(make_server(ran)) as client:
        yield client.session


@pytest.fixture(params=[stdio, in_process], ids=["stdio", "in process"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], World]:
    """Runs an async test against a world; the same tests on every transport (fail-open row F36: no transport is trusted more)."""

    def run_it(test: Test) -> World:
        async def main() -> tuple[World, BaseException | None]:
            iam, sink, ran = LocalIssuer("acme-dev"), ListSink(), tmp_path / "ran"
            guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[sink])
            async with request.param(ran) as session:
                world = World(guard, iam, sink, session, ran)
                try:
                    await test(world)
                except BaseException as error:  # raised outside, where no task group wraps it
                    return world, error
            return world, None

        world, error = asyncio.run(main())
        if error is not None:
            raise error
        return world

    return run_it


def said(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


def test_an_allowed_call_gives_the_servers_own_result(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            guarded = await world.tools().call_tool("look", {"order": "A-17", "pages": 2})
        assert guarded == await world.session.call_tool("look", {"order": "A-17", "pages": 2})
        assert not guarded.is_error
        assert said(guarded) == "order A-17, 2 page(s)"

    world = run(test)
    assert (world.codes, world.outcomes) == (["allow permit"], ["ok"])


def test_a_denial_is_an_error_result_with_the_reason_and_the_body_does_not_run(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            result = await world.tools().call_tool("look", {"order": "B-99"})
            assert result.is_error
            assert "order" in said(result)
            assert "args.constraint" in said(result)
            assert "B-99" not in result.model_dump_json()
            assert result.meta == {"guardtrail.io/decision": world.sink.decisions[0].id, "guardtrail.io/code": "args.constraint"}
            with pytest.raises(Denied, match=r"args\.constraint"):
                await world.tools(raise_denied=True).call_tool("look", {"order": "B-99"})

    world = run(test)
    assert (world.codes, world.ran) == (["deny args.constraint"] * 2, [])


def test_the_list_is_shortened_and_a_hidden_tool_is_denied_all_the_same(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        tools = world.tools()
        assert (await tools.list_tools()).tools == []  # outside a task
        async with world.task():
            assert sorted(tool.name for tool in (await tools.list_tools()).tools) == ["crash", "echo", "fail", "look", "refund", "slow"]
            assert (await tools.call_tool("wipe", {"order": "A-17"})).is_error
        assert "wipe" in [tool.name for tool in (await world.session.list_tools()).tools]  # the session's own list is whole

    world = run(test)
    assert (world.codes, world.ran) == (["deny intent.tool"], [])


@pytest.mark.parametrize("listed", [True, False])
def test_an_unknown_tool_is_denied(run: Callable[[Test], World], listed: bool) -> None:
    """Fail-open row F33: a tool that is on no map must not run."""
    names = ["nobody_declared_this", "no_such_tool", "Look", "look ", "lооk", "", "other/look"]

    async def test(world: World) -> None:
        async with world.task():
            if listed:
                await world.tools().list_tools()
            for name in names:
                assert (await world.tools().call_tool(name, {"order": "A-17"})).is_error

    world = run(test)
    assert world.ran == []
    assert world.codes == ["deny tool.unknown"] * len(names)


def test_outside_a_task_nothing_runs(run: Callable[[Test], World]) -> None:
    """Fail-open row F34: neither a role in the arguments nor one beside them is an identity."""

    async def test(world: World) -> None:
        result = await world.tools().call_tool("look", {"order": "A-17", "role": "admin"}, meta={"role": "admin", "user_id": "bob"})
        assert result.is_error
        assert "task.none" in said(result)

    assert run(test).ran == []


def test_arguments_are_bound_to_the_servers_schema(run: Callable[[Test], World]) -> None:
    cases: list[tuple[Any, str]] = [
        ({"order": "A-17", "pages": 1, "force": True}, "args.unknown"),
        ({}, "args.missing"),
        ({"order": "A-17", "pages": "1"}, "args.type"),
        ({"order": "A-17", "pages": True}, "args.type"),
        ("order", "args.type"),
        ([["order", "A-17"]], "args.type"),
    ]

    async def test(world: World) -> None:
        async with world.task():
            tools = world.tools()
            await tools.list_tools()
            for args, _ in cases:
                assert (await tools.call_tool("look", args)).is_error

    world = run(test)
    assert (world.codes, world.ran) == ([f"deny {code}" for _, code in cases], [])


def test_a_schema_that_makes_no_sense_opens_nothing(run: Callable[[Test], World]) -> None:
    """The server is a third party: what it says of its tools may narrow what is accepted, not break the list or widen it."""

    async def test(world: World) -> None:
        listed = await world.session.list_tools()
        for schema in (
            {},
            {"type": "string"},
            {"type": "object", "properties": []},
            {"type": "object", "properties": {"order": True}, "required": "order"},
            {"type": "object", "properties": {"order": {"default": "A-17"}, "force": {"default": True}}, "additionalProperties": True},
            {"$ref": "#/nowhere"},
        ):
            tools = [tool.model_copy(update={"input_schema": schema}) for tool in listed.tools]

            async def given(*, params: Any = None, tools: Any = tools) -> Any:
                return listed.model_copy(update={"tools": tools})

            world.session.list_tools = given  # type: ignore[method-assign]
            async with world.guard.task(world.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17"})):
                assert "look" in [tool.name for tool in (await world.tools().list_tools()).tools]
                for args in ({"order": "B-99"}, {"order": "A-17", "force": True}, {"order": "A-17", "role": "admin"}):
                    assert (await world.tools().call_tool("look", args)).is_error

    assert run(test).ran == []


def test_a_named_server_has_its_own_tools(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            result = await world.tools(server="shop").call_tool("look", {"order": "A-17"})
            assert result.is_error  # `shop/look` is in the policy; this intent does not use it
            assert "shop/look" in said(result)

    assert run(test).codes == ["deny intent.tool"]


def test_the_token_never_reaches_the_server(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task() as task:
            meta = {
                "com.example/delegation": task.token,
                "authorization": f"Bearer {task.token}",
                "nested": {"deep": [task.token, "kept", {"in": task.token, "too": 1}]},
                task.token: "as a name",
                "progressive": "kept",
            }
            seen = said(await world.tools().call_tool("echo", meta=meta))
            assert task.token not in seen
            assert json.loads(seen)["progressive"] == "kept"
            assert json.loads(seen)["nested"] == {"deep": ["kept", {"too": 1}]}
            assert meta["com.example/delegation"] == task.token  # the caller's own mapping is not touched

    run(test)


def test_a_server_with_a_guard_of_its_own_gets_token_and_proof(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        key, other = HolderKey.generate(), HolderKey.generate()
        root = world.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17"}, key=key.public, depth=1)
        chain = key.attenuate(root, actor="mailer", key=other)
        async with world.guard.task(chain, key=other) as task:
            hop = chain.split("~")[1]
            meta = json.loads(said(await world.tools(present=other).call_tool("echo", meta={"mine": root, "yours": ["x", hop]})))
            again = json.loads(said(await world.tools(present=other).call_tool("echo")))
            found = task.delegation
            bare = said(await world.tools().call_tool("echo", meta={"mine": root, "yours": hop}))
        assert meta[META_TOKEN] == chain
        assert "mine" not in meta
        assert meta["yours"] == ["x"]
        now = int(time.time())
        marks = {verify_pop(one[META_PROOF], found, chain, tool="echo", args=b"{}", now=now) for one in (meta, again)}
        assert len(marks) == 2
        assert root not in bare
        assert hop not in bare

    run(test)


def test_traceparent_goes_with_the_call(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        context = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
        async with world.task():
            with trace.use_span(trace.NonRecordingSpan(context)):
                meta = json.loads(said(await world.tools().call_tool("echo")))
        assert meta["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"

    run(test)


def test_a_tools_own_error_passes_through_as_outcome_error(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            result = await world.tools().call_tool("fail", {"order": "A-17"})
            assert result == await world.session.call_tool("fail", {"order": "A-17"})
            assert result.is_error
            assert "no such order A-17" in said(result)
            await world.tools().call_tool("fail", {"order": "A-17"})  # errors_have_no_effect: its unit came back

    world = run(test)
    assert (world.codes, world.outcomes) == (["allow permit"] * 2, ["error"] * 2)
    assert all("A-17" not in str(record) for record in world.sink.outcomes)


def test_a_protocol_error_is_the_sdks_exception_and_outcome_error(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async def refuse(*args: Any, **more: Any) -> Any:
            raise MCPError(code=-32602, message="Unknown tool")

        world.session.call_tool = refuse  # type: ignore[method-assign]
        async with world.task():
            with pytest.raises(MCPError, match="Unknown tool"):
                await world.tools().call_tool("look", {"order": "A-17"})

    assert run(test).outcomes == ["error"]


def test_no_answer_in_time_is_outcome_unknown_and_no_unit_comes_back(run: Callable[[Test], World]) -> None:
    tries = 0

    async def test(world: World) -> None:
        nonlocal tries
        while not world.ran and tries < 20:  # given up before the server has even begun, it shows less
            tries += 1
            async with world.task():
                with pytest.raises(MCPError, match=r"(?i)timed out"):
                    await world.tools().call_tool("slow", {"order": "A-17"}, read_timeout_seconds=0.5)
                assert "limit.calls" in said(await world.tools().call_tool("slow", {"order": "A-17"}))

    world = run(test)
    assert (set(world.ran), world.outcomes) == ({"slow"}, ["unknown"] * tries)


@pytest.mark.parametrize("by", ["asyncio", "anyio"])
def test_cancellation_passes_through_and_is_outcome_unknown(run: Callable[[Test], World], by: str) -> None:
    async def test(world: World) -> None:
        async with world.task():
            call = world.tools().call_tool("slow", {"order": "A-17"})
            if by == "anyio":
                with anyio.CancelScope() as scope:
                    begun = asyncio.ensure_future(has_begun(world, scope.cancel))
                    await call
                assert scope.cancelled_caught
            else:
                calling = asyncio.ensure_future(call)
                begun = asyncio.ensure_future(has_begun(world, calling.cancel))
                with pytest.raises(asyncio.CancelledError):
                    await calling
            await begun
            assert "limit.calls" in said(await world.tools().call_tool("slow", {"order": "A-17"}))

    world = run(test)
    assert (world.ran, world.outcomes) == (["slow"], ["unknown"])


async def has_begun(world: World, then: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not world.ran:
            await asyncio.sleep(0.01)
    then()


def test_a_server_that_dies_midway_leaves_outcome_unknown(tmp_path: Path) -> None:
    iam, sink, ran = LocalIssuer("acme-dev"), ListSink(), tmp_path / "ran"
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[sink])

    async def main() -> None:
        async with stdio(ran) as session:
            async with World(guard, iam, sink, session, ran).task():
                with pytest.raises(MCPError):
                    await GuardedSession(guard, session).call_tool("crash")

    asyncio.run(main())
    assert (ran.read_text().split(), [record.status for record in sink.outcomes]) == (["crash"], ["unknown"])


def test_parallel_calls_never_pass_a_limit(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            tools = world.tools()
            results = await asyncio.gather(*(tools.call_tool("refund", {"order": "A-17", "amount": "1"}) for _ in range(20)))
        assert sum(not result.is_error for result in results) == 3

    world = run(test)
    assert sorted(world.codes) == ["allow permit"] * 3 + ["deny limit.calls"] * 17
    assert world.ran == ["refund"] * 3


def test_two_calls_that_only_together_break_a_rule(run: Callable[[Test], World]) -> None:
    """Fail-open row F47: the chain is the task's, not the MCP session's. Two wrappers, one task, one count."""

    async def test(world: World) -> None:
        async with world.task():
            answers = [await world.tools().call_tool("refund", {"order": "A-17", "amount": "1"}) for _ in range(4)]
        assert [answer.is_error for answer in answers] == [False, False, False, True]

    run(test)


def test_a_call_with_an_id_runs_once(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        async with world.task():
            first = await world.tools().call_tool("refund", {"order": "A-17", "amount": "1"}, call_id="toolu_1")
            again = await world.tools().call_tool("refund", {"order": "A-17", "amount": "1"}, call_id="toolu_1")
            assert again == first
            failed = await world.tools().call_tool("fail", {"order": "A-17"}, call_id="toolu_2")
            assert failed == await world.tools().call_tool("fail", {"order": "A-17"}, call_id="toolu_2")

    assert run(test).ran == ["refund", "fail"]


def test_a_ready_made_accept_authorizes_nothing(run: Callable[[Test], World]) -> None:
    """Fail-open row F66: an elicitation's answer can be sent with the call itself, no human asked."""

    async def test(world: World) -> None:
        accept = {"ok": ElicitResult(action="accept")}
        async with world.task():
            with pytest.raises(TypeError):
                await world.tools().call_tool("refund", {"order": "B-99", "amount": "1"}, input_responses=accept)  # type: ignore[call-arg]
            result = await world.tools().call_tool("refund", {"order": "B-99", "amount": "1"}, meta={"input_responses": {"ok": "accept"}})
            assert result.is_error

    assert run(test).ran == []


def test_only_a_decision_that_does_not_block_lets_a_call_out(run: Callable[[Test], World]) -> None:
    """Fail-open row F35: a truthy answer is no permit. A decision has no truth value, and the adapter asks for none."""

    async def test(world: World) -> None:
        async with world.task():
            with pytest.raises(TypeError):
                bool(world.guard.check(ToolCall("look", {"order": "B-99"})))

    run(test)


def test_the_bare_session_knows_no_guard(run: Callable[[Test], World]) -> None:
    """Written down, not hidden: whoever holds the session itself is not guarded (fail-open row F63). The wrapper hands it to nobody."""

    async def test(world: World) -> None:
        assert not (await world.session.call_tool("look", {"order": "B-99"})).is_error
        tools = world.tools()
        public = [name for name in dir(tools) if not name.startswith("_")]
        assert public == ["call_tool", "list_tools"]

    assert run(test).sink.decisions == []


def test_an_sdk_that_is_not_there_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import guard.adapters.mcp as adapter
    from guard.errors import ConfigError

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigError, match=r'guard\.adapters\.mcp needs mcp >= 2\.0: pip install "guardtrail\[mcp\]"'):
        importlib.reload(adapter)


def test_a_server_that_reads_what_it_is_lent_gets_it_for_this_call(run: Callable[[Test], World]) -> None:
    """`credential:` of the policy, in `_meta`; nobody else sees it, and it is dead when the call has ended."""
    policy = POLICY.replace(
        "echo: {effect: read}", 'echo: {effect: read, credential: {resource: "https://api.acme.example", scope: [read]}}'
    )

    async def test(world: World) -> None:
        lender = FakeCredentials()
        guard = Guard(Policy.from_text(policy), trust=world.iam, sinks=[world.sink], credentials=lender)
        token = world.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17"})
        async with guard.task(token):
            lending = GuardedSession(guard, world.session, lend=True)
            first = json.loads(said(await lending.call_tool("echo")))[META_CREDENTIAL]
            assert first == lender.issued[0].token and not lender.alive(first)
            assert META_CREDENTIAL not in said(await GuardedSession(guard, world.session).call_tool("echo"))
            assert "order A-17" in said(await lending.call_tool("look", {"order": "A-17"}))
            lender.refuse = True
            refused = await lending.call_tool("echo")
            assert refused.is_error and "credential.refused" in said(refused)
        assert lender.taken_back == lender.issued and len(lender.issued) == 2

    run(test)


def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    file = SERVER.parents[2] / "examples" / "adapters" / "mcp_client.py"
    env = {"PYTHONPATH": PYTHONPATH, "PATH": ""}
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == file.with_suffix(".txt").read_text("utf-8")


def test_a_server_with_a_guard_shows_what_the_task_may_call(run: Callable[[Test], World]) -> None:
    async def test(world: World) -> None:
        key, seen = HolderKey.generate(), []
        own = world.session.list_tools

        async def noting(*, params: Any = None) -> Any:
            seen.append(params)
            return await own(params=params)

        world.session.list_tools = noting  # type: ignore[method-assign]
        token = world.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17"}, key=key.public)
        async with world.guard.task(token, key=key):
            await world.tools(present=key).list_tools(params=PaginatedRequestParams(_meta={"mine": token, "kept": 1}))
            await world.tools().list_tools()
        assert dict(seen[0].meta) == {"kept": 1, META_TOKEN: token}
        assert seen[1] is None

    run(test)
