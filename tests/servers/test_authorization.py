"""The authorization server the tests run against answers as its page says. What it does not do is as important as what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guard.tokens import split, token_json
from tests.servers.authorization import (
    BANK,
    OPAQUE,
    OTHER,
    TOOLS,
    TOOLS_ED25519,
    TOOLS_RS256,
    AuthorizationServer,
    new_key,
    proof,
)

PAY = {"type": "agent_task", "intent": "pay-invoice", "params": {"vendor": "Globex", "ceiling": "900"}}
READ = {"type": "agent_tool", "tool": "read_invoice", "limit": {"calls": 3}}
MAIL = {"type": "agent_tool", "tool": "send_email"}


def header(token: str) -> dict[str, Any]:
    return token_json(split(token).header)


def claims(token: str) -> dict[str, Any]:
    return token_json(split(token).payload)


def refused(answer: Any) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


def test_what_it_says_of_itself(authorization_server: AuthorizationServer) -> None:
    found = authorization_server.metadata
    assert found["issuer"] == authorization_server.issuer
    assert found["jwks_uri"] == f"{authorization_server.issuer}/jwks"
    assert found["token_endpoint"] == authorization_server.token_endpoint
    assert authorization_server.get("/.well-known/openid-configuration").json()["issuer"] == authorization_server.issuer
    keys = authorization_server.get("/jwks").json()["keys"]
    assert sorted(key["kid"] for key in keys) == ["ed25519-a", "es256-a", "rs256-a"]


def test_client_credentials(authorization_server: AuthorizationServer) -> None:
    for resource, alg in ((TOOLS, "ES256"), (TOOLS_RS256, "RS256"), (TOOLS_ED25519, "Ed25519")):
        token = authorization_server.client_credentials(resource=resource, details=[PAY])
        assert header(token) == {"alg": alg, "typ": "at+jwt", "kid": f"{alg.lower()}-a"}
        assert claims(token)["aud"] == resource
    found = claims(authorization_server.client_credentials("worker", details=[PAY, READ]))
    assert (found["sub"], found["client_id"], found["owner"]) == ("worker", "worker", "platform@example")
    assert found["authorization_details"] == [PAY, READ]


def test_a_person_and_two_exchanges(authorization_server: AuthorizationServer) -> None:
    root = authorization_server.login("alice", details=[PAY, READ, MAIL])["access_token"]
    first = claims(root)
    assert (first["sub"], first["client_id"], first["aud"]) == ("alice", "ui", TOOLS)
    assert first["sid"]
    second = authorization_server.exchange(root, "orchestrator", scope="tools:read", details=[PAY, READ]).json()
    assert second["authorization_details"] == [PAY, READ]
    third = claims(authorization_server.exchange(second["access_token"], "worker").json()["access_token"])
    iss = authorization_server.issuer
    assert third["act"] == {"sub": "worker", "iss": iss, "act": {"sub": "orchestrator", "iss": iss}}
    assert [third[name] for name in ("sub", "txn", "sid", "scope")] == ["alice", first["txn"], first["sid"], "tools:read"]
    assert third["exp"] <= first["exp"]


def test_it_does_not_broaden(authorization_server: AuthorizationServer) -> None:
    root = authorization_server.login("alice", scope="tools:read", details=[PAY, READ])["access_token"]
    ask = authorization_server.exchange
    assert refused(ask(root, scope="tools:read tools:write")) == "invalid_scope"
    for wider in ([PAY], [READ], [PAY, MAIL], [PAY, {**READ, "limit": {"calls": 4}}], [{**PAY, "params": {}}, READ]):
        assert refused(ask(root, details=wider)) == "invalid_authorization_details", wider
    assert refused(ask(root, resource=OTHER)) == "invalid_target"
    assert refused(ask(root[:-4] + "AAAA")) == "invalid_grant"
    assert ask(root, details=[PAY, {**READ, "limit": {"calls": 2}}]).status_code == 200


def test_opaque_tokens_can_be_looked_at_and_taken_back(authorization_server: AuthorizationServer) -> None:
    root = authorization_server.login("alice", details=[PAY])["access_token"]
    child = authorization_server.exchange(root, "orchestrator", resource=BANK).json()["access_token"]
    found = authorization_server.introspect(child)
    assert (found["active"], found["sub"], found["txn"], found["aud"]) == (True, "alice", claims(root)["txn"], BANK)
    assert found["act"]["sub"] == "orchestrator"
    assert authorization_server.revoke(child, "orchestrator") == 200
    assert authorization_server.introspect(child) == {"active": False}
    assert authorization_server.introspect(root)["error"] == "unsupported_token_type"
    assert authorization_server.revoke(root, "ui") == 400
    assert "." not in authorization_server.client_credentials(resource=OPAQUE)


def test_bound_tokens(authorization_server: AuthorizationServer) -> None:
    from guard.tokens import thumbprint

    key = new_key()
    root = authorization_server.login("alice", details=[PAY])["access_token"]
    assert refused(authorization_server.exchange(root, "worker-bound")) == "invalid_grant"
    answer = authorization_server.exchange(root, "worker-bound", dpop=key)
    assert answer.json()["token_type"] == "DPoP"
    assert claims(answer.json()["access_token"])["cnf"] == {"jkt": thumbprint(key)}
    again = {"DPoP": proof(key, "POST", authorization_server.token_endpoint, jti="once")}
    data = {"grant_type": "client_credentials", "resource": TOOLS}
    assert authorization_server.post("/token", data, "worker-bound", headers=again).status_code == 200
    assert refused(authorization_server.post("/token", data, "worker-bound", headers=again)) == "invalid_grant"
    elsewhere = {"DPoP": proof(key, "POST", "https://evil.example/token")}
    assert refused(authorization_server.post("/token", data, "worker-bound", headers=elsewhere)) == "invalid_dpop_proof"


def test_nonces_and_rotation(start_authorization_server: Callable[..., AuthorizationServer]) -> None:
    server = start_authorization_server(nonce=True)
    key = new_key()
    first = {"DPoP": proof(key, "POST", server.token_endpoint)}
    data = {"grant_type": "client_credentials", "resource": TOOLS}
    assert refused(server.post("/token", data, "worker-bound", headers=first)) == "use_dpop_nonce"
    assert server.token(data, "worker-bound", dpop=key).status_code == 200
    issuer, secret = server.issuer, server.secret("orchestrator")
    server.restart("b,a")
    assert (server.issuer, server.secret("orchestrator")) == (issuer, secret)
    assert header(server.client_credentials())["kid"] == "es256-b"
    assert len(server.get("/jwks").json()["keys"]) == 6
    server.restart("b")
    assert sorted(each["kid"] for each in server.get("/jwks").json()["keys"]) == ["ed25519-b", "es256-b", "rs256-b"]
