"""Lists in pages. A cursor is the place in the list and says of which list: what has changed meanwhile is begun anew by the client."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from guard.gateway.pins import digest
from guard.gateway.rpc import INVALID_PARAMS, Refused

__all__ = ["PAGE", "page"]

PAGE: Final = 100
_CURSOR: Final = re.compile(r"([0-9]{1,6})-([0-9a-f]{16})")


def page(key: str, rows: Sequence[dict[str, Any]], cursor: object) -> dict[str, Any]:
    """The rows from `cursor` on, under `key`, and the next cursor where there are more. Raises Refused for a cursor that is none of ours."""
    if cursor is None and len(rows) <= PAGE:
        return {key: list(rows)}
    mark = digest(rows)[:16]
    start = 0
    if cursor is not None:
        match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
        if match is None or match[2] != mark or not 0 < int(match[1]) < len(rows):
            raise Refused(INVALID_PARAMS, "this cursor is none, or the list has changed: begin anew", status=400)
        start = int(match[1])
    found: dict[str, Any] = {key: list(rows[start : start + PAGE])}
    return found | ({"nextCursor": f"{start + PAGE}-{mark}"} if start + PAGE < len(rows) else {})
