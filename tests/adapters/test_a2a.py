"""Two agents over A2A, each with a guard of its own and nothing in common but the issuer they trust; between them real HTTP."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("a2a")

from a2a.client import ClientCallContext, ClientConfig, ClientFactory
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Part,
    SubscribeToTaskRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from starlette.applications import Starlette

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.adapters.a2a import GuardExecutor, GuardHandler, GuardInterceptor, coverage
from guard.errors import ConfigError
from guard.identity import RevocationList
from guard.record import ListSink, ListSpans
from tests.adapters.common import POLICY, ROOT, listening
from tests.conformance.drivers.a2a import Bare, agent_card, message
from tests.patience import PYTHONPATH


class Remote(AgentExecutor):
    """Does what the message says, one call a line: `look A-17`. Takes down what it can see."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.ran: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.actors: list[tuple[str, ...]] = []
        self.go_on = True

    async def execute(self, context: Any, event_queue: Any) -> None:
        self.seen.append(dict(context.call_context.state))
        self.tokens.append(self.guard.current().token)
        self.actors.append(self.guard.current().delegation.actors)
        submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        if context.current_task is None:
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=submitted))
        said = []
        for line in context.get_user_input().split("; "):
            tool, order = line.split()
            args = {"order": order} | ({"amount": "1"} if tool == "refund" else {})
            try:
                said.append(await self.guard.acall(ToolCall(tool, args), self._body(tool)))
            except Denied as denied:
                if not self.go_on:
                    raise
                said.append(denied.for_model())
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.complete(updater.new_agent_message([Part(text=" | ".join(said))]))

    async def cancel(self, context: Any, event_queue: Any) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()

    def _body(self, tool: str) -> Callable[..., Any]:
        async def body(**args: str) -> str:
            self.ran.append(tool)
            return f"{tool} {args['order']}"

        return body


class Two:
    """The agent that asks and the one that answers."""

    def __init__(self) -> None:
        self.iam = LocalIssuer("acme-dev")
        self.taken_back = RevocationList()
        self.here = Guard(Policy.from_text(POLICY), trust=self.iam, sinks=[ListSink()])
        self.spans, self.sink = ListSpans(), ListSink()
        self.there = Guard(Policy.from_text(POLICY), trust=self.iam, sinks=[self.sink, self.spans], revocations=self.taken_back)
        self.agent = Remote(self.there)
        self.exchanges = 0
        exchange = self.iam.exchange

        def counted(request: Any) -> str:
            self.exchanges += 1
            return exchange(request)

        self.iam.exchange = counted  # type: ignore[method-assign]

    def token(self, order: str = "A-17") -> str:
        return self.iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": order})

    def app(self, handler: Any = None) -> Starlette:
        handler = handler or GuardHandler(
            self.there, DefaultRequestHandler(GuardExecutor(self.there, self.agent), InMemoryTaskStore(), agent_card("http://127.0.0.1/"))
        )
        return Starlette(routes=[*create_rest_routes(handler, path_prefix="/rest"), *create_jsonrpc_routes(handler, "/")])

    def client(self, url: str, *interceptors: Any, rest: bool = False, streaming: bool = True) -> Any:
        card = agent_card(f"{url}/rest" if rest else f"{url}/")
        if rest:
            del card.supported_interfaces[:]
            card.supported_interfaces.append(AgentInterface(protocol_binding="HTTP+JSON", protocol_version="1.0", url=f"{url}/rest"))
        return ClientFactory(ClientConfig(streaming=streaming, supported_protocol_bindings=["HTTP+JSON" if rest else "JSONRPC"])).create(
            card, list(interceptors)
        )


@pytest.fixture
def two() -> Two:
    return Two()


async def ask(client: Any, text: str, task_id: str = "", context: Any = None) -> Any:
    """The last status of the A2A task, with the id of the task."""
    last, id = None, ""
    async for event in client.send_message(message(text, task_id), context=context):
        last = event.task.status if event.HasField("task") else event.status_update.status
        id = event.task.id or event.status_update.task_id or id
    return last, id


def text(status: Any) -> str:
    return "".join(part.text for part in status.message.parts)


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_narrower_token_goes_along_and_never_the_one_it_was_made_of(two: Two, rest: bool, streaming: bool) -> None:
    async def main(url: str) -> None:
        narrow = GuardInterceptor(two.here, actor="mailer", tools=["look"], ttl="2m")
        async with two.here.task(two.token()) as task:
            client = two.client(url, narrow, rest=rest, streaming=streaming)
            status, _ = await ask(client, "look A-17; look B-99; refund A-17")
            assert text(status).startswith("look A-17 | look denied") and "grant.tool" in text(status)
            await ask(client, "look A-17")
            await client.close()
            assert task.token not in two.agent.tokens and len(set(two.agent.tokens)) == 1

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == ["look", "look"]
    assert two.exchanges == 1
    assert set(two.agent.actors) == {("support", "mailer")}
    for seen in two.agent.seen:
        assert two.agent.tokens[0] not in str(seen)
        assert not {"authorization", "dpop"} & set(seen["headers"])
    assert {record.task for record in two.sink.decisions} == {two.sink.decisions[0].task}


