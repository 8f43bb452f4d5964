"""End to end on a server that nobody here wrote, nor configured by code of its own: Debian's glewlwyd (C), skipped where it is not installed.

Its tokens through a guard that knows nothing but its URL; introspection and revocation of JWTs, which npm oidc-provider does not have; and
what its tokens lack: which code that is, and what an operator sets instead. Real calls of a real guard throughout.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.errors import ConfigError, GuardError
from guard.identity import HolderKey
from guard.identity.client import Client
from guard.identity.discovery import server_metadata
from guard.identity.revoked import Introspection, basic, take_back
from guard.record import ListSink
from guard.tokens import split, token_json
from tests.identity.revoked.test_store import Steady
from tests.server.test_tts_connected import DETAILS, LOOK, PAY, Service
from tests.servers.glewlwyd import OTHER, TOOLS, Glewlwyd

POLICY = Policy.from_text("""
guardtrail: 1
name: orders
owner: desk@acme.example
tools:
  look: {effect: read, control: {order: id}, returns: none}
  pay: {effect: pay, control: {order: id}, returns: none}
intents:
  settle: {description: Settle one order., params: {order: id}, allow: {look: {args: {order: {eq: $order}}}, pay: {args: {order: {eq: $order}}, limit: {calls: 1}}}}
scopes: {"tools:read": [look]}
""")
LOOKING: list[dict[str, Any]] = [*DETAILS]  # type: ignore[list-item]
TASK = LOOKING[:1]
Headers = Callable[[], Mapping[str, str]]
JOB: dict[str, Any] = {"task_claim": "job"}
"""What an operator sets: an account is made for one piece of work, has it as an attribute, and its access tokens have that as the claim `job`."""
_numbers = itertools.count(1)


def guard(server: Glewlwyd, *, sink: ListSink | None = None, revocations: Any = None, **trust: Any) -> Guard:
    issuer = Issuer(server.issuer, **{"audience": TOOLS, **JOB, **trust})
    return Guard(POLICY, trust=issuer, sinks=[sink or ListSink()], revocations=revocations, deadline=timedelta(seconds=10))


def account(server: Glewlwyd) -> str:
    """A new one, for a job of its own."""
    number = next(_numbers)
    server.account(f"run-{number}", job=f"job-{number}")
    return f"run-{number}"


def job(server: Glewlwyd, client: str = "agent", **more: Any) -> str:
    """An access token of a job that no other test has."""
    return str(server.login(account(server), client, **{"details": TASK, **more})["access_token"])


def said(made: Guard, call: ToolCall = LOOK) -> str:
    try:
        made.call(call, lambda **_: None)
    except Denied as denied:
        return str(denied.code)
    return "allow"


def opened(made: Guard, token: str, call: ToolCall = LOOK) -> str:
    try:
        with made.task(token):
            return said(made, call)
    except Denied as denied:
        return str(denied.code)


def claims(token: str) -> dict[str, Any]:
    return token_json(split(token).payload)


# -- nothing but its URL -------------------------------------------------------------------------------------------------------------


def test_what_it_says_of_itself(glewlwyd: Glewlwyd) -> None:
    """Its metadata is at OpenID Connect's address, `/api/oidc/.well-known/openid-configuration`, and nowhere else: the second one that is tried."""
    path = "/api/oidc"
    assert glewlwyd.get(f"/.well-known/oauth-authorization-server{path}").status_code == 404
    assert glewlwyd.get(f"{path}/.well-known/openid-configuration").status_code == 200
    found = server_metadata(glewlwyd.issuer)
    assert (found.token_endpoint, found.jwks_uri) == (glewlwyd.token_endpoint, f"{glewlwyd.issuer}/jwks")
    assert (found.introspection_endpoint, found.revocation_endpoint) == (f"{glewlwyd.issuer}/introspect", f"{glewlwyd.issuer}/revoke")
    assert set(found.details_types) == {"agent_task", "agent_tool"} and "ES256" in found.dpop_algorithms
    assert "client_credentials" not in found.grants, "which it can do all the same: why `grants` is a hint"


