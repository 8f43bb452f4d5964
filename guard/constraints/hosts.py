"""Hosts, URLs and e-mail addresses in one spelling each, or refused.

The body gets the normal form too, so that no second parser can read the value differently from the policy.

| refused                                            | the attack                                                          |
|----------------------------------------------------|---------------------------------------------------------------------|
| user information (`https://good@evil/`)            | a host that a person reads as another                               |
| backslash, blank, control                          | parsers that disagree where the host ends                           |
| `0x7f.1`, `127.1`, `2130706433`, `010.0.0.1`       | an address in a spelling that the list does not have                |
| several addresses in one text, display names       | `*@acme.example` met by `a@evil.example,b@acme.example`             |
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

__all__ = ["Refused", "Url", "email", "host", "split_email", "split_url", "url"]

MAX_URL = 8192

# The same few hosts and addresses come again and again: in a call, in its constraints, in the next call. Bounded; refusals are not kept.

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)", re.ASCII)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31})://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.ASCII)
_HEX = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_LEGAL = re.compile(r"[!$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]|{}^\"<>`#]*", re.ASCII)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}


class Refused(ValueError):
    """Not one, or one that is read in several ways."""


def host(text: str) -> str:
    """Lower case, IDNA A-labels, no trailing dot; IP addresses in their one usual form (IPv6 in brackets)."""
    if text.startswith("["):
        if not text.endswith("]"):
            raise Refused
        return _ipv6(text[1:-1])
    if ":" in text:
        return _ipv6(text)
    name = text.removesuffix(".")
    if not name.isascii():
        import idna  # tables of all scripts: loaded for the first such name

        try:
            name = idna.encode(name, uts46=True, transitional=False).decode("ascii")
        except (idna.IDNAError, UnicodeError, IndexError):
            raise Refused from None
    name = name.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused
    if _NUMBER.fullmatch(labels[-1]):  # resolvers read it as an address, in whatever base
        try:
            return str(IPv4Address(name))
        except AddressValueError:
            raise Refused from None
    for label in labels:
        if label.startswith("xn--"):
            import idna

            try:
                idna.decode(label)
            except (idna.IDNAError, UnicodeError, IndexError):
                raise Refused from None
    return name


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise Refused from None
    if address.scope_id is not None:
        raise Refused
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else f"[{address}]"


class Url(NamedTuple):
    """A URL in parts. `port`: the explicit one, or the scheme's. `path` begins with `/`."""

    scheme: str
    host: str
    port: int | None
    path: str
    query: str | None
    fragment: str | None

    @property
    def text(self) -> str:
        port = "" if self.port is None or self.port == PORTS.get(self.scheme) else f":{self.port}"
        query = "" if self.query is None else f"?{self.query}"
        return f"{self.scheme}://{self.host}{port}{self.path}{query}" + ("" if self.fragment is None else f"#{self.fragment}")


@lru_cache(maxsize=1024)
def split_url(text: str) -> Url:
    """RFC 3986 syntax with an authority, normalised: case, IDNA, default port, percent-encoding, dot segments."""
    if len(text) > MAX_URL:
        raise Refused
    if not text.isascii():
        text = _ascii(text)
    found = _URL.fullmatch(text)
    if found is None or "\\" in text or not text.isprintable() or " " in text:
        raise Refused
    scheme, authority, path, query, fragment = found[1].lower(), found[2], found[3], found[4], found[5]
    if "@" in authority or not authority or _STRAY.search(text):
        raise Refused
    name, port = _authority(authority)
    return Url(scheme, host(name), port if port is not None else PORTS.get(scheme), _path(path), _encoded(query), _encoded(fragment))


def _ascii(text: str) -> str:
    """Letters beyond ASCII: the host is left to IDNA, the rest is percent-encoded as every client does (RFC 3987 3.1)."""
    head, slashes, rest = text.partition("://")
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    name, tail = rest[:end], rest[end:]
    bare, colon, port = name.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        bare, colon, port = name, "", ""
    try:
        encoded = "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode("utf-8")) for c in tail)
    except UnicodeEncodeError:
        raise Refused from None
    return f"{head}{slashes}{host(bare)}{colon}{port}{encoded}"


def _authority(authority: str) -> tuple[str, int | None]:
    if "%" in authority:
        raise Refused
    if authority.startswith("["):
        name, bracket, rest = authority.partition("]")
        name, rest = name + bracket, rest
    else:
        name, colon, port = authority.partition(":")
        rest = colon + port
    if rest in ("", ":"):
        return name, None
    if not rest.startswith(":") or not rest[1:].isdigit() or len(rest) > 6 or not 0 < int(rest[1:]) < 65536:
        raise Refused
    return name, int(rest[1:])


def _encoded(text: str | None) -> str | None:
    if text is None:
        return None
    if "%" not in text:
        return text
    return _HEX.sub(lambda m: chr(int(m[1], 16)) if chr(int(m[1], 16)) in _UNRESERVED else m[0].upper(), text)


def _path(path: str) -> str:
    """Dot segments removed after decoding what needs no encoding, so that `%2e%2e` is the step up it is for a server."""
    steps: list[str] = []
    parts = (_encoded(path) or "").split("/")[1:] if path else [""]
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        if part == "..":
            if steps:
                steps.pop()
        elif part != ".":
            steps.append(part)
            continue
        if last:
            steps.append("")
    return "/" + "/".join(steps)


def with_scheme(text: str) -> str | None:
    """`https://www.example.com/page` of `www.example.com/page`; None of everything else: without `www.` it could as well be a file."""
    return f"https://{text}" if text[:4].lower() == "www." and text[4:5] not in ("", ".", "/") else None


def url(text: str) -> str:
    """The normal form. Raises Refused."""
    return split_url(text).text


@lru_cache(maxsize=2048)
def split_email(text: str) -> tuple[str, str]:
    """Local part (its case kept) and domain of exactly one address (RFC 5321 dot-string)."""
    local, at, domain = text.rpartition("@")
    if not at or len(text) > 254 or len(local) > 64 or not _LOCAL.fullmatch(local) or domain.endswith("."):
        raise Refused
    name = host(domain)
    if name.startswith("[") or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise Refused
    return local, name


@lru_cache(maxsize=2048)
def email(text: str) -> str:
    """The normal form. Raises Refused."""
    local, domain = split_email(text)
    return f"{local}@{domain}"
