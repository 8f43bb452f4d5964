"""A2A: delegation and trace go from agent to agent; who answers a message does so in the task of its token.

    from guard.adapters.a2a import GuardExecutor, GuardHandler, GuardInterceptor

    # the agent that asks: a narrower token for each other agent, and no token at all where there is no task
    client = await create_client(url, interceptors=[GuardInterceptor(guard, actor="mailer", tools=["send_email"])])
    async with guard.task(token):
        async for event in client.send_message(request): ...

    # the agent that answers
    executor = GuardExecutor(guard, MyExecutor())
    handler = GuardHandler(guard, DefaultRequestHandler(executor, InMemoryTaskStore(), agent_card))

The token stands in `Authorization: Bearer`, never in a message: messages are kept and shown. Without one that verifies, or with one that has expired, an
executor does not begin, and nothing of a task is read, cancelled or subscribed to. `guard.current()` is the task while the executor runs, whatever was
open around it. What it lets pass of a denial becomes the A2A task's own end (`rejected`), of an ask its own pause (`input-required`): the next message to that
task makes the call again, and the guard's approvals alone decide.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from ._core import ApprovalRequired, ConfigError, Denied, Guard, Seen, about, missing, refusal, request_task

try:
    from a2a.client import ClientCallContext, ClientCallInterceptor
    from a2a.server.agent_execution import AgentExecutor
    from a2a.server.request_handlers import RequestHandler
    from a2a.server.tasks import TaskUpdater
    from a2a.types import Part, Task, TaskState, TaskStatus
    from a2a.utils.errors import InternalError, InvalidRequestError
    from opentelemetry import context as otel
    from opentelemetry.propagate import extract, inject

    from ._a2a import TOKEN, Caller, Queue, taken
except ImportError as error:  # absent, or older, with other names
    raise missing("a2a", "a2a-sdk[http-server]", "1.1.2") from error

__all__ = ["GuardExecutor", "GuardHandler", "GuardInterceptor", "coverage"]

_KEPT: Final = 60.0
_MOST: Final = 256
Tools = Sequence[str] | Mapping[str, Mapping[str, object]] | None
_STREAMS: Final = ("on_message_send_stream", "on_subscribe_to_task")


class GuardInterceptor(ClientCallInterceptor):  # type: ignore[misc]
    """What a client sends along: the token of the current task, or a narrower one made of it, and `traceparent`.

    `actor`: the agent at the other end, to whom the task is delegated (`task.adelegate`); `tools`, `ttl` narrow what it gets. None: the token of the current
    task goes as it is; then open a narrower one around the call. Nothing is sent where there is no task, or it may not be delegated (Denied), where the agent is
    reached over neither TLS nor loopback, or where something else stands in `Authorization` (ConfigError).
    """

    def __init__(self, guard: Guard, *, actor: str | None = None, tools: Tools = None, ttl: str | None = None) -> None:
        _is_guard(guard)
        if actor is None and (tools is not None or ttl is not None):
            raise ConfigError("GuardInterceptor: `tools` and `ttl` narrow what `actor` gets; name it")
        self._guard, self._actor, self._tools, self._ttl = guard, actor, tools, ttl
        self._made: dict[bytes, tuple[float, str]] = {}

    async def before(self, args: Any) -> None:
        for each in args.agent_card.supported_interfaces:
            at = urlsplit(each.url)
            if at.scheme != "https" and at.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise ConfigError("GuardInterceptor: a token goes over https, or to this machine")
        context = args.context or ClientCallContext()
        sent = dict(context.service_parameters or {})
        if any(name.lower() == "authorization" for name in sent):
            raise ConfigError("GuardInterceptor: something else stands in `Authorization` already")
        token = await self._token()
        inject(sent)
        # a context of its own: the caller's may be used for another agent, which is not to have this token
        args.context = context.model_copy(update={"service_parameters": sent | {"Authorization": f"Bearer {token}"}})

    async def after(self, args: Any) -> None:
        """Nothing of an answer is looked at."""

    async def _token(self) -> str:
        task = self._guard.current()
        if self._actor is None:
            return task.token
        key, now = sha256(task.token.encode()).digest(), monotonic()
        made = self._made.get(key)
        if made is None or made[0] <= now:
            child = await task.adelegate(self._actor, tools=self._tools, ttl=self._ttl)
            if len(self._made) >= _MOST:
                self._made.clear()
            made = self._made[key] = (now + _KEPT, child.token)
        return made[1]


class GuardExecutor(AgentExecutor):  # type: ignore[misc]
    """An executor that begins in the task of the message's token, and not at all without one."""

    def __init__(self, guard: Guard, executor: AgentExecutor) -> None:
        _is_guard(guard)
        self._guard, self._executor = guard, executor

    async def execute(self, context: Any, event_queue: Any) -> None:
        await self._within(self._executor.execute, context, event_queue)

    async def cancel(self, context: Any, event_queue: Any) -> None:
        await self._within(self._executor.cancel, context, event_queue)

    async def _within(self, run: Callable[[Any, Any], Any], context: Any, event_queue: Any) -> None:
        state, queue = context.call_context.state, Queue(event_queue)
        token = taken(state)
        state.pop(TOKEN, None)
        trace = otel.attach(extract(state.get("headers") or {}))
        begun = False
        try:
            async with request_task(self._guard, token):
                begun = True
                await run(context, queue)
        except Denied as denied:
            await _ended(denied, context, queue)
        except Exception:
            if begun:
                raise  # of the executor, its own way
            raise InternalError("the guard failed; nothing was begun") from None
        finally:
            otel.detach(trace)


