"""Which characters a name in a token may have."""

from __future__ import annotations

import re
from unicodedata import is_normalized

__all__ = ["MAX_TEXT", "is_name"]

MAX_TEXT = 256

# Invisible although Unicode calls them letters, marks or symbols; `str.isprintable` lets them pass.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def is_name(value: object) -> bool:
    """A visible name: 1 to 256 characters, NFC, no control, format (bidirectional, zero-width), private or unassigned character,
    no blank but the plain space, and that not at an end. Two names that look alike to a person stay two names."""
    if type(value) is not str or not 0 < len(value) <= MAX_TEXT or not value.isprintable() or value[0] == " " or value[-1] == " ":
        return False
    return value.isascii() or (is_normalized("NFC", value) and _INVISIBLE.search(value) is None)
