"""`requestState` of an `input_required` result, sealed: which call asked which questions. What comes back with another call, or unasked, opens nothing.

Attack F66: a client sends `inputResponses` with the very first call: "the human said yes", and no human was asked.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from time import time
from typing import Any, Final

__all__ = ["Seals"]

_TTL: Final = 600


class Seals:
    """With a key of this process: after a restart nothing that was asked before is known."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def close(self, state: object, about: str, keys: list[str]) -> str:
        """`state`: the server's own; `about`: task, tool and arguments; `keys`: of the questions that were let through."""
        body = json.dumps({"s": state, "a": about, "k": sorted(keys), "e": int(time()) + _TTL}, separators=(",", ":")).encode("utf-8")
        return urlsafe_b64encode(self._mac(body) + body).decode("ascii")

    def open(self, sealed: object, about: str, responses: object) -> tuple[bool, Any]:
        """(are these answers to what was asked of this very call, the server's own state)."""
        if not isinstance(sealed, str) or not isinstance(responses, Mapping):
            return False, None
        try:
            raw = b64decode(sealed.encode("ascii"), b"-_", validate=True)
            if not hmac.compare_digest(raw[:32], self._mac(raw[32:])):
                return False, None
            said = json.loads(raw[32:])
        except ValueError:
            return False, None
        good = said["a"] == about and said["e"] >= time() and set(responses) <= set(said["k"])
        return good, said["s"]

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, "sha256").digest()
