"""CrewAI: every tool call of a crew passes the guard, also those of coworkers and of tools that CrewAI adds by itself.

    from guard.adapters.crewai import guard_crew

    crew = guard_crew(guard, Crew(agents=[triage, desk], tasks=[answer]))
    with guard.task(token, prompt=text):
        crew.kickoff(inputs={"question": text})

CrewAI's own hooks are no place for a guard: every exception but one is swallowed and the tool runs (fail-open row F49), a coroutine is taken for "go on" (F50), they belong to
the whole process, and they carry neither call id nor result. So each tool is replaced by one that asks the guard around its body. One hook is used all the same, to stop what
is not replaced: it says no to every tool of a guarded agent that is not ours, and whatever goes wrong in it is a no.

An ask is a refusal the model reads: CrewAI's pause reads from the terminal (F51). `guard_tools(guard, tools)` guards a list alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ._core import ConfigError, Guard, Seen, missing, not_covered
from ._held import held

try:
    from crewai import Agent, Crew
    from crewai.agents.agent_builder.base_agent import BaseAgent
    from crewai.hooks import (
        get_before_llm_call_hooks,
        get_before_tool_call_hooks,
        register_before_llm_call_hook,
        register_before_tool_call_hook,
    )
    from crewai.tools import BaseTool
    from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
    from crewai.utilities.agent_utils import get_tool_names, render_text_description_and_args
    from crewai.utilities.string_utils import sanitize_tool_name

    from ._crewai import GuardedTool, guarded, never
except ImportError as error:
    raise missing("crewai", "crewai", "1.14.7") from error

__all__ = ["GuardedTool", "coverage", "guard_agent", "guard_crew", "guard_tools"]

_MARK = "_guardtrail"


def guard_tools(guard: Guard, tools: Iterable[BaseTool]) -> list[BaseTool]:
    """The same tools, guarded; those of the crew for work between its agents stay as they are, but for their cache."""
    made = [tool if isinstance(tool, (GuardedTool, BaseAgentTool)) else guarded(guard, tool) for tool in tools]
    for tool in made:
        tool.cache_function = never  # what a coworker looked up for one task is no answer for the next
    return made


def guard_agent(guard: Guard, agent: Agent) -> Agent:
    """The same agent, guarded: its tools, and what CrewAI adds to them when a task of a crew begins (MCP, apps, memory, files). The model is offered what the
    task could ever use; with `agent.kickoff` all of its tools, and what CrewAI adds is stopped there."""
    before = vars(agent).get(_MARK)
    if before is not None:
        if before is not guard:
            raise ConfigError("guard.adapters.crewai: this agent has another guard")
        return agent
    _listen()
    agent.tools = guard_tools(guard, agent.tools or [])
    begin, copy = agent.create_agent_executor, agent.copy

    def create_agent_executor(tools: Any = None, task: Any = None) -> None:
        given = guard_tools(guard, agent.tools or [] if tools is None else tools)
        if wrong := [seen for tool in given for seen in _walked(tool, str(agent.role)) if not seen.covered]:
            raise not_covered("crewai", wrong)
        begin(tools=given, task=task)
        told = [tool for tool in agent.agent_executor.tools if _visible(tool._original_tool)]
        agent.agent_executor.tools_names, agent.agent_executor.tools_description = (
            get_tool_names(told),
            render_text_description_and_args(told),
        )

    for name, value in {
        _MARK: guard,
        "create_agent_executor": create_agent_executor,
        "copy": lambda: guard_agent(guard, copy()),
    }.items():
        object.__setattr__(agent, name, value)
    return agent


def guard_crew(guard: Guard, crew: Crew) -> Crew:
    """The same crew, all of its agents guarded. Raises ConfigError for what cannot be: an agent of another framework, a manager that does not exist yet."""
    for agent in _agents(crew):
        if isinstance(agent, Agent):
            guard_agent(guard, agent)
    if wrong := [seen for seen in coverage(crew) if not seen.covered]:
        raise not_covered("crewai", wrong)
    return crew


def coverage(agent: Crew | BaseAgent) -> list[Seen]:
    """What a guard stands before: the tools of an agent, of a crew's agents and tasks, and of agents and crews that their functions hold."""
    if not isinstance(agent, Crew):
        return list(_seen(agent, set()))
    found = [seen for each in _agents(agent) for seen in _seen(each, {id(agent)})]
    for task in agent.tasks:
        guarded = task.agent is None or _MARK in vars(task.agent)
        found += [seen for tool in task.tools or () for seen in _walked(tool, f"task {task.name or ''}".strip(), guarded)]
    if getattr(agent.process, "value", "") == "hierarchical" and agent.manager_agent is None:
        found.append(Seen("manager", False, "it is made when the crew starts: give the crew a `manager_agent`"))
    return found


