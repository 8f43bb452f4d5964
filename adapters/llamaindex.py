"""LlamaIndex: every tool call of an agent, or of a workflow of agents, passes the guard.

    from guard.adapters.llamaindex import guard_agent

    agent = guard_agent(guard, FunctionAgent(tools=[look, refund], llm=llm))
    async with guard.task(token, prompt=text):
        handler = agent.run(text)
        async for event in handler.stream_events():
            if isinstance(event, ApprovalNeeded):     # a call waits: event.request, plain data
                ...                                   # once answered: handler.ctx.send_event(event.answer(True))
        print(await handler)

The tools are rebuilt, so an agent inside a workflow is guarded as it is alone (fail-open row F59), and the class of the agent gets a mixin: it hands the model's call id to
the guard, without which a step that LlamaIndex repeats would be judged and run twice (F68), and shortens the list that the model is offered. `guard_tools(guard, tools)` has
neither. The answer to an event lets the call be judged again; nothing but the guard's own approvals lets it run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ._core import ConfigError, Guard, Seen, missing, not_covered
from ._held import held

try:
    from llama_index.core.agent.workflow import AgentWorkflow, BaseWorkflowAgent, CodeActAgent, ToolCall, ToolCallResult
    from llama_index.core.agent.workflow.multi_agent_workflow import handoff
    from llama_index.core.tools import FunctionTool
    from llama_index.core.tools.types import AsyncBaseTool, BaseTool
    from llama_index.core.workflow import Context, step

    from ._llamaindex import ApprovalNeeded, GuardedTool, current_call
except ImportError as error:
    raise missing("llamaindex", "llama-index-core", "0.14.12") from error

__all__ = ["ApprovalNeeded", "GuardMixin", "GuardedTool", "coverage", "guard_agent", "guard_tools"]


class GuardMixin:
    """For a class of your own: `class Desk(GuardMixin, FunctionAgent)`, then `guard_agent(guard, Desk(...))`."""

    @step  # type: ignore[untyped-decorator, unused-ignore]
    async def call_tool(self, ctx: Context, ev: ToolCall) -> ToolCallResult:
        token = current_call.set("" if ev.tool_id == ev.tool_name else ev.tool_id)  # some models have no ids, and their names stand there
        try:
            return await super().call_tool(ctx, ev)  # type: ignore[misc]
        finally:
            current_call.reset(token)

    async def get_tools(self, *args: Any, **kwargs: Any) -> Sequence[AsyncBaseTool]:
        """All of them for a call, which is judged; for the model those that the current task could ever use."""
        tools = guard_tools(vars(self)["_guardtrail"], await super().get_tools(*args, **kwargs))  # type: ignore[misc]
        return tools if current_call.get() is not None else [tool for tool in tools if _visible(tool)]


def guard_tools(guard: Guard, tools: Iterable[BaseTool | Callable[..., Any]]) -> list[AsyncBaseTool]:
    """The same tools, guarded; a function becomes a tool as LlamaIndex makes one. LlamaIndex's own hand-off between agents stays as it is."""
    made = [tool if isinstance(tool, BaseTool) else FunctionTool.from_defaults(tool) for tool in tools]
    return [tool if isinstance(tool, GuardedTool) or _hands_off(tool) else GuardedTool(guard, tool) for tool in made]


def guard_agent(guard: Guard, agent: Any) -> Any:
    """The same agent, or workflow of agents, guarded. Raises ConfigError for what cannot be: an agent that writes code, an agent in a tool's function without a guard."""
    if vars(agent).get("_guardtrail", guard) is not guard:
        raise ConfigError("guard.adapters.llamaindex: this agent has another guard")
    for each in agent.agents.values() if isinstance(agent, AgentWorkflow) else ():
        guard_agent(guard, each)
    if isinstance(agent, BaseWorkflowAgent):
        agent.tools = guard_tools(guard, agent.tools or [])
    if not isinstance(agent, GuardMixin):
        kind = type(agent)
        object.__setattr__(agent, "__class__", type(kind.__name__, (GuardMixin, kind), {"__module__": kind.__module__}))
    vars(agent)["_guardtrail"] = guard
    if wrong := [seen for seen in coverage(agent) if not seen.covered]:
        raise not_covered("llamaindex", wrong)
    return agent


def coverage(agent: Any) -> list[Seen]:
    """What a guard stands before: tools, agents of a workflow, and agents that functions of tools hold."""
    return list(_seen(agent, frozenset()))


def _seen(agent: Any, above: frozenset[int]) -> Iterator[Seen]:
    if id(agent) in above:
        return
    above |= {id(agent)}
    if isinstance(agent, AgentWorkflow):
        for each in agent.agents.values():
            yield from _seen(each, above)
        return
    name, guarded = str(agent.name), "_guardtrail" in vars(agent)
    if isinstance(agent, CodeActAgent):
        yield Seen(
            f"{name} > code_execute_fn",
            False,
            "code that a model writes calls what it likes: `@guard.tool` on the functions, or the gateway, and another agent",
        )
    if agent.tool_retriever is not None and not guarded:
        yield Seen(f"{name} > tool_retriever", False, "`guard_agent(guard, agent)`")
    for tool in agent.tools or ():
        covered = isinstance(tool, GuardedTool) or hasattr(getattr(tool, "real_fn", None), "__guardtrail__")
        yield Seen(
            f"{name} > {tool.metadata.name}", covered, "" if covered else "`guard_agent(guard, agent)`, or `@guard.tool` on its function"
        )
        for below in held(
            tool._tool if isinstance(tool, GuardedTool) else tool, (BaseWorkflowAgent, AgentWorkflow), frozenset({"llama_index"})
        ):
            for seen in _seen(below, above):
                yield Seen(f"{name} > {tool.metadata.name} > {seen.path}", seen.covered, seen.why)


def _visible(tool: Any) -> bool:
    return not isinstance(tool, GuardedTool) or tool._guard.visible([tool._name]) == [tool._name]


def _hands_off(tool: BaseTool) -> bool:
    return isinstance(tool, FunctionTool) and tool.real_fn is handoff
