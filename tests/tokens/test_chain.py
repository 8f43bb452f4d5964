"""Chains of hops: the attack list by number, the classes of `must_reject`, and mutations of what is valid."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.model import Delegation
from guard.tokens.jose import b64url_encode
from tests.tokens.forge import ED, KEY, NOW, OTHER, claims, token
from tests.tokens.hops import HOLDERS, PAY, READ, chain, folded, hop, public, root, verdict

CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

ROWS: dict[str, tuple[set[str], Callable[[], Iterator[str]]]] = {}


def row(name: str, *codes: str) -> Callable[[Callable[[], Iterator[str]]], None]:
    def take(make: Callable[[], Iterator[str]]) -> None:
        assert name not in ROWS
        ROWS[name] = (set(codes), make)

    return take


def grant(**args: Any) -> list[dict[str, Any]]:
    return [{"type": "agent_tool", "tool": "pay", "args": args, "limit": {"calls": 5}}]


def amount(**kinds: Any) -> list[dict[str, Any]]:
    return grant(amount=kinds)


WIDER, CHAIN, SIGNED = "delegation.widened", "token.chain", "token.signature"
R = root()


@row("A072", "token.actors")
def _() -> Iterator[str]:
    """A hop names one actor; it cannot say, and so not rewrite, who came before."""
    yield chain({"act": {"sub": "worker-1", "act": {"sub": "somebody-else"}}})
    yield chain({}, {"act": {"sub": "worker-2", "act": {"sub": "payer"}}})


@row("A077", WIDER)
def _() -> Iterator[str]:
    yield chain({"aud": "elsewhere"})
    yield chain({"aud": ["refunds"]})
    yield chain({"aud": ["refunds", "elsewhere"]})


@row("A078", "token.claims")
def _() -> Iterator[str]:
    yield chain({"txn": "task-2"})
    yield chain({"txn": "task-1"})


@row("A079", "token.claims")
def _() -> Iterator[str]:
    yield chain({"sub": "bob"})
    yield chain({"iss": "https://iam.acme.example"})
    yield chain({"sid": "s"})
    yield chain({"person": "bob"})
    yield chain({"scope": "invoices.read"})


@row("A080", WIDER)
def _() -> Iterator[str]:
    yield chain({"exp": NOW + 601})
    yield chain({"exp": NOW + 300}, {"exp": NOW + 301})


@row("A081", CHAIN)
def _() -> Iterator[str]:
    yield chain({"mdp": 4})
    yield chain({"dep": 2})
    yield chain({"dep": 0})
    yield chain({"dep": -5})
    yield chain({"dep": True})
    yield chain({"dep": "1"})
    yield chain({"mdp": 1}, {"mdp": 2})
    yield chain({"mdp": 1}, {"mdp": 1})
    yield chain({}, first={"mdp": ...})
    yield chain({}, first={"mdp": 0})
    yield chain({}, first={"mdp": -5})
    yield chain({}, first={"mdp": True})
    yield chain({}, {}, {}, {"mdp": 4})


@row("A082", SIGNED)
def _() -> Iterator[str]:
    first, _, third = chain({}, {}).split("~")
    yield f"{first}~{third}"


@row("A083", CHAIN)
def _() -> Iterator[str]:
    sibling = hop(R, 1, jti="sibling")
    yield f"{R}~{sibling}~{hop(f'{R}~{hop(R, 1)}', 2)}"
    yield f"{root(jti='t-2')}~{hop(R, 1)}"


@row("A084", SIGNED, "token.type")
def _() -> Iterator[str]:
    first, second, third = chain({}, {}).split("~")
    yield third
    yield second
    yield f"{third}~{second}~{first}"
    yield f"{first}~{third}~{second}"
    yield f"{first}~{second}~{second}"
    yield f"{second}~{third}"
    yield f"{first}~{first}"


@row("A087", WIDER)
def _() -> Iterator[str]:
    yield chain({"authorization_details": amount(range={"min": 0})})
    yield chain({"authorization_details": amount(range={"max": 100})})
    yield chain({"authorization_details": amount(range={"min": 0, "max": 101})})


@row("A088", "token.details")
def _() -> Iterator[str]:
    for odd in ({"regex": ".*"}, {"not": {"eq": 1}}, {}, None, [], {"eq": 1, "cel": "true"}):
        yield chain({"authorization_details": grant(amount=odd)})


@row("A089", "token.details")
def _() -> Iterator[str]:
    yield chain({"authorization_details": amount(regex="^a")})


@row("A090", WIDER)
def _() -> Iterator[str]:
    yield chain({"authorization_details": grant(amount={"eq": 5}, extra={"any": True})})
    yield chain({"authorization_details": grant(amount={"eq": 5}, extra={"any": True, "optional": True})})


@row("A093", WIDER)
def _() -> Iterator[str]:
    two = [{"type": "agent_tool", "tool": "pay", "args": {"to": {"eq": one}}} for one in ("a", "b")]
    yield chain({"authorization_details": [{"type": "agent_tool", "tool": "pay", "args": {"to": {"one_of": ["a", "b"]}}}]}, first={"authorization_details": two})  # fmt: skip


@row("A094", "token.no_grant", "token.claims", "token.details")
def _() -> Iterator[str]:
    yield chain({"authorization_details": []})
    yield chain({"authorization_details": ...})
    yield chain({"authorization_details": None})


@row("A109", "token.proof")
def _() -> Iterator[str]:
    key, thumb = public(HOLDERS[0]), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    for cnf in (
        {"jkt": thumb, "x5t#S256": thumb}, {"jwk": key, "jkt": thumb}, {"kid": "k1"}, {"jwe": "x"}, {}, None, [], "x", {"jkt": 1}, {"jkt": thumb + "="},
        {"jkt": thumb[:-1]}, {"jwk": "x"}, {"jwk": {**key, "d": "AAAA"}}, {"jwk": {"kty": "oct", "k": "AAAA"}}, {"jkt": "A" * 42 + "B"},
    ):  # fmt: skip
        yield root(cnf=cnf)
        if cnf is not None:
            yield chain({"cnf": cnf})


@row("R01", SIGNED)
def _() -> Iterator[str]:
    for key in (OTHER, KEY, HOLDERS[1], HOLDERS[2]):
        yield f"{R}~{hop(R, 1, key=key)}"
    yield f"{R}~{hop(R, 1, key=ED, alg='EdDSA')}"


@row("R02", "token.expired", "token.claims")
def _() -> Iterator[str]:
    yield chain({"iat": NOW - 8, "exp": NOW - 5})
    yield chain({"iat": NOW - 7, "exp": NOW - 6})
    yield chain({"iat": NOW - 5, "exp": NOW - 5})


@row("R06", WIDER)
def _() -> Iterator[str]:
    for path in (
        {"under": "/srv"},
        {"under": "/"},
        {"any": True},
        {"under": "/srv/data2"},
        {"prefix": "/srv/data"},
        {"glob": "/srv/data/*"},
    ):
        yield chain({"authorization_details": [{"type": "agent_tool", "tool": "read", "args": {"path": path}}]})
    yield chain({"authorization_details": [{"type": "agent_tool", "tool": "read"}]})


@row("R07", WIDER)
def _() -> Iterator[str]:
    yield chain({"authorization_details": [{"type": "agent_tool", "tool": "send"}]})
    yield chain({"authorization_details": [PAY]}, {"authorization_details": [PAY, READ]})
    yield chain({"authorization_details": [{"type": "agent_task", "intent": "work"}]})
    yield chain({"authorization_details": [{"type": "agent_task", "intent": "work"}, PAY]})


@row("R08", CHAIN)
def _() -> Iterator[str]:
    head, body, signature = R.split(".")
    plain = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(plain[:32], "big"), int.from_bytes(plain[32:], "big")
    twin = f"{head}.{body}.{b64url_encode(r.to_bytes(32, 'big') + (ORDER - s).to_bytes(32, 'big'))}"
    assert verdict(twin) == "allow"
    yield f"{twin}~{hop(R, 1)}"  # the same credential in another text
    for par in ("", "x", None, 1, R, hop(R, 1)):
        yield chain({"par": par})


@row("R12", CHAIN)
def _() -> Iterator[str]:
    yield chain({"cnf": {"jwk": public(HOLDERS[0])}})
    yield chain({}, {"cnf": {"jwk": public(HOLDERS[1])}})
    yield chain({}, {"cnf": {"jwk": public(HOLDERS[0])}})


@row("header", "token.header", "token.type", "token.malformed", "token.missing")
def _() -> Iterator[str]:
    base = {"alg": "ES256", "typ": "guard-att+jwt"}
    for more in (
        {"kid": "k1"},
        {"jwk": public(HOLDERS[0])},
        {"crit": []},
        {"alg": None},
        {"typ": "at+jwt"},
        {"typ": "GUARD-ATT+JWT"},
        {"alg": 1},
    ):
        yield f"{R}~{hop(R, 1, header={**base, **more})}"
    yield f"{R}~"
    yield f"{R}~~"
    yield f"~{hop(R, 1)}"
    yield f"{R}~{hop(R, 1)}~"
    yield f"{R}~é"


@row("size", "token.too_large", CHAIN)
def _() -> Iterator[str]:
    yield R + "~" + "a" * 33_000
    yield "~".join([R, *[hop(R, 1)] * 8])
    yield f"{R}~{hop(R, 1, jti='h', act={'sub': 'x' * 13_000})}"


@row("alg", SIGNED)
def _() -> Iterator[str]:
    for alg in ("none", "HS256", "ES384", "EdDSA"):
        yield f"{R}~{hop(R, 1, header={'alg': alg, 'typ': 'guard-att+jwt'})}"


@row("actors", "token.actors", "token.claims")
def _() -> Iterator[str]:
    for act in ({"sub": "payer"}, {"sub": "alice"}, {"sub": ""}, {}, [], None, "x", {"sub": 1}, {"sub": "x", "iss": "y"}, {"sub": " x"}):
        yield chain({"act": act})
    yield chain({}, {"act": {"sub": "worker-1"}})
    yield chain({"act": ...})


@row("parent key", CHAIN)
def _() -> Iterator[str]:
    yield chain({}, first={"cnf": ...})
    yield chain({}, first={"cnf": {"jkt": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"}})
    yield chain({}, first={"jti": "t~1"})


@row("limit", WIDER)
def _() -> Iterator[str]:
    """A095, one half: no child's budget is larger. The other half is counted at the store."""
    for limit in ({"limit": {"calls": 6}}, {"limit": ...}):
        entry = {name: value for name, value in {**PAY, **limit}.items() if value is not ...}
        yield chain({"authorization_details": [entry]})


