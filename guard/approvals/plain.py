"""Requests as plain data and back. What is read here was encrypted and authenticated by the desk: it is whole or it is not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard.model import Request, Unmet
from guard.policy.data import AskRule, Who

__all__ = ["ask_dict", "request_dict", "request_from"]

_TEXTS = ("id", "tenant", "issuer", "task", "tool", "args_hmac", "args_digest", "origin", "policy")


def request_dict(request: Request) -> dict[str, Any]:
    """Everything but the arguments."""
    return {
        **{name: getattr(request, name) for name in _TEXTS},
        "at": request.at,
        "until": request.until,
        "person": request.person,
        "actors": list(request.actors),
        "control": list(request.control),
        "asks": [ask_dict(ask) for ask in request.asks],
    }


def ask_dict(ask: Unmet) -> dict[str, Any]:
    return {"name": ask.name, "code": ask.code, "text": ask.text, "rules": [_rule_dict(rule) for rule in ask.rules]}


def _rule_dict(rule: AskRule) -> dict[str, Any]:
    by: Any = "origin"
    if not isinstance(rule.by, str):
        by = {"group": rule.by.group, "persons": list(rule.by.persons), "not": sorted(rule.by.excluded)}
    return {"by": by, "count": rule.count, "within": rule.within}


def request_from(found: Mapping[str, Any], args: bytes = b"") -> Request:
    """What `request_dict` made."""
    return Request(
        **{name: str(found[name]) for name in _TEXTS},
        at=int(found["at"]),
        until=int(found["until"]),
        person=found["person"],
        actors=tuple(found["actors"]),
        control=tuple(found["control"]),
        asks=tuple(Unmet(each["name"], each["code"], each["text"], tuple(_rule(rule) for rule in each["rules"])) for each in found["asks"]),
        args=args,
    )


def _rule(found: Mapping[str, Any]) -> AskRule:
    by = found["by"]
    if by == "origin":
        return AskRule("origin", found["count"], found["within"])
    return AskRule(Who(by["group"], tuple(by["persons"]), frozenset(by["not"])), found["count"], found["within"])
