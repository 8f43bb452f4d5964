"""The audit log of one directory, as this process writes it: one line at a time, in one chain, whole or not at all.

| what happens                                    | then                                                                     |
|-------------------------------------------------|--------------------------------------------------------------------------|
| the disk is full, the write is cut short        | what was written of the line is taken back; refused                      |
| interrupted between the write and its book-keeping | the end of the file is read again before the next line                |
| the file was deleted, cut or written by others  | a checkpoint says how far it went; refused once; then a file of its own  |
| fsync fails                                     | refused; then a file of its own: what the kernel could not write is gone |
| fsync hangs, another thread hangs in a write    | refused after `patience`                                                 |
| the process forks                               | the child lets go of the file; its first record takes one of its own     |
| the file is full (`limit` bytes)                | a last checkpoint that says who goes on; the next file, chained to it    |
| ... and the next one cannot be begun            | the full one goes on; tried again a little later                         |
| the process ends                                | a last checkpoint that says: closed                                      |
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from secrets import token_hex
from time import monotonic, time_ns

from guard.record.chain import LINE_MAX, MAIN, Registered, chained, writers
from guard.record.checkpoints import Owed, Signer, owed
from guard.record.claim import begin, claim, end_of
from guard.record.files import Unavailable, unavailable
from guard.record.keeper import EVERY, MOST_UNCOVERED, Chain, Keeper

__all__ = ["LIMIT", "Log"]

LIMIT = 64 << 20
"""Bytes after which a file is full: about 60,000 records."""

_LOOK = 0.001
"""A look at the file is good for so many seconds: in a burst of calls the kernel is not asked the same thing for every one."""

_AGAIN = 10.0
"""Seconds after which the next file is tried again."""

_write = os.write
_fstat = os.fstat


class Log:
    """Appends lines. Safe for threads and forks."""

    def __init__(self, folder: Path, shown: Path, patience: float, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self.patience = patience
        self.users = 0
        self.slow_until = 0.0
        """Until then the disk counts as slow: see `AuditFile.inline`."""
        self.syncs = False
        """Has any record asked for the disk itself?"""
        self._shown = shown
        self.renew()

    def renew(self) -> None:
        """As new, with nothing open: for the child of a fork too, where threads are gone and locks may be held by nobody."""
        self._lock = threading.Lock()
        self._signing = threading.Lock()
        self.chain: Chain | None = None
        self._keeper: Keeper | None = None
        self._signer: Signer | None = None
        self._left: set[str] = set()
        self._looked = 0.0
        self._try_again = 0.0
        self._owed: list[Owed] = []

    def forked(self) -> None:
        """In the child: the file, its lock and its chain are the parent's."""
        chain = self.chain
        self.renew()
        if chain is not None and not chain.shut:
            try:
                os.close(chain.fd)
            except OSError:
                pass

    @property
    def ready(self) -> bool:
        """Is the file open, and has it room? Opening one takes an fsync or two, and so does beginning the next."""
        chain = self.chain
        return chain is not None and (chain.size < self.limit or monotonic() < self._try_again)

    @property
    def path(self) -> Path:
        chain = self.chain
        return self._shown / (chain.file if chain is not None else MAIN)

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def append(self, body: str, sync: str, *, look: bool) -> None:
        """Hand a record to the operating system, and, unless `sync` is "os", to the disk. Raises Unavailable; then no line of it stands.

        (Where only the disk failed, the line may stand: it says what was decided, and no outcome follows.) `look`: see first whether
        the file is still the one we wrote: what goes into a deleted file is not on record.
        """
        lock = self._lock
        if not lock.acquire(False) and not lock.acquire(timeout=self.patience):
            raise unavailable(self.path, "does not answer in time")
        try:
            chain, start = self.chain, monotonic()
            if chain is None or chain.busy or chain.failed is not None:
                chain = self._open()
                start = monotonic()
            elif look and start - self._looked > _LOOK:
                self._looked = start
                seen = _fstat(chain.fd)
                if seen.st_size != chain.size or seen.st_nlink == 0:
                    self._lost(chain)
            if chain.size >= self.limit and start >= self._try_again:
                chain = self._go_on(chain)
                start = monotonic()
            seq, head = chain.tip
            seq += 1
            if seq - chain.covered > MOST_UNCOVERED:
                self._wait_covered(chain)
            line, digest = chained(body, chain.writer, seq, head)
            size = len(line)
            if size > LINE_MAX:
                raise unavailable(self.path, "takes no record of that size")
            chain.busy = True
            try:
                done = _write(chain.fd, line)
            except OSError as error:
                self._take_back(chain)
                raise self._refused(error) from None
            if done != size:
                self._take_back(chain)
                raise unavailable(self.path)
            chain.tip = (seq, digest)
            chain.size += size
            chain.busy = False
            if monotonic() - start > self.patience / 2:
                self.slow_until = monotonic() + 60
            uncovered = seq - chain.covered
            if (uncovered == 1 or uncovered == EVERY) and self._keeper is not None:
                self._keeper.uncovered(uncovered)
            if sync == "each":
                self._durable(chain, seq)  # with the lock held: its own fsync, shared with nobody
        finally:
            lock.release()
        if sync == "group":
            self._durable(chain, seq)

    def _wait_covered(self, chain: Chain) -> None:
        """The thread does not keep up, or its checkpoints fail: then no record either, or the log could lose its end unnoticed."""
        if self._keeper is None or not self._keeper.covered(MOST_UNCOVERED, self.patience):
            raise unavailable(self.path, "has too many records under no checkpoint; its checkpoints cannot be written")

    def _durable(self, chain: Chain, seq: int) -> None:
        self.syncs = True
        if chain.synced >= seq:  # perhaps because the file was full since; its keeper is gone then
            return
        keeper = self._keeper
        if keeper is None or not keeper.durable(seq, self.patience):
            raise unavailable(
                self.path, "could not be brought to the disk" if chain.failed is not None else "did not reach the disk in time"
            )

    def _refused(self, error: OSError, why: str = "") -> Unavailable:
        known = {28: "the disk is full", 122: "the disk quota is used up", 27: "the file may not grow", 30: "the file system is read-only"}
        why = why or known.get(error.errno or 0, "")
        return unavailable(self.path, "is not writable" + (f": {why}" if why else ""))

    def _take_back(self, chain: Chain) -> None:
        """What stands of a line that did not get through. (Never longer than it was: a file that was cut must not grow zeros.)"""
        try:
            if _fstat(chain.fd).st_size > chain.size:
                os.ftruncate(chain.fd, chain.size)
            chain.busy = False
        except OSError:
            pass  # still busy: the end of the file is read again before the next line

    # -- the file --------------------------------------------------------------------------------------------------------------

    def _open(self) -> Chain:
        """The file to write, its end known. Raises Unavailable."""
        chain = self.chain
        if chain is not None and chain.failed is None and self._reread(chain):
            return chain
        if chain is not None:
            self._leave(chain)
        try:
            claimed = claim(self.folder, time_ns() // 1000, self._left)
            chain, self._owed = Chain(*claimed[:-1]), owed(self.folder, claimed)
        except OSError as error:
            raise self._refused(error) from None
        self.chain, self._signer = chain, None
        try:
            if chain.reopened:
                # Said to be closed, and now it goes on. Before the first new line, or who cuts the new lines off leaves a whole log.
                self._sign(chain, closed=False, again=True)
        except OSError as error:
            self.chain = None
            chain.close(self.patience)
            raise self._refused(error, "its checkpoints cannot be written") from None
        self._keep(chain)
        if self._keeper is not None and self._owed:
            self._keeper.uncovered(EVERY)
        if self._keeper is not None and chain.tip[0] > chain.covered:
            self._keeper.uncovered(1)
        return chain

    def _go_on(self, chain: Chain) -> Chain:
        """The file is full: the next one, whose chain begins at the end of this one's. Raises Unavailable.

        | killed after                | what the next writer finds                                                      |
        |-----------------------------|---------------------------------------------------------------------------------|
        | the next file was made      | an empty file of nobody, which nobody minds, beside a full one: tried again      |
        | the next one was registered | the next one, empty; it owes the full one its last checkpoint                    |
        """
        writer = token_hex(4)
        try:
            chain.flush()  # the list of writers names the end: a power failure must not take it
            claimed = begin(self.folder, writer, time_ns() // 1000, (chain.writer, *chain.tip))
        except OSError as error:
            if any(each.writer == writer for each in writers(self.folder)):
                # Named already: who writes on here would write after the end. The next record takes the next file.
                self._leave(chain)
                raise self._refused(error) from None
            self._try_again = monotonic() + _AGAIN
            return chain  # no call is refused because a file is long
        try:
            self._sign(chain, closed=True, again=True, next=(claimed.writer, claimed.file))
        except OSError:
            self._owed = owed(self.folder, claimed)
        keeper = self._keeper
        if keeper is not None:
            keeper.stop(0)
        chain.close(self.patience)
        self.chain, self._signer = Chain(*claimed[:-1]), None
        self._keep(self.chain)
        return self.chain

    def _keep(self, chain: Chain) -> None:
        self._keeper = Keeper(chain, lambda: self._sign(chain, closed=False))

    def _reread(self, chain: Chain) -> bool:
        """After an interrupt: does the line stand or not? Number and hash come from the file."""
        try:
            # A file without lines is only taken where nothing was written yet.
            end = end_of(chain.fd, Registered(chain.writer, chain.file, chain.tip[1] if chain.tip[0] == 0 else ""))
        except OSError as error:
            raise self._refused(error) from None
        if end is None or end[0] not in (chain.tip[0], chain.tip[0] + 1) or (end[0] == chain.tip[0] and end[1] != chain.tip[1]):
            return False
        chain.tip, chain.size, chain.busy = (end[0], end[1]), end[2], False
        return True

    def _lost(self, chain: Chain) -> None:
        """Somebody deleted, cut or wrote the file. What we know of it goes into a checkpoint, which tells `verify_log`."""
        path = self.path
        try:
            self._sign(chain, closed=False, flush=False)
        except OSError:
            pass  # the checkpoints are gone too
        self._leave(chain)
        raise unavailable(path, "was deleted or changed by somebody else")

    def _leave(self, chain: Chain) -> None:
        self._left.add(chain.file)
        keeper, self.chain, self._keeper = self._keeper, None, None
        if keeper is not None:
            keeper.stop(0)
        chain.close(self.patience)

    # -- checkpoints -----------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Cover every record written up to now. Raises OSError."""
        chain = self.chain
        if chain is not None:
            self._sign(chain, closed=False)

    def close(self) -> None:
        """The last checkpoint, and let go of the file. The next record opens it again."""
        if not self._lock.acquire(timeout=self.patience):
            return
        try:
            chain, keeper = self.chain, self._keeper
            if chain is None:
                return
            if keeper is not None:
                keeper.stop(max(self.patience, 1.0))
            try:
                if not chain.busy and chain.failed is None:
                    self._sign(chain, closed=True)
            except OSError:
                pass  # the log stays without its end; `verify_log` says so
            self.chain = self._keeper = self._signer = None
            chain.close(self.patience)
        finally:
            self._lock.release()

    def _sign(self, chain: Chain, *, closed: bool, again: bool = False, flush: bool = True, next: tuple[str, str] | None = None) -> None:
        """A checkpoint, unless the last one says the same. Raises OSError; also where another thread hangs in one."""
        if not self._signing.acquire(timeout=max(self.patience, 1.0)):
            raise TimeoutError
        try:
            while self._owed and not chain.shut:
                self._owed[0].pay()
                del self._owed[0]
            seq, head = chain.tip
            if chain.shut or seq == 0 or (seq == chain.covered and not again and (not closed or chain.signed_off)):
                return
            if flush:
                chain.flush()
            self._signed(chain).write(seq, head, time_ns() // 1000, closed=closed, next=next)
            chain.covered, chain.signed_off = seq, closed
        finally:
            self._signing.release()

    def _signed(self, chain: Chain) -> Signer:
        if self._signer is None:
            self._signer = Signer(self.folder, chain.file, chain.writer)
        return self._signer
