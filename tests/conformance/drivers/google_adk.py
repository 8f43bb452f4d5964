"""Google ADK: an agent in an `InMemoryRunner`, a `BaseLlm` that says a script, helpers as `AgentTool`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App as AdkApp
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools import AgentTool, FunctionTool
from google.genai import types
from pydantic import Field

from guard.adapters.google_adk import GuardPlugin, coverage
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "Said", "turn"]

CONFIRM = "adk_request_confirmation"


class Said(BaseLlm):
    """A model that says a script. `shown`: the tools of each request."""

    model: str = "said"
    script: list[Any] = Field(default_factory=list)
    shown: list[Any] = Field(default_factory=list)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:
        tools = llm_request.config.tools or ()
        self.shown.append(tuple(each.name for tool in tools for each in tool.function_declarations or ()))
        said = self.script.pop(0)
        if stream and isinstance(said, str):
            for letter in said:
                yield LlmResponse(content=turn(letter), partial=True)
        yield LlmResponse(content=turn(said), partial=False if stream else None)


def turn(said: Any) -> types.Content:
    if isinstance(said, str):
        return types.Content(role="model", parts=[types.Part(text=said)])
    calls = [
        types.FunctionCall(id=each.id, name=each.agent, args={"request": "go"})
        if isinstance(each, Delegate)
        else types.FunctionCall(id=each.id, name=each.tool, args=dict(each.args))
        for each in said
    ]
    return types.Content(role="model", parts=[types.Part(function_call=call) for call in calls])


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.world = world
        self.bodies = {body.__name__: FunctionTool(body) for body in world.tools()}
        tools: list[Any] = list(self.bodies.values())
        for each in (each for said in script if not isinstance(said, str) for each in said if isinstance(each, Delegate)):
            model = Said(script=list(each.script))
            tools.append(AgentTool(LlmAgent(name=each.agent, model=model, tools=[FunctionTool(body) for body in world.tools()])))
        self.model = Said(script=list(script), shown=[])
        agent = LlmAgent(name="desk", model=self.model, tools=tools)
        self.runner = InMemoryRunner(app=AdkApp(name="desk", root_agent=agent, plugins=[GuardPlugin(world.guard)]))
        self.session: Any = None
        self.waits: dict[str, str] = {}
        """Call id -> id of the confirmation that waits."""
        self.answers: dict[str, Answer] = {}
        """What the model has read so far."""

    def given(self, message: types.Content, streaming: bool = False) -> dict[str, Any]:
        config = RunConfig(streaming_mode=StreamingMode.SSE if streaming else StreamingMode.NONE)
        return {"user_id": "u", "session_id": self.session.id, "new_message": message, "run_config": config}

    async def begin(self) -> None:
        self.session = await self.runner.session_service.create_session(app_name="desk", user_id="u")

    def answer(self, yes: bool) -> types.Content:
        parts = [
            types.Part(function_response=types.FunctionResponse(id=id, name=CONFIRM, response={"confirmed": yes}))
            for id in self.waits.values()
        ]
        return types.Content(role="user", parts=parts)


def read(app: App, events: list[Any]) -> Trace:
    trace = Trace(shown=app.model.shown, answers=app.answers)
    app.waits = {}
    for event in events:
        for part in (event.content.parts or ()) if event.content else ():
            call, response = part.function_call, part.function_response
            if call is not None and call.name == CONFIRM:
                id = call.args["originalFunctionCall"]["id"]
                app.waits[id] = call.id
                trace.pending.append(id)
                trace.requests[id] = call.args["toolConfirmation"]["payload"]
            elif response is not None:
                said = response.response
                trace.answers[response.id] = Answer(str(said.get("error", said.get("result"))), "error" in said)
            elif part.text is not None and not event.partial:
                trace.final = part.text
    return trace


START = types.Content(role="user", parts=[types.Part(text="go")])


class AdkDriver(Driver):
    name: ClassVar[str] = "google_adk"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    gaps: ClassVar[Mapping[str, str]] = {}

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        asyncio.run(app.begin())
        return read(app, list(app.runner.run(**app.given(START))))

    async def arun(self, app: App) -> Trace:
        await app.begin()
        return read(app, [event async for event in app.runner.run_async(**app.given(START))])

    async def astream(self, app: App) -> Trace:
        await app.begin()
        return read(app, [event async for event in app.runner.run_async(**app.given(START, streaming=True))])

    def resume(self, app: App, yes: bool) -> Trace:
        return read(app, list(app.runner.run(**app.given(app.answer(yes))))) if app.waits else Trace()

    async def aresume(self, app: App, yes: bool) -> Trace:
        return read(app, [event async for event in app.runner.run_async(**app.given(app.answer(yes)))]) if app.waits else Trace()

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = app.bodies[call.tool]
        return {
            "tool.func(...)": attempt(lambda: tool.func(**call.args)),
            "tool.func.__wrapped__(...)": attempt(lambda: tool.func.__wrapped__(**call.args)),  # type: ignore[attr-defined]
            "tool.run_async(...)": attempt(lambda: asyncio.run(tool.run_async(args=dict(call.args), tool_context=None))),  # type: ignore[arg-type]
        }

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.runner)}


def attempt(way: Any) -> object:
    try:
        return json.dumps(way(), default=str)
    except Exception as error:
        return error


DRIVER = AdkDriver
