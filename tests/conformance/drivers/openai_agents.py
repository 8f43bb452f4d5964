"""OpenAI Agents SDK: `guard_agent` on an agent whose model is a script (the SDK's `Model`, no provider)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from agents import Agent, FunctionTool, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.tool_context import ToolContext
from openai.types.responses import Response, ResponseCompletedEvent, ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from guard.adapters.openai_agents import coverage, guard_agent, requests
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "App", "OpenAIAgentsDriver", "Scripted", "tool_of"]

CONFIG = RunConfig(tracing_disabled=True)


class Scripted(Model):
    """Says the turns of a script, and notes which tools it was offered."""

    def __init__(self, script: Script) -> None:
        self.turns = iter(script)
        self.shown: list[tuple[str, ...]] = []

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *args: Any, **kwargs: Any
    ) -> ModelResponse:
        return ModelResponse(output=self._next(tools), usage=Usage(), response_id=None)

    async def stream_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        said = Response(
            id="r",
            created_at=0,
            model="script",
            object="response",
            output=self._next(tools),
            tool_choice="none",
            tools=[],
            parallel_tool_calls=True,
        )
        yield ResponseCompletedEvent(type="response.completed", response=said, sequence_number=0)

    def _next(self, tools: Any) -> list[Any]:
        self.shown.append(tuple(tool.name for tool in tools))
        turn = next(self.turns)
        if isinstance(turn, str):
            text = ResponseOutputText(type="output_text", text=turn, annotations=[], logprobs=[])
            return [ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])]
        return [_call(one) for one in turn]


def _call(one: Call | Delegate) -> ResponseFunctionToolCall:
    name, args = (f"transfer_to_{one.agent}", {}) if isinstance(one, Delegate) else (one.tool, one.args)
    return ResponseFunctionToolCall(type="function_call", call_id=one.id, name=name, arguments=json.dumps(args))


def tool_of(body: Callable[..., Any]) -> FunctionTool:
    return function_tool(body)


def run_sync(agent: Any, given: Any) -> Any:
    """`Runner.run_sync`, which leaves the loop it makes open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return Runner.run_sync(agent, given, run_config=CONFIG)
    finally:
        loop.close()
        asyncio.set_event_loop(None)


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.models = [Scripted(script)]
        helpers: list[Any] = []
        for one in [one for turn in script if not isinstance(turn, str) for one in turn if isinstance(one, Delegate)]:
            self.models.append(Scripted(one.script))
            helpers.append(Agent(name=one.agent, tools=[tool_of(body) for body in world.tools()], model=self.models[-1]))
        self.bare: list[Any] = [tool_of(body) for body in world.tools()]
        self.agent: Any = Agent(name="desk", tools=self.bare, handoffs=helpers, model=self.models[0])
        self.given: Any = "go"
        self.result: Any = None

    def trace(self) -> Trace:
        trace = Trace(shown=self.models[0].shown)
        if self.result is None:
            return trace
        for item in self.result.to_input_list():
            if isinstance(item, dict) and item.get("type") == "function_call_output":
                trace.answers[item["call_id"]] = Answer(str(item["output"]), None)
        trace.pending = [item.raw_item.call_id for item in self.result.interruptions]
        trace.requests = requests(self.result)
        trace.final = self.result.final_output if not trace.pending else None
        return trace

    def answer(self, yes: bool) -> None:
        if self.result is None:
            return
        self.given = self.result.to_state()
        for item in self.result.interruptions:
            self.given.approve(item) if yes else self.given.reject(item)


class OpenAIAgentsDriver(Driver):
    name: ClassVar[str] = "openai_agents"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})

    def build(self, world: World, script: Script) -> App:
        app = App(world, script)
        guard_agent(app.agent, world.guard)
        return app

    def run(self, app: App) -> Trace:
        app.result = run_sync(app.agent, app.given)
        return app.trace()

    async def arun(self, app: App) -> Trace:
        app.result = await Runner.run(app.agent, app.given, run_config=CONFIG)
        return app.trace()

    async def astream(self, app: App) -> Trace:
        result = Runner.run_streamed(app.agent, app.given, run_config=CONFIG)
        async for _ in result.stream_events():
            pass
        app.result = result
        return app.trace()

    def resume(self, app: App, yes: bool) -> Trace:
        app.answer(yes)
        return self.run(app)

    async def aresume(self, app: App, yes: bool) -> Trace:
        app.answer(yes)
        return await self.arun(app)

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        bare = next(tool for tool in app.bare if tool.name == call.tool)
        made = ToolContext(context=None, tool_name=call.tool, tool_call_id="x", tool_arguments="{}")
        alone = Agent(name="alone", tools=[bare], model=Scripted(((call,), "done")))
        ways: dict[str, object] = {
            "tool.on_invoke_tool": attempt(lambda **args: asyncio.run(bare.on_invoke_tool(made, json.dumps(args))), call),
            "an agent without a guard": attempt(lambda **_: run_sync(alone, "go").to_input_list(), call),
        }
        if hasattr(bare, "__wrapped__"):
            ways["tool.__wrapped__"] = attempt(bare.__wrapped__, call)
            ways["tool.__wrapped__.__wrapped__"] = attempt(bare.__wrapped__.__wrapped__, call)
        return ways

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


DRIVER = OpenAIAgentsDriver
