"""Google ADK: every tool call of a runner passes the guard, whichever of its agents makes it.

    from guard.adapters.google_adk import GuardPlugin

    runner = InMemoryRunner(app=App(name="desk", root_agent=agent, plugins=[GuardPlugin(guard)]))     # the first plugin
    with guard.task(token):
        for event in runner.run(user_id="u", session_id="s", new_message=message):     # or `async for ... runner.run_async(...)`
            ...

ADK's callbacks stand before and after a tool and cannot wrap it, and callbacks of the agent that come later may still change the arguments. So the
plugin's callback puts the guard around `tool.run_async`, the one door that all of ADK's ways of running a tool go through: what is judged is what runs.

An ask becomes ADK's own confirmation (`adk_request_confirmation`), whose payload is the guard's request. "confirmed" makes the call again and authorizes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._held import held

try:
    from google.adk.plugins.base_plugin import BasePlugin
    from google.adk.runners import Runner
    from google.adk.tools.base_tool import BaseTool
    from google.adk.workflow import BaseNode
    from google.adk.workflow._tool_node import _ToolNode
    from google.genai import types

    _ToolNode._run_tool_with_plugin_callbacks  # noqa: B018  # before 2.11 a node of a workflow runs its tool past every plugin
except (ImportError, AttributeError) as error:
    raise missing("google_adk", "google-adk", "2.11") from error

__all__ = ["GuardPlugin", "coverage"]

# ADK's own tools that hand over to another agent of this runner or end a turn: what they lead to is guarded, call by call.
_HOPS = {
    "google.adk.tools.agent_tool",
    "google.adk.tools.google_search_agent_tool",
    "google.adk.tools.transfer_to_agent_tool",
    "google.adk.tools.set_model_response_tool",
    "google.adk.agents.llm.task._finish_task_tool",
}


class GuardPlugin(BasePlugin):  # type: ignore[misc, unused-ignore]
    """The first plugin of an `App` or `Runner`. `unguarded`: names of tools and agents that no guard can stand before (`google_search`, which runs at the
    model's provider) and that you answer for yourself; an agent with any other does not start."""

    def __init__(self, guard: Guard, *, unguarded: Collection[str] = ()) -> None:
        super().__init__(name="guardtrail")
        self._guard = guard
        self._unguarded = frozenset(unguarded)
        self._declared: set[str] = set()

    async def before_run_callback(self, *, invocation_context: Any) -> None:
        self._first(invocation_context)

    async def before_agent_callback(self, *, agent: Any, callback_context: Any) -> None:
        self._complain([seen for seen in _walk(agent, "", set(), "") if not seen.covered])

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """Shorten the list the model is shown. What it calls all the same is judged: `tools_dict` stays whole."""
        self._first(callback_context._invocation_context)
        kept = []
        for entry in llm_request.config.tools or ():
            self._complain(_hosted(entry))
            declared = entry.function_declarations
            if declared is not None:
                ours = [each.name for each in declared if not _hop(llm_request.tools_dict.get(each.name))]
                hidden = set(ours).difference(self._guard.visible(ours))
                if hidden:
                    shown = [each for each in declared if each.name not in hidden]
                    if not shown and entry.model_fields_set <= {"function_declarations"}:
                        continue
                    entry = entry.model_copy(update={"function_declarations": shown})
            kept.append(entry)
        llm_request.config.tools = kept

    async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> None:
        self._first(tool_context._invocation_context)
        if _hop(tool):
            self._complain([seen for seen in _tool(tool, tool.name, set(), "") if not seen.covered])
        elif getattr(tool.__dict__.get("run_async"), "stands_before", None) is not tool:
            _stand_before(tool)
            self._declare(tool)

    def _declare(self, tool: Any) -> None:
        """Bind calls of `tool` to its schema: required arguments, defaults. Once for each name."""
        if tool.name in self._declared or hasattr(getattr(tool, "func", None), "__guardtrail__"):
            return
        self._declared.add(tool.name)
        found = tool._get_declaration()
        schema = getattr(found, "parameters_json_schema", None) or getattr(found, "parameters", None)
        if schema is not None:
            self._guard.declare(tool.name, schema if isinstance(schema, dict) else schema.model_dump(exclude_none=True, mode="json"))

    def _first(self, invocation: Any) -> None:
        """A plugin before this one could answer in place of a tool, or of this one."""
        if invocation.plugin_manager.plugins[0] is not self:
            raise ConfigError("guard.adapters.google_adk: GuardPlugin must be the first plugin of its runner")

    def _complain(self, seen: list[Seen]) -> None:
        left = [each for each in seen if each.path.split(" > ")[-1] not in self._unguarded]
        if left:
            raise not_covered("google_adk", left)

    async def judge(self, tool: Any, bare: Any, args: dict[str, Any], tool_context: Any) -> Any:
        """One call, where ADK runs it."""
        known, ran, run = tool_context.function_call_id or "", False, 0
        confirmation = tool_context.tool_confirmation
        if confirmation is not None and confirmation.confirmed is not True:
            await self._guard.adecline(tool_call(tool.name, args, known))
            return {"error": f"{tool.name} did not run: it was not confirmed"}

        async def execute(**bound: Any) -> Any:
            nonlocal ran
            ran = True
            result = await bare(args=bound, tool_context=tool_context)
            if known in tool_context.actions.requested_tool_confirmations:
                raise _Paused(result)
            return result

        while True:
            try:
                return await self._guard.acall(tool_call(tool.name, args, f"{known}#{run}" if run else known), execute)
            except _Paused as paused:
                if ran:
                    return paused.result
                run += 1  # recorded is a run that asked somebody; this is the next
            except ApprovalRequired as asked:
                tool_context.request_confirmation(hint=refusal(asked), payload=asked.request)
                tool_context.actions.skip_summarization = True
                return {"error": refusal(asked)}
            except Denied as denied:
                return {"error": refusal(denied)}


class _Paused(BaseException):
    """The body itself asked for a confirmation and is run again with it: outcome `unknown`, so not an Exception. Carries its result of now."""

    def __init__(self, result: Any) -> None:
        super().__init__("the body of the tool asked for a confirmation")
        self.result = result


def _stand_before(tool: Any) -> None:
    """From here on `tool` runs under the guard of the runner that calls it, and under no other runner."""
    bare = tool.run_async
    if hasattr(bare, "stands_before"):  # a copy of a guarded tool, under another name perhaps
        bare = type(tool).run_async.__get__(tool)

    async def run_async(*, args: dict[str, Any], tool_context: Any) -> Any:
        plugin = next(iter(tool_context._invocation_context.plugin_manager.plugins), None)
        if not isinstance(plugin, GuardPlugin):
            raise ConfigError(f"guard.adapters.google_adk: {tool.name} is guarded, and this runner has no GuardPlugin")
        return await plugin.judge(tool, bare, args, tool_context)

    run_async.stands_before = tool  # type: ignore[attr-defined]
    tool.run_async = run_async


_HOSTED = "it runs at the model's provider, not here: take it out, or name it in `unguarded`"


def coverage(agent: Any) -> list[Seen]:
    """Every tool and sub-agent of a `Runner`, an `App`, or of an agent alone, which nobody guards: nobody knows in which runner it will run."""
    root = agent if isinstance(agent, BaseNode) else getattr(agent, "root_agent", None) or getattr(agent, "agent", None)
    if not isinstance(root, BaseNode) or isinstance(agent, BaseTool):
        return []
    first = next(iter(getattr(getattr(agent, "plugin_manager", agent), "plugins", None) or ()), None)
    if not isinstance(first, GuardPlugin):
        return list(_walk(root, "", set(), "make GuardPlugin(guard) the first plugin of its Runner or App"))
    return [Seen(each.path, True) if each.path.split(" > ")[-1] in first._unguarded else each for each in _walk(root, "", set(), "")]


def _hop(tool: Any) -> bool:
    kind = type(tool)
    return kind.__module__ in _HOPS or (kind.__name__ == "FunctionTool" and getattr(tool.func, "__module__", "") in _HOPS)


def _hosted(entry: Any) -> list[Seen]:
    """What of an entry of a request runs where no call of a tool is seen: at the model's provider, or in the client."""
    if not isinstance(entry, types.Tool):
        return [Seen(type(entry).__name__, False, "the client would call it by itself: make it a tool of the agent")]
    names = [name for name in entry.model_fields_set if name != "function_declarations" and getattr(entry, name) is not None]
    return [Seen(name, False, _HOSTED) for name in names]


def _walk(agent: Any, above: str, met: set[int], bare: str) -> Iterator[Seen]:
    """`bare`: why no guard stands before a tool that is not guarded by itself; "": a plugin does."""
    if id(agent) in met:
        return
    met.add(id(agent))
    path = f"{above} > {agent.name}" if above else str(agent.name)
    if type(agent).__name__ in ("RemoteA2aAgent", "ManagedAgent"):
        yield Seen(path, False, "it runs somewhere else: guard it there")
    if getattr(agent, "code_executor", None) is not None:
        yield Seen(f"{path} > code_executor", False, "code that a model writes runs without any tool call")
    for tool in getattr(agent, "tools", None) or ():
        yield from _tool(tool, path, met, bare)
    if isinstance(tool := getattr(agent, "tool", None), BaseTool):  # a node of a workflow
        yield from _tool(tool, path, met, bare)
    nodes = getattr(getattr(agent, "graph", None), "nodes", None) or ()
    for below in (*(getattr(agent, "sub_agents", None) or ()), *nodes):
        yield from _walk(below, path, met, bare)


def _tool(tool: Any, path: str, met: set[int], bare: str) -> Iterator[Seen]:
    function = getattr(tool, "func", tool)
    below = f"{path} > {getattr(tool, 'name', None) or getattr(tool, '__name__', type(tool).__name__)}"
    if isinstance(agent := getattr(tool, "agent", None), BaseNode):
        if not bare and getattr(tool, "include_plugins", False) is not True:
            bare = "its agent runs without the plugins of its parent: leave `include_plugins` on"
        yield from _walk(agent, path, met, bare)
    elif isinstance(tool, BaseTool) and type(tool).run_async is BaseTool.run_async:
        yield Seen(below, False, _HOSTED)
    else:
        why = "" if hasattr(function, "__guardtrail__") else bare
        yield Seen(below, not why, why)
    for inner in held(function, (BaseNode, Runner), frozenset({"google"})):
        if isinstance(inner, BaseNode):
            yield from _walk(inner, below, met, "a tool runs this agent by itself: make it an AgentTool or a sub-agent")
        else:
            yield from (Seen(f"{below} > {each.path}", each.covered, each.why) for each in coverage(inner))
