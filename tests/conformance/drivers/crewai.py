"""CrewAI with a `BaseLLM` of our own as its fake model, which calls functions the way OpenAI's do. stream: a crew with `stream=True`, read to its end."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar

for _name in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "CREWAI_TESTING"):
    os.environ[_name] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"
os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp(prefix="crewai-"))

from crewai import Agent, BaseLLM, Crew, Task  # noqa: E402
from crewai.tools import tool as crew_tool  # noqa: E402

from guard.adapters.crewai import coverage, guard_crew  # noqa: E402
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World  # noqa: E402
from tests.conformance.drivers.loop import attempt  # noqa: E402

__all__ = ["DRIVER", "CrewaiDriver", "FakeLLM", "agent_of", "crew_of", "crew_tool", "model_of", "said_by"]


class _Said:
    """What one fake model says, and where it is."""

    def __init__(self, script: Script, trace: Trace) -> None:
        self.script, self.trace, self.turn = script, trace, 0

    def next(self) -> Any:
        self.turn += 1
        return self.script[self.turn - 1]


_SAID: dict[str, _Said] = {}


class FakeLLM(BaseLLM):  # type: ignore[misc]
    """Says its script, writes down in the trace what it was offered and what it read. Known by the name of its model: in older releases it has no fields."""

    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        said = _SAID[self.model]
        said.trace.shown.append(tuple(each["function"]["name"] for each in tools or ()))
        for message in messages if isinstance(messages, list) else []:
            if message.get("role") == "tool":
                said.trace.answers[message["tool_call_id"]] = Answer(message["content"], None)
        turn = said.next()
        return turn if isinstance(turn, str) else [_said(call) for call in turn]

    async def acall(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        return self.call(messages, tools)

    def supports_function_calling(self) -> bool:
        return True

    def supports_stop_words(self) -> bool:
        return False


def said_by(model: FakeLLM) -> _Said:
    return _SAID[model.model]


def _said(call: Call | Delegate) -> dict[str, Any]:
    if isinstance(call, Delegate):
        call = Call(call.id, "delegate_work_to_coworker", {"task": "help", "context": "none", "coworker": call.agent})
    return {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": json.dumps(call.args)}}


def model_of(script: Script, trace: Trace, kind: type[FakeLLM] = FakeLLM) -> FakeLLM:
    name = f"fake-{len(_SAID)}"
    _SAID[name] = _Said(script, trace)
    return kind(model=name)


def agent_of(role: str, tools: list[Any], script: Script, trace: Trace, **more: Any) -> Agent:
    return Agent(role=role, goal="serve", backstory="none", tools=tools, llm=model_of(script, trace), max_retry_limit=0, **more)


def crew_of(world: World, script: Script, trace: Trace, *, stream: bool = False) -> Crew:
    """A desk; beside it a coworker for each agent that the script hands work to."""
    handed = {call.agent: call.script for turn in script if not isinstance(turn, str) for call in turn if isinstance(call, Delegate)}
    tools = [crew_tool(body) for body in world.tools()]
    others = [agent_of(name, tools, said, trace) for name, said in handed.items()]
    desk = agent_of("desk", tools, script, trace, allow_delegation=bool(handed))
    task = Task(description="serve", expected_output="a word", agent=desk)
    return Crew(agents=[desk, *others], tasks=[task], stream=stream)


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script, self.trace = world, script, Trace()
        self.crew = guard_crew(world.guard, crew_of(world, script, self.trace))


class CrewaiDriver(Driver):
    name: ClassVar[str] = "crewai"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    ids: ClassVar[bool] = False
    gaps: ClassVar[Mapping[str, str]] = {
        "pause": "CrewAI's own pause reads from the terminal of the process; a call that waits is a refusal the model reads"
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        app.trace.final = app.crew.kickoff().raw
        return app.trace

    async def arun(self, app: App) -> Trace:
        app.trace.final = (await app.crew.akickoff()).raw
        return app.trace

    async def astream(self, app: App) -> Trace:
        app.crew = guard_crew(app.world.guard, crew_of(app.world, app.script, app.trace, stream=True))
        streaming = await app.crew.akickoff()
        async for _ in streaming:
            pass
        app.trace.final = streaming.result.raw
        return app.trace

    def resume(self, app: App, yes: bool) -> Trace:
        again = self._again(app)
        return self._joined(app, self.run(again)) if yes else app.trace

    async def aresume(self, app: App, yes: bool) -> Trace:
        again = self._again(app)
        return self._joined(app, await self.arun(again)) if yes else app.trace

    def _again(self, app: App) -> App:
        """A model that was told that approval is needed, and is asked again later, repeats those calls."""
        calls = [call for turn in app.script if not isinstance(turn, str) for call in turn]
        return App(app.world, (tuple(c for c in calls if "needs approval" in app.trace.answers[c.id].text), "done"))

    def _joined(self, app: App, later: Trace) -> Trace:
        later.answers = {**app.trace.answers, **later.answers}
        return later

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = next(each for each in app.crew.agents[0].tools if each.name == call.tool)
        bare = tool._original
        ways = {"_original.run": bare.run, "func": bare.func, "__wrapped__": bare.func.__wrapped__}
        ways["a crew without a guard"] = lambda **_: crew_of(app.world, ((call,), "done"), Trace()).kickoff()
        ways["the structured tool"] = lambda **args: bare.to_structured_tool().invoke(args)
        return {name: attempt(way, call) for name, way in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.crew)}


DRIVER = CrewaiDriver
