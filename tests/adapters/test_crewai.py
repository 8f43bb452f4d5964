"""What is particular to CrewAI: hooks that fail open, a text path that runs a tool again when it raises, caches, coworkers, tools that CrewAI adds by itself."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("crewai")

from tests.conformance.drivers.crewai import FakeLLM, agent_of, crew_of, crew_tool, model_of, said_by  # noqa: I001  # first: it switches the telemetry off
from crewai import Agent, Crew, Process, Task
from crewai.hooks import clear_before_tool_call_hooks, register_before_tool_call_hook
from crewai.tools import BaseTool
from crewai.tools.agent_tools.agent_tools import AgentTools

from guard import Denied
from guard.adapters.crewai import coverage, guard_agent, guard_crew, guard_tools
from guard.errors import ConfigError
from guard.testing.conformance import Call, Delegate, Script, Trace, World
from guard.testing.conformance.world import SECRET
from tests.adapters.examples import example_prints

LOOK = Call("c1", "look", {"order": "A-1"})
WIPE = Call("c1", "wipe", {"order": "A-1"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


@pytest.fixture(autouse=True)
def _no_hooks_left() -> Iterator[None]:
    yield
    clear_before_tool_call_hooks()


def played(world: World, *script: Any) -> Trace:
    trace = Trace()
    trace.final = guard_crew(world.guard, crew_of(world, (*script, "done"), trace)).kickoff().raw
    return trace


# -- the rows of the corpus ------------------------------------------------------------------------------------------------------------


def test_f49_an_exception_in_a_hook_runs_nothing(world: World) -> None:
    """CrewAI swallows it and goes on to the tool, which asks the guard. A guard that raises itself runs nothing either."""

    def broken(_: Any) -> None:
        raise ValueError("broken")

    register_before_tool_call_hook(broken)
    assert "intent.tool" in played(world, (WIPE,)).answers["c1"].text
    world.crash()
    assert "look" not in played(world, (LOOK,)).answers["c1"].text
    assert world.ran == []


def test_f49_our_own_hook_says_no_whatever_happens(world: World) -> None:
    class Context:
        @property
        def tool(self) -> Any:
            raise ValueError("broken")

    from guard.adapters.crewai import _only_ours

    assert _only_ours(Context()) is False


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # CrewAI, of the hook
def test_f50_a_coroutine_decides_nothing(tmp_path: Path) -> None:
    """Neither as a hook, which CrewAI never awaits, nor as a body, which is awaited inside of the decision."""

    async def hook(_: Any) -> bool:
        return False

    register_before_tool_call_hook(hook)
    world = World(tmp_path, asynchronous=True)
    with world.open():
        trace = played(world, (WIPE,), (Call("c2", "look", {"order": "A-1"}),))
    assert [ran.tool for ran in world.ran] == ["look"] and "order A-1" in trace.answers["c2"].text
    assert [outcome.status for outcome in world.outcomes] == ["ok"]


def test_f51_an_ask_reads_no_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.StringIO("yes\n" * 9)
    monkeypatch.setattr(sys, "stdin", typed)
    trace = played(world, (Call("c1", "pay", {"to": "bob", "amount": "5000"}),))
    assert "needs approval" in trace.answers["c1"].text and world.ran == [] and typed.tell() == 0


def test_f48_where_the_context_is_lost_nothing_runs(world: World) -> None:
    """A thread without the context of the task has no task."""
    (tool,) = guard_tools(world.guard, [crew_tool(world.tools("look")[0])])
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert "task.none" in str(pool.submit(tool.run, order="A-1").result())
    assert world.ran == []


def test_f57_hidden_and_called(world: World) -> None:
    trace = played(world, (WIPE,))
    assert "wipe" not in trace.shown[0] and "intent.tool" in trace.answers["c1"].text


def test_f65_past_the_guard(world: World) -> None:
    world.sealed = True
    trace = Trace()
    assert crew_of(world, ((WIPE,), "done"), trace).kickoff().raw == "done"
    assert world.ran == [] and "intent.tool" in trace.answers["c1"].text


def test_two_guards_in_one_process(world: World, tmp_path: Path) -> None:
    """The hook is one for all; each agent has its own guard, and an agent without one goes on without."""
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other", tenant="globex")
    here, there = Trace(), Trace()
    crew = guard_crew(world.guard, crew_of(world, ((LOOK,), "done"), here))
    beside = guard_crew(other.guard, crew_of(other, ((LOOK,), "done"), there))
    crew.kickoff()
    beside.kickoff()
    assert "task.none" in there.answers["c1"].text and other.ran == [] and len(world.ran) == 1
    with pytest.raises(ConfigError, match="another guard"):
        guard_crew(other.guard, crew)
    free = Trace()
    crew_of(world, ((LOOK,), "done"), free).kickoff()
    assert "order A-1" in free.answers["c1"].text


# -- a model that writes its calls as text ----------------------------------------------------------------------------------------------


class Writer(FakeLLM):
    """It is told of tools in the prompt, and answers `Action: ...`."""

    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        said = said_by(self)
        said.trace.shown.append((str(messages),))
        turn = said.next()
        if isinstance(turn, str):
            return f"Thought: I now know\nFinal Answer: {turn}"
        (call,) = turn
        return f"Thought: so\nAction: {call.tool}\nAction Input: {json.dumps(call.args)}"  # type: ignore[union-attr]

    def supports_function_calling(self) -> bool:
        return False


def written(world: World, asynchronous: bool, *script: Any) -> str:
    """What the model had before it in the end."""
    trace = Trace()
    model = model_of((*script, "done"), trace, Writer)
    desk = Agent(role="desk", goal="g", backstory="b", tools=[crew_tool(body) for body in world.tools()], llm=model, max_retry_limit=0)
    crew = guard_crew(world.guard, Crew(agents=[desk], tasks=[Task(description="d", expected_output="e", agent=desk)]))
    result = asyncio.run(crew.akickoff()) if asynchronous else crew.kickoff()
    assert result.raw == "done"
    assert "Tool Name: look" in trace.shown[0][0] and "Tool Name: wipe" not in trace.shown[0][0]
    return trace.shown[-1][0]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("bodies", [False, True])
def test_calls_as_text(tmp_path: Path, asynchronous: bool, bodies: bool) -> None:
    world = World(tmp_path, asynchronous=bodies)
    with world.open():
        read = written(world, asynchronous, (LOOK,), (WIPE,), (Call("c1", "where", {"order": "A-2"}),))
    assert "order A-1, 1 page(s)" in read and "intent.tool" in read and world.id in read
    assert [(ran.tool, ran.task) for ran in world.ran] == [("look", world.id), ("where", world.id)]
    assert [(r.tool, r.verdict) for r in world.decisions] == [("look", "allow"), ("wipe", "deny"), ("where", "allow")]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_body_that_raises_runs_once(world: World, asynchronous: bool) -> None:
    """CrewAI would call it up to six times for one call of the model."""
    assert "Error executing tool" in written(world, asynchronous, (Call("c1", "fail", {"order": "A-1"}),))
    assert len(world.runs("fail")) == 1 and [outcome.status for outcome in world.outcomes] == ["error"]


# -- caches, copies, tools that are added ------------------------------------------------------------------------------------------------


def test_no_answer_comes_from_a_cache(world: World) -> None:
    trace = Trace()
    crew = crew_of(world, ((LOOK,), (Call("c2", "look", {"order": "A-1"}),), "done"), trace)
    crew.cache = True
    guard_crew(world.guard, crew).kickoff()
    assert len(world.runs("look")) == 2 and len(world.decisions) == 2


def test_what_a_coworker_said_once_comes_from_no_cache(world: World) -> None:
    """Attack: a crew serves two tasks one after the other, and the second reads what the coworker looked up for the first."""
    trace = Trace()
    looks: Script = ((LOOK,), "helped", (Call("c2", "look", {"order": "A-1"}),), "helped")
    crew = crew_of(world, ((Delegate("d1", "helper", looks),), (Delegate("d2", "helper", looks),), "done"), trace)
    crew.cache = True
    guard_crew(world.guard, crew).kickoff()
    assert len(world.runs("look")) == 2 and len(world.decisions) == 2


def test_copies_are_guarded(world: World) -> None:
    """`kickoff_for_each` works on copies of the crew."""
    trace = Trace()
    crew = guard_crew(world.guard, crew_of(world, ((WIPE,), "done"), trace))
    copied = crew.copy()
    assert all(seen.covered for seen in coverage(copied))
    assert [tool.name for tool in copied.agents[0].tools] == [tool.name for tool in crew.agents[0].tools]
    assert vars(copied.agents[0])["_guardtrail"] is world.guard


class Added(BaseTool):  # type: ignore[misc]
    name: str = "wipe"
    description: str = "What CrewAI or somebody else adds later."

    def _run(self, order: str) -> str:
        raise AssertionError("it ran")


def test_a_tool_of_the_task_or_added_later_is_guarded(world: World) -> None:
    trace = Trace()
    crew = crew_of(world, ((WIPE,), "done"), trace)
    crew.tasks[0].tools = [Added()]
    assert "intent.tool" in _answer(guard_crew(world.guard, crew), trace)
    assert world.decisions[0].verdict == "deny"


def _answer(crew: Crew, trace: Trace) -> str:
    crew.kickoff()
    return trace.answers["c1"].text


def test_a_tool_slipped_past_the_start_is_stopped(world: World) -> None:
    """An agent that runs by itself gets tools from CrewAI where no adapter can replace them: the hook says no."""
    trace = Trace()
    agent = guard_agent(
        world.guard,
        agent_of(
            "desk", [crew_tool(body) for body in world.tools("look")], ((WIPE,), (Call("c2", "look", {"order": "A-1"}),), "done"), trace
        ),
    )
    agent.tools.append(Added())
    assert agent.kickoff("go").raw == "done"
    assert "blocked" in trace.answers["c1"].text and "order A-1" in trace.answers["c2"].text
    assert [ran.tool for ran in world.ran] == ["look"]


def test_hooks_that_were_cleared(world: World) -> None:
    """The tools stand by themselves."""
    trace = Trace()
    crew = guard_crew(world.guard, crew_of(world, ((WIPE,), "done"), trace))
    clear_before_tool_call_hooks()
    assert "intent.tool" in _answer(crew, trace)


# -- agents below agents ---------------------------------------------------------------------------------------------------------------


def test_f58_a_coworker_without_a_guard(world: World) -> None:
    """Only the one who hands over is guarded: the run does not start."""
    trace = Trace()
    crew = crew_of(world, ((Delegate("d1", "helper", ((WIPE,), "helped")),), "done"), trace)
    guard_agent(world.guard, crew.agents[0])
    with pytest.raises(ConfigError, match="helper"):
        crew.kickoff()
    assert world.ran == []
    assert {seen.path: seen.covered for seen in coverage(crew)}["helper > wipe"] is False


def test_f58_an_agent_in_the_closure_of_a_tool(world: World) -> None:
    helper = agent_of("helper", [crew_tool(body) for body in world.tools("wipe")], ("done",), Trace())

    @crew_tool
    def ask(question: str) -> str:
        """Ask the helper."""
        return str(helper.kickoff(question).raw)

    desk = agent_of("desk", [ask], ("done",), Trace())
    crew = Crew(agents=[desk], tasks=[Task(description="d", expected_output="e", agent=desk)])
    with pytest.raises(ConfigError, match="desk > ask > helper > wipe"):
        guard_crew(world.guard, crew)
    guard_agent(world.guard, helper)
    assert all(seen.covered for seen in coverage(guard_crew(world.guard, crew)))


def test_a_manager_that_does_not_exist_yet(world: World) -> None:
    model = model_of(("done",), Trace())
    crew = crew_of(world, ("done",), Trace())
    managed = Crew(agents=crew.agents, tasks=crew.tasks, process=Process.hierarchical, manager_llm=model)
    with pytest.raises(ConfigError, match="manager_agent"):
        guard_crew(world.guard, managed)
    manager = Agent(role="manager", goal="g", backstory="b", llm=model)
    named = Crew(agents=crew.agents, tasks=crew.tasks, process=Process.hierarchical, manager_agent=manager)
    assert all(seen.covered for seen in coverage(guard_crew(world.guard, named)))


def test_coverage_of_what_is_not_guarded(world: World) -> None:
    crew = crew_of(world, ("done",), Trace())
    assert not any(seen.covered for seen in coverage(crew)) and "guard_agent" in coverage(crew)[0].why
    world.sealed = True
    assert all(seen.covered for seen in coverage(crew_of(world, ("done",), Trace())))
    other = AgentTools(agents=crew.agents).tools()
    assert guard_tools(world.guard, other) == other


# -- small things ----------------------------------------------------------------------------------------------------------------------


def test_no_value_in_what_the_model_reads_of_wrong_arguments(world: World) -> None:
    """CrewAI's own validation quotes them; the guard is asked first."""
    trace = played(world, (Call("c1", "look", {"order": [SECRET]}),), (Call("c2", "look", {"order": "A-1", "pages": SECRET}),))
    assert "args.type" in trace.answers["c1"].text and SECRET not in trace.answers["c1"].text + trace.answers["c2"].text
    assert world.ran == []


