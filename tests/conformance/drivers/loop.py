"""The smallest driver: a dispatch loop with `guard.call`, as in UX section 1. It shows what a driver is, and that the behaviours hold without any framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from guard import Denied, ToolCall
from guard.testing.conformance import Answer, Call, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "LoopDriver"]


class App:
    """An "agent": the world, what its model will say, and where it is."""

    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script = world, script
        self.tools: dict[str, Callable[..., Any]] = {body.__name__: body for body in world.tools()}
        self.trace = Trace()


class LoopDriver(Driver):
    name: ClassVar[str] = "loop"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async"})
    gaps: ClassVar[Mapping[str, str]] = {
        "stream": "a loop of one's own streams as it likes",
        "pause": "a loop of one's own catches ApprovalRequired and makes the call again",
        "sub_agent": "a loop of one's own has no sub-agents",
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        for turn in app.script:
            app.trace.shown.append(tuple(app.world.guard.visible(app.tools)))
            if isinstance(turn, str):
                app.trace.final = turn
                break
            for call in turn:
                self._call(app, call)
        return app.trace

    async def arun(self, app: App) -> Trace:
        for turn in app.script:
            app.trace.shown.append(tuple(app.world.guard.visible(app.tools)))
            if isinstance(turn, str):
                app.trace.final = turn
                break
            await asyncio.gather(*(self._acall(app, call) for call in turn))
        return app.trace

    def resume(self, app: App, yes: bool) -> Trace:
        app.trace = Trace()
        return self.run(app) if yes else app.trace

    async def aresume(self, app: App, yes: bool) -> Trace:
        app.trace = Trace()
        return await self.arun(app) if yes else app.trace

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = app.tools[call.tool]
        return {"tool(...)": attempt(tool, call), "tool.__wrapped__(...)": attempt(tool.__wrapped__, call)}  # type: ignore[attr-defined]

    def _call(self, app: App, call: Any) -> None:
        try:
            result = app.world.guard.call(ToolCall(call.tool, call.args, id=call.id), app.tools.get(call.tool, _nobody))
        except Exception as error:
            app.trace.answers[call.id] = _failed(error)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)

    async def _acall(self, app: App, call: Any) -> None:
        try:
            result = await app.world.guard.acall(ToolCall(call.tool, call.args, id=call.id), app.tools.get(call.tool, _nobody))
        except Exception as error:
            app.trace.answers[call.id] = _failed(error)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)


def _nobody(**_: object) -> Any:
    raise AssertionError("a tool nobody has ran")


def _failed(error: Exception) -> Answer:
    return Answer(error.for_model() if isinstance(error, Denied) else type(error).__name__, True)


def attempt(function: Callable[..., Any], call: Call) -> object:
    """What came of calling it: its value, or the exception."""
    try:
        return function(**call.args)
    except Exception as error:
        return error


DRIVER = LoopDriver
