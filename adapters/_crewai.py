"""CrewAI's tools, guarded: what `guard.adapters.crewai` puts in their place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from ._core import Denied, Guard, missing, refusal, tool_call

try:
    from crewai.tools import BaseTool
    from crewai.tools.structured_tool import CrewStructuredTool
    from crewai.utilities.string_utils import sanitize_tool_name
    from pydantic import PrivateAttr
except ImportError as error:
    raise missing("crewai", "crewai", "1.14.7") from error

try:
    from crewai.tools.tool_failure import ToolFailure
except ImportError:  # older: a failure is a text like any other
    ToolFailure = None

__all__ = ["GuardedTool", "guarded", "never"]


class GuardedTool(BaseTool):  # type: ignore[misc, unused-ignore]
    """A tool that asks the guard before its body. Its policy name is the one the model sees: `Search orders` is `search_orders`."""

    _guard: Guard = PrivateAttr()
    _original: BaseTool = PrivateAttr()
    _tool: str = PrivateAttr()
    _awaited: bool = PrivateAttr()
    _threaded: bool = PrivateAttr()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Where the model calls functions: what it sent, before CrewAI's own validation, whose errors quote values."""
        return self._call(self._body, self._named(args, kwargs))

    async def arun(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._guard.acall(tool_call(self._tool, self._named(args, kwargs)), self._abody)
        except Denied as denied:
            return _failure(refusal(denied))

    _run, _arun = run, arun

    def to_structured_tool(self) -> CrewStructuredTool:
        """Where the model writes "Action: ..." as text."""
        made = _Structured(name=self.name, description=self.description, args_schema=self.args_schema, **_results(self))
        made.func, made.result_as_answer, made.cache_function = self._run, self.result_as_answer, self.cache_function
        made._original_tool = self
        return made

    def format_output_for_agent(self, raw_result: Any) -> str:
        format_output = getattr(self._original, "format_output_for_agent", str)
        return str(format_output(raw_result))

    def _call(self, execute: Callable[..., Any], args: Any) -> Any:
        try:
            return self._guard.call(tool_call(self._tool, args), execute)
        except Denied as denied:
            return _failure(refusal(denied))

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = list(self.args_schema.model_fields)
        if len(args) > len(names):
            raise TypeError("more arguments than the tool has")
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _body(self, **bound: Any) -> Any:
        if not self._threaded:
            return self._original.run(**bound)
        with ThreadPoolExecutor(
            max_workers=1
        ) as pool:  # CrewAI calls it synchronously, on the loop too, and there nobody can wait for a coroutine
            return pool.submit(copy_context().run, partial(self._original.run, **bound)).result()

    async def _abody(self, **bound: Any) -> Any:
        return await self._original.arun(**bound) if self._awaited else await asyncio.to_thread(self._original.run, **bound)


class _Structured(CrewStructuredTool):  # type: ignore[misc, unused-ignore]
    """CrewAI runs a tool again, several times, when it raises: a body would run as often. And it loses the context of a tool that is awaited (F48)."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            return self.func(**{**input, **kwargs})
        except Exception as error:
            return _failure(f"Error executing tool: {error}")

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            return await self._original_tool.arun(**{**input, **kwargs})
        except Exception as error:
            return _failure(f"Error executing tool: {error}")


def guarded(guard: Guard, tool: BaseTool) -> GuardedTool:
    """In place of `tool`. Its policy name is that of its function where `@guard.tool` sealed it."""
    function = getattr(tool, "func", None)
    made = GuardedTool(
        name=tool.name, description=tool.description, args_schema=tool.args_schema, result_as_answer=tool.result_as_answer, **_results(tool)
    )  # fmt: skip
    made._guard, made._original = guard, tool
    made._tool = getattr(function, "__guardtrail__", None) or sanitize_tool_name(tool.name)
    made._awaited = type(tool)._arun is not BaseTool._arun if function is None else inspect.iscoroutinefunction(function)
    made._threaded = inspect.iscoroutinefunction(function or type(tool)._run)
    if not hasattr(function, "__guardtrail__"):  # else the guard has its signature
        guard.declare(made._tool, {**tool.args_schema.model_json_schema(), "additionalProperties": False})
    return made


def _results(tool: BaseTool) -> dict[str, Any]:
    """What is known of its results: since 1.15."""
    return {"result_schema": tool.result_schema} if "result_schema" in type(tool).model_fields else {}


def never(*_: object) -> bool:
    """What was answered once is not answered from a cache, where nobody is asked."""
    return False


def _failure(text: str) -> Any:
    return text if ToolFailure is None else ToolFailure(message=text)
