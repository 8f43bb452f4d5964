"""What is particular to smolagents: code that a model writes, threads without a context, steps that fail as a whole, agents that manage agents."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("smolagents")

from smolagents import CodeAgent, LogLevel, Model, Tool
from smolagents.models import ChatMessage, MessageRole

from guard import Denied
from guard.adapters.smolagents import coverage, guard_agent, guard_tools
from guard.errors import ConfigError
from guard.testing.conformance import Call, Delegate, Trace, World
from guard.testing.conformance.world import SECRET, taskless
from tests.adapters.examples import example_prints
from tests.conformance.drivers.smolagents import agent_of, tool_of

LOOK = Call("c1", "look", {"order": "A-1"})
WIPE = Call("c1", "wipe", {"order": "A-1"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


def tools(world: World, *names: str) -> list[Tool]:
    return [tool_of(body) for body in world.tools(*names)]


def played(world: World, *script: Any) -> dict[str, str]:
    trace = Trace()
    guard_agent(world.guard, agent_of("desk", tools(world), (*script, "done"), trace)).run("go")
    return {id: answer.text for id, answer in trace.answers.items()}


class Writer(Model):  # type: ignore[misc]
    """Writes code."""

    def __init__(self, *codes: str) -> None:
        super().__init__()
        self.codes = iter(codes)
        self.read: list[str] = []

    def generate(self, messages: Any, *_: Any, **__: Any) -> ChatMessage:
        self.read = [str(message.content) for message in messages]
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: so\n<code>\n{next(self.codes)}\n</code>")


def coder(world: World, *codes: str, guarded: bool = True, names: tuple[str, ...] = (), **more: Any) -> tuple[CodeAgent, Writer]:
    model = Writer(*codes, "final_answer('done')")
    agent = CodeAgent(
        tools=tools(world, *names), model=model, verbosity_level=LogLevel.OFF, name="coder", description="writes code", **more
    )
    return (guard_agent(world.guard, agent) if guarded else agent), model


# -- the rows of the corpus ------------------------------------------------------------------------------------------------------------

WAYS = [
    "wipe.inner('A-1')",
    "wipe.tool('A-1')",
    "wipe._original('A-1')",
    "wipe.forward('A-1')",
    "wipe.forward.__wrapped__('A-1')",
    "wipe.__call__.__closure__[0].cell_contents('A-1')",
    "type(wipe).__mro__[0]('A-1')",
    "wipe.policy_name = 'look'\nwipe('A-1')",
    "wipe.inputs.clear()\nwipe('A-1')",
    "wipe.name = 'look'\nwipe(order='A-1')",
    "wipe({'order': 'A-1'})",
    "final_answer.from_code('x = 1')",
    "look.from_code('x = 1')",
    "helper.tools['wipe']('A-1')",
    "helper._guardtrail.reload('x')",
    "helper.agent.run('x')",
    "try:\n    wipe('A-1')\nexcept Exception as e:\n    e.with_traceback(None).decision.guard",
]


@pytest.mark.parametrize("way", WAYS)
def test_f64_code_finds_no_way_around(world: World, way: str) -> None:
    """It has names, texts and a call that is judged; the first look shows that it works at all."""
    helper = agent_of("helper", tools(world), ("helped",), Trace())
    agent, _ = coder(world, "print(look('A-1'))", way, managed_agents=[helper])
    assert agent.run("go") == "done"
    assert [ran.tool for ran in world.ran] == ["look"]
    assert all(record.verdict == "deny" for record in world.decisions if record.tool == "wipe")


def test_f64_what_a_guarded_tool_is_made_of(world: World) -> None:
    (tool,) = guard_tools(world.guard, tools(world, "look"))
    assert set(vars(tool)) == {"name", "description", "inputs", "output_type", "output_schema", "policy_name"}
    assert not any(hasattr(tool, name) for name in ("forward", "save", "to_dict", "from_code", "push_to_hub", "setup"))


def test_f48_code_runs_in_a_thread_and_has_its_task(world: World) -> None:
    agent, _ = coder(world, "print(where('A-1'))", names=("where",))
    agent.run("go")
    assert [ran.task for ran in world.ran] == [world.id] and [record.verdict for record in world.decisions] == ["allow"]
    with taskless(world.guard):
        other, model = coder(world, "print(where('A-1'))", names=("where",))
        other.run("go")
    assert len(world.ran) == 1 and "task.none" in " ".join(model.read)


def test_f48_what_outlives_its_run_gets_no_other_task(world: World, tmp_path: Path) -> None:
    """The code of one run holds its tools. When the agent runs for somebody else they are still those of the first task, which has ended."""
    agent, _ = coder(world, "kept = [where]\nprint(where('A-1'))", names=("where",))
    agent.run("go")
    kept = agent.python_executor.state["kept"][0]
    with world.guard.task(
        world.iam.mint(origin="eve", actor="desk-agent", intent="desk", params={"ceiling": "1", "folder": str(tmp_path)})
    ) as second:
        agent.model.codes = iter(["print(where('A-2'))", "final_answer('done')"])
        agent.run("go")
        kept("A-3")
    assert [(ran.args["order"], ran.task == second.id) for ran in world.ran] == [("A-1", False), ("A-2", True), ("A-3", False)]


def test_a_code_agent_runs_for_one_task_at_a_time(world: World) -> None:
    agent, _ = coder(world, "print(slow('A-1'))", names=("slow",))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(contextvars.copy_context().run, agent.run, "go")
        assert world.began.wait(20)
        with pytest.raises(RuntimeError, match="is running"):
            agent.run("go")
        with pytest.raises(RuntimeError, match="is running"):
            list(agent.run("go", stream=True))
        world.enough.set()
        assert first.result(60) == "done"


def test_f58_managed_agents(world: World) -> None:
    """Of an agent that calls tools, and of one that writes code, where the request comes from a thread without a context."""
    helped = ((WIPE,), (Call("c2", "look", {"order": "A-1"}),), "helped")
    desk = agent_of(
        "desk", tools(world), ((Delegate("d1", "helper", ()),), "done"), Trace(), (agent_of("helper", tools(world), helped, Trace()),)
    )
    assert guard_agent(world.guard, desk).run("go") == "done"
    agent, _ = coder(world, "print(helper('help'))", managed_agents=[agent_of("helper", tools(world), helped, Trace())])
    assert agent.run("go") == "done"
    assert [(r.tool, r.verdict) for r in world.decisions] == [("wipe", "deny"), ("look", "allow")] * 2


def test_f58_an_agent_that_came_along_later(world: World) -> None:
    """Handed over to, it would run without a guard: it does not."""
    late = agent_of("late", tools(world), ((WIPE,), "wiped"), Trace())
    agent_of("manager", [], ("done",), Trace(), (late,))  # which tells it how it is called
    trace = Trace()
    desk = guard_agent(world.guard, agent_of("desk", tools(world), ((Delegate("d1", "late", ()),), "done"), trace))
    desk.managed_agents["late"] = late
    assert desk.run("go") == "done" and "tool.unknown" in trace.answers["d1"].text
    agent, _ = coder(world, "late('go')")
    agent.managed_agents["late"] = late
    with pytest.raises(ConfigError, match="late > wipe"):
        agent.run("go")
    assert world.ran == []


def test_f65_past_the_guard(world: World) -> None:
    world.sealed = True
    trace = Trace()
    agent_of("desk", tools(world), ((WIPE,), "done"), trace).run("go")
    assert world.ran == []
    for tool in tools(world, "wipe"):
        with pytest.raises(Denied):
            tool(order="A-1")


# -- steps, errors, names ----------------------------------------------------------------------------------------------------------------


def test_a_denial_leaves_the_answers_beside_it(world: World) -> None:
    """As an exception it would end the step, and the model would read none of its answers."""
    found = played(world, (WIPE, Call("c2", "look", {"order": "A-1"}), Call("c3", "erase", {})))
    assert "intent.tool" in found["c1"] and "order A-1" in found["c2"] and "tool.unknown" in found["c3"]


def test_no_value_in_what_the_model_reads_of_wrong_arguments(world: World) -> None:
    """smolagents' own errors quote them; the guard is asked first."""
    found = played(world, (Call("c1", "look", {"order": [SECRET]}),), (Call("c2", "look", SECRET),), (Call("c3", "refund", SECRET),))  # type: ignore[arg-type]
    assert "args.type" in found["c1"] and "args.constraint" in found["c2"] and "args.missing" in found["c3"]
    assert SECRET not in " ".join(found.values()) and world.ran == []


