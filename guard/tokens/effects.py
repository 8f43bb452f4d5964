"""What a security event means here: one table, event URI -> entries of the revocation index, or signals. Pure.

| event                                                                  | effect                                                            |
|------------------------------------------------------------------------|-------------------------------------------------------------------|
| CAEP session-revoked, RISC sessions-revoked                            | the `session`, if the subject names one; else the `origin` before |
| CAEP credential-change (revoke, delete), RISC credential-compromise    | the `origin` before                                               |
| CAEP token-claims-change                                               | the `origin` before: a new token has the new claims               |
| RISC account-disabled, account-purged                                  | the `origin` from now on, until account-enabled of the same sender|
| CAEP device-compliance-change, assurance-level-change, risk-level-change | a signal, never a revocation                                    |
| anything else                                                          | none: acknowledged and recorded                                   |

"Before" is the time of the event, the second itself included: who logs in again gets a token that counts. A subject `jwt_id` is one
credential, whatever the event. A lone `opaque` subject of a revoked session may be the session or the user: both are taken back. A
subject that no token can carry (a device alone, a SAML assertion, a group) has no effect, and `Effects.idle` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from guard.tokens.events import Events, Subject
from guard.tokens.text import is_name

__all__ = ["CAEP", "RISC", "TABLE", "Effects", "Revoke", "Row", "Say", "Who", "effects"]

CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"

ALWAYS: Final = float("inf")


class Revoke(NamedTuple):
    """One entry of the index: tokens of `issuer` (None: any) that name `value` as `kind` and were issued before `at` are dead.

    `by`: what took it back, for the denial's text. `channel`, `since`: an entry of a channel replaces an earlier one of the same channel
    (an account that is disabled, enabled, disabled again); without a channel the latest `at` counts.
    """

    kind: str
    value: str
    issuer: str | None
    at: float
    by: str = ""
    channel: str = ""
    since: float = 0


class Who(NamedTuple):
    """Whom a signal is about, as far as delegations know: `kind` is `session`, `origin` or `device`."""

    kind: Literal["session", "origin", "device"]
    issuer: str
    value: str


class Say(NamedTuple):
    """A signal. `value` None: what was said before is withdrawn, and nothing stands in its place."""

    about: Who
    name: str
    value: object
    at: int
    by: str
    device: str = ""
    """The device it came from, where the subject names one beside the person or the session."""


class Effects(NamedTuple):
    """What one SET leads to. `idle`: events without effect, by their short names."""

    revokes: tuple[Revoke, ...]
    says: tuple[Say, ...]
    idle: tuple[str, ...]


class Row(NamedTuple):
    """`does`: what. `when`: (member, its values): other values have no effect. `signal`: its name, the member and what its values mean."""

    does: Literal["session", "before", "disable", "enable", "say"]
    when: tuple[str, frozenset[str]] | None = None
    signal: str = ""
    reads: str = ""
    means: Mapping[str, object] | None = None


TABLE: Final[Mapping[str, Row]] = {
    f"{CAEP}session-revoked": Row("session"),
    f"{CAEP}token-claims-change": Row("before"),
    f"{CAEP}credential-change": Row("before", when=("change_type", frozenset({"revoke", "delete"}))),
    f"{CAEP}device-compliance-change": Row(
        "say", signal="device.compliant", reads="current_status", means={"compliant": True, "not-compliant": False}
    ),
    f"{CAEP}assurance-level-change": Row("say", signal="assurance.level", reads="current_level"),
    f"{CAEP}risk-level-change": Row(
        "say", signal="risk.level", reads="current_level", means={word: word for word in ("LOW", "MEDIUM", "HIGH")}
    ),
    f"{RISC}sessions-revoked": Row("session"),
    f"{RISC}credential-compromise": Row("before"),
    f"{RISC}account-disabled": Row("disable"),
    f"{RISC}account-purged": Row("disable"),
    f"{RISC}account-enabled": Row("enable"),
}

# What of a token a subject may stand for. `account`, `did`, `uri` and `phone_number` may be somebody's `sub` or `person`.
_PERSON: Final = frozenset({"account", "did", "email", "iss_sub", "opaque", "phone_number", "uri"})


def effects(told: Events, *, now: int) -> Effects:
    """What `told` leads to. `now`: epoch seconds; no event is later than that, whatever it says of itself."""
    revokes: list[Revoke] = []
    says: list[Say] = []
    idle: list[str] = []
    for uri, payload in told.events.items():
        row = TABLE.get(uri)
        by = f"{_word(uri)}, event jti {told.jti}"
        at = _time(payload, told, now)
        found: list[Revoke] | list[Say] = []
        if row is not None and _applies(row, payload):
            if row.does == "say":
                said = list(_says(row, payload, told, at, by))
                says += said
                found = said
            else:
                taken = list(_revokes(row, told, at, by))
                revokes += taken
                found = taken
        if not found:
            idle.append(_word(uri))
    return Effects(tuple(dict.fromkeys(revokes)), tuple(says), tuple(idle))


def _applies(row: Row, payload: Mapping[str, object]) -> bool:
    if row.when is None:
        return True
    word = payload.get(row.when[0])
    return isinstance(word, str) and word in row.when[1]


def _word(uri: str) -> str:
    for base, name in ((CAEP, "CAEP"), (RISC, "RISC")):
        if uri.startswith(base):
            return f"{name} {uri.removeprefix(base)}"
    return uri.rpartition("/")[2] or "event"


def _time(payload: Mapping[str, object], told: Events, now: int) -> int:
    """When it happened, in seconds. Attack, or slip: a time far ahead (one in milliseconds is) would kill every token to come."""
    at = payload.get("event_timestamp", told.at)
    return min(at, now) if type(at) is int and at >= 0 else min(told.at, now)


def _revokes(row: Row, told: Events, at: int, by: str) -> Iterator[Revoke]:
    for kind, subject in _whom(told.subject, sessions=row.does == "session"):
        for issuer in sorted((subject.issuer,) if subject.issuer is not None else told.owns):
            if kind == "origin" and row.does in ("disable", "enable"):
                until = ALWAYS if row.does == "disable" else at + 1
                yield Revoke(kind, subject.value, issuer, until, by, f"account of {told.sender}", at)
            elif row.does == "enable":
                continue  # brings back an account, never a token or a session that was taken back
            elif kind == "origin":
                yield Revoke(kind, subject.value, issuer, at + 1, by)  # +1: a token of that very second is older than the event
            else:
                yield Revoke(kind, subject.value, issuer, ALWAYS, by)


def _whom(subject: Subject, *, sessions: bool) -> Iterator[tuple[str, Subject]]:
    """(kind, subject) of everything a token may name."""
    if subject.format == "complex":
        session, user = subject.parts.get("session"), subject.parts.get("user")
        if sessions and session is not None and session.value:
            yield ("credential" if session.format == "jwt_id" else "session"), session
        elif user is not None:
            yield from _whom(user, sessions=False)
        return
    if subject.format == "aliases":
        for part in subject.parts.values():
            yield from _whom(part, sessions=sessions)
        return
    if subject.format == "jwt_id":
        yield "credential", subject
    elif subject.format in _PERSON:
        if sessions and subject.format == "opaque":
            yield "session", subject
        yield "origin", subject


def _says(row: Row, payload: Mapping[str, object], told: Events, at: int, by: str) -> Iterator[Say]:
    value = payload.get(row.reads)
    if row.means is not None:
        value = row.means.get(value) if isinstance(value, str) else None
    elif not is_name(value):
        value = None  # what cannot be read withdraws what was said before: it must not live on
    subject = told.subject
    parts = subject.parts if subject.format == "complex" else {"user": subject}
    device = parts["device"].value if "device" in parts else ""
    abouts: list[tuple[Literal["session", "origin", "device"], Subject]] = []
    if (session := parts.get("session")) is not None and session.value and session.format != "jwt_id":
        abouts.append(("session", session))
    elif (user := parts.get("user")) is not None:
        abouts += [("origin", one) for kind, one in _whom(user, sessions=False) if kind == "origin"]
    if not abouts and device:
        abouts.append(("device", parts["device"]))
    for kind, one in abouts:
        for issuer in sorted((one.issuer,) if one.issuer is not None else told.owns):
            yield Say(Who(kind, issuer, one.value), row.signal, value, at, by, "" if kind == "device" else device)
