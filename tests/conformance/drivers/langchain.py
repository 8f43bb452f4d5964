"""LangChain: `create_agent` with `GuardMiddleware`, LangChain's own fake chat model, a checkpointer in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from guard.adapters.langchain import GuardMiddleware, coverage
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World
from tests.conformance.drivers.loop import attempt

__all__ = ["DRIVER", "App", "LangChainDriver", "Model", "messages_of", "model_of"]


class Model(GenericFakeChatModel):
    """LangChain's fake model; what it adds: it may be given tools, and notes which; its stream has the calls in it."""

    shown: Any = None

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        self.shown.append(tuple(tool.name for tool in tools))
        return self

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        said = next(self.messages)
        assert isinstance(said, AIMessage)
        calls = [tool_call_chunk(name=c["name"], args=json.dumps(c["args"]), id=c["id"], index=i) for i, c in enumerate(said.tool_calls)]
        yield ChatGenerationChunk(message=AIMessageChunk(said.content, tool_call_chunks=calls))


def messages_of(script: Script) -> list[AIMessage]:
    return [AIMessage(turn) if isinstance(turn, str) else AIMessage("", tool_calls=[_call(one) for one in turn]) for turn in script]


def model_of(script: Script) -> Model:
    return Model(messages=iter(messages_of(script)), shown=[])


def _call(one: Call | Delegate) -> Any:
    name, args = (one.agent, {"text": "help"}) if isinstance(one, Delegate) else (one.tool, dict(one.args))
    return {"name": name, "args": args, "id": one.id, "type": "tool_call"}


def tool_of(body: Callable[..., Any], asynchronous: bool) -> StructuredTool:
    return StructuredTool.from_function(**{"coroutine" if asynchronous else "func": body})


class App:
    def __init__(self, world: World, script: Script, middleware: Sequence[Any]) -> None:
        self.model = model_of(script)
        self.tools = [tool_of(body, world.asynchronous) for body in world.tools()]
        delegates = [one for turn in script if not isinstance(turn, str) for one in turn if isinstance(one, Delegate)]
        helpers = [_helper(world, one) for one in delegates]
        self.agent: Any = create_agent(self.model, [*self.tools, *helpers], middleware=middleware, checkpointer=InMemorySaver())
        self.config: Any = {"configurable": {"thread_id": "t"}}
        self.given: Any = {"messages": [("user", "go")]}

    def trace(self) -> Trace:
        state = self.agent.get_state(self.config)
        messages = state.values.get("messages", [])
        trace = Trace(shown=list(self.model.shown))
        for message in messages:
            if isinstance(message, ToolMessage):
                trace.answers[message.tool_call_id] = Answer(str(message.text), message.status == "error")
        trace.requests = {each.value["call_id"]: each.value for each in state.interrupts}
        trace.pending = list(trace.requests)
        last = messages[-1] if messages else None
        if isinstance(last, AIMessage) and not last.tool_calls and not state.next:
            trace.final = str(last.text)
        return trace

    def answer(self, yes: bool) -> Any:
        said = {"type": "approve" if yes else "reject"}
        return Command(resume={each.id: said for each in self.agent.get_state(self.config).interrupts})


def _helper(world: World, one: Delegate) -> StructuredTool:
    """A sub-agent as LangChain's pages make one: a tool whose function runs an agent of its own. It has no middleware of its own."""
    inner = create_agent(model_of(one.script), [tool_of(body, world.asynchronous) for body in world.tools()], name=one.agent)

    def helper(text: str) -> str:
        """Ask the helper."""
        return str(inner.invoke({"messages": [("user", text)]})["messages"][-1].text)

    async def ahelper(text: str) -> str:
        """Ask the helper."""
        return str((await inner.ainvoke({"messages": [("user", text)]}))["messages"][-1].text)

    return StructuredTool.from_function(helper, ahelper, name=one.agent)


class LangChainDriver(Driver):
    name: ClassVar[str] = "langchain"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})

    def build(self, world: World, script: Script) -> App:
        return App(world, script, [GuardMiddleware(world.guard)])

    def run(self, app: App) -> Trace:
        app.agent.invoke(app.given, app.config)
        return app.trace()

    async def arun(self, app: App) -> Trace:
        await app.agent.ainvoke(app.given, app.config)
        return app.trace()

    async def astream(self, app: App) -> Trace:
        async for _ in app.agent.astream(app.given, app.config, stream_mode=["updates", "messages"]):
            pass
        return app.trace()

    def resume(self, app: App, yes: bool) -> Trace:
        app.agent.invoke(app.answer(yes), app.config)
        return app.trace()

    async def aresume(self, app: App, yes: bool) -> Trace:
        await app.agent.ainvoke(app.answer(yes), app.config)
        return app.trace()

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        tool = next(tool for tool in app.tools if tool.name == call.tool)
        bare = create_agent(model_of(((call,), "done")), [tool])
        return {
            "tool.invoke": attempt(lambda **args: tool.invoke(args), call),
            "tool.func": attempt(tool.func, call),  # type: ignore[arg-type]
            "tool.func.__wrapped__": attempt(tool.func.__wrapped__, call),  # type: ignore[union-attr]
            "an agent without middleware": attempt(lambda **_: bare.invoke({"messages": [("user", "go")]}), call),
        }

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.agent)}


DRIVER = LangChainDriver
