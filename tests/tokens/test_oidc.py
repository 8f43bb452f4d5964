"""Tokens of platforms as evidence of a workload: the three shapes that are common, the attacks on them, and that they never delegate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ConfigError, TokenRefused
from guard.tokens import KeySet, verify
from guard.tokens.oidc import WorkloadRules, verify_oidc
from tests.tokens.forge import AUD, ISS, ISSUERS, KEY, NOW, OTHER, RSA, jwk, token

GITHUB, GITLAB, CLUSTER = "https://token.actions.example", "https://gitlab.example", "https://kubernetes.default.svc.cluster.local"
REPO = "repo:acme/desk:ref:refs/heads/main"
POD = "system:serviceaccount:payments:desk"
KEYS = KeySet.from_jwks(json.dumps({"keys": [jwk(RSA, "r1"), jwk(KEY, "k1")]}))
RULES = {
    GITHUB: WorkloadRules(GITHUB, "guard", 3600, KEYS, frozenset(), ("repo:acme/desk:",), {"repository_owner_id": "4711"}),
    GITLAB: WorkloadRules(GITLAB, "guard", 3600, KEYS, frozenset({"project_path:acme/desk:ref_type:branch:ref:main"})),
    CLUSTER: WorkloadRules(CLUSTER, "guard", 3600, KEYS, frozenset({POD})),
}
HEADS: dict[str, dict[str, object]] = {
    GITHUB: {"alg": "RS256", "kid": "r1", "typ": "JWT", "x5t": "eFhk"},
    GITLAB: {"alg": "RS256", "kid": "r1", "typ": "JWT"},
    CLUSTER: {"alg": "RS256", "kid": "r1"},
}
SAID: dict[str, dict[str, object]] = {
    GITHUB: {"sub": REPO, "aud": "guard", "repository_owner_id": "4711", "repository": "acme/desk", "jti": "1", "nbf": NOW - 10},
    GITLAB: {"sub": "project_path:acme/desk:ref_type:branch:ref:main", "aud": "guard", "jti": "2"},
    CLUSTER: {"sub": POD, "aud": ["guard"], "kubernetes.io": {"namespace": "payments", "serviceaccount": {"name": "desk"}}},
}


def made(iss: str = GITHUB, *, key: Any = RSA, head: Mapping[str, object] | None = None, **over: object) -> str:
    claims = {"iss": iss, "iat": NOW - 10, "exp": NOW + 600, **SAID.get(iss, SAID[GITHUB]), **over}
    return token({n: v for n, v in claims.items() if v is not ...}, key=key, header={**HEADS.get(iss, HEADS[GITHUB]), **(head or {})})


def verdict(text: Any, *, now: Any = NOW) -> str:
    try:
        found = verify_oidc(text, RULES, now=now)
    except TokenRefused as refused:
        assert "acme" not in str(refused), "a refusal quotes nothing of the token"
        assert refused.__cause__ is None
        assert refused.__context__ is None
        return str(refused.code)
    assert (found.kind, found.live(now)) == ("oidc", True)
    return f"{found.issuer} {found.id}"


@pytest.mark.parametrize("iss", RULES)
def test_the_common_platforms(iss: str) -> None:
    assert verdict(made(iss)) == f"{iss} {SAID[iss]['sub']}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(lambda: made(sub="repo:acme/desk-of-mallory:ref:refs/heads/main"), "token.claims", id="a name that only begins alike"),
        pytest.param(lambda: made(sub="repo:acme/desk:"), "token.claims", id="the prefix itself"),
        pytest.param(lambda: made(sub="repo:acme/desk"), "token.claims", id="less than the prefix"),
        pytest.param(lambda: made(sub=" repo:acme/desk:x"), "token.claims", id="a blank before it"),
        pytest.param(lambda: made(sub="Repo:acme/desk:x"), "token.claims", id="another case"),
        pytest.param(lambda: made(sub=["repo:acme/desk:x"]), "token.claims", id="sub is a list"),
        pytest.param(lambda: made(sub="repo:acme/desk:x\u200b"), "token.claims", id="an invisible character"),
        pytest.param(lambda: made(sub=...), "token.claims", id="no sub"),
        pytest.param(lambda: made(CLUSTER, sub=POD + "2"), "token.claims", id="exact means exact"),
        pytest.param(lambda: made(repository_owner_id="4712"), "token.claims", id="the name has another owner now"),
        pytest.param(lambda: made(repository_owner_id=4711), "token.claims", id="a number is not the text"),
        pytest.param(lambda: made(repository_owner_id=...), "token.claims", id="a demanded claim is missing"),
        pytest.param(lambda: made(aud="sigstore"), "token.audience", id="made for another service"),
        pytest.param(lambda: made(CLUSTER, aud=["guard", "https://kubernetes.default.svc"]), "token.audience", id="good at two places"),
        pytest.param(lambda: made(iat=...), "token.claims", id="no iat"),
        pytest.param(lambda: made(exp=...), "token.claims", id="no exp"),
        pytest.param(lambda: made(exp=NOW + 4000), "token.lifetime", id="lives too long"),
        pytest.param(lambda: made(iat=NOW - 700, exp=NOW - 60), "token.expired", id="expired"),
        pytest.param(lambda: made(nbf=NOW + 60), "token.not_yet", id="not yet"),
        pytest.param(lambda: made("https://evil.example"), "token.issuer", id="unknown issuer"),
        pytest.param(lambda: made(GITHUB + "/"), "token.issuer", id="not exactly the issuer"),
        pytest.param(lambda: made(CLUSTER, sub=REPO), "token.claims", id="a subject of another issuer"),
        pytest.param(lambda: made(key=OTHER, head={"alg": "ES256", "kid": "k1"}), "token.signature", id="another key"),
        pytest.param(lambda: made(head={"alg": "HS256"}), "token.signature", id="HS256"),
        pytest.param(lambda: made(head={"alg": "none"}), "token.signature", id="none"),
        pytest.param(lambda: made(head={"kid": "r2"}), "token.signature", id="unknown kid"),
        pytest.param(lambda: made(head={"jku": "https://evil.example"}), "token.header", id="where to find the key"),
        pytest.param(lambda: made(head={"x5c": ["AA"]}), "token.header", id="a certificate comes along"),
        pytest.param(lambda: made(head={"typ": "at+jwt"}), "token.type", id="an access token is no evidence"),
        pytest.param(lambda: made(head={"typ": "JOSE"}), "token.type", id="JOSE is for SVIDs"),
        pytest.param(lambda: made()[:-3], "token.malformed", id="cut off"),
    ],
)
def test_row(text: Callable[[], str], says: str) -> None:
    got = verdict(text())
    # A cut signature may still be base64url: then it is one that does not verify.
    assert got == says or (says == "token.malformed" and got == "token.signature")


def test_it_is_never_a_delegation() -> None:
    """Attack: the token of a CI job, with claims that a delegation has, from an issuer that is trusted for both."""
    over = {"client_id": "x", "txn": "t", "jti": "j", "scope": "invoices.read", "act": {"sub": "payer"}, "aud": AUD}
    for head in HEADS.values():
        text = made(ISS, key=KEY, head={**head, "alg": "ES256", "kid": "k1"}, **over)
        with pytest.raises(TokenRefused) as refused:
            verify(text, ISSUERS, now=NOW)
        assert refused.value.code in {"token.type", "token.header"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "say whose tokens count"),
        ({"subjects": frozenset({"repo:acme/*"})}, "exact `sub`s"),
        ({"subjects": frozenset({""})}, "exact `sub`s"),
        ({"prefixes": ("repo:acme/desk",)}, "ends with"),
        ({"prefixes": ("",)}, "ends with"),
        ({"prefixes": (":",)}, "ends with"),
        ({"prefixes": ("repo:*/desk:",)}, "ends with"),
        ({"subjects": frozenset({POD}), "claims": {"owner_id": 5}}, "exact text"),
    ],
)
def test_rules_that_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        WorkloadRules(GITHUB, "guard", 3600, KEYS, **given)


@given(st.text(st.sampled_from("repo:acme/desk-x*"), max_size=30))
def test_law_a_prefix_never_ends_within_a_word(subject: str) -> None:
    """What is let in by `repo:acme/desk:` has that word whole."""
    rules = RULES[GITHUB]
    assert rules.admits(subject) == (subject.startswith("repo:acme/desk:") and len(subject) > len("repo:acme/desk:"))


@given(st.data())
def test_law_no_changed_token_is_accepted(data: st.DataObject) -> None:
    text = GOOD
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("ABab01-_.=+/\n").filter(lambda character: character != text[at]))
    assert verdict(text[:at] + new + text[at + 1 :]).startswith("token.")


GOOD = made()
