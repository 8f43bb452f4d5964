"""The door of a resource server: who gets in, with what, how often, and what everybody else is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, StateUnavailable
from guard.identity import HolderKey, TrustBundles, Workloads
from guard.identity.discovery import protected_resource
from guard.ops import Op, Pin
from guard.record import ListSink
from guard.server import Door, client_cert
from guard.server.nonces import Nonces
from guard.state import MemoryState, SqliteState
from guard.testing import FakeApprovals, FrozenClock
from guard.tokens.jose import b64url_decode, b64url_encode
from tests.tokens.forge import jwk
from tests.tokens.forge import token as signed

URL = "https://desk.acme.example/api"
SPIRE = ec.generate_private_key(ec.SECP256R1())
POLICY = """
guardtrail: 1
name: desk
owner: support@acme.example
tools:
  look: {effect: read, control: {order: id}}
  refund: {effect: pay, control: {order: id}}
  wipe: {effect: delete, control: {order: id}}
flow: {read: {allow: [any]}, pay: {allow: [any]}, delete: {allow: [any]}}
intents: {work: {ttl: 1h, allow: {look: {}, refund: {args: {order: {one_of: [A-17, B-2]}}}}}}
rules:
  - {id: never-alone, when: {tool: refund, args: {order: {eq: B-2}}}, require: {args.order: {eq: A-17}}, then: ask}
