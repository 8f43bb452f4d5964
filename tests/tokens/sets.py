"""Security event tokens as an honest or another sender would make them. For tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from guard.tokens.effects import CAEP, RISC
from guard.tokens.events import Sender
from tests.tokens.forge import ISS, NOW, RSA, jwk, keys, token

US = "https://guard.acme.example/events"
HEADER = {"alg": "RS256", "typ": "secevent+jwt", "kid": "r1"}
KEYS = keys(jwk(RSA, "r1", alg="RS256"))
SENDER = Sender(ISS, US, KEYS, frozenset({ISS}))
SENDERS = {ISS: SENDER}
_number = count(1)


def uri(short: str) -> str:
    return short.replace("caep/", CAEP, 1) if short.startswith("caep/") else short.replace("risc/", RISC, 1)


def subject(raw: Any) -> Any:
    """`ISS` stands for the sender."""
    if isinstance(raw, dict):
        return {name: subject(value) for name, value in raw.items()}
    return [subject(one) for one in raw] if isinstance(raw, list) else ISS if raw == "ISS" else raw


def payload(about: Any = None, events: Mapping[str, Any] | None = None, **over: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "iss": ISS,
        "aud": US,
        "iat": NOW,
        "jti": f"e-{next(_number)}",
        "sub_id": subject(about or {"format": "complex", "session": {"format": "opaque", "id": "s-1"}}),
        "events": {uri(name): told for name, told in (events or {"caep/session-revoked": {"event_timestamp": NOW}}).items()},
    }
    made.update(over)
    return {name: value for name, value in made.items() if value is not ...}


def signed(content: Mapping[str, object] | None = None, *, key: Any = RSA, **header: object) -> str:
    return token(json.dumps(payload() if content is None else dict(content)).encode(), key=key, header=HEADER, **header)
