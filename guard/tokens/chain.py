"""What is presented: one token, or a chain `root~hop~hop` that its holders narrowed offline. Folds hop by hop into one `Delegation`.

A hop (`guard-att+jwt`) is signed with the key its parent names in `cnf.jwk`; its header is `alg, typ` and nothing else, so no hop can say
by which key it is to be verified. Claims, all required, no other allowed:

| claim                   | must be                                                                                   | else                 |
|-------------------------|-------------------------------------------------------------------------------------------|----------------------|
| `par`                   | base64url SHA-256 of the exact text of the token before it                                | `token.chain`        |
| `dep`                   | the parent's and one more (the root's is 0)                                               | `token.chain`        |
| `mdp`                   | at least `dep`, at most the parent's                                                      | `token.chain`        |
| `iat`, `exp`            | now, with 5 s of skew; `exp` at most the parent's                                         | `token.*`, `delegation.widened` |
| `jti`                   | 1 to 64 of `A-Z a-z 0-9 . _ -`                                                            | `token.claims`       |
| `aud`                   | the root's                                                                                | `delegation.widened` |
| `act: {sub}`            | one new actor; of the first hop the one the root names in `may_act`, where it has that     | `token.actors`, `delegation.widened` |
| `cnf: {jwk}`            | the key of the new holder, one that is not in the chain yet                               | `token.proof`, `token.chain` |
| `authorization_details` | as `narrow.py` says                                                                       | `delegation.widened` |

`iss`, `sub`, `txn`, `scope`, `sid` are the root's and cannot be said again. The root allows hops by its claim `mdp`; without it, none. What the
policy's `scopes:` maps cannot be handed on offline: a hop names tools. A hop's actor is the word of its parent's holder, unproven.

A chain's credential is the path of its `jti`s, `7Qm2~a1~b7`: a record of the leaf names the whole lineage, and a holder, who chooses the
`jti` of the hops it makes, cannot name the credential of somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

from guard.errors import TokenRefused
from guard.model import Credential, Delegation
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_ACTORS, MAX_TIME, SKEW, confirmed_key
from guard.tokens.details import read_details
from guard.tokens.jose import b64url_encode, split, token_json
from guard.tokens.keys import Key
from guard.tokens.narrow import exceeds
from guard.tokens.rules import HOP, MAX_CHAIN, MAX_LINKS, IssuerRules
from guard.tokens.text import is_name
from guard.tokens.verify import MAX_HEADER, verified, verify

__all__ = ["MAX_CHAIN", "link", "verify_presented"]

_CLAIMS: Final = frozenset({"par", "dep", "mdp", "iat", "exp", "jti", "aud", "act", "cnf", "authorization_details"})
_JTI: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_delegation: Any = Delegation.__new__
_credential: Any = Credential.__new__

Json = Mapping[str, object]


class _Link(NamedTuple):
    """One token of the chain, verified. `key`: its holder's, None where the token does not carry it. `dep`, `mdp`: how deep it is and may go."""

    delegation: Delegation
    text: str
    key: Key | None
    dep: int
    mdp: int


def link(text: str) -> str:
    """What a hop says of its parent: base64url SHA-256 of its exact text."""
    return b64url_encode(sha256(text.encode("ascii")).digest())


def verify_presented(text: str, issuers: Mapping[str, IssuerRules], *, now: int) -> Delegation:
    """The verified content of a token or a chain, or `TokenRefused` and nothing else. `now`: epoch seconds."""
    if type(text) is not str or "~" not in text:
        return verify(text, issuers, now=now)
    try:
        return _fold(text, issuers, now)
    except TokenRefused:
        raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither a permit nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.GUARD_ERROR)


def _fold(text: str, issuers: Mapping[str, IssuerRules], now: int) -> Delegation:
    if len(text) > MAX_CHAIN:
        raise TokenRefused(ReasonCode.TOKEN_TOO_LARGE)
    if not text.isascii():
        raise TokenRefused(ReasonCode.TOKEN_MALFORMED)
    root, *hops = text.split("~")
    if len(hops) >= MAX_LINKS:
        _apart(f"has more than {MAX_LINKS} tokens")
    found, claims = verified(root, issuers, now=now)
    if "~" in found.credential.jti:
        _apart("begins with a token whose `jti` could be a path in a chain")
    mdp = claims.get("mdp", 0)
    if type(mdp) is not int or mdp < 1:
        _apart("begins with a token that allows none: its `mdp` is not above 0")
    cnf = claims.get("cnf")
    key = confirmed_key(cnf["jwk"]) if isinstance(cnf, dict) and "jwk" in cnf else None
    above = _Link(found, root, key, 0, mdp)
    keys = {found.credential.thumbprint}
    before: list[Delegation] = []
    for n, hop in enumerate(hops, 1):
        before.append(above.delegation)
        above = _hop(above, hop, now, tuple(before) if n == len(hops) else ())
        if above.delegation.credential.thumbprint in keys:  # R12; and a holder may not hide behind a second name for its own key
            _apart("hands over to a key that is in it already")
        keys.add(above.delegation.credential.thumbprint)
    return above.delegation