"""


class World:
    """One resource server on an ASGI transport, its issuer, a client with a key."""

    def __init__(self, store: Any = "memory:", policy: str = POLICY, proofs: Any = None, **door: Any) -> None:
        self.clock = FrozenClock()
        seconds = lambda: self.clock.now().timestamp()  # noqa: E731
        self.iam, self.key = LocalIssuer("acme-dev", clock=seconds), HolderKey.generate(clock=seconds)
        self.sink, self.ran, self.seen = ListSink(), list[str](), list[Any]()
        self.approvals = FakeApprovals(self.clock)
        self.guard = Guard(
            Policy.from_text(policy), trust=self.iam, sinks=[self.sink], clock=self.clock, state=store, approvals=self.approvals,
            deadline=timedelta(seconds=20), proofs=proofs,
        )  # fmt: skip
        self.look = self.guard.tool(self._look, name="look")
        self.handler: Callable[[Request], Awaitable[Response]] = self.looks
        door = {"url": URL, "nonces": False} | door
        routes = [Route("/{rest:path}", self.handle, methods=["GET", "POST"])]
        self.app = Starlette(
            routes=[WebSocketRoute("/socket", self.socket), *routes], middleware=[Middleware(Door, guard=self.guard, **door)]
        )

    def _look(self, order: str) -> str:
        self.ran.append(order)
        return f"order {order}"

    async def handle(self, request: Request) -> Response:
        return await self.handler(request)

    async def looks(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        return JSONResponse([self.look("A-17") for _ in range(int(request.query_params.get("times", 1)))])

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()

    def mint(self, **over: Any) -> str:
        return self.iam.mint(**({"origin": "alice", "actor": "desk", "intent": "work", "ttl": "1h", "key": self.key.public} | over))

    def proof(self, token: str, path: str = "/look", method: str = "POST", **over: Any) -> str:
        return self.key.dpop(method, URL + path, **({"presented": token} | over))

    def headers(self, token: str, path: str = "/look", method: str = "POST", **over: Any) -> list[tuple[str, str]]:
        return [("authorization", f"DPoP {token}"), ("dpop", self.proof(token, path, method, **over))]

    def send(self, headers: Any = (), path: str = "/look", method: str = "POST", **more: Any) -> httpx.Response:
        return self.at_once([headers], path, method, **more)[0]

    def at_once(self, several: Sequence[Any], path: str = "/look", method: str = "POST", **more: Any) -> list[httpx.Response]:
        async def go() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="https://inside:8443", headers={"accept-encoding": "identity"}
            ) as client:
                return list(await asyncio.gather(*(client.request(method, path, headers=headers, **more) for headers in several)))

        return asyncio.run(go())

    @property
    def codes(self) -> list[str]:
        return [str(record.code) for record in self.sink.decisions]


async def all_in(entered: list[int], number: int) -> None:
    """Every copy of a request is in before the first one calls."""
    entered.append(1)
    async with asyncio.timeout(30):
        while len(entered) < number:
            await asyncio.sleep(0.005)


def said(response: httpx.Response) -> list[str]:
    return response.headers.get_list("www-authenticate")


def test_a_bound_token_with_its_proof() -> None:
    world = World()
    token = world.mint()
    response = world.send(world.headers(token))
    assert (response.status_code, response.json()) == (200, ["order A-17"])
    assert "authorization" not in world.seen[0] and "dpop" not in world.seen[0], "what the application does not see it cannot log"
    assert world.codes == ["permit"]
    assert world.sink.decisions[0].task and world.sink.decisions[0].credential.startswith("acme-dev/")


def test_a_token_that_is_bound_to_nothing() -> None:
    world = World()
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert world.send({"authorization": f"{scheme} {world.mint(key=None)}"}).status_code == 200
    strict = World(bearer=False)
    response = strict.send({"authorization": f"Bearer {strict.mint(key=None)}"})
    assert (response.status_code, strict.ran) == (401, [])
    assert [text.partition(" ")[0] for text in said(response)] == ["DPoP"]


def test_who_shows_nothing_is_told_where_to_go() -> None:
    response = World().send()
    assert (response.status_code, response.json()) == (401, {})
    dpop, bearer = said(response)
    where = 'resource_metadata="https://desk.acme.example/.well-known/oauth-protected-resource/api"'
    assert dpop.startswith('DPoP algs="ES256 ') and dpop.endswith(where)
    assert bearer == f"Bearer {where}"


def test_the_metadata_is_here_and_needs_no_token() -> None:
    world = World(servers=["https://iam.acme.example"])
    response = world.send(path="/.well-known/oauth-protected-resource/api", method="GET")
    assert response.json() == {
        "resource": URL, "bearer_methods_supported": ["header"], "dpop_signing_alg_values_supported": response.json()["dpop_signing_alg_values_supported"],
        "dpop_bound_access_tokens_required": False, "authorization_servers": ["https://iam.acme.example"],
    }  # fmt: skip
    assert world.send(path="/.well-known/oauth-protected-resource", method="GET").status_code == 401
    found = protected_resource(
        URL, get=lambda url, seconds: world.send(path=url.removeprefix("https://desk.acme.example"), method="GET").json()
    )
    assert (found.resource, found.authorization_servers) == (URL, ("https://iam.acme.example",)), "as our own client reads it"


@pytest.mark.parametrize("name", [
    "as bearer", "no proof", "two proofs", "another method", "another path", "another host", "the inner host", "a query is left out", "another token",
    "without ath", "another key", "stale", "from the future", "a pop", "not a proof", "an empty proof", "an unbound token", "a proof beside bearer",
])  # fmt: skip
def test_what_a_proof_must_be(name: str) -> None:
    world = World()
    token, plain = world.mint(), world.mint(key=None)
    auth, bearer = ("authorization", f"DPoP {token}"), ("authorization", f"Bearer {token}")
    late = HolderKey(world.key._HolderKey__private, clock=lambda: world.clock.now().timestamp() - 61)  # type: ignore[attr-defined]
    early = HolderKey(world.key._HolderKey__private, clock=lambda: world.clock.now().timestamp() + 6)  # type: ignore[attr-defined]
    other = HolderKey.generate(clock=world.key.clock)
    headers = {
        "as bearer": [bearer],
        "no proof": [auth],
        "two proofs": [auth, ("dpop", world.proof(token)), ("dpop", world.proof(token))],
        "another method": [auth, ("dpop", world.proof(token, method="GET"))],
        "another path": [auth, ("dpop", world.proof(token, "/look/"))],
        "another host": [auth, ("dpop", world.key.dpop("POST", "https://desk.acme.example.evil.example/api/look", presented=token))],
        "the inner host": [auth, ("dpop", world.key.dpop("POST", "https://inside:8443/look", presented=token))],
        "a query is left out": [auth, ("dpop", world.key.dpop("POST", URL + "/look?a=b#c", presented=token))],
        "another token": [auth, ("dpop", world.proof(world.mint()))],
        "without ath": [auth, ("dpop", world.key.dpop("POST", URL + "/look"))],
        "another key": [auth, ("dpop", other.dpop("POST", URL + "/look", presented=token))],
        "stale": [auth, ("dpop", late.dpop("POST", URL + "/look", presented=token))],
        "from the future": [auth, ("dpop", early.dpop("POST", URL + "/look", presented=token))],
        "a pop": [auth, ("dpop", world.key.prove(token, "look", {"order": "A-17"}))],
        "not a proof": [auth, ("dpop", "eyJ.eyJ.@@")],
        "an empty proof": [auth, ("dpop", "")],
        "an unbound token": [("authorization", f"DPoP {plain}"), ("dpop", world.proof(plain))],
        "a proof beside bearer": [("authorization", f"Bearer {plain}"), ("dpop", world.proof(plain))],
    }[name]
    response = world.send(headers)
    if name == "a query is left out":
        assert response.status_code == 200
        return
    assert response.status_code == (400 if name == "two proofs" else 401), response.text
    assert world.ran == [] and world.seen == []
    error = {"two proofs": "invalid_request", "as bearer": "invalid_token", "a proof beside bearer": "invalid_token"}.get(
        name, "invalid_dpop_proof"
    )
    assert response.json()["error"] == error and response.json().get("code") is None
    if error == "invalid_dpop_proof":
        assert all(text.startswith('DPoP error="invalid_dpop_proof"') for text in said(response))
    assert token not in response.text and token not in "".join(said(response))


@pytest.mark.parametrize(("headers", "status"), [
    ([("authorization", "Bearer a.b.c"), ("authorization", "Bearer a.b.c")], 400),
    ([("authorization", "Bearer a.b.c"), ("Authorization", "DPoP a.b.c")], 400),
    ([("authorization", "Bearer a.b.c, Bearer d.e.f")], 401),
    ([("authorization", "Basic YTpi")], 401),
    ([("authorization", "Bearer")], 401),
    ([("authorization", "Bearer ")], 401),
    ([("authorization", "")], 401),
    ([("authorization", "Bearer a.b.c")], 401),
    ([("authorization", "Bearer " + "a" * 40_000)], 431),
    ([("authorization", "Bearer a.b.c"), ("x-large", "x" * 66_000)], 431),
    ([(f"x-{i}", "") for i in range(200)], 431),
    ([("authorization", "Bearer a.b.c"), ("content-encoding", "gzip")], 415),
    ([("authorization", "Bearer a.b.c"), ("content-encoding", "identity"), ("content-encoding", "br")], 415),
    ([("authorization", "DPoP a.b.c"), ("dpop", "x" * 5000)], 401),
])  # fmt: skip
def test_what_is_refused_unread(headers: list[tuple[str, str]], status: int) -> None:
    world = World()
    response = world.send(headers)
    assert response.status_code == status, response.text
    assert world.ran == [] and world.seen == []


def test_a_token_in_the_query_is_none() -> None:
    world = World()
    token = world.mint(key=None)
    for query in (f"access_token={token}", f"a=b&access_token={token}", f"a=b;ACCESS_TOKEN={token}"):
        assert world.send({"authorization": f"Bearer {token}"}, path=f"/look?{query}").status_code == 400
        assert world.send(path=f"/look?{query}").status_code == 400
    assert world.ran == []


def test_nonces_are_given_out_and_demanded() -> None:
    world = World(nonces=True)
    token = world.mint()
    first = world.send(world.headers(token))
    assert (first.status_code, first.json()["error"], world.ran) == (401, "use_dpop_nonce", [])
    assert 'error="use_dpop_nonce"' in said(first)[0] and len(said(first)) == 1
    assert world.sink.decisions == [], "to be asked for a nonce is no refusal"
    nonce = first.headers["dpop-nonce"]
    second = world.send(world.headers(token, nonce=nonce))
    assert (second.status_code, second.headers["dpop-nonce"]) == (200, nonce)
    world.clock.advance(61)
    third = world.send(world.headers(token, nonce=nonce))
    assert third.status_code == 200 and third.headers["dpop-nonce"] != nonce
    world.clock.advance(300)
    for old in (nonce, "x", "", nonce[:-1] + "A", "é"):
        assert world.send(world.headers(token, nonce=old)).json()["error"] == "use_dpop_nonce"
    assert world.send(world.headers(token, nonce=third.headers["dpop-nonce"])).json()["error"] == "use_dpop_nonce"


def test_processes_of_one_state_take_each_others_nonces() -> None:
    store = MemoryState()
    one, other, alone = World(store, nonces=True), World(store, nonces=True), World(nonces=True)
    nonce = one.send(one.headers(one.mint())).headers["dpop-nonce"]
    assert other.send(other.headers(other.mint(), nonce=nonce)).status_code == 200
    assert alone.send(alone.headers(alone.mint(), nonce=nonce)).json()["error"] == "use_dpop_nonce"


def test_a_nonce_is_of_the_clock_and_of_the_key() -> None:
    at = [1_000_000.0]
    ours, others = Nonces(b"k" * 32, lambda: at[0]), Nonces(b"l" * 32, lambda: at[0])
    nonce = ours.fresh()
    assert nonce in ours and nonce not in others and others.fresh() not in ours
    assert all(odd not in ours for odd in (None, 7, b"x", nonce + "A", nonce.swapcase(), "\ud800", ""))
    for later, counts in ((-60, True), (-120, False), (240, True), (300, False), (10**9, False), (-(10**6), False)):
        at[0] = 1_000_000.0 + later - 1_000_000 % 60
        assert (nonce in ours) is counts, later


def test_a_proof_is_good_for_one_request() -> None:
    world = World()
    headers = world.headers(world.mint())
    assert world.send(headers).status_code == 200
    for _ in range(2):
        again = world.send(headers)
        assert (again.status_code, again.json()["error"]) == (401, "invalid_dpop_proof")
    assert len(world.ran) == len(world.seen) == 1, "the application does not see the copy"


@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_of_copies_that_come_at_once_one_runs(where: str, tmp_path: Any) -> None:
    world = World(SqliteState(tmp_path / "state.db") if where == "sqlite" else "memory:")
    world.clock.advance(10 * 365 * 86400)  # after the file was made: a durable store knows nothing of tokens that are older
    entered: list[int] = []

    async def waits(request: Request) -> Response:
        await all_in(entered, 8)
        return JSONResponse(world.look("A-17"))

    world.handler = waits
    found = world.at_once([world.headers(world.mint())] * 8)
    assert len(entered) == 8
    assert sorted(response.status_code for response in found) == [200] + [401] * 7
    assert len(world.ran) == 1
    assert sorted(world.codes) == ["permit"] + ["token.proof"] * 7


def test_the_calls_of_one_request_are_covered_by_its_proof() -> None:
    world = World()
    assert world.send(world.headers(world.mint()), path="/look?times=5").json() == ["order A-17"] * 5

    async def parallel(request: Request) -> Response:
        async def one(order: str) -> str:
            await asyncio.sleep(0)
            return await world.guard.acall(ToolCall("look", {"order": order}), body)

        async def body(order: str) -> str:
            world.ran.append(order)
            await asyncio.sleep(0.01)
            return order

        return JSONResponse(await asyncio.gather(*(one(f"A-{i}") for i in range(20))))

    world.handler = parallel
    world.ran.clear()
    assert world.send(world.headers(world.mint())).status_code == 200
    assert len(world.ran) == 20


def test_threads_of_one_request_are_covered_by_its_proof() -> None:
    world = World()

    async def threads(request: Request) -> Response:
        return JSONResponse(await asyncio.gather(*(asyncio.to_thread(world.look, f"A-{i}") for i in range(10))))

    world.handler = threads
    assert world.send(world.headers(world.mint())).status_code == 200
    assert len(world.ran) == 10


def test_a_copy_that_is_held_open_gets_nothing() -> None:
    """Attack: a copy of a request is let in, and calls only when its mark is forgotten."""
    world = World()
    headers = world.headers(world.mint())
    waits, goes = threading.Event(), threading.Event()

    async def held(request: Request) -> Response:
        if not goes.is_set():
            waits.set()
            await asyncio.to_thread(goes.wait, 20)
        return JSONResponse(world.look("A-17"))

    world.handler = held
    found: list[httpx.Response] = []
    copy = threading.Thread(target=lambda: found.append(world.send(headers)))
    copy.start()
    assert waits.wait(20)
    world.handler = world.looks
    assert world.send(headers).status_code == 200
    world.clock.advance(10_000)
    goes.set()
    copy.join(20)
    assert [(one.status_code, one.json()["code"]) for one in found] in ([(401, "token.proof")], [(401, "token.expired")])
    assert len(world.ran) == 1


@pytest.mark.parametrize(("first", "later", "status"), [(True, 300, 200), (False, 61, 401), (False, 59, 200)])
def test_a_long_request(first: bool, later: int, status: int) -> None:
    """Once a call has taken the mark the request goes on for as long as its token; until then its proof must be fresh."""
    world = World()

    async def long(request: Request) -> Response:
        if first:
            world.look("A-17")
        world.clock.advance(later)
        return JSONResponse(world.look("A-17"))

    world.handler = long
    assert world.send(world.headers(world.mint())).status_code == status


def test_a_call_that_was_refused_leaves_the_proof_to_the_next() -> None:
    world = World()

    async def twice(request: Request) -> Response:
        with pytest.raises(Denied):
            world.guard.call(ToolCall("wipe", {"order": "A-17"}), world._look)
        assert world.guard.check(ToolCall("look", {"order": "A-17"})).verdict == "allow"
        return JSONResponse(world.look("A-17"))

    world.handler = twice
    headers = world.headers(world.mint())
    assert world.send(headers).status_code == 200
    assert world.send(headers).status_code == 401


class Broken(MemoryState):
    """Refuses to take marks of proofs."""

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Any:
        if commit and any(type(op) is Pin and op.key.startswith("proof|") for op in ops):
            raise StateUnavailable("full")
        return super().apply(ops, now=now, commit=commit)


def test_a_store_that_does_not_take_the_mark_denies() -> None:
    world = World(Broken())
    response = world.send(world.headers(world.mint()))
    assert (response.status_code, response.json()["code"], world.ran) == (503, "state.unavailable", [])
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize("act", ["says", "end", "delegate", "endorse"])
def test_what_is_no_call_takes_the_mark_too(act: str) -> None:
    """Attack: a copy with another body comes first, and leaves words that count as the user's."""
    world = World()
    done: list[str] = []
    entered: list[int] = []

    async def acts(request: Request) -> Response:
        task = world.guard.current()
        await all_in(entered, 4)
        if act == "says":
            await task.auser_says(str(request.query_params))
        elif act == "end":
            task.end()
        elif act == "endorse":
            try:
                await task.aendorse("look", "order", "A-17")
            except ApprovalRequired:
                pass
        else:
            try:
                await task.adelegate("helper")
            except Denied as denied:  # this issuer binds no child; the mark was taken before it was asked
                if denied.code != "delegation.widened":
                    raise
        done.append(act)
        return JSONResponse([])

    world.handler = acts
    found = world.at_once([world.headers(world.mint())] * 4)
    assert sorted(response.status_code for response in found) == [200] + [401] * 3
    assert done == [act]


