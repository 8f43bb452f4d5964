"""What a person's answer rests on, and what it becomes. Pure.

An approver's token is an access token (`at+jwt`) that the strict verifier takes, of a person who acts in person (`read_person`). What comes of it is
signed by the desk, with the header `alg, typ, kid` and exactly these claims, none optional:

| claim         | is                                                                                              |
|---------------|-------------------------------------------------------------------------------------------------|
| `jti`         | of this answer: it is used up under this name                                                   |
| `iss`, `aud`  | the desk (`approvals:` and the thumbprint of its key), the tenant of the task                   |
| `iat`, `exp`  | when it was given; `within` of what it answers, the shortest                                    |
| `request`     | the decision that asked                                                                         |
| `task`        | `{iss, txn}`: whose task it is                                                                  |
| `tool`, `args_digest` | the very call: base64url SHA-256 of its canonical arguments                             |
| `asks`        | what it answers, in the order of the request                                                    |
| `approver`    | `{iss, sub, client_id, jti, kid, iat, exp}`, and as the token had them `person`, `sid`, `jkt`   |
| `groups`      | the approver's, as its token said                                                               |
| `pop`         | where the approver's token is bound: the proof by the approver's own key, over request and digest; else "" |

`guard-approval+jwt` says yes, `guard-rejection+jwt` no: two kinds, so that neither can be read as the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NoReturn

from guard.constraints import canonical
from guard.errors import TokenRefused
from guard.frozen import frozen
from guard.model import Approval, Credential, Delegation
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_TIME, SKEW, read_person
from guard.tokens.jose import b64url_encode, split, token_json
from guard.tokens.keys import Key
from guard.tokens.proof import verify_kept
from guard.tokens.rules import IssuerRules
from guard.tokens.text import is_name
from guard.tokens.verify import signed

__all__ = [
    "APPROVAL",
    "APPROVE",
    "REJECT",
    "REJECTION",
    "Answer",
    "approver_claims",
    "read_answer",
    "read_approver",
    "read_groups",
    "segments",
    "to_prove",
]

APPROVAL: Final = "guard-approval+jwt"
REJECTION: Final = "guard-rejection+jwt"
APPROVE: Final = "guardtrail.approve"
REJECT: Final = "guardtrail.reject"
"""What a proof of a bound approver's token names as its tool: a proof for one is none for the other."""

MAX_ANSWER: Final = 64 * 1024
MAX_GROUPS: Final = 256
_CLAIMS: Final = frozenset(
    {"jti", "iss", "aud", "iat", "exp", "request", "task", "tool", "args_digest", "asks", "approver", "groups", "pop"}
)
_APPROVER: Final = frozenset({"iss", "sub", "client_id", "jti", "kid", "iat", "exp"})
_MORE: Final = frozenset({"person", "sid", "jkt"})

Json = Mapping[str, object]


@frozen
class Answer:
    """A verified answer. `said`: who and what, with the keyed hash of the arguments left empty: only the request knows it. `expires_at`: epoch seconds."""

    yes: bool
    said: Approval
    issuer: str
    args_digest: str
    expires_at: int


def read_approver(
    token: str, issuers: Mapping[str, IssuerRules], *, groups: Mapping[str, str], now: int
) -> tuple[Delegation, frozenset[str]]:
    """Who presents `token`, and their groups; or `TokenRefused` and nothing else. `groups`: issuer -> the claim that holds them."""
    try:
        header, claims, rules = signed(token, issuers)
        if header.kind.typ != "at+jwt":  # a transaction token is for agents, whoever is its subject
            raise TokenRefused(ReasonCode.TOKEN_TYPE, "whoever approves shows an access token (at+jwt) of their own")
        person = read_person(claims, rules, header.kid, now)
        return person, read_groups(claims, groups.get(rules.url, "groups"))
    except TokenRefused:
        raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither a person nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.GUARD_ERROR)


def read_groups(claims: Json, claim: str) -> frozenset[str]:
    """The names in a claim that is a list of them; none where it is missing. One text is refused: every part of it could pass for a group."""
    found = claims.get(claim, [])
    if type(found) is not list or len(found) > MAX_GROUPS or not all(map(is_name, found)):
        raise TokenRefused(ReasonCode.TOKEN_CLAIMS, f"the claim `{claim}` is not a list of at most {MAX_GROUPS} names")
    return frozenset(found)


