"""Endpoints that others call. Needs `pip install "guardtrail[server]"`; nothing of it is loaded by `import guard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.server.door import Door
    from guard.server.events import events_app
    from guard.server.headers import client_cert
    from guard.server.tts import tts_app

__all__ = ["Door", "client_cert", "events_app", "tts_app"]


def __getattr__(name: str) -> Any:
    if name == "events_app":
        from guard.server.events import events_app

        return events_app
    if name == "Door":
        from guard.server.door import Door

        return Door
    if name == "client_cert":
        from guard.server.headers import client_cert

        return client_cert
    if name == "tts_app":
        from guard.server.tts import tts_app

        return tts_app
    raise AttributeError(f"module 'guard.server' has no attribute {name!r}")
