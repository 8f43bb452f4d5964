"""LangChain 1.x and LangGraph: every tool call of an agent passes the guard.

    from guard.adapters.langchain import GuardMiddleware

    agent = create_agent(model, tools, middleware=[GuardMiddleware(guard)])
    with guard.task(token, prompt=text):
        agent.invoke({"messages": [("user", text)]})

A bare graph has `tool_node(guard, tools)` in place of `ToolNode(tools)`. A denial is a tool message with status "error"; an ask is an interrupt that shows
`ApprovalRequired.request`. Resuming makes the same call again and authorizes nothing: `Command(resume=...)` may only say no, with `{"type": "reject"}`.
LangGraph runs a step again when it resumes, so a call is known by its id: its body runs once (fail-open rows F67, F68).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from ._core import ApprovalRequired, ConfigError, Denied, Guard, missing, not_covered, refusal, tool_call

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool
    from langgraph.errors import GraphBubbleUp
    from langgraph.prebuilt import ToolNode
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import interrupt

    from ._langgraph import Guarding, Said, coverage, tool_name, tool_seen
except ImportError as error:  # absent, or before 1.0, which has no middleware
    raise missing("langchain", "langchain", "1.1") from error

__all__ = ["GuardMiddleware", "coverage", "tool_node"]


class Failed(Exception):
    """The tool ran, and its answer says that it failed: outcome `error`. Carries the message, which goes to the model untouched."""

    def __init__(self, message: ToolMessage) -> None:
        super().__init__(str(message.text))
        self.message = message


class Paused(BaseException):
    """The body itself stopped at an interrupt (or left for a parent graph): outcome `unknown`, so not an Exception. LangGraph runs it again from its start."""

    def __init__(self, way: GraphBubbleUp) -> None:
        super().__init__("the body of the tool was interrupted")
        self.way = way


class One:
    """One tool call on its way. `ran`: its body has begun here, so what comes is not what was recorded before. `pad`: where LangGraph keeps answers to
    interrupts; None outside of a graph, where nothing can wait."""

    __slots__ = ("id", "name", "pad", "ran", "request", "runs")

    def __init__(self, request: ToolCallRequest) -> None:
        call = request.tool_call
        self.request, self.name, self.id, self.ran, self.runs = request, call["name"], call.get("id") or "", False, 0
        config = getattr(request.runtime, "config", None) or {}
        self.pad = config.get("configurable", {}).get("__pregel_scratchpad")

    def call(self) -> Any:
        return tool_call(self.name, self.request.tool_call["args"], f"{self.id}#{self.runs}" if self.runs else self.id)

    def begin(self, args: dict[str, Any]) -> ToolCallRequest:
        self.ran = True
        return self.request.override(tool_call={**self.request.tool_call, "args": args})

    def result(self, found: Any) -> Any:
        """As it came; of a call that was repeated, a message of its own: LangGraph takes one with a known id for the older one."""
        return found if self.ran or not isinstance(found, ToolMessage) else found.model_copy(update={"id": None})

    def refused(self, text: str) -> ToolMessage:
        return ToolMessage(text, tool_call_id=self.id, name=self.name, status="error")

    def ended(self, why: Failed | Denied) -> Any:
        """What the model reads instead of a result; or the pause."""
        if isinstance(why, Failed):
            return self.result(why.message)
        if isinstance(why, ApprovalRequired) and self.pad is not None:
            while not _no(interrupt({**why.request, "call_id": self.id})):  # a yes, and no person's: it waits again
                pass
        return self.refused(refusal(why))

    def rejected(self) -> bool:
        """Has the program resumed this very step with a no? Then the call is not made, even if a person has approved it."""
        return self.pad is not None and (any(map(_no, self.pad.resume or ())) or _no(self.pad.get_null_resume(False)))


class GuardMiddleware(AgentMiddleware, Guarding):  # type: ignore[misc, type-arg, unused-ignore]
    """Put it last: what stands after it could change a call that was judged, and is refused. `accept`: names of tools and sub-agents that may run without any
    guard, such as tools that the model's provider runs; every other that no guard covers stops the agent before its model is asked."""

    def __init__(self, guard: Guard, *, accept: Collection[str] = ()) -> None:
        super().__init__()
        self._guard, self._accept = guard, frozenset(accept)
        self._known: WeakValueDictionary[int, BaseTool] = WeakValueDictionary()
        self._shared = False
        """One step for several calls (a bare tool node): nobody can say whose answer an answer is, so none is looked at before the guard is asked."""

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        one = self._one(request, handler)

        def execute(**args: Any) -> Said:
            try:
                return _said(handler(one.begin(args)))
            except GraphBubbleUp as way:
                raise Paused(way) from None

        while not self._rejected(one):
            try:
                return one.result(self._guard.call(one.call(), execute).result)
            except Paused as paused:
                if one.ran:
                    raise paused.way from None
                one.runs += 1  # recorded is a run that stopped; this is the next
            except (Failed, Denied) as why:
                return one.ended(why)
        return one.refused(self._guard.decline(one.call()).for_model())

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]) -> Any:
        one = self._one(request, handler)

        async def execute(**args: Any) -> Said:
            try:
                return _said(await handler(one.begin(args)))
            except GraphBubbleUp as way:
                raise Paused(way) from None

        while not self._rejected(one):
            try:
                return one.result((await self._guard.acall(one.call(), execute)).result)
            except Paused as paused:
                if one.ran:
                    raise paused.way from None
                one.runs += 1
            except (Failed, Denied) as why:
                return one.ended(why)
        return one.refused((await self._guard.adecline(one.call())).for_model())

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._offered(request))

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handler(self._offered(request))

    def _offered(self, request: Any) -> Any:
        """Only what the task could ever use is offered. That protects nothing: whatever the model calls is judged (row F57)."""
        for tool in request.tools:
            self._look(tool)
        shown = {*self._guard.visible([tool_name(tool) for tool in request.tools]), *self._accept}
        return request.override(tools=[tool for tool in request.tools if tool_name(tool) in shown])

    def _one(self, request: ToolCallRequest, handler: Any) -> One:
        if "inner" in getattr(getattr(handler, "__code__", None), "co_freevars", ()):
            raise ConfigError(
                "guard.adapters.langchain: GuardMiddleware stands last: what comes after it could change a call that was judged"
            )
        if request.tool is not None:
            self._look(request.tool)
        return One(request)

    def _rejected(self, one: One) -> bool:
        return not self._shared and one.rejected()

    def _look(self, tool: Any) -> None:
        """Once for each tool: is there an agent in it that no guard covers? From here on its calls are bound to its schema."""
        if isinstance(tool, BaseTool) and self._known.get(id(tool)) is tool:
            return
        bad = [seen for seen in tool_seen(tool) if not seen.covered and self._accept.isdisjoint(seen.path.split(" > "))]
        if bad:
            raise not_covered("langchain", bad)
        if isinstance(tool, BaseTool):
            schema: Any = tool.tool_call_schema
            known = schema if isinstance(schema, Mapping) else schema.model_json_schema()
            self._guard.declare(tool.name, {"additionalProperties": False, **known})
            self._known[id(tool)] = tool


def tool_node(guard: Guard, tools: Sequence[Any], *, accept: Collection[str] = (), **options: Any) -> ToolNode:
    """`ToolNode(tools, **options)` whose every call passes the guard, for graphs of one's own."""
    middleware = GuardMiddleware(guard, accept=accept)
    middleware._shared = True
    node = ToolNode(tools, wrap_tool_call=middleware.wrap_tool_call, awrap_tool_call=middleware.awrap_tool_call, **options)
    for tool in node.tools_by_name.values():
        middleware._look(tool)
    return node


def _said(result: Any) -> Said:
    if isinstance(result, ToolMessage) and result.status == "error":
        raise Failed(result)
    return Said(result)


def _no(answer: object) -> bool:
    """`{"type": "reject"}`, or a list of decisions with one, as LangChain's own middleware writes them. Nothing else is a no, and nothing at all is a yes."""
    if not isinstance(answer, Mapping):
        return False
    decisions = answer.get("decisions")
    return answer.get("type") == "reject" or (isinstance(decisions, list) and any(map(_no, decisions)))
