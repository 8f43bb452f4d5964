"""What takes time, on a thread of its own: bringing lines to the disk, and checkpoints.

One fsync serves everyone who waits when it starts; who comes while it runs waits for the next. A caller waits for a limited time: a
disk that hangs makes the thread wait, and the callers be refused.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["EVERY", "MOST_UNCOVERED", "SECONDS", "Chain", "Keeper", "flush"]

EVERY = 1000
"""A checkpoint after so many records ..."""

SECONDS = 10.0
"""... or so long after a record that none covers yet."""

MOST_UNCOVERED = 2 * EVERY
"""No writer goes on with more records than these uncovered; more of them in a file means that its checkpoints were taken away."""

if sys.platform == "darwin":
    import fcntl

    def flush(fd: int) -> None:
        """To the disk itself: there, fsync stops at the disk's own cache."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def flush(fd: int) -> None:
        """To the disk: the content, and the size without which it cannot be read."""
        os.fdatasync(fd)


class Chain:
    """The open file of one writer. `tip`: number and hash of its last line, one value, so that every thread reads a pair that fits."""

    __slots__ = ("busy", "closing", "covered", "failed", "fd", "file", "reopened", "shut", "signed_off", "size", "synced", "tip", "writer")

    def __init__(self, fd: int, writer: str, file: str, seq: int, head: str, size: int, covered: int, reopened: bool) -> None:
        self.fd = fd
        self.writer = writer
        self.file = file
        self.tip = (seq, head)
        self.size = size
        self.covered = covered
        self.synced = 0
        self.failed: OSError | None = None
        self.reopened = reopened
        self.signed_off = reopened
        self.busy = False
        self.shut = False
        self.closing = threading.Lock()

    def flush(self) -> None:
        """All lines up to now to the disk. Raises OSError, for ever after the first time: what the kernel could not write it forgets."""
        with self.closing:
            if self.failed is not None:
                raise self.failed
            seq = self.tip[0]
            if self.shut or seq == self.synced:
                return
            try:
                flush(self.fd)
            except OSError as error:
                self.failed = error
                raise
            self.synced = seq

    def close(self, patience: float) -> None:
        """Give the file and its lock back. Where a flush hangs, the descriptor stays with it."""
        if self.closing.acquire(timeout=patience):
            try:
                if not self.shut:
                    self.shut = True
                    os.close(self.fd)
            finally:
                self.closing.release()


class Keeper:
    """The thread. Made with the first record of a file; ends with `stop`, or with the process."""

    def __init__(self, chain: Chain, checkpoint: Callable[[], None]) -> None:
        self._chain = chain
        self._checkpoint = checkpoint
        self._change = threading.Condition(threading.Lock())
        self._wanted = 0
        self._due: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="guardtrail-audit", daemon=True)
        self._thread.start()

    def uncovered(self, number: int) -> None:
        """So many records are under no checkpoint now; called for the first one, and when there are enough for one."""
        with self._change:
            self._due = monotonic() + SECONDS if number == 1 else 0.0
            self._change.notify_all()

    def durable(self, seq: int, patience: float) -> bool:
        """Wait until record `seq` is on the disk. False: it was not in time, or cannot be."""
        chain = self._chain

        def ask() -> None:
            self._wanted = max(self._wanted, seq)

        return self._wait(ask, lambda: chain.synced >= seq, lambda: chain.failed is not None, patience)

    def covered(self, most: int, patience: float) -> bool:
        """Wait until fewer than `most` records are under no checkpoint. False: not in time."""
        chain = self._chain

        def ask() -> None:
            self._due = 0.0

        return self._wait(ask, lambda: chain.tip[0] - chain.covered < most, lambda: False, patience)

    def _wait(self, ask: Callable[[], None], done: Callable[[], bool], never: Callable[[], bool], patience: float) -> bool:
        end = monotonic() + patience
        with self._change:
            if not done():
                ask()
                self._change.notify_all()
            while not done():
                left = end - monotonic()
                if left <= 0 or self._stopping or never():
                    return False
                self._change.wait(left)
        return True

    def stop(self, patience: float) -> None:
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(patience)

    def _run(self) -> None:
        chain = self._chain
        while True:
            with self._change:
                while not self._stopping and self._wanted <= chain.synced and not self._is_due():
                    self._change.wait(None if self._due is None else max(0.0, self._due - monotonic()))
                if self._stopping:
                    return
                wanted, due = self._wanted > chain.synced, self._is_due()
                if due:
                    self._due = None
            self._work(wanted, due)
            with self._change:
                if chain.failed is not None:
                    self._wanted = 0
                self._change.notify_all()

    def _is_due(self) -> bool:
        return self._due is not None and self._due <= monotonic()

    def _work(self, wanted: bool, due: bool) -> None:
        try:
            if wanted:
                self._chain.flush()
                with self._change:
                    self._change.notify_all()  # who waits need not wait for the checkpoint
            if due:
                self._checkpoint()
                if self._chain.tip[0] > self._chain.covered:  # written while the checkpoint was
                    with self._change:
                        self._due = self._due if self._due is not None else monotonic() + SECONDS
        except Exception:
            # Said to whoever waits (`chain.failed`). A checkpoint that could not be written is tried again; without one, no writer
            # goes beyond MOST_UNCOVERED records.
            with self._change:
                self._due = monotonic() + SECONDS if due else self._due
