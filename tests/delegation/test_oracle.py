"""joserfc as a second opinion on 5,000 mutated tokens a run, of every kind there is; and what hypothesis makes of valid chains and proofs.

What we accept and joserfc, told everything it can be told, rejects must stand in `ALONE` with its reason. What it takes and we refuse is us being stricter.
The seed is drawn anew each run and shown; `GUARDTRAIL_SEED` repeats one.
"""

from __future__ import annotations

import base64
import json
import os
import string
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random, SystemRandom
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from joserfc import jwt as oracle
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from guard import Denied, Guard, Policy, ToolCall
from guard.errors import TokenRefused
from guard.identity.issuers import Issuer
from guard.record import ListSink
from guard.tokens.jose import b64url_encode
from guard.tokens.proof import digest, verify_dpop
from guard.tokens.svid import verify_svid
from tests.delegation.test_attacks import At
from tests.tokens import forge, hops, test_svid
from tests.tokens.forge import AUD, ED, ISS, KEY, NOW, OTHER, claims, jwk, sign, token
from tests.tokens.hops import ARGS, HOLDERS, PAY, READ, chain, hop, proof, public, root

CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
TOKENS = 50_000 if CAMPAIGN else 5_000
SEED = int(os.environ.get("GUARDTRAIL_SEED") or SystemRandom().randrange(2**32))
ROOT = root()
PARENT = ROOT.rpartition("~")[2]

ALONE: dict[tuple[str, str], str] = {}
"""(kind, joserfc's error) -> why we accept what it rejects. Nothing: whatever stands here must say why."""


class Kind(NamedTuple):
    """A kind of token. `take`: our verdict. `key`: whose signature is good. `claims`: of a good one. `registry`: what joserfc is told."""

    typ: tuple[str, ...]
    header: Mapping[str, object]
    claims: Mapping[str, object]
    key: Any
    take: Callable[[str], bool]
    rules: Mapping[str, Any]


def _refused(call: Callable[[], object]) -> bool:
    """Whether it is taken. Only our own refusal may come out."""
    try:
        call()
    except TokenRefused as refused:
        assert refused.code != "guard.error"
        assert refused.__cause__ is None
        return False
    return True


def _root_delegation() -> Any:
    found = hops.folded(ROOT)
    assert not isinstance(found, str)
    return found


HELD = _root_delegation()
_ISSUED = {
    "iss": {"essential": True, "value": ISS},
    "aud": {"essential": True, "value": AUD},
    "exp": {"essential": True},
    "sub": {"essential": True},
}
_ISSUERS = tuple(f"{application}{typ}" for application in ("", "application/") for typ in ("at+jwt", "txntoken+jwt"))
"""One door for both: which of them a token is, its `typ` says."""
HOP = {
    "par": hops.link(PARENT), "dep": 1, "mdp": 3, "iat": NOW - 5, "exp": NOW + 300, "jti": "h1", "aud": AUD, "act": {"sub": "worker-1"},
    "cnf": {"jwk": public(HOLDERS[1])}, "authorization_details": [PAY, READ],
}  # fmt: skip
POP = {"aud": AUD, "iat": NOW, "jti": "p-1", "ath": digest(ROOT), "tool": "pay", "args": digest(ARGS)}
DPOP = {"jti": "p-1", "htm": "POST", "htu": "https://api.example/pay", "iat": NOW, "ath": digest(ROOT)}
SVID = {"sub": test_svid.WORKLOAD, "aud": ["audience"], "exp": NOW + 300, "iat": NOW}
HOLDER = HOLDERS[0]