@pytest.mark.parametrize(("client", "alg"), [("agent", "ES256"), ("agent-rs", "RS256")])
def test_a_login_with_details(glewlwyd: Glewlwyd, client: str, alg: str) -> None:
    sink = ListSink()
    made = guard(glewlwyd, sink=sink)
    token = job(glewlwyd, client, details=LOOKING)
    assert {name: token_json(split(token).header)[name] for name in ("typ", "alg")} == {"typ": "at+jwt", "alg": alg}
    with made.task(token) as task:
        found = task.delegation
        assert (found.issuer, found.txn, found.actors, found.origin_kind) == (glewlwyd.issuer, claims(token)["job"], (client,), "person")
        assert (found.origin, found.credential.jti) == (claims(token)["sub"], claims(token)["jti"])
        assert said(made) == "allow"
        assert said(made, ToolCall("look", {"order": "B-1"})) == "args.constraint"
        assert said(made, PAY) == "grant.tool", "the intent has it, the token's agent_tool does not"
    assert [one.verdict for one in sink.decisions if one.tool in ("look", "pay")] == ["allow", "deny", "deny"]
    assert opened(guard(glewlwyd, algorithms=[alg]), token) == "allow"
    assert opened(guard(glewlwyd, algorithms=["Ed25519"]), token) == "token.signature"


def test_scopes_stand_for_tools_where_there_are_no_details(glewlwyd: Glewlwyd) -> None:
    made = guard(glewlwyd)
    with made.task(job(glewlwyd, scope="tools:read", details=None)):
        assert (said(made), said(made, PAY)) == ("allow", "grant.tool")
    assert opened(made, job(glewlwyd, details=None)) == "grant.tool", "`tools` is no scope of the policy"


def test_one_limit_for_one_job_whatever_token_comes(glewlwyd: Glewlwyd) -> None:
    made = guard(glewlwyd)
    name = account(glewlwyd)
    first, second = (glewlwyd.login(name, details=TASK)["access_token"] for _ in range(2))
    assert claims(first)["jti"] != claims(second)["jti"]
    with made.task(first) as task:
        assert said(made, PAY) == "allow"
        with made.task(second) as again:
            assert again.id == task.id
            assert said(made, PAY) == "limit.calls"
    assert opened(made, job(glewlwyd), PAY) == "allow", "another job"


# -- tokens for others, and of others ------------------------------------------------------------------------------------------------


def test_tokens_that_are_for_others(glewlwyd: Glewlwyd) -> None:
    made = guard(glewlwyd)
    assert opened(made, job(glewlwyd, resource=OTHER)) == "token.audience"
    bare = job(glewlwyd, scope="tools tools:read", resource=None)
    assert opened(made, bare) == "token.audience", "without `resource` the audience is the list of scopes"
    both = glewlwyd.login(account(glewlwyd), scope="openid tools", details=TASK)
    assert opened(made, both["id_token"]) == "token.type"
    assert opened(made, both["access_token"]) == "allow"
    slash = Issuer(f"{glewlwyd.issuer}/", audience=TOOLS, keys=f"{glewlwyd.issuer}/jwks", **JOB)
    other = Guard(POLICY, trust=slash, sinks=[ListSink()], deadline=timedelta(seconds=10))
    assert opened(other, both["access_token"]) == "token.issuer", "the same keys under another name"


def test_what_it_did_not_sign(glewlwyd: Glewlwyd, secret: Callable[..., None]) -> None:
    made = guard(glewlwyd)
    token = job(glewlwyd)
    head, payload, signature = token.split(".")
    wider = jwt.utils.base64url_encode(json.dumps({**claims(token), "authorization_details": LOOKING}).encode()).decode()
    assert opened(made, f"{head}.{wider}.{signature}") == "token.signature"
    assert opened(made, f"{head}.{payload}.{signature[:-8]}AAAAAAAA") == "token.signature"
    for kid in ("es256-a", "rs256-a", "es256-b"):  # its own, of another kind, and one it does not have
        forged = jwt.encode(claims(token), ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"typ": "at+jwt", "kid": kid})
        secret(forged)
        assert opened(made, forged) == "token.signature", kid
    assert opened(made, token) == "allow", "the one they were made of"


# -- what its tokens lack ------------------------------------------------------------------------------------------------------------


def test_client_credentials_verify_and_have_no_owner(glewlwyd: Glewlwyd) -> None:
    """Signature, type, audience and times are right. Nobody answers for the client, and nothing there can be set up that says who does."""
    made = guard(glewlwyd)
    for more in ({}, {"authorization_details": json.dumps(LOOKING)}):
        token = glewlwyd.client_credentials("agent", **more)
        found = claims(token)
        assert found["sub"] == found["client_id"] == "agent" and found["aud"] == TOOLS and found["jti"]
        assert not {"owner", "job", "txn", "authorization_details"} & found.keys(), "what was asked for is left out, without a word"
        with pytest.raises(Denied, match="an autonomous workload needs the claim `owner`") as caught, made.task(token):
            made.call(LOOK, lambda **_: None)
        assert caught.value.code == "token.claims"
    assert opened(made, glewlwyd.client_credentials("agent", resource=OTHER)) == "token.audience", "looked at before the owner"
    assert opened(made, glewlwyd.client_credentials("agent", resource=None)) == "token.audience"
    assert claims(glewlwyd.client_credentials("agent", resource=None))["aud"] == "tools"


