"""What is particular to Strands: hooks and their order, interrupts, sub-agents, progress of a tool. The behaviours are in tests/conformance."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("strands")

from strands import Agent, ToolContext, tool
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent, HookProvider
from strands.multiagent import GraphBuilder, Swarm

from guard.adapters.strands import GuardHooks, coverage
from guard.errors import ConfigError
from guard.testing.conformance import Call, World
from tests.conformance.drivers.strands import Said, answers
from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
WIPE = (Call("w1", "wipe", {"order": "A-1"}),)
LOOK = (Call("c1", "look", {"order": "A-1"}),)
PAY = (Call("c1", "pay", {"to": "bob", "amount": "2000"}),)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


def agent_of(world: World, script: Any, tools: Any, *more: Any, guarded: bool = True, name: str = "desk") -> Agent:
    hooks = [GuardHooks(world.guard)] if guarded else []
    tools = [tool(each) if type(each).__name__ == "function" else each for each in tools]
    return Agent(model=Said((*script, "done")), name=name, tools=tools, hooks=[*hooks, *more], callback_handler=None)


def play(agent: Agent, prompt: Any = "go") -> dict[str, str]:
    agent(prompt)
    return {id: answer.text for id, answer in answers(agent.messages).items()}


def test_f57_a_hidden_tool_is_denied_when_it_is_called(world: World) -> None:
    agent = agent_of(world, [WIPE], world.tools())
    assert "intent.tool" in play(agent)["w1"] and world.ran == []
    assert "wipe" not in agent.model.shown[0] and "look" in agent.model.shown[0]
    assert [record.tool for record in world.decisions] == ["wipe"]


def test_f58_a_sub_agent_without_a_guard_does_not_start(world: World) -> None:
    helper = agent_of(world, [WIPE], world.tools("wipe"), guarded=False, name="helper")
    agent = agent_of(world, [(Call("h1", "helper", {"input": "go"}),)], [helper.as_tool()])
    with pytest.raises(ConfigError, match=r"desk > helper > wipe: give helper hooks=\[GuardHooks\(guard\)\]"):
        play(agent)
    assert world.ran == [] and {seen.path: seen.covered for seen in coverage(agent)} == {"desk > helper > wipe": False}


def test_f58_an_agent_inside_a_tool_function_does_not_start(world: World) -> None:
    helper = agent_of(world, [WIPE], world.tools("wipe"), guarded=False, name="helper")

    def ask(question: str) -> str:
        """Ask the helper."""
        return str(helper(question))

    with pytest.raises(ConfigError, match="desk > ask > helper > wipe"):
        play(agent_of(world, [], [ask]))


def test_f58_every_agent_of_a_graph_and_a_swarm_has_its_own(world: World) -> None:
    bare, one, two = (agent_of(world, [WIPE], world.tools("wipe"), guarded=name != "bare", name=name) for name in ("bare", "one", "two"))
    build = GraphBuilder()
    build.add_node(bare, "bare")
    build.add_node(one, "one")
    build.add_edge("one", "bare")
    build.set_entry_point("one")
    build.set_max_node_executions(2)
    assert {seen.path: seen.covered for seen in coverage(build.build())} == {"bare > wipe": False, "one > wipe": True}
    swarm = Swarm([one, two])
    assert all(seen.covered for seen in coverage(swarm)) and len(coverage(swarm)) == 2
    swarm("go")
    assert world.ran == [] and {(record.tool, record.verdict) for record in world.decisions} == {("wipe", "deny")}


def test_f68_a_step_that_runs_again_decides_and_counts_once(world: World) -> None:
    agent = agent_of(world, [PAY], world.tools("pay"))
    waiting = agent("go")
    assert [each.name for each in waiting.interrupts] == ["guardtrail"]
    world.approve()
    play(agent, [{"interruptResponse": {"interruptId": waiting.interrupts[0].id, "response": True}}])
    assert len(world.runs("pay")) == 1
    assert [record.verdict for record in world.decisions] == ["ask", "allow"] and len(world.outcomes) == 1


@pytest.mark.parametrize("said", [False, "no", "yes", 1, {"approved": True}])
def test_whoever_does_not_answer_true_says_no(world: World, said: Any) -> None:
    """Even where a person has approved it."""
    agent = agent_of(world, [PAY], world.tools("pay"))
    waiting = agent("go")
    world.approve()
    text = play(agent, [{"interruptResponse": {"interruptId": waiting.interrupts[0].id, "response": said}}])["c1"]
    assert "was not confirmed" in text and world.ran == []
    assert [str(record.code) for record in world.decisions] == ["rule.match", "ask.declined"]


def test_an_ask_in_a_sub_agent_comes_up_through_its_parent(world: World) -> None:
    helper = agent_of(world, [PAY], world.tools("pay"), name="helper")
    agent = agent_of(world, [(Call("h1", "helper", {"input": "go"}),)], [helper.as_tool()])
    waiting = agent("go")
    assert waiting.interrupts[0].reason["tool"] == "pay" and world.ran == []
    world.approve()
    play(agent, [{"interruptResponse": {"interruptId": waiting.interrupts[0].id, "response": True}}])
    assert len(world.runs("pay")) == 1


def test_arguments_that_later_hooks_change_are_the_ones_judged(world: World) -> None:
    class More(HookProvider):
        def register_hooks(self, registry: Any, **_: Any) -> None:
            registry.add_callback(BeforeToolCallEvent, self.more)

        def more(self, event: Any) -> None:
            event.tool_use["input"]["amount"] = "5000"

    agent = agent_of(world, [(Call("c1", "refund", {"order": "A-1", "amount": "5"}),)], world.tools("refund"), More())
    assert "args.constraint" in play(agent)["c1"] and world.ran == []


def test_a_hook_that_tries_again_does_not_run_a_body_twice(world: World) -> None:
    class Again(HookProvider):
        tries = 0

        def register_hooks(self, registry: Any, **_: Any) -> None:
            registry.add_callback(AfterToolCallEvent, self.again)

        def again(self, event: Any) -> None:
            self.tries += 1
            event.retry = self.tries == 1

    agent = agent_of(world, [LOOK], world.tools("look"), Again())
    assert "order A-1" in play(agent)["c1"] and len(world.ran) == 1 and len(world.decisions) == 1


def test_what_a_tool_says_on_its_way_goes_on_at_once(world: World) -> None:
    heard = asyncio.Event()

    @tool(name="where")
    async def slow(order: str) -> AsyncIterator[str]:
        """Say something on the way."""
        yield "half"
        await asyncio.wait_for(heard.wait(), 30)
        yield "whole"

    agent = agent_of(world, [(Call("c1", "where", {"order": "A-1"}),)], [slow])
    seen: list[Any] = []

    async def listen() -> None:
        async for event in agent.stream_async("go"):
            if "tool_stream_event" in event:
                seen.append((event["tool_stream_event"]["data"], len(world.outcomes)))
                heard.set()

    asyncio.run(listen())
    assert seen[0] == ("half", 0), "before the call has ended"
    assert "whole" in answers(agent.messages)["c1"].text and [each.status for each in world.outcomes] == ["ok"]


def test_a_tool_that_asks_by_itself_is_judged_again_with_the_answer(world: World) -> None:
    @tool(name="where", context=True)
    def asks(order: str, tool_context: ToolContext) -> str:
        """Ask somebody."""
        return f"they said {tool_context.interrupt('mine', reason='well?')}"

    agent = agent_of(world, [(Call("c1", "where", {"order": "A-1"}),)], [asks])
    waiting = agent("go")
    text = play(agent, [{"interruptResponse": {"interruptId": waiting.interrupts[0].id, "response": "fine"}}])["c1"]
    assert "they said fine" in text and [record.verdict for record in world.decisions] == ["allow", "allow"]
    assert [outcome.status for outcome in world.outcomes] == ["unknown", "ok"], "who stops half-way may have done half of it"


def test_a_direct_call_passes_the_guard(world: World) -> None:
    agent = agent_of(world, [], world.tools("wipe", "look"))
    assert "intent.tool" in str(agent.tool.wipe(order="A-1")) and "order A-1" in str(agent.tool.look(order="A-1"))
    assert len(world.ran) == 1


def test_a_decorated_tool_is_decided_once(world: World) -> None:
    world.sealed = True
    assert "order A-1" in play(agent_of(world, [LOOK], [tool(each) for each in world.tools("look")]))["c1"]
    assert len(world.decisions) == 1 == len(world.ran)


def test_an_agent_without_the_guard_is_not_covered(world: World) -> None:
    seen = coverage(agent_of(world, [], world.tools("look"), guarded=False))
    assert [(each.path, each.covered) for each in seen] == [("desk > look", False)]
    assert coverage(tool(world.tools("look")[0])) == coverage(None) == []


def test_the_example() -> None:
    command = [sys.executable, str(ROOT / "examples/adapters/strands_agent.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == OUTPUT


OUTPUT = """\
success: {"order": "A-17", "paid": "20"}
error: look denied: argument order must equal $order of intent refund-order [args.constraint] Instead: a task for the other order.
error: refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
error: wipe denied: refund-order does not use wipe [intent.tool]
success: refunded 20.00 on A-17
Refunded 20.00 on A-17.

"""
