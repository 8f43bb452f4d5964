"""`private_key_jwt` as a server sees it (RFC 7523 section 3, OpenID Connect Core section 9, draft-ietf-oauth-rfc7523bis). Pure.

| part      | is                                                                                                        |
|-----------|-----------------------------------------------------------------------------------------------------------|
| header    | `alg`, and perhaps `kid` and `typ` (`JWT` or `client-authentication+jwt`); nothing else                   |
| signature | by a key of this client, with that key's one algorithm                                                    |
| `iss`, `sub` | both the client                                                                                        |
| `aud`     | exactly the server's issuer, as the only one: an address could be said by another server's metadata       |
| `exp`     | at most five minutes ahead; `iat`, `nbf` not ahead                                                        |
| `jti`     | there, and good once                                                                                      |
"""

from __future__ import annotations

import re
from typing import Final

from guard.errors import TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_TIME, SKEW
from guard.tokens.jose import split, token_json
from guard.tokens.keys import KID, KeySet
from guard.tokens.text import is_name

__all__ = ["ASSERTION", "LONGEST", "named_client", "verify_assertion"]

ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST: Final = 300
"""Seconds an assertion may be good for."""

_MAX = 8192
_TYPS = ("JWT", "client-authentication+jwt")
_HEADER = frozenset({"alg", "typ", "kid"})
_JTI = re.compile(r"[!-~]{1,256}")


def named_client(text: str) -> str | None:
    """Whose it says it is, believed by nobody yet. None: it is no assertion."""
    try:
        name = token_json(split(text, most=_MAX).payload).get("sub")
    except TokenRefused:
        return None
    return name if isinstance(name, str) and is_name(name) else None


def verify_assertion(text: str, keys: KeySet, *, client: str, audience: str, now: int) -> str:
    """Its `jti`, which the caller takes as used. Raises `TokenRefused` and nothing else."""
    jws = split(text, most=_MAX)
    header, claims = token_json(jws.header), token_json(jws.payload)
    kid, alg = header.get("kid"), header.get("alg")
    if not header.keys() <= _HEADER or type(alg) is not str or ("kid" in header and not (type(kid) is str and KID.fullmatch(kid))):
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    if "typ" in header and header["typ"] not in _TYPS:
        raise TokenRefused(ReasonCode.TOKEN_TYPE)
    key = keys.find(kid if type(kid) is str else None)
    if key is None or not key.verifies(alg, jws.signed, jws.signature):
        raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
    if claims.get("iss") != client or claims.get("sub") != client:
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "`iss` and `sub` of an assertion are the client")
    if claims.get("aud") != audience and claims.get("aud") != [audience]:
        raise TokenRefused(ReasonCode.TOKEN_AUDIENCE)
    ends, jti = claims.get("exp"), claims.get("jti")
    if type(ends) is not int or not 0 <= ends <= MAX_TIME:
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the claim `exp` is missing or has the wrong type")
    if not ends > now - SKEW:
        raise TokenRefused(ReasonCode.TOKEN_EXPIRED)
    if not ends <= now + LONGEST + SKEW:
        raise TokenRefused(ReasonCode.TOKEN_LIFETIME)
    for name in ("iat", "nbf"):
        at = claims.get(name, 0)
        if type(at) is not int or not 0 <= at <= now + SKEW:
            raise TokenRefused(ReasonCode.TOKEN_NOT_YET)
    if type(jti) is not str or not _JTI.fullmatch(jti):
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the claim `jti` is missing or has the wrong type or characters")
    return jti