def test_an_outcome_is_not_handed_to_a_copy() -> None:
    """Attack: a copy names the call of the first request by its id, and is given its result."""
    world = World()
    token = world.mint()

    entered: list[int] = []

    async def named(request: Request) -> Response:
        await all_in(entered, 3)
        return JSONResponse(world.guard.call(ToolCall("look", {"order": "A-17"}, "call-1"), world._look))

    world.handler = named
    found = world.at_once([world.headers(token)] * 3)
    assert [response.status_code for response in found].count(200) == 1
    assert {response.json()["code"] for response in found if response.status_code != 200} <= {"token.proof", "call.replayed"}
    again = world.send(world.headers(token))
    assert (again.status_code, again.json()["code"]) == (403, "call.replayed")
    assert len(world.ran) == 1


@pytest.mark.parametrize(("tool", "order", "status", "error", "code"), [
    ("wipe", "A-17", 403, None, "intent.tool"),
    ("refund", "C-3", 403, None, "args.constraint"),
    ("refund", "B-2", 403, "approval_required", "rule.require"),
    ("nonsense", "A-17", 403, None, "tool.unknown"),
])  # fmt: skip
def test_a_denial_inside_becomes_an_answer(tool: str, order: str, status: int, error: str | None, code: str) -> None:
    world = World()

    async def calls(request: Request) -> Response:
        world.guard.call(ToolCall(tool, {"order": order}), world._look)
        raise AssertionError

    world.handler = calls
    response = world.send(world.headers(world.mint()))
    assert (response.status_code, response.json().get("error"), response.json()["code"]) == (status, error, code)
    assert order not in response.text.replace("A-17", "") and said(response) == []


