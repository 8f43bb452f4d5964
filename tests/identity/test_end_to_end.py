"""The whole way on a real authorization server: alice logs in, an orchestrator and a worker exchange, calls run, a session is revoked in between.

The server's login, sessions, metadata and signatures are npm oidc-provider's own; its token exchange is registered by us, and it sends
no security events: the event is signed by the test and pushed into `guardtrail ssf serve`, a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard import Denied, Guard, Issuer, Task, ToolCall
from guard.model import ExchangeRequest
from guard.ports import Exchanger
from guard.record import ListSink
from tests.cli.test_ssf import receiving
from tests.identity.test_exchange import POLICY, key_client, said, secret_client
from tests.servers.authorization import OPAQUE, SCOPES, TOOLS, AuthorizationServer
from tests.tokens.forge import ISS
from tests.tokens.sets import US, payload, signed

Json = dict[str, Any]
TASK: Json = {"type": "agent_task", "intent": "tidy", "params": {"root": "/srv"}}
READ: Json = {"type": "agent_tool", "tool": "read_file", "args": {"path": {"under": "/srv"}}}
MAIL: Json = {"type": "agent_tool", "tool": "send_mail", "limit": {"calls": 2}}


def guarded(server: AuthorizationServer, folder: Path, sink: ListSink, **more: Any) -> tuple[Guard, Issuer]:
    trust = Issuer(server.issuer, audience=TOOLS, client=[secret_client(server, "orchestrator"), key_client(server, "worker", folder)])
    trust.fetch()
    return Guard(POLICY, trust=trust, sinks=[sink], deadline=timedelta(seconds=10), **more), trust


def test_a_session_that_is_revoked_in_the_middle(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    server, sink = authorization_server, ListSink()
    state = f"sqlite:{tmp_path}/state.db"
    guard, _ = guarded(server, tmp_path, sink, state=state)
    words = ["--issuer", ISS, "--audience", US, "--keys", "idp.json", "--owns", server.issuer, "--state", state]
    read = ToolCall("read_file", {"path": "/srv/a"})
    with guard.task(server.login("alice", details=[TASK, READ, MAIL])["access_token"]) as task, task.delegate("orchestrator") as middle:
        with middle.delegate("worker", tools=["read_file"]) as worker, receiving(tmp_path, words) as events:
            assert worker.delegation.actors == ("orchestrator", "worker")
            assert worker.delegation.origin == "alice"
            assert len({each.delegation.txn for each in (task, middle, worker)}) == 1
            sessions = {each.delegation.session for each in (task, middle, worker)}
            assert len(sessions) == 1 and None not in sessions
            assert guard.call(read, lambda path: path) == "/srv/a"
            (session,) = sessions
            at = int(time.time())
            about = {"format": "complex", "session": {"format": "opaque", "id": session}}
            event = signed(payload(about, {"caep/session-revoked": {"event_timestamp": at}}, iat=at, jti="caep-7"))
            told = httpx.post(events, content=event, headers={"content-type": "application/secevent+jwt"}, trust_env=False, timeout=20)
            assert told.status_code == 202, told.text
            time.sleep(1.0)
            with pytest.raises(Denied, match=r"session was revoked by CAEP session-revoked, event jti caep-7 \[token\.revoked\]"):
                guard.call(read, lambda path: path)
            for each in (task, middle):  # and whoever stands above it in the same session
                with pytest.raises(Denied, match=r"token\.revoked"):
                    with guard.task(each.token):
                        guard.call(read, lambda path: path)
        other = server.login("alice", details=[TASK, READ])["access_token"]
        with guard.task(other):
            assert guard.call(read, lambda path: path) == "/srv/a", "another session of hers goes on"
    ran = [one for one in sink.decisions if one.tool == "read_file" and one.verdict == "allow"]
    assert [one.actors for one in ran] == [("orchestrator", "worker"), ("ui",)]
    assert all(one.credential and one.origin and one.task for one in sink.decisions if one.tool == "read_file")


# -- nobody on the way gets more -----------------------------------------------------------------------------------------------------

WIDER: Mapping[str, tuple[Json, str]] = {
    "scope": ({"scope": f"{SCOPES} tools:admin"}, "invalid_scope"),
    "a tool": ({"details": [TASK, READ, MAIL, {"type": "agent_tool", "tool": "wipe_disk"}]}, "invalid_authorization_details"),
    "an argument": ({"details": [TASK, {**READ, "args": {"path": {"under": "/"}}}]}, "invalid_authorization_details"),
    "a limit": ({"details": [TASK, {**MAIL, "limit": {"calls": 3}}]}, "invalid_authorization_details"),
    "the task": ({"details": [{**TASK, "params": {"root": "/"}}, READ]}, "invalid_authorization_details"),
    "audience": ({"resource": "urn:example:other"}, "invalid_target"),
}


@pytest.mark.parametrize("hop", ["orchestrator", "worker"])
@pytest.mark.parametrize("what", list(WIDER))
def test_at_the_server(authorization_server: AuthorizationServer, what: str, hop: str) -> None:
    token = authorization_server.login("alice", details=[TASK, READ, MAIL])["access_token"]
    if hop == "worker":
        token = authorization_server.exchange(token, "orchestrator").json()["access_token"]
    more, says = WIDER[what]
    answer = authorization_server.exchange(token, hop, **more)
    assert (answer.status_code, answer.json()["error"]) == (400, says)


class Generous:
    """Asks the real server for more than the guard asked for: a real token, well signed, of this very task."""

    def __init__(self, real: Exchanger, generous: Callable[[ExchangeRequest], ExchangeRequest | str]) -> None:
        self.real, self.generous = real, generous

    def exchange(self, request: ExchangeRequest) -> str:
        wider = self.generous(request)
        return wider if isinstance(wider, str) else self.real.exchange(wider)


def everything(request: ExchangeRequest) -> ExchangeRequest:
    return replace(request, details=None)


OURS: Mapping[str, tuple[Json, str]] = {
    "a tool": ({"tools": ["read_file"]}, "delegation.widened"),
    "an argument": ({"tools": {"read_file": {"path": {"under": "/srv/a"}}}}, "delegation.widened"),
    "time": ({"ttl": "30s"}, "delegation.widened"),
}


@pytest.mark.parametrize("hop", ["orchestrator", "worker"])
@pytest.mark.parametrize("what", list(OURS))
def test_at_ours(authorization_server: AuthorizationServer, tmp_path: Path, what: str, hop: str) -> None:
    """Whatever a server answers: what was not asked for is not used."""
    guard, trust = guarded(authorization_server, tmp_path, ListSink())
    real = trust.exchanger
    assert real is not None
    asked, says = OURS[what]
    with guard.task(authorization_server.login("alice", details=[TASK, READ, MAIL])["access_token"]) as task:

        def refused(parent: Task) -> None:
            trust.exchanger = Generous(real, everything)
            with pytest.raises(Denied) as caught:
                parent.delegate(hop, **asked)
            assert caught.value.code == says

        if hop == "orchestrator":
            refused(task)
        else:
            with task.delegate("orchestrator") as middle:
                refused(middle)
        assert said(guard, "read_file", path="/srv/b") == "allow", "the task it was to come from goes on"


def test_tokens_for_others_and_of_others(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    guard, trust = guarded(authorization_server, tmp_path, ListSink())
    real, server = trust.exchanger, authorization_server
    assert real is not None
    with guard.task(server.login("alice", details=[TASK, READ])["access_token"]) as task:
        answers = {
            "of another task": server.exchange(server.login("alice", details=[TASK, READ])["access_token"]).json()["access_token"],
            "of another person": server.exchange(server.login("mallory", details=[TASK, READ])["access_token"]).json()["access_token"],
            "of another actor": server.exchange(task.token, "worker").json()["access_token"],
            "the parent itself": task.token,
            "for another audience": server.exchange(task.token, resource=OPAQUE).json()["access_token"],
        }
        codes = {}
        for what, answer in answers.items():
            trust.exchanger = Generous(real, lambda request, answer=answer: answer)  # type: ignore[misc]
            with pytest.raises(Denied) as caught:
                task.delegate("orchestrator")
            codes[what] = str(caught.value.code)
    assert codes.pop("for another audience").startswith("token.")
    assert set(codes.values()) == {"delegation.widened"}, json.dumps(codes)
