"""A dispatch loop with a `Toolbox`, in the forms of three APIs: sync speaks chat completions, async Anthropic's messages, stream the items of OpenAI's
responses, each handed over as it arrives. Where `openai` and `anthropic` are installed, what the model says are the SDKs' own objects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from guard.adapters.plain import Answers, Toolbox, coverage
from guard.testing.conformance import Answer, Call, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "PlainDriver", "said"]


def said(form: str, calls: tuple[Call, ...]) -> Any:
    """One message of a model, as `form` writes it."""
    if form == "chat":
        made = [{"id": c.id, "type": "function", "function": {"name": c.tool, "arguments": json.dumps(c.args)}} for c in calls]
        return _parsed("openai.types.chat", "ChatCompletionMessage", {"role": "assistant", "content": None, "tool_calls": made})
    if form == "anthropic":
        content = [
            {"type": "text", "text": "so:"},
            *({"type": "tool_use", "id": c.id, "name": c.tool, "input": dict(c.args)} for c in calls),
        ]
        usage = {"input_tokens": 1, "output_tokens": 1}
        return _parsed(
            "anthropic.types",
            "Message",
            {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": content,
                "stop_reason": "tool_use",
                "usage": usage,
            },
        )
    return [
        _parsed(
            "openai.types.responses",
            "ResponseFunctionToolCall",
            {"type": "function_call", "call_id": c.id, "name": c.tool, "arguments": json.dumps(c.args), "status": "completed"},
        )
        for c in calls
    ]


def _parsed(module: str, name: str, data: dict[str, Any]) -> Any:
    """As the SDK reads it from the wire, where it is installed."""
    try:
        kind = getattr(__import__(module, fromlist=[name]), name)
    except ImportError:
        return data
    return kind.model_validate(data)


class App:
    """The loop: what its model says, where it is, and the answers that it keeps back while somebody is asked."""

    def __init__(self, world: World, script: Script) -> None:
        self.box = Toolbox(world.guard, world.tools())
        self.script, self.turn, self.trace = script, 0, Trace()
        self.asked: list[tuple[Any, Answers]] = []


class PlainDriver(Driver):
    name: ClassVar[str] = "plain"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    gaps: ClassVar[Mapping[str, str]] = {
        "sub_agent": "a loop of one's own has no sub-agents: a function that runs another loop is a tool, and the policy names it"
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        while (calls := self._turn(app, "chat")) is not None:
            message = said("chat", calls)
            if self._heard(app, [(message, app.box.answer(message))]):
                break
        return app.trace

    async def arun(self, app: App) -> Trace:
        while (calls := self._turn(app, "anthropic")) is not None:
            message = said("anthropic", calls)
            if self._heard(app, [(message, await app.box.aanswer(message))]):
                break
        return app.trace

    async def astream(self, app: App) -> Trace:
        while (calls := self._turn(app, "responses")) is not None:
            items = [[item] for item in said("responses", calls)]
            if self._heard(app, list(zip(items, await asyncio.gather(*map(app.box.aanswer, items)), strict=True))):
                break
        return app.trace

    def resume(self, app: App, yes: bool) -> Trace:
        again = [(message, app.box.answer(message, before) if yes else before) for message, before in app.asked]
        return app.trace if self._heard(app, again, wait=yes) else self.run(app)

    async def aresume(self, app: App, yes: bool) -> Trace:
        again = [(message, await app.box.aanswer(message, before) if yes else before) for message, before in app.asked]
        if self._heard(app, again, wait=yes):
            return app.trace
        return await (self.astream(app) if isinstance(again[0][0], list) else self.arun(app))

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = app.box._tools[call.tool].run  # what a program has that kept its functions, or reaches into the box
        ways: dict[str, Callable[..., Any]] = {"the function": tool, "its raw function": tool.raw_function, "__wrapped__": tool.__wrapped__}
        ways["__wrapped__ of that"] = tool.__wrapped__.__wrapped__
        return {name: attempt(way, call) for name, way in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.box)}

    def _turn(self, app: App, form: Any) -> tuple[Any, ...] | None:
        app.trace.shown.append(tuple(one.get("name") or one["function"]["name"] for one in app.box.definitions(form)))
        turn = app.script[app.turn]
        app.turn += 1
        if isinstance(turn, str):
            app.trace.final = turn
            return None
        if any(not isinstance(call, Call) for call in turn):
            raise AssertionError("a loop has no sub-agents")
        return turn

    def _heard(self, app: App, answered: list[tuple[Any, Answers]], *, wait: bool = True) -> bool:
        """The model reads the answers; True: one waits, and none of them is handed over yet."""
        app.asked = answered
        waiting = [each for _, answers in answered for each in answers.waiting] if wait else []
        app.trace.pending = [each.id for each in waiting]
        app.trace.requests = {each.id: each.request for each in waiting}
        if waiting:
            return True
        for block in [block for _, answers in answered for message in answers.messages for block in _blocks(message)]:
            id = block.get("tool_call_id") or block.get("tool_use_id") or block["call_id"]
            app.trace.answers[id] = Answer(block.get("content") or block.get("output") or "", block.get("is_error"))
        return False


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    return message["content"] if message.get("role") == "user" else [message]


DRIVER = PlainDriver
