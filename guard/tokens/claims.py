"""Verified JSON to a typed `Delegation`. Every claim that counts is read here, in the order of the checks.

Unknown claims (`roles`, `permissions`, `__proto__`) are never looked at: nothing here can grant by accident. `may_act` only takes away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from guard.errors import TokenRefused
from guard.model import Credential, Delegation
from guard.reasons import ReasonCode
from guard.tokens.details import read_details
from guard.tokens.keys import Key, KeysRefused, holder_key
from guard.tokens.rules import IssuerRules
from guard.tokens.text import is_name

__all__ = [
    "MAX_ACTORS", "MAX_TIME", "SKEW", "confirmed_key", "read_access_token", "read_confirmation", "read_person", "read_transaction_token",
]  # fmt: skip

SKEW = 5
"""Seconds that clocks of issuer and verifier may differ. A token counts exactly while `exp > now - SKEW`."""

MAX_ACTORS = 8
MAX_TIME = 253402300799  # the year 9999: later ones are not a time
MAX_SCOPES = 128

# RFC 6749 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ), separated by one space.
_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")

# SHA-256 in canonical base64url: 256 bits leave four of the last character's six.
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")

Claims = Mapping[str, object]
_delegation: Any = Delegation.__new__
_credential: Any = Credential.__new__


def read_access_token(claims: Claims, rules: IssuerRules, kid: str, now: int) -> Delegation:
    """`at+jwt`, RFC 9068 2.2: REQUIRED iss, exp, aud, sub, client_id, iat, jti.

    The task is `txn`, else the claim the issuer is configured with, else `sid` (coarser). Never `jti`: see `IssuerRules`.
    """
    return _read("at+jwt", "client_id", claims, rules, kid, now)


def read_transaction_token(claims: Claims, rules: IssuerRules, kid: str, now: int) -> Delegation:
    """`txntoken+jwt`, draft-ietf-oauth-transaction-tokens: REQUIRED iat, aud, exp, txn, sub, scope, req_wl; here also iss and jti,
    without which a token can be neither attributed nor revoked.

    A token that was made of another one is as old as that one (`tctx.subject_iat`, written by our own token service): by its own `iat` it
    would outlive a revocation of everything issued before some time, and a task would look younger than a store that lost it.
    """
    if "scope" not in claims:
        _claim("scope")
    return _read("txntoken+jwt", "req_wl", claims, rules, kid, now)


def _read(kind: str, holder: str, claims: Claims, rules: IssuerRules, kid: str, now: int) -> Delegation:
    """The checklist. `holder`: the claim that names the software that holds the token."""
    issued_at, expires_at = _times(claims, rules, now)
    if "tctx" in claims and kind == "txntoken+jwt":
        issued_at = _since(claims["tctx"], issued_at)
    _audience(claims, rules)
    origin, workload, jti = _name(claims, "sub"), _name(claims, holder), _name(claims, "jti")
    person, session = _optional(claims, "person"), _optional(claims, "sid")
    origin_kind = _origin_kind(claims, origin, workload)
    scopes = _scopes(claims)
    actors = _actors(claims, rules, origin if origin_kind == "person" else None) or (workload,)
    bound, holder_print = read_confirmation(claims) if "cnf" in claims else ("", None)
    txn = _task(kind, claims, rules, session)
    details = read_details(claims)
    if details.intent is None and details.grants is None and not scopes:
        raise TokenRefused(ReasonCode.TOKEN_NO_GRANT)
    found: Delegation = _delegation(
        Delegation,
        kind=kind,
        tenant=rules.tenant,
        issuer=rules.url,
        txn=txn,
        credential=_credential(Credential, rules.url, jti, kid, holder_print),
        origin=origin,
        origin_kind=origin_kind,
        actors=actors,
        issued_at=issued_at,
        expires_at=expires_at,
        audience=rules.audience,
        intent=details.intent,
        params=details.params,
        grants=details.grants,
        scopes=scopes,
        workload=workload,
        person=person,
        session=session,
        local=rules.local,
        bound=bound,
        may_act=_may_act(claims, rules) if "may_act" in claims or rules.may_act else None,
    )
    return found


def _may_act(claims: Claims, rules: IssuerRules) -> str | None:
    """RFC 8693 4.4: the one who may become the actor. Attack A074: what is missing, cannot be read, or names somebody elsewhere, is nobody, and
    never anybody. Members but `sub` and `iss` are not read: one we cannot compare must not be one we pass over, so they make it nobody."""
    named = claims.get("may_act")
    if type(named) is not dict or not named.keys() <= {"sub", "iss"} or named.get("iss", rules.url) != rules.url:
        return ""
    name = named.get("sub")
    return name if is_name(name) and isinstance(name, str) else ""


def read_confirmation(claims: Claims) -> tuple[Literal["jkt", "x5t#S256"], str]:
    """RFC 7800: by what the holder proves itself, and its thumbprint. Exactly one member that is known here: with two, each side could look
    at the other one (attack A109). A bound token is never a bearer token: without a proof every call is denied."""
    cnf = claims.get("cnf")
    if type(cnf) is dict and len(cnf) == 1:
        (name, value), *_ = cnf.items()
        if name == "jwk":
            return "jkt", confirmed_key(value).thumbprint
        if name in ("jkt", "x5t#S256") and type(value) is str and _THUMBPRINT.fullmatch(value):
            return ("jkt" if name == "jkt" else "x5t#S256"), value
    raise TokenRefused(ReasonCode.TOKEN_PROOF, "`cnf` must have exactly one member: `jwk`, `jkt` or `x5t#S256`")


def confirmed_key(jwk: object) -> Key:
    """The key in `cnf.jwk`."""
    try:
        return holder_key(jwk)
    except KeysRefused:
        pass
    raise TokenRefused(ReasonCode.TOKEN_PROOF, "the key in `cnf` is not a public key for signatures")


def read_person(claims: Claims, rules: IssuerRules, kid: str, now: int) -> Delegation:
    """`at+jwt` of a person who acts in person: no `act` at all, no grants to agents, not the client's own. Names no task, grants nothing.

    Attack: an agent hands in the token it works under, or one of its own, as the approval of the person it works for.
    """
    issued_at, expires_at = _times(claims, rules, now)
    _audience(claims, rules)
    origin, workload, jti = _name(claims, "sub"), _name(claims, "client_id"), _name(claims, "jti")
    if "act" in claims:
        _actor("whoever approves acts in person, and nobody for them")
    if "authorization_details" in claims:
        raise TokenRefused(ReasonCode.TOKEN_DETAILS, "a token that hands something to agents is not the one to approve with")
    if origin == workload or _origin_kind(claims, origin, workload) != "person":
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "`sub` is the client itself: software approves nothing")
    bound: Literal["", "jkt", "x5t#S256"] = ""
    holder_print = None
    if "cnf" in claims:
        bound, holder_print = read_confirmation(claims)
    credential = Credential(rules.url, jti, kid, holder_print)
    person, session = _optional(claims, "person"), _optional(claims, "sid")
    return Delegation(
        "at+jwt", rules.tenant, rules.url, "", credential, origin, "person", (workload,), issued_at, expires_at, rules.audience,
        workload=workload, person=person, session=session, local=rules.local, bound=bound,
    )  # fmt: skip


def _times(claims: Claims, rules: IssuerRules, now: int) -> tuple[int, int]:
    """RFC 7519 4.1.4 to 4.1.6, integers only; and a bound on the lifetime, so that a long-lived token is refused at once."""
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if not 0 < expires_at - issued_at <= rules.max_ttl:
        raise TokenRefused(ReasonCode.TOKEN_LIFETIME)
    # Said as what must hold, so that a clock that is no number (NaN is neither before nor after) lets nothing through.
    if not expires_at > now - SKEW:
        raise TokenRefused(ReasonCode.TOKEN_EXPIRED)
    if not issued_at <= now + SKEW or ("nbf" in claims and not _time(claims, "nbf") <= now + SKEW):
        raise TokenRefused(ReasonCode.TOKEN_NOT_YET)
    return issued_at, expires_at


def _since(tctx: object, issued_at: int) -> int:
    """Only ever earlier: of another service `tctx` may hold anything, and what we know nothing of is not read."""
    at = tctx.get("subject_iat") if type(tctx) is dict else None
    return at if type(at) is int and 0 <= at < issued_at else issued_at


def _time(claims: Claims, name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_TIME:  # `type is`: True is an int to isinstance
        _claim(name)
    return value


def _audience(claims: Claims, rules: IssuerRules) -> None:
    """RFC 7519 4.1.3, for one audience only: a token good at two places can be carried from one to the other."""
    audience = claims.get("aud")
    if type(audience) is list and len(audience) == 1:
        audience = audience[0]
    if type(audience) is not str or audience != rules.audience:
        raise TokenRefused(ReasonCode.TOKEN_AUDIENCE)


def _origin_kind(claims: Claims, origin: str, workload: str) -> Literal["person", "workload"]:
    """RFC 9068 5: a client may be registered under the very identifier of a person. A token without a person behind it has the client
    as its `sub`; an autonomous workload must have an owner, which its issuer names in the claim `owner`."""
    if origin not in (workload, claims.get("client_id")):
        return "person"
    if not is_name(claims.get("owner")):
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "`sub` is the client itself: an autonomous workload needs the claim `owner`")
    return "workload"


def _scopes(claims: Claims) -> frozenset[str]:
    if "scope" not in claims:
        return frozenset()
    scope = claims["scope"]
    if type(scope) is not str or not _SCOPE.fullmatch(scope):
        _claim("scope")
    scopes = frozenset(scope.split(" "))
    if len(scopes) > MAX_SCOPES:
        _claim("scope")
    return scopes


def _actors(claims: Claims, rules: IssuerRules, person: str | None) -> tuple[str, ...]:
    """RFC 8693 4.1: `act` is who acts now, the `act` inside it who acted before. Opener first here.

    Only the outermost actor and `sub` may drive decisions; the inner ones are the issuer's word on history. Members but `sub` and
    `iss` are not read. An actor of another issuer is refused: by name alone it could pass for one of ours.
    """
    if "act" not in claims:
        return ()
    actors: list[str] = []
    act = claims["act"]
    while True:
        sub = act.get("sub") if type(act) is dict else None
        if type(act) is not dict or not is_name(sub) or not isinstance(sub, str):
            _actor("an entry is not an object with a valid `sub`")
        if act.get("iss", rules.url) != rules.url:
            _actor("an actor of another issuer")
        if sub in actors or sub == person:
            _actor("the same name twice: who acts for whom goes in a circle")
        actors.append(sub)
        if len(actors) > MAX_ACTORS:
            _actor(f"deeper than {MAX_ACTORS}")
        if "act" not in act:
            return tuple(reversed(actors))
        act = act["act"]


def _task(kind: str, claims: Claims, rules: IssuerRules, session: str | None) -> str:
    if kind == "txntoken+jwt" or "txn" in claims:
        return _name(claims, "txn")
    if rules.task_claim is not None and rules.task_claim in claims:
        return _name(claims, rules.task_claim)
    if rules.derive is not None:
        return rules.derive(rules.url, _name(claims, "jti"))
    if session is None:
        raise TokenRefused(ReasonCode.TOKEN_NO_TASK)
    return session


def _name(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not is_name(value) or not isinstance(value, str):
        _claim(name)
    return value


def _optional(claims: Claims, name: str) -> str | None:
    return _name(claims, name) if name in claims else None


def _claim(name: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_CLAIMS, f"the claim `{name}` is missing or has the wrong type or characters")


def _actor(what: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_ACTORS, f"`act`: {what}")
