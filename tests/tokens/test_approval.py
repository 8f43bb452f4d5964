"""Approvers' tokens and signed answers, read: what was changed anywhere is refused, with one exception and no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import LocalIssuer
from guard.approvals.sealing import Seal
from guard.errors import TokenRefused
from guard.identity import HolderKey
from guard.tokens.approval import APPROVAL, REJECTION, approver_claims, read_answer, read_approver, read_groups, to_prove
from guard.tokens.jose import b64url_decode

NOW = 1_800_000_000
IAM = LocalIssuer("acme-dev", audience="approvals", clock=lambda: NOW)
RULES = {"acme-dev": IAM.rules()}
TOKEN = IAM.login("bob", groups=["treasury"], sid="s-1", person="robert")
SEAL = Seal(None)
PERSON, GROUPS = read_approver(TOKEN, RULES, groups={}, now=NOW)
CLAIMS: dict[str, Any] = {
    "jti": "a-1", "iss": SEAL.desk, "aud": "acme-dev", "iat": NOW, "exp": NOW + 900, "request": "01M8GP739Y6VRW9HZ8000067E5",
    "task": {"iss": "acme-dev", "txn": "t"}, "tool": "pay", "args_digest": "oWTo-HK7deAy1SCUuMqzr9hoZSsaHBo74RzU4JcxEMs", "asks": ["four-eyes"],
    "approver": approver_claims(PERSON), "groups": sorted(GROUPS), "pop": "",
}  # fmt: skip
ANSWER = SEAL.sign(APPROVAL, CLAIMS)


def answer(text: str, **over: Any) -> Any:
    return read_answer(text, SEAL.key, **{"desk": SEAL.desk, "tenant": "acme-dev", "now": NOW, **over})


def test_what_a_good_answer_says() -> None:
    found = answer(ANSWER)
    assert (found.yes, found.issuer, found.args_digest, found.expires_at) == (True, "acme-dev", CLAIMS["args_digest"], NOW + 900)
    said = found.said
    assert (said.id, said.task, said.tool, said.asks, said.args_hmac) == ("a-1", "t", "pay", ("four-eyes",), "")
    assert (said.approver, said.names, said.groups, said.issuer, said.at) == ("robert", {"bob", "robert"}, {"treasury"}, "acme-dev", NOW)
    credential = said.credential
    assert credential is not None
    assert (credential.credential, credential.session, credential.issued_at) == (PERSON.credential, "s-1", NOW)
    assert (credential.origin, credential.person, credential.workload) == (PERSON.origin, PERSON.person, PERSON.workload)
    assert answer(SEAL.sign(REJECTION, CLAIMS)).yes is False


def test_nothing_of_the_token_is_in_it() -> None:
    assert TOKEN.rpartition(".")[2] not in ANSWER and TOKEN.split(".")[1] not in ANSWER


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_every_claim_is_needed_and_of_its_type(name: str) -> None:
    for value in (None, 1, -1, True, "", [], {}, ["a", 1], {"iss": "x"}, " x", "x" * 300, 2**60):
        changed = {**CLAIMS, name: value}
        if value == CLAIMS[name] or (name == "groups" and value == []) or (name == "iat" and value == 1) or (name == "pop" and value == ""):
            continue
        with pytest.raises(TokenRefused):
            answer(SEAL.sign(APPROVAL, changed))
    without = {key: value for key, value in CLAIMS.items() if key != name}
    with pytest.raises(TokenRefused):
        answer(SEAL.sign(APPROVAL, without))


@pytest.mark.parametrize("over", [{"desk": "approvals:x"}, {"tenant": "other"}, {"now": NOW + 900}, {"now": NOW - 6}])
def test_for_another_desk_tenant_or_time(over: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused):
        answer(ANSWER, **over)


def test_the_proof_of_a_bound_approver_is_evidence() -> None:
    """Attack: who holds the desk's key has a person approve whose token is bound to a key of theirs."""
    key, other = HolderKey.generate(clock=lambda: NOW), HolderKey.generate(clock=lambda: NOW)
    token = IAM.login("bob", key=key.public)
    person, _ = read_approver(token, RULES, groups={}, now=NOW)
    about = to_prove(CLAIMS["request"], CLAIMS["args_digest"])
    bound = {**CLAIMS, "approver": approver_claims(person)}
    good = key.prove(token, "guardtrail.approve", about)
    assert answer(SEAL.sign(APPROVAL, {**bound, "pop": good})).said.credential.bound == "jkt"
    for pop in (
        "", "x", good[:-4] + "AAAA", other.prove(token, "guardtrail.approve", about), key.prove(token, "guardtrail.reject", about),
        key.prove(token, "guardtrail.approve", {**about, "request": "other"}), key.prove(token, "guardtrail.approve", {**about, "args_digest": "x"}),
    ):  # fmt: skip
        with pytest.raises(TokenRefused):
            answer(SEAL.sign(APPROVAL, {**bound, "pop": pop}))
    for kind, claims in ((REJECTION, {**bound, "pop": good}), (APPROVAL, {**CLAIMS, "pop": good})):
        with pytest.raises(TokenRefused):
            answer(SEAL.sign(kind, claims))


def test_another_kind_is_none() -> None:
    for typ in ("at+jwt", "guard-pop+jwt", "guard-att+jwt", "JWT", "application/guard-approval+jwt", "GUARD-APPROVAL+JWT"):
        with pytest.raises(TokenRefused):
            answer(SEAL.sign(typ, CLAIMS))
    with pytest.raises(TokenRefused):
        answer(TOKEN)
    with pytest.raises(TokenRefused):
        read_approver(ANSWER, RULES, groups={}, now=NOW)


def changed(text: str, at: int, how: int) -> str:
    at %= len(text)
    c = text[at]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    return {
        0: text[:at] + alphabet[(alphabet.index(c) + 1 + how) % 65] + text[at + 1 :],
        1: text[:at] + text[at + 1 :],
        2: text[:at] + c + text[at:],
    }[how % 3]


@given(st.integers(0, 5000), st.integers(0, 62))
def test_a_changed_answer_is_none(at: int, how: int) -> None:
    text = changed(ANSWER, at, how)
    if text != ANSWER:
        with pytest.raises(TokenRefused):
            answer(text)


@given(st.integers(0, 5000), st.integers(0, 62))
def test_a_changed_token_is_nobodys(at: int, how: int) -> None:
    text = changed(TOKEN, at, how)
    if text != TOKEN:
        with pytest.raises(TokenRefused):
            read_approver(text, RULES, groups={}, now=NOW)


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.lists(st.text())))
def test_what_is_no_text_is_refused(what: Any) -> None:
    with pytest.raises(TokenRefused):
        answer(what)
    with pytest.raises(TokenRefused):
        read_approver(what, RULES, groups={}, now=NOW)


def test_groups() -> None:
    assert read_groups({}, "groups") == frozenset()
    assert read_groups({"https://acme.example/groups": ["/treasury"]}, "https://acme.example/groups") == {"/treasury"}
    for found in (None, "treasury", {"treasury": True}, [1], [None], [""], [" treasury"], ["treasury\u200b"], ["g"] * 257, True, 1):
        with pytest.raises(TokenRefused):
            read_groups({"groups": found}, "groups")


def test_the_header_has_exactly_three_members() -> None:
    header = json.loads(b64url_decode(ANSWER.split(".")[0].encode()))
    assert header == {"alg": "Ed25519", "typ": "guard-approval+jwt", "kid": SEAL.kid}
    other = Seal(None)
    with pytest.raises(TokenRefused):
        answer(other.sign(APPROVAL, CLAIMS))
