"""Plain functions and dispatch loops: OpenAI chat completions and responses, Anthropic messages, and whatever speaks like them.

    from guard.adapters.plain import Toolbox

    box = Toolbox(guard, [look, refund])
    with guard.task(token):
        while True:
            said = client.chat.completions.create(model=MODEL, messages=messages, tools=box.definitions("chat")).choices[0].message
            answers = box.answer(said)
            messages += [said, *answers.messages]
            if not answers.messages:
                break

`answer` takes the API's own object or the same as plain data: a chat message, a response or its output items, an Anthropic message. Every call in it is judged
for itself. The model reads a denial as the result of its call. A call that needs a person stands in `answers.waiting` too: who would rather wait keeps the
messages back, and calls `answer(said, answers)` once somebody has answered.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, missing, refusal, tool_call
from ._messages import Asked, Form, Result, block, blocks, calls, definition, field, messages, text_of

__all__ = ["Answers", "Toolbox", "Waiting", "coverage"]

Function = Callable[..., Any]


class Waiting(NamedTuple):
    """A call that needs a person. `request`: `ApprovalRequired.request`, plain data, without a value."""

    id: str
    tool: str
    request: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answers:
    """`messages`: what to add to the conversation after the model's own; empty: it called nothing. `waiting`: the calls that need a person."""

    messages: list[dict[str, Any]]
    waiting: tuple[Waiting, ...] = ()


class _Tool(NamedTuple):
    """`run`: the function, its arguments made into what its annotations say (JSON has no Decimal)."""

    run: Function
    text: str
    schema: dict[str, Any]
    awaited: bool


class Toolbox:
    """The functions a model may call, each under its own name, or the one that `@guard.tool` gave it.

    `say`: what the model reads of an exception that a function raised. Unless given, its type: a text may hold anything.
    """

    def __init__(self, guard: Guard, functions: Iterable[Function], *, say: Callable[[Exception], str] | None = None) -> None:
        self._guard = guard
        self._say = say or (lambda error: f"failed: {type(error).__name__}")
        self._tools: dict[str, _Tool] = {}
        for function in functions:
            name = getattr(function, "__guardtrail__", None) or getattr(function, "__name__", None)
            if not isinstance(name, str) or name in self._tools:
                raise ConfigError(f"Toolbox: {function!r} has no name of its own")
            self._tools[name] = _tool(function, name)
            if not hasattr(function, "__guardtrail__"):  # else the guard has its signature
                guard.declare(name, self._tools[name].schema)

    def definitions(self, form: Form) -> list[dict[str, Any]]:
        """The tools the current task could ever use, as `tools=` of the API; outside a task none. Shortening a list protects nothing: `answer` does."""
        return [definition[form](name, self._tools[name].text, self._tools[name].schema) for name in self._guard.visible(self._tools)]

    def answer(self, said: object, before: Answers | None = None) -> Answers:
        """Run what the model called, one after the other. `before`: what came of the same message earlier; only what waited then is called again.

        Raises ConfigError before anything runs: no message of a model, a function that must be awaited (`aanswer`)."""
        asked = calls(said)
        again = _open(asked, before)
        if awaited := sorted({call.tool for call in asked if call.tool in self._tools and self._tools[call.tool].awaited}):
            raise ConfigError(f"Toolbox.answer: {', '.join(awaited)}: coroutine functions want `await box.aanswer(...)`")
        return _together(asked, [self._one(call) if call in again else None for call in asked], before)

    async def aanswer(self, said: object, before: Answers | None = None) -> Answers:
        """`answer`, the calls of one message in parallel. Functions that cannot be awaited run in threads."""
        import asyncio

        asked = calls(said)
        again = _open(asked, before)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._aone(call)) if call in again else None for call in asked]
        return _together(asked, [None if each is None else each.result() for each in running], before)

    def runner_tools(self, *, awaited: bool = False) -> list[Any]:
        """For Anthropic's `client.beta.messages.tool_runner(tools=...)`, the tools visible now; `awaited`: for that of `AsyncAnthropic`.

        It gives no call ids: what a model calls twice is two calls, and what waits for a person is refused."""
        try:
            from anthropic.lib.tools import BetaAsyncBuiltinFunctionTool, BetaBuiltinFunctionTool, ToolError
        except ImportError as error:
            raise missing("plain", "anthropic", "0.84") from error
        if not awaited and any(tool.awaited for tool in self._tools.values()):
            raise ConfigError("Toolbox.runner_tools: coroutine functions want `runner_tools(awaited=True)`")

        def read(result: Result) -> str:
            if result.failed:
                raise ToolError(result.text)
            return result.text

        def made(about: dict[str, Any]) -> Any:
            def call(_: object, input: object) -> Any:
                return read(self._one(Asked("", about["name"], input, "anthropic")))

            async def acall(_: object, input: object) -> Any:
                return read(await self._aone(Asked("", about["name"], input, "anthropic")))

            base = BetaAsyncBuiltinFunctionTool if awaited else BetaBuiltinFunctionTool
            return type(
                "Tool", (base,), {"to_dict": lambda _: about, "call": acall if awaited else call, "__guardtrail__": about["name"]}
            )()

        return [made(about) for about in self.definitions("anthropic")]

    def _one(self, call: Asked) -> Result:
        if call.why:
            return Result(f"{call.tool} refused: {call.why}", True)
        tool = self._tools.get(call.tool)
        try:
            return Result(text_of(self._guard.call(tool_call(call.tool, call.args, call.id), tool.run if tool else _nobody)), False)
        except Exception as error:
            return self._failed(error)

    async def _aone(self, call: Asked) -> Result:
        if call.why:
            return Result(f"{call.tool} refused: {call.why}", True)
        tool = self._tools.get(call.tool)
        run = _nobody if tool is None else tool.run if tool.awaited else _threaded(tool.run)
        try:
            return Result(text_of(await self._guard.acall(tool_call(call.tool, call.args, call.id), run)), False)
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Result:
        if isinstance(error, Denied):
            return Result(refusal(error), True, error.request if isinstance(error, ApprovalRequired) else None)
        return Result(self._say(error), True)


