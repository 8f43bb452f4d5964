"""Proofs over HTTP (RFC 9449) and by certificate (RFC 8705), and proofs of a call, as an attacker would make them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.tokens.proof import NonceWanted, digest, verify_certificate, verify_dpop
from tests.tokens.forge import ED, NOW, OTHER, claims, token
from tests.tokens.hops import HOLDERS, chain, folded, proof, public, refusal, root, shown

ROOT, KEY = root(), HOLDERS[0]
URL = "https://api.example/pay"


def dpop(*proofs: Any, of: str = ROOT, method: str = "POST", url: str = URL, now: int = NOW, nonces: Any = None) -> str:
    found = folded(of)
    assert isinstance(found, Delegation)
    try:
        mark = verify_dpop(proofs, found, of, method=method, url=url, now=now, nonces=nonces)
    except NonceWanted:
        return "nonce"
    except TokenRefused as refused:
        return refusal(refused)
    assert mark.startswith(f"proof|{found.credential.thumbprint}|")
    return "allow"


def made(**over: Any) -> str:
    return proof(ROOT, KEY, typ="dpop+jwt", **over)


def test_the_ordinary_ones() -> None:
    assert dpop(made()) == "allow"
    assert shown(proof(ROOT, KEY), ROOT) == "allow"
    text = chain({}, {})
    assert shown(proof(text, HOLDERS[2]), text) == "allow"
    ed = root(cnf={"jwk": public(ED)})
    assert shown(proof(ed, ED), ed) == "allow"


def test_a105_two_headers() -> None:
    assert dpop(made(), made(jti="p-2")) == "token.proof"
    assert dpop() == "token.proof"
    assert dpop(f"{made()}, {made(jti='p-2')}") == "token.proof"


@pytest.mark.parametrize(
    ("htu", "says"),
    [
        ("HTTPS://API.EXAMPLE/pay", "allow"),
        ("https://api.example:443/pay", "allow"),
        ("https://api.example/pay?x=1", "allow"),
        ("https://api.example/pay#x", "allow"),
        ("https://api.example./pay", "token.proof"),
        ("https://api.example:8443/pay", "token.proof"),
        ("http://api.example/pay", "token.proof"),
        ("http://api.example:443/pay", "token.proof"),
        ("https://api.example/PAY", "token.proof"),
        ("https://api.example/pay/", "token.proof"),
        ("https://api.example/p%61y", "token.proof"),
        ("https://api.example/x/../pay", "token.proof"),
        ("https://api.example", "token.proof"),
        ("https://u@api.example/pay", "token.proof"),
        ("https://api.example:x/pay", "token.proof"),
        ("https://[/pay", "token.proof"),
        ("//api.example/pay", "token.proof"),
        ("/pay", "token.proof"),
        ("", "token.proof"),
        (None, "token.proof"),
        (1, "token.proof"),
        ([URL], "token.proof"),
        ("https://api.example\\@evil.example/pay", "token.proof"),
        ("https://api.example/pay\n", "token.proof"),
        ("https://аpi.example/pay", "token.proof"),
    ],
)
def test_a106_htu(htu: Any, says: str) -> None:
    assert dpop(made(htu=htu)) == says


def test_a106_an_empty_path_is_the_root() -> None:
    assert dpop(made(htu="https://api.example"), url="https://api.example/") == "allow"


def test_a107_ath() -> None:
    for ath in (..., None, "", digest("x"), digest(chain({})), 1):
        assert dpop(made(ath=ath)) == "token.proof"
        assert shown(proof(ROOT, KEY, ath=ath), ROOT) == "token.proof"


def test_a108_the_key_in_the_header() -> None:
    good = public(KEY)
    for jwk in (
        {**good, "d": "AAAA"},
        {"kty": "oct", "k": "AAAA"},
        {**good, "y": good["x"]},
        {},
        None,
        [],
        "x",
        {**good, "use": "enc"},
        public(OTHER),
    ):
        assert dpop(made(header={"jwk": jwk})) == "token.proof"
        assert shown(proof(ROOT, KEY, header={"jwk": jwk}), ROOT) == "token.proof"


def test_a085_and_r03_another_key() -> None:
    text = chain({})
    assert shown(proof(ROOT, HOLDERS[1]), ROOT) == "token.proof"
    assert shown(proof(text, HOLDERS[0]), text) == "token.proof"
    assert shown(proof(ROOT, OTHER), ROOT) == "token.proof"
    assert shown(proof(text, HOLDERS[1]), ROOT) == "token.proof"
    assert shown(proof(ROOT, HOLDERS[1]), ROOT, of=text) == "allow", "what `ath` must name is said by the caller"


@pytest.mark.parametrize(("off", "says"), [(-60, "allow"), (-61, "token.proof"), (5, "allow"), (6, "token.proof"), (61, "token.proof")])
def test_a101_iat(off: int, says: str) -> None:
    assert dpop(made(iat=NOW + off)) == says
    assert shown(proof(ROOT, KEY, iat=NOW + off), ROOT) == says


ODD: list[Any] = [..., None, "", 1, True, [], {}, "x|y", "a" * 129, -1, 1.5, "1800000000"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_members_of_another_type(odd: Any) -> None:
    for name in ("jti", "iat", "ath", "aud", "tool", "args"):
        assert shown(proof(ROOT, KEY, **{name: odd}), ROOT) == ("allow" if name == "jti" and odd == "1800000000" else "token.proof")
    for name in ("jti", "iat", "htm", "htu"):
        assert dpop(made(**{name: odd})) == ("allow" if name == "jti" and odd == "1800000000" else "token.proof")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"exp": NOW + 1}, "allow"), ({"exp": NOW - 4}, "allow"), ({"exp": NOW - 5}, "token.proof"), ({"exp": str(NOW + 9)}, "token.proof"), ({"exp": None}, "token.proof"),
        ({"exp": NOW + 9.0}, "token.proof"), ({"nbf": NOW}, "allow"), ({"nbf": NOW + 6}, "token.proof"), ({"nbf": True}, "token.proof"), ({"nbf": ""}, "token.proof"),
    ],
)  # fmt: skip
def test_a_request_proof_that_says_when_it_ends_is_not_taken_after(more: dict[str, Any], says: str) -> None:
    assert dpop(made(**more)) == says


def test_headers_and_kinds() -> None:
    for header in (
        {"kid": "k"},
        {"crit": []},
        {"typ": "dpop+JWT"},
        {"typ": "JWT"},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": 1},
        {"alg": "ES384"},
    ):
        assert dpop(made(header=header)) == "token.proof"
        assert shown(proof(ROOT, KEY, header=header), ROOT) == "token.proof"
    assert dpop(proof(ROOT, KEY)) == "token.proof", "a proof for a call is none for a request"
    assert shown(made(), ROOT) == "token.proof"
    assert shown(proof(ROOT, KEY, more=1), ROOT) == "token.proof"
    assert dpop(made(more=1)) == "allow", "RFC 9449 lets a request's proof say more"
    assert dpop(made(), method="GET") == "token.proof"
    assert dpop(made(htm="post")) == "token.proof"
    for text in (None, b"", "", "a.b.c", "x" * 5000, ROOT, 1):
        assert dpop(text) == "token.proof"


def test_a103_a104_what_the_token_names() -> None:
    bearer = token(claims())
    assert dpop(proof(bearer, KEY, typ="dpop+jwt"), of=bearer) == "token.proof"
    assert shown(proof(bearer, KEY), bearer) == "token.proof"
    certificate = root(cnf={"x5t#S256": digest(b"der")})
    assert shown(proof(certificate, KEY), certificate) == "token.proof"


def test_the_nonce() -> None:
    assert dpop(made(), nonces=["n1"]) == "nonce"
    assert dpop(made(nonce="n1"), nonces=["n1", "n2"]) == "allow"
    assert dpop(made(nonce="n3"), nonces=["n1"]) == "nonce"
    assert dpop(made(nonce=["n1"]), nonces=["n1"]) == "nonce"
    assert dpop(made(nonce="n1"), nonces=[]) == "nonce"
    assert dpop(made(ath="x"), nonces=["n1"]) == "token.proof", "no nonce for who proves nothing"


def test_a_certificate() -> None:
    found = folded(root(cnf={"x5t#S256": digest(b"der")}, mdp=...))
    assert isinstance(found, Delegation)
    verify_certificate(found, b"der")
    other = folded(ROOT)
    assert isinstance(other, Delegation)
    for delegation, certificate in ((found, b"other"), (found, None), (found, b""), (other, b"der")):
        with pytest.raises(TokenRefused):
            verify_certificate(delegation, certificate)


GOOD = proof(ROOT, KEY)


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from("AZaz09-_.~= \né"), st.sampled_from(["change", "drop", "insert", "cut"]))
def test_no_mutation_of_a_proof_is_taken(at: int, one: str, how: str) -> None:
    text = {
        "change": GOOD[:at] + one + GOOD[at + 1 :],
        "drop": GOOD[:at] + GOOD[at + 1 :],
        "insert": GOOD[:at] + one + GOOD[at:],
        "cut": GOOD[:at],
    }
    said = shown(text[how], ROOT)
    assert said == ("allow" if text[how] == GOOD else "token.proof")
