"""Token status lists (draft-ietf-oauth-status-list): where a token's status stands, and what it is. Pure.

One bit, two, four or eight a token, compressed, signed by the issuer. 0 is valid; every other value is not, whatever it means elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from guard.errors import TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.jose import NotStrict, b64url_decode, split, token_json
from guard.tokens.keys import KID, KeySet
from guard.tokens.text import MAX_TEXT

__all__ = ["MAX_LIST", "StatusList", "place", "read_list"]

SKEW = 5
MAX_LIST = 1024 * 1024
"""Characters of a list as it is fetched."""
MAX_INFLATED = 8 * 1024 * 1024
DEFAULT_TTL = 300
MAX_TTL = 24 * 3600
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, slots=True)
class StatusList:
    """A verified list. `until`: epoch seconds from which on it says nothing any more; `ttl`: seconds it may be kept."""

    bits: int
    until: int
    ttl: int
    statuses: bytes = field(repr=False)

    def status(self, index: int) -> int:
        """The status at `index`. Raises TokenRefused outside of the list: no status is not a good one."""
        per = 8 // self.bits
        if type(index) is not int or not 0 <= index < len(self.statuses) * per:
            _refuse("the token's status stands at no place of its list")
        return (self.statuses[index // per] >> (index % per * self.bits)) & ((1 << self.bits) - 1)


def place(claims: Mapping[str, object]) -> tuple[str, int] | None:
    """(uri, index) of a token's status; None where it has none. Raises TokenRefused where it has one that cannot be looked up."""
    if "status" not in claims:
        return None
    status = claims["status"]
    told = status.get("status_list") if isinstance(status, dict) else None
    uri, index = (told.get("uri"), told.get("idx")) if isinstance(told, dict) else (None, None)
    if type(uri) is not str or not 0 < len(uri) <= MAX_TEXT or type(index) is not int or index < 0:
        _refuse("the token's `status` names no place in a status list")
    return uri, index


def read_list(text: str, *, uri: str, keys: KeySet, algorithms: Iterable[str], now: int) -> StatusList:
    """The verified content of a status list token, or TokenRefused `revocation.unavailable` and nothing else."""
    try:
        return _read(text, uri, keys, frozenset(algorithms), now)
    except TokenRefused as refused:
        if refused.reason == ReasonCode.REVOCATION_UNAVAILABLE:
            raise
    except Exception:  # noqa: S110 - a mistake of ours must become neither a status nor a foreign exception
        pass
    raise TokenRefused(ReasonCode.REVOCATION_UNAVAILABLE, "the status list is not a token in compact form")


def _read(text: str, uri: str, keys: KeySet, algorithms: frozenset[str], now: int) -> StatusList:
    jws = split(text, most=MAX_LIST)
    header, claims = token_json(jws.header), token_json(jws.payload)
    alg, kid = header.get("alg"), header.get("kid")
    if header.get("typ") != "statuslist+jwt" or not header.keys() <= {"alg", "kid", "typ"}:
        _refuse("the status list is of another `typ`, or has header members that have no place in it")
    key = keys.find(kid) if isinstance(kid, str) and KID.fullmatch(kid) else keys.find(None) if "kid" not in header else None
    if type(alg) is not str or alg not in algorithms or key is None or not key.verifies(alg, jws.signed, jws.signature):
        _refuse("the status list is not signed by its issuer")
    if claims.get("sub") != uri:  # a list of another place, good as it is, says nothing about this token
        _refuse("the status list is not the one that was asked for")
    issued_at, ends, ttl = claims.get("iat"), claims.get("exp"), claims.get("ttl")
    if type(issued_at) is not int or not issued_at <= now + SKEW:
        _refuse("the status list has no time of issue, or one in the future")
    if ("exp" in claims and type(ends) is not int) or ("ttl" in claims and (type(ttl) is not int or not ttl > 0)):
        _refuse("`exp` or `ttl` of the status list is no time")
    lives = min(ttl, MAX_TTL) if isinstance(ttl, int) else DEFAULT_TTL
    until = ends if isinstance(ends, int) else issued_at + lives  # old beyond its `ttl`: somebody serves what was good once
    if not until > now:
        _refuse("the status list has expired")
    bits, statuses = _statuses(claims.get("status_list"))
    return StatusList(bits, until, lives, statuses)


def _statuses(told: object) -> tuple[int, bytes]:
    bits, packed = (told.get("bits"), told.get("lst")) if isinstance(told, dict) else (None, None)
    if type(bits) is not int or bits not in (1, 2, 4, 8) or type(packed) is not str or not _ALPHABET.issuperset(packed):
        _refuse("the status list has no statuses of 1, 2, 4 or 8 bits")
    try:
        inflater = zlib.decompressobj()
        # The attack: a few kilobytes that become ten gigabytes.
        statuses = inflater.decompress(b64url_decode(packed.encode("ascii")), MAX_INFLATED + 1)
    except (zlib.error, NotStrict):
        statuses = b""
        inflater = None
    if inflater is None or not inflater.eof or inflater.unused_data or not 0 < len(statuses) <= MAX_INFLATED:
        _refuse("the statuses are not in the form they should be, or too many")
    return bits, statuses


def _refuse(text: str) -> NoReturn:
    raise TokenRefused(ReasonCode.REVOCATION_UNAVAILABLE, text)