def coverage(agent: Toolbox | Iterable[object]) -> list[Seen]:
    """What a guard stands before: of a `Toolbox`, or of what is about to be given to an API or a runner as `tools=`."""
    return [Seen(name, True) for name in agent._tools] if isinstance(agent, Toolbox) else [_seen(tool) for tool in agent]


def _seen(tool: object) -> Seen:
    named = field(field(tool, "function"), "name") or field(tool, "name") or field(tool, "__name__")
    name = str(named or field(tool, "type") or type(tool).__name__)
    if isinstance(tool, Mapping):
        ours = "input_schema" in tool or tool.get("type") == "function"
        return Seen(name, ours, "" if ours else "the API runs it, no call of it comes here: leave it out")
    return Seen(name, hasattr(tool, "__guardtrail__"), "" if hasattr(tool, "__guardtrail__") else "put it into the Toolbox")


def _tool(function: Function, name: str) -> _Tool:
    from pydantic import TypeAdapter, validate_call

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"Toolbox: `{name}` yields; a model reads one result")
    try:
        return _Tool(
            validate_call(function),
            inspect.getdoc(function) or "",
            TypeAdapter(cast("Any", function)).json_schema(),
            inspect.iscoroutinefunction(function),
        )
    except Exception as error:  # pydantic has many
        raise ConfigError(f"Toolbox: no JSON Schema can be made of the annotations of `{name}`: {type(error).__name__}") from error


def _threaded(run: Function) -> Callable[..., Awaitable[Any]]:
    async def execute(**bound: Any) -> Any:
        import asyncio

        return await asyncio.to_thread(run, **bound)  # which takes the context along

    return execute


def _nobody(**_: object) -> Any:
    raise LookupError("the policy knows this tool, the toolbox does not")


def _open(asked: list[Asked], before: Answers | None) -> list[Asked]:
    """What is to be called: everything, or what waited before."""
    if before is None:
        return asked
    if len(blocks(before.messages)) != len(asked):
        raise ConfigError("`before` are the answers to another message")
    wait = {each.id for each in before.waiting}
    return [call for call in asked if call.id in wait]


def _together(asked: list[Asked], results: list[Result | None], before: Answers | None) -> Answers:
    made = [
        (call, block(call, result) if result is not None else blocks(before.messages)[i] if before else {})
        for i, (call, result) in enumerate(zip(asked, results, strict=True))
    ]
    waiting = [
        Waiting(call.id, call.tool, result.request)
        for call, result in zip(asked, results, strict=True)
        if result is not None and result.request is not None
    ]
    return Answers(messages(made), tuple(waiting))
