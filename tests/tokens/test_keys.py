"""An issuer's key set: which sets load, which keys of them count, and what each key then verifies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from guard.tokens import IssuerRules, KeySet, KeysRefused, thumbprint
from guard.tokens.jose import b64url_decode, b64url_encode
from tests.tokens.forge import AUD, ED, ISS, KEY, OTHER, P384, RSA, jwk, token, verdict

P521 = ec.generate_private_key(ec.SECP521R1())
K1, R1, E1, P1 = jwk(KEY, "k1"), jwk(RSA, "r1"), jwk(ED, "e1"), jwk(P384, "p1")
SMALL = jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "w")  # noqa: S505 - the attack
CUBE = jwk(rsa.generate_private_key(public_exponent=3, key_size=2048), "w")
K256: dict[str, Any] = {"kty": "EC", "crv": "secp256k1", "kid": "w", "x": b64url_encode(b"\1" * 32), "y": b64url_encode(b"\2" * 32)}
ED448 = OKPAlgorithm().to_jwk(Ed448PrivateKey.generate().public_key(), as_dict=True) | {"kid": "w2"}
OCT = {"kty": "oct", "kid": "s", "k": b64url_encode(b"a secret of thirty-two characters")}


def private(key: dict[str, Any]) -> dict[str, Any]:
    return key | {"d": "AAAA"}


def changed(key: dict[str, Any], **over: Any) -> dict[str, Any]:
    return {name: value for name, value in (key | over).items() if value is not ...}


def longer(key: dict[str, Any], name: str) -> dict[str, Any]:
    """The same number with a zero byte before it."""
    return key | {name: b64url_encode(b"\0" + b64url_decode(key[name].encode()))}


def bit(key: dict[str, Any], name: str) -> dict[str, Any]:
    """The last bit of the number is another."""
    raw = b64url_decode(key[name].encode())
    return key | {name: b64url_encode(raw[:-1] + bytes([raw[-1] ^ 1]))}


SETS: list[tuple[str, list[Any], list[str | None] | None]] = [
    # name, keys of the set, kids that count (None: the whole set is refused)
    ("one of each", [K1, R1, E1, P1], ["k1", "r1", "e1", "p1"]),
    ("one without a kid that stands alone", [changed(K1, kid=...)], [None]),
    ("two, one without a kid", [changed(K1, kid=...), R1], None),
    ("a kid twice", [K1, jwk(OTHER, "k1")], None),
    ("a kid twice, of two kinds", [K1, jwk(RSA, "k1")], None),
    ("a kid twice, once for encryption", [K1, jwk(OTHER, "k1", use="enc")], None),
    ("the same key twice", [K1, K1], None),
    ("the same key under two kids", [K1, changed(K1, kid="k2")], ["k1", "k2"]),
    ("a kid that is a number", [changed(K1, kid=1)], None),
    ("a kid with a path", [changed(K1, kid="../k1")], ["../k1"]),
    ("a kid with a blank", [changed(K1, kid="k 1")], None),
    ("a kid with a line end", [changed(K1, kid="k1\n")], None),
    ("a kid too long", [changed(K1, kid="k" * 129)], None),
    ("symmetric", [OCT], None),
    ("symmetric beside a good one", [K1, OCT], None),
    ("symmetric, left out by its use", [K1, OCT | {"use": "enc"}], None),
    ("private", [private(K1)], None),
    ("private beside a good one", [K1, private(R1)], None),
    ("private of a kind we do not take", [K1, private(ED448)], None),
    ("a private member that is empty", [K1 | {"d": ""}], None),
    ("RSA of 1024 bits", [SMALL], None),
    ("RSA of 1024 bits beside a good one", [K1, SMALL], None),
    ("RSA of 1024 bits for encryption", [K1, SMALL | {"use": "enc"}], ["k1"]),
    ("RSA with exponent 3", [CUBE], None),
    ("RSA with an even exponent", [changed(R1, e=b64url_encode((65538).to_bytes(3, "big")))], None),
    ("RSA with a zero before", [longer(R1, "n")], None),
    ("RSA with a zero before the exponent", [longer(R1, "e")], None),
    ("RSA with an even modulus", [bit(R1, "n")], None),
    ("RSA without modulus", [changed(R1, n=...)], None),
    ("RSA with a modulus that is a number", [changed(R1, n=5)], None),
    ("RSA with padding", [changed(R1, e="AQAB=")], None),
    ("RSA of 16384 bits", [changed(R1, n=b64url_encode(b"\xff" * 2048))], None),
    ("a point off the curve", [bit(K1, "y")], None),
    ("a coordinate too short", [changed(K1, x=b64url_encode(b64url_decode(K1["x"].encode())[1:]))], None),
    ("a coordinate too long", [longer(K1, "x")], None),
    ("the point at infinity", [changed(K1, x=b64url_encode(bytes(32)), y=b64url_encode(bytes(32)))], None),
    ("a coordinate missing", [changed(K1, y=...)], None),
    ("a coordinate in standard base64", [changed(K1, x="+" * 43)], None),
    ("a coordinate written otherwise", [changed(K1, x=K1["x"][:-1] + chr(ord(K1["x"][-1]) + 1))], None),
    ("coordinates of another curve", [changed(K1, crv="P-384")], None),
    ("Ed25519 of 31 bytes", [changed(E1, x=b64url_encode(b64url_decode(E1["x"].encode())[1:]))], None),
    ("alg of another curve", [K1 | {"alg": "ES384"}], None),
    ("alg of another kind", [K1 | {"alg": "RS256"}], None),
    ("alg its own", [K1 | {"alg": "ES256"}, R1 | {"alg": "PS512"}, E1 | {"alg": "EdDSA"}], ["k1", "r1", "e1"]),
    ("alg of RFC 9864", [E1 | {"alg": "Ed25519"}], ["e1"]),
    ("alg we do not take, beside a good one", [K1, R1 | {"alg": "RSA-OAEP"}], ["k1"]),
    ("alg of a MAC on a public key", [K1, R1 | {"alg": "HS256"}], ["k1"]),
    ("alg that is no word", [K1 | {"alg": ["ES256"]}], None),
    ("for encryption, beside a good one", [K1, R1 | {"use": "enc"}], ["k1"]),
    ("for encryption only", [R1 | {"use": "enc"}], None),
    ("for something else", [K1, R1 | {"use": "jwt-svid"}], ["k1"]),
    ("for signing only", [K1, R1 | {"key_ops": ["sign"]}], ["k1"]),
    ("for verifying", [K1 | {"key_ops": ["verify"]}], ["k1"]),
    ("for nothing", [K1, R1 | {"key_ops": []}], ["k1"]),
    ("key_ops that is a word", [K1 | {"key_ops": "verify"}], None),
    ("key_ops of numbers", [K1 | {"key_ops": [1]}], None),
    ("a curve we do not take, beside a good one", [K1, K256, ED448], ["k1"]),
    ("a kind nobody knows, beside a good one", [K1, {"kty": "AKP", "kid": "q"}], ["k1"]),
    ("only what we do not take", [K256], None),
    ("without kty", [changed(K1, kty=...)], None),
    ("kty in another case", [changed(K1, kty="ec")], None),
    ("a member we do not know", [K1 | {"x5c": ["MIIB"], "iat": 1}], ["k1"]),
    ("no keys", [], None),
    ("a text for a key", [K1, "k2"], None),
    ("null for a key", [None], None),
    ("64 keys", [changed(K1, kid=f"k{n}") for n in range(64)], [f"k{n}" for n in range(64)]),
    ("65 keys", [changed(K1, kid=f"k{n}") for n in range(65)], None),
]  # fmt: skip

# The order divides the cofactor: multiples of such a point are at most eight points, and a signature can be guessed for any message.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p, p + 1 and so on: 0, 1 written otherwise
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def load(*entries: Any) -> KeySet:
    return KeySet.from_jwks(json.dumps({"keys": list(entries)}))


@pytest.mark.parametrize("row", [pytest.param(row[1:], id=row[0]) for row in SETS])
def test_set(row: tuple[list[Any], list[str | None] | None]) -> None:
    entries, kids = row
    if kids is None:
        with pytest.raises(KeysRefused) as caught:
            load(*entries)
        assert caught.value.code == "config.keys"
        assert caught.value.__context__ is None
        for entry in entries:
            for name in ("n", "x", "y", "k"):
                value = entry.get(name) if isinstance(entry, dict) else None
                assert not (isinstance(value, str) and len(value) > 8 and value in str(caught.value)), "no key material in a text"
    else:
        assert [key.kid for key in load(*entries)] == kids


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_under_which_anybody_signs(point: str) -> None:
    with pytest.raises(KeysRefused, match="not a valid OKP public key"):
        load({"kty": "OKP", "crv": "Ed25519", "kid": "e1", "x": b64url_encode(bytes.fromhex(point))})


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"keys": null}',
        '{"keys": {}}',
        '{"keys": "x"}',
        '{"keys": [{}]}',
        '{"keys": [[]]}',
        '{"keys": []',
        json.dumps(K1),  # a bare key is no set
        json.dumps({"Keys": [K1]}),
        '{"keys": [], "keys": [' + json.dumps(K1) + "]}",
        '{"keys": [' + json.dumps(K1)[:-1] + ', "kid": "k2"}]}',
        '{"keys": [' + json.dumps(K1)[:-1] + ', "note": NaN}]}',
        "\ufeff" + json.dumps({"keys": [K1]}),
        '{"keys": [' + "[" * 10_000 + "]" * 10_000 + "]}",
        json.dumps({"keys": [K1], "note": "x" * 600_000}),
        json.dumps({"keys": [K1 | {"note": "\ud800"}]}),
    ],
    ids=range(21),
)
def test_a_file_that_is_no_key_set(text: str) -> None:
    for given in (text, text.encode("utf-8", "surrogatepass")):
        with pytest.raises(KeysRefused):
            KeySet.from_jwks(given)


def test_utf16_is_no_key_set() -> None:
    with pytest.raises(KeysRefused):
        KeySet.from_jwks(json.dumps({"keys": [K1]}).encode("utf-16"))


def signed(key: Any, alg: str) -> str:
    if alg == "ES512":  # `forge` has no use for it
        head = b64url_encode(json.dumps({"alg": alg, "typ": "at+jwt", "kid": "k"}).encode())
        text = f"{head}.{token().split('.')[1]}"
        return f"{text}.{b64url_encode(ECAlgorithm(ECAlgorithm.SHA512).sign(text.encode(), key))}"
    return token(key=key, alg=alg, kid="k")


@pytest.mark.parametrize(
    ("key", "published", "alg", "code"),
    [
        (KEY, None, "ES256", "allow"),
        (P384, None, "ES384", "allow"),
        (P521, None, "ES512", "allow"),
        (RSA, None, "RS256", "allow"),
        (ED, None, "EdDSA", "allow"),
        (ED, None, "Ed25519", "allow"),
        (ED, "EdDSA", "EdDSA", "allow"),
        (ED, "Ed25519", "Ed25519", "allow"),
        (ED, "Ed25519", "EdDSA", "token.signature"),  # who publishes one spelling signs with it
        (ED, "EdDSA", "Ed25519", "token.signature"),
        (RSA, "RS256", "RS256", "allow"),
        (RSA, "RS512", "RS256", "token.signature"),
        (RSA, "PS256", "RS256", "token.signature"),
        (KEY, "ES256", "ES256", "allow"),
    ],
    ids=lambda given: given if isinstance(given, str) else "-" if given is None else type(given).__name__.rpartition("_")[0],
)
def test_one_key_one_algorithm(key: Any, published: str | None, alg: str, code: str) -> None:
    entry = jwk(key, "k") if published is None else jwk(key, "k", alg=published)
    rules = IssuerRules(ISS, "acme", AUD, 3600, load(entry))
    assert verdict(signed(key, alg), issuers={ISS: rules}) == code


def test_a_key_without_kid_is_for_no_token_of_ours() -> None:
    """Every kind of token demands a `kid`; trying the only key there is would be trying keys."""
    rules = IssuerRules(ISS, "acme", AUD, 3600, load(changed(K1, kid=...)))
    assert verdict(token(), issuers={ISS: rules}) == "token.signature"
    assert verdict(token(kid=...), issuers={ISS: rules}) == "token.header"


def test_thumbprint_of_rfc_7638() -> None:
    """Section 3.1, and RFC 8037 A.3."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
        "-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08q"
        "NLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    assert (
        thumbprint({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
        == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )
    ed = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert thumbprint(ed) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert next(iter(load(ed | {"kid": "e"}))).thumbprint == thumbprint(ed)


@pytest.mark.parametrize(
    "key", [{}, {"kty": "oct", "k": "AA"}, {"kty": "EC", "crv": "P-256", "x": "AA"}, {"kty": 1}, {"kty": "RSA", "n": 1, "e": "AQAB"}]
)
def test_no_thumbprint_of_half_a_key(key: dict[str, Any]) -> None:
    with pytest.raises(KeysRefused):
        thumbprint(key)


def test_a_key_shows_nothing_of_itself() -> None:
    shown = repr(load(K1)) + repr(list(load(K1)))
    assert K1["x"] not in shown


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"x" * 63, b"x" * 65, b"x" * 256])
def test_verifies_never_raises(signature: bytes) -> None:
    for key in load(K1, R1, E1, P1):
        for alg in ("ES256", "RS256", "EdDSA", "none", "", "HS256"):
            assert key.verifies(alg, b"x", signature) is False
