"""Two agents over A2A: one sends a message with the token of its task, the other answers it with a loop of its own, whose model says the script.

The client and the server are the SDK's own; between them is HTTP without a socket. Real sockets are the business of tests/adapters/test_a2a.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, ClassVar

import httpx
from a2a.client import ClientCallInterceptor, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette

from guard import ApprovalRequired, Denied, ToolCall
from guard.adapters.a2a import GuardExecutor, GuardHandler, GuardInterceptor, coverage
from guard.telemetry import META_APPROVAL
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "A2ADriver", "agent_card", "application", "message"]

CARD_URL = "http://127.0.0.1/"


class Loop(AgentExecutor):
    """The agent at the other end: a dispatch loop, and a person's yes or no as one word of the next message."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def execute(self, context: RequestContext, event_queue: Any) -> None:
        if context.current_task is None:
            submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=submitted))
        updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        await self.play()
        await updater.complete(updater.new_agent_message([Part(text=self.app.trace.final or "")]))

    async def cancel(self, context: RequestContext, event_queue: Any) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()

    async def play(self) -> None:
        app = self.app
        for turn in app.script[app.at :]:
            app.trace.shown.append(tuple(app.world.guard.visible(app.tools)))
            if isinstance(turn, str):
                app.trace.final = turn
                break
            waiting = [asked for asked in await asyncio.gather(*(self._one(each) for each in turn)) if asked is not None]
            if waiting:
                app.trace.pending = [waiting[0][0]]
                raise waiting[0][1]
            app.at += 1

    async def _one(self, call: Call | Delegate) -> tuple[str, ApprovalRequired] | None:
        app = self.app
        if isinstance(call, Delegate):
            nested = App(app.world, call.script)
            await send(nested, message("go on"))
            app.trace.answers |= nested.trace.answers
            app.trace.answers[call.id] = Answer(nested.trace.final or "", None)
            return None
        try:
            result = await app.world.guard.acall(ToolCall(call.tool, call.args, id=call.id), awaited(app.tools.get(call.tool, _nobody)))
        except ApprovalRequired as asked:
            return call.id, asked
        except Exception as error:
            app.trace.answers[call.id] = Answer(error.for_model() if isinstance(error, Denied) else type(error).__name__, True)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)
        return None


class App:
    """The agent at the other end, what its model will say, and where it is."""

    def __init__(self, world: World, script: Script) -> None:
        self.world, self.script = world, script
        self.tools: dict[str, Callable[..., Any]] = {body.__name__: body for body in world.tools()}
        self.trace, self.at, self.task_id, self.streams = Trace(), 0, "", False
        self.handler = GuardHandler(
            world.guard, DefaultRequestHandler(GuardExecutor(world.guard, Loop(self)), InMemoryTaskStore(), agent_card(CARD_URL))
        )


class A2ADriver(Driver):
    name: ClassVar[str] = "a2a"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    carries: ClassVar[bool] = True

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        return await self._go_on(app)

    async def astream(self, app: App) -> Trace:
        app.streams = True
        return await self._go_on(app)

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        app.trace.pending = []
        if yes:
            return await self._go_on(app)
        async with app.world.guard.task(app.world.token), Connected(app, [GuardInterceptor(app.world.guard)]) as client:
            await client.cancel_task(CancelTaskRequest(id=app.task_id))
        return app.trace

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        body = app.tools[call.tool]
        app.script, app.at = ((call,), "done"), 0
        found: dict[str, object] = {}
        for way, attempt in (
            ("tool(...)", lambda: body(**call.args)),
            ("tool.__wrapped__(...)", lambda: body.__wrapped__(**call.args)),  # type: ignore[attr-defined]
            ("the executor under it", lambda: asyncio.run(Loop(app).play())),
        ):
            try:
                found[way] = attempt()
            except Exception as error:
                found[way] = error
        return found

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.handler)}

    async def _go_on(self, app: App) -> Trace:
        try:
            async with app.world.guard.task(app.world.token):
                await send(app, message("go on", app.task_id))
        except Denied as denied:  # nothing is sent; whoever sends what is no token is refused at the other end
            assert str(denied.decision.code) != "task.none"
            await send(app, message("go on", app.task_id), Bare(app.world.token))
        return app.trace


class Bare(ClientCallInterceptor):
    """Sends a text as the token, whatever it is."""

    def __init__(self, token: str) -> None:
        self.token = token

    async def before(self, args: Any) -> None:
        from a2a.client import ClientCallContext

        args.context = ClientCallContext(service_parameters={"Authorization": f"Bearer {self.token}"})

    async def after(self, args: Any) -> None:
        """Nothing."""


class Elsewhere(httpx.ASGITransport):
    """What is open around the client is not open around the server, as between two processes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await asyncio.create_task(super().handle_async_request(request), context=Context())


class Connected:
    """A client of the agent of `app`."""

    def __init__(self, app: App, interceptors: list[Any]) -> None:
        transport = Elsewhere(application(app.handler))
        config = ClientConfig(streaming=app.streams, httpx_client=httpx.AsyncClient(transport=transport))
        self.client = ClientFactory(config).create(agent_card(CARD_URL), interceptors)

    async def __aenter__(self) -> Any:
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


async def send(app: App, request: Any, interceptor: Any = None) -> None:
    """Send a message and take down what came of it, as the asking agent sees it."""
    last: Any = None
    async with Connected(app, [interceptor or GuardInterceptor(app.world.guard)]) as client:
        try:
            async for event in client.send_message(request):
                last = (
                    event.task.status if event.HasField("task") else event.status_update.status if event.HasField("status_update") else last
                )
                app.task_id = event.task.id or event.status_update.task_id or app.task_id
        except (A2AError, A2AClientError) as error:  # refused as a whole: that is the answer to everything it was sent for
            turn = app.script[app.at]
            app.trace.answers |= {call.id: Answer(str(error), True) for call in turn if not isinstance(turn, str)}  # type: ignore[union-attr]
            return
    if last is None or last.state == TaskState.TASK_STATE_FAILED:
        app.trace.error = RuntimeError("the agent at the other end failed")
    elif last.state == TaskState.TASK_STATE_INPUT_REQUIRED:
        shown = MessageToDict(last.message.metadata)
        app.trace.requests |= dict.fromkeys(app.trace.pending, shown[META_APPROVAL])


def awaited(body: Callable[..., Any]) -> Callable[..., Any]:
    if asyncio.iscoroutinefunction(body):
        return body

    async def run(**args: Any) -> Any:
        return await asyncio.to_thread(body, **args)

    return run


def _nobody(**_: object) -> Any:
    raise AssertionError("a tool nobody has ran")


def agent_card(url: str) -> AgentCard:
    return AgentCard(
        name="desk",
        description="A desk.",
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        supported_interfaces=[AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url=url)],
    )


def application(handler: Any) -> Starlette:
    return Starlette(routes=create_jsonrpc_routes(handler, "/"))


_ids = iter(range(10**9))


def message(text: str, task_id: str = "") -> SendMessageRequest:
    return SendMessageRequest(message=Message(role=Role.ROLE_USER, message_id=f"m{next(_ids)}", task_id=task_id, parts=[Part(text=text)]))


DRIVER = A2ADriver
