"""What is particular to LlamaIndex: agents inside workflows, steps that are repeated, waiting in the workflow's own context, ReAct, code agents."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent

from guard import Denied
from guard.adapters.llamaindex import ApprovalNeeded, GuardMixin, coverage, guard_agent, guard_tools
from guard.errors import ConfigError
from guard.testing.conformance import Call, Delegate, Trace, World
from guard.testing.conformance.world import SECRET
from tests.adapters.examples import example_prints
from tests.conformance.drivers.llamaindex import agent_of, model_of, workflow_of

LOOK = Call("c1", "look", {"order": "A-1"})
WIPE = Call("c1", "wipe", {"order": "A-1"})
PAY = Call("c1", "pay", {"to": "bob", "amount": "5000"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


async def read(agent: Any, *answers: Any) -> dict[str, str]:
    """Run to the end; each call that waits is answered with the next of `answers`, a function of its event."""
    left, results = iter(answers), {}
    handler = agent.run("go")
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            results[event.tool_id] = event.tool_output.content
        elif isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(next(left)(event))
    results["final"] = str(await handler)
    return results


def played(world: World, *script: Any, answers: tuple[Any, ...] = ()) -> dict[str, str]:
    return asyncio.run(read(guard_agent(world.guard, workflow_of(world, (*script, "done"), Trace())), *answers))


# -- the rows of the corpus ------------------------------------------------------------------------------------------------------------


def test_f59_inside_a_workflow_as_outside_of_it(world: World) -> None:
    """An agent guarded alone, put into a workflow that knows nothing of guards; and a workflow that is guarded."""
    alone = guard_agent(world.guard, agent_of("desk", world.tools(), ((WIPE,), (LOOK,), "done"), Trace()))
    workflow = AgentWorkflow(agents=[alone], root_agent="desk")
    found = asyncio.run(read(workflow))
    assert world.runs("wipe") == [] and "order A-1" in found["c1"]
    assert [(r.tool, r.verdict) for r in world.decisions] == [("wipe", "deny"), ("look", "allow")]
    trace = Trace()
    guarded = guard_agent(world.guard, AgentWorkflow(agents=[agent_of("desk", world.tools(), ((WIPE,), "done"), trace)], root_agent="desk"))
    assert "intent.tool" in asyncio.run(read(guarded))["c1"] and "wipe" not in trace.shown[0]


def test_f68_a_step_that_is_repeated_runs_its_body_once(world: World) -> None:
    """Asked, approved, repeated: one run, one unit. A call of the same id that is repeated after it ran gets its outcome."""
    script = ((PAY,), (Call("c1", "pay", PAY.args),), "done")

    def approve(event: Any) -> Any:
        world.approve()
        return event.answer(True)

    found = asyncio.run(read(guard_agent(world.guard, workflow_of(world, script, Trace())), approve))
    assert found["c1"] == "paid 5000" and world.runs("pay") == [PAY.args]
    assert [record.verdict for record in world.decisions][:2] == ["ask", "allow"] and len(world.outcomes) == 1


def test_f66_an_answer_in_the_workflow_is_no_approval(world: World) -> None:
    """Whatever is sent: yes as a text, a one, an event made beforehand."""
    for said in (True, "yes", 1, "approved"):
        found = played(world, (PAY,), answers=(lambda event, said=said: HumanResponseEvent(call=event.call, response=said),))
        assert "approval" in found["c1"] or "no" in found["c1"]
    assert world.ran == [] and not [record for record in world.decisions if record.verdict == "allow"]


def test_the_no_of_the_workflow_stands_although_a_person_said_yes(world: World) -> None:
    def approved_and_no(event: Any) -> Any:
        world.approve()
        return event.answer(False)

    assert "said no" in played(world, (PAY,), answers=(approved_and_no,))["c1"] and world.ran == []


def test_f48_sync_tools_run_in_threads_with_their_task(world: World) -> None:
    calls = tuple(Call(f"c{i}", "where", {"order": "A-1"}) for i in range(4))
    found = played(world, calls)
    assert [found[call.id] for call in calls] == [world.id] * 4
    (tool,) = guard_tools(world.guard, world.tools("look"))

    async def bare() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: tool.call(order="A-1"))

    assert "task.none" in asyncio.run(bare()).content and world.runs("look") == []


def test_f65_past_the_guard(world: World) -> None:
    world.sealed = True
    agent = workflow_of(world, ((WIPE,), "done"), Trace())
    assert "wipe denied" in asyncio.run(read(agent))["c1"] and world.runs("wipe") == []
    with pytest.raises(Denied):
        agent.tools[0].real_fn.__wrapped__(order="A-1")


# -- agents below agents ---------------------------------------------------------------------------------------------------------------


def test_f58_an_agent_in_the_function_of_a_tool(world: World) -> None:
    helper = agent_of("helper", world.tools("wipe"), ((WIPE,), "helped"), Trace())

    async def ask(question: str) -> str:
        """Ask the helper."""
        return str(await helper.run(question))

    desk = agent_of("desk", [ask], ("done",), Trace())
    with pytest.raises(ConfigError, match="desk > ask > helper > wipe"):
        guard_agent(world.guard, desk)
    guard_agent(world.guard, helper)
    assert all(seen.covered for seen in coverage(guard_agent(world.guard, desk)))


def test_a_hand_off_is_no_call(world: World) -> None:
    trace = Trace()
    script = ((Delegate("d1", "helper", ((WIPE,), (Call("c2", "look", {"order": "A-1"}),), "helped")),), "done")
    workflow = guard_agent(world.guard, workflow_of(world, script, trace))
    assert asyncio.run(read(workflow))["final"] == "helped"
    assert [(r.tool, r.verdict) for r in world.decisions] == [("wipe", "deny"), ("look", "allow")]


def test_a_tool_that_only_calls_itself_handoff(world: World) -> None:
    async def handoff(ctx: Context, to_agent: str, reason: str) -> str:
        raise AssertionError("it ran")

    (tool,) = guard_tools(world.guard, [FunctionTool.from_defaults(handoff)])
    assert "tool.unknown" in asyncio.run(tool.acall(to_agent="x", reason="y")).content


def test_an_agent_that_writes_code_is_refused(world: World) -> None:
    agent = CodeActAgent(code_execute_fn=lambda code: "", tools=world.tools("look"), llm=model_of(("done",), Trace()))
    with pytest.raises(ConfigError, match="code_execute_fn"):
        guard_agent(world.guard, agent)


def test_coverage_of_what_is_not_guarded(world: World) -> None:
    agent = agent_of("desk", world.tools("look"), ("done",), Trace())
    (seen,) = coverage(agent)
    assert (seen.path, seen.covered) == ("desk > look", False) and "guard_agent" in seen.why
    other = World(world.folder / "other", tenant="globex")
    guard_agent(world.guard, agent)
    with pytest.raises(ConfigError, match="another guard"):
        guard_agent(other.guard, agent)
    assert guard_agent(world.guard, agent) is agent and isinstance(agent, FunctionAgent)


def test_a_class_of_ones_own(world: World) -> None:
    class Desk(GuardMixin, FunctionAgent):  # type: ignore[misc]
        pass

    agent = guard_agent(
        world.guard, Desk(tools=world.tools(), llm=model_of(((WIPE,), (Call("c2", "look", {"order": "A-1"}),), "done"), Trace()))
    )
    found = asyncio.run(read(agent))
    assert type(agent) is Desk and "intent.tool" in found["c1"] and "order A-1" in found["c2"]
    bare = Desk(tools=world.tools(), llm=model_of(((LOOK,), "done"), Trace()))
    with pytest.raises(Exception, match="_guardtrail"):  # not guarded yet: nothing is offered, nothing runs
        asyncio.run(read(bare))


# -- other agents, other tools -----------------------------------------------------------------------------------------------------------


def react(*said: str) -> MockFunctionCallingLLM:
    turns = iter(said)
    return MockFunctionCallingLLM(response_generator=lambda *_, **__: ChatMessage(role="assistant", blocks=[TextBlock(text=next(turns))]))


@pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")  # LlamaIndex, of itself
def test_react(world: World) -> None:
    """Calls as text; ids are LlamaIndex's own."""
    action = 'Thought: so.\nAction: {}\nAction Input: {{"order": "A-1"}}'
    agent = ReActAgent(
        tools=world.tools(),
        llm=react(action.format("wipe"), action.format("look"), "Thought: I can answer.\nAnswer: done"),
        streaming=False,
    )
    found = list(asyncio.run(read(guard_agent(world.guard, agent))).values())
    assert "intent.tool" in found[0] and "order A-1" in found[1] and found[-1] == "done"
    assert [ran.tool for ran in world.ran] == ["look"]


