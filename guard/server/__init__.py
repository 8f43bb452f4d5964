"""Endpoints that others call. Needs `pip install "guardtrail[server]"`; nothing of it is loaded by `import guard`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.server.door import Door
    from guard.server.events import events_app
    from guard.server.headers import client_cert
    from guard.server.requests import RequestTask, request_task
    from guard.server.tts import tts_app

__all__ = ["Door", "RequestTask", "client_cert", "events_app", "request_task", "tts_app"]


_HOMES = {
    "Door": "guard.server.door",
    "RequestTask": "guard.server.requests",
    "client_cert": "guard.server.headers",
    "events_app": "guard.server.events",
    "request_task": "guard.server.requests",
    "tts_app": "guard.server.tts",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module 'guard.server' has no attribute {name!r}")