KINDS: dict[str, Kind] = {
    "at+jwt": Kind(_ISSUERS, forge.HEADER, claims(), KEY, lambda text: forge.verdict(text) == "allow", _ISSUED),
    "txntoken+jwt": Kind(
        _ISSUERS, {**forge.HEADER, "typ": "txntoken+jwt"}, claims(req_wl="gateway"), KEY,
        lambda text: forge.verdict(text) == "allow", _ISSUED | {"txn": {"essential": True}},
    ),
    "hop": Kind(("guard-att+jwt",), {"alg": "ES256", "typ": "guard-att+jwt"}, HOP, HOLDER, lambda text: hops.verdict(f"{ROOT}~{text}") == "allow",
                {"aud": {"essential": True, "value": AUD}, "exp": {"essential": True}}),
    "pop": Kind(("guard-pop+jwt",), {"alg": "ES256", "typ": "guard-pop+jwt", "jwk": public(HOLDER)}, POP, HOLDER, lambda text: hops.shown(text, ROOT) == "allow",
                {"aud": {"essential": True, "value": AUD}}),
    "dpop": Kind(("dpop+jwt",), {"alg": "ES256", "typ": "dpop+jwt", "jwk": public(HOLDER)}, DPOP, HOLDER,
                 lambda text: _refused(lambda: verify_dpop([text], HELD, ROOT, method="POST", url="https://api.example/pay", now=NOW)), {"jti": {"essential": True}}),
    "svid": Kind(("JWT", "JOSE", ""), test_svid.HEAD, SVID, test_svid.KEY1, lambda text: _refused(lambda: verify_svid(text, test_svid.BUNDLES, audience="audience", now=NOW)),
                 {"aud": {"essential": True, "value": "audience"}, "exp": {"essential": True}, "sub": {"essential": True}}),
}  # fmt: skip

HEADERS = JWSRegistry(
    header_registry={name: HeaderParameter("", "str") for name in ("kid", "typ")} | {"jwk": HeaderParameter("", "jwk")},
    algorithms=["ES256"],
)


def told(kind: Kind, text: str) -> str:
    """ "": joserfc takes it; else the name of its error."""
    key = JWKRegistry.import_key(jwk(kind.key, "x") | {"kid": str(kind.header.get("kid", "x"))})
    try:
        decoded = oracle.decode(text, key, algorithms=["ES256"], registry=HEADERS)
        oracle.JWTClaimsRegistry(now=NOW, leeway=5, **kind.rules).validate(decoded.claims)
        if decoded.header.get("typ", "") not in kind.typ:
            return "typ"
    except JoseError as error:
        return str(error.error)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return type(error).__name__
    return ""


ODD: list[Any] = [
    None, True, False, "", "x", 0, -1, 1.5, 2**53, [], {}, [AUD], {"sub": "a"}, NOW, str(NOW), NOW + 10_000, NOW - 10_000, "é", "a b", [PAY], {"jwk": public(OTHER)},
    "audience", AUD, ISS, test_svid.WORKLOAD, "ES256", "EdDSA", "none", "at+jwt", "k1", "key1", 1e308, "\ud800",
]  # fmt: skip


def signed(header: Any, payload: Any, key: Any) -> str:
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode("utf-8", "surrogatepass") for one in (header, payload)]
    text = ".".join(map(b64url_encode, parts))
    return f"{text}.{b64url_encode(sign(key, text.encode()))}"


