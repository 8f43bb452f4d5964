"""Tree -> data: the credential a tool needs downstream."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from guard.policy.data import Downstream
from guard.policy.fields import take
from guard.policy.problems import Report
from guard.policy.yamltext import Node

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
    """RFC 8707 2: an absolute URI without fragment. Nothing that reads as another host than it is."""
    if len(text) > _MOST or not text.isascii() or not text.isprintable() or set(" \\?#") & set(text):
        return False
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or port == 0 or "@" in parts.netloc:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _loopback(host))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