def test_a_grant_that_is_missing_is_a_scope_that_is_missing() -> None:
    world = World()

    async def calls(request: Request) -> Response:
        return JSONResponse(world.look("A-17"))

    world.handler = calls
    response = world.send(world.headers(world.mint(tools={"refund": None})))
    assert (response.status_code, response.json()["error"]) == (403, "insufficient_scope")
    assert all('error="insufficient_scope"' in text for text in said(response))


def test_tokens_that_do_not_count() -> None:
    world = World()
    other = LocalIssuer("acme-dev", clock=world.key.clock)
    forged = other.mint(origin="alice", actor="desk", intent="work", key=world.key.public)
    expired = world.mint(ttl="1s")
    world.clock.advance(30)
    for token in (forged, expired, "x.y.z", world.mint()[:-2]):
        for headers in ([("authorization", f"DPoP {token}"), ("dpop", world.proof(token))], [("authorization", f"Bearer {token}")]):
            response = world.send(headers)
            assert (response.status_code, response.json()["error"]) == (401, "invalid_token")
            assert "signature" not in response.text and "kid" not in response.text, "public words only"
    assert world.ran == []


def test_leaving_a_request_does_not_end_the_task() -> None:
    """Attack: a stolen token opens the task, leaves, and the task of everybody else is ended."""
    world = World()
    token = world.mint()
    for _ in range(3):
        assert world.send(world.headers(token)).status_code == 200
    with world.guard.task(token, key=world.key):
        assert world.send(world.headers(token)).status_code == 200
        world.look("A-17")
    assert world.codes.count("task.ended") == 0