def test_no_task_in_its_tokens(glewlwyd: Glewlwyd) -> None:
    """Neither `txn` nor `sid`, though there is a session: alice has no job, and without `task_claim` nobody has."""
    login = glewlwyd.login("alice", scope="openid tools", details=LOOKING)
    alice = login["access_token"]
    assert "sid" in claims(login["id_token"])
    assert not {"txn", "sid", "job"} & claims(alice).keys()
    assert opened(guard(glewlwyd), alice) == "token.no_task"
    assert opened(guard(glewlwyd, task_claim=None), job(glewlwyd, details=LOOKING)) == "token.no_task"


def test_alice_by_the_token_service(glewlwyd: Glewlwyd, tmp_path: Path) -> None:
    """What an operator does who wants a task for each of her tokens: `guardtrail tts` beside the server. It knows nothing but its URL, either."""
    service = Service(tmp_path, glewlwyd.issuer, TOOLS)
    service.start()
    try:
        first, second = (glewlwyd.login("alice", details=LOOKING)["access_token"] for _ in range(2))
        made = service.guard()
        with made.task(service.issued(first, client="planner")) as task:
            assert (task.delegation.origin, task.delegation.actors) == (claims(first)["sub"], ("planner",))
            assert (said(made), said(made, PAY)) == ("allow", "grant.tool")
            with made.task(service.issued(first)) as again, made.task(service.issued(second)) as other:
                assert again.id == task.id != other.id
        assert service.ask(glewlwyd.client_credentials("agent")).status_code == 400, "no owner, no transaction token"
    finally:
        service.stop()


# -- introspection and revocation of JWTs --------------------------------------------------------------------------------------------


def own(server: Glewlwyd) -> Headers:
    """As the client the token was issued to."""
    return basic("agent", server.secret("agent"))


