"""What servers ask of clients while a call runs: denied, unless the policy names it; and then judged like any call, in the task of the call that caused it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp.types import ElicitResult

from guard.telemetry import META_TOKEN
from tests.gateway.test_gateway import gateway
from tests.gateway.world import World, text_of, until

NAMED = "  elicitation.create: {effect: read, data: {message: text, mode: text, requestedSchema: any}}"
ALLOWED = "      elicitation.create: {}"
FRONTS = [("stdio legacy", "stdio"), ("http legacy", "stdio"), ("http legacy", "http"), ("http auto", "http")]


def asked(heard: list[str], action: str = "accept") -> Callable[..., Any]:
    async def callback(context: Any, params: Any) -> ElicitResult:
        heard.append(params.message)
        return ElicitResult(action=action, content={"sure": True} if action == "accept" else None)  # type: ignore[arg-type]

    return callback


@pytest.mark.parametrize(("front", "behind"), FRONTS)
@pytest.mark.parametrize("allowed", [True, False], ids=["named", "not named"])
def test_a_question_reaches_the_person_only_where_the_policy_names_it(tmp_path: Path, front: str, behind: str, allowed: bool) -> None:
    world = World(tmp_path, more=NAMED if allowed else "", allow=ALLOWED if allowed else "")
    heard: list[str] = []
    tool = "certain" if behind == "http" else "sure"

    async def main() -> Any:
        async with gateway(world, front, behind=behind, elicitation_callback=asked(heard)) as client:
            try:
                return await client.call_tool(tool, {})
            except Exception as error:
                return error

    found = asyncio.run(main())
    if allowed:
        assert text_of(found) == "accept", found
        assert len(heard) == 1
        assert "elicitation.create allow permit" in world.decisions
        assert world.ran[-1] in ("sure accept", "certain where we were accept")
    else:
        assert heard == []
        assert isinstance(found, Exception) or found.is_error
        assert "elicitation.create deny tool.unknown" in world.decisions
        assert world.ran in (["sure"], ["certain asks"])
        if tool == "certain":
            assert "certain unknown" in world.outcomes


@pytest.mark.parametrize(("front", "behind"), FRONTS)
def test_an_answer_does_not_carry_the_token(tmp_path: Path, front: str, behind: str) -> None:
    """Attack: a server asks for what the client calls with, and the client says it."""
    world = World(tmp_path, more=NAMED, allow=ALLOWED)

    async def callback(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"sure": True, "note": f"it is {world.mine}"})

    async def main() -> Any:
        async with gateway(world, front, behind=behind, elicitation_callback=callback) as client:
            try:
                return await client.call_tool("certain" if behind == "http" else "sure", {})
            except Exception as error:
                return error

    found = asyncio.run(main())
    assert isinstance(found, Exception) or found.is_error or "call.unasked" in text_of(found)
    assert world.ran in (["sure"], ["certain asks"])


def test_two_delegations_of_one_task_are_not_one(tmp_path: Path) -> None:
    """Attack: a sub-agent's call makes the server ask, and the question is judged under the delegation of whoever it works for."""
    world = World(tmp_path, more=NAMED, allow=ALLOWED)
    heard: list[str] = []
    own, other = world.token(txn="t-1"), world.token(txn="t-1")

    async def main() -> Any:
        async with world.stdio(mode="legacy", token=own, elicitation_callback=asked(heard)) as client:
            waits = asyncio.create_task(client.call_tool("slow", {"order": "A-17"}, meta={META_TOKEN: other}))
            await until(lambda: "slow" in world.ran)
            try:
                return await client.call_tool("sure", {})
            except Exception as error:
                return error
            finally:
                waits.cancel()

    found = asyncio.run(main())
    assert heard == []
    assert isinstance(found, Exception) or found.is_error


def test_an_answer_to_another_call_is_none(tmp_path: Path) -> None:
    """F66: `inputResponses` count for the very call that has asked, once it has asked."""
    world = World(tmp_path, more=NAMED, allow=ALLOWED)

    async def main() -> None:
        with world.server() as url, world.gateway("--url", url) as gate:
            async with gate.client(mode="auto", elicitation_callback=asked([])) as client:
                pending = await client.session.call_tool("certain", {}, allow_input_required=True)
                state = pending.request_state
                answers: Any = {"ok": ElicitResult(action="accept", content={"sure": True})}
                for tool, args, sealed, given in (
                    ("echo", {}, state, answers),
                    ("certain", {}, None, answers),
                    ("certain", {}, "where we were", answers),
                    ("certain", {}, state[:-6] + "AAAAAA", answers),
                    ("certain", {}, state, {"other": answers["ok"]}),
                ):
                    refused = await client.session.call_tool(tool, args, input_responses=given, request_state=sealed)
                    assert "call.unasked" in text_of(refused)
                assert world.ran == ["certain asks"]
                good = await client.session.call_tool("certain", {}, input_responses=answers, request_state=state)
                assert text_of(good) == "accept"
                async with gate.client(world.token(), mode="auto") as other:  # another task
                    refused = await other.session.call_tool("certain", {}, input_responses=answers, request_state=state)
                    assert "call.unasked" in text_of(refused)

    asyncio.run(main())
    assert world.ran == ["certain asks", "certain where we were accept"]
