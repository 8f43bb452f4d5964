"""RFC 8693 on a real authorization server, end to end; and servers that lie, fail, or are asked by many at once.

The server's token exchange is ours (`tests/servers/oidc`): that it refuses what is wider shows that we ask for what we say; that its
answers are compared is shown with a server that lies.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from guard import Denied, Guard, Issuer, LocalIssuer, Policy, Task, ToolCall
from guard.errors import ConfigError, GuardError
from guard.identity import HolderKey
from guard.identity.client import Client
from guard.identity.downstream import DownstreamTokens
from guard.identity.exchange import Endpoint, TokenExchange
from guard.model import Delegation, ExchangeRequest, Issued
from guard.record import AuditFile
from guard.tokens import verify
from tests.identity.test_http import certificate
from tests.servers.authorization import TOOLS, AuthorizationServer

POLICY = Policy.from_text("""
guardtrail: 1
name: files
owner: desk@acme.example
tools:
  read_file: {effect: read, control: {path: path}, returns: none}
  send_mail: {effect: send, control: {to: email}, data: {body: text}, returns: none}
intents:
  tidy: {description: Files., params: {root: path}, allow: {read_file: {args: {path: {under: $root}}}, send_mail: {args: {to: {any: true}}, limit: {calls: 2}}}}