def test_an_application_that_fails_leaves_no_task_behind() -> None:
    world = World()

    async def fails(request: Request) -> Response:
        raise RuntimeError("broken")

    world.handler = fails
    assert world.send(world.headers(world.mint())).status_code == 500
    assert world.guard._opened == {}


def test_a_path_that_is_free_has_no_task() -> None:
    world = World(free=["/health"])

    async def health(request: Request) -> Response:
        with pytest.raises(Denied) as caught:
            world.look("A-17")
        return JSONResponse(str(caught.value.code))

    world.handler = health
    assert world.send(path="/health", method="GET").json() == "task.none"
    for path in ("/health/", "/healt%68", "/HEALTH", "//health", "/health/../look"):
        assert world.send(path=path, method="GET").status_code == 401


def test_a_path_is_taken_as_it_was_asked_for() -> None:
    world = World()
    token = world.mint()
    for asked, proven, status in (("/a%2Fb", "/a%2Fb", 200), ("/a%2Fb", "/a/b", 401), ("/a/b", "/a%2Fb", 401), ("/%61", "/a", 401)):
        assert world.send(world.headers(token, proven), path=asked).status_code == status


@pytest.mark.parametrize(("raw", "status"), [
    (b"/look", 200), (b"/look?a=b", 200), (None, 200), (b"/l\xc3\xb6ok", 400), (b"/l%C3%B6ok", 401), (b"", 401), (b"//look", 401), (b"/./look", 401),
])  # fmt: skip
def test_what_a_server_says_of_the_path(raw: bytes | None, status: int) -> None:
    """Straight into the application, as any ASGI server may put it: headers in an iterator, no `raw_path`."""
    world = World()
    answers: list[Any] = []
    pairs = iter([(name.encode(), value.encode()) for name, value in world.headers(world.mint())])
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/look", "query_string": b"", "headers": pairs} | (
        {} if raw is None else {"raw_path": raw}
    )

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        answers.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert list(scope["headers"]) == []
        world.look("A-17")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    asyncio.run(Door(app, world.guard, url=URL, nonces=False)(scope, receive, send))
    assert answers[0]["status"] == status
    assert len(world.ran) == (status == 200)


