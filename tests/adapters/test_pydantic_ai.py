"""The Pydantic AI adapter beyond the conformance suite: rows of fail_open.jsonl by their ids, what is particular to it, sub-agents, ways past it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic import BaseModel, Field
from pydantic_ai import Agent, CallDeferred, DeferredToolRequests, DeferredToolResults, ModelRetry, RunContext, ToolApproved, ToolDenied
from pydantic_ai import ApprovalRequired as Asked
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering, NativeTool
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.tools import Tool, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset, FunctionToolset, WrapperToolset

from guard.adapters.pydantic_ai import GuardCapability, GuardToolset, coverage
from guard.errors import ConfigError, Denied
from guard.testing.conformance import Call, Script, World
from guard.testing.conformance.world import POLICY
from tests.adapters.examples import example_prints
from tests.conformance.drivers.pydantic_ai import PydanticAIDriver, Scripted, run_sync

MORE = POLICY.replace(
    "intents:",
    "  helper: {effect: read, data: {text: text}}\n  book: {effect: write, control: {day: text}, data: {guests: any, note: text}}\nintents:",
).replace("      fail:", '      helper: {limit: {calls: 3}}\n      book: {args: {day: {glob: "2026-*"}}}\n      fail:')
PAY9, PAY8 = (Call(f"p{n}", "pay", {"to": "bob", "amount": f"{n}000"}) for n in (9, 8))
WIPE = Call("w1", "wipe", {"order": "A-1"})
LOOK = Call("c1", "look", {"order": "A-1"})
HELP = Call("h1", "helper", {"text": "x"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, policy=MORE)
    with world.open():
        yield world


def agent_of(world: World, script: Script, *more: Any, guarded: bool = True, **options: Any) -> Any:
    own = [GuardCapability(world.guard)] if guarded else []
    options.setdefault("output_type", [str, DeferredToolRequests])
    capabilities = [*options.pop("capabilities", ()), *own]
    return Agent(Scripted(script).model, tools=[*world.tools(), *more], capabilities=capabilities, **options)


def returns(result: Any) -> dict[str, ToolReturnPart]:
    parts = [part for message in result.all_messages() for part in message.parts]
    return {part.tool_call_id: part for part in parts if isinstance(part, ToolReturnPart)}


def resumed(agent: Any, result: Any, **approvals: Any) -> Any:
    return run_sync(agent, message_history=result.all_messages(), deferred_tool_results=DeferredToolResults(approvals=approvals))


# -- rows of fail_open.jsonl --------------------------------------------------------------------------------------------------------


GLOBAL: dict[str, Any] = {}


def as_closure(inner: Any) -> Callable[..., Any]:
    async def helper(text: str) -> str:
        """Ask the helper."""
        return str((await inner.run(text)).output)

    return helper


def as_global(inner: Any) -> Callable[..., Any]:
    GLOBAL["inner"] = inner

    async def helper(text: str) -> str:
        """Ask the helper."""
        return str((await GLOBAL["inner"].run(text)).output)

    return helper


def as_method(inner: Any) -> Callable[..., Any]:
    class Team:
        def __init__(self) -> None:
            self.inner = inner

        async def helper(self, text: str) -> str:
            """Ask the helper."""
            return str((await self.inner.run(text)).output)

    return Team().helper


WAYS = {"closure": as_closure, "global": as_global, "method": as_method}


@pytest.mark.parametrize("way", WAYS)
def test_f58_a_parent_does_not_start_with_a_sub_agent_nobody_guards(world: World, way: str) -> None:
    agent = agent_of(world, ((HELP,), "done"), WAYS[way](agent_of(world, ((WIPE,), "helped"), guarded=False)))
    with pytest.raises(ConfigError, match="helper > wipe: its agent has no GuardCapability"):
        run_sync(agent, "go")
    assert world.ran == [] and world.decisions == []
    seen = {each.path: each.covered for each in coverage(agent)}
    assert seen["helper"] and seen["wipe"] and not seen["helper > wipe"]


@pytest.mark.parametrize("way", WAYS)
def test_f58_a_sub_agent_with_a_guard_of_its_own_is_judged(world: World, way: str) -> None:
    agent = agent_of(world, ((HELP,), "done"), WAYS[way](agent_of(world, ((WIPE,), "helped"))))
    run_sync(agent, "go")
    assert all(each.covered for each in coverage(agent))
    assert [(record.tool, record.verdict) for record in world.decisions] == [("helper", "allow"), ("wipe", "deny")]


def test_f58_what_is_accepted_starts(world: World) -> None:
    inner = agent_of(world, ("helped",), guarded=False)
    agent = agent_of(
        world, ((HELP,), "done"), as_closure(inner), guarded=False, capabilities=[GuardCapability(world.guard, accept=["helper"])]
    )
    assert returns(run_sync(agent, "go"))["h1"].content == "helped"


def test_f65_the_function_itself_ends_at_the_sealed_body(world: World) -> None:
    world.sealed = True
    driver = PydanticAIDriver()
    app = driver.build(world, ("done",))
    for way, came in driver.bypass(app, WIPE).items():
        assert world.ran == [], way
        assert isinstance(came, Denied), (way, came)
    assert all(each.covered for each in coverage(agent_of(world, ("done",), guarded=False))), "guarded functions are their own guard"


def test_f69_other_arguments_than_those_approved_are_another_call(world: World) -> None:
    agent = agent_of(world, ((PAY9,), "done"))
    result = run_sync(agent, "go")
    world.approve()
    result = resumed(agent, result, p9=ToolApproved(override_args={"to": "mallory", "amount": "9000"}))
    assert world.runs("pay") == [] and isinstance(result.output, DeferredToolRequests), "it asks anew"
    assert [record.verdict for record in world.decisions] == ["ask", "ask"]
    result = resumed(agent, result, p9=True)
    assert world.runs("pay") == [PAY9.args], "the call that was approved, once"


def test_f69_fewer_are_another_call_too_and_may_need_nobody(world: World) -> None:
    agent = agent_of(world, ((PAY9,), "done"))
    result = run_sync(agent, "go")
    resumed(agent, result, p9=ToolApproved(override_args={"to": "bob", "amount": "9"}))
    assert world.runs("pay") == [{"to": "bob", "amount": "9"}]


@pytest.mark.parametrize("no", [False, ToolDenied("not today")])
def test_f70_a_no_of_the_program_is_on_record_and_counts_after_a_persons_yes(world: World, no: object) -> None:
    agent = agent_of(world, ((PAY9, PAY8), (LOOK,), "done"))
    result = run_sync(agent, "go")
    world.approve()
    result = resumed(agent, result, p9=no, p8=True)
    assert world.runs("pay") == [PAY8.args] and returns(result)["p9"].outcome == "denied"
    said = [(record.tool, record.verdict, str(record.code)) for record in world.decisions]
    assert said.count(("pay", "deny", "ask.declined")) == 1
    (declined,) = [record for record in world.decisions if str(record.code) == "ask.declined"]
    (asked,) = [record for record in world.decisions if record.verdict == "ask" and record.args_hmac == declined.args_hmac]
    assert asked.task == declined.task, "it is the call that was asked about"


def test_f68_a_resumed_call_takes_one_decision_and_one_unit(world: World) -> None:
    agent = agent_of(world, ((Call("r1", "refund", {"order": "A-1", "amount": "5"}), PAY9), "done"))
    result = run_sync(agent, "go")
    world.approve()
    resumed(agent, result, p9=True)
    assert [(r.tool, r.verdict) for r in world.decisions if r.verdict == "allow"] == [("refund", "allow"), ("pay", "allow")]
    assert len(world.runs("refund")) == len(world.runs("pay")) == 1


# -- asks ---------------------------------------------------------------------------------------------------------------------------


def test_a_yes_that_nobody_gave_asks_again_and_loses_nothing(world: World) -> None:
    agent = agent_of(world, ((PAY9,), "done"))
    result = run_sync(agent, "go")
    for _ in range(3):
        result = resumed(agent, result, p9=True)
        assert isinstance(result.output, DeferredToolRequests) and result.output.metadata["p9"]["tool"] == "pay"
    world.approve()
    assert resumed(agent, result, p9=True).output == "done" and world.runs("pay") == [PAY9.args]


@pytest.mark.parametrize("way", [Asked, CallDeferred])
def test_a_body_that_defers_its_own_call_goes_on_when_it_is_answered(world: World, way: type[Exception]) -> None:
    async def helper(ctx: RunContext[None], text: str) -> str:
        """Ask back."""
        if not ctx.tool_call_approved:
            raise way()
        return "told"

    agent = agent_of(world, ((HELP,), "done"), helper)
    result = run_sync(agent, "go")
    assert [outcome.status for outcome in world.outcomes] == ["unknown"]
    if way is CallDeferred:
        done = run_sync(agent, message_history=result.all_messages(), deferred_tool_results=DeferredToolResults(calls={"h1": "told"}))
        assert returns(done)["h1"].content == "told" and len(world.outcomes) == 1
    else:
        assert returns(resumed(agent, result, h1=True))["h1"].content == "told"
        assert [outcome.status for outcome in world.outcomes] == ["unknown", "ok"]


def test_a_tool_that_requires_approval_by_itself_is_judged_as_well(world: World) -> None:
    own = [Tool(body, requires_approval=True) for body in world.tools("wipe", "look")]
    agent: Any = Agent(
        Scripted(((WIPE, LOOK), "done")).model,
        tools=own,
        capabilities=[GuardCapability(world.guard)],
        output_type=[str, DeferredToolRequests],
    )
    result = resumed(agent, run_sync(agent, "go"), w1=True, c1=True)
    assert [ran.tool for ran in world.ran] == ["look"] and returns(result)["w1"].outcome == "failed"


# -- what is particular to Pydantic AI -----------------------------------------------------------------------------------------------


class Changes(AbstractCapability[Any]):
    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        return {**args, "order": "B-1"}


@pytest.mark.parametrize("first", [True, False])
def test_whatever_another_capability_changes_is_judged(world: World, first: bool) -> None:
    guard = GuardCapability(world.guard)
    agent = agent_of(world, ((LOOK,), "done"), guarded=False, capabilities=[Changes(), guard] if first else [guard, Changes()])
    said = returns(run_sync(agent, "go"))["c1"]
    assert said.outcome == "failed" and "args.constraint" in said.content and world.ran == []


class Inside(AbstractCapability[Any]):
    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    def get_wrapper_toolset(self, toolset: Any) -> Any:
        return Rewrites(toolset)


class Rewrites(WrapperToolset[Any]):
    async def call_tool(self, name: str, tool_args: Any, ctx: Any, tool: Any) -> Any:
        return await super().call_tool(name, {**tool_args, "order": "B-1"}, ctx, tool)


@pytest.mark.parametrize("first", [True, False])
def test_a_toolset_between_the_guard_and_the_tools_is_refused(world: World, first: bool) -> None:
    guard = GuardCapability(world.guard)
    agent = agent_of(world, ((LOOK,), "done"), guarded=False, capabilities=[Inside(), guard] if first else [guard, Inside()])
    try:
        said = returns(run_sync(agent, "go"))["c1"]
    except ConfigError as error:
        assert "Rewrites stands inside of the guard" in str(error)
    else:
        assert said.outcome == "failed" and "args.constraint" in said.content
    assert world.ran == []


class Hidden(BaseModel):
    name: str
    born: date = date(2000, 1, 1)
    secret: str = Field(default="nothing", exclude=True)


def test_a_field_that_the_guard_did_not_see_does_not_reach_the_body(world: World) -> None:
    got: list[Any] = []

    def book(day: str, guests: list[Hidden], note: str = "none") -> str:
        """Book."""
        got.extend(guests)
        return "booked"

    call = Call("b1", "book", {"day": "2026-12-24", "guests": [{"name": "eve", "secret": "rm -rf"}]})
    run_sync(agent_of(world, ((call,), "done"), book), "go")
    assert [guest.secret for guest in got] == ["nothing"]


class Guest(BaseModel):
    name: str
    born: date


def test_a_body_gets_what_it_declares_and_the_guard_sees_plain_data(world: World) -> None:
    got: list[Any] = []

    def book(day: date, guests: list[Guest], note: str = "none") -> str:
        """Book."""
        got.append((day, guests, note))
        return "booked"

    guests = [{"name": "eve", "born": "2001-02-03"}]
    calls = (Call("b1", "book", {"day": "2026-12-24", "guests": guests}), Call("b2", "book", {"day": "2027-01-01", "guests": guests}))
    said = returns(run_sync(agent_of(world, (calls, "done"), book), "go"))
    assert got == [(date(2026, 12, 24), [Guest(name="eve", born=date(2001, 2, 3))], "none")], said
    assert said["b2"].outcome == "failed" and "args.constraint" in said["b2"].content


def test_a_body_that_asks_for_a_retry_has_failed_and_the_next_try_is_a_call(world: World) -> None:
    tries = iter("ab")

    def helper(text: str) -> str:
        """Fail once."""
        if next(tries) == "a":
            raise ModelRetry("again")
        return "told"

    agent = agent_of(world, ((HELP,), (Call("h2", "helper", {"text": "x"}),), "done"), helper)
    assert returns(run_sync(agent, "go"))["h2"].content == "told"
    assert [outcome.status for outcome in world.outcomes] == ["error", "ok"]


def test_a_denial_spends_no_retry(world: World) -> None:
    agent = agent_of(world, (*((Call(f"w{n}", "wipe", {"order": "A-1"}),) for n in range(6)), "done"), retries=1)
    assert run_sync(agent, "go").output == "done" and world.ran == []


def test_toolsets_of_one_run_are_judged(world: World) -> None:
    agent: Any = Agent(Scripted(((WIPE, LOOK), "done")).model, capabilities=[GuardCapability(world.guard)])
    result = run_sync(agent, "go", toolsets=[FunctionToolset(world.tools())])
    assert [ran.tool for ran in world.ran] == ["look"] and returns(result)["w1"].outcome == "failed"
    inner = agent_of(world, ((WIPE,), "helped"), guarded=False)
    with pytest.raises(ConfigError, match="helper > wipe"):
        run_sync(agent, "go", toolsets=[FunctionToolset([as_closure(inner)])])


def test_a_guarded_toolset_alone(world: World) -> None:
    toolset = GuardToolset(FunctionToolset(world.tools()), world.guard)
    agent: Any = Agent(Scripted(((WIPE, LOOK), "done")).model, toolsets=[toolset])
    result = run_sync(agent, "go")
    assert [ran.tool for ran in world.ran] == ["look"] and returns(result)["w1"].outcome == "failed"
    assert all(each.covered for each in coverage(toolset))


def test_tools_of_the_models_provider_are_refused_unless_accepted(world: World) -> None:
    hosted = NativeTool(WebSearchTool())
    agent = agent_of(world, ("done",), capabilities=[hosted])
    assert [each.path for each in coverage(agent) if not each.covered] == ["web_search"]
    with pytest.raises(ConfigError, match="web_search: the model's provider runs it"):
        run_sync(agent, "go")


def test_external_tools_and_output_functions_are_reported(world: World) -> None:
    outside = ExternalToolset([ToolDefinition(name="outside", parameters_json_schema={"type": "object"})])
    with pytest.raises(ConfigError, match="outside: the program runs it"):
        run_sync(agent_of(world, ("done",), toolsets=[outside]), "go")

    def hand_over(order: str) -> str:
        """The model's last word, and it does something."""
        return order

    agent = agent_of(world, ("done",), output_type=[hand_over, str])
    with pytest.raises(ConfigError, match="hand_over: an output function"):
        run_sync(agent, "go")
    assert [each.path for each in coverage(agent) if not each.covered] == ["hand_over"]


