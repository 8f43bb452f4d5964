"""The HTTP server in front: uvicorn, whose answers leave in one piece. Headers and body written apart wake the client twice, a tenth of a short call."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from guard.errors import ConfigError
from guard.gateway.ending import ending

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
except ImportError:
    raise ConfigError('the gateway needs uvicorn and httptools: pip install "guardtrail[gateway]"') from None

__all__ = ["run", "serve"]

_MOST_AT_ONCE = 1024
T = TypeVar("T")


class _OnePiece:
    """A transport that writes what one turn of the event loop has brought at once."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(Protocol):
    def connection_made(self, transport: Any) -> None:
        super().connection_made(_OnePiece(transport))  # type: ignore[arg-type]


class _Server(uvicorn.Server):
    """Ends with a signal, and goes on to what follows: uvicorn would raise the signal again, and nobody would close the log."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with ending(lambda: setattr(self, "should_exit", True)):
            yield


async def serve(app: Any, listener: socket.socket) -> None:
    """Until SIGINT or SIGTERM. What comes beyond so many at once is answered 503; nothing that was sent gets into a log."""
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", access_log=False, log_level="warning", server_header=False, lifespan="off", proxy_headers=False,
        limit_concurrency=_MOST_AT_ONCE, timeout_keep_alive=30, timeout_graceful_shutdown=5,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what is here now stays: no collection need look at it again
    await _Server(config).serve(sockets=[listener])


def run(job: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on the faster loop where it is installed."""
    try:
        import uvloop
    except ImportError:  # not everywhere
        return asyncio.run(job)
    made: T = uvloop.run(job)
    return made
