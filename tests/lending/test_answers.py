"""Every cell of `answers.yaml`: what an issuer may answer, over its own endpoints, and what comes of it. And what it is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import Denied, Issuer
from guard.errors import GuardError
from guard.identity import HolderKey
from guard.identity.client import Client
from guard.identity.downstream import DownstreamTokens
from guard.identity.exchange import Endpoint
from guard.model import CredentialRequest, Issued
from guard.tokens.jose import b64url_encode
from tests.lending.world import RESOURCE, Desk, Server

CELLS = yaml.safe_load((Path(__file__).parent / "answers.yaml").read_text())
GOOD = {
    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    "token_type": "Bearer",
    "expires_in": 60,
    "scope": "issues.write",
}
SECRET = "0123456789abcdef"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    open_now: list[Server] = []

    def start(answer: Callable[[str, dict[str, str]], tuple[int, object]]) -> Server:
        open_now.append(Server(answer))
        return open_now[-1]

    yield start
    for each in open_now:
        each.close()


def lender(server: Server, *clients: Client, seconds: float = 30.0) -> DownstreamTokens:
    given = clients or (Client("support", secret=SECRET),)
    return DownstreamTokens(Endpoint(server.url, seconds=seconds), {each.actor: each for each in given})


def jwt(claims: dict[str, Any]) -> str:
    """Nobody here verifies it."""
    now = int(time.time())
    ends = claims.get("exp", 60)
    made = {"iss": "https://iam.acme.example", "jti": "j-17", **claims, "exp": now + ends if type(ends) is int else ends}
    parts = (b64url_encode(json.dumps(part).encode()) for part in ({"alg": "ES256"}, {k: v for k, v in made.items() if v is not None}))
    return ".".join((*parts, b64url_encode(f"{now}-{time.monotonic_ns()}-signature".encode())))


@pytest.mark.parametrize("cell", CELLS, ids=[cell["name"] for cell in CELLS])
def test_answers(cell: dict[str, Any], serve: Callable[..., Server]) -> None:
    token = jwt(cell["jwt"]) if "jwt" in cell else "opaque-" + "x" * cell.get("long", 30)
    answer = {name: value for name, value in {"access_token": token, **GOOD, **cell["answer"]}.items() if value is not None}
    server = serve(lambda path, form: (200, answer if path == "/token" else {}))
    desk = Desk(credentials=lender(server))
    got: list[str] = []
    with desk.task():
        call = desk.guard.tool(lambda repo, title: got.append(desk.guard.credential().reveal()), name="create_issue")
        if "refused" not in cell:
            call("acme/web", "broken")
        else:
            with pytest.raises(Denied, match=r"\[credential\.refused\]") as denied:
                call("acme/web", "broken")
            assert cell["refused"] in str(denied.value)
    assert got == ([] if "refused" in cell else [token])
    taken = [form["token"] for form in server.paths("/revocation")]
    came = [answer[name] for name in ("refresh_token", "id_token", "access_token") if name in answer]
    assert taken == came, "what was refused is taken back, and all that came along with it"
    (said,) = desk.lent
    assert said["taken_back"] is True
    assert said["id"] == "https://iam.acme.example/j-17" if "jwt" in cell else said["id"].startswith("hmac:")
    assert not any(each in desk.text for each in came)
    assert desk.sink.outcomes[0].status == ("not_executed" if "refused" in cell else "ok")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((400, {"error": "invalid_target", "error_description": "TOKENTEXT"}), "refused"),
        ((400, {"error": "TOKENTEXT"}), "refused"),
        ((401, {"error": "invalid_client"}), "refused"),
        ((500, {"error": "server_error"}), "unavailable"),
        ((302, {}), "unavailable"),
        ((200, b"<html>TOKENTEXT"), "unavailable"),
        ((200, {**GOOD}), "unavailable"),
        ((200, {**GOOD, "access_token": ["a"]}), "unavailable"),
        ((200, b"x" * 600_000), "unavailable"),
    ],
)
def test_answers_that_are_none(answer: tuple[int, object], code: str, serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: answer)
    desk = Desk(credentials=lender(server))
    with desk.task(), pytest.raises(Denied) as denied:
        desk.guard.tool(lambda repo, title: pytest.fail("it ran"), name="create_issue")("acme/web", "broken")
    assert denied.value.code == f"credential.{code}"
    assert "TOKENTEXT" not in str(denied.value) + desk.text
    assert not server.paths("/revocation")
    assert desk.lent == [{"resource": RESOURCE, "scope": ["issues.write"], "parent": desk.sink.decisions[0].credential}]


def test_what_is_asked(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (200, {"access_token": f"opaque-{time.monotonic_ns()}", **GOOD}))
    desk = Desk(credentials=lender(server))
    with desk.task() as task:
        for _ in range(2):
            desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")
    first, second = server.paths("/token")
    assert first == second, "nothing is kept: each call asks"
    details = json.loads(first.pop("authorization_details"))
    assert first == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": task.token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "resource": RESOURCE,
        "scope": "issues.write",
    }
    assert details == [{"type": "agent_task", "intent": "triage", "params": {}}, {"type": "agent_tool", "tool": "create_issue"}]


def test_a_token_that_was_given_before_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (200, {"access_token": "the-same-for-all-0123456789", **GOOD}))
    desk = Desk(credentials=lender(server))
    call = desk.guard.tool(lambda repo, title: None, name="create_issue")
    with desk.task():
        call("acme/web", "broken")
        with pytest.raises(Denied, match="given before"):
            call("acme/web", "broken")
    assert len(server.paths("/revocation")) == 1, "it is the first call's, and was taken back with that"


def test_the_token_of_the_task_is_not_lent(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (200, {"access_token": form["subject_token"], **GOOD} if path == "/token" else {}))
    desk = Desk(credentials=lender(server))
    with desk.task(), pytest.raises(Denied, match=r"to be exchanged.*credential\.refused"):
        desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")
    assert not server.paths("/revocation"), "taking it back would end the task"


def test_as_whom_it_is_asked(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (200, {"access_token": f"opaque-{time.monotonic_ns()}", **GOOD}))
    others = Client("a", secret=SECRET), Client("b", secret=SECRET)
    desk = Desk(credentials=lender(server, *others))
    with desk.task(), pytest.raises(Denied, match="none of them is who acts"):
        desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")
    desk = Desk(credentials=lender(server, Client("the-program", secret=SECRET)))
    with desk.task():
        desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")


def test_a_client_with_a_key_asks_without_it(serve: Callable[..., Server]) -> None:
    """The body has no key: what is bound to the client's would be of no use to it."""

    def answer(path: str, form: dict[str, str]) -> tuple[int, object]:
        bound = server.proofs[-1] is not None
        return 200, {"access_token": f"opaque-{time.monotonic_ns()}", **GOOD, "token_type": "DPoP" if bound else "Bearer"}

    server = serve(answer)
    client = Client("support", secret=SECRET, holder=HolderKey.generate())
    desk = Desk(credentials=lender(server, client))
    with desk.task():
        desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")
    assert [path for path, _ in server.asked] == ["/token", "/revocation"] and client.bound
    assert desk.lent[0]["taken_back"] is True