""")
DETAILS = [
    {"type": "agent_task", "intent": "tidy", "params": {"root": "/srv"}},
    {"type": "agent_tool", "tool": "read_file"},
    {"type": "agent_tool", "tool": "send_mail", "limit": {"calls": 2}},
]


def secret_client(server: AuthorizationServer, name: str) -> Client:
    return Client(name, secret=server.secret(name))


def key_client(server: AuthorizationServer, name: str, folder: Path) -> Client:
    path = folder / f"{name}.jwk"
    path.write_text(json.dumps(server.key(name)))
    path.chmod(0o600)
    return Client(name, key=path)


def guarded(server: AuthorizationServer, folder: Path, *clients: Client) -> Guard:
    trust = Issuer(server.issuer, audience=TOOLS, client=list(clients) or None)
    trust.fetch()
    return Guard(POLICY, trust=trust, sinks=[AuditFile(folder)])


def said(guard: Guard, tool: str, **args: object) -> str:
    try:
        guard.call(ToolCall(tool, args), lambda **_: None)
    except Denied as denied:
        return str(denied.code)
    return "allow"


def test_alice_to_orchestrator_to_worker(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    server = authorization_server
    token = server.login("alice", details=DETAILS)["access_token"]
    guard = guarded(server, tmp_path / "log", secret_client(server, "orchestrator"), key_client(server, "worker", tmp_path))
    with guard.task(token) as task:
        assert task.delegation.actors == ("ui",)
        with task.delegate("orchestrator") as middle:
            assert (middle.delegation.actors, middle.delegation.origin) == (("orchestrator",), "alice")
            assert said(guard, "send_mail", to="a@acme.example", body="x") == "allow"
            with middle.delegate("worker", tools={"read_file": {"path": {"under": "/srv/a"}}}) as child:
                assert (child.delegation.actors, child.delegation.txn) == (("orchestrator", "worker"), task.delegation.txn)
                assert child.delegation.expires_at <= task.delegation.expires_at
                assert said(guard, "read_file", path="/srv/a/x") == "allow"
                assert said(guard, "read_file", path="/srv/b") == "grant.args"
                assert said(guard, "send_mail", to="a@acme.example", body="x") == "grant.tool"
                with pytest.raises(Denied, match=r"delegation\.widened"):
                    child.delegate("orchestrator", tools=["send_mail"])
            assert said(guard, "send_mail", to="a@acme.example", body="x") == "allow"
            assert said(guard, "send_mail", to="a@acme.example", body="x") == "limit.calls", "one budget, whoever uses it"
        text = "".join(path.read_text() for path in (tmp_path / "log").glob("audit*"))
        for each in (token, middle.token, child.token, server.secret("orchestrator"), str(server.key("worker")["d"])):
            assert each not in text and each.rpartition(".")[2] not in text


def test_awaited(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    server = authorization_server
    trust = Issuer(server.issuer, audience=TOOLS, client=secret_client(server, "orchestrator"))
    trust.fetch()
    guard, real = Guard(POLICY, trust=trust, sinks=[AuditFile(tmp_path)]), trust.exchanger
    assert real is not None
    asked, ticked = threading.Event(), threading.Event()

    class Waits:
        """Asks the server when the loop has gone on."""

        def exchange(self, request: ExchangeRequest) -> str:
            asked.set()
            ticked.wait(4)
            return real.exchange(request)

    async def story() -> None:
        async with guard.task(server.login("alice", details=DETAILS)["access_token"]) as task:

            async def tick() -> None:
                while not asked.is_set():
                    await asyncio.sleep(0.001)
                ticked.set()

            trust.exchanger = Waits()
            ticking = asyncio.create_task(tick())
            async with await task.adelegate("orchestrator", tools=["read_file"]) as child:
                assert child.delegation.actors == ("orchestrator",)
                assert ticked.is_set(), "the loop went on"
            await ticking

    asyncio.run(story())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"scope": "tools:read tools:admin"}, "invalid_scope"),
        ({"authorization_details": json.dumps([{"type": "agent_tool", "tool": "wipe_disk"}])}, "invalid_authorization_details"),
        ({"resource": "urn:example:other"}, "invalid_target"),
    ],
)
def test_the_server_refuses_what_is_wider(authorization_server: AuthorizationServer, more: dict[str, Any], says: str) -> None:
    token = authorization_server.login("alice", details=DETAILS, scope="tools:read")["access_token"]
    answer = authorization_server.exchange(token, "orchestrator", **{"resource": TOOLS, **more})
    assert (answer.status_code, answer.json()["error"]) == (400, says)


def test_no_client_for_the_actor(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    token = authorization_server.login("alice", details=DETAILS)["access_token"]
    with guarded(authorization_server, tmp_path / "a").task(token) as task, pytest.raises(ConfigError, match="client"):
        task.delegate("worker")
    guard = guarded(authorization_server, tmp_path / "b", secret_client(authorization_server, "orchestrator"))
    with guard.task(authorization_server.login("alice", details=DETAILS)["access_token"]) as task:
        with pytest.raises(Denied, match=r"no client is configured for actor `worker`.*delegation\.refused"):
            task.delegate("worker")


def test_a_wrong_secret(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    guard = guarded(authorization_server, tmp_path, Client("orchestrator", secret="not the secret of it"))
    with guard.task(authorization_server.login("alice", details=DETAILS)["access_token"]) as task:
        with pytest.raises(Denied, match=r"invalid_client \[delegation\.refused\]") as refused:
            task.delegate("orchestrator")
    assert "not the secret" not in str(refused.value)


# -- a server that lies, fails, or is slow -------------------------------------------------------------------------------------------


class Server:
    """Metadata, and a token endpoint that does as the test says."""

    def __init__(self, answer: Callable[[dict[str, str]], tuple[int, object]], tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[dict[str, str]] = []
        self.answer = answer
        self.metadata: dict[str, object] = {}
        self.paths: list[str] = []
        self.certificates: list[str] = []
        self.proofs: list[str | None] = []
        self.nonces: list[str] = []
        """Sent with the answers, one after the other; the last one stays."""
        outer = self

        class Talk(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.say(200, {"issuer": outer.url, "token_endpoint": f"{outer.url}/token", **outer.metadata})

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(raw).items()}
                outer.asked.append(form)
                outer.proofs.append(self.headers["dpop"])
                outer.paths.append(self.path)
                found = getattr(self.connection, "getpeercert", dict)() or {}
                outer.certificates += [value for part in found.get("subject", ()) for _, value in part]
                self.say(*outer.answer(form))

            def say(self, status: int, body: object) -> None:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                if outer.nonces and self.command == "POST":
                    self.send_header("dpop-nonce", outer.nonces.pop(0) if len(outer.nonces) > 1 else outer.nonces[0])
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *of: object) -> None:
                """Who asked has gone: that is what the test is about."""

        self.http = Quiet(("127.0.0.1", 0), Talk)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        if tls is not None:  # before anybody listens: the socket is another one then
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
            self.url = f"https://localhost:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(5)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    open_now: list[Server] = []

    def start(answer: Callable[[dict[str, str]], tuple[int, object]]) -> Server:
        open_now.append(Server(answer))
        return open_now[-1]

    yield start
    for each in open_now:
        each.close()


GOOD = {
    "access_token": "a.b.c",
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "token_type": "Bearer",
    "expires_in": 300,
}


def request(**over: Any) -> ExchangeRequest:
    iam = LocalIssuer("post")
    token = iam.mint(origin="alice", actor="lead", intent="tidy")
    delegation: Delegation = verify(token, {iam.url: iam.rules()}, now=int(time.time()))
    given: dict[str, Any] = {
        "token": token,
        "delegation": delegation,
        "actor": "worker",
        "scopes": frozenset({"s"}),
        "details": None,
        "seconds": None,
    }
    return ExchangeRequest(**(given | over))


PATIENT = 30.0
"""Seconds, for a server that answers: longer than the machine stands still. What is late is asked again, and the questions are counted."""


def asking(server: Server, *, seconds: float = PATIENT, **more: Any) -> TokenExchange:
    return TokenExchange(
        Endpoint(server.url, seconds=seconds), {"worker": Client("worker", secret="0123456789abcdef")}, "urn:example:tools", **more
    )


@pytest.mark.parametrize(
    ("answer", "code", "asked"),
    [
        ((400, {"error": "invalid_scope", "error_description": "TOKENTEXT"}), "delegation.refused", 1),
        ((401, {"error": "invalid_client"}), "delegation.refused", 1),
        ((400, {"error": "TOKENTEXT"}), "delegation.refused", 1),
        ((400, {"error": 7}), "delegation.unavailable", 1),
        ((400, b"<html>"), "delegation.unavailable", 1),
        ((500, {"error": "server_error"}), "delegation.unavailable", 2),
        ((302, {}), "delegation.unavailable", 1),
        ((200, b"<html>"), "delegation.unavailable", 1),
        ((200, b'{"access_token": "a", "access_token": "b"}'), "delegation.unavailable", 1),
        ((200, {**GOOD, "access_token": None}), "delegation.unavailable", 1),
        ((200, {**GOOD, "access_token": ["a.b.c"]}), "delegation.unavailable", 1),
        ((200, {**GOOD, "issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}), "delegation.unavailable", 1),
        ((200, {**GOOD, "issued_token_type": None}), "delegation.unavailable", 1),
        ((200, {**GOOD, "token_type": "DPoP"}), "delegation.unavailable", 1),
        ((200, {**GOOD, "token_type": "N_A"}), "delegation.unavailable", 1),
        ((200, b"x" * 600_000), "delegation.unavailable", 1),
    ],
)
def test_answers_that_are_none(serve: Callable[..., Server], answer: tuple[int, object], code: str, asked: int) -> None:
    server = serve(lambda form: answer)
    exchange = asking(server)
    for round in (1, 2):
        with pytest.raises(GuardError) as refused:
            exchange.exchange(request())
        assert refused.value.code == code and "TOKENTEXT" not in str(refused.value)
        assert len(server.asked) == asked * round, "a refusal is not kept"
    assert all(form == server.asked[0] for form in server.asked[:asked]), "a retry is the same question"


def test_silence(serve: Callable[..., Server]) -> None:
    late = threading.Event()
    server = serve(lambda form: (late.wait(60), (200, GOOD))[1])
    with pytest.raises(GuardError) as refused:
        asking(server, seconds=1.0).exchange(request())
    assert refused.value.code == "delegation.unavailable", "while the server had not answered"
    late.set()


def test_nobody_there() -> None:
    with pytest.raises(GuardError) as refused:
        TokenExchange(
            Endpoint("http://127.0.0.1:9", seconds=1.0), {"worker": Client("worker", secret="0123456789abcdef")}, "tools"
        ).exchange(request())
    assert refused.value.code == "delegation.unavailable"


def test_what_is_asked(serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (200, GOOD))
    details = ({"type": "agent_tool", "tool": "read_file"},)
    given = request(details=details)
    assert asking(server).exchange(given) == "a.b.c"
    assert server.asked == [
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": given.token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "scope": "s",
            "authorization_details": '[{"type":"agent_tool","tool":"read_file"}]',
            "resource": "urn:example:tools",
        }
    ]


def test_kept_until_it_is_about_to_end(serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (200, GOOD))
    now = [1000.0]
    exchange = asking(server, clock=lambda: now[0])
    first = request()
    for other in (first, first, request(), request(scopes=frozenset()), request(seconds=60)):
        exchange.exchange(other)
    assert len(server.asked) == 4, "by everything that was asked: another token, scope or lifetime is another question"
    now[0] += 269
    exchange.exchange(first)
    assert len(server.asked) == 4
    now[0] += 2
    exchange.exchange(first)
    assert len(server.asked) == 5, "thirty seconds before its end it is asked for anew"


def test_of_many_at_once_one_asks(serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (time.sleep(0.2), (200, GOOD))[1])
    exchange, given, got = asking(server), request(), []
    threads = [threading.Thread(target=lambda: got.append(exchange.exchange(given))) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert got == ["a.b.c"] * 16 and len(server.asked) == 1


def test_a_server_that_lies_is_found_out(serve: Callable[..., Server], tmp_path: Path) -> None:
    """It gives the whole of the parent where a part was asked for."""
    holder: list[Task] = []

    def answer(form: dict[str, str]) -> tuple[int, object]:
        d = holder[0].delegation
        return 200, {**GOOD, "access_token": LocalIssuer.exchange(iam, ExchangeRequest(form["subject_token"], d, "worker", d.scopes))}

    server = serve(answer)

    class Remote(LocalIssuer):
        def exchange(self, request: ExchangeRequest) -> str:
            return asking(server).exchange(request)

    iam = Remote("post")
    guard = Guard(POLICY, trust=iam, sinks=[AuditFile(tmp_path)])
    with guard.task(iam.mint(origin="alice", actor="lead", intent="tidy", params={"root": "/srv"})) as task:
        holder.append(task)
        with pytest.raises(Denied, match=r"delegation\.widened"):
            task.delegate("worker", tools=["read_file"])


# -- tokens that are bound to a key ----------------------------------------------------------------------------------------------


def bound_client(server: AuthorizationServer, folder: Path, holder: HolderKey) -> Client:
    client = key_client(server, "worker-bound", folder)
    client.holder = holder
    return client


@pytest.mark.parametrize("nonce", [False, True])
@pytest.mark.parametrize("alg", ["ES256", "Ed25519"])
def test_a_child_that_is_bound_on_the_real_server(
    nonce: bool,
    alg: str,
    start_authorization_server: Callable[..., AuthorizationServer],
    authorization_server: AuthorizationServer,
    tmp_path: Path,
) -> None:
    server = start_authorization_server(nonce=True) if nonce else authorization_server
    key = HolderKey.generate(alg)
    guard = guarded(server, tmp_path / "log", bound_client(server, tmp_path, key))
    with guard.task(server.login("alice", details=DETAILS)["access_token"]) as task:
        with task.delegate("worker-bound", tools=["read_file"]) as child:
            assert (child.delegation.bound, child.delegation.credential.thumbprint) == ("jkt", key.thumbprint)
            assert said(guard, "read_file", path="/srv/x") == "allow", "the child holds the key"
            with pytest.raises(Denied, match=r"delegation\.refused"):
                child.delegate("orchestrator")  # bound parents have bound children, and this root allows no hop
        with guard.task(child.token):
            assert said(guard, "read_file", path="/srv/x") == "token.proof"
        with task.delegate("worker-bound", tools=["send_mail"]) as other:
            assert other.token != child.token
    text = "".join(path.read_text() for path in (tmp_path / "log").glob("audit*"))
    assert child.token.rpartition(".")[2] not in text


def test_without_a_proof_the_real_server_refuses(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    guard = guarded(authorization_server, tmp_path / "log", key_client(authorization_server, "worker-bound", tmp_path))
    with guard.task(authorization_server.login("alice", details=DETAILS)["access_token"]) as task:
        with pytest.raises(Denied, match=r"invalid_grant.*delegation\.refused"):
            task.delegate("worker-bound")


BOUND = {**GOOD, "token_type": "DPoP"}
KEY = HolderKey.generate()


def bound(server: Server) -> TokenExchange:
    return TokenExchange(
        Endpoint(server.url, seconds=PATIENT), {"worker": Client("worker", secret="0123456789abcdef", holder=KEY)}, "urn:example:tools"
    )


def claims(proof: str | None) -> dict[str, Any]:
    assert proof is not None
    header, payload, _ = (json.loads(urlsafe_b64decode(part + "==")) if i < 2 else {} for i, part in enumerate(proof.split(".")))
    assert (header["typ"], header["jwk"]) == ("dpop+jwt", dict(KEY.public)) and "d" not in header["jwk"]
    found: dict[str, Any] = payload
    return found


def test_what_the_proof_says(serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (200, BOUND))
    assert bound(server).exchange(request()) == "a.b.c"
    made = claims(server.proofs[0])
    assert (made["htm"], made["htu"]) == ("POST", f"{server.url}/token") and abs(made["iat"] - time.time()) < 30
    assert made.keys() == {"htm", "htu", "iat", "jti"}, "no `ath`: there is no token yet"


def test_a_nonce_is_brought_once(serve: Callable[..., Server]) -> None:
    answers = [(400, {"error": "use_dpop_nonce"}), (200, BOUND), (200, BOUND)]
    server = serve(lambda form: answers.pop(0))
    server.nonces = ["n1", "n2", "n3"]
    asks = bound(server)
    assert asks.exchange(request()) == "a.b.c"
    first, second = (claims(proof) for proof in server.proofs)
    assert ("nonce" in first, second["nonce"]) == (False, "n1")
    assert first["jti"] != second["jti"] and server.asked[0] == server.asked[1], "the same question, another proof"
    asks.exchange(request())
    assert claims(server.proofs[2])["nonce"] == "n2", "the latest one is kept"


@pytest.mark.parametrize(("nonces", "asked"), [(["n1", "n2", "n3"], 2), ([], 1), (["x" * 600], 1)])
def test_a_server_that_demands_nonces_for_ever(nonces: list[str], asked: int, serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (400, {"error": "use_dpop_nonce"}))
    server.nonces = nonces
    with pytest.raises(GuardError) as refused:
        bound(server).exchange(request())
    assert (refused.value.code, len(server.asked)) == ("delegation.refused", asked)


def test_a_client_without_a_key_brings_no_nonce(serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (400, {"error": "use_dpop_nonce"}))
    server.nonces = ["n1"]
    with pytest.raises(GuardError):
        asking(server).exchange(request())
    assert server.proofs == [None]


@pytest.mark.parametrize("kind", ["Bearer", "N_A", None, 7, ""])
def test_an_answer_that_is_not_bound(kind: object, serve: Callable[..., Server]) -> None:
    server = serve(lambda form: (200, {**BOUND, "token_type": kind}))
    with pytest.raises(GuardError) as refused:
        bound(server).exchange(request())
    assert refused.value.code == "delegation.unavailable"


@pytest.mark.parametrize("key", [None, HolderKey.generate()])
def test_an_answer_that_is_bound_to_another_key(key: HolderKey | None, tmp_path: Path) -> None:
    """Attack: it says `DPoP`, and the token is another's, or a bearer's."""

    class Liar(LocalIssuer):
        def holder(self, actor: str) -> Any:
            return KEY

        def exchange(self, request: ExchangeRequest) -> str:
            d = request.delegation
            return self.mint(
                origin=d.origin, actor=[*d.actors, request.actor], intent=d.intent, params=d.params, txn=d.txn, ttl="1m",
                key=None if key is None else key.public,
            )  # fmt: skip

    iam = Liar("post")
    guard = Guard(POLICY, trust=iam, sinks=[AuditFile(tmp_path)])
    with guard.task(iam.mint(origin="alice", actor="lead", intent="tidy", params={"root": "/srv"})) as task:
        with pytest.raises(Denied, match=r"not bound to the key it was asked for \[delegation\.unavailable\]"):
            task.delegate("worker")


# -- client certificates (RFC 8705) --------------------------------------------------------------------------------------------------


@pytest.fixture
def over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Path]]:
    """A token endpoint that asks for a certificate, beside metadata that does not. `shown`: the names in those it was shown."""
    cert, key = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    client, _ = certificate(tmp_path, "agent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = Server(lambda form: (200, GOOD), context)
    yield server, tmp_path
    server.close()


def showing(server: Server, *files: Path, **more: Any) -> TokenExchange:
    return TokenExchange(
        Endpoint(server.url, seconds=PATIENT), {"worker": Client("worker", certificate=files, **more)}, "urn:example:tools"
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [False, True])
def test_a_certificate_is_shown_at_the_token_endpoint(over_tls: tuple[Server, Path], bound: bool) -> None:
    server, folder = over_tls
    server.answer = lambda form: (200, BOUND if bound else GOOD)
    more = {"holder": KEY} if bound else {}
    (folder / "agent.key").chmod(0o600)
    assert showing(server, folder / "agent.crt", folder / "agent.key", **more).exchange(request()) == "a.b.c"
    assert server.certificates == ["agent"]
    assert server.asked[0]["client_id"] == "worker" and not server.asked[0].keys() & {"client_assertion", "client_secret"}
    assert (server.proofs[0] is not None) is bound


def test_the_address_for_those_with_a_certificate(over_tls: tuple[Server, Path]) -> None:
    server, folder = over_tls
    (folder / "agent.key").chmod(0o600)
    server.metadata["mtls_endpoint_aliases"] = {"token_endpoint": f"{server.url}/mtls/token"}
    assert showing(server, folder / "agent.crt", folder / "agent.key").exchange(request()) == "a.b.c"
    assert server.paths == ["/mtls/token"]
    for odd in ({"token_endpoint": "http://evil.example/token"}, {"token_endpoint": 7}, "x", []):
        server.metadata["mtls_endpoint_aliases"] = odd
        with pytest.raises(GuardError) as refused:
            showing(server, folder / "agent.crt", folder / "agent.key").exchange(request())
        assert refused.value.code == "delegation.unavailable"


def test_what_is_taken_back_is_taken_back_where_certificates_are_asked_for(over_tls: tuple[Server, Path]) -> None:
    server, folder = over_tls
    (folder / "agent.key").chmod(0o600)
    own = Client("worker", certificate=(folder / "agent.crt", folder / "agent.key"))
    server.metadata["revocation_endpoint"] = f"{server.url}/revoke"
    for aliases, path in (({}, "/revoke"), ({"revocation_endpoint": f"{server.url}/mtls/revoke"}, "/mtls/revoke")):
        server.metadata["mtls_endpoint_aliases"] = aliases
        lender = DownstreamTokens(Endpoint(server.url, seconds=PATIENT), {"worker": own})
        lender.take_back(Issued("opaque", "", "Bearer", 60, None, (), "worker"))
        assert (server.paths[-1], server.certificates[-1]) == (path, "agent")


def test_a_certificate_that_nobody_trusts(over_tls: tuple[Server, Path]) -> None:
    server, folder = over_tls
    other = certificate(folder, "other")
    other[1].chmod(0o600)
    with pytest.raises(GuardError) as refused:
        showing(server, *other).exchange(request())
    assert (refused.value.code, server.asked) == ("delegation.unavailable", [])


def test_a_certificate_that_is_renewed_is_shown(over_tls: tuple[Server, Path]) -> None:
    server, folder = over_tls
    files = folder / "mine.crt", folder / "mine.key"
    other = certificate(folder, "other")
    for source in (other, (folder / "agent.crt", folder / "agent.key")):
        for made, kept in zip(source, files, strict=True):
            beside = kept.with_suffix(".new")
            beside.write_bytes(made.read_bytes())
            beside.chmod(0o600)
            beside.replace(kept)
        if source is other:
            exchange = showing(server, *files)
            with pytest.raises(GuardError):
                exchange.exchange(request())
    assert exchange.exchange(request()) == "a.b.c"


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "agent")
    other = certificate(tmp_path, "other")[1]
    (tmp_path / "none").write_text("secret")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Client("worker", certificate=(cert, key))
    for each in (key, other, tmp_path / "none"):
        each.chmod(0o600)
    wrong: list[Any] = [
        (cert, other),
        (cert, tmp_path / "none"),
        (tmp_path / "none", key),
        (tmp_path / "gone", key),
        cert,
        (cert,),
        (cert, 7),
    ]
    for given in wrong:
        with pytest.raises(ConfigError) as refused:
            Client("worker", certificate=given)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="exactly one"):
        Client("worker", certificate=(cert, key), secret="x" * 20)
    assert repr(Client("worker", certificate=(cert, key))) == "Client('worker', certificate)"


# -- who this is ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"id": "a"}, "exactly one"),
        ({"id": "a", "secret": "x" * 20, "key": "k"}, "exactly one"),
        ({"id": "", "secret": "x" * 20}, "visible"),
        ({"id": "a", "secret": "short"}, "16 characters"),
        ({"id": "a", "key": "/nowhere/at/all"}, "cannot read"),
        ({"id": "a", "secret": "x" * 20, "holder": "k.pem"}, "HolderKey"),
    ],
)
def test_clients_that_are_none(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Client(**given)


def test_key_files(tmp_path: Path, authorization_server: AuthorizationServer) -> None:
    path = tmp_path / "key"
    for raw in (b"", b"{", b"{}", b"-----BEGIN", json.dumps({**authorization_server.key("worker"), "d": "AA"}).encode()):
        path.write_bytes(raw)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds no private key"):
            Client("worker", key=path)
    path.write_text(json.dumps(authorization_server.key("worker")))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Client("worker", key=path)
    os.chmod(path, 0o600)
    shown = Client("worker", key=path)
    assert "d" in authorization_server.key("worker") and str(authorization_server.key("worker")["d"]) not in repr(shown)
