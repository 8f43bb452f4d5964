"""What a token service may make of a token: never more than it says, whatever it says, whatever is asked, whatever scopes will mean to a policy."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import TokenRefused
from guard.identity.holder import HolderKey
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.tokens import verify
from guard.tokens.issue import NO_SCOPE, Asked, Composed, Service, compose, deriver
from guard.tokens.narrow import exceeds, reissued
from guard.tokens.verify import verified
from tests.tokens.forge import ISS, KEY, NOW, RULES, claims, jwk, keys, token
from tests.tokens.test_narrow import TOOLS, admits, calls, delegation, near, some

CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
TTS, DOMAIN = "https://tts.acme.example", "acme.example"
NOTHING = Asked("gateway")
SERVICE = Service(TTS, DOMAIN, 300)
DERIVE = deriver(b"k" * 32)
ISSUERS = {ISS: replace(RULES, derive=DERIVE, tenant=TTS)}
GIVEN = {"issuer": TTS, "audience": DOMAIN}
HOLDER = HolderKey.generate()
TASK = {"type": "agent_task", "intent": "refund", "params": {"order": "A-17"}}
PAY = {"type": "agent_tool", "tool": "pay", "args": {"iban": {"one_of": ["DE1", "DE2"]}}, "limit": {"calls": 3}}
READ = {"type": "agent_tool", "tool": "read"}


def made(of: Mapping[str, object], asked: Asked = NOTHING, service: Service = SERVICE, *, now: int = NOW) -> Composed:
    parent, found = verified(token(of), ISSUERS, now=now)
    return compose(parent, found, asked, service, chance="x" * 16, kid="s1", now=now)


def said(of: Mapping[str, object], asked: Asked = NOTHING, service: Service = SERVICE, *, now: int = NOW) -> str:
    try:
        made(of, asked, service, now=now)
    except TokenRefused as refused:
        return str(refused.code)
    return "issued"


def body(composed: Composed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(composed.payload)
    return found


def asking(**more: Any) -> Asked:
    return Asked("gateway", **more)


# -- what it says ------------------------------------------------------------------------------------------------------------------


def test_everything_of_the_subject_is_kept() -> None:
    of = claims(
        txn=..., sid="s-1", person="alice.a", nbf=NOW - 5, act={"sub": "b", "act": {"sub": "a"}}, cnf={"jwk": dict(HOLDER.public)}, mdp=2,
        authorization_details=[TASK, PAY], roles=["admin"], groups=["g"], tctx={"x": 1}, rctx={"ip": "1"}, owner={"not": "a name"},
    )  # fmt: skip
    found = body(made(of))
    assert found == {
        "iss": TTS, "aud": DOMAIN, "iat": NOW, "exp": NOW + 300, "jti": "t-1^" + "x" * 16, "txn": DERIVE(ISS, "t-1"), "sub": "alice",
        "client_id": "agent-7", "req_wl": "gateway", "scope": "invoices.read", "act": {"sub": "b", "act": {"sub": "a"}},
        "tctx": {"subject_iss": ISS, "subject_iat": NOW - 10}, "person": "alice.a", "sid": "s-1", "cnf": {"jwk": dict(HOLDER.public)}, "mdp": 2,
        "authorization_details": [TASK, PAY],
    }  # fmt: skip


def test_a_token_without_act_is_acted_under_by_its_client() -> None:
    composed = made(claims(act=...))
    assert body(composed)["act"] == {"sub": "agent-7"}
    assert composed.delegation.actors == ("agent-7",)
    assert composed.delegation.workload == "gateway"


def test_who_is_added_comes_last() -> None:
    assert made(claims(act=...), asking(actor="bot")).delegation.actors == ("bot",), "it was only held before"
    assert made(claims(), asking(actor="bot")).delegation.actors == ("payer", "bot")
    assert made(claims(), asking(actor="payer")).delegation.actors == ("payer",), "who acts already is not added again"
    assert said(claims(act={"sub": "b", "act": {"sub": "bot"}}), asking(actor="bot")) == "token.actors", "A068"
    assert said(claims(), asking(actor="alice")) == "token.actors"
    eight = {"sub": "a8"}
    for i in range(7, 0, -1):
        eight = {"sub": f"a{i}", "act": eight}  # type: ignore[dict-item]
    assert said(claims(act=eight)) == "issued"
    assert said(claims(act=eight), asking(actor="bot")) == "token.actors", "A069"


@pytest.mark.parametrize(
    ("may_act", "says"),
    [
        ({"sub": "bot"}, "issued"), ({"sub": "bot", "iss": ISS}, "issued"), ({"sub": "bot", "iss": TTS}, "token.actors"), ({"sub": "other"}, "token.actors"),
        ({}, "token.actors"), (None, "token.actors"), ("bot", "token.actors"), (["bot"], "token.actors"),
    ],
)  # fmt: skip
def test_a074_who_may_act(may_act: object, says: str) -> None:
    assert said(claims(may_act=may_act), asking(actor="bot")) == says
    assert said(claims(may_act=may_act)) == "issued", "nobody is added"
    assert said(claims(may_act=may_act), asking(actor="payer")) == "issued"
    assert made(claims(may_act=may_act)).delegation.may_act == (
        "bot" if says == "issued" else "" if may_act != {"sub": "other"} else "other"
    )
    if says == "issued":
        assert "may_act" not in body(made(claims(may_act=may_act), asking(actor="bot"))), "it has been taken over"


def test_an_autonomous_workload_stays_one() -> None:
    of = claims(sub="agent-7", act=..., owner="platform@acme.example")
    composed = made(of)
    assert composed.delegation.origin_kind == "workload"
    assert body(composed)["owner"] == "platform@acme.example"
    assert "owner" not in body(made(claims(owner="eve")))
    assert said(claims(), Asked("alice")) == "token.claims", "A066: a client under the name of a person makes no workload of her"


def test_a_token_without_scope_has_the_word_that_grants_nothing() -> None:
    composed = made(claims(scope=..., authorization_details=[PAY]))
    assert body(composed)["scope"] == NO_SCOPE
    assert said(claims(scope=..., authorization_details=...)) == "token.no_grant"


def test_a_word_of_the_same_name_is_not_added() -> None:
    assert said(claims(authorization_details=[PAY]), asking(scopes=frozenset({NO_SCOPE}))) == "delegation.widened"
    assert body(made(claims(scope=NO_SCOPE)))["scope"] == NO_SCOPE


@pytest.mark.parametrize(
    ("exp", "ttl", "ends"),
    [
        (NOW + 600, 300, NOW + 300),
        (NOW + 100, 300, NOW + 100),
        (NOW + 1, 300, NOW + 1),
        (NOW + 3580, 90000, NOW + 3580),
        (NOW + 300, 300, NOW + 300),
    ],
)
def test_never_longer_than_the_subject_or_a_short_time(exp: int, ttl: int, ends: int) -> None:
    assert body(made(claims(exp=exp), service=replace(SERVICE, ttl=ttl)))["exp"] == ends


@pytest.mark.parametrize("exp", [NOW, NOW - 1, NOW - 4])
def test_within_the_skew_nothing_is_made_of_it(exp: int) -> None:
    assert said(claims(exp=exp, iat=NOW - 100)) == "token.expired"


def test_it_is_as_old_as_what_it_was_made_of() -> None:
    """Attack: a token from before a revocation of everything issued before some time comes back as a young one."""
    composed = made(claims(iat=NOW - 500))
    assert body(composed)["iat"] == NOW
    assert composed.delegation.issued_at == NOW - 500
    own = replace(RULES, url=TTS, audience=DOMAIN, keys=keys(jwk(KEY, "s1")))
    text = token(composed.payload, header={"alg": "ES256", "typ": "txntoken+jwt", "kid": "s1"})
    assert verify(text, {TTS: own}, now=NOW) == replace(composed.delegation, tenant="acme")


@pytest.mark.parametrize(
    ("tctx", "at"),
    [
        ({"subject_iat": NOW - 99}, NOW - 99), ({"subject_iat": NOW + 99}, NOW - 10), ({"subject_iat": "1"}, NOW - 10), ({"subject_iat": True}, NOW - 10),
        ({"subject_iat": -1}, NOW - 10), ({}, NOW - 10), ([], NOW - 10), ("x", NOW - 10), (None, NOW - 10),
    ],
)  # fmt: skip
def test_what_other_services_write_makes_nothing_younger(tctx: object, at: int) -> None:
    of = claims(tctx=tctx, req_wl="w")
    assert verify(token(of, typ="txntoken+jwt"), {ISS: RULES}, now=NOW).issued_at == at
    assert verify(token(of), {ISS: RULES}, now=NOW).issued_at == NOW - 10, "an access token has none"


# -- the name of the task ------------------------------------------------------------------------------------------------------------


def test_one_token_is_one_task() -> None:
    names = {made(claims(txn=..., jti=jti, sid="s-1")).delegation.txn for jti in ("a", "b", "ab", "a^b") for _ in range(2)}
    assert len(names) == 4
    assert made(claims()).delegation.txn == "task-1", "kept"
    assert deriver(b"l" * 32)(ISS, "a") not in names, "another key, other names"
    assert DERIVE("ab", "c") != DERIVE("a", "bc")
    assert all(len(name) == 22 for name in names)
    with pytest.raises(ValueError, match="32 bytes"):
        deriver(b"k" * 31)


def test_a_configured_claim_goes_before_a_derived_name() -> None:
    rules = replace(ISSUERS[ISS], task_claim="job")
    assert verify(token(claims(txn=..., job="j-1")), {ISS: rules}, now=NOW).txn == "j-1"
    assert verify(token(claims(txn=...)), {ISS: rules}, now=NOW).txn == DERIVE(ISS, "t-1")
    assert verify(token(claims(txn=..., sid="s")), {ISS: RULES}, now=NOW).txn == "s", "without the service's key nothing is as it was not"


def test_a_jti_that_leaves_no_room_is_refused() -> None:
    assert said(claims(jti="j" * 239)) == "issued"
    assert said(claims(jti="j" * 240)) == "token.claims"


# -- never wider ---------------------------------------------------------------------------------------------------------------------

BOTH = claims(scope="a b", authorization_details=[TASK, PAY, READ])
WHOLE = claims(scope="a b", authorization_details=[TASK])
PLAIN = claims(scope="a b")
ROWS: list[tuple[str, Mapping[str, object], dict[str, Any], str]] = [
    ("nothing asked", BOTH, {}, "issued"),
    ("A075 another scope", PLAIN, {"scopes": frozenset({"a", "c"})}, "delegation.widened"),
    ("A067 another case", PLAIN, {"scopes": frozenset({"A"})}, "delegation.widened"),
    ("fewer scopes", PLAIN, {"scopes": frozenset({"a"})}, "issued"),
    ("scopes to tools", PLAIN, {"details": [READ]}, "delegation.widened"),
    ("scopes to a task", PLAIN, {"details": [TASK]}, "delegation.widened"),
    ("fewer scopes of a task: the others may mean nothing", WHOLE, {"scopes": frozenset({"a"})}, "delegation.widened"),
    ("a tool of a task with scopes: they may not lead there", WHOLE, {"details": [TASK, READ]}, "delegation.widened"),
    ("a tool of a task without scopes", claims(scope=..., authorization_details=[TASK]), {"details": [TASK, READ]}, "issued"),
    ("A076 a tool more", BOTH, {"details": [TASK, PAY, READ, {"type": "agent_tool", "tool": "wipe"}]}, "delegation.widened"),
    ("a free tool less", BOTH, {"details": [TASK, PAY]}, "issued"),
    ("a restricted tool less: a scope may lead there", BOTH, {"details": [TASK, READ]}, "delegation.widened"),
    ("a restricted tool less, no scopes", claims(scope=..., authorization_details=[TASK, PAY, READ]), {"details": [TASK, READ]}, "issued"),
    ("one value", BOTH, {"details": [TASK, {**PAY, "args": {"iban": {"eq": "DE1"}}}, READ]}, "issued"),
    ("A092 another type", BOTH, {"details": [TASK, {**PAY, "args": {"iban": {"eq": 1}}}, READ]}, "delegation.widened"),
    ("A095 more calls", BOTH, {"details": [TASK, {**PAY, "limit": {"calls": 4}}, READ]}, "delegation.widened"),
    ("fewer calls", BOTH, {"details": [TASK, {**PAY, "limit": {"calls": 1}}, READ]}, "issued"),
    ("A090 one more argument", BOTH, {"details": [TASK, {**PAY, "args": {"iban": {"eq": "DE1"}, "x": {"any": True}}}, READ]}, "delegation.widened"),
    ("without its task", BOTH, {"details": [PAY, READ]}, "delegation.widened"),
    ("another parameter", BOTH, {"details": [{**TASK, "params": {"order": "B-1"}}, PAY, READ]}, "delegation.widened"),
    ("the whole task", BOTH, {"details": [TASK]}, "delegation.widened"),
    ("A094 an empty list", BOTH, {"details": []}, "token.no_grant"),
    ("A088 an unknown constraint", BOTH, {"details": [TASK, {**PAY, "args": {"iban": {"regex": ".*"}}}]}, "token.details"),
    ("no list", BOTH, {"details": {"type": "agent_tool"}}, "token.details"),
    ("an unknown type", BOTH, {"details": [{"type": "payment"}]}, "token.details"),
    ("too deep", BOTH, {"details": [TASK, PAY, READ, {**READ, "args": {"a": {"eq": json.loads("[" * 20 + "]" * 20)}}}]}, "token.too_large"),
]  # fmt: skip


@pytest.mark.parametrize(("of", "asked", "says"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_asked(of: Mapping[str, object], asked: dict[str, Any], says: str) -> None:
    assert said(of, asking(**asked)) == says


def test_with_the_policys_map_more_can_be_told_apart() -> None:
    known = replace(SERVICE, scopes={"a": ("read",), "b": ("send",)})
    assert said(WHOLE, asking(scopes=frozenset({"a"})), known) == "issued"
    assert said(WHOLE, asking(details=[TASK, READ]), known) == "issued"
    assert said(WHOLE, asking(details=[TASK, {**READ, "tool": "pay"}]), known) == "delegation.widened"
    assert said(BOTH, asking(details=[TASK, READ]), known) == "issued"
    assert said(WHOLE, asking(scopes=frozenset({"a"})), replace(SERVICE, scopes={"b": ("send",)})) == "delegation.widened"


def test_bound_tokens_stay_bound_to_the_same_key() -> None:
    parent = delegation(bound="jkt", credential=replace(delegation().credential, thumbprint="t"))
    same = replace(parent, **GIVEN)  # type: ignore[arg-type]
    assert reissued(parent, same, given=GIVEN) is None
    assert reissued(parent, replace(same, credential=replace(same.credential, thumbprint="u")), given=GIVEN) == "it is bound to another key"
    assert reissued(parent, replace(same, bound="x5t#S256"), given=GIVEN) == "it is bound to another key"
    assert reissued(parent, replace(same, bound=""), given=GIVEN) == "its parent is bound to a key and it is not"
    assert reissued(parent, replace(same, actors=("other",)), given=GIVEN) == "the actors are not the same"
    assert reissued(parent, replace(same, actors=("agent", "eve")), given=GIVEN, actor="bot") == "another actor was added"


def some_map(r: random.Random) -> dict[str, tuple[str, ...]]:
    return {scope: tuple(r.sample(TOOLS, r.randint(0, 3))) for scope in ("s.read", "s.all", "plain") if r.random() < 0.6}


def test_law_what_holds_without_the_map_holds_under_every_map() -> None:
    r, told = random.Random(7), Counter[str]()
    for _ in range(60_000 if CAMPAIGN else 6_000):
        parent = some(r)
        child = replace(near(r, parent), issuer=TTS, audience=DOMAIN)
        if reissued(parent, child, given=GIVEN) is not None:
            continue
        for _ in range(4):
            policy = some_map(r)
            why = exceeds(parent, child, scopes=policy, given=GIVEN)
            assert why is None, (why, policy, parent, child)
            told["narrower"] += child.grants != parent.grants or child.scopes != parent.scopes
    assert told["narrower"] > 500, told


def test_law_what_the_judge_permits_the_child_it_permits_the_parent() -> None:
    """With the policy's map, by the real judge."""
    r, permitted = random.Random(11), 0
    for _ in range(3_000):
        parent = some(r)
        child = near(r, parent)
        if reissued(parent, child, given={}) is not None:
            continue
        for tool, values in calls(r):
            below, above = admits(child, tool, values), admits(parent, tool, values)
            if below is not None:
                permitted += 1
                assert above is not None and (above.calls is None or (below.calls is not None and below.calls <= above.calls))
    assert permitted > 300


