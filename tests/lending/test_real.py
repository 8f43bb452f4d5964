"""On the real authorization server: obtained for one call, used on an API that asks the server about it, dead when the call has ended."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.identity.client import Client
from guard.record import AuditFile, verify_log
from tests.servers.authorization import ISSUES, REPORTS, TOOLS, AuthorizationServer, client

POLICY = Policy.from_text(f"""
guardtrail: 1
name: tracker
owner: desk@acme.example
tools:
  create_issue: {{effect: write, control: {{repo: name}}, returns: none, credential: {{resource: "{ISSUES}", scope: [tools:write], ttl: 2m}}}}
  pay: {{effect: pay, control: {{repo: name}}, returns: none, credential: {{resource: "{ISSUES}", scope: [tools:pay], ttl: 2m}}}}
  hasty: {{effect: write, control: {{repo: name}}, returns: none, credential: {{resource: "{ISSUES}", scope: [tools:write], ttl: 30s}}}}
  elsewhere: {{effect: read, control: {{repo: name}}, returns: none, credential: {{resource: "https://nobody.example", scope: [tools:read]}}}}
  report: {{effect: read, control: {{repo: name}}, returns: none, credential: {{resource: "{REPORTS}", scope: [tools:read], ttl: 1m}}}}
intents: {{triage: {{description: Issues., allow: {{create_issue: {{args: {{repo: {{any: true}}}}}}, pay: {{args: {{repo: {{any: true}}}}}}, hasty: {{args: {{repo: {{any: true}}}}}}, elsewhere: {{args: {{repo: {{any: true}}}}}}, report: {{args: {{repo: {{any: true}}}}}}}}}}}}
""")  # fmt: skip
DETAILS = [{"type": "agent_task", "intent": "triage", "params": {}}]


class Api:
    """A resource server on loopback: it asks the authorization server about every token (RFC 7662)."""

    def __init__(self, server: AuthorizationServer) -> None:
        self.seen: list[dict[str, Any]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                found = server.introspect(self.headers.get("authorization", "").removeprefix("Bearer "))
                api.seen.append(found)
                good = found.get("active") is True and found.get("aud") == ISSUES
                self.send_response(201 if good else 401)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/issues"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def post(self, headers: dict[str, str]) -> int:
        with client() as http:
            return int(http.post(self.url, headers=headers).status_code)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class World:
    def __init__(self, server: AuthorizationServer, folder: Path) -> None:
        self.server, self.folder, self.api = server, folder, Api(server)
        trust = Issuer(server.issuer, audience=TOOLS, client=Client("orchestrator", secret=server.secret("orchestrator")))
        trust.fetch()
        self.guard = Guard(POLICY, trust=trust, sinks=[AuditFile(folder)], deadline=timedelta(seconds=30))
        self.token = str(server.login("alice", details=DETAILS)["access_token"])
        self.used: list[dict[str, str]] = []

    def use(self) -> int:
        headers = self.guard.credential().headers()
        self.used.append(headers)
        return self.api.post(headers)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.folder.glob("audit*.jsonl") for line in path.read_text().splitlines()]

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        return [each for each in self.records if each["kind"] == "outcome"]


@pytest.fixture
def world(authorization_server: AuthorizationServer, tmp_path: Path) -> Iterator[World]:
    made = World(authorization_server, tmp_path / "log")
    yield made
    made.api.close()


@pytest.mark.parametrize("how", ["success", "error", "timeout", "cancel", "early"])
def test_it_works_in_the_body_and_is_dead_after_it(world: World, how: str) -> None:
    statuses: list[int] = []

    @world.guard.tool(name="create_issue")
    def sync(repo: str) -> None:
        statuses.append(world.use())
        if how == "error":
            raise ValueError

    @world.guard.tool(name="create_issue")
    async def slow(repo: str) -> None:
        statuses.append(await asyncio.to_thread(world.use))
        await asyncio.sleep(60)

    @world.guard.tool(name="create_issue")
    def stream(repo: str) -> Any:
        statuses.append(world.use())
        yield 1
        yield 2

    async def ends(limit: asyncio.Timeout) -> None:
        while not statuses:
            await asyncio.sleep(0.01)
        limit.reschedule(asyncio.get_running_loop().time())

    async def broken_off() -> None:
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60) as limit:
                    watching = asyncio.create_task(ends(limit))
                    await slow("acme/web")
            await watching
            return
        task = asyncio.ensure_future(slow("acme/web"))
        while not statuses:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with world.guard.task(world.token):
        if how == "success":
            sync("acme/web")
        elif how == "error":
            with pytest.raises(ValueError):
                sync("acme/web")
        elif how == "early":
            made = stream("acme/web")
            assert next(made) == 1
            made.close()
        else:
            asyncio.run(broken_off())
    assert statuses == [201]
    assert world.api.post(world.used[0]) == 401, "the same token, after the call"
    (said,) = [each["credential"] for each in world.outcomes]
    assert said["taken_back"] is True and said["resource"] == ISSUES and said["scope"] == ["tools:write"]
    found = world.api.seen[0]
    assert (found["sub"], found["scope"], found["act"]["sub"]) == ("alice", "tools:write", "orchestrator")
    assert found["authorization_details"][1] == {"type": "agent_tool", "tool": "create_issue"}
    assert 0 < found["exp"] - time.time() <= 60
    text = "".join(path.read_text() for path in world.folder.glob("audit*"))
    for secret in (world.token, world.used[0]["Authorization"][7:], world.server.secret("orchestrator")):
        assert secret not in text
    assert verify_log(world.folder / "audit.jsonl").problems == ()


def test_ten_at_once_each_has_its_own(world: World) -> None:
    async def main() -> None:
        @world.guard.tool
        async def create_issue(repo: str) -> int:
            return await asyncio.to_thread(world.use)

        with world.guard.task(world.token):
            assert await asyncio.gather(*(create_issue(f"r{n}") for n in range(10))) == [201] * 10

    asyncio.run(main())
    assert len({each["Authorization"] for each in world.used}) == 10
    assert {world.api.post(each) for each in world.used} == {401}


@pytest.mark.parametrize(
    ("tool", "says", "lent"),
    [
        ("elsewhere", "400 invalid_target", {}),
        ("hasty", "lives longer than the 30 seconds", {"taken_back": True}),
    ],
)
def test_refused_at_the_server_or_here(world: World, tool: str, says: str, lent: dict[str, object]) -> None:
    with world.guard.task(world.token), pytest.raises(Denied, match=r"credential\.refused") as denied:
        world.guard.call(ToolCall(tool, {"repo": "a"}), lambda **_: pytest.fail("it ran"))
    assert says in str(denied.value)
    (outcome,) = world.outcomes
    assert outcome["status"] == "not_executed"
    assert {name: outcome["credential"].get(name) for name in lent} == lent


def test_a_scope_the_token_has_not(world: World) -> None:
    token = str(world.server.login("alice", scope="tools:read tools:write", details=DETAILS)["access_token"])
    with world.guard.task(token), pytest.raises(Denied, match="400 invalid_scope"):
        world.guard.call(ToolCall("pay", {"repo": "a"}), lambda **_: pytest.fail("it ran"))


def test_a_jwt_works_and_cannot_be_taken_back_there(world: World) -> None:
    """The product answers `unsupported_token_type` (RFC 7009 2.2.1): said, and not tried again; it lives to its end."""
    got: list[str] = []
    with world.guard.task(world.token):
        world.guard.call(ToolCall("report", {"repo": "a"}), lambda **_: got.append(world.guard.credential().reveal()))
    (said,) = [each["credential"] for each in world.outcomes]
    assert (said["taken_back"], said["why"]) == (False, "the issuer refused")
    assert said["id"].startswith(f"{world.server.issuer}/") and len(got) == 1
    assert 0 < said["expires"] - time.time() <= 60
    assert got[0] not in json.dumps(world.records)


def test_the_server_is_gone_when_it_is_given_back(start_authorization_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.identity.takeback.again._waits", (0.3, 0.3, 0.3, 60.0))
    world = World(start_authorization_server(), tmp_path / "log")
    try:

        def body(repo: str) -> None:
            assert world.use() == 201
            world.server.stop()

        with world.guard.task(world.token):
            world.guard.call(ToolCall("create_issue", {"repo": "a"}), body)
        (said,) = [each["credential"] for each in world.outcomes]
        assert said["taken_back"] is False
        assert httpx.URL(world.server.issuer).host == "127.0.0.1"
    finally:
        world.api.close()
