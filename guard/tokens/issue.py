"""What a transaction token says that is made of an access token (draft-ietf-oauth-transaction-tokens, RFC 8693). Pure: nothing is signed here.

| claim                                       | is                                                                                   |
|---------------------------------------------|--------------------------------------------------------------------------------------|
| `iss`, `aud`                                | the service, the trust domain                                                        |
| `txn`                                       | the subject token's; where it names none, derived from its (issuer, `jti`)           |
| `jti`                                       | the subject token's, `^`, chance: it names where it comes from                       |
| `iat`, `exp`                                | now; the earlier one of the subject token's `exp` and now + `ttl`                    |
| `sub`, `client_id`, `act`, `person`, `sid`, `owner`, `cnf`, `mdp` | the subject token's; `act` stands where it had none: its client acts |
| `scope`, `authorization_details`            | the subject token's, or those that were asked for                                    |
| `req_wl`                                    | the client that asked, which was authenticated                                       |
| `tctx`                                      | `subject_iss` and `subject_iat`: whose token it was made of, and how old that is     |

Nothing that the client says of the request (`request_context`, `request_details`) is in it: whoever reads the token takes what stands there for
what the service knows. So are roles and groups left out, and all else that nobody here can compare.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from guard.errors import TokenRefused
from guard.frozen import frozen
from guard.model import NO_SCOPE, Delegation
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_ACTORS, read_transaction_token
from guard.tokens.details import read_details
from guard.tokens.jose import NotStrict, b64url_encode, strict_json
from guard.tokens.keys import KeySet
from guard.tokens.narrow import reissued
from guard.tokens.rules import MADE_OF, IssuerRules
from guard.tokens.text import MAX_TEXT

__all__ = ["MAX_TTL", "NO_SCOPE", "Asked", "Composed", "Service", "compose", "deriver"]

MAX_TTL: Final = 3600

_NO_KEYS: Final = KeySet({})


@frozen
class Service:
    """Who issues. `issuer`: its `iss`; `audience`: the trust domain; `ttl`: seconds; `scopes`: the policy's map, None: not known here."""

    issuer: str
    audience: str
    ttl: int
    scopes: Mapping[str, tuple[str, ...]] | None = None


@frozen
class Asked:
    """What a request asks for; None: what the subject token has. `workload`: who asks. `actor`: who acts from now on, None: who acted before."""

    workload: str
    actor: str | None = None
    scopes: frozenset[str] | None = None
    details: Sequence[object] | None = None


@frozen
class Composed:
    """A token before its signature, and what it will mean to whoever verifies it."""

    payload: bytes
    delegation: Delegation


def deriver(key: bytes) -> Callable[[str, str], str]:
    """(issuer, jti) -> the name of the task: 22 characters that nobody can tell without the key, the same for ever, and others for every other token."""
    if len(key) < 32:
        raise ValueError("the key that names tasks has at least 32 bytes")

    def derive(issuer: str, jti: str) -> str:
        words = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (b"guardtrail txn v1", issuer.encode(), jti.encode()))
        return b64url_encode(hmac.digest(key, words, "sha256")[:16])

    return derive