def test_what_is_no_agent_is_nothing_to_cover(world: World) -> None:
    assert coverage(Scripted(("done",)).model) == [] and coverage(GuardCapability(world.guard)) == []
    (seen, *_) = coverage(FunctionToolset(world.tools("look")))
    assert not seen.covered


def test_parallel_runs_of_one_agent_in_two_tasks(world: World, tmp_path: Path) -> None:
    """One agent object, one guard, two tasks: whose call it is comes of the context."""
    agent = agent_of(world, ((Call("c1", "where", {"order": "A-1"}),), (Call("c1", "where", {"order": "A-1"}),), "done", "done"))

    async def one(token: str) -> str:
        async with world.guard.task(token) as task:
            await agent.run("go")
            return str(task.id)

    async def both() -> list[str]:
        tokens = [world.iam.mint(origin="alice", actor="desk-agent", intent="desk", params={"ceiling": "5", "folder": "/x"}) for _ in "ab"]
        return list(await asyncio.gather(*map(one, tokens)))

    ids = asyncio.run(both())
    assert sorted(ran.task or "" for ran in world.ran) == sorted(ids)


# -- docs ---------------------------------------------------------------------------------------------------------------------------


def test_the_example_prints_what_it_says(tmp_path: Path) -> None:
    example_prints("pydantic_ai", tmp_path)