def test_a_path_that_was_decoded_is_not_taken_for_another() -> None:
    from guard.server.headers import path_of

    assert path_of({"path": "/a%2Fb ü"}) == b"/a%252Fb%20%C3%BC"
    assert path_of({"path": "/a", "raw_path": b"/a%2Fb"}) == b"/a%2Fb"


def test_a_chain_comes_in_with_the_proof_of_its_last_holder() -> None:
    world = World()
    other = HolderKey.generate(clock=world.key.clock)
    chain = world.key.attenuate(world.mint(depth=1), actor="helper", key=other, tools=["look"])
    for key, text, status in ((world.key, chain, 401), (other, chain.partition("~")[0], 401), (other, chain, 200)):
        headers = [("authorization", f"DPoP {chain}"), ("dpop", key.dpop("POST", URL + "/look", presented=text))]
        assert world.send(headers).status_code == status
    assert world.sink.decisions[-1].actors == ("desk", "helper")


def test_effects_that_demand_a_key_or_a_workload() -> None:
    world = World(policy=POLICY + "proof: {read: key}\n")
    assert world.send(world.headers(world.mint())).status_code == 200
    plain = world.send({"authorization": f"Bearer {world.mint(key=None)}"})
    assert (plain.status_code, plain.json()["error"]) == (401, "invalid_token")
    world = World(policy=POLICY + "proof: {read: workload}\n")
    found = world.send(world.headers(world.mint()))
    assert (found.status_code, found.json()["code"]) == (403, "token.workload")


