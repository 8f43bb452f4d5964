"""Endpoints that others call. Needs `pip install "guardtrail[server]"`; nothing of it is loaded by `import guard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.server.events import events_app
    from guard.server.tts import tts_app

__all__ = ["events_app", "tts_app"]


def __getattr__(name: str) -> Any:
    if name == "events_app":
        from guard.server.events import events_app

        return events_app
    if name == "tts_app":
        from guard.server.tts import tts_app

        return tts_app
    raise AttributeError(f"module 'guard.server' has no attribute {name!r}")