def test_a_narrower_task_around_the_call_is_the_one_that_goes(two: Two) -> None:
    async def main(url: str) -> None:
        async with two.here.task(two.token()) as task, await task.adelegate("mailer", tools=["look"]) as child:
            client = two.client(url, GuardInterceptor(two.here))
            status, _ = await ask(client, "refund A-17")
            assert "grant.tool" in text(status)
            await client.close()
            assert two.agent.tokens == [child.token] and child.token != task.token

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == []


def test_nothing_is_sent_where_nothing_may_be(two: Two) -> None:
    async def main(url: str) -> None:
        client = two.client(url, GuardInterceptor(two.here, actor="mailer"))
        with pytest.raises(Denied, match=r"task\.none"):
            await ask(client, "look A-17")
        async with two.here.task(two.token()):
            context = ClientCallContext(service_parameters={"authorization": "Bearer other"})
            with pytest.raises(ConfigError, match="something else"):
                await ask(client, "look A-17", context=context)
            with pytest.raises(ConfigError, match="https"):
                await ask(two.client("http://agents.example", GuardInterceptor(two.here)), "look A-17")
            kept = ClientCallContext(service_parameters={"x-kept": "1"})
            await ask(client, "look A-17", context=kept)
            assert kept.service_parameters == {"x-kept": "1"}  # it may be used for another agent
            assert two.agent.seen[0]["headers"]["x-kept"] == "1"
        async with two.here.task(two.token()):
            refused = two.client(url, GuardInterceptor(two.here, actor="mailer", tools=["look"]))

            def no(request: Any) -> str:
                raise OSError("hunter2-9f1c")

            two.iam.exchange = no  # type: ignore[method-assign]
            with pytest.raises(Denied, match=r"delegation\."):
                await ask(refused, "look A-17")
        for each in (client, refused):
            await each.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == ["look"]


def test_without_a_token_that_verifies_nothing_begins_and_nothing_is_read(two: Two) -> None:
    async def main(url: str) -> None:
        token = two.token()
        mine = two.client(url, Bare(token))
        _, id = await ask(mine, "look A-17")
        assert (await mine.get_task(GetTaskRequest(id=id))).id == id
        strangers = [[], [Bare("nobody")], [Bare("")], [Bare(two.iam.login("bob"))], [Bare(two.token("B-99"))], [Bare(two.token())]]
        for number, interceptors in enumerate(strangers):
            client = two.client(url, *interceptors)
            with pytest.raises(A2AError) as refused:
                await client.get_task(GetTaskRequest(id=id))
            assert number < 4 or "not found" in str(refused.value).lower()  # of another task of the guard's: it is not there
            with pytest.raises(A2AError):
                await client.cancel_task(CancelTaskRequest(id=id))
            with pytest.raises(A2AError):
                async for _ in client.subscribe(SubscribeToTaskRequest(id=id)):
                    pass
            if number < 4:
                with pytest.raises(A2AError):
                    await client.list_tasks(ListTasksRequest())
                with pytest.raises(A2AError):
                    await ask(client, "look A-17")
            else:
                assert list((await client.list_tasks(ListTasksRequest())).tasks) == []
                with pytest.raises(A2AError):
                    await ask(client, "look A-17", id)  # a message to a task that is not one's own
            await client.close()
        await mine.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == ["look"]


def test_a_credential_that_was_taken_back_begins_nothing(two: Two) -> None:
    async def main(url: str) -> None:
        token = two.token()
        client = two.client(url, Bare(token))
        await ask(client, "look A-17")
        async with two.there.task(token) as task:
            credential = task.delegation.credential
        two.taken_back.revoke("credential", credential.jti, issuer=credential.issuer)
        with pytest.raises(A2AError):
            await ask(client, "look A-17")
        await client.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == ["look"]


def test_a_token_in_the_message_is_only_text(two: Two) -> None:
    async def main(url: str) -> None:
        client = two.client(url)
        request = message("look A-17")
        request.metadata.update({"guardtrail.io/token": two.token(), "authorization": f"Bearer {two.token()}"})
        with pytest.raises(A2AError):
            async for _ in client.send_message(request):
                pass
        await client.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.agent.ran == []


