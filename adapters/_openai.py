"""Around the tools of the OpenAI Agents SDK: which agents can be reached and what of them no guard covers, MCP servers, what a model is offered.

For `guard.adapters.openai_agents`, which makes sure that the SDK is there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from agents import Agent, FunctionTool, Handoff, Model
from agents.mcp import MCPServer
from mcp.types import CallToolResult

from ._core import ConfigError, Denied, Guard, Seen, refusal, tool_call
from ._held import held

__all__ = ["Guarding", "coverage", "guard_server", "offering", "reachable", "uncovered"]

_OWN = frozenset({"openai", "pydantic", "mcp"})
_BARE = "call `guard_agent(agent, guard)` on the agent that is run"
_ELSEWHERE = "the SDK or OpenAI runs it where no guard sees the call: leave it out, or name it in `accept`"
_UNKNOWN = "its agent is made where nobody can see it: hand over an `Agent`, or name it in `accept`"


class Guarding:
    """What asks the guard before it runs a tool."""


def coverage(agent: Any) -> list[Seen]:
    """Every tool of an agent and of the agents it can reach by hand-off or as a tool: does a guard stand before it? Nothing for what has no tools."""
    if isinstance(agent, FunctionTool):
        return [_seen(agent, agent.name)]
    return [each for path, one in reachable(agent) for each in _all(path, one)] if isinstance(agent, Agent) else []


def uncovered(agents: Sequence[tuple[str, Any]]) -> list[Seen]:
    """What no guard can cover, once `guard_agent` has done what it can."""
    return [seen for path, agent in agents for seen in _all(path, agent) if seen.why in (_ELSEWHERE, _UNKNOWN)]


def reachable(agent: Any) -> list[tuple[str, Any]]:
    """(path, agent), the agent itself first, each once."""
    found: list[tuple[str, Any]] = [("", agent)]
    for path, one in found:
        for inner in (*one.handoffs, *one.tools):
            for next_one in _agents(inner):
                if all(next_one is not known for _, known in found):
                    found.append((f"{path}{next_one.name} > ", next_one))
    return found


def _agents(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Agent):
        yield thing
        return
    ref = getattr(thing, "_agent_ref", None)
    known = [ref() if ref is not None else None, getattr(thing, "_agent_instance", None)]
    yield from (each for each in known if isinstance(each, Agent))
    yield from held(thing, Agent, _OWN)


def _all(path: str, agent: Any) -> Iterator[Seen]:
    for tool in agent.tools:
        yield _seen(tool, f"{path}{getattr(tool, 'name', type(tool).__name__)}")
    for server in agent.mcp_servers:
        covered = isinstance(server.call_tool, Guarding)
        yield Seen(f"{path}{server.name}", covered, "" if covered else _BARE)
    for handoff in agent.handoffs:
        if isinstance(handoff, Handoff) and not list(_agents(handoff)):
            yield Seen(f"{path}{handoff.agent_name}", False, _UNKNOWN)
    if agent.prompt is not None:
        yield Seen(f"{path}prompt", False, _ELSEWHERE)


def _seen(tool: Any, path: str) -> Seen:
    if not isinstance(tool, FunctionTool):
        return Seen(path, False, _ELSEWHERE)
    covered = isinstance(tool.on_invoke_tool, Guarding) or hasattr(getattr(tool, "__wrapped__", None), "__guardtrail__")
    return Seen(path, covered, "" if covered else _BARE)


class ServerCall(Guarding):
    """`call_tool` of one MCP server. There is no call id and no pause: an ask is a refusal, and runs when it is made again after somebody has approved it."""

    def __init__(self, server: MCPServer, guard: Guard) -> None:
        self._call, self.guard = server.call_tool, guard

    async def __call__(self, tool_name: str, arguments: dict[str, Any] | None, *rest: Any, **more: Any) -> CallToolResult:
        async def execute(**args: Any) -> CallToolResult:
            try:
                result: CallToolResult = await self._call(tool_name, args, *rest, **more)
            except Exception as error:
                raise NoAnswer(error) from None
            if result.model_dump(by_alias=True).get("isError"):
                raise ServerError(result)
            return result

        try:
            result: CallToolResult = await self.guard.acall(tool_call(tool_name, arguments), execute)
            return result
        except ServerError as failed:
            return failed.result
        except NoAnswer as nothing:
            raise nothing.error from None
        except Denied as denied:
            return CallToolResult.model_validate({"content": [{"type": "text", "text": refusal(denied)}], "isError": True})


class ServerError(Exception):
    def __init__(self, result: CallToolResult) -> None:
        super().__init__("the tool answered with isError")
        self.result = result


class NoAnswer(BaseException):
    """The SDK has no result: a time-out, a lost connection, a protocol error. The tool may have run: outcome `unknown`, so not an Exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__("no answer from the MCP server")
        self.error = error


def guard_server(server: MCPServer, guard: Guard) -> None:
    if not isinstance(server.call_tool, ServerCall):
        server.call_tool = ServerCall(server, guard)
    elif server.call_tool.guard is not guard:
        raise ConfigError(f"guard.adapters.openai_agents: {server.name} has another guard already")


def offering(model: Model, guard: Guard) -> Model:
    """The same model, which is shown only tools the task could ever use. That protects nothing: whatever it calls is judged (fail-open row F57)."""
    if getattr(model, "__guardtrail__", None) is guard:
        return model
    made: Any = copy.copy(model)

    def shorter(call: Any) -> Any:
        def short(*args: Any, **kwargs: Any) -> Any:
            tools = kwargs["tools"] if "tools" in kwargs else args[3]
            visible = set(guard.visible([tool.name for tool in tools]))
            kept = [tool for tool in tools if tool.name in visible or not isinstance(tool, FunctionTool)]
            return call(*args, **{**kwargs, "tools": kept}) if "tools" in kwargs else call(*args[:3], kept, *args[4:], **kwargs)

        return short

    made.get_response, made.stream_response, made.__guardtrail__ = shorter(model.get_response), shorter(model.stream_response), guard
    return made