def mutant(random: Random, kind: Kind) -> str:
    """By the character, by the byte under the encoding, by the claim, by the header, by the key; or not at all."""
    header, payload, key = dict(kind.header), dict(kind.claims), kind.key
    how = random.randrange(10)
    if how == 0:
        payload["jti"] = f"j-{random.randrange(1000)}"
    elif how in (1, 2, 3):
        for _ in range(random.choice((1, 1, 2))):
            name = random.choice([*payload, "nbf", "iat", "exp", "sid", "person", "crit", "note"])
            payload[name] = random.choice(ODD)
            if random.random() < 0.2:
                payload.pop(name)
    elif how == 4:
        name = random.choice(["alg", "typ", "kid", "jwk", "crit", "b64", "x"])
        header[name] = random.choice(ODD)
        if random.random() < 0.2:
            header.pop(name)
    elif how == 5:
        key = random.choice([OTHER, HOLDERS[2], KEY, HOLDER])
    text = signed(header, payload, key)
    if how == 6:
        at = random.randrange(len(text))
        text = text[:at] + random.choice(string.ascii_letters + string.digits + "-_.= \n") + text[at + 1 :]
    elif how == 7:
        parts = [base64.urlsafe_b64decode(part + "==") for part in text.split(".")]
        n = random.randrange(3)
        at = random.randrange(len(parts[n]))
        parts[n] = parts[n][:at] + bytes([parts[n][at] ^ random.randrange(1, 256)]) + parts[n][at + 1 :]
        text = ".".join(map(b64url_encode, parts))
    elif how == 8:
        raw = bytearray(json.dumps(payload).encode("utf-8", "surrogatepass"))
        raw[random.randrange(len(raw))] = random.randrange(256)
        text = signed(header, bytes(raw), key)
    elif how == 9:
        one, two = text.split("."), signed(kind.header, {**kind.claims, "jti": "other"}, kind.key).split(".")
        n = random.randrange(3)
        text = ".".join([*one[:n], two[n], *one[n + 1 :]])
    return text


def test_nothing_is_taken_that_another_library_rejects() -> None:
    random = Random(SEED)
    seen: Counter[str] = Counter()
    alone: list[tuple[str, str, str]] = []
    for n in range(TOKENS):
        name = list(KINDS)[n % len(KINDS)]
        kind = KINDS[name]
        text = mutant(random, kind)
        ours, theirs = kind.take(text), told(kind, text)
        seen[
            f"{name}: {'both take' if ours and not theirs else 'both refuse' if not ours and theirs else 'we are stricter' if not ours else 'we alone take'}"
        ] += 1
        if ours and theirs and (name, theirs) not in ALONE:
            alone.append((name, theirs, text))
    print(SEED, dict(seen))
    assert alone == [], f"seed {SEED}"
    assert sum(seen.values()) == TOKENS
    assert all(seen[f"{name}: both take"] >= TOKENS / 200 for name in KINDS), "a comparison of refusals alone says nothing"


def test_the_oracle_can_see(monkeypatch: Any) -> None:
    """Of a verifier that takes everything it finds the first hundred out."""
    random = Random(1)
    found = [told(kind, mutant(random, kind)) for kind in KINDS.values() for _ in range(100)]
    assert sum(map(bool, found)) > 300


# -- whole guards ----------------------------------------------------------------------------------------------------------------------

POLICY = """
guardtrail: 1
name: desk
owner: o@acme.example
tools:
  pay: {effect: pay, control: {amount: int}, data: {note: text}}
  read: {effect: read, control: {path: path}}
"""
LOADED = Policy.from_text(POLICY)
GOOD = chain({}, {"authorization_details": [PAY]}, {"authorization_details": [PAY]})
LINKS = GOOD.split("~")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
    return Issuer(ISS, audience=AUD, keys=file)


def guard(trust: Issuer) -> Guard:
    """A fresh one: in one that has seen a task end, every token of it would be refused for that."""
    return Guard(LOADED, trust=trust, sinks=[ListSink()], clock=At())


def ran(one: Guard, presented: Any, shown: Any) -> bool:
    """Only `Denied` may come out."""
    done: list[bool] = []
    try:
        with one.task(presented):
            one.call(ToolCall("pay", {"amount": 5}, "", shown), lambda **_: done.append(True))
    except Denied:
        return False
    return bool(done)


