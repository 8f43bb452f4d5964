"""The verifier as a checklist: one table row per kind of token, one function that goes down the list.

What is not here yet has its place (the *delegated identity* issue):

| to come                    | where it goes                                                                          |
|----------------------------|----------------------------------------------------------------------------------------|
| token exchange, introspection | `guard/identity`: they end in a token that is verified here                          |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from guard.errors import TokenRefused
from guard.frozen import frozen
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.tokens.claims import read_access_token, read_transaction_token
from guard.tokens.jose import split, token_json
from guard.tokens.keys import KID, Key, KeySet
from guard.tokens.rules import IssuerRules

__all__ = ["KINDS", "IssuerRules", "Kind", "signed", "verified", "verify", "verify_signature"]

_HEADER = frozenset({"alg", "typ", "kid"})

MAX_HEADER = 1024

Json = dict[str, object]


@frozen
class Kind:
    """One kind of token. `header`: exactly these members. `key`: where the key comes from. `read`: who reads the claims."""

    typ: str
    header: frozenset[str]
    key: Callable[[Header, Json, Mapping[str, IssuerRules]], tuple[IssuerRules, Key | None]]
    read: Callable[[Json, IssuerRules, str, int], Delegation]


@frozen
class Header:
    """A header that passed its checks."""

    kind: Kind
    alg: str
    kid: str


def _issuers_key(header: Header, claims: Json, issuers: Mapping[str, IssuerRules]) -> tuple[IssuerRules, Key | None]:
    """By (issuer, kid): the exact `iss`, then the exact `kid` among that issuer's keys. Never a key of another issuer."""
    issuer = claims.get("iss")
    rules = issuers.get(issuer) if type(issuer) is str else None
    if rules is None or rules.url != issuer:
        raise TokenRefused(ReasonCode.TOKEN_ISSUER)
    if rules.algorithms is not None and not rules.admits(header.kind.typ, header.alg):
        return rules, None
    return rules, rules.keys.find(header.kid)


_ACCESS = Kind("at+jwt", _HEADER, _issuers_key, read_access_token)
_TRANSACTION = Kind("txntoken+jwt", _HEADER, _issuers_key, read_transaction_token)

# Exact and case-sensitive. RFC 9068 4 demands both spellings; RFC 7515 4.1.9 makes them equal for every typ without another slash.
KINDS: Mapping[str, Kind] = {
    "at+jwt": _ACCESS,
    "application/at+jwt": _ACCESS,
    "txntoken+jwt": _TRANSACTION,
    "application/txntoken+jwt": _TRANSACTION,
}


def verify(token: str, issuers: Mapping[str, IssuerRules], *, now: int) -> Delegation:
    """The verified content of `token`, or `TokenRefused` and nothing else. `issuers`: by their exact `iss`. `now`: epoch seconds.

    An unknown key, another algorithm and a bad signature are one answer: which keys exist is public, which part of a forgery was
    right is not to be learned here.
    """
    try:
        return verified(token, issuers, now=now)[0]
    except TokenRefused:
        raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither a permit nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.GUARD_ERROR)


def verified(token: str, issuers: Mapping[str, IssuerRules], *, now: int) -> tuple[Delegation, Json]:
    """`verify`, and the claims themselves: for the fold of a chain, which needs the root's `cnf.jwk` and `mdp`. May raise anything."""
    header, claims, rules = signed(token, issuers)
    return header.kind.read(claims, rules, header.kid, now), claims


def signed(token: str, issuers: Mapping[str, IssuerRules]) -> tuple[Header, Json, IssuerRules]:
    """Header and claims that the issuer the token names has signed; nothing of the claims is read but `iss`. May raise anything."""
    jws = split(token)
    header = _header(jws.header)
    claims = token_json(jws.payload)
    rules, key = header.kind.key(header, claims, issuers)
    if key is None or not key.verifies(header.alg, jws.signed, jws.signature):
        raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
    return header, claims, rules


@lru_cache(maxsize=128)  # an issuer's tokens share one header; a pure function of its bytes, and refusals are not kept
def _header(raw: bytes) -> Header:
    """The header's members in the order of the checks: only known names, each a word, then the exact `typ`."""
    if len(raw) > MAX_HEADER:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    members = token_json(raw)
    _members(members)
    typ = members.get("typ")
    kind = KINDS.get(typ) if type(typ) is str else None
    if kind is None:
        raise TokenRefused(ReasonCode.TOKEN_TYPE)
    if members.keys() != kind.header:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    return Header(kind, str(members["alg"]), str(members["kid"]))


def _members(header: Json) -> None:
    """RFC 8725bis: an allow list. `crit`, `jwk`, `jku`, `x5u`, `x5c`, `b64`, `zip`, `enc` are refused for being there at all."""
    kid = header.get("kid")
    if not header.keys() <= _HEADER or type(header.get("alg")) is not str:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    if "kid" in header and not (type(kid) is str and KID.fullmatch(kid)):
        raise TokenRefused(ReasonCode.TOKEN_HEADER)


def verify_signature(token: str, keys: KeySet) -> tuple[Json, bytes]:
    """The signature layer alone, for published vectors: header and payload bytes of a compact JWS that one of `keys` signed.

    Same shell, same keys, same one algorithm per key as `verify`; no `typ`, no claims. It decides nothing and guards nothing.
    """
    jws = split(token)
    header = token_json(jws.header)
    _members(header)
    kid = header.get("kid")
    key = keys.find(kid if type(kid) is str else None)
    if key is None or not key.verifies(str(header["alg"]), jws.signed, jws.signature):
        raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
    return header, jws.payload
