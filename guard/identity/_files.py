"""Small files that others may change under us: read whole, re-read when they changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import NamedTuple

__all__ = ["WatchedFile"]


class Stamp(NamedTuple):
    """What changes when a file does. `ctime` too: a same-size rewrite within the clock's tick leaves `mtime` alone."""

    mtime: int
    ctime: int
    size: int
    inode: int
    device: int


class WatchedFile:
    """The content of a regular file, and whether it may have changed since. One `stat` per `every` seconds, at most."""

    def __init__(self, path: Path, *, most: int, every: float = 1.0) -> None:
        self.path = path
        self._most = most
        self._every = every
        self._next = 0.0
        self._stamp: Stamp | None = None
        self._lock = Lock()

    def changed(self, *, now: bool = False) -> bool:
        """True once after every change, and the first time. A file that cannot be looked at counts as changed each time."""
        with self._lock:
            at = monotonic()
            if at < self._next and not now:
                return False
            self._next = at + self._every
            stamp = self._look()
            if stamp is not None and stamp == self._stamp:
                return False
            self._stamp = stamp
            return True

    def forget(self) -> None:
        """The content was of no use: look again at the next occasion, whether the file changed or not."""
        with self._lock:
            self._stamp = None

    def read(self) -> bytes:
        """The whole file. Raises `OSError`; also where it is not a regular file or too large."""
        # O_NONBLOCK: opening a pipe must not wait for somebody to write into it.
        handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > self._most:
                raise OSError("not a regular file of a sensible size")
            parts: list[bytes] = []
            left = self._most + 1
            while left > 0 and (part := os.read(handle, min(left, 65536))):
                parts.append(part)
                left -= len(part)
            if left <= 0:
                raise OSError("not a regular file of a sensible size")
            return b"".join(parts)
        finally:
            os.close(handle)

    def _look(self) -> Stamp | None:
        try:
            s = self.path.stat()
        except (OSError, ValueError):
            return None
        return Stamp(s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_dev)