def test_a_tool_that_takes_the_context_and_waits_itself(world: World) -> None:
    """It is run again from its beginning, as LlamaIndex does: each time a call of its own."""

    async def look(ctx: Context, order: str) -> str:
        """Look up an order."""
        said = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="which page?"), waiter_id="page")
        return f"order {order}, page {said.get('response')}"

    agent = guard_agent(world.guard, agent_of("desk", [look], ((LOOK,), "done"), Trace()))
    found = asyncio.run(read(agent, lambda _: HumanResponseEvent(response="7")))
    assert found["c1"] == "order A-1, page 7" and [record.verdict for record in world.decisions] == ["allow", "allow"]
    assert [outcome.status for outcome in world.outcomes] == ["unknown", "ok"], "who stops half-way may have done half of it"


def test_a_tool_that_answers_with_an_error(world: World) -> None:
    async def fail(order: str) -> ToolOutput:
        """Fail."""
        return ToolOutput(content="out of order", tool_name="fail", raw_input={}, raw_output=None, is_error=True)

    class Failing(FunctionTool):  # type: ignore[misc]
        async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
            return await fail(**kwargs)

    base = FunctionTool.from_defaults(fail)
    (tool,) = guard_tools(world.guard, [Failing(async_fn=fail, metadata=base.metadata)])
    output = asyncio.run(tool.acall(order="A-1"))
    assert output.is_error and output.content == "out of order"
    assert [outcome.status for outcome in world.outcomes] == ["error"]