def test_evidence_of_a_workload_that_stands_outside_the_door(tmp_path: Path) -> None:
    bundle = tmp_path / "acme.json"
    bundle.write_text(json.dumps({"keys": [{**jwk(SPIRE, "k1"), "use": "jwt-svid"}]}))
    names: dict[str | tuple[str, str], str] = {"spiffe://acme.example/desk": "desk"}
    now = int(FrozenClock().now().timestamp())
    workloads = Workloads(TrustBundles({"acme.example": bundle}, audience="guard"), names=names, clock=lambda: now)
    world = World(policy=POLICY + "proof: {read: workload}\n", proofs=workloads)
    inner = world.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        shown = dict(scope["headers"]).get(b"workload-identity-token", b"").decode()
        with workloads.showing(shown):
            await inner(scope, receive, send)

    world.app = app  # type: ignore[assignment]

    def svid(name: str) -> tuple[str, str]:
        claims = {"sub": f"spiffe://acme.example/{name}", "aud": "guard", "exp": now + 60}
        return "workload-identity-token", signed(claims, key=SPIRE, header={"alg": "ES256", "typ": "JWT", "kid": "k1"})

    several = [[*world.headers(world.mint()), svid(name)] for name in ("desk", "other", "desk")]
    assert [one.status_code for one in world.at_once(several)] == [200, 403, 200], "each request has its own"


def test_a_socket_is_closed() -> None:
    world = World()
    with TestClient(world.app) as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket"):
        pass


@pytest.mark.parametrize("wrong", [
    {"url": "http://desk.acme.example"}, {"url": "desk"}, {"url": "https://desk/?a=b"}, {"url": 'https://desk/"'}, {"servers": "https://iam.example"}, {"servers": ["iam"]},
])  # fmt: skip
def test_misuse_is_said_at_the_start(wrong: dict[str, Any]) -> None:
    guard = World().guard
    with pytest.raises(ConfigError, match="Door"):
        Door(lambda *_: None, guard, **({"url": URL} | wrong))  # type: ignore[arg-type, return-value]


CERTIFICATE = b"0\x82 a certificate, as far as its hash is concerned"


def _bound(world: World) -> str:
    """A token that names a certificate (RFC 8705 3.1)."""
    claims = json.loads(b64url_decode(world.mint(key=None).split(".")[1].encode()))
    claims["cnf"] = {"x5t#S256": b64url_encode(sha256(CERTIFICATE).digest())}
    return world.iam.sign(json.dumps(claims).encode())


@pytest.mark.parametrize(("certificate", "status"), [(CERTIFICATE, 200), (b"0\x82 another", 401), (None, 401)])
def test_a_token_that_is_bound_to_a_certificate(certificate: bytes | None, status: int) -> None:
    world = World(certificate=lambda scope: certificate)
    token = _bound(world)
    response = world.send({"authorization": f"Bearer {token}"}, path="/look?times=3")
    assert response.status_code == status, response.text
    assert world.send({"authorization": f"Bearer {token}"}).status_code == status, "as long as the connection has it"
    assert world.send([("authorization", f"DPoP {token}"), ("dpop", world.proof(token))]).status_code == 401
    assert bool(world.ran) is (status == 200)


def test_where_a_certificate_comes_from() -> None:
    from base64 import b64encode

    text = b64encode(CERTIFICATE)
    for headers, found in (
        ([(b"client-cert", b":" + text + b":")], CERTIFICATE),
        ([(b"Client-Cert", b" :" + text + b": ")], CERTIFICATE),
        ([(b"client-cert", b":" + text + b":")] * 2, None),
        ([(b"client-cert", text)], None),
        ([(b"client-cert", b":" + text + b":, :" + text + b":")], None),
        ([(b"client-cert", b":::")], None),
        ([], None),
    ):
        assert client_cert({"headers": headers}) == found
    from ssl import DER_cert_to_PEM_cert

    from guard.server.headers import tls_certificate

    pem = DER_cert_to_PEM_cert(CERTIFICATE)
    assert tls_certificate({"extensions": {"tls": {"client_cert_chain": [pem]}}}) == CERTIFICATE
    for odd in ({}, {"extensions": None}, {"extensions": {"tls": None}}, {"extensions": {"tls": {"client_cert_chain": []}}},
                {"extensions": {"tls": {"client_cert_chain": [pem], "client_cert_error": "expired"}}},
                {"extensions": {"tls": {"client_cert_chain": ["junk"]}}}):  # fmt: skip
        assert tls_certificate(odd) is None  # type: ignore[arg-type]


def test_no_secret_in_what_is_answered_or_recorded() -> None:
    world = World(nonces=True)
    token = world.mint()
    nonce = world.send(world.headers(token)).headers["dpop-nonce"]
    headers = world.headers(token, nonce=nonce)
    answers = [world.send(headers), world.send(headers), world.send([("authorization", f"Bearer {token}")])]
    out = json.dumps([record.to_dict() for record in world.sink.decisions]) + "".join(f"{one.text}{one.headers}" for one in answers)
    assert token not in out and headers[1][1] not in out and token.rpartition(".")[2] not in out


# -- laws --------------------------------------------------------------------------------------------------------------------------


