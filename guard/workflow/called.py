"""What a text itself calls an id, however short: `file with ID '13'`, `ids 4, 5 and 6`, `#12`.

A short number has no provenance where it merely stands: it is everywhere. Where a text calls it an id, it says which object it means.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["named_ids"]

_DIGIT = re.compile(r"\d")
_NAMED = re.compile(r"(?<![^\W_])(?:ids?|numbers?|no\.|nr\.?)(?![^\W_])|(?<!\w)#(?=\w)", re.IGNORECASE)
_NAMED_VALUE = re.compile(
    r"[\s_:=#'\"`(\[{]{0,4}([A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?)(?!\w)['\"`]?(?:\s?(?:,|;|&|and|or)(?=\W))?", re.ASCII
)
_MOST_NAMED: Final = 64


def named_ids(text: str) -> list[str]:
    """The short words with a digit that `text` itself calls an id: `file with ID '13'`, `ids 4, 5 and 6`, `#12`; at most 64."""
    found: dict[str, None] = {}
    for match in _NAMED.finditer(text):
        at = match.end()
        for _ in range(16):
            value = _NAMED_VALUE.match(text, at)
            if value is None or not _DIGIT.search(value[1]):
                break
            found.setdefault(value[1])
            if len(found) >= _MOST_NAMED:
                return list(found)
            if value[0][-1].isalnum() and value[0].endswith(value[1]):
                break  # no comma and no `and`: what follows is not one more
            at = value.end()
    return list(found)