scopes = st.sets(st.sampled_from(["a", "b", "c", NO_SCOPE]), min_size=1, max_size=3)
entries = st.lists(
    st.one_of(
        st.just(TASK),
        st.just({**TASK, "params": {"order": "B-2"}}),
        st.builds(
            lambda tool, args, limit: {"type": "agent_tool", "tool": tool, **args, **limit},
            st.sampled_from(["pay", "read", "wipe"]),
            st.sampled_from([{}, {"args": {}}, {"args": {"iban": {"eq": "DE1"}}}, {"args": {"iban": {"one_of": ["DE1", "DE2"]}}}, {"args": {"x": {"any": True}}}]),
            st.sampled_from([{}, {"limit": {"calls": 1}}, {"limit": {"calls": 5}}]),
        ),
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    ),
    max_size=4,
)  # fmt: skip
subjects = st.fixed_dictionaries(
    {"scope": st.just(...) | scopes.map(lambda names: " ".join(sorted(names))), "authorization_details": st.just(...) | entries},
    optional={
        "exp": st.integers(NOW - 10, NOW + 3000), "iat": st.integers(NOW - 600, NOW + 10), "sid": st.sampled_from(["s", "", 1]), "txn": st.just(...),
        "act": st.sampled_from([..., {"sub": "a"}, {"sub": "gateway"}, {"sub": "bot", "act": {"sub": "a"}}, {"sub": "alice"}, []]),
        "sub": st.sampled_from(["alice", "agent-7", "gateway", "bot"]), "person": st.sampled_from(["p", "alice"]),
        "owner": st.sampled_from(["o", 1]), "mdp": st.sampled_from([0, 3, "x", True]), "client_id": st.sampled_from(["agent-7", "gateway"]),
        "cnf": st.sampled_from([{"jwk": dict(HOLDER.public)}, {"jkt": HOLDER.thumbprint}, {"x5t#S256": HOLDER.thumbprint}, {}, {"jkt": 1}]),
    },
)  # fmt: skip
wishes = st.builds(
    Asked,
    workload=st.sampled_from(["gateway", "alice", "bot"]),
    actor=st.sampled_from([None, "bot", "gateway", "alice"]),
    scopes=st.none() | scopes.map(frozenset),
    details=st.none() | entries,
)
policies = st.none() | st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.sampled_from(["pay", "read", "wipe"]), max_size=3).map(tuple), max_size=3
)