def made(data: st.DataObject, text: str) -> str:
    """A change of a chain: its bytes, its segments, its order, or what one hop says, signed by whoever is not its parent."""
    links = text.split("~")
    i, k = data.draw(st.integers(0, len(links) - 1)), data.draw(st.integers(0, len(links) - 1))
    how = data.draw(st.sampled_from(["byte", "character", "segment", "reorder", "drop", "double", "insert", "claim", "header"]))
    if how == "byte":
        parts = [base64.urlsafe_b64decode(part + "==") for part in links[i].split(".")]
        n = data.draw(st.integers(0, 2))
        at = data.draw(st.integers(0, len(parts[n]) - 1))
        parts[n] = parts[n][:at] + bytes([parts[n][at] ^ data.draw(st.integers(1, 255))]) + parts[n][at + 1 :]
        links[i] = ".".join(map(b64url_encode, parts))
    elif how == "character":
        at = data.draw(st.integers(0, len(text) - 1))
        one = data.draw(st.sampled_from("AZaz09-_.~=+/\n\0é"))
        return text[:at] + one + text[at + data.draw(st.integers(0, 1)) :]
    elif how == "segment":
        mine, theirs, n = links[i].split("."), links[k].split("."), data.draw(st.integers(0, 2))
        links[i] = ".".join([*mine[:n], theirs[n], *mine[n + 1 :]])
    elif how == "reorder":
        links[i], links[k] = links[k], links[i]
    elif how == "drop":
        links.pop(i)
    elif how == "double":
        links.insert(k, links[i])
    elif how == "insert":
        links.insert(i, data.draw(st.sampled_from(["", "x", "a.b.c", ROOT, hop(ROOT, 1, jti="y"), token(claims())])))
    else:
        head, body = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in links[i].split(".")[:2])
        changed = body if how == "claim" else head
        changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(st.sampled_from([one for one in ODD if one != "\ud800"]))
        wrong = [key for key in (*HOLDERS, OTHER, ED) if key is not (KEY if i == 0 else HOLDERS[i - 1])]
        links[i] = signed(head, body, data.draw(st.sampled_from(wrong)))
    return "~".join(links)


@settings(max_examples=20_000 if CAMPAIGN else 500, deadline=None)
@given(st.data())
def test_a120_no_mutation_of_a_chain_is_permitted(trust: Issuer, data: st.DataObject) -> None:
    """Through a whole guard, with a proof by each holder there is for the very text: no permit, and nothing but `Denied`."""
    one = guard(trust)
    text = made(data, GOOD)
    assume(text != GOOD and text not in ["~".join(LINKS[: n + 1]) for n in range(len(LINKS))])
    holder = data.draw(st.sampled_from(HOLDERS[:4]))
    shown = proof(text, holder) if text.isascii() else "x"
    assert not ran(one, text, shown), text


@settings(max_examples=5_000 if CAMPAIGN else 200, deadline=None)
@given(st.data())
def test_a120_no_mutation_of_a_proof_is_permitted(trust: Issuer, data: st.DataObject) -> None:
    one, good = guard(trust), proof(GOOD, HOLDERS[3])
    at, char = data.draw(st.integers(0, len(good) - 1)), data.draw(st.sampled_from("AZaz09-_.~=+/\n\0é"))
    text = data.draw(
        st.sampled_from([good[:at] + char + good[at + 1 :], good[:at] + good[at + 1 :], good[:at] + char + good[at:], good[:at]])
    )
    assume(text != good)
    assert not ran(one, GOOD, text)


def test_what_is_not_mutated_runs(trust: Issuer) -> None:
    one = guard(trust)
    assert ran(one, GOOD, proof(GOOD, HOLDERS[3]))


@settings(max_examples=200, deadline=None)
@given(given_=st.none() | st.integers() | st.binary(max_size=50) | st.text(max_size=50) | st.lists(st.text(max_size=5), max_size=2), shown=st.none() | st.integers() | st.binary(max_size=9) | st.text(max_size=9))  # fmt: skip
def test_a120_whatever_is_presented_only_a_denial_comes_out(trust: Issuer, given_: Any, shown: Any) -> None:
    assert not ran(guard(trust), given_, shown)
