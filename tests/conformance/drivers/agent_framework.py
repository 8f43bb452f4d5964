"""Microsoft Agent Framework: an `Agent` over a chat client that says a script; helpers by `as_tool`. Its runs are coroutines; "sync" is a program without a
loop of its own, with tools that are plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    FunctionTool,
    Message,
    ResponseStream,
)

from guard.adapters.agent_framework import GuardMiddleware, coverage
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "Said"]


class Said(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):  # type: ignore[misc, unused-ignore]
    """A model that says a script. `shown`: the tools of each request; `read`: the results it has read."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = list(script)
        self.shown: list[tuple[str, ...]] = []
        self.read: dict[str, Answer] = {}

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Mapping[str, Any], **_: Any) -> Any:
        self.shown.append(tuple(tool.name for tool in options.get("tools") or ()))
        for content in (content for message in messages for content in message.contents if content.type == "function_result"):
            self.read[content.call_id] = Answer(str(content.result), True if content.exception is not None else None)
        said = contents(self.script.pop(0))
        if not stream:

            async def respond() -> Any:
                return ChatResponse(messages=[Message(role="assistant", contents=said)])

            return respond()

        async def updates() -> AsyncIterator[Any]:
            for content in said:
                yield ChatResponseUpdate(role="assistant", contents=[content])

        return ResponseStream(updates(), finalizer=ChatResponse.from_updates)


def contents(said: Any) -> list[Any]:
    if isinstance(said, str):
        return [Content.from_text(said)]
    return [
        Content.from_function_call(call_id=each.id, name=each.agent, arguments={"task": "go"})
        if isinstance(each, Delegate)
        else Content.from_function_call(call_id=each.id, name=each.tool, arguments=dict(each.args))
        for each in said
    ]


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.tools = {body.__name__: FunctionTool(name=body.__name__, description=body.__doc__ or "", func=body) for body in world.tools()}
        tools: list[Any] = list(self.tools.values())
        for each in (each for said in script if not isinstance(said, str) for each in said if isinstance(each, Delegate)):
            helper = Agent(client=Said(each.script), name=each.agent, tools=world.tools(), middleware=[GuardMiddleware(world.guard)])
            tools.append(helper.as_tool())
        self.client = Said(script)
        self.agent = Agent(client=self.client, name="desk", tools=tools, middleware=[GuardMiddleware(world.guard)])
        self.session = self.agent.create_session()
        self.waits: list[Any] = []


def read(app: App, response: Any) -> Trace:
    trace = Trace(shown=app.client.shown)
    app.waits = [content for message in response.messages for content in message.contents if content.type == "function_approval_request"]
    for content in (content for message in response.messages for content in message.contents if content.type == "function_result"):
        app.client.read[content.call_id] = Answer(str(content.result), True if content.exception is not None else None)
    trace.answers = app.client.read
    for request in app.waits:
        trace.pending.append(request.function_call.call_id)
        trace.requests[request.function_call.call_id] = request.additional_properties["guardtrail"]
    if not app.waits:
        trace.final = response.text
    return trace


class AgentFrameworkDriver(Driver):
    name: ClassVar[str] = "agent_framework"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    gaps: ClassVar[Mapping[str, str]] = {}

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        return read(app, await app.agent.run("go", session=app.session))

    async def astream(self, app: App) -> Trace:
        stream = app.agent.run("go", session=app.session, stream=True)
        async for _ in stream:
            pass
        return read(app, await stream.get_final_response())

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        if not app.waits:
            return Trace()
        answers = [request.to_function_approval_response(approved=yes) for request in app.waits]
        return read(app, await app.agent.run([Message(role="user", contents=answers)], session=app.session))

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = app.tools[call.tool]
        ways: dict[str, Any] = {
            "tool(...)": lambda: tool(**call.args),
            "tool.func(...)": lambda: tool.func(**call.args),
            "tool.func.__wrapped__(...)": lambda: tool.func.__wrapped__(**call.args),
            "tool.invoke(...)": lambda: asyncio.run(tool.invoke(arguments=dict(call.args))),
        }
        return {way: attempt(tried) for way, tried in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


def attempt(way: Any) -> object:
    try:
        return way()
    except Exception as error:
        return error


DRIVER = AgentFrameworkDriver