@row("claims", "token.claims", "token.not_yet")
def _() -> Iterator[str]:
    for over in (
        {"iat": NOW + 6},
        {"iat": "1"},
        {"exp": True},
        {"exp": None},
        {"jti": "a~b"},
        {"jti": ""},
        {"jti": "a" * 65},
        {"jti": 1},
        {"nbf": 1},
        {"iat": -1},
    ):
        yield chain(over)
    for name in ("par", "dep", "mdp", "iat", "exp", "jti", "aud", "cnf"):
        yield chain({name: ...})


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row(name: str) -> None:
    codes, make = ROWS[name]
    seen = {verdict(text): text for text in make()}
    assert "allow" not in seen, f"{name}: {seen['allow'][-400:]}"
    assert set(seen) == codes, {code: text[-300:] for code, text in seen.items() if code not in codes}


def test_r27_a_chain_of_three_each_narrower() -> None:
    small = [{**PAY, "args": {"amount": {"range": {"min": 0, "max": 10}}}, "limit": {"calls": 2}}]
    found = folded(chain({"authorization_details": [PAY]}, {"authorization_details": small, "exp": NOW + 100}))
    assert isinstance(found, Delegation)
    assert found.actors == ("payer", "worker-1", "worker-2")
    assert (found.origin, found.txn, found.issuer) == ("alice", "task-1", "https://iam.acme.example")
    assert found.expires_at == NOW + 100
    assert str(found.credential) == "https://iam.acme.example/t-1~h1~h2"
    assert [one.credential.jti for one in found.above] == ["t-1", "t-1~h1"]
    assert all(not one.above for one in found.above)
    assert found.bound == "jkt"
    assert found.workload is None
    assert found.credential.kid == found.above[1].credential.thumbprint, "revoking the key that signed it reaches it"
    assert list(found.grants or ()) == ["pay"]


