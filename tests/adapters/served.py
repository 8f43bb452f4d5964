"""What the adapters of both MCP servers are asked alike, with real servers: in memory, over stdio, over streamable HTTP. Collected by their own test files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp.types import ElicitResult

from guard import Guard, Policy
from guard.adapters.mcp import GuardedSession
from guard.identity.holder import HolderKey
from guard.record import ListSink
from guard.telemetry import META_CALL, META_CODE, META_DECISION, META_PROOF, META_TOKEN
from tests.adapters.common import POLICY
from tests.adapters.shop import TRANSPORTS, Shop, Wire, asked, in_memory, over_http, said

PROMPT = "guardtrail.io/approval"
LARGE = {"order": "A-17", "amount": "2000.17"}
YES = {PROMPT: ElicitResult(action="accept", content={})}
Test = Callable[[Wire], Awaitable[None]]


@pytest.fixture
def shop(tmp_path: Path, kind: str) -> Shop:
    """`kind`: a fixture of the module that takes these tests, the module that makes the server."""
    return Shop(tmp_path, kind)


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, shop: Shop) -> Callable[..., Shop]:
    """Runs an async test against a server on each transport: none is trusted more (fail-open row F36)."""
    return lambda test, **options: play(shop, TRANSPORTS[request.param], test, **options)


@pytest.fixture
def once(shop: Shop) -> Callable[..., Shop]:
    """The same in memory only, for what no transport has a part in."""
    return lambda test, **options: play(shop, in_memory, test, **options)


def play(shop: Shop, served: Any, test: Test, **options: Any) -> Shop:
    async def main() -> BaseException | None:
        async with served(shop, **options) as wire:
            try:
                await test(wire)
            except BaseException as error:  # raised outside, where no task group wraps it
                return error
        return None

    error = asyncio.run(main())
    if error is not None:
        raise error
    return shop


def test_f36_the_same_verdicts_on_every_transport(run: Callable[..., Shop]) -> None:
    calls: list[tuple[str, dict[str, object], str | None, str]] = [
        ("look", {"order": "A-17"}, "", "order A-17, 1 page(s)"),
        ("look", {"order": "B-99"}, "", "args.constraint"),
        ("look", {"order": "A-17"}, None, "token.missing"),
        ("look", {"order": "A-17"}, "nobody", "token."),
        ("wipe", {"order": "A-17"}, "", "intent.tool"),
        ("unmapped", {}, "", "tool.unknown"),
        ("no_such_tool", {}, "", "tool.unknown"),
        ("refund", {"order": "A-17", "amount": "20"}, "", "refunded 20"),
        ("refund", {"order": "A-17"}, "", "args.missing"),
        ("refund", {"order": "A-17", "amount": "20", "to": "eve"}, "", "args.unknown"),
        ("look", {"order": "A-17", "pages": "1"}, "", "args.type"),
    ]

    async def test(wire: Wire) -> None:
        for tool, args, token, says in calls:
            result = await wire.call(tool, args, token=token)
            assert says in said(result), tool
            assert result.is_error is (says[:2] not in ("or", "re"))

    shop = run(test)
    assert shop.ran == ["look", "refund"]
    verdicts = ["allow", "deny", "deny", "deny", "deny", "deny", "deny", "allow", "deny", "deny", "deny"]
    assert [code.split()[0] for code in shop.codes] == verdicts


def test_f57_a_tool_that_is_not_shown_is_not_callable(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        assert await wire.listed(wire.shop.token()) == ["look", "refund", "fail", "echo"]
        assert await wire.listed(wire.shop.token("look-order")) == ["look"]
        assert await wire.listed(None) == []
        with pytest.raises(MCPError) as denied:
            await wire.listed("nobody")
        assert denied.value.code == -32010
        for tool in ("refund", "fail", "echo", "wipe", "unmapped"):
            assert (await wire.call(tool, {"order": "A-17", "amount": "1"}, token=wire.shop.token("look-order"))).is_error

    assert run(test).ran == []


def test_f66_a_ready_made_yes_authorizes_nothing(run: Callable[..., Shop]) -> None:
    """A client that says yes to everything, before it is asked and after: the call waits for a person of the guard's."""

    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        for answers in (YES, YES | {"ok": ElicitResult(action="accept")}):
            result = await wire.call("refund", LARGE, token=token, answers=answers)
            assert result.is_error and "needs approval" in said(result)
        prompt = asked(await wire.call("refund", LARGE, token=token))
        assert list(prompt.input_requests or {}) == [PROMPT]
        assert "2000.17" not in prompt.model_dump_json() and prompt.request_state is None
        whole = await wire.client.call_tool("refund", LARGE, meta={META_TOKEN: token})  # asked, said yes, made again: by the SDK itself
        assert whole.is_error and "needs approval" in said(whole)
        declined = await wire.call("refund", LARGE, token=token, answers={PROMPT: ElicitResult(action="decline")})
        assert declined.is_error and "did not accept" in said(declined)
        assert wire.shop.ran == []
        waiting = list(wire.shop.desk.pending())
        for each in waiting[:1]:
            wire.shop.desk.approve(each.request.id, wire.shop.iam.login("bob", groups=["treasury"]))
        assert "refunded 2000.17" in said(await wire.call("refund", LARGE, token=token, answers=YES))
        assert (await wire.call("refund", {**LARGE, "amount": "2000.18"}, token=token, answers=YES)).is_error

    assert run(test).ran == ["refund"]


