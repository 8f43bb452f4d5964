"""Security event tokens (SET, RFC 8417) to what they say: who sent which events about whom. Pure; nothing is looked up or kept.

| checked, in this order                                                                       | refused as           |
|----------------------------------------------------------------------------------------------|----------------------|
| strict compact JWS, header `alg`, `kid`, `typ` only, `typ` exactly `secevent+jwt`            | `invalid_request`    |
| `iss` is a sender we know                                                                    | `invalid_issuer`     |
| the algorithm is on this sender's list, the key is its own, the signature holds              | `invalid_key`        |
| `aud` names us                                                                               | `invalid_audience`   |
| `jti`, `iat` (neither old nor in the future), no `sub`, no `exp`, one `sub_id`, `events`     | `invalid_request`    |
| every `iss` in the subject is one whose subjects this sender may speak of                    | `access_denied`      |

The words on the right are those of RFC 8935 section 2.4. No `sub` and no `exp` (SSF 1.0 section 4.1): so that a security event can
never pass for an access token, nor the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from guard.errors import GuardError, TokenRefused
from guard.tokens.jose import split, token_json
from guard.tokens.keys import KID, KeySet
from guard.tokens.text import is_name

__all__ = ["ALGORITHMS", "EventRefused", "Events", "Sender", "Subject", "read_events"]

ALGORITHMS: Final = frozenset({"RS256", "PS256", "ES256"})
"""What a sender may sign with unless its list says otherwise. The CAEP interoperability profile demands RS256 with 2048 bits or more."""

SKEW: Final = 60
"""Seconds that a sender's clock may be ahead of ours."""
MAX_AGE: Final = 7 * 24 * 3600
MAX_EVENTS: Final = 8
_PARTS: Final = ("session", "user", "device", "application", "tenant", "org_unit", "group")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,254}")
_HEADER: Final = frozenset({"alg", "kid", "typ"})

Json = Mapping[str, object]


class EventRefused(GuardError):
    """A security event that is not taken. `err`: the word of RFC 8935; the text is its description and holds nothing of the event."""

    def __init__(self, err: str, text: str) -> None:
        super().__init__(text, code=f"event.{err}")
        self.err = err


