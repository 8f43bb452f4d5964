"""Microsoft Agent Framework: every tool call of an agent passes the guard.

    from guard.adapters.agent_framework import GuardMiddleware

    agent = Agent(client=client, name="desk", tools=[look, refund], middleware=[GuardMiddleware(guard)])
    with guard.task(token):
        response = await agent.run("Refund order A-17")

One bundle of three middlewares, installed whole or not at all: before the run, before each request, before each call. Middleware that comes later may still
change the arguments, so the guard goes around `FunctionTool.invoke`, at which all of it ends: what is judged is what runs.

An ask becomes the framework's own `function_approval_request`, with the guard's request in its `additional_properties["guardtrail"]`. An approval response
makes the call again and authorizes nothing. A sub-agent (`as_tool`, a workflow) has middleware of its own: give it a GuardMiddleware, or the run does not start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, missing, not_covered, refusal, tool_call
from ._held import held

try:
    from agent_framework import (
        AgentMiddleware,
        BaseAgent,
        ChatMiddleware,
        Content,
        FunctionMiddleware,
        FunctionTool,
        MiddlewareBundle,
        MiddlewareFailure,
        Workflow,
    )
except ImportError as error:
    raise missing("agent_framework", "agent-framework-core", "1.17") from error

__all__ = ["GuardMiddleware", "coverage"]


class GuardMiddleware(MiddlewareBundle):  # type: ignore[misc, unused-ignore]
    """`unguarded`: names of tools and agents that no guard can stand before and that you answer for yourself; with any other the run does not start."""

    def __init__(self, guard: Guard, *, unguarded: Collection[str] = ()) -> None:
        self.guard = guard
        self.unguarded = frozenset(unguarded)
        self.declared: set[str] = set()
        super().__init__([_BeforeRun(self), _BeforeRequest(self), _BeforeCall(self)])

    def complain(self, seen: Iterable[Seen]) -> None:
        left = [each for each in seen if not each.covered and each.path.split(" > ")[-1] not in self.unguarded]
        if left:
            raise MiddlewareFailure(str(not_covered("agent_framework", left)))


class _Part:
    def __init__(self, whole: GuardMiddleware) -> None:
        self._whole = whole
        self._guard = whole.guard


class _BeforeRun(_Part, AgentMiddleware):  # type: ignore[misc, unused-ignore]
    async def process(self, context: Any, call_next: Any) -> None:
        given = [*_each(context.tools), *_each((context.options or {}).get("tools"))]
        self._whole.complain([*_agent(context.agent, "", set(), True), *_tools(given, str(context.agent.name), set(), "")])
        await call_next()


class _BeforeRequest(_Part, ChatMiddleware):  # type: ignore[misc, unused-ignore]
    """Shortens the list the model is shown. The list that calls are looked up in stays whole: what the model calls all the same is judged."""

    async def process(self, context: Any, call_next: Any) -> None:
        tools = _each((context.options or {}).get("tools"))
        self._whole.complain(_tools([tool for tool in tools if not isinstance(tool, FunctionTool)], "", set(), ""))
        ours = [tool for tool in tools if isinstance(tool, FunctionTool) and _hop(tool) is None]
        for tool in ours:
            _stand_before(tool)
        hidden = {tool.name for tool in ours}.difference(self._guard.visible([tool.name for tool in ours]))
        if hidden:
            context.options = {**context.options, "tools": [tool for tool in tools if getattr(tool, "name", None) not in hidden]}
        await call_next()


class _BeforeCall(_Part, FunctionMiddleware):  # type: ignore[misc, unused-ignore]
    async def process(self, context: Any, call_next: Any) -> None:
        tool = context.function
        if _hop(tool) is None:
            _stand_before(tool)
            if tool.name not in self._whole.declared and not hasattr(tool.func, "__guardtrail__"):
                self._whole.declared.add(tool.name)
                self._guard.declare(tool.name, tool.parameters())
        token = _here.set((self, context))
        try:
            await call_next()
        finally:
            _here.reset(token)

    async def judge(self, tool: Any, bare: Any, args: Mapping[str, Any], context: Any, call_id: str, more: dict[str, Any]) -> Any:
        """One call, where the framework runs it."""
        native: list[Any] = []

        async def execute(**bound: Any) -> Any:
            native.append(await bare(arguments=bound, context=context, tool_call_id=call_id, **more))
            return _plain(native[0])

        try:
            value = await self._guard.acall(tool_call(tool.name, args, call_id), execute)
            return native[0] if native else [Content.from_text(str(value))]  # a call that was made before has its recorded outcome
        except ApprovalRequired as asked:
            if _here.get()[1] is context:
                return _request(context, call_id, args, asked)
            return [Content.from_text(refusal(asked))]  # in an agent without middleware of its own, which could not pause
        except Denied as denied:
            return [Content.from_text(refusal(denied))]


_here: ContextVar[Any] = ContextVar("guardtrail_agent_framework", default=None)
"""The middleware that stands before this call, and the call's context."""