def _hop(above: _Link, text: str, now: int, before: tuple[Delegation, ...]) -> _Link:
    """Verify one hop with its parent's key and fold it in. The order of the checks is that of `verify.py`: form, signature, claims.

    `before`: of the last hop, all before it.
    """
    jws = split(text)
    alg = _header(jws.header)
    if above.key is None:
        _apart("goes on from a token that does not carry its holder's key (`cnf.jwk`)")
    if not above.key.verifies(alg, jws.signed, jws.signature):
        raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
    claims = token_json(jws.payload)
    if claims.keys() != _CLAIMS:
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "a hop has exactly the claims " + ", ".join(sorted(_CLAIMS)))
    if claims["par"] != link(above.text):
        _apart("has a hop whose parent is another token")
    dep, mdp = claims["dep"], claims["mdp"]
    if type(dep) is not int or type(mdp) is not int or dep != above.dep + 1 or not dep <= mdp <= above.mdp:
        _apart("is deeper than it may be, or skips a depth")
    key = _confirmed(claims)
    child = _child(above.delegation, claims, key, now, before)
    wider = exceeds(above.delegation, child)
    if wider is not None:
        raise TokenRefused(ReasonCode.DELEGATION_WIDENED, f"hop {len(child.actors)} ({child.actor}) is wider than its parent: {wider}")
    return _Link(child, text, key, dep, mdp)


@lru_cache(maxsize=16)
def _header(raw: bytes) -> str:
    if len(raw) > MAX_HEADER:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    members = token_json(raw)
    if members.get("typ") != HOP:
        raise TokenRefused(ReasonCode.TOKEN_TYPE)
    if members.keys() != {"alg", "typ"} or type(members["alg"]) is not str:
        raise TokenRefused(ReasonCode.TOKEN_HEADER)
    return str(members["alg"])


def _confirmed(claims: Json) -> Key:
    cnf = claims["cnf"]
    if type(cnf) is not dict or cnf.keys() != {"jwk"}:
        raise TokenRefused(ReasonCode.TOKEN_PROOF, "`cnf` of a hop must have exactly one member: `jwk`")
    return confirmed_key(cnf["jwk"])


def _child(parent: Delegation, claims: Json, key: Key, now: int, before: tuple[Delegation, ...]) -> Delegation:
    """What the hop says, on top of what is the root's."""
    issued_at, expires_at = _times(claims, now)
    audience = claims["aud"]
    if type(audience) is not str or audience != parent.audience:
        raise TokenRefused(ReasonCode.DELEGATION_WIDENED, "a hop is for another audience than its root")
    jti = claims["jti"]
    if type(jti) is not str or not _JTI.fullmatch(jti):
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the `jti` of a hop is 1 to 64 of A-Z a-z 0-9 . _ -")
    if not isinstance(claims["authorization_details"], list):
        raise TokenRefused(ReasonCode.TOKEN_DETAILS)
    details = read_details(claims, parent.grants)
    said = details.intent is not None
    child: Delegation = _delegation(
        Delegation,
        kind=HOP,
        tenant=parent.tenant,
        issuer=parent.issuer,
        txn=parent.txn,
        credential=_credential(
            Credential, parent.issuer, f"{parent.credential.jti}~{jti}", parent.credential.thumbprint or "", key.thumbprint
        ),
        origin=parent.origin,
        origin_kind=parent.origin_kind,
        actors=(*parent.actors, _actor(claims, parent)),
        issued_at=issued_at,
        expires_at=expires_at,
        audience=parent.audience,
        intent=details.intent if said else parent.intent,
        params=details.params if said else parent.params,
        grants=details.grants,
        person=parent.person,
        session=parent.session,
        local=parent.local,
        above=before,
        bound="jkt",
    )
    return child


def _times(claims: Json, now: int) -> tuple[int, int]:
    issued_at, expires_at = claims["iat"], claims["exp"]
    if type(issued_at) is not int or type(expires_at) is not int or not 0 <= issued_at < expires_at <= MAX_TIME:
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "`iat` and `exp` of a hop are seconds, and `exp` is the later")
    if not expires_at > now - SKEW:
        raise TokenRefused(ReasonCode.TOKEN_EXPIRED)
    if not issued_at <= now + SKEW:
        raise TokenRefused(ReasonCode.TOKEN_NOT_YET)
    return issued_at, expires_at


def _actor(claims: Json, parent: Delegation) -> str:
    """One new name. Attack A072: a hop that says the names before it could rewrite who they were, so it cannot say them."""
    act = claims["act"]
    name = act.get("sub") if type(act) is dict and act.keys() == {"sub"} else None
    if not is_name(name) or not isinstance(name, str):
        raise TokenRefused(ReasonCode.TOKEN_ACTORS, "`act` of a hop is `{sub: NAME}` and names one actor")
    if name in parent.actors or (parent.origin_kind == "person" and name in (parent.origin, parent.person)):
        raise TokenRefused(ReasonCode.TOKEN_ACTORS, "`act`: the same name twice: who acts for whom goes in a circle")
    if not parent.hands_to(name):
        raise TokenRefused(ReasonCode.DELEGATION_WIDENED, "the new actor is not the one its parent names in `may_act`")
    if len(parent.actors) >= MAX_ACTORS:
        raise TokenRefused(ReasonCode.TOKEN_ACTORS, f"`act`: deeper than {MAX_ACTORS}")
    return name


def _apart(what: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_CHAIN, f"the chain {what}")
