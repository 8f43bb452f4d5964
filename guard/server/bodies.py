"""The body of a request: bounded in size and in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["body_of"]

_SECONDS = 10.0


async def body_of(request: Request, most: int) -> bytes | None:
    """None where it is larger than `most` bytes: it is not read any further. Raises TimeoutError after ten seconds (attack: drips that hold all there is
    room for), and starlette's ClientDisconnect."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
    return b"".join(parts)
