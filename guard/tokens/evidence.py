"""What a workload shows of itself, verified: `Workload`. And the checks that all such evidence shares.

Evidence says which software this is. It is never a delegation: nobody's task, origin or grant is read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from guard.errors import TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_TIME, SKEW
from guard.tokens.jose import Jws, split, token_json
from guard.tokens.keys import KID

__all__ = ["Workload", "checked", "for_us", "header", "times"]

MAX_HEADER = 1024

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Workload:
    """One proven workload. `id`: its SPIFFE id, or the `sub` of its OIDC token. `issuer`: the trust domain, or the exact `iss`; an `id`
    means something only together with it. `kid`: the key that vouches. `expires_at`: epoch seconds."""

    kind: Literal["jwt-svid", "oidc"]
    id: str
    issuer: str
    kid: str
    expires_at: int

    def live(self, now: int) -> bool:
        """Whether the evidence still counts."""
        return self.expires_at > now - SKEW


def checked(token: str, read: Callable[[Jws, Json], Workload]) -> Workload:
    """`read` of the strict shell's segments and claims; `TokenRefused` and nothing else comes out."""
    try:
        jws = split(token)
        return read(jws, token_json(jws.payload))
    except TokenRefused:
        raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither a permit nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.GUARD_ERROR)


def header(raw: bytes, *, allowed: frozenset[str], typs: frozenset[str | None], algorithms: frozenset[str]) -> tuple[str, str]:
    """(alg, kid) of a header with only `allowed` members. `typs`: with None where `typ` may be missing. `kid` must be there: which key
    it is must not be tried out."""
    if len(raw) > MAX_HEADER:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    members = token_json(raw)
    alg, kid = members.get("alg"), members.get("kid")
    if not members.keys() <= allowed or type(alg) is not str or type(kid) is not str or not KID.fullmatch(kid):
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    typ = members.get("typ")
    if ("typ" in members and type(typ) is not str) or typ not in typs:
        raise TokenRefused(ReasonCode.TOKEN_TYPE)
    if alg not in algorithms:
        raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
    return alg, kid


def times(claims: Json, *, now: int, max_ttl: int, issued: bool) -> int:
    """`exp`, after RFC 7519 4.1.4 to 4.1.6 with integers only. `issued`: `iat` must be there. Without it the life that is left is bounded:
    evidence is a bearer text, and the shorter it lives the less a copy is worth."""
    expires_at = _time(claims, "exp")
    issued_at = _time(claims, "iat") if issued or "iat" in claims else None
    if issued_at is not None and not 0 < expires_at - issued_at <= max_ttl:
        raise TokenRefused(ReasonCode.TOKEN_LIFETIME)
    # Said as what must hold, so that a clock that is no number lets nothing through.
    if not expires_at > now - SKEW:
        raise TokenRefused(ReasonCode.TOKEN_EXPIRED)
    if not expires_at <= now + max_ttl + SKEW:
        raise TokenRefused(ReasonCode.TOKEN_LIFETIME)
    if issued_at is not None and not issued_at <= now + SKEW:
        raise TokenRefused(ReasonCode.TOKEN_NOT_YET)
    if "nbf" in claims and not _time(claims, "nbf") <= now + SKEW:
        raise TokenRefused(ReasonCode.TOKEN_NOT_YET)
    return expires_at


def for_us(claims: Json, audience: str) -> None:
    """Exactly our audience and no other: bearer evidence good at two places can be carried from one to the other (JWT-SVID 7.1)."""
    found = claims.get("aud")
    if type(found) is list and len(found) == 1:
        found = found[0]
    if type(found) is not str or found != audience:
        raise TokenRefused(ReasonCode.TOKEN_AUDIENCE)


def _time(claims: Json, name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_TIME:  # `type is`: True is an int to isinstance
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, f"the claim `{name}` is missing or has the wrong type")
    return value
