"""LlamaIndex's tools, guarded: what `guard.adapters.llamaindex` puts in their place, and how a call waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextvars import ContextVar
from typing import Any

from ._core import ApprovalRequired, Denied, Guard, missing, refusal, tool_call

try:
    from llama_index.core.tools import FunctionTool, ToolOutput
    from llama_index.core.tools.types import BaseTool, adapt_to_async_tool
    from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
    from workflows.runtime.types.results import WaitingForEvent
except ImportError as error:
    raise missing("llamaindex", "llama-index-core", "0.14.12") from error

__all__ = ["ApprovalNeeded", "GuardedTool", "current_call"]

_CONTEXT = "guardtrail_context"
current_call: ContextVar[str | None] = ContextVar("guardtrail_llamaindex_call", default=None)
"""The model's id of the call whose step runs here; None: none does."""


class ApprovalNeeded(InputRequiredEvent):  # type: ignore[misc, unused-ignore]
    """A call waits for a person. `request`: `ApprovalRequired.request`, plain data without a value. `call`: which one."""

    tool_name: str
    tool_id: str
    request: dict[str, Any]
    call: str

    def answer(self, go_on: bool) -> HumanResponseEvent:
        """What to send back: True, judge it again; False, leave it."""
        return HumanResponseEvent(call=self.call, response=go_on)


class _Failed(Exception):
    """The tool answered with an error: outcome `error`. Its answer goes to the model untouched."""

    def __init__(self, output: ToolOutput) -> None:
        super().__init__("the tool answered with an error")
        self.output = output


class _Paused(BaseException):
    """The body itself waits for an event and is run again with it: outcome `unknown`, so not an Exception."""

    def __init__(self, way: WaitingForEvent[Any]) -> None:
        super().__init__("the body of the tool waits")
        self.way = way


class GuardedTool(FunctionTool):  # type: ignore[misc, unused-ignore]
    """A tool that asks the guard around its body. It takes LlamaIndex's context, in which a call can wait."""

    def __init__(self, guard: Guard, tool: BaseTool) -> None:
        super().__init__(fn=_nothing, metadata=tool.metadata)
        self.requires_context, self.ctx_param_name = True, _CONTEXT
        function = getattr(tool, "real_fn", None)
        self._guard, self._tool = guard, adapt_to_async_tool(tool)
        self._wants = tool.ctx_param_name if isinstance(tool, FunctionTool) and tool.requires_context else None
        self._threaded = getattr(getattr(tool, "async_fn", None), "__qualname__", "").startswith(
            "sync_to_async"
        )  # older releases lose the context there (F48)
        self._name = getattr(function, "__guardtrail__", None) or tool.metadata.get_name()
        schema = tool.metadata.get_parameters_dict()  # made anew each time it is asked for: a millisecond
        self._arguments = list(schema.get("properties", {}))
        if not hasattr(function, "__guardtrail__"):  # else the guard has its signature
            guard.declare(self._name, {**schema, "additionalProperties": False})

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        context, given = kwargs.pop(_CONTEXT, None), self._named(args, kwargs)
        try:
            made: list[ToolOutput] = []
            value = self._guard.call(
                tool_call(self._name, given), lambda **bound: _kept(made, self._tool.call(**self._with(context, bound)))
            )
            return self._output(made, value, given)
        except _Failed as failed:
            return failed.output
        except Denied as denied:
            return self._refused(refusal(denied), given)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        context, given = kwargs.pop(_CONTEXT, None), self._named(args, kwargs)
        call = current_call.get() or ""
        key, asked = hashlib.sha256(json.dumps([call, self._name, given], default=repr, sort_keys=True).encode()).hexdigest()[:24], False

        made: list[ToolOutput] = []

        async def execute(**bound: Any) -> Any:
            inner = current_call.set(None)  # what the body calls is not this call
            try:
                if self._threaded:
                    return _kept(made, await asyncio.to_thread(self._tool.call, **self._with(context, bound)))
                return _kept(made, await self._tool.acall(**self._with(context, bound)))
            except WaitingForEvent as way:
                raise _Paused(way) from None
            finally:
                current_call.reset(inner)

        try:
            asked = context is not None and await context.store.get(f"guardtrail_{key}", default=False) is True
            if asked and not await self._answered(context, key, call, {}):
                return self._refused(f"{self._name} refused: a person said no", given)
            value = await self._guard.acall(tool_call(self._name, given, "" if self._wants else call), execute)
            return self._output(made, value, given)
        except _Paused as paused:
            raise paused.way from None
        except _Failed as failed:
            return failed.output
        except ApprovalRequired as required:
            if context is not None and not asked:
                await context.store.set(f"guardtrail_{key}", True)
                await self._answered(
                    context, key, call, required.request
                )  # leaves by an exception of LlamaIndex's; the step is repeated when somebody answers
            return self._refused(refusal(required), given)
        except Denied as denied:
            return self._refused(refusal(denied), given)

    __call__ = call

    async def _answered(self, context: Context, key: str, id: str, request: dict[str, Any]) -> bool:
        event = ApprovalNeeded(prefix=f"{self._name} needs approval", tool_name=self._name, tool_id=id, request=request, call=key)
        said = await context.wait_for_event(HumanResponseEvent, waiter_event=event, waiter_id=key, requirements={"call": key}, timeout=None)
        await context.store.set(f"guardtrail_{key}", False)
        return said.get("response", None) is True

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._arguments):
            raise TypeError("more arguments than the tool has")
        return {**dict(zip(self._arguments, args, strict=False)), **kwargs}

    def _with(self, context: Any, bound: dict[str, Any]) -> dict[str, Any]:
        return bound if self._wants is None else {**bound, self._wants: context}

    def _output(self, made: list[ToolOutput], value: Any, given: dict[str, Any]) -> ToolOutput:
        """What the tool made; of a call that ran before, what is on record."""
        return (
            made[0]
            if made
            else ToolOutput(content=str(value), tool_name=self.metadata.get_name(), raw_input={"kwargs": given}, raw_output=value)
        )

    def _refused(self, text: str, given: dict[str, Any]) -> ToolOutput:
        return ToolOutput(content=text, tool_name=self.metadata.get_name(), raw_input={"kwargs": given}, raw_output=text, is_error=True)


def _kept(made: list[ToolOutput], output: ToolOutput) -> Any:
    """Put it aside, and give the guard what the tool returned: LlamaIndex's own object repeats the arguments, which then would count as read from the tool."""
    if output.is_error:
        raise _Failed(output)
    made.append(output)
    raw = output.raw_output
    return output.content if type(raw).__module__.startswith("llama_index") else raw


def _nothing() -> None:
    raise RuntimeError("a guarded tool has no function of its own")
