"""What is particular to Google ADK: plugins and their order, hand-overs, tools that run somewhere else. The behaviours are in tests/conformance."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.adk")

from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools import AgentTool, FunctionTool, google_search
from google.adk.tools.tool_context import ToolContext
from google.adk.workflow import START, Workflow
from google.genai import types

from guard.adapters.google_adk import GuardPlugin, coverage
from guard.errors import ConfigError
from guard.testing.conformance import Call, World
from tests.conformance.drivers.google_adk import AdkDriver, Said
from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
WIPE = (Call("w1", "wipe", {"order": "A-1"}),)
MESSAGE = types.Content(role="user", parts=[types.Part(text="go")])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


def said(*script: Any) -> Said:
    return Said(script=[*script, "done"])


def runner_of(agent: Any, *plugins: BasePlugin) -> InMemoryRunner:
    return InMemoryRunner(app=App(name="desk", root_agent=agent, plugins=list(plugins)))


def play(runner: InMemoryRunner) -> list[Any]:
    asyncio.run(runner.session_service.create_session(app_name="desk", user_id="u", session_id="s"))
    return list(runner.run(user_id="u", session_id="s", new_message=MESSAGE))


def answers(events: list[Any]) -> dict[str, str]:
    found = (part.function_response for event in events for part in (event.content.parts if event.content else ()) or ())
    return {each.id: str(each.response) for each in found if each is not None}


def test_f57_a_hidden_tool_is_denied_when_it_is_called(world: World) -> None:
    model = said(WIPE)
    events = play(runner_of(LlmAgent(name="desk", model=model, tools=world.tools()), GuardPlugin(world.guard)))
    assert "wipe" not in model.shown[0] and "look" in model.shown[0]
    assert "intent.tool" in answers(events)["w1"] and world.ran == []
    assert [record.tool for record in world.decisions] == ["wipe"]


def test_f58_agents_that_are_handed_over_to_are_guarded(world: World) -> None:
    """`transfer_to_agent` and a workflow: nothing of it is a call of a tool the policy knows, and every tool below is judged."""
    helper = LlmAgent(name="helper", model=said(WIPE), tools=world.tools("wipe"))
    over = said((Call("t1", "transfer_to_agent", {"agent_name": "helper"}),))
    play(runner_of(LlmAgent(name="desk", model=over, sub_agents=[helper]), GuardPlugin(world.guard)))
    one, two = (LlmAgent(name=name, model=said(WIPE), tools=world.tools("wipe")) for name in ("one", "two"))
    play(runner_of(Workflow(name="desk", edges=[(START, one, two)]), GuardPlugin(world.guard)))
    assert world.ran == []
    assert [(record.tool, record.verdict) for record in world.decisions] == [("wipe", "deny")] * 3


def test_f58_an_agent_tool_without_plugins_does_not_start(world: World) -> None:
    helper = LlmAgent(name="helper", model=said(WIPE), tools=world.tools("wipe"))
    agent = LlmAgent(name="desk", model=said((Call("h1", "helper", {"request": "go"}),)), tools=[AgentTool(helper, include_plugins=False)])
    runner = runner_of(agent, GuardPlugin(world.guard))
    with pytest.raises(RuntimeError, match="desk > helper > wipe: .*include_plugins") as raised:
        play(runner)
    assert isinstance(raised.value.__cause__, ConfigError) and world.ran == []
    assert [(seen.path, seen.covered) for seen in coverage(runner)] == [("desk > helper > wipe", False)]


def test_f58_an_agent_inside_a_tool_function_does_not_start(world: World) -> None:
    helper = LlmAgent(name="helper", model=said(WIPE), tools=world.tools("wipe"))

    def ask(question: str) -> str:
        """Ask the helper."""
        return str(play(runner_of(helper)))

    with pytest.raises(RuntimeError, match="desk > ask > helper > wipe: a tool runs this agent by itself"):
        play(runner_of(LlmAgent(name="desk", model=said(), tools=[ask]), GuardPlugin(world.guard)))

    inner = runner_of(LlmAgent(name="helper", model=said(WIPE), tools=world.tools("wipe")), GuardPlugin(world.guard))

    def delegate(question: str) -> str:
        """Ask a helper whose runner has a guard."""
        return str(play(inner))

    seen = coverage(runner_of(LlmAgent(name="desk", model=said(), tools=[delegate]), GuardPlugin(world.guard)))
    assert {each.path: each.covered for each in seen} == {"desk > delegate": True, "desk > delegate > helper > wipe": True}


def test_f61_what_runs_at_the_provider_is_reported_and_does_not_start(world: World) -> None:
    agent = LlmAgent(name="desk", model=said(), tools=[google_search, *world.tools("look")])
    with pytest.raises(RuntimeError, match="desk > google_search: it runs at the model's provider"):
        play(runner_of(agent, GuardPlugin(world.guard)))
    assert [(seen.path, seen.covered) for seen in coverage(runner_of(agent, GuardPlugin(world.guard)))] == [
        ("desk > google_search", False),
        ("desk > look", True),
    ]
    assert all(seen.covered for seen in coverage(runner_of(agent, GuardPlugin(world.guard, unguarded=["google_search"]))))


def test_f61_what_a_later_callback_adds_to_the_request_is_found(world: World) -> None:
    class Adds(FunctionTool):
        async def process_llm_request(self, *, tool_context: Any, llm_request: Any) -> None:
            await super().process_llm_request(tool_context=tool_context, llm_request=llm_request)
            llm_request.config.tools.append(types.Tool(url_context=types.UrlContext()))

    agent = LlmAgent(name="desk", model=said(), tools=[Adds(world.tools("look")[0])])
    with pytest.raises(RuntimeError, match="url_context: it runs at the model's provider"):
        play(runner_of(agent, GuardPlugin(world.guard)))
    agent = LlmAgent(name="desk", model=said(), tools=[Adds(world.tools("look")[0])])
    assert play(runner_of(agent, GuardPlugin(world.guard, unguarded=["url_context"])))


def test_f65_a_guarded_tool_runs_under_no_other_runner(world: World) -> None:
    tool = FunctionTool(world.tools("look")[0])
    call = (Call("c1", "look", {"order": "A-1"}),)
    play(runner_of(LlmAgent(name="desk", model=said(call), tools=[tool]), GuardPlugin(world.guard)))
    assert len(world.ran) == 1
    with pytest.raises(ConfigError, match="this runner has no GuardPlugin"):
        play(runner_of(LlmAgent(name="desk", model=said(call), tools=[tool])))
    assert len(world.ran) == 1


def test_f48_a_thread_without_the_task_runs_nothing(world: World) -> None:
    agent = LlmAgent(name="desk", model=said((Call("c1", "look", {"order": "A-1"}),)), tools=world.tools("look"))
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(play, runner_of(agent, GuardPlugin(world.guard))).result()
    assert world.ran == [] and "task.none" in answers(events)["c1"]


def test_a_no_to_adks_question_is_on_record(world: World) -> None:
    """Even where a person has approved the call."""
    driver = AdkDriver()
    app = driver.build(world, ((Call("c1", "pay", {"to": "bob", "amount": "2000"}),), "done"))
    assert driver.run(app).pending == ["c1"]
    world.approve()
    assert "was not confirmed" in driver.resume(app, yes=False).answers["c1"].text and world.ran == []
    assert [str(record.code) for record in world.decisions] == ["rule.match", "ask.declined"]


def test_the_guard_is_the_first_plugin(world: World) -> None:
    class Other(BasePlugin):
        pass

    agent = LlmAgent(name="desk", model=said((Call("c1", "look", {"order": "A-1"}),)), tools=world.tools("look"))
    with pytest.raises(RuntimeError, match="must be the first plugin"):
        play(runner_of(agent, Other(name="other"), GuardPlugin(world.guard)))
    assert world.ran == []


def test_arguments_that_a_later_callback_changes_are_the_ones_judged(world: World) -> None:
    class Raises(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> None:
            tool_args["amount"] = "50"

    def more(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
        args["amount"] = "5000"

    model = said((Call("c1", "refund", {"order": "A-1", "amount": "5"}),))
    agent = LlmAgent(name="desk", model=model, tools=world.tools("refund"), before_tool_callback=more)
    events = play(runner_of(agent, GuardPlugin(world.guard), Raises(name="raises")))
    assert world.ran == [] and "args.constraint" in answers(events)["c1"]


def test_a_copy_of_a_guarded_tool_is_judged_under_its_own_name(world: World) -> None:
    tool = FunctionTool(world.tools("where")[0])
    call = Call("c1", "where", {"order": "A-1"})
    play(runner_of(LlmAgent(name="desk", model=said((call,)), tools=[tool]), GuardPlugin(world.guard)))
    other = copy.copy(tool)
    other.name = "wipe"
    events = play(runner_of(LlmAgent(name="desk", model=said(WIPE), tools=[other]), GuardPlugin(world.guard)))
    assert "intent.tool" in answers(events)["w1"] and len(world.ran) == 1


def test_a_decorated_tool_is_decided_once(world: World) -> None:
    world.sealed = True
    model = said((Call("c1", "look", {"order": "A-1"}),))
    events = play(runner_of(LlmAgent(name="desk", model=model, tools=world.tools("look")), GuardPlugin(world.guard)))
    assert "order A-1" in answers(events)["c1"] and len(world.decisions) == 1 == len(world.ran)
    assert [seen.covered for seen in coverage(LlmAgent(name="desk", tools=world.tools("look")))] == [True]


def test_an_agent_alone_is_not_covered(world: World) -> None:
    seen = coverage(LlmAgent(name="desk", model=said(), tools=world.tools("look")))
    assert [(each.path, each.covered) for each in seen] == [("desk > look", False)] and "first plugin" in seen[0].why
    assert coverage(FunctionTool(world.tools("look")[0])) == coverage(GuardPlugin(world.guard)) == coverage(None) == []


def test_a_tool_that_is_a_node_of_a_workflow(world: World) -> None:
    """No model calls it, and still it is judged."""

    def arguments(node_input: Any) -> dict[str, str]:
        return {"order": "B-1"}

    runner = runner_of(Workflow(name="flow", edges=[(START, arguments, FunctionTool(world.tools("look")[0]))]), GuardPlugin(world.guard))
    assert {seen.path: seen.covered for seen in coverage(runner)} == {"flow > look > look": True}
    play(runner)
    assert [(record.tool, record.verdict) for record in world.decisions] == [("look", "deny")]
    assert world.ran == []


def test_defaults_are_part_of_what_is_judged(world: World) -> None:
    def pay(to: str, amount: str = "5000") -> str:
        """Pay somebody."""
        raise AssertionError("it ran")

    events = play(runner_of(LlmAgent(name="desk", model=said((Call("c1", "pay", {"to": "bob"}),)), tools=[pay]), GuardPlugin(world.guard)))
    assert "needs approval" in answers(events)["c1"]


def test_a_tool_that_asks_by_itself_is_judged_again_with_the_answer(world: World) -> None:
    """ADK runs its body again under the same id: that is another run, not the recorded one."""

    def look(order: str, tool_context: ToolContext) -> dict[str, str]:
        """Look."""
        if tool_context.tool_confirmation is None:
            tool_context.request_confirmation(hint="sure?")
            tool_context.actions.skip_summarization = True
            return {"error": "waits"}
        world.note("look", order=order)
        return {"result": "seen"}

    runner = runner_of(
        LlmAgent(name="desk", model=said((Call("c1", "look", {"order": "A-1"}),)), tools=[FunctionTool(look)]), GuardPlugin(world.guard)
    )
    calls = [part.function_call for event in play(runner) for part in (event.content.parts if event.content else ()) or ()]
    (asked,) = [call.id for call in calls if call is not None and call.name == "adk_request_confirmation"]
    yes = types.FunctionResponse(id=asked, name="adk_request_confirmation", response={"confirmed": True})
    message = types.Content(role="user", parts=[types.Part(function_response=yes)])
    assert "seen" in answers(list(runner.run(user_id="u", session_id="s", new_message=message)))["c1"]
    assert len(world.runs("look")) == 1 and [record.verdict for record in world.decisions] == ["allow", "allow"]
    assert [outcome.status for outcome in world.outcomes] == ["unknown", "ok"]


def test_the_example() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/adapters/google_adk.py")],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == OUTPUT


OUTPUT = """\
look: {'order': 'A-17', 'paid': '20'}
look: {'error': 'look denied: argument order must equal $order of intent refund-order [args.constraint] Instead: a task for the other order.'}
refund: {'error': 'refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.'}
wipe: {'error': 'wipe denied: refund-order does not use wipe [intent.tool]'}
refund: {'result': 'refunded 20.00 on A-17'}
Refunded 20.00 on A-17.
"""