def test_code_reads_a_denial_as_a_failure(world: World) -> None:
    """A text would look like a result to the code after it."""
    agent, model = coder(world, "found = wipe('A-1')\nprint('went on')")
    assert agent.run("go") == "done"
    assert "intent.tool" in " ".join(model.read) and not any("went on\n" in text and "Observation" in text for text in model.read)


def test_code_is_shown_what_it_could_ever_use(world: World) -> None:
    agent, model = coder(world)
    agent.run("go")
    assert "def look(" in model.read[0] and "def wipe(" not in model.read[0]
    assert {"look", "wipe"} <= set(agent.tools)


def test_streamed_code(world: World) -> None:
    agent, _ = coder(world, "print(look('A-1'))", "print(wipe('A-1'))")
    assert list(agent.run("go", stream=True))[-1].output == "done"
    assert [(r.tool, r.verdict) for r in world.decisions] == [("look", "allow"), ("wipe", "deny")]
    left = agent.run("go", stream=True)
    left.close()
    agent.model.codes = iter(["final_answer('again')"])
    assert agent.run("go") == "again", "a stream that was left does not block the agent"


# -- what cannot be guarded ------------------------------------------------------------------------------------------------------------


def test_code_that_may_import_more(world: World) -> None:
    with pytest.raises(ConfigError, match="import os"):
        coder(world, additional_authorized_imports=["os"])