@dataclass(frozen=True, slots=True)
class Sender:
    """Who may send us events. `issuer`: the exact `iss`. `audience`: who we are to it. `owns`: the issuers of whose subjects it may
    speak: tokens of any other issuer cannot be touched by what it sends."""

    issuer: str
    audience: str
    keys: KeySet = field(repr=False)
    owns: frozenset[str]
    algorithms: frozenset[str] = ALGORITHMS
    max_age: int = MAX_AGE


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject identifier (RFC 9493, SSF 1.0). `issuer`: None where the format has none. `value`: "" for `complex`, `aliases` and formats
    that are not known here. `parts`: of a complex one by its word; of `aliases` by number."""

    format: str
    value: str = ""
    issuer: str | None = None
    parts: Mapping[str, Subject] = field(default_factory=dict)

    def walk(self) -> Iterator[Subject]:
        yield self
        for part in self.parts.values():
            yield from part.walk()


@dataclass(frozen=True, slots=True)
class Events:
    """One verified SET. `events`: URI -> payload. `owns`: the issuers for which the sender speaks. `at`: `toe`, else `iat`."""

    sender: str
    jti: str
    issued_at: int
    at: int
    subject: Subject
    events: Mapping[str, Json]
    owns: frozenset[str]


def read_events(text: str, senders: Mapping[str, Sender], *, now: int) -> Events:
    """The verified content of a SET, or `EventRefused` and nothing else. `senders`: by their exact `iss`. `now`: epoch seconds."""
    try:
        return _read(text, senders, now)
    except EventRefused:
        raise
    except TokenRefused:
        pass
    except Exception:  # noqa: S110 - a mistake of ours must become neither an effect nor a foreign exception
        pass
    raise EventRefused("invalid_request", "not a security event token in compact form")


def _read(text: str, senders: Mapping[str, Sender], now: int) -> Events:
    jws = split(text)
    header, claims = token_json(jws.header), token_json(jws.payload)
    alg, kid = header.get("alg"), header.get("kid")
    if not header.keys() <= _HEADER or type(alg) is not str or ("kid" in header and not (type(kid) is str and KID.fullmatch(kid))):
        _refuse("the header has members that have no place in it")
    if header.get("typ") != "secevent+jwt":  # exact: an access token is no event, and an event no access token
        _refuse("`typ` is not secevent+jwt")
    issuer = claims.get("iss")
    sender = senders.get(issuer) if type(issuer) is str else None
    if sender is None or sender.issuer != issuer:
        raise EventRefused("invalid_issuer", "no sender of events that is known here")
    key = sender.keys.find(kid if type(kid) is str else None)
    if alg not in sender.algorithms or key is None or not key.verifies(alg, jws.signed, jws.signature):
        raise EventRefused("invalid_key", "the signature is not by a key and an algorithm of this sender")
    audience = claims.get("aud")
    named = audience if type(audience) is list else [audience]
    if not all(type(one) is str for one in named) or sender.audience not in named:
        raise EventRefused("invalid_audience", "meant for somebody else")
    return _content(claims, sender, now)


def _content(claims: Json, sender: Sender, now: int) -> Events:
    for name in ("sub", "exp"):
        if name in claims:
            _refuse(f"a security event has no `{name}`")
    jti, issued_at = claims.get("jti"), claims.get("iat")
    if not is_name(jti) or not isinstance(jti, str):
        _refuse("`jti` is missing or no name")
    if type(issued_at) is not int or not issued_at <= now + SKEW:
        _refuse("`iat` is missing, or in the future")
    if not issued_at >= now - sender.max_age:
        _refuse("`iat` is older than events are taken here")
    toe = claims.get("toe", issued_at)
    if type(toe) is not int or not toe >= 0:
        _refuse("`toe` is no time")
    events = claims.get("events")
    if type(events) is not dict or not 0 < len(events) <= MAX_EVENTS:
        _refuse("`events` is not an object of one to eight events")
    for uri, payload in events.items():
        if not _URI.fullmatch(uri) or type(payload) is not dict:
            _refuse("an event is not a URI with an object")
    subject = _subject(claims.get("sub_id"))
    # The attack: whoever may send us events revokes the sessions of another tenant.
    if not all(part.issuer is None or part.issuer in sender.owns for part in subject.walk()):
        raise EventRefused("access_denied", "the subject is of an issuer that this sender does not speak for")
    return Events(sender.issuer, jti, issued_at, min(toe, issued_at), subject, events, sender.owns)


# format -> the member with the value, the member with the issuer. Anything else is a subject we can do nothing with.
_FORMATS: Final[Mapping[str, tuple[str, str | None]]] = {
    "account": ("uri", None),
    "did": ("url", None),
    "email": ("email", None),
    "iss_sub": ("sub", "iss"),
    "jwt_id": ("jti", "iss"),
    "opaque": ("id", None),
    "phone_number": ("phone_number", None),
    "saml_assertion_id": ("assertion_id", "issuer"),
    "uri": ("uri", None),
}


def _subject(raw: object, *, outer: bool = True) -> Subject:
    if type(raw) is not dict or type(raw.get("format")) is not str or not is_name(raw["format"]):
        _refuse("`sub_id` is no subject identifier")
    form = str(raw["format"])
    if form == "complex" and outer:
        parts = {word: _subject(raw[word], outer=False) for word in _PARTS if word in raw}
        if not parts:
            _refuse("a complex subject has no part that is known")
        return Subject(form, parts=parts)
    if form == "aliases" and outer:
        listed = raw.get("identifiers")
        if type(listed) is not list or not 0 < len(listed) <= MAX_EVENTS:
            _refuse("`identifiers` is no list of one to eight")
        return Subject(form, parts={str(at): _subject(one, outer=False) for at, one in enumerate(listed)})
    if form in ("complex", "aliases"):
        _refuse("a subject inside a subject inside a subject")
    if form not in _FORMATS:
        # Not for us to understand, but an issuer it names is still one that the sender must own.
        issuer = raw.get("iss", raw.get("issuer"))
        return Subject(form, "", issuer if isinstance(issuer, str) else None)
    names = _FORMATS[form]
    value, issuer = raw.get(names[0]), raw.get(names[1]) if names[1] is not None else None
    if not is_name(value) or not isinstance(value, str) or (names[1] is not None and (not is_name(issuer) or not isinstance(issuer, str))):
        _refuse("a subject identifier lacks a member, or it is no name")
    return Subject(form, value, issuer if isinstance(issuer, str) else None)


def _refuse(text: str) -> NoReturn:
    raise EventRefused("invalid_request", text)