def approver_claims(person: Delegation) -> dict[str, object]:
    """The claim `approver`: the credential by everything that can be taken back, never its text."""
    credential = person.credential
    made: dict[str, object] = {
        "iss": person.issuer,
        "sub": person.origin,
        "client_id": person.workload,
        "jti": credential.jti,
        "kid": credential.kid,
        "iat": person.issued_at,
        "exp": person.expires_at,
    }
    return made | {
        name: value
        for name, value in (("person", person.person), ("sid", person.session), ("jkt", credential.thumbprint))
        if value is not None
    }


def read_answer(text: str, key: Key, *, desk: str, tenant: str, now: int) -> Answer:
    """The verified content of an answer of this desk about a task of this tenant, or `TokenRefused` and nothing else."""
    try:
        return _read(text, key, desk, tenant, now)
    except TokenRefused:
        raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither an approval nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.GUARD_ERROR)


def _read(text: str, key: Key, desk: str, tenant: str, now: int) -> Answer:
    jws = split(text, most=MAX_ANSWER)
    header, claims = token_json(jws.header), token_json(jws.payload)
    typ, alg = header.get("typ"), header.get("alg")
    if header.keys() != {"alg", "typ", "kid"} or typ not in (APPROVAL, REJECTION) or type(alg) is not str:
        _refuse("is of another kind")
    if header["kid"] != key.kid or not key.verifies(alg, jws.signed, jws.signature):
        _refuse("is not signed by this desk")
    if claims.keys() != _CLAIMS:
        _refuse("has other claims than it should")
    if claims["iss"] != desk or claims["aud"] != tenant:
        _refuse("is of another desk, or for another tenant")
    at, ends = claims["iat"], claims["exp"]
    if type(at) is not int or type(ends) is not int or not 0 <= at <= ends <= MAX_TIME or not at <= now + SKEW or not ends > now:
        _refuse("has expired, or is from the future")
    task = claims["task"]
    if type(task) is not dict or task.keys() != {"iss", "txn"}:
        _refuse("names no task")
    asks = _names(claims["asks"])
    person = _approver(claims["approver"], tenant)
    words = (claims["jti"], claims["request"], claims["tool"], claims["args_digest"], task["iss"], task["txn"])
    if not asks or not all(map(is_name, words)) or type(claims["pop"]) is not str:
        _refuse("names nothing that can be looked up")
    jti, request, tool, digest, issuer, txn = map(str, words)
    names = frozenset((person.origin, *([person.person] if person.person else [])))
    groups = frozenset(_names(claims["groups"]))
    _evidence(str(claims["pop"]), person, typ == APPROVAL, request, digest)
    said = Approval(
        jti, txn, tool, "", asks, person.person or person.origin, groups, at, request, names, person.issuer, person
    )  # fmt: skip
    return Answer(typ == APPROVAL, said, issuer, digest, ends)


def _approver(found: object, tenant: str) -> Delegation:
    if type(found) is not dict or not _APPROVER <= found.keys() <= _APPROVER | _MORE:
        _refuse("names no approver")
    texts = {name: value for name, value in found.items() if name not in ("iat", "exp")}
    at, ends = found["iat"], found["exp"]
    if not all(map(is_name, texts.values())) or type(at) is not int or type(ends) is not int:
        _refuse("names no approver")
    credential = Credential(found["iss"], found["jti"], found["kid"], found.get("jkt"))
    return Delegation(
        "at+jwt", tenant, found["iss"], "", credential, found["sub"], "person", (found["client_id"],), at, ends, "",
        workload=found["client_id"], person=found.get("person"), session=found.get("sid"), bound="jkt" if "jkt" in found else "",
    )  # fmt: skip


def _evidence(pop: str, person: Delegation, yes: bool, request: str, digest: str) -> None:
    """The approver's own signature, where the token was bound to a key. Attack: who holds the desk's key, and not the approver's, has them approve."""
    if bool(pop) != (person.bound == "jkt"):
        _refuse("lacks the approver's own proof, or has one of nobody")
    if pop:
        args = canonical(to_prove(request, digest))
        verify_kept(pop, str(person.credential.thumbprint), tool=APPROVE if yes else REJECT, args=args)


def to_prove(request: str, args_digest: str) -> dict[str, str]:
    """What the holder of a bound token proves: the arguments of the proof."""
    return {"request": request, "args_digest": args_digest}


def _names(found: object) -> tuple[str, ...]:
    if type(found) is not list or not all(map(is_name, found)):
        _refuse("has a list that is none of names")
    return tuple(found)


def _refuse(what: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_CLAIMS, f"the answer {what}")


def segments(header: Json, claims: Json) -> str:
    """What is signed of them."""
    from json import dumps

    parts: Iterable[Json] = (header, claims)
    return ".".join(b64url_encode(dumps(each, separators=(",", ":"), ensure_ascii=False).encode()) for each in parts)