def test_code_that_runs_elsewhere(world: World) -> None:
    class Elsewhere:
        def __call__(self, code: str) -> Any:
            raise AssertionError("it ran")

        send_tools = send_variables = lambda *_: None

    with pytest.raises(ConfigError, match="gateway"):
        coder(world, executor=Elsewhere())


def test_an_agent_that_a_tool_holds(world: World) -> None:
    helper = agent_of("helper", tools(world, "wipe"), ((WIPE,), "helped"), Trace())

    def ask(question: str) -> str:
        """Ask the helper."""
        return str(helper.run(question))

    desk = agent_of("desk", [tool_of(ask)], ("done",), Trace())
    with pytest.raises(ConfigError, match="desk > ask > helper > wipe"):
        guard_agent(world.guard, desk)
    guard_agent(world.guard, helper)
    assert all(seen.covered for seen in coverage(guard_agent(world.guard, desk)))


def test_coverage_of_what_is_not_guarded(world: World) -> None:
    helper = agent_of("helper", tools(world, "wipe"), ("done",), Trace())
    desk = agent_of("desk", tools(world, "look"), ("done",), Trace(), (helper,))
    assert {seen.path: seen.covered for seen in coverage(desk)} == {"desk > look": False, "desk > helper > wipe": False}
    other = World(world.folder / "other", tenant="globex")
    guard_agent(world.guard, desk)
    with pytest.raises(ConfigError, match="another guard"):
        guard_agent(other.guard, desk)
    with pytest.raises(ConfigError, match="another guard"):
        guard_agent(other.guard, helper)


def test_the_example(tmp_path: Path) -> None:
    example_prints("smolagents", tmp_path)