def straight(world: World, headers: Sequence[tuple[bytes, bytes]], **more: Any) -> int:
    """One request, straight into the door: the status."""
    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        world.look("A-17")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    scope = {"type": "http", "method": "POST", "path": "/look", "raw_path": b"/look", "query_string": b"", "headers": headers} | more
    asyncio.run(Door(app, world.guard, url=URL, nonces=False)(scope, receive, send))
    assert [message["type"] for message in answers] == ["http.response.start", "http.response.body"]
    assert all(b"\n" not in value and b"\r" not in value for _, value in answers[0]["headers"])
    return int(answers[0]["status"])


LAW = World()
TOKEN = LAW.mint()
SPARE = [LAW.mint(key=None), LAW.mint(), LAW.mint(ttl="1s"), "a.b.c", "~", ""]
JUNK = st.binary(max_size=60)
PIECES = st.one_of(
    JUNK,
    st.sampled_from([TOKEN, *SPARE]).map(str.encode),
    st.tuples(st.sampled_from([b"DPoP ", b"Bearer ", b"dpop  ", b"Basic ", b"DPoP\t", b""]), st.sampled_from([TOKEN, *SPARE]).map(str.encode)).map(b"".join),
)  # fmt: skip
NAMES = st.sampled_from([b"authorization", b"dpop", b"Authorization", b"DPOP", b"content-encoding", b"client-cert", b"x"])


@given(st.lists(st.tuples(NAMES, PIECES), max_size=5), st.binary(max_size=40), st.one_of(st.just(b"/look"), JUNK.map(b"/".__add__)))
def test_whatever_is_sent_nothing_runs_without_a_proof(headers: list[tuple[bytes, bytes]], query: bytes, path: bytes) -> None:
    """None of these has a proof of this request; a token that is bound to nothing needs none, where nothing else is wrong."""
    LAW.ran.clear()
    plain = [pair for pair in headers if pair[0].lower() in (b"authorization", b"dpop", b"content-encoding")]
    status = straight(LAW, headers, query_string=query, raw_path=path)
    ran = status == 200
    assert status in (200, 400, 401, 403, 415, 431) and len(LAW.ran) == ran
    if ran:
        credentials = [value for name, value in plain if name.lower() == b"authorization"]
        assert len(credentials) == 1 and credentials[0].split()[-1] in (SPARE[0].encode(), SPARE[2].encode())
        assert not any(name.lower() == b"dpop" for name, _ in plain)


@given(st.data())
def test_a_proof_that_was_changed_anywhere_is_none(data: st.DataObject) -> None:
    proof = LAW.proof(TOKEN)
    at = data.draw(st.integers(0, len(proof) - 1))
    other = data.draw(st.sampled_from("AQgwZ09-_.=~ "))
    changed = proof[:at] + other + proof[at + 1 :]
    LAW.ran.clear()
    status = straight(LAW, [(b"authorization", f"DPoP {TOKEN}".encode()), (b"dpop", changed.encode())])
    assert (status == 200) is (changed == proof) and len(LAW.ran) == (changed == proof)


def test_what_goes_on_after_a_request_does_not_go_on_under_its_proof() -> None:
    """Attack: one proof, one request, and a task of the event loop that calls for ever."""
    world = World()
    left: list[str] = []
    over = asyncio.Event()

    async def leaves(request: Request) -> Response:
        async def later() -> None:
            await over.wait()
            try:
                left.append(world.look("B-2"))
            except Denied as denied:
                left.append(str(denied.code))

        async with world.guard.current():  # entered once more inside, and left: that ends nothing
            world.look("A-17")
        world.look("A-17")
        kept.append(asyncio.create_task(later()))
        return JSONResponse([])

    kept: list[asyncio.Task[None]] = []
    world.handler = leaves

    async def go() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="https://inside") as client:
            assert (await client.post("/look", headers=world.headers(world.mint()))).status_code == 200
        over.set()
        await kept[0]

    asyncio.run(go())
    assert (left, world.ran) == (["task.ended"], ["A-17", "A-17"])


def test_a_decision_without_after_ends_with_its_request() -> None:
    """Also while others are open in the same task: no request waits for another one to have its calls closed."""
    world = World()
    token = world.mint()

    async def begins(request: Request) -> Response:
        assert not world.guard.before(ToolCall("look", {"order": "A-17"})).blocks
        return JSONResponse([])

    world.handler = begins
    with world.guard.task(token, key=world.key):
        assert world.send(world.headers(token)).status_code == 200
        assert [outcome.status for outcome in world.sink.outcomes] == ["unknown"]
