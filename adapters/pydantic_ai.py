"""Pydantic AI: every tool call of an agent passes the guard, whatever toolset it is of.

    from guard.adapters.pydantic_ai import GuardCapability

    agent = Agent("openai:gpt-5", tools=[refund], capabilities=[GuardCapability(guard)], output_type=[str, DeferredToolRequests])
    with guard.task(token, prompt=text):
        result = agent.run_sync(text)

A denial is a failed tool return (no retry is spent on it); an ask is a deferred call with `ApprovalRequired.request` as its metadata. Approving it makes the call
again and authorizes nothing: the guard's own approvals do, for these very arguments (fail-open row F69). The guard stands around the toolsets, inside of every
other capability, so no hook can change a call after it was judged. A no of the program never reaches a toolset; it is read from the history and put on record
(row F70).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._held import held

try:
    from pydantic_ai import ApprovalRequired as Asked
    from pydantic_ai import CallDeferred
    from pydantic_ai.agent import AbstractAgent, WrapperAgent
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.exceptions import ToolFailed
    from pydantic_ai.messages import ToolCallPart
    from pydantic_ai.toolsets import AbstractToolset, CombinedToolset, ExternalToolset, FunctionToolset, PreparedToolset, WrapperToolset
    from pydantic_core import to_json, to_jsonable_python
except ImportError as error:
    raise missing("pydantic_ai", "pydantic-ai-slim", "2.20") from error

__all__ = ["GuardCapability", "GuardToolset", "coverage"]

_OWN = frozenset({"pydantic", "pydantic_ai", "pydantic_graph"})
_BARE = "its agent has no GuardCapability"
_ELSEWHERE = "the model's provider runs it where no guard sees the call: leave it out, or name it in `accept`"
_OUTSIDE = "the program runs it: hand its call to `guard.call` there, and name it in `accept`"
_OUTPUT = "an output function is no tool call: make it a tool, or name it in `accept`"


class Paused(BaseException):
    """The body itself deferred its call: outcome `unknown`, so not an Exception. It is run again when there is an answer."""

    def __init__(self, way: Exception) -> None:
        super().__init__("the body of the tool deferred its call")
        self.way = way


@dataclass
class GuardToolset(WrapperToolset[Any]):  # type: ignore[misc, unused-ignore]
    """Any toolset behind the guard. `GuardCapability` puts it around all of an agent's."""

    guard: Guard
    declared: dict[str, object] = field(default_factory=dict, repr=False)

    async def get_tools(self, ctx: Any) -> dict[str, Any]:
        tools: dict[str, Any] = await super().get_tools(ctx)
        for name, tool in tools.items():
            schema = tool.tool_def.parameters_json_schema
            if self.declared.get(name) is not schema:
                self.guard.declare(name, {"additionalProperties": False, **schema})
                self.declared[name] = schema
        return tools

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        given: Any = tool_args if all(type(value) in _PLAIN for value in tool_args.values()) else to_jsonable_python(tool_args)
        ran = False

        async def execute(**bound: Any) -> Any:
            nonlocal ran
            ran = True
            args = bound if given is tool_args else _typed(bound, ctx, tool)
            try:
                return await self.wrapped.call_tool(name, args, ctx, tool)
            except (CallDeferred, Asked) as way:
                raise Paused(way) from None

        known = ctx.tool_call_id or ""
        run = 0
        while True:
            try:
                return await self.guard.acall(tool_call(name, given, f"{known}#{run}" if run else known), execute)
            except Paused as paused:
                if ran:
                    raise paused.way from None
                run += 1  # recorded is a run that deferred; this is the next
            except ApprovalRequired as required:
                raise Asked(dict(required.request)) from None
            except Denied as denied:
                raise ToolFailed(refusal(denied)) from None


_PLAIN = (str, int, float, bool, type(None))


def _typed(bound: Mapping[str, Any], ctx: Any, tool: Any) -> Any:
    """What was judged, as the body declares it. Attack: a field that a model leaves out when it is written down brings something the guard never saw."""
    return tool.args_validator.validate_json(to_json(bound), context=getattr(ctx, "validation_context", None))