def _stand_before(tool: Any) -> None:
    """From here on `tool` runs inside a call of a guarded agent, and nowhere else."""
    if getattr(tool.__dict__.get("invoke"), "stands_before", None) is tool:
        return
    bare = type(tool).invoke.__get__(tool) if hasattr(tool.invoke, "stands_before") else tool.invoke  # a copy of a guarded tool
    model = tool.input_model
    if (
        model is not None and model.model_config.get("extra") is None
    ):  # or what the function does not take is dropped before anybody sees it
        tool.input_model = type(model.__name__, (model,), {"model_config": {"extra": "forbid"}, "__module__": model.__module__})

    async def invoke(*, arguments: Any = None, context: Any = None, tool_call_id: str | None = None, **more: Any) -> Any:
        here = _here.get()
        if here is None:
            raise ConfigError(f"guard.adapters.agent_framework: {tool.name} is guarded, and this agent has no GuardMiddleware")
        given = arguments if arguments is not None else context.arguments
        args = given if isinstance(given, Mapping) else given.model_dump(exclude_unset=True)
        return await here[0].judge(tool, bare, args, context, tool_call_id or "", more)

    invoke.stands_before = tool  # type: ignore[attr-defined]
    tool.invoke = invoke


def _plain(result: Any) -> Any:
    """What a policy about results can look at, of the framework's contents."""
    if not isinstance(result, list) or not all(isinstance(each, Content) for each in result):
        return result
    plain = [each.text if each.type == "text" else each.to_dict(exclude={"raw_representation"}) for each in result]
    return plain[0] if len(plain) == 1 else plain


def _request(context: Any, id: str, args: Mapping[str, Any], asked: ApprovalRequired) -> Any:
    """The framework's own pause. A call that was answered once and asks again is a new request."""
    occurrence = context.metadata.get("function_call_occurrence_id")
    call = Content.from_function_call(call_id=id, name=context.function.name, arguments=dict(args), id=occurrence)
    more = {"guardtrail": asked.request, "_replacement_approval_request": (again := "approval_response" in context.metadata)}
    name = f"{occurrence or id}:again:{uuid4().hex}" if again else occurrence or id
    return Content.from_function_approval_request(id=name, function_call=call, additional_properties=more)


def coverage(agent: Any) -> list[Seen]:
    """Every tool and sub-agent of an agent or workflow, as far as it can be seen before a run."""
    if not isinstance(agent, (BaseAgent, Workflow)):
        return []
    mine = [each.unguarded for each in _each(getattr(agent, "middleware", None)) if isinstance(each, GuardMiddleware)]
    return [Seen(each.path, True) if mine and each.path.split(" > ")[-1] in mine[0] else each for each in _agent(agent, "", set(), None)]


def _each(tools: Any) -> list[Any]:
    return [] if tools is None else list(tools) if isinstance(tools, (list, tuple)) else [tools]


def _hop(tool: Any) -> Any:
    """The agent behind `agent.as_tool()`; None: this is a tool."""
    function = getattr(tool, "func", None)
    made = getattr(function, "__module__", "") == "agent_framework._agents" and "as_tool" in getattr(function, "__qualname__", "")
    return next(held(function, BaseAgent), None) if made else None


def _agent(agent: Any, above: str, met: set[int], guarded: bool | None) -> Iterator[Seen]:
    if id(agent) in met:
        return
    met.add(id(agent))
    name = getattr(agent, "name", None) or type(agent).__name__
    path = f"{above} > {name}" if above else str(name)
    if guarded is None:
        guarded = any(isinstance(each, GuardMiddleware) for each in _each(getattr(agent, "middleware", None)))
    why = "" if guarded else f"give {name} a GuardMiddleware(guard) of its own"
    options = getattr(agent, "default_options", None) or {}
    yield from _tools([*_each(options.get("tools")), *_each(getattr(agent, "mcp_tools", None))], path, met, why)
    executors = getattr(getattr(agent, "workflow", agent), "executors", None)
    for executor in executors.values() if isinstance(executors, Mapping) else ():
        if isinstance(inner := getattr(executor, "_agent", None), BaseAgent):
            yield from _agent(inner, path, met, None)


def _tools(tools: Any, path: str, met: set[int], why: str) -> Iterator[Seen]:
    for tool in _each(tools):
        function = getattr(tool, "func", None) or tool
        name = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "name", getattr(tool, "__name__", type(tool).__name__))
        below = f"{path} > {name}" if path else str(name)
        if (hop := _hop(tool)) is not None:
            yield from _agent(hop, path, met, None)
        elif not (isinstance(tool, FunctionTool) or callable(tool) or hasattr(tool, "functions")):
            yield Seen(below, False, "it runs at the model's provider, not here: take it out, or name it in `unguarded`")
        else:
            left = "" if hasattr(function, "__guardtrail__") else why
            yield Seen(below, not left, left)
            for inner in held(function, (BaseAgent, Workflow), frozenset({"agent_framework"})):
                yield from _agent(inner, below, met, None)
