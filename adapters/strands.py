"""Strands Agents: every tool call of an agent passes the guard.

    from guard.adapters.strands import GuardHooks

    agent = Agent(model=model, tools=[look, refund], hooks=[GuardHooks(guard)])
    with guard.task(token):
        agent("Refund order A-17")

A hook stands before and after a tool and cannot wrap it, but it may select another tool: `GuardHooks` puts one around the tool that was selected. What hooks
and middleware change in the call before it runs is what is judged.

An ask becomes Strands' own interrupt, named `guardtrail`, whose reason is the guard's request. Answer it with True to make the call again, with anything else
to let it be; True authorizes nothing. A sub-agent has hooks of its own: give it GuardHooks, or its parent does not start.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from weakref import WeakSet

from ._core import ApprovalRequired, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._held import held

try:
    from strands import Agent
    from strands.agent._agent_as_tool import _AgentAsTool
    from strands.hooks import AgentInitializedEvent, BeforeInvocationEvent, BeforeToolCallEvent, HookProvider
    from strands.interrupt import Interrupt
    from strands.multiagent import MultiAgentBase
    from strands.types._events import ToolInterruptEvent, ToolResultEvent, ToolStreamEvent
    from strands.types.tools import AgentTool

    try:
        from strands.middleware import InvokeModelStage
    except ImportError:
        from strands._middleware.stages import InvokeModelStage
except ImportError as error:
    raise missing("strands", "strands-agents", "1.45") from error

__all__ = ["GuardHooks", "coverage"]

# Strands' own tools that hand over to another agent or end a turn: what they lead to is guarded, call by call.
_HOPS = ("strands.multiagent.", "strands.tools.structured_output.")
_guarded: WeakSet[Any] = WeakSet()
"""Hook registries that have a guard."""


class GuardHooks(HookProvider):  # type: ignore[misc, unused-ignore]
    """One for each agent, or one for several."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._declared: set[str] = set()

    def register_hooks(self, registry: Any, **_: Any) -> None:
        _guarded.add(registry)
        registry.add_callback(AgentInitializedEvent, self._initialized)
        registry.add_callback(BeforeInvocationEvent, self._begins)
        registry.add_callback(BeforeToolCallEvent, self._before)

    def _initialized(self, event: Any) -> None:
        add = getattr(event.agent, "add_middleware", None) or event.agent._middleware_registry.add_middleware  # its place until 1.58
        add(InvokeModelStage.Input, self._shorten)

    def _begins(self, event: Any) -> None:
        left = [seen for seen in coverage(event.agent) if not seen.covered]
        if left:
            raise not_covered("strands", left)

    def _shorten(self, context: Any) -> Any:
        """The list the model is shown. The registry stays whole: what the model calls all the same is judged."""
        tools = context.agent.tool_registry.registry
        ours = [spec["name"] for spec in context.tool_specs if not _hop(tools.get(spec["name"]))]
        hidden = set(ours).difference(self._guard.visible(ours))
        return dataclasses.replace(context, tool_specs=[spec for spec in context.tool_specs if spec["name"] not in hidden])

    def _before(self, event: Any) -> None:
        tool = event.selected_tool
        if tool is None or _hop(tool) or isinstance(tool, _Around):
            return
        event.selected_tool = _Around(tool, self._guard)
        if tool.tool_name not in self._declared and not hasattr(_function(tool), "__guardtrail__"):
            self._declared.add(tool.tool_name)
            self._guard.declare(tool.tool_name, tool.tool_spec["inputSchema"].get("json", {}))


class _Failed(Exception):
    """The tool says that it failed: outcome `error`. Carries its own last event, which goes on untouched."""

    def __init__(self, event: Any) -> None:
        super().__init__("the tool answered with an error")
        self.event = event


class _Paused(BaseException):
    """The tool itself asks somebody and is run again with the answer: outcome `unknown`, so not an Exception. Carries its interrupt."""

    def __init__(self, event: Any) -> None:
        super().__init__("the tool was interrupted")
        self.event = event