@dataclass
class GuardCapability(AbstractCapability[Any]):  # type: ignore[misc, unused-ignore]
    """The guard of one agent. `accept`: names of tools and sub-agents that may run without any guard; every other that no guard covers stops a run before its
    model is asked."""

    guard: Guard
    accept: Collection[str] = ()

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        if type(toolset) not in (CombinedToolset, PreparedToolset, GuardToolset):
            raise ConfigError(
                f"guard.adapters.pydantic_ai: {type(toolset).__name__} stands inside of the guard and could change a call that was judged"
            )
        self._refuse(_tools(toolset, "", True, frozenset()))
        return GuardToolset(toolset, self.guard)

    async def before_run(self, ctx: Any) -> None:
        if ctx.agent is not None:
            self._refuse(_outputs(ctx.agent, ""))

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """Only what the task could ever use is offered; whatever the model calls is judged all the same (fail-open row F57)."""
        for call in _declined(request_context.messages):
            await self.guard.adecline(call)
        parameters = request_context.model_request_parameters
        self._refuse(_native(parameters.native_tools, ""))
        visible = set(self.guard.visible([tool.name for tool in parameters.function_tools]))
        kept = [tool for tool in parameters.function_tools if tool.name in visible]
        return replace(request_context, model_request_parameters=replace(parameters, function_tools=kept))

    def _refuse(self, found: Iterator[Seen]) -> None:
        bad = [seen for seen in found if not seen.covered and set(self.accept).isdisjoint(seen.path.split(" > "))]
        if bad:
            raise not_covered("pydantic_ai", bad)


def _declined(messages: Sequence[Any]) -> list[Any]:
    """The calls that the program said no to: their answer in the newest request is "denied", and no toolset was asked for it."""
    answers = {part.tool_call_id for part in (messages[-1].parts if messages else ()) if getattr(part, "outcome", "") == "denied"}
    calls = [part for message in messages for part in message.parts if isinstance(part, ToolCallPart)] if answers else []
    return [tool_call(call.tool_name, call.args_as_dict(), call.tool_call_id) for call in calls if call.tool_call_id in answers]


def coverage(agent: Any) -> list[Seen]:
    """Every tool of an agent or toolset, and of the agents it can reach: does a guard stand before it? Nothing for what has no tools."""
    if isinstance(agent, AbstractToolset):
        return list(_tools(agent, "", isinstance(agent, GuardToolset), frozenset()))
    return list(_agent(agent, "", frozenset())) if isinstance(agent, AbstractAgent) else []


def _agent(agent: Any, path: str, above: frozenset[int]) -> Iterator[Seen]:
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    parts: list[Any] = []
    agent.root_capability.apply(parts.append)
    guarded = any(isinstance(part, GuardCapability) for part in parts)
    for toolset in agent.toolsets:
        yield from _tools(toolset, path, guarded, above | {id(agent)})
    yield from _native([tool for part in parts for tool in part.get_native_tools()], path)
    yield from _outputs(agent, path)


def _native(tools: Sequence[Any], path: str) -> Iterator[Seen]:
    """What the model's provider runs. The search for tools runs nothing, and what it finds is called like any other tool."""
    kinds = [getattr(tool, "kind", "native tool") for tool in tools]
    return (Seen(f"{path}{kind}", False, _ELSEWHERE) for kind in kinds if kind != "tool_search")


def _tools(toolset: Any, path: str, guarded: bool, above: frozenset[int]) -> Iterator[Seen]:
    leaves: list[Any] = []
    toolset.apply(leaves.append)
    for leaf in leaves:
        if isinstance(leaf, ExternalToolset):
            yield from (Seen(f"{path}{tool.name}", False, _OUTSIDE) for tool in leaf.tool_defs)
        elif isinstance(leaf, FunctionToolset):
            for name, tool in leaf.tools.items():
                covered = guarded or hasattr(tool.function, "__guardtrail__")
                yield Seen(f"{path}{name}", covered, "" if covered else _BARE)
                yield from _below(tool.function, f"{path}{name} > ", above)
        else:  # of a server, or made while it runs: its calls pass here as well
            yield Seen(f"{path}{leaf.label}", guarded, "" if guarded else _BARE)
            yield from _below(leaf, f"{path}{leaf.label} > ", above)


def _below(thing: Any, path: str, above: frozenset[int]) -> Iterator[Seen]:
    for agent in held(thing, AbstractAgent, _OWN):
        if id(agent) not in above:
            yield from _agent(agent, path, above)


def _outputs(agent: Any, path: str) -> Iterator[Seen]:
    """Functions that the model calls by its last word."""
    spec = agent.output_type
    for one in spec if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]:
        function = getattr(one, "output", getattr(one, "output_function", one))
        if callable(function) and not isinstance(function, type) and hasattr(function, "__code__"):
            yield Seen(f"{path}{function.__name__}", hasattr(function, "__guardtrail__"), _OUTPUT)
