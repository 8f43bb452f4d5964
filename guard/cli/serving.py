"""How a verb listens: `guardtrail tts serve`, `guardtrail ssf serve`."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

from guard.cli.output import CannotAnswer

__all__ = ["DEADLINE", "listen", "run", "where"]

DEADLINE = timedelta(seconds=5)
"""Of a decision where many ask at once; half of it is for a record and a busy disk. Each would rather wait than come again."""

_MOST_AT_ONCE = 256


def listen(host: str, port: int) -> socket.socket:
    """`port` 0: a free one."""
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CannotAnswer(f"cannot listen on {host} port {port}: {(error.strerror or 'no such address').lower()}") from None
    # asyncio sets it by itself on sockets that it made: without it every answer waits 40 ms for an acknowledgement, as headers and body are written apart.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def where(listener: socket.socket) -> str:
    """Its address as a URL."""
    address, number = listener.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{number}"


def run(asgi: Any, listener: socket.socket) -> None:
    """Until Ctrl-C, or who started it ends it."""
    try:
        import uvicorn
    except ImportError:
        raise CannotAnswer('to serve needs uvicorn: pip install "guardtrail[server]"') from None
    # No access log: nothing that was sent may end up in one. What comes beyond so many at once is answered 503.
    level = "debug" if os.environ.get("GUARDTRAIL_DEBUG") == "1" else "warning"
    config = uvicorn.Config(
        asgi, access_log=False, log_level=level, server_header=False, lifespan="off", limit_concurrency=_MOST_AT_ONCE, timeout_keep_alive=5,
        h11_max_incomplete_event_size=32 * 1024,
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # it has come to its end, and says once more why
        pass
