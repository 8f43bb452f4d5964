"""The OpenAI Agents SDK adapter beyond the conformance suite: rows of fail_open.jsonl by their ids, what is particular to the SDK, ways past it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agents")

from agents import (
    Agent,
    FunctionTool,
    HostedMCPTool,
    ModelProvider,
    RunConfig,
    Runner,
    RunState,
    UserError,
    WebSearchTool,
    function_tool,
    handoff,
)
from agents.mcp import MCPServer
from agents.tool_context import ToolContext
from mcp.types import CallToolResult

from guard.adapters.openai_agents import GuardHooks, GuardProvider, coverage, guard_agent, requests
from guard.errors import ConfigError, Denied
from guard.testing.conformance import Call, Script, World
from guard.testing.conformance.world import POLICY
from tests.adapters.examples import example_prints
from tests.conformance.drivers.openai_agents import OpenAIAgentsDriver, Scripted, run_sync, tool_of

MORE = POLICY.replace("intents:", "  helper: {effect: read, data: {input: text}}\nintents:").replace(
    "      fail:", "      helper: {limit: {calls: 2}}\n      fail:"
)
PAY9, PAY8 = (Call(f"p{n}", "pay", {"to": "bob", "amount": f"{n}000"}) for n in (9, 8))
WIPE = Call("w1", "wipe", {"order": "A-1"})
LOOK = Call("c1", "look", {"order": "A-1"})
TOOLS = ("look", "refund", "save", "pay", "wipe", "fail", "slow", "where")
CONFIG = RunConfig(tracing_disabled=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, policy=MORE)
    with world.open():
        yield world


def agent_of(world: World, script: Script, *more: Any, name: str = "desk", **options: Any) -> Any:
    return Agent(name=name, model=Scripted(script), tools=[*(tool_of(body) for body in world.tools()), *more], **options)


def answers(result: Any) -> dict[str, str]:
    return {item["call_id"]: str(item["output"]) for item in result.to_input_list() if item.get("type") == "function_call_output"}


# -- rows of fail_open.jsonl --------------------------------------------------------------------------------------------------------


def test_f58_an_agent_used_as_a_tool_is_judged_like_its_parent(world: World) -> None:
    inner = agent_of(world, ((WIPE,), "helped"), name="inner")
    agent = agent_of(world, ((Call("h1", "helper", {"input": "x"}),), "done"), inner.as_tool("helper", "Ask."))
    assert not any(each.covered for each in coverage(agent))
    guard_agent(agent, world.guard)
    assert all(each.covered for each in coverage(agent)) and "inner > wipe" in {each.path for each in coverage(agent)}
    run_sync(agent, "go")
    assert world.ran == [] and [(r.tool, r.verdict) for r in world.decisions] == [("helper", "allow"), ("wipe", "deny")]


@pytest.mark.parametrize("way", ["agent", "handoff", "closure"])
def test_f58_f61_every_agent_that_is_handed_over_to_is_judged(world: World, way: str) -> None:
    inner = agent_of(world, ((WIPE,), "helped"), name="inner")

    async def helper(input: str) -> str:
        """Ask."""
        return str((await Runner.run(inner, input, run_config=CONFIG)).final_output)

    if way == "closure":
        agent = agent_of(world, ((Call("h1", "helper", {"input": "x"}),), "done"), function_tool(helper))
    else:
        agent = agent_of(world, ((Call("h1", "transfer_to_inner"),), "done"), handoffs=[inner if way == "agent" else handoff(inner)])
    guard_agent(agent, world.guard)
    run_sync(agent, "go")
    assert world.ran == [] and ("wipe", "deny") in [(r.tool, r.verdict) for r in world.decisions]


HOSTED: dict[str, Any] = {
    "web_search": WebSearchTool(),
    "hosted_mcp": HostedMCPTool(
        tool_config={"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:1", "require_approval": "never"}
    ),
}


@pytest.mark.parametrize("name", HOSTED)
def test_f61_hosted_tools_are_reported_before_a_run(world: World, name: str) -> None:
    inner = agent_of(world, ("helped",), HOSTED[name], name="inner")
    agent = agent_of(world, ("done",), handoffs=[inner])
    with pytest.raises(ConfigError, match=f"inner > {name}: the SDK or OpenAI runs it"):
        guard_agent(agent, world.guard)
    assert not any(each.covered for each in coverage(agent)), "nothing was changed"
    guard_agent(agent, world.guard, accept=[name])
    assert [each.path for each in coverage(agent) if not each.covered] == [f"inner > {name}"]


def test_f61_a_handoff_whose_agent_nobody_can_see(world: World) -> None:
    made = handoff(agent_of(world, ("helped",), name="inner"))
    made._agent_ref = None  # type: ignore[assignment]

    async def invoke(context: Any, text: str) -> Any:
        raise AssertionError

    made.on_invoke_handoff = invoke
    with pytest.raises(ConfigError, match="inner: its agent is made where nobody can see it"):
        guard_agent(agent_of(world, ("done",), handoffs=[made]), world.guard)


def test_f61_hooks_end_a_run_before_what_was_added_later(world: World) -> None:
    agent = guard_agent(agent_of(world, ((WIPE,), "done")), world.guard)
    agent.tools = [tool_of(body) for body in world.tools()]
    late = agent_of(world, ((WIPE,), "done"), name="late")
    other = guard_agent(agent_of(world, ((Call("h1", "transfer_to_late"),), "done")), world.guard)
    other.handoffs = [late]
    for each in (agent, other):
        with pytest.raises((ConfigError, UserError), match="no guard stands before"):  # the SDK wraps what a hook raises
            asyncio.run(Runner.run(each, "go", run_config=CONFIG, hooks=GuardHooks()))
    assert world.ran == []
    asyncio.run(
        Runner.run(
            other.clone(model=Scripted(((Call("h1", "transfer_to_late"),), "done"))),
            "go",
            run_config=CONFIG,
            hooks=GuardHooks(accept=TOOLS),
        )
    )
    world.ran.clear()
    fine = guard_agent(agent_of(world, ((LOOK,), "done")), world.guard)
    asyncio.run(Runner.run(fine, "go", run_config=CONFIG, hooks=GuardHooks()))
    assert world.runs("look")


def test_f62_f65_the_tool_itself_ends_at_the_sealed_body(world: World) -> None:
    world.sealed = True
    driver = OpenAIAgentsDriver()
    app = driver.build(world, ("done",))
    for way, came in driver.bypass(app, WIPE).items():
        assert world.ran == [], way
        refused = ("denied", "sealed", "An error occurred while running the tool")
        assert isinstance(came, Denied) or any(words in str(came) for words in refused), (way, came)


def test_f68_one_decision_one_unit_one_run(world: World) -> None:
    agent = guard_agent(agent_of(world, ((Call("r1", "refund", {"order": "A-1", "amount": "5"}), PAY9), "done")), world.guard)
    result = run_sync(agent, "go")
    world.approve()
    state = result.to_state()
    for item in result.interruptions:
        state.approve(item)
    run_sync(agent, state)
    assert len(world.runs("refund")) == 1 and len(world.runs("pay")) == 1
    assert [r.verdict for r in world.decisions if r.tool == "refund"] == ["allow"]


# -- asks ---------------------------------------------------------------------------------------------------------------------------


def test_a_no_of_the_program_counts_even_after_a_persons_yes(world: World) -> None:
    agent = guard_agent(agent_of(world, ((PAY9,), "done")), world.guard)
    result = run_sync(agent, "go")
    world.approve()
    state = result.to_state()
    state.reject(result.interruptions[0])
    asyncio.run(Runner.run(agent, state, run_config=CONFIG, hooks=GuardHooks()))
    assert world.runs("pay") == []
    assert [(record.verdict, str(record.code)) for record in world.decisions] == [("ask", "rule.match"), ("deny", "ask.declined")], (
        "with hooks"
    )


def test_what_was_approved_and_made_is_no_no(world: World) -> None:
    agent = guard_agent(agent_of(world, ((PAY9,), (LOOK,), "done")), world.guard)
    result = asyncio.run(Runner.run(agent, "go", run_config=CONFIG, hooks=GuardHooks()))
    world.approve()
    state = result.to_state()
    state.approve(result.interruptions[0])
    asyncio.run(Runner.run(agent, state, run_config=CONFIG, hooks=GuardHooks()))
    assert [(record.tool, record.verdict) for record in world.decisions] == [("pay", "ask"), ("pay", "allow"), ("look", "allow")]


def test_always_approve_approves_nothing(world: World) -> None:
    agent = guard_agent(agent_of(world, ((PAY9,), (PAY8,), "done")), world.guard)
    result = run_sync(agent, "go")
    state = result.to_state()
    state.approve(result.interruptions[0], always_approve=True)
    said = answers(run_sync(agent, state))
    assert world.runs("pay") == [] and all("needs approval" in text for text in said.values()) and set(said) == {"p9", "p8"}


def test_a_state_that_was_written_down_goes_on_in_another_agent_object(world: World) -> None:
    script: Script = ((PAY9,), "done")
    agent = guard_agent(agent_of(world, script), world.guard)
    result = run_sync(agent, "go")
    assert requests(result)["p9"]["tool"] == "pay"
    text = result.to_state().to_string()
    assert "guardtrail" not in text
    world.approve()
    again = guard_agent(Agent(name="desk", model=Scripted(("done",)), tools=[tool_of(body) for body in world.tools()]), world.guard)
    state = asyncio.run(RunState.from_string(again, text))
    for item in state.get_interruptions():
        state.approve(item)
    run_sync(again, state)
    assert world.runs("pay") == [PAY9.args]


def test_an_agent_used_as_a_tool_that_asks_pauses_and_goes_on(world: World) -> None:
    inner = agent_of(world, ((PAY9,), "helped"), name="inner")
    agent = guard_agent(agent_of(world, ((Call("h1", "helper", {"input": "x"}),), "done"), inner.as_tool("helper", "Ask.")), world.guard)
    result = run_sync(agent, "go")
    assert [item.tool_name for item in result.interruptions] == ["pay"]
    assert [outcome.status for outcome in world.outcomes] == ["unknown"]
    world.approve()
    state = result.to_state()
    state.approve(result.interruptions[0])
    said = answers(run_sync(agent, state))
    assert world.runs("pay") == [PAY9.args] and said["h1"] == "helped"


def test_the_tools_own_pause_stays(world: World) -> None:
    made = function_tool(world.tools("look")[0], needs_approval=True)
    agent = guard_agent(Agent(name="desk", model=Scripted(((LOOK,), "done")), tools=[made]), world.guard)
    result = run_sync(agent, "go")
    assert len(result.interruptions) == 1 and requests(result) == {} and world.decisions == []
    state = result.to_state()
    state.approve(result.interruptions[0])
    run_sync(agent, state)
    assert len(world.runs("look")) == 1


# -- what is particular to the SDK ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"order": NaN}', '{"order": "B-1", "order": "A-1"}', "null", "[" * 100_000])
def test_arguments_that_are_no_object_do_not_run(world: World, text: str) -> None:
    agent = guard_agent(agent_of(world, ("done",)), world.guard)
    (tool,) = [each for each in agent.tools if each.name == "look"]
    context = ToolContext(context=None, tool_name="look", tool_call_id="c1", tool_arguments=text)
    said = asyncio.run(tool.on_invoke_tool(context, text))
    assert "denied" in said and world.ran == []
    assert [record.verdict for record in world.decisions] == ["deny"]


def test_a_body_that_fails_says_so_as_the_tool_wants_it(world: World) -> None:
    fail = world.tools("fail")[0]
    for said, options in (("An error occurred", {}), ("politely", {"failure_error_function": lambda context, error: "politely"})):
        tool = function_tool(fail, **options)
        agent = guard_agent(
            Agent(name="desk", model=Scripted(((Call(said, "fail", {"order": "A-1"}),), "done")), tools=[tool]), world.guard
        )
        assert said in answers(run_sync(agent, "go"))[said]
    strict = function_tool(fail, failure_error_function=None)
    agent = guard_agent(Agent(name="desk", model=Scripted(((Call("f9", "fail", {"order": "A-1"}),), "done")), tools=[strict]), world.guard)
    with pytest.raises(Exception, match="no order A-1"):
        run_sync(agent, "go")
    assert [outcome.status for outcome in world.outcomes] == ["error"] * 3


def test_a_nullable_argument_of_a_strict_tool_may_be_null_or_left_out(world: World) -> None:
    def look(order: str, pages: int | None = None) -> str:
        """Look."""
        return f"{order} {pages}"

    for number, args in enumerate(({"order": "A-1", "pages": None}, {"order": "A-1"}, {"order": "A-1", "pages": 2})):
        agent = Agent(name="desk", model=Scripted(((Call(f"c{number}", "look", args),), "done")), tools=[function_tool(look)])
        said = answers(run_sync(guard_agent(agent, world.guard), "go"))
        assert said[f"c{number}"] == f"A-1 {args.get('pages')}"


def test_guarding_twice_is_guarding_once_and_two_guards_are_refused(world: World, tmp_path: Path) -> None:
    agent = guard_agent(agent_of(world, ((LOOK,), "done")), world.guard)
    guard_agent(agent, world.guard)
    run_sync(agent, "go")
    assert len(world.decisions) == 1
    with pytest.raises(ConfigError, match="another guard"):
        guard_agent(agent, World(tmp_path / "b").guard)
    run_sync(agent.clone(model=Scripted(((WIPE,), "done"))), "go")
    assert world.runs("wipe") == [], "a clone keeps its guard"


def test_a_model_named_by_text_is_shown_a_shorter_list_by_the_provider(world: World) -> None:
    model = Scripted(("done",))

    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Any:
            return model

    agent = guard_agent(Agent(name="desk", model="some", tools=[tool_of(body) for body in world.tools("look", "wipe")]), world.guard)
    config = RunConfig(tracing_disabled=True, model_provider=GuardProvider(world.guard, Provider()))
    asyncio.run(Runner.run(agent, "go", run_config=config))
    assert model.shown == [("look",)]


class Files(MCPServer):
    """An MCP server as the SDK sees it, in this process."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    name = "files"

    async def connect(self) -> None: ...

    async def cleanup(self) -> None: ...

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> Any:
        from mcp.types import ListToolsResult

        schema = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
        return ListToolsResult.model_validate({"tools": [{"name": name, "inputSchema": schema} for name in ("look", "wipe", "fail")]}).tools

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
        self.world.note(tool_name, **arguments)
        return CallToolResult.model_validate({"content": [{"type": "text", "text": f"{tool_name} ran"}], "isError": tool_name == "fail"})

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...


