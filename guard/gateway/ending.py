"""How a gateway ends: by a signal, and then in order, so that servers are let go and the log is closed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["ending"]


@contextmanager
def ending(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`."""
    loop, heard = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    for each in heard:
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not everywhere, and in the main thread only
            loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in heard:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(each)
