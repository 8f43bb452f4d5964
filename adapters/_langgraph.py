"""Around the tools of LangChain and LangGraph: what of an agent or a graph no guard covers, what the guard looks at of a result.

For `guard.adapters.langchain`, which makes sure that the framework is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import unwrap
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

from ._core import Seen
from ._held import held

__all__ = ["Guarding", "Said", "coverage", "tool_name", "tool_seen"]

_OWN = frozenset({"langchain", "langchain_core", "langgraph", "langsmith", "pydantic"})


class Guarding:
    """What a wrapper belongs to that asks the guard."""


def coverage(agent: Any) -> list[Seen]:
    """Every tool of an agent, graph, tool node or tool, and of the agents it can reach: does a guard stand before it? Nothing for what has no tools."""
    if isinstance(agent, ToolNode):
        return list(_node(agent, "", frozenset()))
    if isinstance(agent, BaseTool):
        return list(tool_seen(agent, guarded=False))
    return list(_graph(agent, "", frozenset())) if isinstance(agent, (Pregel, StateGraph)) else []


def _graph(graph: Any, path: str, above: frozenset[int]) -> Iterator[Seen]:
    above |= {id(graph)}
    for name, node in graph.nodes.items():
        inner = getattr(node, "bound", getattr(node, "runnable", node))
        if isinstance(inner, ToolNode):
            yield from _node(inner, path, above)
            continue
        for found in held([inner, getattr(inner, "func", None), getattr(inner, "afunc", None)], Pregel, _OWN):
            if id(found) not in above:
                yield from _graph(found, f"{path}{name} > ", above)


def _node(node: ToolNode, path: str, above: frozenset[int]) -> Iterator[Seen]:
    guarded = _last(node._wrap_tool_call) and _last(node._awrap_tool_call)
    for tool in node.tools_by_name.values():
        yield from tool_seen(tool, path, guarded, above)


def tool_seen(tool: Any, path: str = "", guarded: bool = True, above: frozenset[int] = frozenset()) -> Iterator[Seen]:
    name = f"{path}{tool_name(tool)}"
    if isinstance(tool, dict):  # a declaration of a tool of the program's own is refused by the tool node, if nobody has it
        ours = bool({"function", "parameters", "input_schema"} & tool.keys())
        yield Seen(
            name, ours, "" if ours else "the model's provider runs it where no guard sees the call: leave it out, or name it in `accept`"
        )
        return
    guarded = guarded or any(hasattr(getattr(tool, body, None), "__guardtrail__") for body in ("func", "coroutine"))
    yield Seen(
        name,
        guarded,
        "" if guarded else "its agent has no GuardMiddleware, or not as the last; its tool node is not one of `tool_node(guard, tools)`",
    )
    for agent in held(tool, Pregel, _OWN):
        if id(agent) not in above:
            yield from _graph(agent, f"{name} > ", above)


def _last(wrapper: Any) -> bool:
    """Is the innermost of these composed wrappers a guard's?"""
    while "inner" in (free := getattr(getattr(wrapper, "__code__", None), "co_freevars", ())):
        wrapper = wrapper.__closure__[free.index("inner")].cell_contents
    return wrapper is not None and isinstance(getattr(unwrap(wrapper), "__self__", None), Guarding)


def tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return str(tool.name)
    function = tool.get("function")
    return str((function.get("name") if isinstance(function, Mapping) else None) or tool.get("name") or tool.get("type") or "?")


class Said(dict[str, Any]):
    """What the guard looks at of a result: what the model will read, in the form of an MCP result, so that the policy's `returns` finds its way."""

    def __init__(self, result: Any) -> None:
        super().__init__(content=[], structured_content=_content(result))
        self.result = result


def _content(result: Any) -> Any:
    if isinstance(result, ToolMessage):
        return result.content
    if isinstance(result, list):
        return [_content(each) for each in result]
    update = getattr(result, "update", None)  # of a command: messages and whatever else it puts into the state
    more = (
        [each for value in update.values() for each in (value if isinstance(value, list) else [value])]
        if isinstance(update, Mapping)
        else []
    )
    return [getattr(each, "content", each) for each in more]
