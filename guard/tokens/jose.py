"""The strict shell around a compact JWS: what is refused before any claim is looked at.

Order, one reason code per step: size and characters -> three segments -> canonical base64url -> strict JSON. The signature and the
claims follow in `verify.py`. A token is parsed once, here; nobody else turns token text into data.

Why our own: PyJWT takes the last of two equal member names, UTF-16, a byte order mark, padding, and claims 900 levels deep.
"""

from __future__ import annotations

import binascii
import json
import re
from math import isfinite
from typing import NamedTuple, NoReturn

from guard.errors import TokenRefused
from guard.reasons import ReasonCode

__all__ = [
    "MAX_DEPTH",
    "MAX_INT",
    "MAX_MEMBERS",
    "MAX_TOKEN",
    "Jws",
    "NotStrict",
    "b64url_decode",
    "b64url_encode",
    "split",
    "strict_json",
    "token_json",
]

MAX_TOKEN = 16 * 1024
MAX_DEPTH = 16
MAX_MEMBERS = 256
MAX_INT = 2**53 - 1

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"{}[]")
_ONE_KIND = bytes.maketrans(b"[]", b"{}")  # `[}` is the parser's business


class NotStrict(ValueError):
    """The bytes are not the strict form. Carries no text: what was wrong is the attacker's choice of words."""


class Jws(NamedTuple):
    """The segments of a compact JWS, decoded, nothing verified. `signed`: the bytes the signature covers."""

    header: bytes
    payload: bytes
    signature: bytes
    signed: bytes


def split(token: str, *, most: int = MAX_TOKEN) -> Jws:
    """The three segments of a compact JWS of `most` characters. Raises `TokenRefused`.

    RFC 8725bis: any character but `A-Za-z0-9_-.` is refused before anything is decoded (no trimming, no padding, no other format).
    """
    if type(token) is not str or not token:
        raise TokenRefused(ReasonCode.TOKEN_MISSING)
    if len(token) > most:
        raise TokenRefused(ReasonCode.TOKEN_TOO_LARGE)
    if not token.isascii():
        raise TokenRefused(ReasonCode.TOKEN_MALFORMED)
    text = token.encode("ascii")
    segments = text.split(b".")
    if len(segments) != 3 or text.translate(None, _ALPHABET) != b"..":
        raise TokenRefused(ReasonCode.TOKEN_MALFORMED)
    try:
        return Jws(b64url_decode(segments[0]), b64url_decode(segments[1]), b64url_decode(segments[2]), text[: -len(segments[2]) - 1])
    except NotStrict:
        pass
    raise TokenRefused(ReasonCode.TOKEN_MALFORMED)


def b64url_decode(segment: bytes) -> bytes:
    """Unpadded base64url of characters already checked; refused unless encoding the result gives the same text again."""
    standard = segment.translate(_TO_STANDARD)
    try:
        raw = binascii.a2b_base64(standard + b"==")
    except ValueError:
        raw = None
    if raw is None or binascii.b2a_base64(raw, newline=False).rstrip(b"=") != standard:
        raise NotStrict
    return raw


def b64url_encode(raw: bytes) -> str:
    """Unpadded base64url."""
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def token_json(raw: bytes) -> dict[str, object]:
    """A header or payload as data. Raises `TokenRefused`."""
    try:
        return strict_json(raw)
    except NotStrict:
        pass
    raise TokenRefused(ReasonCode.TOKEN_MALFORMED)  # outside the handler: the cause would hold the token's text


def strict_json(raw: bytes, *, depth: int = MAX_DEPTH, members: int = MAX_MEMBERS) -> dict[str, object]:
    """One JSON object, or `NotStrict`.

    UTF-8 without byte order mark; no member name twice at any level; no NaN, infinity or float that overflows; integers within
    2^53-1; bounded depth and members; no lone surrogates; nothing after the object.
    """
    _scan(raw, depth, members)
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
        if b"\\u" in raw:  # the only way to write a surrogate
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise NotStrict
    return value


def _scan(raw: bytes, depth: int, members: int) -> None:
    """Depth and number of members, counted outside of strings before the parser runs: it must never recurse deeper than `depth`.

    Up to the first syntax error this sees the same strings as the parser, and the parser does not go past that error.
    """
    if raw.count(b"{") + raw.count(b"[") <= depth and raw.count(b":") <= members:
        return  # so few, strings included, that neither bound can be passed
    if b"\\" in raw:
        outside = _STRING.sub(b"", raw)
    else:
        outside = b"".join(raw.split(b'"')[::2])
    if outside.count(b":") > members:
        raise NotStrict
    brackets = outside.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(depth):  # each round takes away the innermost level
        if not brackets:
            return
        brackets = brackets.replace(b"{}", b"")
    if brackets:
        raise NotStrict


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrict
    return members


def _integer(digits: str) -> int:
    if len(digits) > 17:
        raise NotStrict
    number = int(digits)
    if not -MAX_INT <= number <= MAX_INT:
        raise NotStrict
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise NotStrict
    return number


def _constant(name: str) -> NoReturn:
    raise NotStrict


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
