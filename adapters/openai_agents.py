"""OpenAI Agents SDK: every tool call of an agent, of the agents it hands over to and of those it uses as tools passes the guard.

    from guard.adapters.openai_agents import guard_agent

    agent = guard_agent(Agent(name="desk", tools=[refund], handoffs=[billing], mcp_servers=[files]), guard)
    with guard.task(token, prompt=text):
        result = await Runner.run(agent, text)

The agents are changed in place. A denial is the result the model reads; an ask interrupts the run (`result.interruptions`; `requests(result)` has what a person
is asked). `state.approve(item)` makes the call again and authorizes nothing: the guard's own approvals do. Tool guardrails of the SDK cannot hand bound
arguments on, so the tool's `on_invoke_tool` is replaced. What the SDK runs elsewhere (hosted tools) is refused before a run (fail-open rows F58, F61).
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._messages import parsed

try:
    from agents import Agent, FunctionTool, Model, ModelProvider, MultiProvider, RunHooks
    from agents.agent_tool_state import get_agent_tool_state_scope, peek_agent_tool_run_result
    from agents.tool import maybe_invoke_function_tool_failure_error_function

    from ._openai import Guarding, coverage, guard_server, offering, reachable, uncovered
except ImportError as error:
    raise missing("openai_agents", "openai-agents", "0.17") from error

__all__ = ["GuardHooks", "GuardProvider", "coverage", "guard_agent", "requests"]

_KEPT = 1000


def guard_agent(agent: Agent[Any], guard: Guard, *, accept: Collection[str] = ()) -> Agent[Any]:
    """`agent`, guarded in place with every agent it can reach. ConfigError where some of its tools no guard can stand before, unless `accept` names them."""
    if not isinstance(agent, Agent):
        raise ConfigError("guard.adapters.openai_agents: guard_agent takes an `Agent`")
    agents = reachable(agent)
    _refuse(uncovered(agents), accept)
    for _, each in agents:
        each.tools = [_guarded(tool, guard) if isinstance(tool, FunctionTool) else tool for tool in each.tools]
        for server in each.mcp_servers:
            guard_server(server, guard)
        if isinstance(each.model, Model):
            each.model = offering(each.model, guard)
    return agent


def _refuse(found: Sequence[Seen], accept: Collection[str]) -> None:
    bad = [seen for seen in found if not seen.covered and set(accept).isdisjoint(seen.path.split(" > "))]
    if bad:
        raise not_covered("openai_agents", bad)


def requests(result: Any) -> dict[str, Mapping[str, object]]:
    """What a person is asked for each call that interrupted this run, by call id: plain data without argument values, as `ApprovalRequired.request`."""
    found: dict[str, Mapping[str, object]] = {}
    for item in result.interruptions:
        raw = item.raw_item
        called = raw.get("call_id") if isinstance(raw, dict) else getattr(raw, "call_id", None)
        for tool in item.agent.tools if item.agent is not None else ():
            body = getattr(tool, "on_invoke_tool", None)
            if tool.name == item.tool_name and isinstance(body, GuardedTool) and isinstance(called, str) and called in body.asked:
                found[called] = body.asked[called]
    return found


class GuardHooks(RunHooks[Any]):  # type: ignore[misc, unused-ignore]
    """For `Runner.run(..., hooks=GuardHooks())`: ends a run before a tool that nobody guards, also of agents that are only made while it runs. `accept`: as of
    `guard_agent`."""

    def __init__(self, *, accept: Collection[str] = ()) -> None:
        self._accept = frozenset(accept)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        named = getattr(tool, "name", "?")
        of_server = bool(agent.mcp_servers) and all(isinstance(server.call_tool, Guarding) for server in agent.mcp_servers)
        guarded = isinstance(getattr(tool, "on_invoke_tool", None), Guarding) or (
            of_server and named not in {each.name for each in agent.tools}
        )
        if not guarded and self._accept.isdisjoint((named, agent.name)):
            raise ConfigError(f"guard.adapters.openai_agents: no guard stands before {agent.name} > {named}")

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        """A call that waited, is answered, and was never made: the program said no, which no tool is told of. It goes on record."""
        answered = {item.get("call_id") for item in input_items if isinstance(item, dict) and item.get("type") == "function_call_output"}
        bodies: list[Any] = [tool.on_invoke_tool for tool in agent.tools if isinstance(tool, FunctionTool)]
        for body in (body for body in bodies if isinstance(body, GuardedTool)):
            for call in [call for called, call in body.waits.items() if called in answered]:
                del body.waits[call.id]
                await body.guard.adecline(call)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        _refuse(coverage(to_agent), self._accept)


class GuardProvider(ModelProvider):  # type: ignore[misc, unused-ignore]
    """For `RunConfig(model_provider=GuardProvider(guard))`: models that are named by text are offered only the tools the task could ever use."""

    def __init__(self, guard: Guard, provider: ModelProvider | None = None) -> None:
        self._guard, self._provider = guard, provider or MultiProvider()

    def get_model(self, model_name: str | None) -> Model:
        return offering(self._provider.get_model(model_name), self._guard)


class Paused(BaseException):
    """An agent used as a tool waits for a person in a call of its own: outcome `unknown`, so not an Exception. The SDK will run it again, to go on."""

    def __init__(self, value: Any) -> None:
        super().__init__("a nested run waits")
        self.value = value


class GuardedTool(Guarding):
    """`on_invoke_tool` and `needs_approval` of one tool. `asked`: call id -> request, of the newest calls that were asked about; `waits`: those not made yet."""

    def __init__(self, tool: FunctionTool, guard: Guard) -> None:
        self._bare = copy.copy(tool)  # its failures come out as exceptions, so that they are on record as such
        self._bare._failure_error_function, self._bare._use_default_failure_error_function = None, False
        self._tool, self.guard, self.asked = tool, guard, OrderedDict[str, Mapping[str, object]]()
        self.waits: dict[str, Any] = {}
        guard.declare(tool.name, _schema(tool.params_json_schema))

    async def __call__(self, context, text):  # type: ignore[no-untyped-def]  # the SDK reads annotations, at each call
        failed: list[Exception] = []
        ran = False

        async def execute(**args: Any) -> Any:
            nonlocal ran
            ran = True
            try:
                value = await self._bare.on_invoke_tool(context, json.dumps(args))
            except Exception as error:
                failed.append(error)
                raise
            if self._tool._is_agent_tool and _waits(context):
                raise Paused(value)
            return value

        known = context.tool_call_id
        self.waits.pop(known, None)
        for run in range(_KEPT):
            try:
                return await self.guard.acall(tool_call(self._tool.name, parsed(text or ""), f"{known}#{run}" if run else known), execute)
            except Paused as paused:
                if ran:
                    return paused.value
            except Denied as denied:
                return refusal(denied)
            except Exception as error:
                said = (
                    await maybe_invoke_function_tool_failure_error_function(function_tool=self._tool, context=context, error=error)
                    if error in failed
                    else None
                )
                if said is None:
                    raise
                return said
        raise ConfigError(f"guard.adapters.openai_agents: {self._tool.name} was interrupted too often")

    async def needs_approval(self, context: Any, args: dict[str, Any], id: str) -> bool:
        """The SDK's pause, where the guard asks. Here the ask is made and recorded; whatever is answered, the call itself is judged when it is made."""
        call = tool_call(self._tool.name, args, id)
        if (await self.guard.acheck(call)).verdict == "ask":
            try:
                await self.guard.acall(call, _nothing)
            except ApprovalRequired as required:
                self.asked[id], self.waits[id] = required.request, call
                if len(self.asked) > _KEPT:
                    self.waits.pop(self.asked.popitem(last=False)[0], None)
                return True
            except Denied:
                return False  # meanwhile; the call itself says so to the model
        own = self._tool.needs_approval
        return bool(own if isinstance(own, bool) else await own(context, args, id))


async def _nothing(**_: Any) -> None:
    raise RuntimeError("approved between two looks: the call is to be made again")


def _guarded(tool: FunctionTool, guard: Guard) -> FunctionTool:
    if isinstance(tool.on_invoke_tool, GuardedTool):
        if tool.on_invoke_tool.guard is not guard:
            raise ConfigError(f"guard.adapters.openai_agents: {tool.name} has another guard already")
        return tool
    body, made = GuardedTool(tool, guard), copy.copy(tool)
    made.on_invoke_tool, made.needs_approval = body, body.needs_approval
    return made


def _waits(context: Any) -> bool:
    call = getattr(context, "tool_call", None)
    result = peek_agent_tool_run_result(call, scope_id=get_agent_tool_state_scope(context)) if call is not None else None
    return bool(getattr(result, "interruptions", None))


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A strict schema calls every argument required, also those that have a default or may be null."""
    known = schema.get("properties", {})
    needed = [name for name in schema.get("required", ()) if "default" not in known.get(name, {}) and "'null'" not in repr(known.get(name))]
    return {"additionalProperties": False, **schema, "required": needed}
