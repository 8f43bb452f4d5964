"""Telemetry in a file: an agent of the endpoint appends one JSON object a line, guards read what is new. See `SignalFeed.take` for the line."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from guard.identity.signals import SignalFeed, SignalRefused
from guard.model import Delegation, Signal

__all__ = ["FileRead", "SignalFile", "SignalFiles"]

_CHUNK: Final = 256 * 1024
_MOST: Final = 16 * 1024 * 1024
_LINE: Final = 8192


class FileRead(NamedTuple):
    """What one look brought. `refused`: line numbers (from 1, since the file was opened) and why, without what stood there."""

    taken: int
    refused: tuple[tuple[int, str], ...]


class SignalFile:
    """Reads what was appended since the last look. A file that was replaced or cut is read from its beginning: an older word never replaces
    a later one. A last line without an end is left for the next look. What a line may say is the feed's business: it knows the sources."""

    def __init__(self, path: str | Path, feed: SignalFeed) -> None:
        self.path = Path(path)
        self._feed = feed
        self._at = self._line = 0
        self._inode: tuple[int, int] | None = None

    def read(self) -> FileRead:
        """Raises OSError where the file cannot be read, StateUnavailable where what it says cannot be kept: then it is read again."""
        taken, refused = 0, []
        for end, line in self._new():
            if line.strip():
                try:
                    if len(line) > _LINE:
                        raise SignalRefused("longer than a signal is")
                    self._feed.take(line)
                    taken += 1
                except SignalRefused as error:
                    refused.append((self._line + 1, str(error)))
            self._at, self._line = end, self._line + 1
        return FileRead(taken, tuple(refused))

    def _new(self) -> Iterator[tuple[int, bytes]]:
        """(where it ends, line) of every whole line since the last look, 16 MiB at most."""
        # O_NONBLOCK: opening a pipe must not wait for somebody to write into it.
        handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise OSError("not a regular file")
            if self._inode != (about.st_dev, about.st_ino) or about.st_size < self._at:
                self._inode, self._at, self._line = (about.st_dev, about.st_ino), 0, 0
            os.lseek(handle, self._at, os.SEEK_SET)
            at, rest, read = self._at, b"", 0
            while read < _MOST and (chunk := os.read(handle, _CHUNK)):
                read += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    at += len(line) + 1
                    yield at, line
        finally:
            os.close(handle)


class SignalFiles:
    """`guard.ports.Signals`: a feed, and files that are looked at once a second before it is asked. A file that cannot be read says nothing
    new, and what it said before grows stale."""

    def __init__(
        self, feed: SignalFeed, paths: Sequence[str | Path], *, every: float = 1.0, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._feed, self._files = feed, tuple(SignalFile(path, feed) for path in paths)
        self._every, self._steady = every, steady
        self._next = float("-inf")
        self._lock = Lock()

    inline = False  # a file may hold much that is new

    def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> Mapping[str, Signal]:
        """See the port."""
        if self._steady() >= self._next:
            with self._lock:
                if self._steady() >= self._next:
                    self._next = self._steady() + self._every
                    for file in self._files:
                        try:
                            file.read()
                        except OSError:
                            continue
        return self._feed.get(delegation, names, now=now)