def test_of_a_chain_nothing_is_asked(serve: Callable[..., Server]) -> None:
    from dataclasses import replace

    server = serve(lambda path, form: (200, {"access_token": "opaque", **GOOD}))
    desk = Desk()
    with desk.task() as task:
        asked = CredentialRequest(f"{task.token}~a.b.c", replace(task.delegation), "pay", RESOURCE, frozenset(), 60)
    with pytest.raises(GuardError, match="hops") as refused:
        lender(server).obtain(asked)
    assert refused.value.code == "credential.refused" and not server.asked


@pytest.mark.parametrize(("status", "code"), [(200, ""), (400, "refused"), (405, "refused"), (429, "unavailable"), (503, "unavailable")])
def test_taking_back(status: int, code: str, serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (status, {"error": "unsupported_token_type"}))
    issued = Issued("opaque", "", "Bearer", 60, None, ("rt",), "support")
    found = ""
    try:
        lender(server).take_back(issued)
    except GuardError as error:
        found = error.code.removeprefix("credential.")
    assert found == code
    asked = [(form["token"], form["token_type_hint"]) for form in server.paths("/revocation")]
    assert asked == [("rt", "refresh_token"), ("opaque", "access_token")], "all of it, also where the first one fails"


def test_issuers_lend_by_their_client(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, form: (200, {}))
    with_client = Issuer(server.url, audience="tools", keys=f"{server.url}/jwks", client=Client("support", secret=SECRET))
    assert isinstance(with_client.lender, DownstreamTokens)
    assert Issuer(server.url, audience="tools", keys=f"{server.url}/jwks").lender is None
    desk = Desk(credentials=None)
    with desk.task(), pytest.raises(Denied, match=r"nobody can be asked.*credential\.unavailable"):
        desk.guard.tool(lambda repo, title: None, name="create_issue")("acme/web", "broken")