def compose(
    parent: Delegation, claims: Mapping[str, object], asked: Asked, service: Service, *, chance: str, kid: str, now: int
) -> Composed:
    """The token for `asked`, compared with `parent` as whoever verifies it will read it. Raises `TokenRefused` and nothing else that is ours.

    `claims`: the verified claims of the subject token. `chance`: unguessable characters for the `jti`. `kid`: of the key that will sign.
    """
    if not parent.expires_at > now:  # within the skew it still counts where it is, but nothing is made of it
        raise TokenRefused(ReasonCode.TOKEN_EXPIRED)
    jti = f"{parent.credential.jti}{MADE_OF}{chance}"
    if len(jti) > MAX_TEXT:
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the claim `jti` is too long to be carried")
    if asked.details is not None:
        read_details({"authorization_details": asked.details})
    actors = _actors(parent, asked.actor)
    if actors != parent.actors and not parent.hands_to(actors[-1]):
        # Attack A074: where the subject token says who may act for its subject, nobody else does. Where it says nothing, nobody does either
        # but the clients of which the service's operator has said so.
        raise TokenRefused(ReasonCode.TOKEN_ACTORS, "`may_act` names another than the client that asks")
    scopes = parent.scopes if asked.scopes is None else asked.scopes
    made: dict[str, object] = {
        "iss": service.issuer,
        "aud": service.audience,
        "iat": now,
        "exp": min(parent.expires_at, now + min(service.ttl, MAX_TTL)),
        "jti": jti,
        "txn": parent.txn,
        "sub": parent.origin,
        "client_id": parent.workload,
        "req_wl": asked.workload,
        "scope": " ".join(sorted(scopes)) or NO_SCOPE,
        "act": _nested(actors),
        "tctx": {"subject_iss": parent.issuer, "subject_iat": parent.issued_at},
    }
    made |= {name: value for name, value in (("person", parent.person), ("sid", parent.session)) if value is not None}
    if parent.may_act is not None and actors == parent.actors:  # it was not taken over yet, and goes to the same one
        made["may_act"] = {"sub": parent.may_act} if parent.may_act else {}
    made |= _verbatim(parent, claims)
    details = claims.get("authorization_details") if asked.details is None else asked.details
    if details is not None:
        made["authorization_details"] = details
    child, payload = _read(made, parent, service, kid, now)
    actor = None if actors == parent.actors else asked.actor
    # The word that stands for "no scope" is none of the child's scopes, as it is none of anybody's.
    compared = child if parent.scopes else _without(child)
    why = reissued(parent, compared, given={"issuer": service.issuer, "audience": service.audience}, actor=actor, scopes=service.scopes)
    if why is not None:
        raise TokenRefused(ReasonCode.DELEGATION_WIDENED, why)
    return Composed(payload, child)


def _read(made: Mapping[str, object], parent: Delegation, service: Service, kid: str, now: int) -> tuple[Delegation, bytes]:
    """As the strict verifier of a guard reads it: from its bytes."""
    payload = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        read = strict_json(payload)
    except NotStrict:
        read = None
    if read is None:
        raise TokenRefused(ReasonCode.TOKEN_TOO_LARGE, "the token would have more members or levels than a token may have")
    rules = IssuerRules(service.issuer, parent.tenant, service.audience, MAX_TTL, _NO_KEYS)
    return read_transaction_token(read, rules, kid, now), payload


def _verbatim(parent: Delegation, claims: Mapping[str, object]) -> dict[str, object]:
    """What a `Delegation` does not hold as it stands in a token. Only where it was looked at: an `owner` of a person is nobody's word."""
    kept: dict[str, object] = {}
    if parent.origin_kind == "workload":
        kept["owner"] = claims["owner"]
    cnf, depth = claims.get("cnf"), claims.get("mdp")
    if parent.bound:
        kept["cnf"] = cnf
        if isinstance(cnf, Mapping) and "jwk" in cnf and type(depth) is int and depth > 0:  # how deep it may be handed on offline
            kept["mdp"] = depth
    return kept


def _without(child: Delegation) -> Delegation:
    return replace(child, scopes=child.scopes - {NO_SCOPE})


def _actors(parent: Delegation, actor: str | None) -> tuple[str, ...]:
    """Who acts when somebody new does: after those before, or alone where a token was merely held by its client (RFC 9068)."""
    if actor is None or actor == parent.actor:
        return parent.actors
    if len(parent.actors) >= MAX_ACTORS:
        raise TokenRefused(ReasonCode.TOKEN_ACTORS, f"`act`: deeper than {MAX_ACTORS}")
    return (actor,) if parent.actors == (parent.workload,) else (*parent.actors, actor)


def _nested(actors: Sequence[str]) -> dict[str, object]:
    """RFC 8693 4.1: who acts now is outermost."""
    act: dict[str, object] = {"sub": actors[0]}
    for name in actors[1:]:
        act = {"sub": name, "act": act}
    return act
