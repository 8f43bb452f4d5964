"""smolagents: every tool call of an agent, and of the agents it manages, passes the guard.

    from guard.adapters.smolagents import guard_agent

    agent = guard_agent(guard, ToolCallingAgent(tools=[look, refund], model=model))
    with guard.task(token, prompt=text):
        agent.run(text)

A `CodeAgent` is Python in your process. The code that its model writes reads attributes (fail-open row F64), so it gets objects that hold what they stand for in a closure and
nowhere else: tools, and the agents it manages. It runs in a thread that has lost its context (F48), so each run gets tools of its own, bound to the task in which it began.
What code may import it may use past every tool: an agent that may import more than smolagents' own short list, or runs its code elsewhere, is refused. Put `@guard.tool` on
the functions, and the gateway before what must not be reached.
"""

from __future__ import annotations

import threading
from abc import ABC
from collections.abc import Iterable, Iterator
from contextvars import copy_context
from typing import Any

from ._core import ConfigError, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._held import held

try:
    from smolagents import CodeAgent, FinalAnswerTool, LocalPythonExecutor, MultiStepAgent
    from smolagents.tools import BaseTool
    from smolagents.utils import AgentToolExecutionError

    from ._smolagents import GuardedTool, behind, guarded, managed
except ImportError as error:
    raise missing("smolagents", "smolagents", "1.23") from error

__all__ = ["GuardedTool", "coverage", "guard_agent", "guard_tools"]

_MARK = "_guardtrail"


def guard_tools(guard: Guard, tools: Iterable[BaseTool]) -> list[BaseTool]:
    """The same tools, guarded. A denial is raised, as a tool's failure is."""
    return [guarded(guard, tool) for tool in tools]


def guard_agent(guard: Guard, agent: Any) -> Any:
    """The same agent, and those it manages, guarded. Raises ConfigError for what cannot be."""
    _guard_all(guard, agent)
    if wrong := [seen for seen in coverage(agent) if not seen.covered]:
        raise not_covered("smolagents", wrong)
    return agent


def _guard_all(guard: Guard, agent: Any) -> None:
    if vars(agent).get(_MARK, guard) is not guard:
        raise ConfigError("guard.adapters.smolagents: an agent here has another guard")
    if _MARK not in vars(agent):
        kind, mixin = type(agent), _Code if isinstance(agent, CodeAgent) else _Calls
        agent.__class__ = type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})
        vars(agent).update({_MARK: guard, "_guardtrail_busy": threading.Lock()})
    agent.tools = {name: guarded(guard, tool) for name, tool in agent.tools.items()}
    for each in agent.managed_agents.values():
        _guard_all(guard, behind.get(each, each))


class _Calls(ABC):  # noqa: B024 - agents are ABCs, and Python lets an object change to a class of the same layout only
    """Before the class of a guarded agent that calls tools. A denial is the answer to its call: an exception would take the answers of its whole step with it."""

    @property
    def tools_and_managed_agents(self) -> list[Any]:
        return [tool for tool in super().tools_and_managed_agents if _visible(tool, self)]  # type: ignore[misc]

    def initialize_system_prompt(self) -> str:
        return _prompt(self, super().initialize_system_prompt)  # type: ignore[misc]

    def execute_tool_call(self, tool_name: Any, arguments: Any) -> Any:
        tool = self.tools.get(tool_name)  # type: ignore[attr-defined]
        if type(tool) is FinalAnswerTool or _has_guard(self.managed_agents.get(tool_name)):  # type: ignore[attr-defined]
            return super().execute_tool_call(tool_name, arguments)  # type: ignore[misc]
        given = self._substitute_state_variables(arguments)  # type: ignore[attr-defined]
        try:
            if not isinstance(tool, GuardedTool):
                return vars(self)[_MARK].call(tool_call(str(tool_name), given), _nobody)
            return tool(**given, sanitize_inputs_outputs=True) if isinstance(given, dict) else tool(given, sanitize_inputs_outputs=True)
        except Denied as denied:
            return refusal(denied)
        except Exception as error:  # as smolagents says it, without the arguments
            raise AgentToolExecutionError(f"Error executing tool '{tool_name}': {type(error).__name__}: {error}", self.logger) from error  # type: ignore[attr-defined]