def test_tools_of_an_mcp_server_are_judged(world: World) -> None:
    script: Script = ((LOOK, WIPE, Call("f1", "fail", {"order": "A-1"})), "done")
    agent: Any = Agent(name="desk", model=Scripted(script), mcp_servers=[Files(world)])
    assert [(each.path, each.covered) for each in coverage(agent)] == [("files", False)]
    guard_agent(agent, world.guard)
    guard_agent(agent, world.guard)
    result = asyncio.run(Runner.run(agent, "go", run_config=CONFIG, hooks=GuardHooks()))
    said = answers(result)
    assert "look ran" in said["c1"] and "intent.tool" in said["w1"] and "fail ran" in said["f1"]
    assert sorted(ran.tool for ran in world.ran) == ["fail", "look"]
    assert sorted(outcome.status for outcome in world.outcomes) == ["error", "ok"]


def test_a_server_of_two_guards_is_refused(world: World, tmp_path: Path) -> None:
    """As a tool is: whichever came first would go on to decide for both."""
    files, other = Files(world), World(tmp_path / "other", tenant="globex")
    guard_agent(Agent(name="desk", mcp_servers=[files]), world.guard)
    with pytest.raises(ConfigError, match="files has another guard"):
        guard_agent(Agent(name="desk", mcp_servers=[files]), other.guard)