def test_r26_the_minimal_root() -> None:
    assert verdict(R) == "allow"
    found = folded(R)
    assert isinstance(found, Delegation)
    assert (found.bound, found.above) == ("jkt", ())


def test_a087_an_empty_range_may_be_made() -> None:
    assert verdict(chain({"authorization_details": amount(range={"min": 9, "max": 1})})) == "allow"


def test_eight_tokens_are_a_chain() -> None:
    first = {"mdp": 7}
    overs = [{"mdp": 7}] * 7
    assert verdict(chain(*overs, first=first)) == "allow"
    assert verdict(chain(*overs, first={**first, "act": {"sub": "payer", "act": {"sub": "opener"}}})) == "token.actors"


def test_a_hop_may_repeat_its_task_and_not_change_it() -> None:
    task = {"type": "agent_task", "intent": "work", "params": {"n": 1}}
    first = {"authorization_details": [task]}
    assert verdict(chain({"authorization_details": [task]}, first=first)) == "allow"
    found = folded(chain({"authorization_details": [PAY]}, first=first))
    assert isinstance(found, Delegation)
    assert found.intent == "work"
    assert found.params == {"n": 1}
    for other in ({"intent": "other"}, {"params": {"n": 2}}, {"params": {"n": True}}, {"params": {}}):
        assert verdict(chain({"authorization_details": [{**task, **other}]}, first=first)) == "delegation.widened"