def test_a_tool_that_is_a_class_and_one_that_counts(world: World) -> None:
    class Look(BaseTool):  # type: ignore[misc]
        name: str = "Look"
        description: str = "Look up an order."

        def _run(self, order: str, pages: int = 1) -> str:
            world.note("look", order=order, pages=pages)
            return f"order {order}"

    (tool,) = guard_tools(world.guard, [Look(max_usage_count=1)])
    assert tool.run(order="A-1") == "order A-1" and world.runs("look") == [{"order": "A-1", "pages": 1}]
    assert "usage limit" in str(tool.run(order="A-1")) and len(world.ran) == 1
    assert "args.constraint" in str(tool.run("B-1"))
    assert "args.unknown" in str(tool.run(order="A-1", more=1))
    assert asyncio.run(tool.arun(order="B-1")) is not None and len(world.ran) == 1
    with pytest.raises(TypeError):
        tool.run("A-1", 1, 2)


def test_sealed_functions_need_no_adapter(world: World) -> None:
    world.sealed = True
    (tool,) = guard_tools(world.guard, [crew_tool(body) for body in world.tools("look")])
    assert tool.run(order="A-1") == "order A-1, 1 page(s)" and len(world.decisions) == 1
    with pytest.raises(Denied):
        tool._original.func.__wrapped__(order="A-1")


def test_the_example(tmp_path: Path) -> None:
    example_prints("crewai", tmp_path)


_ = Script
