"""What every front and every kind of server has in common: the same tests over stdio and HTTP, in both eras of the protocol, with the official SDK's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import ElicitResult

from guard.telemetry import META_TOKEN
from tests.gateway.world import World, text_of

Test = Callable[[World, Client], Awaitable[None]]
FRONTS = ["stdio legacy", "stdio auto", "http legacy", "http auto"]


@asynccontextmanager
async def gateway(world: World, front: str, *, token: str | None = None, behind: str = "stdio", **options: Any) -> AsyncIterator[Client]:
    kind, mode = front.split()
    if kind == "stdio":
        async with world.stdio(mode=mode, token=token, **options) as client:
            yield client
        return
    if behind == "stdio":
        with world.gateway("--", *world.behind()) as gate:
            async with gate.client(token, mode=mode, **options) as client:
                yield client
        return
    with world.server() as url, world.gateway("--url", url) as gate:
        async with gate.client(token, mode=mode, **options) as client:
            yield client


@pytest.fixture(params=[(front, "stdio") for front in FRONTS] + [("http legacy", "http"), ("http auto", "http")], ids=" ".join)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], World]:
    front, behind = request.param

    def run_it(test: Test) -> World:
        world = World(tmp_path)

        async def main() -> BaseException | None:
            async with gateway(world, front, behind=behind) as client:
                try:
                    await test(world, client)
                except BaseException as error:  # raised outside, where no task group wraps it
                    return error
            return None

        error = asyncio.run(main())
        if error is not None:
            raise error
        return world

    return run_it


def test_one_connection(run: Callable[[Test], World]) -> None:
    """Lists, calls, denials, errors, the token, the trace, progress, large results, resources, prompts: each on every transport (row F36)."""

    async def test(world: World, client: Client) -> None:
        session = client.session
        listed = [tool.name for tool in (await client.list_tools()).tools]
        assert sorted(listed) == ["big", "certain", "crash", "echo", "fail", "look", "refund", "reload", "slow", "steps", "sure"]
        assert session.instructions == "Look before you refund."

        # a denied one is an error result with the reason, and the body does not run (F57: a hidden tool is denied all the same)
        denied = await client.call_tool("look", {"order": "B-99"})
        assert denied.is_error and "args.constraint" in text_of(denied) and "B-99" not in denied.model_dump_json()
        assert denied.meta is not None and denied.meta["guardtrail.io/code"] == "args.constraint"
        for name in ("wipe", "no_such_tool", "Look", "look ", "resources.read", "share"):
            assert (await client.call_tool(name, {"order": "A-17"})).is_error
        assert (await client.call_tool("look", {"order": "A-17", "force": True})).is_error
        assert (await client.call_tool("look", {})).is_error
        assert world.ran == []

        # an allowed one is the server's own result
        assert text_of(await client.call_tool("refund", {"order": "A-17", "amount": "1"})) == "refunded 1 on A-17"
        found = await client.call_tool("look", {"order": "A-17", "pages": 2})
        assert (
            not found.is_error
            and text_of(found) == "order A-17, 2 page(s)"
            and found.structured_content == {"result": "order A-17, 2 page(s)"}
        )
        # its result is labelled: what must not follow on that label does not (F47: whatever the session is called)
        assert "rule.forbid_after" in text_of(await client.call_tool("refund", {"order": "A-17", "amount": "1"}))
        failed = await client.call_tool("fail", {"order": "A-17"})
        assert failed.is_error and "no such order A-17" in text_of(failed)

        # what travels beside: the token goes no further, wherever it stands; the trace does
        token = world.mine
        meta = {
            META_TOKEN: token,
            "com.example/auth": f"Bearer {token}",
            "nested": {"deep": [token, "kept", {"in": token, "too": 1}]},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "kept": "kept",
        }
        seen = json.loads(text_of(await client.call_tool("echo", {"text": "hello"}, meta=meta)))
        assert token not in json.dumps(seen)
        assert "authorization" not in seen["headers"] and "GUARDTRAIL_TOKEN" not in seen["env"]
        assert seen["meta"]["kept"] == "kept" and seen["meta"]["nested"] == {"deep": ["kept", {"too": 1}]}
        assert seen["meta"]["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
        assert seen["meta"]["traceparent"].split("-")[2] != "b7ad6b7169203331"
        for text in (token, f"see {token}.", token.split("~")[0]):
            assert "args.token" in text_of(await client.call_tool("echo", {"text": text}))

        # progress and a large result
        told: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append((done, total, message))

        assert text_of(await client.call_tool("steps", {"number": 5}, progress_callback=progress)) == "done"
        assert told[-1:] == [(5.0, 5.0, "step 5")] or len(told) >= 3
        size = 900_000 if session.protocol_version == "2025-11-25" else 5_000_000
        assert len(text_of(await client.call_tool("big", {"size": size}))) == size

        # resources and prompts are calls; their lists show what may be had
        assert [str(each.uri) for each in (await client.list_resources()).resources] == ["memo://open"]
        assert (await client.read_resource("memo://open")).contents[0].text == "an open memo"  # type: ignore[union-attr]
        with pytest.raises(MCPError, match=r"args\.constraint"):
            await client.read_resource("memo://closed")
        assert [each.name for each in (await client.list_prompts()).prompts] == ["greet"]
        assert "Greet Bob" in (await client.get_prompt("greet", {"who": "Bob"})).model_dump_json()
        with pytest.raises(MCPError, match=r"args\.constraint"):
            await client.get_prompt("other", {})

        # answers that nobody asked for authorize nothing (F66)
        accept = {"ok": ElicitResult(action="accept", content={"sure": True})}
        unasked = await session.call_tool("echo", {}, input_responses=accept) if session.protocol_version == "2026-07-28" else None
        assert unasked is None or "call.unasked" in text_of(unasked)
        # a server that asks is not let through: the policy does not name it
        try:
            asked = await client.call_tool("sure", {})
            assert asked.is_error
        except MCPError:  # the server hands the gateway's no on, or sees that nobody can be asked
            pass

    world = run(test)
    assert "memo closed" not in world.ran and "wipe" not in world.ran
    assert [line for line in world.ran if line.startswith("sure")] in (["sure"], [])
    allowed = [each for each in world.decisions if " allow " in each]
    assert len(allowed) == len(world.outcomes)
    assert "look allow permit" in allowed and "resources.read allow permit" in allowed and "fail error" in world.outcomes
    for denial in (
        "wipe deny intent.tool",
        "no_such_tool deny tool.unknown",
        "echo deny args.token",
        "resources.read deny args.constraint",
    ):
        assert denial in world.decisions
