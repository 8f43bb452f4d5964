"""smolagents with a `Model` of our own as its fake one. Everything in it is synchronous: async is a program that runs the agent in a thread, stream one that reads its steps as
they come; tools that are coroutine functions are wrapped as smolagents wants them, in functions that run them to their end."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from smolagents import LogLevel, Model, Tool, ToolCallingAgent
from smolagents.agents import ToolOutput
from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole

from guard.adapters.smolagents import coverage, guard_agent
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "FakeModel", "SmolagentsDriver", "agent_of", "tool_of"]

TYPES = {"str": "string", "int": "integer", str: "string", int: "integer"}


class FakeModel(Model):  # type: ignore[misc]
    def __init__(self, script: Script, trace: Trace) -> None:
        super().__init__()
        self.turns, self.trace = iter(script), trace

    def generate(
        self, messages: Any, stop_sequences: Any = None, response_format: Any = None, tools_to_call_from: Any = None, **_: Any
    ) -> ChatMessage:
        self.trace.shown.append(tuple(tool.name for tool in tools_to_call_from or ()))
        turn = next(self.turns)
        calls = (Call("end", "final_answer", {"answer": turn}),) if isinstance(turn, str) else turn
        return ChatMessage(role=MessageRole.ASSISTANT, content="so:", tool_calls=[_said(call) for call in calls])


def _said(call: Call | Delegate) -> ChatMessageToolCall:
    if isinstance(call, Delegate):
        call = Call(call.id, call.agent, {"task": "help"})
    return ChatMessageToolCall(
        ChatMessageToolCallFunction(arguments=dict(call.args) if isinstance(call.args, Mapping) else call.args, name=call.tool),
        call.id,
        "function",
    )


class Desk(ToolCallingAgent):  # type: ignore[misc]
    """Writes down what each call was answered with; the memory has it as one text."""

    trace: Trace

    def process_tool_calls(self, *args: Any, **kwargs: Any) -> Any:
        for each in super().process_tool_calls(*args, **kwargs):
            if isinstance(each, ToolOutput):
                self.trace.answers[each.id] = Answer(each.observation, None)
            yield each


def tool_of(body: Callable[..., Any]) -> Tool:
    parameters = inspect.signature(body).parameters

    def forward(*args: Any, **kwargs: Any) -> Any:
        made = body(*args, **kwargs)
        return asyncio.run(made) if inspect.iscoroutine(made) else made

    functools.update_wrapper(forward, body)
    inputs = {
        name: {"type": TYPES[one.annotation], "description": name, **({} if one.default is one.empty else {"nullable": True})}
        for name, one in parameters.items()
    }
    about = {"name": body.__name__, "description": inspect.getdoc(body), "inputs": inputs, "output_type": "string"}
    kind = type("Function", (Tool,), {**about, "skip_forward_signature_validation": True, "forward": staticmethod(forward)})
    return kind()


def agent_of(name: str, tools: list[Tool], script: Script, trace: Trace, managed: tuple[Any, ...] = ()) -> Desk:
    made = Desk(
        tools=tools,
        model=FakeModel(script, trace),
        name=name,
        description=name,
        managed_agents=list(managed),
        verbosity_level=LogLevel.OFF,
        max_steps=20,
    )
    made.trace = trace
    return made


class App:
    def __init__(self, world: World, script: Script) -> None:
        world.slow_for = min(world.slow_for, 3.0)  # nothing cancels a thread
        self.world, self.script, self.trace = world, script, Trace()
        handed = {call.agent: call.script for turn in script if not isinstance(turn, str) for call in turn if isinstance(call, Delegate)}
        tools = [tool_of(body) for body in world.tools()]
        helpers = tuple(agent_of(name, tools, said, self.trace) for name, said in handed.items())
        self.agent = guard_agent(world.guard, agent_of("desk", tools, script, self.trace, helpers))


class SmolagentsDriver(Driver):
    name: ClassVar[str] = "smolagents"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    ids: ClassVar[bool] = False
    gaps: ClassVar[Mapping[str, str]] = {"pause": "smolagents has no pause; the model reads that approval is needed"}

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return self._ended(app, str(app.agent.run("go")))

    async def arun(self, app: App) -> Trace:
        try:
            return await asyncio.to_thread(self.run, app)
        except asyncio.CancelledError:
            app.agent.interrupt()
            raise

    async def astream(self, app: App) -> Trace:
        return await asyncio.to_thread(lambda: self._ended(app, str(list(app.agent.run("go", stream=True))[-1].output)))

    def resume(self, app: App, yes: bool) -> Trace:
        return self._joined(app, self.run(self._again(app))) if yes else app.trace

    async def aresume(self, app: App, yes: bool) -> Trace:
        return self._joined(app, await self.arun(self._again(app))) if yes else app.trace

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        bare = next(tool for tool in (tool_of(body) for body in app.world.tools()) if tool.name == call.tool)
        kept = app.agent.tools[call.tool]
        ways: dict[str, Callable[..., Any]] = {"the tool below": bare, "its forward": bare.forward, "__wrapped__": bare.forward.__wrapped__}
        ways["an attribute of the guarded tool"] = lambda **args: [value(**args) for value in vars(kept).values() if callable(value)]
        ways["its closure"] = lambda **args: [
            cell.cell_contents(**args) for cell in type(kept).__call__.__closure__ if isinstance(cell.cell_contents, Tool)
        ]
        return {name: attempt(way, call) for name, way in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}

    def _ended(self, app: App, final: str) -> Trace:
        """What a step failed with is what the model read of those of its calls that have no answer."""
        for agent in [app.agent, *app.agent.managed_agents.values()]:
            for step in agent.memory.steps:
                if getattr(step, "error", None) is not None:
                    for call in step.model_output_message.tool_calls if step.model_output_message else ():
                        app.trace.answers.setdefault(call.id, Answer(step.error.message, True))
        app.trace.final = final
        return app.trace

    def _again(self, app: App) -> App:
        """A model that was told that approval is needed, and is asked again later, repeats those calls."""
        calls = [call for turn in app.script if not isinstance(turn, str) for call in turn]
        return App(app.world, (tuple(c for c in calls if "needs approval" in app.trace.answers[c.id].text), "done"))

    def _joined(self, app: App, later: Trace) -> Trace:
        later.answers = {**app.trace.answers, **later.answers}
        return later


DRIVER = SmolagentsDriver