class _Code(ABC):  # noqa: B024
    """Before the class of a guarded agent that writes code: tools and managed agents of one run know its task, and what outlives the run has that and no other."""

    def run(self, task: str, stream: bool = False, *args: Any, **kwargs: Any) -> Any:
        steps = self._steps(task, stream, args, kwargs)
        return steps if stream else next(steps)

    def _steps(self, task: str, stream: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        guard, agent = vars(self)[_MARK], vars(self)
        if not agent["_guardtrail_busy"].acquire(blocking=False):
            raise RuntimeError("this agent is running: its code runs with the tools of one task. Make one agent for each")
        try:
            if wrong := [seen for seen in coverage(self) if not seen.covered and ">" in seen.path.partition(" > ")[2]]:
                raise not_covered("smolagents", wrong)  # an agent that came along after this one was guarded
            here = copy_context()
            agent["tools"] = {name: guarded(guard, behind.get(tool, tool), here) for name, tool in agent["tools"].items()}
            agent["managed_agents"] = {name: managed(behind.get(each, each), here) for name, each in agent["managed_agents"].items()}
            done = super().run(task, stream, *args, **kwargs)  # type: ignore[misc]
            if stream:
                yield from done
            else:
                yield done
        finally:
            agent["_guardtrail_busy"].release()

    def initialize_system_prompt(self) -> str:
        return _prompt(self, super().initialize_system_prompt)  # type: ignore[misc]


def _prompt(agent: Any, make: Any) -> str:
    """With the tools that the current task could ever use."""
    everything = agent.tools
    agent.tools = {name: tool for name, tool in everything.items() if _visible(tool, agent)}
    try:
        return str(make())
    finally:
        agent.tools = everything


def _has_guard(agent: Any) -> bool:
    return agent is not None and _MARK in vars(behind.get(agent, agent))


def _visible(tool: Any, agent: Any) -> bool:
    return not isinstance(tool, GuardedTool) or vars(agent)[_MARK].visible([tool.policy_name]) == [tool.policy_name]


def _nobody(**_: object) -> Any:
    raise LookupError("the policy knows this tool, the agent does not")


def coverage(agent: Any) -> list[Seen]:
    """What a guard stands before: tools, managed agents and agents that tools hold, and what the code of a `CodeAgent` can reach besides."""
    return list(_seen(agent, frozenset()))


def _seen(agent: Any, above: frozenset[int]) -> Iterator[Seen]:
    agent = behind.get(agent, agent)
    if id(agent) in above:
        return
    above, name = above | {id(agent)}, str(agent.name or type(agent).__name__)
    if isinstance(agent, CodeAgent):
        if type(agent.python_executor) is not LocalPythonExecutor:
            yield Seen(
                f"{name} > python_executor",
                False,
                "code that runs elsewhere takes the tools along, without a guard: the gateway, and no tools",
            )
        for module in agent.additional_authorized_imports:
            yield Seen(f"{name} > import {module}", False, "code may use it past every tool")
    for tool in agent.tools.values():
        if type(behind.get(tool, tool)) is FinalAnswerTool:
            continue
        covered = isinstance(tool, GuardedTool) or hasattr(getattr(tool, "forward", None), "__guardtrail__")
        yield Seen(f"{name} > {tool.name}", covered, "" if covered else "`guard_agent(guard, agent)`, or `@guard.tool` on its function")
        bare = behind.get(tool, tool)
        for below in held([bare, getattr(bare, "forward", None)], MultiStepAgent, frozenset({"smolagents"})):
            yield from (Seen(f"{name} > {tool.name} > {seen.path}", seen.covered, seen.why) for seen in _seen(below, above))
    for each in agent.managed_agents.values():
        yield from (Seen(f"{name} > {seen.path}", seen.covered, seen.why) for seen in _seen(each, above))
