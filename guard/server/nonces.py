"""Nonces of a resource server (RFC 9449 section 9): made from the time and a key, so that nothing has to be remembered.

    nonce = base64url( slot, 8 bytes | HMAC-SHA256(key, slot), 12 bytes )          a slot is a minute; the last five count

The key stands in the shared state, so that every process of it takes what another one gave out.
"""

from __future__ import annotations

import hmac
import struct
import time
from collections.abc import Callable
from hashlib import sha256

from guard.tokens.jose import b64url_encode

__all__ = ["Nonces"]

_SLOT = 60
_SLOTS = 5


class Nonces:
    """`x in nonces`: is it one of ours, and young enough? `clock`: epoch seconds."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        if len(key) < 16:
            raise ValueError("key")
        self._key, self._clock = key, clock

    def fresh(self) -> str:
        """The nonce of now."""
        return self._of(self._now())

    def __contains__(self, nonce: object) -> bool:
        now = self._now()  # one slot ahead: the clock of another process that gave it out
        return type(nonce) is str and any(
            hmac.compare_digest(nonce.encode("utf-8", "replace"), self._of(slot).encode("ascii"))
            for slot in range(now - _SLOTS + 1, now + 2)
        )

    def _now(self) -> int:
        return int(self._clock()) // _SLOT

    def _of(self, slot: int) -> str:
        packed = struct.pack(">q", slot)
        return b64url_encode(packed + hmac.digest(self._key, b"dpop nonce" + packed, sha256)[:12])
