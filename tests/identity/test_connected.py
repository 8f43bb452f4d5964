"""End to end: tokens of a real authorization server, verified by nothing but its URL, through a guard."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.identity import TrustedIssuers
from guard.identity.discovery import server_metadata
from guard.record import ListSink
from tests.servers.authorization import OTHER, TOOLS, TOOLS_ED25519, TOOLS_RS256, AuthorizationServer, new_key

POLICY = Policy.from_text(
    """
guardtrail: 1
name: accounts-payable
tools:
  read_invoice: {effect: read, control: {invoice: id}}
  pay: {effect: pay, control: {iban: iban}, data: {amount: decimal}}
flow: {read: {allow: [any]}, pay: {allow: [params], deny: [any]}}
intents:
  pay-invoice:
    description: Pay one invoice.
    params: {iban: iban, ceiling: decimal}
    ttl: 10m
    allow:
      read_invoice: {}
      pay: {args: {iban: {eq: $iban}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 1}}
""",
    file="policy.yaml",
)
TASK = {"type": "agent_task", "intent": "pay-invoice", "params": {"iban": "DE89370400440532013000", "ceiling": "900"}}
READ = {"type": "agent_tool", "tool": "read_invoice"}
PAY = ToolCall("pay", {"iban": "DE89370400440532013000", "amount": "880"})


def guard(issuer: Issuer, sink: ListSink | None = None) -> Guard:
    return Guard(POLICY, trust=issuer, sinks=[sink or ListSink()], deadline=timedelta(seconds=10))


def body(**args: object) -> str:
    return "done"


def denied(made: Guard, token: str, call: ToolCall = PAY) -> str:
    try:
        with made.task(token):
            made.call(call, body)
    except Denied as refused:
        return str(refused.code)
    return "allow"


@pytest.mark.parametrize("audience", [TOOLS, TOOLS_RS256, TOOLS_ED25519])
def test_tokens_of_a_person_and_of_a_client(audience: str, authorization_server: AuthorizationServer) -> None:
    made = guard(Issuer(authorization_server.issuer, audience=audience))
    root = authorization_server.login("alice", resource=audience, details=[TASK])["access_token"]
    assert denied(made, root) == "allow"
    assert denied(made, authorization_server.client_credentials("worker", resource=audience, details=[TASK])) == "allow"
    assert denied(made, root[:-8] + "AAAAAAAA") == "token.signature"


def test_who_acts_for_whom(authorization_server: AuthorizationServer) -> None:
    sink = ListSink()
    made = guard(Issuer(authorization_server.issuer, audience=TOOLS), sink)
    root = authorization_server.login("alice", details=[TASK, READ])["access_token"]
    middle = authorization_server.exchange(root, "orchestrator").json()["access_token"]
    leaf = authorization_server.exchange(middle, "worker").json()["access_token"]
    with made.task(leaf) as task:
        assert task.delegation.origin == "alice"
        assert task.delegation.actors == ("orchestrator", "worker")
        assert made.call(ToolCall("read_invoice", {"invoice": "INV-7"}), body) == "done"
        with pytest.raises(Denied) as caught:
            made.call(PAY, body)
        assert caught.value.code == "grant.tool"
        with made.task(root) as whole:
            assert whole.id == task.id, "one task, whoever acts in it"


def test_tokens_that_are_for_others(authorization_server: AuthorizationServer) -> None:
    made = guard(Issuer(authorization_server.issuer, audience=TOOLS))
    assert denied(made, authorization_server.client_credentials(resource=OTHER, details=[TASK])) == "token.audience"
    assert denied(made, authorization_server.client_credentials(scope="tools:read")) == "grant.tool", "no scope of the policy"
    bound = authorization_server.client_credentials("worker-bound", details=[TASK], dpop=new_key())
    assert denied(made, bound) == "token.proof", "bound, and shown as if it were not"
    login = authorization_server.login("alice", details=[TASK])
    assert denied(made, login["id_token"]) == "token.type"
    other = guard(Issuer(authorization_server.issuer.replace("127.0.0.1", "localhost"), audience=TOOLS))
    assert denied(other, login["access_token"]) == "token.issuer", "the same server under another name is another issuer"


def test_only_the_algorithms_that_were_asked_for(authorization_server: AuthorizationServer) -> None:
    token = authorization_server.client_credentials(resource=TOOLS_RS256, details=[TASK])
    narrow = Issuer(authorization_server.issuer, audience=TOOLS_RS256, algorithms=["ES256", "Ed25519"])
    assert denied(guard(narrow), token) == "token.signature"


def test_a_restart_with_other_keys_ends_the_old_ones(start_authorization_server: Callable[..., AuthorizationServer]) -> None:
    """Overlapping, as a careful operator does it; and then the old keys go, and their tokens with them, in the middle of a task."""
    server = start_authorization_server()
    issuer = Issuer(server.issuer, audience=TOOLS)
    shift = [0.0]
    issuer._remote._clock = lambda: time.monotonic() + shift[0]  # type: ignore[union-attr]
    made = guard(issuer)

    def passes(seconds: float) -> None:
        shift[0] += seconds
        issuer.rules()
        flight: Any = issuer._remote._flight  # type: ignore[union-attr]
        if flight is not None:
            flight.result(timeout=20)

    old = server.client_credentials("worker", details=[TASK])
    read = ToolCall("read_invoice", {"invoice": "INV-7"})
    with made.task(old):
        assert made.call(read, body) == "done"
        server.restart("b,a")
        shift[0] += 31
        new = server.client_credentials("worker", details=[TASK])
        assert denied(made, new, read) == "allow", "its key came with it"
        assert made.call(read, body) == "done"
        server.stop()
        passes(301)
        assert made.call(read, body) == "done", "the server is down; the keys it published count for an hour"
        server.start("b")
        passes(31)
        with pytest.raises(Denied) as caught:
            made.call(read, body)
        assert caught.value.code == "token.signature"
    assert denied(made, server.client_credentials("worker", details=[TASK]), read) == "allow"


def test_metadata_of_the_server(authorization_server: AuthorizationServer) -> None:
    found = server_metadata(authorization_server.issuer)
    assert found.token_endpoint == authorization_server.token_endpoint
    assert found.jwks_uri == f"{authorization_server.issuer}/jwks"
    assert found.introspection_endpoint is not None
    assert found.revocation_endpoint is not None
    assert {"private_key_jwt", "client_secret_basic"} <= set(found.auth_methods)
    assert "ES256" in found.dpop_algorithms
    assert set(found.details_types) == {"agent_task", "agent_tool"}


def test_a_kept_delegation_is_the_same_object(authorization_server: AuthorizationServer) -> None:
    issuer = Issuer(authorization_server.issuer, audience=TOOLS)
    issuer.fetch()
    trust = TrustedIssuers(issuer)
    token = authorization_server.client_credentials(details=[TASK])
    assert trust.verify(token, now=int(time.time())) is trust.verify(token, now=int(time.time()))
