"""Pydantic AI: an `Agent` with `GuardCapability` and Pydantic AI's own `FunctionModel`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults
from pydantic_ai.messages import ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from guard.adapters.pydantic_ai import GuardCapability, coverage
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "App", "PydanticAIDriver", "Scripted", "run_sync"]


class Scripted:
    """Says the turns of a script, and notes which tools it was offered."""

    def __init__(self, script: Script) -> None:
        self.turns = iter(script)
        self.shown: list[tuple[str, ...]] = []
        self.model = FunctionModel(self.say, stream_function=self.stream)

    def say(self, messages: Any, info: AgentInfo) -> ModelResponse:
        turn = self._next(info)
        return ModelResponse(
            [TextPart(turn)] if isinstance(turn, str) else [ToolCallPart(name, args, id) for name, args, id in map(_call, turn)]
        )

    async def stream(self, messages: Any, info: AgentInfo) -> AsyncIterator[Any]:
        turn = self._next(info)
        if isinstance(turn, str):
            yield turn
        else:
            yield {i: DeltaToolCall(name, json.dumps(args), tool_call_id=id) for i, (name, args, id) in enumerate(map(_call, turn))}

    def _next(self, info: AgentInfo) -> Any:
        self.shown.append(tuple(tool.name for tool in info.function_tools))
        return next(self.turns)


def _call(one: Call | Delegate) -> tuple[str, dict[str, Any], str]:
    return (one.agent, {"text": "help"}, one.id) if isinstance(one, Delegate) else (one.tool, dict(one.args), one.id)


def run_sync(agent: Any, *args: Any, **options: Any) -> Any:
    """`agent.run_sync` on a loop of its own, which is closed: it leaves the one it makes open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return agent.run_sync(*args, **options)
    finally:
        loop.close()
        asyncio.set_event_loop(None)


class App:
    def __init__(self, world: World, script: Script, capabilities: Any) -> None:
        self.script = Scripted(script)
        delegates = [one for turn in script if not isinstance(turn, str) for one in turn if isinstance(one, Delegate)]
        self.tools = world.tools()
        self.agent: Any = Agent(
            self.script.model,
            tools=[*self.tools, *(_helper(world, one) for one in delegates)],
            capabilities=capabilities,
            output_type=[str, DeferredToolRequests],
        )
        self.result: Any = None
        self.given: dict[str, Any] = {"user_prompt": "go"}

    def trace(self) -> Trace:
        trace = Trace(shown=self.script.shown)
        for part in (part for message in self.messages() for part in message.parts):
            if isinstance(part, ToolReturnPart):
                trace.answers[part.tool_call_id] = Answer(part.model_response_str(), part.outcome != "success")
            elif isinstance(part, RetryPromptPart):
                trace.answers[part.tool_call_id] = Answer(part.model_response(), True)
        if isinstance(self.result.output, DeferredToolRequests):
            trace.pending = [call.tool_call_id for call in self.result.output.approvals]
            trace.requests = dict(self.result.output.metadata)
        else:
            trace.final = self.result.output
        return trace

    def messages(self) -> Any:
        return self.result.all_messages()

    def answer(self, yes: bool) -> None:
        waits = self.result.output.approvals if isinstance(self.result.output, DeferredToolRequests) else []
        answers = DeferredToolResults(approvals={call.tool_call_id: yes for call in waits})
        self.given = {"message_history": self.messages(), **({"deferred_tool_results": answers} if waits else {})}


def _helper(world: World, one: Delegate) -> Any:
    """A sub-agent as Pydantic AI's pages make one: a tool whose function runs an agent of its own. It has no capability of its own."""
    inner = Agent(Scripted(one.script).model, tools=world.tools())

    async def helper(text: str) -> str:
        """Ask the helper."""
        return str((await inner.run(text)).output)

    helper.__name__ = one.agent
    return helper


class PydanticAIDriver(Driver):
    name: ClassVar[str] = "pydantic_ai"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})

    def build(self, world: World, script: Script) -> App:
        return App(world, script, [GuardCapability(world.guard)])

    def run(self, app: App) -> Trace:
        app.result = run_sync(app.agent, **app.given)
        return app.trace()

    async def arun(self, app: App) -> Trace:
        app.result = await app.agent.run(**app.given)
        return app.trace()

    async def astream(self, app: App) -> Trace:
        async with app.agent.run_stream(**app.given) as result:
            output = await result.get_output()
            app.result = Streamed(output, result.all_messages())
        return app.trace()

    def resume(self, app: App, yes: bool) -> Trace:
        app.answer(yes)
        return self.run(app)

    async def aresume(self, app: App, yes: bool) -> Trace:
        app.answer(yes)
        return await self.arun(app)

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        function = next(tool for tool in app.tools if tool.__name__ == call.tool)
        bare = Agent(Scripted(((call,), "done")).model, tools=[function])
        return {
            "function(...)": attempt(function, call),
            "function.__wrapped__(...)": attempt(function.__wrapped__, call),  # type: ignore[attr-defined]
            "an agent without a guard": attempt(lambda **_: run_sync(bare, "go").all_messages(), call),
        }

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


class Streamed:
    """What is left of a streamed run."""

    def __init__(self, output: Any, messages: Any) -> None:
        self.output, self._messages = output, messages

    def all_messages(self) -> Any:
        return self._messages


DRIVER = PydanticAIDriver
