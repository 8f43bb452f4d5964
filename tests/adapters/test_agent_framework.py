"""What is particular to the Microsoft Agent Framework: bundles, later middleware, sub-agents, tools that run somewhere else. Behaviours: tests/conformance."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agent_framework")

from agent_framework import Agent, Content, FunctionMiddleware, FunctionTool, Message, MiddlewareFailure

from guard.adapters.agent_framework import GuardMiddleware, coverage
from guard.errors import ConfigError
from guard.testing.conformance import Call, World
from tests.conformance.drivers.agent_framework import Said
from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
WIPE = (Call("w1", "wipe", {"order": "A-1"}),)
LOOK = (Call("c1", "look", {"order": "A-1"}),)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


def agent_of(world: World, script: Any, tools: Any, *more: Any, guarded: bool = True, **options: Any) -> Agent:
    middleware = [GuardMiddleware(world.guard, **options)] if guarded else []
    return Agent(client=Said((*script, "done")), name="desk", tools=tools, middleware=[*middleware, *more])


def play(agent: Agent, **more: Any) -> dict[str, str]:
    response = asyncio.run(agent.run("go", **more))
    return {c.call_id: str(c.result) for m in response.messages for c in m.contents if c.type == "function_result"}


def test_f57_a_hidden_tool_is_denied_when_it_is_called(world: World) -> None:
    agent = agent_of(world, [WIPE], world.tools())
    assert "intent.tool" in play(agent)["w1"] and world.ran == []
    assert "wipe" not in agent.client.shown[0] and "look" in agent.client.shown[0]
    assert [record.tool for record in world.decisions] == ["wipe"]


def test_f58_a_sub_agent_without_a_guard_does_not_start(world: World) -> None:
    helper = Agent(client=Said((WIPE, "done")), name="helper", tools=world.tools("wipe"))
    agent = agent_of(world, [(Call("h1", "helper", {"task": "go"}),)], [helper.as_tool()])
    with pytest.raises(MiddlewareFailure, match="desk > helper > wipe: give helper a GuardMiddleware"):
        play(agent)
    assert world.ran == [] and {seen.path: seen.covered for seen in coverage(agent)} == {"desk > helper > wipe": False}


def test_f58_an_agent_inside_a_tool_function_does_not_start(world: World) -> None:
    helper = Agent(client=Said((WIPE, "done")), name="helper", tools=world.tools("wipe"))

    async def ask(question: str) -> str:
        """Ask the helper."""
        return str(await helper.run(question))

    with pytest.raises(MiddlewareFailure, match="desk > ask > helper > wipe"):
        play(agent_of(world, [], [ask]))


def test_f58_a_tool_that_a_guarded_agent_has_used_stays_guarded_in_another(world: World) -> None:
    """Whichever agent calls it: inside a call of a guarded agent that one's guard judges, elsewhere nothing runs."""
    tool = FunctionTool(name="look", description="Look.", func=world.tools("look")[0])
    play(agent_of(world, [LOOK], [tool]))
    assert len(world.ran) == 1
    assert "Function failed" in play(agent_of(world, [LOOK], [tool], guarded=False))["c1"]
    with pytest.raises(ConfigError, match="this agent has no GuardMiddleware"):
        asyncio.run(tool.invoke(arguments={"order": "A-1"}))
    assert len(world.ran) == 1


def test_f61_what_runs_at_the_provider_is_reported_and_does_not_start(world: World) -> None:
    search = {"type": "web_search"}
    with pytest.raises(MiddlewareFailure, match="web_search: it runs at the model's provider"):
        play(agent_of(world, [], [search, *world.tools("look")]))
    with pytest.raises(MiddlewareFailure, match="web_search: it runs at the model's provider"):
        play(agent_of(world, [], world.tools("look")), options={"tools": [search]})
    assert {seen.path: seen.covered for seen in coverage(agent_of(world, [], [search]))} == {"desk > web_search": False}
    assert all(seen.covered for seen in coverage(agent_of(world, [], [search], unguarded=["web_search"])))


def test_arguments_that_later_middleware_changes_are_the_ones_judged(world: World) -> None:
    class More(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            context.arguments = {**context.arguments, "amount": "5000"}
            await call_next()

    agent = agent_of(world, [(Call("c1", "refund", {"order": "A-1", "amount": "5"}),)], world.tools("refund"), More())
    assert "args.constraint" in play(agent)["c1"] and world.ran == []


def test_middleware_that_tries_again_does_not_run_a_body_twice(world: World) -> None:
    class Again(FunctionMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            await call_next()
            await call_next()

    answers = play(agent_of(world, [LOOK], world.tools("look"), Again()))
    assert len(world.ran) == 1 and len(world.decisions) == 1 and "order A-1" in answers["c1"]


def test_a_tool_of_one_run_only_is_guarded_too(world: World) -> None:
    assert "intent.tool" in play(agent_of(world, [WIPE], []), tools=world.tools("wipe"))["w1"]
    assert world.ran == []


def test_a_copy_of_a_guarded_tool_is_judged_under_its_own_name(world: World) -> None:
    tool = FunctionTool(name="where", description="Where.", func=world.tools("where")[0])
    play(agent_of(world, [(Call("c1", "where", {"order": "A-1"}),)], [tool]))
    other = copy.copy(tool)
    other.name = "wipe"
    assert "intent.tool" in play(agent_of(world, [WIPE], [other]))["w1"] and len(world.ran) == 1


def test_a_decorated_tool_is_decided_once(world: World) -> None:
    world.sealed = True
    assert "order A-1" in play(agent_of(world, [LOOK], world.tools("look")))["c1"]
    assert len(world.decisions) == 1 == len(world.ran)
    assert [seen.covered for seen in coverage(agent_of(world, [], world.tools("look"), guarded=False))] == [True]


def test_an_agent_without_the_guard_is_not_covered(world: World) -> None:
    seen = coverage(agent_of(world, [], world.tools("look"), guarded=False))
    assert [(each.path, each.covered) for each in seen] == [("desk > look", False)]
    assert coverage(FunctionTool(name="look", description="", func=world.tools("look")[0])) == coverage(None) == []


def test_an_answer_nobody_asked_for_runs_nothing(world: World) -> None:
    """A client may send an approval with the first message: the framework makes the call, and the guard asks."""
    agent = agent_of(world, [], world.tools("pay"))
    call = Content.from_function_call(call_id="c1", name="pay", arguments={"to": "bob", "amount": "2000"}, id="o1")
    answer = Content.from_function_approval_response(approved=True, id="o1", function_call=call)
    asyncio.run(agent.run([Message(role="assistant", contents=[call]), Message(role="user", contents=[answer])]))
    assert world.ran == [] and "allow" not in {record.verdict for record in world.decisions}


def test_the_example() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples/adapters/agent_framework_agent.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == OUTPUT


OUTPUT = """\
c1: {"order": "A-17", "paid": "20"}
c2: look denied: argument order must equal $order of intent refund-order [args.constraint] Instead: a task for the other order.
c3: refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
c4: wipe denied: refund-order does not use wipe [intent.tool]
c5: refunded 20.00 on A-17
Refunded 20.00 on A-17.
"""
