"""smolagents' tools, guarded: objects that hold what they stand for in a closure and nowhere else (fail-open row F64)."""

from __future__ import annotations

import copy
import inspect
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary

from ._core import Guard, missing, tool_call

try:
    from smolagents import FinalAnswerTool
    from smolagents.tools import BaseTool, validate_tool_arguments
except ImportError as error:
    raise missing("smolagents", "smolagents", "1.23") from error

__all__ = ["GuardedTool", "behind", "guarded", "managed"]

behind: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""What a `GuardedTool` or `_Managed` stands for. Not in an attribute of it."""


class GuardedTool(BaseTool):  # type: ignore[misc, unused-ignore]
    """What all guarded tools are; each has a class of its own around a closure. `save`, `to_dict`, `from_code` and the rest of smolagents' `Tool` are not there."""

    name: str
    policy_name: str


class _Managed(BaseTool):  # type: ignore[misc, unused-ignore]
    """A managed agent, or the tool of the last word, as code gets it."""

    name: str


def guarded(guard: Guard, tool: Any, here: Context | None = None) -> Any:
    """`tool` behind a class of its own, for calls in the context `here`; None: in that of whoever calls."""
    if isinstance(tool, (GuardedTool, _Managed)):
        return tool
    if type(tool) is FinalAnswerTool:
        return tool if here is None else managed(tool, here)
    sealed = getattr(tool.forward, "__guardtrail__", None)
    policy_name, names = sealed or tool.name, list(tool.inputs)
    if sealed is None:
        guard.declare(policy_name, _schema(tool))

    class Guarded(GuardedTool):
        def __call__(self, *args: Any, sanitize_inputs_outputs: bool = False, **kwargs: Any) -> Any:
            given: Any = {**dict(zip(names, args, strict=False)), **kwargs} if len(args) <= len(names) else args
            if len(args) == 1 and not kwargs and isinstance(args[0], dict) and set(args[0]) <= set(names):
                given = args[0]  # as smolagents reads it

            def execute(**bound: Any) -> Any:
                validate_tool_arguments(tool, bound)
                return tool(**bound, sanitize_inputs_outputs=sanitize_inputs_outputs)

            call = tool_call(policy_name, given)
            return guard.call(call, execute) if here is None else here.copy().run(guard.call, call, execute)

    return _as_it_is(Guarded, tool, policy_name)


def managed(agent: Any, here: Context) -> Any:
    class Managed(_Managed):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return here.copy().run(agent, *args, **kwargs)

    return _as_it_is(Managed, agent, agent.name)


def _as_it_is(kind: type[Any], thing: Any, policy_name: str) -> Any:
    """An object of `kind` that says of itself what `thing` says, as copies."""
    texts = {name: str(getattr(thing, name)()) for name in ("to_code_prompt", "to_tool_calling_prompt") if hasattr(thing, name)}
    for name, text in texts.items():
        setattr(kind, name, lambda _, text=text: text)
    made = kind()
    for name in ("name", "description", "inputs", "output_type", "output_schema"):
        setattr(made, name, copy.deepcopy(getattr(thing, name, None)))
    made.policy_name = policy_name
    behind[made] = thing
    return made


def _schema(tool: Any) -> dict[str, Any]:
    """What it takes, and the defaults of its function."""
    parameters = inspect.signature(tool.forward).parameters
    defaults = {name: {"default": one.default} for name, one in parameters.items() if one.default is not one.empty}
    properties = {name: {"type": about["type"], **defaults.get(name, {})} for name, about in tool.inputs.items()}
    needed = [name for name, about in tool.inputs.items() if about.get("nullable") is not True and name not in defaults]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
