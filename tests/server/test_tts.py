"""The token service through HTTP: what is issued, to whom, and everything that is not. Attack ids are those of the project's list."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import ConfigError, GuardError
from guard.identity.holder import HolderKey
from guard.identity.revocation import RevocationList
from guard.identity.revoked import StoreRevocations
from guard.identity.signing import make_key, retire_key
from guard.record import verify_log
from guard.server.forms import Asking
from guard.server.issuing import TXN_TOKEN
from guard.sources.audit import is_audit, of_record
from guard.state import open_state
from guard.tokens import IssuerRules, KeySet
from guard.tokens.chain import verify_presented
from guard.tokens.jose import b64url_encode, split
from tests.identity.revoked.test_statuses import packed
from tests.identity.revoked.web import serving
from tests.server.ttsworld import DOMAIN, HOLDER, SECRET, TTS, World, basic, form
from tests.tokens.forge import AUD, ISS, NOW, OTHER, claims, token

FORM = {"content-type": "application/x-www-form-urlencoded"}
PAY = {"type": "agent_tool", "tool": "pay", "limit": {"calls": 1}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def bound(**over: Any) -> str:
    return token(claims(cnf={"jkt": HOLDER.thumbprint}, **over))


# -- what is issued --------------------------------------------------------------------------------------------------------------------


def test_a_token_for_a_token(world: World) -> None:
    subject = token(claims(txn=..., sid="s-1", authorization_details=[PAY]))
    answer = world.ask(subject)
    assert answer.status_code == 200
    assert (answer.headers["cache-control"], answer.headers["content-type"]) == ("no-store", "application/json")
    told = answer.json()
    found = world.read(told.pop("access_token"))
    assert told == {
        "issued_token_type": TXN_TOKEN, "token_type": "N_A", "expires_in": 300, "scope": "invoices.read", "authorization_details": [PAY],
    }  # fmt: skip
    assert (found.kind, found.origin, found.actors, found.session, found.workload) == (
        "txntoken+jwt",
        "alice",
        ("payer",),
        "s-1",
        "gateway",
    )
    assert found.issued_at == NOW - 10, "as old as what it was made of"


def test_one_token_is_one_task(world: World, tmp_path: Path) -> None:
    subject = token(claims(txn=...))
    first = world.issued(subject)
    twin = token(claims(txn=...))
    assert twin != subject, "another signature over the same claims"
    world.service = world.made()
    second = world.issued(twin)
    assert second.txn == first.txn, "also after a restart, also for its twin"
    assert second.credential.jti != first.credential.jti
    assert world.issued(token(claims(txn=..., jti="t-2"))).txn != first.txn
    assert world.issued(token(claims())).txn == "task-1"
    (tmp_path / "other").mkdir()
    assert World(tmp_path / "other").issued(subject).txn != first.txn, "nobody else's names"


def test_an_agent_that_asks_acts_from_then_on(world: World) -> None:
    plain = token(claims(act=...))
    assert world.issued(plain, auth="", **world.assertion()).actors == ("planner",)
    assert world.issued(plain).actors == ("agent-7",), "a gateway passes on"
    assert world.issued(auth="", **world.assertion()).actors == ("payer", "planner")
    assert world.issued(token(claims(act={"sub": "planner"})), auth="", **world.assertion()).actors == ("planner",)


def test_a074_an_issuer_whose_silence_hands_on_to_nobody(world: World) -> None:
    """As `Issuer(may_act=True)` has it: no client acts but the one a token names, whoever says `acts: true`."""
    world.config["issuers"][0]["may_act"] = True
    world.service = world.made()
    plain = token(claims(act=...))
    assert world.issued(plain).may_act == "", "passed on it is nobody's still"
    refused = world.ask(plain, auth="", **world.assertion()).json()
    assert refused["error_description"].endswith("(token.actors)")
    named = token(claims(act=..., may_act={"sub": "planner"}))
    assert world.issued(named, auth="", **world.assertion()).actors == ("planner",)


def test_what_is_asked_for_is_issued_or_refused(world: World) -> None:
    both = token(claims(scope="a b"))
    assert world.issued(both, scope="a").scopes == {"a"}
    wide = world.ask(both, scope="a c")
    assert (wide.status_code, wide.json()["error"]) == (400, "invalid_scope")
    narrow = token(claims(authorization_details=[{"type": "agent_tool", "tool": "pay"}]))
    found = world.issued(narrow, authorization_details=[PAY])
    assert found.grants is not None and found.grants["pay"][0].calls == 1
    wider = world.ask(narrow, authorization_details=[PAY, {"type": "agent_tool", "tool": "wipe"}])
    assert (wider.status_code, wider.json()["error"]) == (400, "invalid_authorization_details")
    assert "wipe" not in wider.text


def test_what_the_client_says_of_its_request_is_in_no_token(world: World) -> None:
    answer = world.ask(request_context={"req_ip": "203.0.113.9"}, request_details={"approved_by": "cfo"})
    assert answer.status_code == 200
    payload = split(answer.json()["access_token"]).payload
    assert b"203.0.113.9" not in payload and b"cfo" not in payload
    for wrong in ("[]", "x", '{"a":1,"a":2}', json.dumps({"a": "x" * 40_000})):
        assert world.ask(request_details=wrong).status_code == 400


def test_a_bound_token_stays_bound_and_is_proven(world: World) -> None:
    subject = bound()
    found = world.issued(subject, dpop=[world.proof(subject)])
    assert (found.bound, found.credential.thumbprint) == ("jkt", HOLDER.thumbprint)
    whole = token(claims(cnf={"jwk": dict(HOLDER.public)}, mdp=2, authorization_details=[PAY]))
    answer = world.ask(whole, dpop=[world.proof(whole)])
    chain = (
        HOLDER.attenuate(answer.json()["access_token"], actor="mailer", key=HolderKey.generate(), tools=None)
        if answer.status_code == 200
        else ""
    )
    found = KeySet.from_jwks(world.send(b"", {}, path="/agents/jwks.json", method="GET").text)
    hop = verify_presented(chain, {TTS: IssuerRules(TTS, TTS, DOMAIN, 3600, found)}, now=NOW)
    assert (hop.origin, hop.actor, hop.depth) == ("alice", "mailer", 1), "and may be handed on offline, as deep as the subject"
    assert hop.credential.jti.startswith("t-1^")


def test_everything_is_recorded_and_nothing_secret_is(world: World, tmp_path: Path) -> None:
    subject = token(claims(txn=...))
    answer = world.ask(subject)
    world.ask(token(claims(iat=NOW - 300, exp=NOW - 100)))
    world.ask(auth=basic("gateway", "x" * 30))
    issued, refused, unknown = world.records
    found = world.read(answer.json()["access_token"])
    assert (issued["kind"], issued["verdict"], issued["client"], issued["method"]) == ("issue", "issued", "gateway", "client_secret_basic")
    assert (issued["parent"], issued["credential"]) == (f"{ISS}/t-1", f"{TTS}/{found.credential.jti}"), "credential in, credential out"
    assert issued["credential"].startswith(f"{TTS}/t-1^"), "and the name of the one is in that of the other"
    assert (issued["task"], issued["tenant"], issued["actors"], issued["expires"]) == (found.txn, TTS, ["payer"], NOW + 300)
    assert (refused["verdict"], refused["code"], refused["client"]) == ("refused", "token.expired", "gateway")
    assert (unknown["code"], unknown["client"]) == ("tts.client", "")
    for text in (subject, subject.split(".")[1], subject.split(".")[2], answer.json()["access_token"].split(".")[2], SECRET, "alice"):
        assert text not in world.log
    world.service._notes.close()  # type: ignore[attr-defined]
    assert verify_log(tmp_path / "records").ok
    assert all(is_audit(one) and of_record(one) is None for one in world.records), "replay knows them, and has no use for them"


def test_a_flood_of_strangers_writes_one_record_a_minute(world: World) -> None:
    for _ in range(50):
        assert world.ask(auth="").status_code == 401
    assert len(world.records) == 1
    world.now += 60
    world.ask(auth="")
    assert [one["count"] for one in world.records] == [1, 50]


# -- who asks ------------------------------------------------------------------------------------------------------------------------

ODD: dict[str, Callable[[World], dict[str, Any]]] = {
    "nobody": lambda w: {"auth": ""},
    "another secret": lambda w: {"auth": basic("gateway", SECRET + "x")},
    "an unknown client": lambda w: {"auth": basic("gate", SECRET)},
    "a client with keys, by secret": lambda w: {"auth": basic("planner", SECRET)},
    "no secret": lambda w: {"auth": basic("gateway", "")},
    "a bearer token": lambda w: {"auth": "Bearer " + token(claims())},
    "not base64": lambda w: {"auth": "Basic !!!"},
    "no colon": lambda w: {"auth": "Basic YWJj"},
    "two methods": lambda w: {"client_id": "gateway", "client_secret": SECRET},
    "two methods again": lambda w: {**w.assertion()},
    "two clients": lambda w: {"client_id": "planner"},
    "by form, wrong": lambda w: {"auth": "", "client_id": "gateway", "client_secret": "x" * 30},
    "by form, no id": lambda w: {"auth": "", "client_secret": SECRET},
    "another key": lambda w: {"auth": "", **w.assertion(key=OTHER, header={"alg": "ES256", "kid": "p1"})},
    "no kid": lambda w: {"auth": "", **w.assertion(header={"alg": "EdDSA"})},
    "A029 alg none": lambda w: {"auth": "", **w.assertion(header={"alg": "none", "kid": "p1"})},
    "A038 jwk in the header": lambda w: {"auth": "", **w.assertion(header={"alg": "EdDSA", "kid": "p1", "jwk": {}})},
    "A035 another typ": lambda w: {"auth": "", **w.assertion(header={"alg": "EdDSA", "kid": "p1", "typ": "at+jwt"})},
    "a client with a secret": lambda w: {"auth": "", **w.assertion("gateway")},
    "for another server": lambda w: {"auth": "", **w.assertion(aud="https://iam.acme.example")},
    "for the endpoint": lambda w: {"auth": "", **w.assertion(aud=f"{TTS}/token")},
    "for two": lambda w: {"auth": "", **w.assertion(aud=[TTS, "https://x.example"])},
    "over": lambda w: {"auth": "", **w.assertion(exp=NOW - 5)},
    "too long": lambda w: {"auth": "", **w.assertion(exp=NOW + 306)},
    "from the future": lambda w: {"auth": "", **w.assertion(iat=NOW + 60)},
    "no jti": lambda w: {"auth": "", **w.assertion(jti=...)},
    "no exp": lambda w: {"auth": "", **w.assertion(exp=...)},
    "another iss": lambda w: {"auth": "", **w.assertion(iss="gateway")},
    "another type of assertion": lambda w: {"auth": "", **w.assertion(), "client_assertion_type": "x"},
    "no assertion": lambda w: {"auth": "", **w.assertion(), "client_assertion": "x.y.z"},
    "another id beside it": lambda w: {"auth": "", **w.assertion(), "client_id": "gateway"},
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_who_is_no_client_gets_nothing(what: str, world: World) -> None:
    answer = world.ask(**ODD[what](world))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), answer.text
    assert answer.json()["error_description"] == "the client could not be authenticated (tts.client)", "the same, whatever was wrong"
    assert [one["code"] for one in world.records] == ["tts.client"]


def test_the_three_ways_to_be_a_client(world: World) -> None:
    assert world.ask(auth="", client_id="gateway", client_secret=SECRET).status_code == 200
    assert world.ask(auth=basic("gateway", SECRET), client_id="gateway").status_code == 200
    for header in ({"alg": "EdDSA", "kid": "p1"}, {"alg": "EdDSA", "kid": "p1", "typ": "client-authentication+jwt"}):
        assert world.ask(auth="", client_id="planner", **world.assertion(header=header)).status_code == 200
    assert world.ask(auth="", **world.assertion(aud=[TTS])).status_code == 200
    assert {one["method"] for one in world.records} == {"client_secret_basic", "client_secret_post", "private_key_jwt"}


def test_an_assertion_is_good_once(world: World) -> None:
    shown = world.assertion()
    assert world.ask(auth="", **shown).status_code == 200
    world.service = world.made()
    again = world.ask(auth="", **shown)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client"), "also after a restart"


def test_two_secrets_while_one_is_changed(world: World, tmp_path: Path) -> None:
    (tmp_path / "gateway.secret").write_text(f"{'n' * 30}\n{SECRET}\n")
    world.service = world.made()
    assert world.ask(auth=basic("gateway", "n" * 30)).status_code == 200
    assert world.ask().status_code == 200


# -- what is refused -----------------------------------------------------------------------------------------------------------------

EIGHT = {"sub": "a9"}
for _i in range(8, 0, -1):
    EIGHT = {"sub": f"a{_i}", "act": EIGHT}  # type: ignore[dict-item]
HEAD, BODY, SIG = token(claims()).split(".")
NONE = b64url_encode(json.dumps({"alg": "none", "typ": "at+jwt", "kid": "k1"}).encode())
UNPROVEN = bound()
SUBJECTS: list[tuple[str, str, str]] = [
    ("an opaque token", "bXkgb3BhcXVlIHRva2Vu", "token.malformed"),
    ("no jti", token(claims(jti=...)), "token.claims"),
    ("A001 a newline", token(claims()) + "\n", "token.malformed"),
    ("A015 a claim twice", token(json.dumps(claims()).encode()[:-1] + b', "sub": "admin"}'), "token.malformed"),
    ("A022 too deep", token(json.dumps(claims()).encode()[:-1] + b', "x": ' + b"[" * 50 + b"]" * 50 + b"}"), "token.malformed"),
    ("A024 huge", token(claims(note="x" * 20_000)), "token.too_large"),
    ("A029 alg none", f"{NONE}.{BODY}.", "token.signature"),
    ("A029 alg none, signed", f"{NONE}.{BODY}.{SIG}", "token.signature"),
    ("A035 an id token", token(claims(), typ="JWT"), "token.type"),
    ("A035 a proof", token(claims(), typ="dpop+jwt"), "token.type"),
    ("a transaction token", token(claims(req_wl="w"), typ="txntoken+jwt"), "token.type"),
    ("a chain", token(claims()) + "~" + token(claims()), "token.type"),
    ("A038 its own key", token(claims(), jwk={"kty": "EC"}), "token.header"),
    ("another key", token(claims(), key=OTHER), "token.signature"),
    ("A042 an unknown kid", token(claims(), kid="k9"), "token.signature"),
    ("expired", token(claims(exp=NOW - 5)), "token.expired"),
    ("within the skew", token(claims(exp=NOW)), "token.expired"),
    ("A057 too long", token(claims(exp=NOW + 36_000)), "token.lifetime"),
    ("A058 from the future", token(claims(iat=NOW + 60)), "token.not_yet"),
    ("another audience", token(claims(aud="payments")), "token.audience"),
    ("A060 two audiences", token(claims(aud=[AUD, "payments"])), "token.audience"),
    ("A062 another issuer", token(claims(iss="https://iam.acme.example/")), "token.issuer"),
    ("A068 a circle", token(claims(act={"sub": "a", "act": {"sub": "a"}})), "token.actors"),
    ("A069 nine actors", token(claims(act=EIGHT)), "token.actors"),
    ("A094 no grant", token(claims(scope=...)), "token.no_grant"),
    ("A109 two confirmations", token(claims(cnf={"jkt": HOLDER.thumbprint, "x5t#S256": HOLDER.thumbprint})), "token.proof"),
    ("a certificate", token(claims(cnf={"x5t#S256": HOLDER.thumbprint})), "token.proof"),
    ("A103 bound, without its proof", UNPROVEN, "token.proof"),
    ("a status nobody looks at", token(claims(status={"status_list": {"idx": 1, "uri": "https://x.example"}})), "revocation.unavailable"),
    ("a jti that is too long", token(claims(jti="j" * 250)), "token.claims"),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "code"), [row[1:] for row in SUBJECTS], ids=[row[0] for row in SUBJECTS])
def test_subject_tokens_that_are_none(subject: str, code: str, world: World) -> None:
    answer = world.ask(subject)
    told = answer.json()
    assert (answer.status_code, told.keys()) == (400, {"error", "error_description"})
    assert told["error"] == ("invalid_dpop_proof" if subject == UNPROVEN else "invalid_request")
    assert told["error_description"].endswith(f"({code})")
    assert "alice" not in answer.text and "k9" not in answer.text, "A118: nothing of the token"
    assert [(one["verdict"], one["code"], one["client"]) for one in world.records] == [("refused", code, "gateway")]
    assert subject[-20:] not in world.log


REQUESTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no grant type", {"grant_type": None}, "invalid_request", "tts.request"),
    ("another grant type", {"grant_type": "client_credentials"}, "unsupported_grant_type", "tts.request"),
    ("an access token", {"requested_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "invalid_request", "tts.request"),
    ("any token", {"requested_token_type": None}, "invalid_request", "tts.request"),
    ("no subject", {"subject_token": None}, "invalid_request", "tts.request"),
    ("an empty subject", {"subject_token": ""}, "invalid_request", "tts.request"),
    ("a refresh token", {"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request", "tts.request"),
    ("an unsigned subject", {"subject_token_type": "urn:ietf:params:oauth:token-type:unsigned_json"}, "invalid_request", "tts.request"),
    ("an actor token", {"actor_token": "x", "actor_token_type": "y"}, "invalid_request", "tts.request"),
    ("no audience", {"audience": None}, "invalid_request", "tts.request"),
    ("another audience", {"audience": "payments.example"}, "invalid_target", "tts.target"),
    ("A077 a resource", {"resource": "https://payments.example"}, "invalid_target", "tts.target"),
    ("A067 two spaces", {"scope": "invoices.read  x"}, "invalid_scope", "tts.request"),
    ("A067 another case", {"scope": "Invoices.Read"}, "invalid_scope", "delegation.widened"),
    ("A075 more scope", {"scope": "invoices.read invoices.pay"}, "invalid_scope", "delegation.widened"),
    ("A076 a tool", {"authorization_details": [{"type": "agent_tool", "tool": "pay"}]}, "invalid_authorization_details", "delegation.widened"),
    ("A094 nothing", {"authorization_details": "[]"}, "invalid_authorization_details", "token.no_grant"),
    ("no list", {"authorization_details": "{}"}, "invalid_authorization_details", "token.details"),
    ("more behind it", {"authorization_details": '[],"x":1'}, "invalid_authorization_details", "token.details"),
    ("no JSON", {"authorization_details": "[1"}, "invalid_authorization_details", "token.details"),
    ("A015 twice in it", {"authorization_details": '[{"type":"agent_tool","tool":"a","tool":"b"}]'}, "invalid_authorization_details", "token.details"),
    ("deep", {"authorization_details": "[" * 5000 + "]" * 5000}, "invalid_authorization_details", "token.details"),
    ("large", {"authorization_details": json.dumps(["x" * 40_000])}, "invalid_authorization_details", "token.details"),
    ("a surrogate", {"authorization_details": '[{"type":"agent_tool","tool":"\\ud800"}]'}, "invalid_authorization_details", "token.details"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "error", "code"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_requests_that_are_none(more: dict[str, Any], error: str, code: str, world: World) -> None:
    answer = world.ask(**more)
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
    assert [(one["verdict"], one["code"]) for one in world.records] == [("refused", code)]


def test_forms_that_are_none(world: World) -> None:
    good, auth = form(token(claims())), {"authorization": basic("gateway", SECRET)}
    json_body = json.dumps({"grant_type": "x"}).encode()
    assert world.send(good.encode(), {**FORM, **auth}).status_code == 200
    for content, headers, status in (
        (json_body, {"content-type": "application/json"}, 400),
        (good.encode(), {}, 400),
        (good.encode(), {"content-type": "multipart/form-data; boundary=x"}, 400),
        (good.encode(), {"content-type": "application/x-www-form-urlencoded; charset=utf-16"}, 400),
        (f"{good}&audience={DOMAIN}".encode(), FORM, 400),
        (f"{good}&scope=invoices.read&scope=invoices.read".encode(), FORM, 400),
        (f"{good}&x".encode(), FORM, 400),
        (f"{good}&x=%ff".encode(), FORM, 400),
        ("ä=1".encode(), FORM, 400),
        ("&".join(f"x{i}=1" for i in range(100)).encode(), FORM, 400),
        (b"x=" + b"y" * 70_000, FORM, 413),
        (b"", FORM, 400),
    ):
        answer = world.send(content, {**headers, **auth})
        assert (answer.status_code, answer.json()["error"]) == (status, "invalid_request"), content[:40]
    assert world.send(good.encode(), {**FORM, **auth}, path="/agents/token?subject_token=x").status_code == 400, "A115"
    assert world.send(good.encode(), [*FORM.items(), *auth.items(), *auth.items()]).status_code == 400
    for method in ("GET", "PUT", "DELETE"):
        assert world.send(b"", {}, method=method).status_code == 405
    for path in ("/token", "/agents/token/", "/", "/agents/jwks.json/x"):
        assert world.send(good.encode(), {**FORM, **auth}, path=path).status_code in (307, 404)


def test_too_much_is_not_read(world: World) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 4096

    assert world.send(endless(), FORM).status_code == 413
    assert read < 100


def test_a_drip_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("guard.server.bodies._SECONDS", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield b"x"

    assert world.send(drip(), FORM).status_code == 408


# -- proof ---------------------------------------------------------------------------------------------------------------------------

EVE = HolderKey.generate(clock=lambda: NOW)
PROOFS: dict[str, Callable[[World, str], list[str]]] = {
    "A103 none": lambda w, at: [],
    "A105 two": lambda w, at: [w.proof(at), w.proof(at)],
    "A104 by another key": lambda w, at: [w.proof(at, key=EVE)],
    "A107 no ath": lambda w, at: [w.proof(at, ath=...)],
    "A107 another token": lambda w, at: [w.proof(token(claims()))],
    "A106 another address": lambda w, at: [w.proof(at, htu="https://iam.acme.example/token")],
    "A106 a dot": lambda w, at: [w.proof(at, htu="https://tts.acme.example./agents/token")],
    "another method": lambda w, at: [w.proof(at, htm="GET")],
    "A101 61 s old": lambda w, at: [w.proof(at, iat=NOW - 61)],
    "A101 from the future": lambda w, at: [w.proof(at, iat=NOW + 61)],
    "no jti": lambda w, at: [w.proof(at, jti=...)],
    "not a proof": lambda w, at: ["x.y.z"],
}  # fmt: skip


@pytest.mark.parametrize("what", PROOFS)
def test_proofs_that_are_none(what: str, world: World) -> None:
    subject = bound()
    answer = world.ask(subject, dpop=PROOFS[what](world, subject))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")


def test_a_proof_is_good_once(world: World) -> None:
    subject = bound()
    proof = world.proof(subject)
    wide = world.ask(subject, dpop=[proof], scope="more")
    assert wide.json()["error"] == "invalid_scope"
    assert world.ask(subject, dpop=[proof]).status_code == 200, "what was refused for another reason leaves it unused"
    world.service = world.made()
    again = world.ask(subject, dpop=[proof])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_dpop_proof"), "A098, also after a restart"


def test_a_bearer_token_brings_none(world: World) -> None:
    subject = token(claims())
    assert world.ask(subject, dpop=[world.proof(subject)]).json()["error"] == "invalid_dpop_proof", "A104"


# -- what was taken back -------------------------------------------------------------------------------------------------------------

KINDS = [
    ("credential", "t-1"),
    ("session", "s-1"),
    ("origin", "alice"),
    ("actor", "payer"),
    ("actor", "before"),
    ("key", "k1"),
    ("task", "task-1"),
]


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=[f"{kind} {value}" for kind, value in KINDS])
@pytest.mark.parametrize("where", ["file", "store"])
def test_a_revoked_subject_is_no_task(kind: Any, value: str, where: str, world: World, tmp_path: Path) -> None:
    subject = token(claims(sid="s-1", act={"sub": "payer", "act": {"sub": "before"}}))
    assert world.ask(subject).status_code == 200
    made: Any = (
        RevocationList(tmp_path / "revoked.jsonl", clock=world.clock)
        if where == "file"
        else StoreRevocations(open_state(f"sqlite:{tmp_path / 'state.db'}"), clock=world.clock)
    )
    made.revoke(kind, value)
    answer = world.ask(subject)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), "A096: at once"
    assert world.records[-1]["code"] == "token.revoked"
    assert world.records[-1]["parent"] == f"{ISS}/t-1"


@pytest.mark.parametrize(("status", "code"), [(0, ""), (1, "token.revoked")])
def test_a_status_list_is_asked(status: int, code: str, world: World) -> None:
    with serving(lambda asked: (200, raw)) as web:
        uri = f"{web.url}/lists/1"
        made = {"sub": uri, "iat": NOW - 5, "ttl": 60, "status_list": {"bits": 1, "lst": packed(bytes([status]))}}
        raw = token(made, typ="statuslist+jwt").encode()
        world.config["issuers"] = [{**world.config["issuers"][0], "status_lists": [f"{web.url}/lists/"]}]
        world.service = world.made()
        answer = world.ask(token(claims(status={"status_list": {"idx": 0, "uri": uri}})))
        assert answer.status_code == (400 if code else 200) and code in answer.text
        assert [one.path for one in web.asked] == ["/lists/1"]
        other = world.ask(token(claims(jti="t-2", status={"status_list": {"idx": 0, "uri": f"{web.url}/other"}})))
        assert other.status_code == 503 and len(web.asked) == 1, "nothing is fetched from where none may be"


def test_who_logs_in_again_is_no_longer_revoked(world: World, tmp_path: Path) -> None:
    """A113; and what was made of the old token is as dead as that, for a guard that reads the same list."""
    old = world.ask(token(claims())).json()["access_token"]
    world.now += 20
    found = RevocationList(tmp_path / "revoked.jsonl", clock=world.clock)
    found.revoke("origin", "alice")
    world.now += 20
    assert found.find(world.read(old), now=int(world.now)) == "origin"
    assert world.ask(token(claims())).json()["error"] == "invalid_request"
    assert world.issued(token(claims(iat=NOW + 30, jti="t-2"))).origin == "alice"


def test_a_service_that_has_not_heard_makes_nothing_young(world: World) -> None:
    """The guard's list is not the service's: what was made after the revocation, of a token from before, is from before."""
    taken_back = RevocationList(clock=world.clock)
    world.now += 20
    taken_back.revoke("origin", "alice")
    world.now += 20
    assert taken_back.find(world.issued(), now=int(world.now)) == "origin"
    assert taken_back.find(world.issued(token(claims(iat=NOW + 30, jti="t-2"))), now=int(world.now)) is None


def test_what_was_made_of_a_revoked_credential_is_revoked(world: World) -> None:
    found = world.issued()
    taken_back = RevocationList()
    taken_back.revoke("credential", "t-1")
    assert taken_back.find(found, now=NOW) == "credential"
    other = RevocationList()
    other.revoke("credential", "t-")
    assert other.find(found, now=NOW) is None


def test_a_list_that_cannot_be_read_issues_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "revoked.jsonl").unlink()
    answer = world.ask()
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "temporarily_unavailable", "5")


# -- what fails ----------------------------------------------------------------------------------------------------------------------


def test_nothing_is_issued_unrecorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: object) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr(world.service, "_notes", type("Full", (), {"note": staticmethod(full)})())
    answer = world.ask()
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "record.unavailable" in answer.text


@pytest.mark.parametrize("where", ["_verifier", "_store", "ring", "_pseudonym"])
def test_whatever_breaks_there_is_no_token(where: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(SECRET)

        def __call__(self, *args: object) -> str:
            raise RuntimeError(SECRET)

    monkeypatch.setattr(world.service, where, Broken())
    subject = bound()
    told = world.ask(subject, dpop=[world.proof(subject)])
    assert told.status_code in (500, 503)
    assert SECRET not in told.text and "access_token" not in told.text
    assert SECRET not in world.log


def test_without_a_key_that_signs_nothing_is_issued(world: World, tmp_path: Path) -> None:
    (path,) = (tmp_path / "keys").glob("*.json")
    retire_key(tmp_path / "keys", path.stem, stolen=True, clock=world.clock)
    world.service = world.made()
    assert world.ask().status_code == 503
    assert world.send(b"", {}, path="/agents/jwks.json", method="GET").json() == {"keys": []}
    make_key(tmp_path / "keys", clock=world.clock)
    world.service = world.made()
    assert world.ask().status_code == 200


def test_metadata(world: World) -> None:
    found = world.send(b"", {}, path="/.well-known/oauth-authorization-server/agents", method="GET").json()
    assert (found["issuer"], found["token_endpoint"], found["jwks_uri"]) == (TTS, f"{TTS}/token", f"{TTS}/jwks.json")


def test_two_hundred_at_once_are_one_task(world: World, tmp_path: Path) -> None:
    subject = token(claims(txn=...))
    pairs = parse_qsl(form(subject))
    services = [world.service, world.made()]

    def ask(i: int) -> Any:
        return services[i % 2].answer(Asking(pairs, basic("gateway", SECRET)))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {answer.status for answer in answers} == {200}
    found = [world.read(str(answer.body["access_token"])) for answer in answers]
    assert len({one.txn for one in found}) == 1
    assert len({one.credential.jti for one in found}) == 200
    assert len(world.records) == 200
    for service in services:
        service._notes.close()  # type: ignore[attr-defined]
    assert verify_log(tmp_path / "records").ok


def test_one_proof_presented_many_times_at_once(world: World) -> None:
    """A099."""
    subject = bound()
    pairs = parse_qsl(form(subject))
    services = [world.service, world.made()]
    for _ in range(10):
        proof = world.proof(subject)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: services[i % 2].answer(Asking(pairs, basic("gateway", SECRET), [proof])).status, range(8)))  # noqa: B023
        assert sorted(answers) == [200] + [400] * 7


# -- whatever comes ------------------------------------------------------------------------------------------------------------------

GOOD_FORM = parse_qsl(form(token(claims(scope="a b", authorization_details=[PAY]))))
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["a", "a b", "c", DOMAIN, SECRET, "gateway", "[]", json.dumps([PAY]), "{}", "\ud800", "\x00", "x" * 40_000]
)
NAMES = st.sampled_from(
    ["scope", "authorization_details", "resource", "client_id", "client_secret", "request_details", "request_context", "actor_token", "x"]
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tts"))


@settings(max_examples=2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "campaign" else 150)
@given(data=st.data())
def test_law_whatever_is_asked_over_http(data: st.DataObject, lasting: World) -> None:
    """An answer with a token is never wider than the subject; any other is an OAuth error in words of ours."""
    members = [pair for pair in GOOD_FORM if data.draw(st.integers(0, 19)) > 0]
    members += data.draw(st.lists(st.tuples(NAMES, TEXTS), max_size=3))
    auth = data.draw(st.sampled_from([basic("gateway", SECRET)] * 6 + ["", "Basic x", basic("gateway", "x" * 30), "\xff"]))
    answer = lasting.service.answer(Asking(members, auth, data.draw(st.sampled_from([[]] * 4 + [["x"], ["x", "y"]]))))
    assert answer.status in (200, 400, 401)
    if answer.status == 200:
        assert auth == basic("gateway", SECRET)
        found = lasting.read(str(answer.body["access_token"]))
        assert (
            found.scopes <= {"a", "b"} and found.grants is not None and found.grants.keys() == {"pay"} and found.grants["pay"][0].calls == 1
        )
        assert found.expires_at <= NOW + 300
    else:
        assert answer.body.keys() == {"error", "error_description"}
        assert SECRET not in json.dumps(dict(answer.body))


# -- the file ------------------------------------------------------------------------------------------------------------------------

FILES: list[tuple[str, dict[str, Any], str]] = [
    ("no clients", {"clients": []}, "clients"),
    ("no issuers", {"issuers": []}, "issuers"),
    ("http", {"issuer": "http://tts.acme.example"}, "https URL"),
    ("a day", {"ttl": "24h"}, "up to 1h"),
    ("an unknown member", {"trustdomain": "x"}, "did you mean `trust_domain`"),
    ("a client without proof", {"clients": [{"id": "x"}]}, "exactly one of `secret` and `keys`"),
    ("a client with two", {"clients": [{"id": "x", "secret": "a", "keys": "b"}]}, "exactly one of `secret` and `keys`"),
    ("a client twice", {"clients": [{"id": "gateway", "secret": "gateway.secret"}, {"id": "gateway", "keys": "planner.json"}]}, "two clients"),
    ("its own issuer", {"issuers": [{"url": TTS, "audience": AUD}]}, "this service itself"),
    ("two issuers", {"issuers": [{"url": ISS, "audience": AUD}, {"url": "https://b.example", "audience": AUD}]}, "one_namespace"),
    ("an issuer's tenant", {"issuers": [{"url": ISS, "audience": AUD, "tenant": "x"}]}, "`tenant` is not known here"),
    ("a short secret", {"clients": [{"id": "x", "secret": "short"}]}, "24 characters"),
    ("an open secret", {"clients": [{"id": "x", "secret": "open"}]}, "chmod 600"),
    ("no secret", {"clients": [{"id": "x", "secret": "none"}]}, "cannot read"),
    ("a private key", {"clients": [{"id": "x", "keys": "private.json"}]}, "private members"),
    ("no keys", {"keys": "nowhere"}, "guardtrail tts keys new"),
    ("another store", {"state": "redis://x"}, "redis"),
    ("a task by jti", {"issuers": [{"url": ISS, "audience": AUD, "task_claim": "jti"}]}, "cannot name the task"),
    ("an algorithm", {"issuers": [{"url": ISS, "audience": AUD, "algorithms": ["HS256"]}]}, "`algorithms` are some of"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "text"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_files_that_are_wrong(more: dict[str, Any], text: str, world: World, tmp_path: Path) -> None:
    for name, content, mode in (
        ("short", "short", 0o600),
        ("open", "o" * 30, 0o644),
        ("private.json", json.dumps({"keys": [{"kty": "OKP", "d": "x"}]}), 0o600),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    world.config |= more
    with pytest.raises((ConfigError, GuardError), match=text.replace("(", r"\(")):
        world.made()


def test_issuers_of_one_namespace(world: World) -> None:
    world.config |= {
        "issuers": [{"url": "https://b.example", "audience": AUD, "keys": "iam.json"}, *world.config["issuers"]],
        "one_namespace": True,
    }
    world.service = world.made()
    names = {world.issued(token(claims(iss=iss, txn=...))).txn for iss in (ISS, "https://b.example")}
    assert len(names) == 2