def bearer(server: Glewlwyd) -> Headers:
    """By an access token of its own, with the scope the plugin is set up with: a guard that asks about everybody's tokens."""
    token = server.client_credentials("guard", scope="introspect", resource=None)
    return lambda: {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def by_scope(start_glewlwyd: Callable[..., Glewlwyd]) -> Glewlwyd:
    return start_glewlwyd(by="scope")


def asking(server: Glewlwyd, who: Headers, **more: Any) -> Introspection:
    return Introspection(f"{server.issuer}/introspect", issuer=server.issuer, client=who, **more)


@pytest.mark.parametrize(("set_up", "who"), [("glewlwyd", own), ("by_scope", bearer)])
def test_a_token_that_is_taken_back_in_the_middle_of_a_task(
    set_up: str, who: Callable[[Glewlwyd], Headers], request: pytest.FixtureRequest
) -> None:
    server: Glewlwyd = request.getfixturevalue(set_up)
    steady, known = Steady(), who(server)
    made = guard(server, revocations=[asking(server, known, steady=steady)])
    token = job(server)
    other = job(server)
    with made.task(token):
        assert said(made) == "allow"
        steady.at = 15.0
        assert said(made) == "allow", "asked again, and still active"
        take_back(f"{server.issuer}/revoke", token, client=known)
        steady.at = 29.9
        assert said(made) == "allow", "the yes of second 15 is kept for fifteen"
        steady.at = 30.0
        with pytest.raises(Denied, match=r"the issuer says that the token is not active \[token\.revoked\]"):
            made.call(LOOK, lambda **_: None)
        steady.at = 1000.0
        assert said(made) == "token.revoked", "for good"
    assert opened(made, other) == "allow", "another token of the same client and person"


def test_asked_every_time_the_next_call_is_denied(glewlwyd: Glewlwyd) -> None:
    made = guard(glewlwyd, revocations=[asking(glewlwyd, own(glewlwyd), seconds=0)])
    token = job(glewlwyd)
    with made.task(token):
        assert said(made) == "allow"
        take_back(f"{glewlwyd.issuer}/revoke", token, client=own(glewlwyd))
        assert said(made) == "token.revoked"
    assert opened(made, token) == "token.revoked"


def test_without_asking_it_lives_on(glewlwyd: Glewlwyd) -> None:
    """The other half of the tests above: it is the question that ends it. A JWT that was taken back verifies until it expires."""
    made = guard(glewlwyd)
    token = job(glewlwyd)
    take_back(f"{glewlwyd.issuer}/revoke", token, client=own(glewlwyd))
    assert opened(made, token) == "allow"


def test_who_is_not_told_is_stopped(glewlwyd: Glewlwyd, by_scope: Glewlwyd) -> None:
    """Who asks about another's token is told `active: false`: every call is denied, and a guard that is set up like that is noticed at once."""
    token = job(glewlwyd)
    stranger = basic("agent-rs", glewlwyd.secret("agent-rs"))
    assert opened(guard(glewlwyd, revocations=[asking(glewlwyd, stranger)]), token) == "token.revoked"
    wrong = basic("agent", glewlwyd.secret("agent-rs"))
    assert opened(guard(glewlwyd, revocations=[asking(glewlwyd, wrong)]), token) == "revocation.unavailable"
    with pytest.raises(GuardError, match="answered 401: the token was not taken back there"):
        take_back(f"{glewlwyd.issuer}/revoke", token, client=wrong)
    # To a client that is not the token's it says 200 and does nothing; RFC 7009 section 2.1 has it refuse. Nobody can tell that from here.
    take_back(f"{glewlwyd.issuer}/revoke", token, client=stranger)
    assert opened(guard(glewlwyd, revocations=[asking(glewlwyd, own(glewlwyd))]), token) == "allow"
    assert opened(guard(by_scope, revocations=[asking(by_scope, own(by_scope))]), job(by_scope)) == "revocation.unavailable", "no clients"
    plain = by_scope.client_credentials("agent", resource=None)
    without = asking(by_scope, lambda: {"Authorization": f"Bearer {plain}"})
    assert opened(guard(by_scope, revocations=[without]), job(by_scope)) == "revocation.unavailable", "a token without the scope"


def test_never_both_kinds(start_glewlwyd: Callable[..., Glewlwyd]) -> None:
    """What the table of servers warns of: with clients and a scope set up, whose token it is is not looked at any more. Any client ends any task."""
    server = start_glewlwyd(by="both")
    made = guard(server, revocations=[asking(server, own(server), seconds=0)])
    with made.task(job(server)) as task:
        assert said(made) == "allow"
        take_back(f"{server.issuer}/revoke", task.token, client=basic("agent-rs", server.secret("agent-rs")))
        assert said(made) == "token.revoked"


# -- handing on, and keys of holders -------------------------------------------------------------------------------------------------


def test_it_exchanges_nothing(glewlwyd: Glewlwyd) -> None:
    made = guard(glewlwyd, client=Client("agent-rs", secret=glewlwyd.secret("agent-rs")))
    token = job(glewlwyd, details=LOOKING)
    answer = glewlwyd.exchange(token)
    # RFC 6749 section 5.2 has a JSON `error` in it (`unsupported_grant_type`). Without that word nobody has refused, as far as we can tell.
    assert (answer.status_code, answer.content) == (400, b"")
    with made.task(token) as task:
        with pytest.raises(Denied, match=r"it answered 400 \[delegation\.unavailable\]"):
            task.delegate("agent-rs", tools=["look"])
        assert said(made) == "allow", "the task it was to come from goes on"


def test_a_token_bound_to_a_key(glewlwyd: Glewlwyd) -> None:
    key, other = HolderKey.generate(), HolderKey.generate()
    made = guard(glewlwyd)
    first, second, third = (
        glewlwyd.login(account(glewlwyd), details=TASK, dpop=key.dpop("POST", glewlwyd.token_endpoint)) for _ in range(3)
    )
    assert (first["token_type"], claims(first["access_token"])["cnf"]) == ("DPoP", {"jkt": key.thumbprint})
    with made.task(first["access_token"], key=key):
        assert said(made) == "allow"
    assert opened(made, second["access_token"]) == "token.proof", "shown as if it were not bound"
    with pytest.raises(ConfigError, match="is not the one this token names"), made.task(third["access_token"], key=other):
        made.call(LOOK, lambda **_: None)


def test_a_bad_proof_gets_no_token(glewlwyd: Glewlwyd) -> None:
    """Its reading of RFC 9449, and that our proofs pass it: once each, and for that address only."""
    key, data = HolderKey.generate(), {"grant_type": "client_credentials", "scope": "tools"}
    good = key.dpop("POST", glewlwyd.token_endpoint)
    assert glewlwyd.token(data, "agent", dpop=good).status_code == 200
    assert glewlwyd.token(data, "agent", dpop=good).status_code >= 400, "a second time"
    assert glewlwyd.token(data, "agent", dpop=key.dpop("POST", f"{glewlwyd.issuer}/other")).status_code >= 400
    late = HolderKey.generate(clock=lambda: time.time() - 600)
    assert glewlwyd.token(data, "agent", dpop=late.dpop("POST", glewlwyd.token_endpoint)).status_code >= 400
