"""What a request to the token service is, and what it asks for; and the answers it can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

from guard.frozen import frozen
from guard.reasons import REASONS, ReasonCode
from guard.tokens.issue import Asked
from guard.tokens.jose import NotStrict, strict_json

__all__ = ["Answer", "Asking", "Refusal", "asked_of", "once"]

_MOST_DETAILS = 32 * 1024
_TEMPORARY: Final = frozenset(
    {
        ReasonCode.KEYS_UNAVAILABLE, ReasonCode.REVOCATION_UNAVAILABLE, ReasonCode.RECORD_UNAVAILABLE, ReasonCode.STATE_UNAVAILABLE,
    }
)  # fmt: skip
_WORDS: Final[Mapping[ReasonCode, str]] = {
    ReasonCode.TTS_CLIENT: "invalid_client",
    ReasonCode.TTS_TARGET: "invalid_target",
    ReasonCode.GUARD_ERROR: "server_error",
}


class Refusal(Exception):
    """Why there is no token. `word`: the OAuth error. `text`: names only, for the record and not for the answer."""

    def __init__(self, code: ReasonCode, word: str = "", text: str = "") -> None:
        super().__init__(text or REASONS[code].meaning)
        self.code = code
        self.word = word or ("temporarily_unavailable" if code in _TEMPORARY else _WORDS.get(code, "invalid_request"))


@frozen
class Asking:
    """One request as it came. `form`: its members in order. `authorization`: that header, "" for none. `dpop`: every `DPoP` header."""

    form: Sequence[tuple[str, str]]
    authorization: str = ""
    dpop: Sequence[str] = ()


@frozen
class Answer:
    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


def once(form: Sequence[tuple[str, str]]) -> dict[str, str]:
    """RFC 6749 3.2: no member twice; one without a value is not there."""
    found: dict[str, str] = {}
    for name, value in form:
        if name in found:
            raise Refusal(ReasonCode.TTS_REQUEST, text="a member of the form stands in it twice")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def asked_of(form: Mapping[str, str], *, workload: str, actor: str | None) -> Asked:
    """`workload`, `actor`: of the client that asks."""
    scopes = details = None
    if "scope" in form:
        scopes = frozenset(form["scope"].split(" "))
        if "" in scopes:
            raise Refusal(ReasonCode.TTS_REQUEST, "invalid_scope", "`scope` is words with single spaces between them")
    if "authorization_details" in form:
        details = _list(form["authorization_details"])
    for name in ("request_context", "request_details"):  # looked at for their form, and then left: nobody here can vouch for them
        if name in form:
            _object(form[name], name)
    return Asked(workload, actor, scopes, details)


def _list(text: str) -> list[object]:
    raw = text.encode("utf-8", "surrogatepass")
    found = None
    if len(raw) <= _MOST_DETAILS and raw.lstrip()[:1] == b"[":
        try:
            members = strict_json(b'{"":' + raw + b"}")
        except NotStrict:
            members = {}
        found = members.get("") if members.keys() == {""} else None
    if not isinstance(found, list):
        raise Refusal(ReasonCode.TOKEN_DETAILS, "invalid_authorization_details", "`authorization_details` is no list in strict JSON")
    return found


def _object(text: str, name: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    try:
        strict_json(raw if len(raw) <= _MOST_DETAILS else b"")
    except NotStrict:
        raise Refusal(ReasonCode.TTS_REQUEST, text=f"`{name}` is no object in strict JSON") from None
