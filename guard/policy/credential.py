"""Tree -> data: the credential a tool needs downstream."""

from __future__ import annotations

from typing import Final

from guard.policy.data import Downstream
from guard.policy.fields import take
from guard.policy.problems import Report
from guard.policy.yamltext import Node
from guard.tokens.urls import is_endpoint

__all__ = ["LONGEST", "read_credential"]

LONGEST: Final = 900
"""Seconds. What a killed process leaves behind lives as long as its credential does."""
_USUAL: Final = 300
_MOST: Final = 1024


def read_credential(report: Report, node: Node, what: str) -> Downstream | None:
    """What is asked of the issuer at each call. None: reported."""
    got = take(report, node, "credential", what)
    resource, seconds = got.get("resource"), got.get("ttl", _USUAL)
    if seconds > LONGEST:
        report.error("value", node.entries["ttl"].node.at, f"{what}: `ttl` is longer than 15m", "it is for one call")  # type: ignore[union-attr]
    if resource is None:
        return None
    if not _is_resource(resource.text):
        hint = "write it as `https://api.acme.example`; http is for loopback"
        report.error("value", resource.at, f"{what}: `resource` must be an https URL without user, query and fragment", hint)
    return Downstream(resource.text, tuple(word.text for word in got.get("scope", ())), min(seconds, LONGEST))


def _is_resource(text: str) -> bool:
    """RFC 8707 2: an absolute URI without fragment; without a query too. Nothing that reads as another host than it is."""
    return len(text) <= _MOST and "?" not in text and is_endpoint(text, loopback=True)