def _seen(agent: BaseAgent, above: set[int]) -> Iterator[Seen]:
    guarded = _MARK in vars(agent)
    if id(agent) in above:
        return
    if not guarded and not isinstance(agent, Agent):
        yield Seen(str(agent.role), False, "an agent of another framework: guard it with the adapter of that")
    for tool in agent.tools or ():
        yield from _walked(tool, str(agent.role), guarded, above | {id(agent)})
    for name in () if guarded else ("mcps", "apps", "memory", "multimodal", "allow_code_execution"):
        if vars(agent).get(name):
            yield Seen(f"{agent.role} > {name}", False, "CrewAI adds tools: `guard_agent(guard, agent)`")


def _walked(tool: Any, path: str, guarded: bool = False, above: set[int] = frozenset()) -> Iterator[Seen]:  # type: ignore[assignment]
    """One tool, and the agents that it hands work to or holds."""
    if isinstance(tool, BaseAgentTool):
        for agent in tool.agents:
            if _MARK not in vars(agent):
                yield Seen(f"{path} > {tool.name} > {agent.role}", False, "a coworker without a guard: `guard_crew(guard, crew)`")
        return
    covered = guarded or _sealed(tool) or isinstance(tool, GuardedTool)
    yield Seen(f"{path} > {tool.name}", covered, "" if covered else "`guard_agent(guard, agent)`, or `@guard.tool` on its function")
    for below in held(tool._original if isinstance(tool, GuardedTool) else tool, (BaseAgent, Crew), frozenset({"crewai"})):
        for agent in _agents(below) if isinstance(below, Crew) else [below]:
            for seen in _seen(agent, set(above)):
                yield Seen(f"{path} > {tool.name} > {seen.path}", seen.covered, seen.why)


def _agents(crew: Crew) -> Sequence[BaseAgent]:
    tasks = [task.agent for task in crew.tasks if task.agent is not None]
    every = [*crew.agents, *tasks, *([crew.manager_agent] if crew.manager_agent is not None else [])]
    return list({id(agent): agent for agent in every}.values())


def _listen() -> None:
    """Every time: hooks may have been cleared meanwhile."""
    if _only_ours not in get_before_tool_call_hooks():
        register_before_tool_call_hook(_only_ours)
    if _shorten not in get_before_llm_call_hooks():
        register_before_llm_call_hook(_shorten)


def _only_ours(context: Any) -> bool | None:
    """For every tool call of the process. False stops it: the agent has a guard, and the tool is none of ours."""
    try:
        tool = getattr(context.tool, "_original_tool", None)
        if isinstance(tool, BaseAgentTool):
            ours = all(_MARK in vars(agent) for agent in tool.agents)
        else:
            ours = isinstance(tool, GuardedTool) or _sealed(tool)
        return None if ours or not (context.agent is None or _has_guard(context.agent)) else False
    except BaseException:  # let out, it would let the tool run
        return False


def _shorten(context: Any) -> None:
    """Before each call of a model: it is offered what the task could ever use. Whatever goes wrong here, a call is judged when it is made."""
    offered = context.executor._openai_tools
    hidden = {sanitize_tool_name(tool.name) for tool in context.executor.original_tools if not _visible(tool)}
    offered[:] = [each for each in offered if each["function"]["name"] not in hidden]


def _visible(tool: Any) -> bool:
    if not isinstance(tool, GuardedTool):
        return True
    try:
        return tool._guard.visible([tool._tool]) == [tool._tool]
    except Exception:  # what nobody has judged is not offered
        return False


def _sealed(tool: Any) -> bool:
    return hasattr(getattr(tool, "func", None), "__guardtrail__")


def _has_guard(agent: Any) -> bool:
    return _MARK in vars(agent) or any(isinstance(tool, GuardedTool) for tool in agent.tools or ())
