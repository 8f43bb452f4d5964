"""Tokens as an attacker or a careless issuer would make them: any header, any bytes, any key. For tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.tokens import IssuerRules, KeySet, verify
from guard.tokens.jose import b64url_encode
from tests.canary import secret

ISS, AUD, NOW = "https://iam.acme.example", "refunds", 1_800_000_000
_ES = {256: ECAlgorithm(ECAlgorithm.SHA256), 384: ECAlgorithm(ECAlgorithm.SHA384)}
_RS = RSAAlgorithm(RSAAlgorithm.SHA256)
_ED = OKPAlgorithm()

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED = Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str, **more: object) -> dict[str, Any]:
    """The public half as a JWK."""
    public = key.public_key()
    algorithm: Any = _RS if isinstance(key, rsa.RSAPrivateKey) else _ED if isinstance(key, Ed25519PrivateKey) else _ES[256]
    found: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)
    found.pop("key_ops", None)
    return {**found, "kid": kid, **more}


def sign(key: Any, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return _RS.sign(signed, key)
    if isinstance(key, Ed25519PrivateKey):
        return _ED.sign(signed, key)
    return _ES[key.curve.key_size].sign(signed, key)


def keys(*given: dict[str, Any]) -> KeySet:
    return KeySet.from_jwks(json.dumps({"keys": list(given)}))


RULES = IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(KEY, "k1")))
ISSUERS = {ISS: RULES}
HEADER: dict[str, Any] = {"alg": "ES256", "typ": "at+jwt", "kid": "k1"}


def claims(**over: object) -> dict[str, Any]:
    """An ordinary access token for alice; `over` changes claims, `...` takes one away."""
    made: dict[str, Any] = {
        "iss": ISS,
        "aud": AUD,
        "sub": "alice",
        "client_id": "agent-7",
        "jti": "t-1",
        "txn": "task-1",
        "iat": NOW - 10,
        "exp": NOW + 600,
        "scope": "invoices.read",
        "act": {"sub": "payer"},
    }
    made.update(over)
    return {name: value for name, value in made.items() if value is not ...}


def token(
    payload: bytes | Mapping[str, object] | None = None,
    *,
    key: Any = KEY,
    header: bytes | Mapping[str, object] | None = None,
    **more: object,
) -> str:
    """A compact JWS. `payload`, `header`: data, or the bytes themselves. `more` changes header members, `...` takes one away."""
    if not isinstance(header, bytes):
        made = {**(HEADER if header is None else dict(header)), **more}
        header = json.dumps({name: value for name, value in made.items() if value is not ...}).encode()
    if not isinstance(payload, bytes):
        payload = json.dumps(claims() if payload is None else dict(payload)).encode("utf-8")
    signed = f"{b64url_encode(header)}.{b64url_encode(payload)}"
    made = f"{signed}.{b64url_encode(sign(key, signed.encode()))}"
    secret(made, "a forged token")
    return made


def verdict(text: Any, *, now: int = NOW, issuers: Mapping[str, IssuerRules] = ISSUERS) -> str:
    """`allow`, or the code of the refusal. Any other exception is the test's failure."""
    try:
        found = verify(text, issuers, now=now)
    except TokenRefused as refused:
        assert "alice" not in str(refused), "a refusal quotes nothing of the token"
        assert refused.__cause__ is None
        assert refused.__context__ is None, "no exception that holds the token's text hangs on it"
        return str(refused.code)
    assert isinstance(found, Delegation)
    return "allow"
