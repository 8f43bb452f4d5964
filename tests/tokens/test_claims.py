"""Well signed tokens with odd claims: the table `claims.yaml`, each row with its verdict and what is then read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.errors import ConfigError
from guard.tokens import IssuerRules, verify
from tests.tokens.forge import AUD, ISS, KEY, NOW, RULES, claims, jwk, keys, token, verdict

TABLE: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text("utf-8"))


def chain(n: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "a0"}
    for at in range(1, n):
        act = {"sub": f"a{at}", "act": act}
    return act


LONG = {
    "@256": "x" * 256,
    "@257": "x" * 257,
    "@8": chain(8),
    "@9": chain(9),
    "@128 scopes": " ".join(f"s{n}" for n in range(128)),
    "@129 scopes": " ".join(f"s{n}" for n in range(129)),
    "@64 entries": [{"type": "agent_tool", "tool": f"t{n}"} for n in range(64)],
    "@65 entries": [{"type": "agent_tool", "tool": f"t{n}"} for n in range(65)],
}


def value(written: Any) -> Any:
    """`now+5` is a time; `@name` one of the long values above."""
    if isinstance(written, str) and re.fullmatch(r"now([+-][0-9]+)?", written):
        return NOW + int(written[3:] or 0)
    return LONG[written] if isinstance(written, str) and written in LONG else written


def made(row: dict[str, Any]) -> str:
    unknown = row.keys() - {"id", "typ", "claims", "without", "raw", "issuer", "says", "read"}
    assert not unknown, unknown
    given = claims(**{name: value(written) for name, written in row.get("claims", {}).items()})
    for name in [*row.get("without", ()), *row.get("raw", ())]:
        given.pop(name, None)
    text = json.dumps(given)
    for name, literal in row.get("raw", {}).items():
        text = f'{text[:-1]}, "{name}": {literal}}}'
    return token(text.encode(), typ=row.get("typ", "at+jwt"))


@pytest.mark.parametrize("row", TABLE, ids=[row["id"] for row in TABLE])
def test_row(row: dict[str, Any]) -> None:
    issuers = {ISS: replace(RULES, **row.get("issuer", {}))}
    text = made(row)
    assert verdict(text, issuers=issuers) == row["says"]
    if row["says"] == "allow":
        found = verify(text, issuers, now=NOW)
        for name, want in row.get("read", {}).items():
            if name == "tools":
                got: Any = [grant.tool for several in (found.grants or {}).values() for grant in several]
            else:
                got = getattr(found, name)
                got = sorted(got) if isinstance(got, frozenset) else list(got) if isinstance(got, tuple) else got
            assert got == want, name


def test_rows_have_names_of_their_own() -> None:
    assert len({row["id"] for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    "claim", ["jti", "iss", "sub", "aud", "exp", "iat", "nbf", "client_id", "req_wl", "scope", "act", "cnf", "person", "owner"]
)
def test_a_claim_that_cannot_name_a_task(claim: str) -> None:
    """`jti` changes with a refresh, so a task would forget; the others are the same in many tasks, so tasks would become one."""
    with pytest.raises(ConfigError, match=f"`{claim}` cannot name the task"):
        IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(KEY, "k1")), task_claim=claim)


@pytest.mark.parametrize("claim", ["", " task", 5, ["task"], b"task", "t\u200bask"])
def test_a_task_claim_is_a_name(claim: Any) -> None:
    with pytest.raises(ConfigError, match="`task_claim` is the name"):
        IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(KEY, "k1")), task_claim=claim)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf"), None, "1800000000"])
def test_a_clock_that_says_no_time_lets_nothing_through(now: Any) -> None:
    assert verdict(token(), now=now) in {"token.expired", "token.not_yet", "guard.error"}


def test_two_kinds_are_never_taken_for_each_other() -> None:
    """RFC 8725bis: explicit types. The header decides which claims are demanded, and it is signed."""
    both = claims(req_wl="gateway")
    access, transaction = verify(token(both), {ISS: RULES}, now=NOW), verify(token(both, typ="txntoken+jwt"), {ISS: RULES}, now=NOW)
    assert (access.kind, access.workload) == ("at+jwt", "agent-7")
    assert (transaction.kind, transaction.workload) == ("txntoken+jwt", "gateway")


@pytest.mark.parametrize(
    "attribute", ["issuer", "tenant", "audience", "local", "txn", "origin", "actors", "params", "grants", "scopes", "credential"]
)
def test_what_was_verified_cannot_be_changed(attribute: str) -> None:
    found = verify(token(), {ISS: RULES}, now=NOW)
    with pytest.raises(AttributeError):
        setattr(found, attribute, None)


def test_params_and_grants_cannot_be_changed() -> None:
    details = [{"type": "agent_task", "intent": "a", "params": {"x": 1}}, {"type": "agent_tool", "tool": "pay", "args": {"n": {"eq": 1}}}]
    found: Any = verify(token(claims(authorization_details=details)), {ISS: RULES}, now=NOW)
    for mapping in (found.params, found.grants, found.grants["pay"][0].args):
        with pytest.raises(TypeError):
            mapping["x"] = 2