def test_without_an_agent_an_ask_is_a_refusal(world: World) -> None:
    (pay, look) = guard_tools(world.guard, world.tools("pay", "look")[::-1])
    for output in (pay.call(**PAY.args), asyncio.run(pay.acall(**PAY.args))):
        assert output.is_error and "needs approval" in output.content
    assert look("A-1").content == "order A-1, 1 page(s)" and look.call(order="B-1").is_error
    with pytest.raises(TypeError):
        look.call("A-1", 1, 2)
    with pytest.raises(RuntimeError):
        look.fn()


def test_what_a_body_calls_is_a_call_of_its_own(world: World) -> None:
    """Not a repetition of the call it is made in."""
    (look,) = guard_tools(world.guard, world.tools("look"))

    async def where(order: str) -> str:
        """Look twice."""
        return (await look.acall(order=order)).content + (await look.acall(order=order)).content

    played_of = guard_agent(world.guard, agent_of("desk", [where], ((Call("c1", "where", {"order": "A-1"}),), "done"), Trace()))
    assert asyncio.run(read(played_of))["c1"].count("order A-1") == 2 and len(world.runs("look")) == 2


def test_the_guard_sees_what_the_tool_returned(world: World) -> None:
    """Not LlamaIndex's object around it, in which the arguments stand again."""
    seen: list[Any] = []
    plain = world.guard.call
    world.guard.call = lambda call, execute: plain(call, lambda **bound: seen.append(execute(**bound)) or seen[-1])  # type: ignore[assignment]
    (look,) = guard_tools(world.guard, world.tools("look"))
    output = look.call(order="A-1")
    assert seen == ["order A-1, 1 page(s)"] and output.raw_input["kwargs"] == {"order": "A-1", "pages": 1}


def test_models_without_ids(world: World) -> None:
    """Some give the name instead: then the same call again is a new call, not the old one's result."""
    named = Call("look", "look", {"order": "A-1"})
    played(world, (named,), (named,))
    assert len(world.runs("look")) == 2


def test_what_waits_shows_no_value(world: World) -> None:
    events: list[ApprovalNeeded] = []

    def keep(event: ApprovalNeeded) -> Any:
        events.append(event)
        return event.answer(False)

    played(world, (Call("c1", "pay", {"to": SECRET, "amount": "5000"}),), answers=(keep,))
    assert events[0].tool_id == "c1" and SECRET not in repr(events[0].model_dump())


def test_the_example(tmp_path: Path) -> None:
    example_prints("llamaindex", tmp_path)
