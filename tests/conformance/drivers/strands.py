"""Strands Agents: an `Agent` whose model says a script, helpers by `as_tool`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from strands import Agent, tool
from strands.models import Model

from guard.adapters.strands import GuardHooks, coverage
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "Said"]


class Said(Model):  # type: ignore[misc, unused-ignore]
    """A model that says a script. `shown`: the tools of each request; `read`: the results it has read."""

    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.shown: list[tuple[str, ...]] = []
        self.read: dict[str, Answer] = {}

    def update_config(self, **_: Any) -> None: ...

    def get_config(self) -> dict[str, Any]:
        return {}

    async def structured_output(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, tool_specs: Any = None, system_prompt: Any = None, **_: Any) -> AsyncIterator[Any]:
        self.shown.append(tuple(spec["name"] for spec in tool_specs or ()))
        self.read |= answers(messages)
        said = self.script.pop(0)
        yield {"messageStart": {"role": "assistant"}}
        if isinstance(said, str):
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": said}}}
            yield {"contentBlockStop": {}}
        for each in () if isinstance(said, str) else said:
            name, args = (each.agent, {"input": "go"}) if isinstance(each, Delegate) else (each.tool, each.args)
            yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": each.id, "name": name}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(args)}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if isinstance(said, str) else "tool_use"}}


def answers(messages: Any) -> dict[str, Answer]:
    found = (block["toolResult"] for message in messages for block in message["content"] if "toolResult" in block)
    return {each["toolUseId"]: Answer(str(each["content"]), each["status"] == "error") for each in found}


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.tools = {body.__name__: tool(body) for body in world.tools()}
        tools: list[Any] = list(self.tools.values())
        for each in (each for said in script if not isinstance(said, str) for each in said if isinstance(each, Delegate)):
            helper = Agent(
                model=Said(each.script),
                name=each.agent,
                tools=[tool(body) for body in world.tools()],
                hooks=[GuardHooks(world.guard)],
                callback_handler=None,
            )
            tools.append(helper.as_tool())
        self.model = Said(script)
        self.agent = Agent(model=self.model, name="desk", tools=tools, hooks=[GuardHooks(world.guard)], callback_handler=None)
        self.waits: list[Any] = []


def read(app: App, result: Any) -> Trace:
    app.waits = list(result.interrupts or ())
    trace = Trace(answers=app.model.read | answers(app.agent.messages), shown=app.model.shown)
    for each in app.waits:
        trace.pending.append(each.id.split(":")[2])
        trace.requests[each.id.split(":")[2]] = each.reason
    if result.stop_reason == "end_turn":
        trace.final = "".join(block.get("text", "") for block in result.message["content"])
    return trace


class StrandsDriver(Driver):
    name: ClassVar[str] = "strands"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    gaps: ClassVar[Mapping[str, str]] = {}

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return read(app, app.agent("go"))

    async def arun(self, app: App) -> Trace:
        return read(app, await app.agent.invoke_async("go"))

    async def astream(self, app: App) -> Trace:
        result: Any = None
        async for event in app.agent.stream_async("go"):
            result = event.get("result", result)
        return read(app, result)

    def resume(self, app: App, yes: bool) -> Trace:
        return read(app, app.agent(given(app, yes))) if app.waits else Trace()

    async def aresume(self, app: App, yes: bool) -> Trace:
        return read(app, await app.agent.invoke_async(given(app, yes))) if app.waits else Trace()

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        one: Any = app.tools[call.tool]

        async def stream() -> list[Any]:
            use = {"toolUseId": "t1", "name": call.tool, "input": dict(call.args)}
            return [event async for event in one.stream(use, {"agent": app.agent})]

        ways: dict[str, Any] = {
            "tool(...)": lambda: one(**call.args),
            "tool.__wrapped__(...)": lambda: one.__wrapped__(**call.args),
            "tool.stream(...)": lambda: asyncio.run(stream()),
            "agent.tool.wipe(...)": lambda: app.agent.tool.wipe(**call.args),
        }
        return {way: attempt(tried) for way, tried in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


def given(app: App, yes: bool) -> list[Any]:
    return [{"interruptResponse": {"interruptId": each.id, "response": yes}} for each in app.waits]


def attempt(way: Any) -> object:
    try:
        return way()
    except Exception as error:
        return error


DRIVER = StrandsDriver
