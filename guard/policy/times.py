"""Times as people write them: `30s`, `10m`, `24h`, `7d` -> seconds."""

from __future__ import annotations

import re

__all__ = ["LONGEST", "PATTERN", "seconds"]

PATTERN = r"^[1-9][0-9]{0,8}[smhd]$"
LONGEST = 3660 * 86400
_TIME = re.compile(PATTERN, re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int | None:
    """The time in seconds; None where the text is not one, or longer than ten years."""
    if not _TIME.fullmatch(text):
        return None
    total = int(text[:-1]) * _UNITS[text[-1]]
    return total if total <= LONGEST else None