@settings(max_examples=20_000 if CAMPAIGN else 600)
@given(of=subjects, asked=wishes, policy=policies, ttl=st.integers(1, 5000))
def test_law_whatever_is_asked_of_whatever_token(
    of: dict[str, Any], asked: Asked, policy: dict[str, tuple[str, ...]] | None, ttl: int
) -> None:
    try:
        parent, found = verified(token(claims(**of)), ISSUERS, now=NOW)
    except TokenRefused:
        return
    try:
        composed = compose(parent, found, asked, Service(TTS, DOMAIN, ttl, policy), chance="x" * 16, kid="s1", now=NOW)
    except TokenRefused as refused:
        assert isinstance(refused.reason, ReasonCode)
        return
    text = token(composed.payload, header={"alg": "ES256", "typ": "txntoken+jwt", "kid": "s1"})
    child = verify(text, {TTS: replace(RULES, url=TTS, audience=DOMAIN, tenant=TTS, keys=keys(jwk(KEY, "s1")))}, now=NOW)
    assert child == composed.delegation
    seen = replace(child, scopes=child.scopes - ({NO_SCOPE} - parent.scopes))
    _never_wider(parent, seen)
    for scopes_of in [policy] if policy is not None else [{}, {"a": ("pay",)}, {"a": ("read", "wipe"), "b": ("pay",)}, {"c": ("wipe",)}]:
        assert exceeds(parent, seen, scopes=scopes_of, given=GIVEN) is None
    assert child.txn == (found.get("txn") or DERIVE(ISS, "t-1"))


def _never_wider(parent: Delegation, child: Delegation) -> None:
    """In plain words, without the rule."""
    assert child.expires_at <= parent.expires_at and child.scopes <= parent.scopes
    for name in ("origin", "origin_kind", "person", "session", "intent", "params", "bound", "issued_at", "tenant", "txn"):
        assert getattr(child, name) == getattr(parent, name), name
    assert child.credential.thumbprint == parent.credential.thumbprint
    assert child.actors[: len(parent.actors)] == parent.actors or (parent.actors == (parent.workload,) and len(child.actors) == 1)
    for tool, grants in (child.grants or {}).items():
        above = (parent.grants or {}).get(tool, ())
        if parent.grants is not None and above:
            most = [grant.calls for grant in above]
            assert all(None in most or (grant.calls is not None and grant.calls <= max(most)) for grant in grants)  # type: ignore[type-var, operator]
