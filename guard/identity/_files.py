"""Small files that others may change under us: read whole, re-read when they changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import NamedTuple

from guard.errors import ConfigError

__all__ = ["WatchedFile", "secret_bytes", "why_not"]


_TICK = 2.0
"""Seconds within which two changes may bear the same time: some milliseconds on a disk of our own, up to two seconds on others."""


def secret_bytes(path: str | Path, *, who: str, what: str, most: int = 64 * 1024) -> bytes:
    """The file of a secret, which its owner alone may open; nothing of a file that is none. `who` reads, `what` is in it.

    Raises ConfigError, which never quotes the file.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(most) if stat.S_ISREG(mode) else b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{who}: cannot read {path}: {why_not(error)}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{who}: {path} holds {what} and others may open it; run: chmod 600 {path}")
    return raw


def why_not(error: OSError | ValueError) -> str:
    """What the operating system says, without the path; ValueError: it is none."""
    return (error.strerror if isinstance(error, OSError) else None) or "not a path"


class Stamp(NamedTuple):
    """What changes when a file does. `ctime` too: `mtime` can be set to anything."""

    mtime: int
    ctime: int
    size: int
    inode: int
    device: int

    @property
    def settled(self) -> bool:
        """A change from now on will show. While the last one is this fresh, a rewrite of the same size might not."""
        return abs(time() - max(self.mtime, self.ctime) / 1e9) > _TICK


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
        """True at least once after every change, and the first time. A file that cannot be looked at, or was changed a moment ago,
        counts as changed each time: whoever reads compares."""
        with self._lock:
            at = monotonic()
            if at < self._next and not now:
                return False
            self._next = at + self._every
            stamp = self._look()
            if stamp is not None and stamp == self._stamp:
                return False
            self._stamp = stamp if stamp is not None and stamp.settled else None
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
