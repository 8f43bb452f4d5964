"""LlamaIndex with its own `MockFunctionCallingLLM`. Its agents are awaited: sync is a program that does so in `asyncio.run`. async: an agent alone that does not stream,
stream: the same with `streaming=True`. A sub-agent is the next agent of an `AgentWorkflow`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context, JsonPickleSerializer
from pydantic import PrivateAttr

from guard.adapters.llamaindex import ApprovalNeeded, coverage, guard_agent
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "LlamaindexDriver", "agent_of", "model_of", "workflow_of"]


class Model(MockFunctionCallingLLM):  # type: ignore[misc]
    """Writes down what it is offered."""

    _trace: Trace = PrivateAttr()

    def _prepare_chat_with_tools(self, tools: Any, *args: Any, **kwargs: Any) -> Any:
        self._trace.shown.append(tuple(tool.metadata.name for tool in tools if tool.metadata.name != "handoff"))
        return super()._prepare_chat_with_tools(tools, *args, **kwargs)


def model_of(script: Script, trace: Trace) -> Model:
    turns = iter(script)

    def say(*_: Any, **__: Any) -> ChatMessage:
        turn = next(turns)
        return ChatMessage(role="assistant", blocks=[TextBlock(text=turn)] if isinstance(turn, str) else [_block(call) for call in turn])

    made = Model(response_generator=say)
    made._trace = trace
    return made


def _block(call: Call | Delegate) -> ToolCallBlock:
    if isinstance(call, Delegate):
        call = Call(call.id, "handoff", {"to_agent": call.agent, "reason": "help"})
    return ToolCallBlock(tool_call_id=call.id, tool_name=call.tool, tool_kwargs=dict(call.args))


def agent_of(name: str, tools: list[Any], script: Script, trace: Trace, **more: Any) -> FunctionAgent:
    return FunctionAgent(name=name, description=name, tools=tools, llm=model_of(script, trace), **more)


def workflow_of(world: World, script: Script, trace: Trace, *, streaming: bool = False) -> Any:
    """A desk, or a workflow of it and of the agents that the script hands work to. LlamaIndex hands over for good: the last word is the sub-agent's."""
    handed = {call.agent: call.script for turn in script if not isinstance(turn, str) for call in turn if isinstance(call, Delegate)}
    tools = [FunctionTool.from_defaults(body) for body in world.tools()]
    desk = agent_of("desk", tools, script, trace, streaming=streaming)
    if not handed:
        return desk
    others = [agent_of(name, tools, said, trace, streaming=streaming) for name, said in handed.items()]
    return AgentWorkflow(agents=[desk, *others], root_agent="desk")


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script, self.trace = world, script, Trace()
        self.agent = guard_agent(world.guard, workflow_of(world, script, self.trace))
        self.kept: dict[str, Any] = {}
        self.waiting: list[ApprovalNeeded] = []


class LlamaindexDriver(Driver):
    name: ClassVar[str] = "llamaindex"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        return await self._read(app, app.agent.run("go"))

    async def astream(self, app: App) -> Trace:
        app.agent = guard_agent(app.world.guard, workflow_of(app.world, app.script, app.trace, streaming=True))
        return await self.arun(app)

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        """In another loop, as in another process: the context is what was kept of the run."""
        context = Context.from_dict(app.agent, app.kept, serializer=JsonPickleSerializer())
        handler = app.agent.run(ctx=context)
        for event in app.waiting:
            handler.ctx.send_event(event.answer(yes))
        app.waiting, app.trace.pending = [], []
        return await self._read(app, handler)

    async def _read(self, app: App, handler: Any) -> Trace:
        """To the end, or until every call of a turn has its result or waits."""
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                app.trace.answers[event.tool_id] = Answer(event.tool_output.content, event.tool_output.is_error)
            elif isinstance(event, ApprovalNeeded):
                app.waiting.append(event)
                app.trace.requests[event.tool_id] = event.request
            if app.waiting:
                ids = {one.tool_id for one in app.waiting}
                turn = next(turn for turn in app.script if not isinstance(turn, str) and ids & {call.id for call in turn})
                if all(call.id in ids or call.id in app.trace.answers for call in turn):
                    app.kept, app.trace.pending = handler.ctx.to_dict(serializer=JsonPickleSerializer()), sorted(ids)
                    await handler.cancel_run()
                    return app.trace
        app.trace.final = str(await handler)
        return app.trace

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = next(each for each in app.agent.tools if each.metadata.name == call.tool)
        bare = tool._tool
        ways = {
            "tool.fn": lambda **_: tool.fn(),
            "the tool below": bare.call,
            "its fn": bare.fn,
            "its real_fn": bare.real_fn,
            "__wrapped__": bare.real_fn.__wrapped__,
        }
        return {name: attempt(way, call) for name, way in ways.items()}

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


DRIVER = LlamaindexDriver