def test_an_executor_without_the_handler_rejects_all_the_same(two: Two) -> None:
    handler = DefaultRequestHandler(GuardExecutor(two.there, two.agent), InMemoryTaskStore(), agent_card("http://127.0.0.1/"))

    async def main(url: str) -> None:
        for interceptors in ([], [Bare("nobody")]):
            client = two.client(url, *interceptors)
            status, _ = await ask(client, "look A-17")
            assert status.state == TaskState.TASK_STATE_REJECTED and "token." in text(status)
            assert set(MessageToDict(status.message.metadata)) == {"guardtrail.io/decision", "guardtrail.io/code"}
            await client.close()
        client = two.client(url, Bare(two.token()))
        assert text((await ask(client, "look A-17"))[0]) == "look A-17"
        await client.close()

    with listening(two.app(handler)) as url:
        asyncio.run(main(url))
    assert two.agent.ran == ["look"]


def test_a_denial_the_executor_lets_pass_ends_the_task_as_rejected(two: Two) -> None:
    two.agent.go_on = False

    async def main(url: str) -> None:
        client = two.client(url, Bare(two.token()))
        status, _ = await ask(client, "look B-99")
        assert status.state == TaskState.TASK_STATE_REJECTED and "args.constraint" in text(status) and "B-99" not in text(status)
        await client.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))


def test_the_spans_of_the_other_agent_are_in_the_same_trace(two: Two) -> None:
    async def main(url: str) -> None:
        context = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
        async with two.here.task(two.token()):
            client = two.client(url, GuardInterceptor(two.here, actor="mailer"))
            with trace.use_span(trace.NonRecordingSpan(context)):
                await ask(client, "look A-17")
            await client.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    calls = [span for span in two.spans.finished() if span.name == "execute_tool look"]
    assert [f"{span.context.trace_id:032x}" for span in calls] == ["0af7651916cd43dd8448eb211c80319c"]


def test_each_delegation_is_of_the_task_it_was_made_for(two: Two) -> None:
    """One interceptor serves many tasks at once."""

    async def one(client: Any, order: str) -> None:
        async with two.here.task(two.token(order)):
            for _ in range(3):
                status, _id = await ask(client, f"look {order}")
                assert text(status) == f"look {order}"

    async def main(url: str) -> None:
        client = two.client(url, GuardInterceptor(two.here, actor="mailer", tools=["look"]))
        await asyncio.gather(*(one(client, f"A-{number}") for number in range(6)))
        await client.close()

    with listening(two.app()) as url:
        asyncio.run(main(url))
    assert two.exchanges == 6
    assert len(set(two.agent.tokens)) == 6
    assert len({record.task for record in two.sink.decisions}) == 6


def test_coverage_says_what_is_missing(two: Two) -> None:
    card, store = agent_card("http://127.0.0.1/"), InMemoryTaskStore()
    guarded = GuardExecutor(two.there, two.agent)
    table: list[tuple[Any, dict[str, bool]]] = [
        (GuardHandler(two.there, DefaultRequestHandler(guarded, store, card)), {"handler": True, "executor": True}),
        (DefaultRequestHandler(guarded, store, card), {"handler": False, "executor": True}),
        (GuardHandler(two.there, DefaultRequestHandler(two.agent, store, card)), {"handler": True, "executor": False}),
        (DefaultRequestHandler(two.agent, store, card), {"handler": False, "executor": False}),
        (guarded, {"executor": True}),
        (two.agent, {"executor": False}),
        (object(), {}),
    ]
    for server, expected in table:
        assert {seen.path: seen.covered for seen in coverage(server)} == expected


def test_it_wants_a_guard_and_somebody_to_narrow_for(two: Two) -> None:
    for make in (lambda: GuardInterceptor("x"), lambda: GuardExecutor("x", two.agent), lambda: GuardHandler("x", None)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="is the Guard that decides"):
            make()
    with pytest.raises(ConfigError, match="name it"):
        GuardInterceptor(two.here, tools=["look"])


def test_an_sdk_that_is_not_there_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import guard.adapters.a2a as adapter

    monkeypatch.setitem(sys.modules, "a2a.client", None)
    with pytest.raises(ConfigError, match=r'guard\.adapters\.a2a needs .* >= 1\.1\.2: pip install "guardtrail\[a2a\]"'):
        importlib.reload(adapter)


def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    file = ROOT / "examples" / "adapters" / "a2a_agents.py"
    env = {"PYTHONPATH": PYTHONPATH, "PATH": ""}
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == file.with_suffix(".txt").read_text("utf-8")