@pytest.mark.parametrize("at", [-6, -5, 0, 299, 304, 305])
def test_a_chain_ends_with_its_earliest(at: int) -> None:
    text = chain({"exp": NOW + 300}, {"exp": NOW + 300})
    assert (verdict(text, now=NOW + at) == "allow") == (-10 <= at < 305)


# -- mutations -----------------------------------------------------------------------------------------------------------------------

GOOD = chain({}, {"authorization_details": [PAY]})


@settings(max_examples=20_000 if CAMPAIGN else 300)
@given(st.data())
def test_no_mutation_of_the_text_is_taken(data: st.DataObject) -> None:
    """Bits, bytes, cuts and swaps: never a permit, never a foreign exception. (The twin of the last signature is the same credential.)"""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    how = data.draw(st.sampled_from(["change", "drop", "double", "cut", "swap", "insert"]))
    one = data.draw(st.sampled_from("AZaz09-_.~=+/\n\0é"))
    tokens = GOOD.split("~")
    if how == "swap":
        i, k = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
        tokens[i], tokens[k] = tokens[k], tokens[i]
        text = "~".join(tokens)
    else:
        text = {"change": GOOD[:at] + one + GOOD[at + 1 :], "drop": GOOD[:at] + GOOD[at + 1 :], "double": GOOD[:at] + GOOD[at] + GOOD[at:],
                "cut": GOOD[:at], "insert": GOOD[:at] + one + GOOD[at:]}[how]  # fmt: skip
    said = verdict(text)
    prefix = GOOD.startswith(text) and text.count("~") < 2 and text in (tokens[0], "~".join(tokens[:2]))
    assert said != "allow" or text == GOOD or prefix, (how, at, one)


VALUES: list[Any] = [
    ...,
    None,
    0,
    1,
    2,
    99,
    -1,
    True,
    "",
    "x",
    [],
    {},
    NOW,
    NOW + 10_000,
    2**53,
    {"sub": "eve"},
    [PAY],
    [READ, PAY],
    "1",
    [[]],
    {"jwk": {}},
]
NAMES = ["par", "dep", "mdp", "iat", "exp", "jti", "aud", "act", "cnf", "authorization_details", "iss", "sub", "txn", "scope", "nbf", "kid"]


@settings(max_examples=20_000 if CAMPAIGN else 400)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(range(len(VALUES))), min_size=1, max_size=3), st.integers(1, 2))
def test_no_signed_mutation_is_wider(over: Mapping[str, int], n: int) -> None:
    """A holder signs whatever it likes. What is taken is never wider than the root in anything."""
    changed = {name: VALUES[at] for name, at in over.items()}
    text = chain(changed, first={"mdp": 3}) if n == 1 else chain({}, changed)
    found = folded(text)
    if isinstance(found, str):
        return
    top = found.above[0]
    assert found.expires_at <= top.expires_at
    assert set(found.grants or ()) <= {"pay", "read"}
    assert (found.origin, found.txn, found.audience, found.intent) == (top.origin, top.txn, top.audience, top.intent)
    assert found.actors[:-n] == top.actors
    assert found.bound
    assert all(grant.calls is not None and grant.calls <= 5 for grant in (found.grants or {}).get("pay", ()))


# -- another library -------------------------------------------------------------------------------------------------------------------


def test_what_we_take_another_library_takes_too() -> None:
    """joserfc over 5,000 mutated tokens and proofs, the same keys: nothing we accept that it rejects."""
    from joserfc import jws
    from joserfc.jwk import JWKRegistry

    from tests.tokens.forge import jwk

    r = random.Random(17)
    trusted = JWKRegistry.import_key(jwk(KEY, "k1"))
    registry = jws.JWSRegistry(algorithms=["ES256"])
    taken = 0
    good = [token(claims(jti=f"t-{n}")) for n in range(20)]
    for n in range(5000):
        text = good[n % 20]
        if n % 5:
            kind, at = r.randrange(4), r.randrange(len(text))
            one = r.choice("AZaz09-_.=\n ")
            text = [text[:at] + one + text[at + 1 :], text[:at] + text[at + 1 :], text[:at] + one + text[at:], text[: at or 1]][kind]
        if verdict(text) != "allow":
            continue
        taken += 1
        found = jws.deserialize_compact(text.encode(), trusted, registry=registry)
        assert json.loads(found.payload)["sub"] == "alice"
    assert taken >= 1000