class _Around(AgentTool):  # type: ignore[misc, unused-ignore]
    """One tool, inside the guard."""

    def __init__(self, tool: Any, guard: Guard) -> None:
        super().__init__()
        self._tool = tool
        self._guard = guard

    tool_name = property(lambda self: self._tool.tool_name)
    tool_spec = property(lambda self: self._tool.tool_spec)
    tool_type = property(lambda self: self._tool.tool_type)

    async def stream(self, tool_use: Any, invocation_state: dict[str, Any], **more: Any) -> AsyncIterator[Any]:
        name, waits = f"v1:tool_call:{tool_use['toolUseId']}:guardtrail", invocation_state["agent"]._interrupt_state.interrupts
        answer = waits[name].response if name in waits else None
        if answer is not None and answer is not True:
            await self._guard.adecline(tool_call(self.tool_name, tool_use["input"], _id(tool_use, invocation_state)))
            yield _refused(tool_use, f"{self.tool_name} did not run: it was not confirmed")
            return
        events: asyncio.Queue[Any] = asyncio.Queue()
        call = asyncio.create_task(self._call(events, tool_use, invocation_state, more))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await call
        except ApprovalRequired as asked:
            if answer is not None:  # confirmed by somebody, approved by nobody
                yield _refused(tool_use, refusal(asked))
            else:
                yield ToolInterruptEvent(tool_use, [waits.setdefault(name, Interrupt(name, "guardtrail", asked.request))])
        except Denied as denied:
            yield _refused(tool_use, refusal(denied))
        except (_Failed, _Paused) as ended:
            yield ended.event
        finally:
            call.cancel()  # whoever listened is gone; of a call that has ended this is nothing
            await asyncio.wait({call})

    async def _call(self, events: asyncio.Queue[Any], tool_use: Any, invocation_state: dict[str, Any], more: dict[str, Any]) -> Any:
        """The call under the guard; what the tool says before its last event goes into `events`, then None. Returns the last event."""
        last: Any = None

        async def execute(**bound: Any) -> Any:
            nonlocal last
            gone = True
            async for event in self._tool.stream({**tool_use, "input": bound}, invocation_state, **more):
                if not gone:
                    events.put_nowait(last)
                last, gone = event, isinstance(event, ToolStreamEvent)  # which is no tool's last word, and need not wait for the next one
                if gone:
                    events.put_nowait(event)
            if isinstance(last, ToolInterruptEvent):
                raise _Paused(last)
            result = last.tool_result if isinstance(last, ToolResultEvent) else last
            if not isinstance(result, Mapping) or result.get("status") == "error":
                raise _Failed(last)
            return _plain(result)

        try:
            value = await self._guard.acall(tool_call(self.tool_name, tool_use["input"], _id(tool_use, invocation_state)), execute)
        finally:
            events.put_nowait(None)
        if last is None:  # made before: its recorded outcome
            return ToolResultEvent({"toolUseId": tool_use["toolUseId"], "status": "success", "content": [{"text": str(value)}]})
        return last


def _id(tool_use: Any, invocation_state: dict[str, Any]) -> str:
    """The call's id. A tool that asked somebody itself is run again with the answer: that is another call."""
    own = f"v1:tool_call:{tool_use['toolUseId']}:"
    waits = invocation_state["agent"]._interrupt_state.interrupts.values()
    answers = sum(each.id.startswith(own) and each.response is not None and each.name != "guardtrail" for each in waits)
    return f"{tool_use['toolUseId']}:{answers}" if answers else str(tool_use["toolUseId"])


def _plain(result: Mapping[str, Any]) -> Any:
    """What a policy about results can look at."""
    plain = [block.get("text", block.get("json", block)) for block in result["content"]]
    return plain[0] if len(plain) == 1 else plain


def _refused(tool_use: Any, text: str) -> Any:
    return ToolResultEvent({"toolUseId": tool_use["toolUseId"], "status": "error", "content": [{"text": text}]})


def coverage(agent: Any) -> list[Seen]:
    """Every tool and sub-agent of an agent, a graph or a swarm, as far as it can be seen before a run."""
    return list(_walk(agent, "", set()))


def _function(tool: Any) -> Any:
    return getattr(tool, "_tool_func", tool)


def _hop(tool: Any) -> bool:
    if isinstance(tool, _AgentAsTool):
        return True
    return f"{type(tool).__module__}.".startswith(_HOPS) or f"{getattr(_function(tool), '__module__', '')}.".startswith(_HOPS)


def _walk(agent: Any, above: str, met: set[int]) -> Iterator[Seen]:
    nodes = getattr(agent, "nodes", None)
    for node in nodes.values() if isinstance(nodes, Mapping) else ():
        yield from _walk(getattr(node, "executor", None), above, met)
    if not isinstance(agent, Agent) or id(agent) in met:
        return
    met.add(id(agent))
    path = f"{above} > {agent.name}" if above else str(agent.name)
    why = "" if agent.hooks in _guarded else f"give {agent.name} hooks=[GuardHooks(guard)] of its own"
    for name, tool in agent.tool_registry.registry.items():
        if isinstance(tool, _AgentAsTool):
            yield from _walk(tool.agent, path, met)
            continue
        if _hop(tool):
            continue
        function = _function(tool)
        left = "" if hasattr(function, "__guardtrail__") else why
        yield Seen(f"{path} > {name}", not left, left)
        for inner in held(function, (Agent, MultiAgentBase), frozenset({"strands"})):
            yield from _walk(inner, f"{path} > {name}", met)