def test_a_server_that_does_not_answer_may_have_run_the_tool(world: World) -> None:
    """Outcome `unknown`, as with a `GuardedSession`: after an error the units of a limit may come back."""

    class Silent(Files):
        async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
            self.world.note(tool_name, **arguments)
            raise TimeoutError("no answer")

    agent: Any = guard_agent(Agent(name="desk", model=Scripted(((LOOK,), "done")), mcp_servers=[Silent(world)]), world.guard)
    result = asyncio.run(Runner.run(agent, "go", run_config=CONFIG, hooks=GuardHooks()))
    assert "error" in answers(result)["c1"], "its own exception takes the way of the SDK"
    assert [outcome.status for outcome in world.outcomes] == ["unknown"]


def test_a_tool_of_ones_own_making(world: World) -> None:
    async def invoke(context: Any, text: str) -> str:
        world.note("look", **json.loads(text))
        return "own"

    schema = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
    tool = FunctionTool(name="look", description="Look", params_json_schema=schema, on_invoke_tool=invoke, strict_json_schema=False)
    agent = guard_agent(Agent(name="desk", model=Scripted(((LOOK,), "done")), tools=[tool]), world.guard)
    assert answers(run_sync(agent, "go")) == {"c1": "own"}
    assert [each.covered for each in coverage(agent.tools[0])] == [True] and [each.covered for each in coverage(tool)] == [False]


def test_what_is_no_agent_is_nothing_to_cover(world: World) -> None:
    assert coverage(Scripted(("done",))) == []
    with pytest.raises(ConfigError, match="takes an `Agent`"):
        guard_agent(Scripted(("done",)), world.guard)  # type: ignore[arg-type]


# -- docs ---------------------------------------------------------------------------------------------------------------------------


def test_the_example_prints_what_it_says(tmp_path: Path) -> None:
    example_prints("openai_agents", tmp_path)
