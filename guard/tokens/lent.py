"""Is a credential that an issuer made for one call what was asked for? Compared as far as its answer, and the token itself where it can be
read, allow. Nothing here verifies it: it is for somebody else, and who is lied to about it is that one.

| the answer                                                             | then    |
|------------------------------------------------------------------------|---------|
| `issued_token_type` is no access token and no JWT                      | refused |
| `token_type` is not Bearer                                             | refused: a body has no key to prove anything with |
| `expires_in` is beyond what was asked for                              | refused |
| neither `expires_in` nor an `exp` says when it ends                    | refused: a killed process could not say how long it lives on |
| `scope` names one that was not asked for                               | refused |
| another token came along (`refresh_token`)                             | refused: it would outlive the call |
| it is a JWT, and its `aud`, `scope`, `exp` say otherwise               | refused |
| it is a JWT bound to a key (`cnf`)                                     | refused: the same |
| it is the very token of the task                                       | refused: nothing was exchanged, and taking it back would end the task |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from guard.errors import TokenRefused
from guard.model import CredentialRequest, Issued
from guard.tokens.claims import SKEW
from guard.tokens.jose import MAX_TOKEN, split, token_json
from guard.tokens.text import is_name

__all__ = ["ACCESS_TOKEN", "GRANT", "JWT_TOKEN", "Read", "exceeds", "read"]

GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
JWT_TOKEN: Final = "urn:ietf:params:oauth:token-type:jwt"


class Read(NamedTuple):
    """What a token says of itself. `name`: its issuer and `jti`; "" where it says none. `ends`: its `exp`."""

    name: str
    ends: int | None
    claims: Mapping[str, object]


def read(token: str) -> Read | None:
    """The claims of a JWT, unverified; None for a text that is none."""
    try:
        claims = token_json(split(token).payload)
    except TokenRefused:
        return None
    issuer, jti, ends = claims.get("iss"), claims.get("jti"), claims.get("exp")
    named = isinstance(issuer, str) and isinstance(jti, str) and is_name(issuer) and is_name(jti)
    return Read(f"{issuer}/{jti}" if named else "", ends if type(ends) is int else None, claims)


def exceeds(asked: CredentialRequest, issued: Issued, *, now: int) -> str | None:
    """What makes `issued` other or more than what was asked; None where nothing does. Names, no values."""
    if not issued.token.isascii() or not issued.token.isprintable() or " " in issued.token or not 0 < len(issued.token) <= MAX_TOKEN:
        return "it is no token that can be sent in a header"
    if issued.token == asked.token:
        return "it is the token that was to be exchanged"
    if issued.kind not in (ACCESS_TOKEN, JWT_TOKEN):
        return "it is another type of token than an access token"
    if issued.scheme.lower() != "bearer":
        return "it is not a bearer token"
    if issued.more:
        return "another token came along with it"
    if issued.seconds is not None and not (type(issued.seconds) is int and 0 < issued.seconds <= asked.seconds):
        return f"it lives longer than the {asked.seconds} seconds that were asked for"
    if issued.scopes is not None and not issued.scopes <= asked.scopes:
        return "it has scopes that were not asked for"
    found = read(issued.token)
    if found is None:
        return None if issued.seconds is not None else "nothing says how long it lives"
    return _claims(asked, issued, found, now)


def _claims(asked: CredentialRequest, issued: Issued, found: Read, now: int) -> str | None:
    claims = found.claims
    if issued.seconds is None and found.ends is None:
        return "nothing says how long it lives"
    if "exp" in claims and (found.ends is None or found.ends > now + asked.seconds + SKEW):
        return f"its `exp` is later than the {asked.seconds} seconds that were asked for"
    audience = claims.get("aud", asked.resource)
    if audience not in (asked.resource, [asked.resource]):
        return "its `aud` is another resource than was asked for"
    scope = claims.get("scope", "")
    if not isinstance(scope, str) or not set(scope.split()) <= asked.scopes:
        return "its `scope` has more than was asked for"
    if "cnf" in claims:
        return "it is bound to a key that nobody here holds"
    return None