def _is_guard(guard: object) -> None:
    if not isinstance(guard, Guard):
        raise ConfigError("guard.adapters.a2a: `guard` is the Guard that decides")


async def _ended(denied: Denied, context: Any, queue: Queue) -> None:
    state = TaskState.TASK_STATE_INPUT_REQUIRED if isinstance(denied, ApprovalRequired) else TaskState.TASK_STATE_REJECTED
    if context.current_task is None and not queue.told:
        submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        await queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=submitted))
    updater = TaskUpdater(queue, context.task_id, context.context_id)
    await updater.update_status(state, message=updater.new_agent_message([Part(text=refusal(denied))], metadata=about(denied)))


class GuardHandler:
    """A `RequestHandler` that looks at nothing before the token of the request verifies. What one guard's task has begun no other one finds."""

    def __init__(self, guard: Guard, handler: RequestHandler) -> None:
        _is_guard(guard)
        self._guard, self._handler = guard, handler

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        method = getattr(self._handler, name)
        return self._streamed(method) if name in _STREAMS else self._awaited(method)

    def _awaited(self, method: Any) -> Any:
        async def call(params: Any, context: Any) -> Any:
            async with self._entered(context):
                return await method(params, context)

        return call

    def _streamed(self, method: Any) -> Any:
        async def call(params: Any, context: Any) -> AsyncIterator[Any]:
            async with self._entered(context):
                async for event in method(params, context):
                    yield event

        return call

    @asynccontextmanager
    async def _entered(self, context: Any) -> AsyncIterator[None]:
        token = taken(context.state)
        context.state[TOKEN] = token
        try:
            async with request_task(self._guard, token) as task:
                context.user = Caller(sha256("\0".join(task.delegation.task).encode()).hexdigest())
        except Denied as denied:
            raise InvalidRequestError(refusal(denied), {"code": str(denied.decision.code), "decision": denied.decision.id}) from None
        except Exception:
            raise InternalError("the guard failed; this request has no answer") from None
        yield


def coverage(server: Any) -> list[Seen]:
    """Is what a handler does behind the guard, and what its executor begins? Of an executor by itself, the second."""
    found = []
    if isinstance(server, (GuardHandler, RequestHandler)):
        own = isinstance(server, GuardHandler)
        found.append(
            Seen("handler", own, "" if own else "wrap it: GuardHandler(guard, handler); without it whoever has its id reads a task")
        )
        server = getattr(server._handler if own else server, "agent_executor", None)
    if isinstance(server, AgentExecutor) or found:
        covered = isinstance(server, GuardExecutor)
        found.append(Seen("executor", covered, "" if covered else "wrap it: GuardExecutor(guard, executor)"))
    return found
