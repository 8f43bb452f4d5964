"""Which URLs are spoken to: https, and http only where nothing leaves the machine."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from guard.tokens.text import is_name

__all__ = ["is_endpoint", "is_issuer", "plain"]

_LONGEST = 2048
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def is_issuer(url: object) -> bool:
    """RFC 8414 2: https, no query, no fragment; no user. http only where the tokens do not leave the machine."""
    return isinstance(url, str) and is_name(url) and " " not in url and "\\" not in url and "?" not in url and _reaches(url, loopback=True)


def is_endpoint(url: object, *, loopback: bool) -> bool:
    """The same for an address of a server, which may have a query. `loopback`: whether http to this machine will do.

    Attack: metadata of a remote issuer names `http://127.0.0.1:...`, and the guard asks whatever listens here.
    """
    if not isinstance(url, str) or len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return False
    # A name and nothing else: hosts are said in refusals, and this one may be a server's choice of words.
    return _reaches(url, loopback=loopback) and _HOST.fullmatch(urlsplit(url).netloc) is not None


def plain(url: str) -> bool:
    """Is it http?"""
    return url.startswith("http:")


def _reaches(url: str, *, loopback: bool) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or port == 0 or "@" in parts.netloc or "#" in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and loopback and _loopback(host))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
