"""A port for a server that must be told which, because somebody has to know it before it runs, or finds it there again when it was started anew."""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom

__all__ = ["free"]

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free() -> int:
    """Nobody listens there, and the system gives it to nobody: neither for port 0 nor for a connection that goes out. So it is still free in a while."""
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    for _ in range(1000):
        port = SystemRandom().randrange(min(10_000, first - 1), first)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