def test_an_older_client_reads_that_approval_is_needed(shop: Shop) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("refund", LARGE)
        assert result.is_error and "needs approval" in said(result)
        assert result.meta[PROMPT]["tool"] == "refund" and "2000.17" not in result.model_dump_json()

    assert play(shop, in_memory, test, mode="legacy").ran == []
    no_prompt = lambda shop: shop.make(prompt=False)  # noqa: E731
    assert play(shop, in_memory, test, make=no_prompt).ran == []


def test_f47_the_chain_is_the_tasks_not_the_sessions(shop: Shop) -> None:
    """Each call on a connection of its own, of either era: the fourth refund is one too many."""
    token = shop.token()
    answers = []

    async def test(wire: Wire) -> None:
        answers.append((await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token)).is_error)

    for mode in ("auto", "legacy", "auto", "legacy"):
        play(shop, in_memory, test, mode=mode)
    assert answers == [False, False, False, True]
    assert shop.ran == ["refund"] * 3


def test_the_tool_sees_neither_token_nor_proof(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        meta = {META_CALL: "c", "auth": f"Bearer {token}", "deep": [{"in": token, "too": 1}], "kept": "yes"}
        seen = json.loads(said(await wire.call("echo", token=token, meta=meta)))
        assert token not in json.dumps(seen)
        assert {key: value for key, value in seen["meta"].items() if not key.startswith("io.model")} == {
            "deep": [{"too": 1}],
            "kept": "yes",
        }

    run(test)


def test_over_http_the_token_may_stand_in_the_header(shop: Shop) -> None:
    token, other = shop.token(), shop.token(order="B-99")
    table: list[tuple[list[tuple[str, str]], str | None, str]] = [
        ([("authorization", f"Bearer {token}")], None, "order A-17"),
        ([("authorization", f"bearer {token}")], None, "order A-17"),
        ([("authorization", f"Bearer {other}")], None, "args.constraint"),
        ([("authorization", f"Bearer {other}")], token, "order A-17"),  # what comes with the call is nearer to it
        ([("authorization", f"Bearer {token}")], "nobody", "token."),  # and what does not verify there is not made good here
        ([("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")], None, "token.missing"),
        ([("authorization", f"Basic {token}")], None, "token.missing"),
        ([("authorization", f"DPoP {token}")], None, "token.missing"),
        ([("x-token", token)], None, "token.missing"),
    ]

    for headers, sent, says in table:

        async def test(wire: Wire, sent: str | None = sent, says: str = says) -> None:
            assert says in said(await wire.call("look", {"order": "A-17"}, token=sent))
            if says.startswith("order") and sent is None:
                assert token not in said(await wire.call("echo", token=None))

        play(shop, over_http, test, http=httpx2.AsyncClient(headers=headers))  # type: ignore[arg-type]


def test_a_process_that_serves_one_task(shop: Shop) -> None:
    """Its own token counts where a request brings none, and not for whoever sends one over HTTP."""
    token = shop.token()

    async def test(wire: Wire) -> None:
        assert "order A-17" in said(await wire.call("look", {"order": "A-17"}, token=None))
        assert await wire.listed(None) == ["look", "refund", "fail", "echo"]
        assert (await wire.call("look", {"order": "A-17"}, token="nobody")).is_error
        assert (await wire.call("look", {"order": "A-17"}, token=None, meta={META_TOKEN: ["x"]})).is_error

    async def refused(wire: Wire) -> None:
        assert "token.missing" in said(await wire.call("look", {"order": "A-17"}, token=None))

    for own in (token, lambda: token):
        play(shop, in_memory, test, make=lambda shop, own=own: shop.make(token=own))
        play(shop, over_http, refused, make=lambda shop, own=own: shop.make(token=own))
    for wrong in (lambda: None, lambda: 7, lambda: ""):
        result = play(shop, in_memory, nothing_runs, make=lambda shop, wrong=wrong: shop.make(token=wrong))
    assert result.ran == ["look"] * 2


async def nothing_runs(wire: Wire) -> None:
    try:
        assert (await wire.call("look", {"order": "A-17"}, token=None)).is_error
    except MCPError:
        pass


def test_a_token_that_cannot_be_read_runs_nothing(once: Callable[..., Shop]) -> None:
    def broken() -> str:
        raise OSError("hunter2-9f1c")

    async def test(wire: Wire) -> None:
        for attempt in (wire.call("look", {"order": "A-17"}, token=None), wire.listed(None)):
            with pytest.raises(MCPError) as failed:
                await attempt
            assert "hunter2" not in str(failed.value)

    assert once(test, make=lambda shop: shop.make(token=broken)).ran == []


def test_a_task_around_the_client_is_not_the_requests(once: Callable[..., Shop]) -> None:
    """In memory client and server share a context: a verdict must not depend on that (fail-open row F36)."""

    async def test(wire: Wire) -> None:
        async with wire.shop.guard().task(wire.shop.token()):
            assert "token.missing" in said(await wire.call("look", {"order": "A-17"}, token=None))
            assert await wire.listed(None) == []

    assert once(test).ran == []


def test_a_bound_token_needs_a_proof_of_each_call(once: Callable[..., Shop]) -> None:
    key = HolderKey.generate()

    async def test(wire: Wire) -> None:
        token = wire.shop.token(key=key.public)
        guard = Guard(policy(), trust=wire.shop.iam, sinks=[ListSink()])
        async with guard.task(token, key=key):
            tools = GuardedSession(guard, wire.client.session, present=key)
            assert [tool.name for tool in (await tools.list_tools()).tools] == ["look", "refund", "fail", "echo"]
            assert "order A-17" in said(await tools.call_tool("look", {"order": "A-17"}))
        proof = key.prove(token, "look", {"order": "A-17"})
        assert "order A-17" in said(await wire.call("look", {"order": "A-17"}, token=token, meta={META_PROOF: proof}))
        for meta in ({META_PROOF: proof}, {}, {META_PROOF: 7}):
            assert "token.proof" in said(await wire.call("look", {"order": "A-17"}, token=token, meta=meta))

    assert once(test).ran == ["look"] * 2


def policy() -> Any:
    return Policy.from_text(POLICY, file="shop.yaml")


def test_everything_else_is_a_call_too(run: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        client, token = wire.client.session, wire.shop.token()
        meta: Any = {META_TOKEN: token}
        assert "order A-17" in str(await client.read_resource("shop://orders/A-17", meta=meta))
        assert "speak of tea" in str(await client.get_prompt("greet", {"topic": "tea"}, meta=meta))
        for attempt in (
            client.read_resource("shop://orders/B-99", meta=meta),
            client.read_resource("shop://orders/A-17"),
            client.read_resource("shop://orders/A-17", meta={META_TOKEN: wire.shop.token("look-order")}),
            client.get_prompt("other", {"topic": "tea"}, meta=meta),
            client.get_prompt("greet", {"topic": "tea", "more": "x"}, meta=meta),
        ):
            with pytest.raises(MCPError) as denied:
                await attempt
            assert denied.value.code == -32010 and set(denied.value.error.data) == {"code", "decision"}
        assert wire.shop.ran == ["order", "greet"]

    run(test)


def test_lists_of_resources_and_prompts_are_empty_where_none_may_be_read(once: Callable[..., Shop]) -> None:
    from mcp.types import PaginatedRequestParams

    async def test(wire: Wire) -> None:
        for intent, many in (("refund-order", 1), ("look-order", 0)):
            params = PaginatedRequestParams(_meta={META_TOKEN: wire.shop.token(intent)})
            assert len((await wire.client.session.list_prompts(params=params)).prompts) == many
            assert len((await wire.client.session.list_resource_templates(params=params)).resource_templates) == many
        assert (await wire.client.session.list_prompts()).prompts == []

    once(test)


def test_other_methods_are_denied_by_default(shop: Shop) -> None:
    from mcp.types import ResourceTemplateReference

    async def test(wire: Wire) -> None:
        with pytest.raises(MCPError) as denied:
            await wire.client.session.complete(
                ResourceTemplateReference(type="ref/resource", uri="shop://orders/{id}"), {"name": "id", "value": "A"}
            )
        assert denied.value.code == -32010
        await wire.client.session.send_ping()

    play(shop, in_memory, test, mode="legacy")


def test_a_call_with_an_id_runs_once(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        token, meta = wire.shop.token(), {META_CALL: "toolu_1"}
        first = await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token, meta=meta)
        again = await wire.call("refund", {"order": "A-17", "amount": "1"}, token=token, meta=meta)
        assert said(first) == said(again) == "refunded 1 on A-17"

    assert once(test).ran == ["refund"]


def test_what_a_tool_raises_is_in_no_record(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("fail", {"order": "A-17"})
        assert result.is_error and META_DECISION not in (result.meta or {})  # the framework's own, untouched

    shop = once(test)
    assert shop.ran == ["fail"]
    assert [record["status"] for record in shop.records if "status" in record] == ["error"]
    assert "hunter2" not in json.dumps(shop.records)


def test_a_refusal_names_its_decision(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        result = await wire.call("look", {"order": "B-99"})
        assert result.meta[META_CODE] == "args.constraint" and len(result.meta[META_DECISION]) == 26
        assert "B-99" not in result.model_dump_json()

    once(test)


def test_a_credential_that_was_taken_back_calls_nothing_more(once: Callable[..., Shop]) -> None:
    """A task stays open from one request to the next; what may have changed meanwhile is asked at each call."""

    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        assert not (await wire.call("look", {"order": "A-17"}, token=token)).is_error
        async with wire.shop.guard().task(token) as task:
            credential = task.delegation.credential
        wire.shop.taken_back.revoke("credential", credential.jti, issuer=credential.issuer)
        for _ in range(2):
            assert "revoked" in said(await wire.call("look", {"order": "A-17"}, token=token))

    assert once(test).ran == ["look"]


def test_a_task_that_has_ended_calls_nothing_more(once: Callable[..., Shop]) -> None:
    async def test(wire: Wire) -> None:
        token = wire.shop.token()
        async with wire.shop.guard().task(token):
            assert not (await wire.call("look", {"order": "A-17"}, token=token)).is_error
        assert "task.ended" in said(await wire.call("look", {"order": "A-17"}, token=token))

    assert once(test).ran == ["look"]
