"""End to end: alice logs in at a real authorization server, the token service is a process of its own, a guard knows both by nothing but their URLs."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.identity.client import Client
from guard.identity.holder import HolderKey
from guard.identity.revoked import StoreRevocations
from guard.identity.signing import make_key, read_keys, retire_key
from guard.record import ListSink, verify_log
from guard.state import open_state
from guard.tokens import split, token_json
from tests.cli.conftest import told_by
from tests.patience import PYTHONPATH
from tests.ports import free
from tests.server.ttsworld import SECRET, basic, form
from tests.servers.authorization import OTHER, TOOLS, AuthorizationServer, new_key, proof

DOMAIN = "acme.example"
POLICY = Policy.from_text("""
guardtrail: 1
name: orders
owner: desk@acme.example
tools:
  look: {effect: read, control: {order: id}, returns: none}
  pay: {effect: pay, control: {order: id}, returns: none}
intents:
  settle: {description: Settle one order., params: {order: id}, allow: {look: {args: {order: {eq: $order}}}, pay: {args: {order: {eq: $order}}, limit: {calls: 1}}}}
""")
DETAILS = [{"type": "agent_task", "intent": "settle", "params": {"order": "A-17"}}, {"type": "agent_tool", "tool": "look"}]
LOOK, PAY = ToolCall("look", {"order": "A-17"}), ToolCall("pay", {"order": "A-17"})


class Service:
    """`guardtrail tts serve` as a process."""

    def __init__(self, folder: Path, iam: str, audience: str = TOOLS) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free()}"
        self.process: subprocess.Popen[str] | None = None
        make_key(folder / "keys")
        self.agent = new_key()
        public = {name: self.agent[name] for name in ("kty", "crv", "x", "y")}
        (folder / "planner.jwks").write_text(json.dumps({"keys": [public]}))
        (folder / "planner.jwk").write_text(json.dumps(self.agent))
        for name, text in (("gateway.secret", SECRET), ("planner.jwk", json.dumps(self.agent))):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        config = {
            "issuer": self.url, "trust_domain": DOMAIN, "keys": "keys", "records": "records", "state": "sqlite:state.db", "ttl": "4m",
            "issuers": [{"url": iam, "audience": audience}],
            "clients": [{"id": "gateway", "secret": "gateway.secret"}, {"id": "planner", "keys": "planner.jwks", "acts": True}],
        }  # fmt: skip
        (folder / "tts.yaml").write_text(yaml.safe_dump(config))

    def start(self) -> None:
        code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
        words = ["tts", "serve", "--config", str(self.folder / "tts.yaml"), "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = told_by(self.process)
        assert told == {"issuer": self.url, "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/jwks.json", "listens": self.url}

    def stop(self) -> str:
        """What it said on the way."""
        process, self.process = self.process, None
        if process is None:
            return ""
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return out + err

    def ask(self, subject: str, *, client: str = "gateway", headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        shown: dict[str, str] = {}
        sent = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
        if client == "gateway":
            sent["authorization"] = basic("gateway", SECRET)
        else:  # as our own client of other servers shows itself
            shown, _ = Client("planner", key=self.folder / "planner.jwk").shown(f"{self.url}/token", self.url, "")
        with httpx.Client(trust_env=False, timeout=20) as http:
            return http.post(f"{self.url}/token", content=form(subject, **shown, **more), headers=sent)

    def issued(self, subject: str, **more: Any) -> str:
        answer = self.ask(subject, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def guard(self, **more: Any) -> Guard:
        issuer = Issuer(self.url, audience=DOMAIN)
        issuer.fetch()
        return Guard(POLICY, trust=issuer, sinks=[ListSink()], deadline=timedelta(seconds=10), **more)

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in (self.folder / "records").glob("audit*.jsonl"))


@pytest.fixture(scope="module")
def iam(start_authorization_server: Callable[..., AuthorizationServer]) -> AuthorizationServer:
    """Its tokens name no task, as those of most servers."""
    return start_authorization_server(txn=False)


@pytest.fixture
def service(iam: AuthorizationServer, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, iam.issuer)
    made.start()
    yield made
    said = made.stop()
    assert SECRET not in said + made.log and made.agent["d"] not in said + made.log
    assert said.replace("WARNING:  Invalid HTTP request received.\n", "") == "", said


def said(guard: Guard, call: ToolCall = LOOK) -> str:
    try:
        guard.call(call, lambda **_: None)
    except Denied as denied:
        return str(denied.code)
    return "allow"


def opened(guard: Guard, token: str) -> str:
    try:
        with guard.task(token):
            return said(guard)
    except Denied as denied:
        return str(denied.code)


def test_alice_logs_in_and_an_agent_has_one_task(iam: AuthorizationServer, service: Service) -> None:
    access = iam.login("alice", details=DETAILS)["access_token"]
    assert "txn" not in token_json(split(access).payload)
    guard = service.guard()
    first = service.issued(access, client="planner")
    with guard.task(first) as task:
        assert (task.delegation.origin, task.delegation.actors, task.delegation.workload) == ("alice", ("planner",), "planner")
        assert task.delegation.session == token_json(split(access).payload).get("sid")
        assert said(guard) == "allow"
        assert said(guard, ToolCall("look", {"order": "B-1"})) == "args.constraint"
        assert said(guard, PAY) == "grant.tool"
        with guard.task(service.issued(access)) as again:
            assert again.id == task.id, "the same access token is the same task"
    other = iam.login("alice", details=DETAILS)["access_token"]
    with guard.task(service.issued(other)) as second:
        assert second.id != task.id, "another one is another"
    assert opened(guard, service.issued(access)) == "task.ended", "its access token was one task, and that is over"
    assert opened(guard, access) == "token.issuer", "the guard knows the token service, and not the server behind it"
    records = [json.loads(line) for line in service.log.splitlines()]
    assert [one["verdict"] for one in records] == ["issued"] * 4
    assert {one["task"] for one in records} == {task.delegation.txn, second.delegation.txn}
    assert records[0]["parent"] == f"{iam.issuer}/{token_json(split(access).payload)['jti']}"
    assert records[0]["credential"] == str(task.delegation.credential)
    for token in (access, other, first):
        assert token not in service.log and token.rpartition(".")[2] not in service.log and token.split(".")[1] not in service.log


def test_what_is_wider_is_refused(iam: AuthorizationServer, service: Service) -> None:
    access = iam.login("alice", details=DETAILS, scope="tools:read")["access_token"]
    for more, error in (
        ({"scope": "tools:read tools:pay"}, "invalid_scope"),
        ({"authorization_details": [*DETAILS, {"type": "agent_tool", "tool": "pay"}]}, "invalid_authorization_details"),
        ({"authorization_details": DETAILS[:1]}, "invalid_authorization_details"),
        ({"audience": "payments.example"}, "invalid_target"),
        ({"resource": TOOLS}, "invalid_target"),
    ):
        answer = service.ask(access, **more)
        assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
    assert service.ask(iam.client_credentials(resource=OTHER)).json()["error"] == "invalid_request"
    assert service.ask(iam.login("alice")["id_token"]).json()["error"] == "invalid_request"
    machine = iam.client_credentials("worker", details=DETAILS)
    with service.guard().task(service.issued(machine)) as task:
        assert (task.delegation.origin_kind, task.delegation.actors) == ("workload", ("worker",))


def test_a_bound_token(iam: AuthorizationServer, service: Service, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "agent.jwk").write_text(json.dumps(key))
    (tmp_path / "agent.jwk").chmod(0o600)
    access = iam.client_credentials("worker-bound", details=DETAILS, dpop=key)
    url = f"{service.url}/token"
    assert service.ask(access).json()["error"] == "invalid_dpop_proof", "A103"
    shown = {"DPoP": proof(key, "POST", url, access_token=access)}
    token = service.issued(access, headers=shown)
    assert service.ask(access, headers=shown).json()["error"] == "invalid_dpop_proof", "A098: a proof is good once"
    assert opened(service.guard(), token) == "token.proof", "and what was made of it is bound too"
    guard = service.guard()
    with guard.task(token, key=HolderKey.load(tmp_path / "agent.jwk")):
        assert said(guard) == "allow"


def test_taken_back_in_the_middle(iam: AuthorizationServer, service: Service) -> None:
    """The guard and the service read one store, as they do on one machine."""
    state = f"sqlite:{service.folder / 'state.db'}"
    guard = service.guard(state=state)
    access = iam.login("alice", details=DETAILS)["access_token"]
    jti = str(token_json(split(access).payload)["jti"])
    with guard.task(service.issued(access)) as task:
        assert said(guard) == "allow"
        StoreRevocations(open_state(state)).revoke("credential", jti)
        time.sleep(1.1)
        assert said(guard) == "token.revoked", "the access token is dead, and what was made of it"
        refused = service.ask(access)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
        assert "token.revoked" in refused.text
    fresh = iam.login("alice", details=DETAILS)["access_token"]
    assert task.delegation.txn != token_json(split(service.issued(fresh)).payload)["txn"]


def test_keys_rotate_while_a_guard_runs(iam: AuthorizationServer, service: Service) -> None:
    """With overlap nobody is denied; a stolen key is gone at the next refresh."""
    issuer = Issuer(service.url, audience=DOMAIN)
    issuer.fetch()
    remote: Any = issuer._remote
    shift = [0.0]
    remote._clock = lambda: time.monotonic() + shift[0]
    guard = Guard(POLICY, trust=issuer, sinks=[ListSink()], deadline=timedelta(seconds=10))

    def passes(seconds: float) -> None:
        shift[0] += seconds
        issuer.rules()
        if remote._flight is not None:
            remote._flight.result(timeout=20)

    access = iam.login("alice", details=DETAILS)["access_token"]
    keys = service.folder / "keys"
    (first,) = read_keys(keys)
    old = service.issued(access)
    while time.time() < first.made + 1:  # of two keys of the same second either may sign
        time.sleep(0.05)
    make_key(keys, lead=0)
    service.stop()
    service.start()
    with guard.task(old) as task:
        assert said(guard) == "allow"
        new = service.issued(access)
        assert token_json(split(new).header)["kid"] != first.kid
        passes(31)  # one refetch in 30 s
        with guard.task(new) as again:
            assert again.id == task.id, "an unknown key is fetched, and the task goes on"
        retire_key(keys, first.kid)
        passes(301)
        assert said(guard) == "allow", "retired, and its tokens live"
        retire_key(keys, first.kid, stolen=True)
        time.sleep(1.1)
        passes(301)
        assert said(guard) == "token.signature", "A050: stolen, and its tokens are dead"
        with guard.task(service.issued(access)):
            assert said(guard) == "allow"


def test_killed_in_the_middle_it_goes_on(iam: AuthorizationServer, service: Service) -> None:
    access = iam.login("alice", details=DETAILS)["access_token"]
    first = token_json(split(service.issued(access)).payload)["txn"]
    assert service.process is not None
    service.process.kill()
    service.process.communicate()
    service.start()
    assert token_json(split(service.issued(access)).payload)["txn"] == first
    found = verify_log(service.folder / "records")
    assert found.problems == (), found


def test_two_hundred_requests_for_one_token(iam: AuthorizationServer, service: Service) -> None:
    content = form(iam.login("alice", details=DETAILS)["access_token"])
    headers = {"content-type": "application/x-www-form-urlencoded", "authorization": basic("gateway", SECRET)}
    with httpx.Client(trust_env=False, timeout=60) as http, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: http.post(f"{service.url}/token", content=content, headers=headers), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    found = [token_json(split(answer.json()["access_token"]).payload) for answer in answers]
    assert (len({one["txn"] for one in found}), len({one["jti"] for one in found})) == (1, 200)
    assert len(service.log.splitlines()) == 200


def test_hostile_connections(service: Service) -> None:
    """What does not even become a request; the service goes on."""
    host, port = "127.0.0.1", int(service.url.rpartition(":")[2])
    for raw in (
        b"\x00" * 100,
        b"GET " + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /token HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        secrets.token_bytes(2000),
    ):
        with socket.create_connection((host, port), timeout=10) as one:
            try:
                one.sendall(raw)
                one.shutdown(socket.SHUT_WR)
                one.recv(4096)
            except OSError:
                pass
    with httpx.Client(trust_env=False, timeout=20) as http:
        assert http.get(f"{service.url}/jwks.json").status_code == 200
        answer = http.post(f"{service.url}/token", json={"grant_type": "x"})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert "server" not in answer.headers
