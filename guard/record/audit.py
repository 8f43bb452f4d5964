"""`AuditFile`: the sink without which no tool runs."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from guard.events import DecisionRecord, OutcomeRecord, PivotRecord, TaskRecord
from guard.record.lines import decision_body, outcome_body, record_body
from guard.record.log import LIMIT, Log

if TYPE_CHECKING:
    from guard.issued import IssueRecord

__all__ = ["AuditFile", "writing"]

_logs: dict[str, Log] = {}
_logs_lock = threading.RLock()


class AuditFile:
    """Writes every record of this process to the hash-chained log of `directory`. Required.

    Several guards of one process that name the same directory share one chain; each further process writes a file beside it. The
    directory is made with the first record, not here. `patience`: how long a record may wait for the disk or for another thread. `limit`: a
    file of so many bytes is full, and the chain goes on in the next one (of several sinks on a directory, the smallest counts). No file is
    ever deleted: how long records are kept is for others to decide.

    | `record.sync` | on return the record survives                     |
    |---------------|---------------------------------------------------|
    | `os`          | kill -9 of this process                           |
    | `group`       | power failure; the fsync is shared with others    |
    | `each`        | power failure; the fsync is its own               |
    """

    required = True

    def __init__(self, directory: str | Path, *, patience: timedelta = timedelta(milliseconds=250), limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError("`limit` is a number of bytes, from 1")
        folder = os.path.realpath(directory)
        with _logs_lock:
            log = _logs.get(folder)
            if log is None:
                log = _logs[folder] = Log(Path(folder), Path(directory), patience.total_seconds(), limit)
            log.users += 1
            log.limit = min(log.limit, limit)
        self._log = log
        self.directory = Path(directory)
        # Closes with the last sink that writes here, at the latest when the interpreter ends.
        self._leave = weakref.finalize(self, _left, folder, log)

    @property
    def inline(self) -> bool:
        """May a record be written in the caller's own thread?

        Handing a line to the operating system takes as long as a function call, so: yes, once the file is open and as long as writes
        are quick. After a slow one the disk is suspect for a minute, and the guard waits for it under its deadline instead. (The one caller
        that is inside `write` when a disk begins to hang, hangs with it; its body does not run.) Waiting for an fsync is bounded by
        `patience`; where it would stop an event loop, a helper thread waits.
        """
        log = self._log
        chain = log.chain
        if chain is None or (chain.size >= log.limit and not log.ready) or (log.slow_until and monotonic() < log.slow_until):
            return False
        return not (log.syncs and _in_event_loop())

    @property
    def path(self) -> Path:
        """The file being written; before the first record, the one that will be unless others hold it."""
        return self._log.path

    def decision(self, record: DecisionRecord) -> None:
        self._log.append(decision_body(record), record.sync, look=True)

    def outcome(self, record: OutcomeRecord) -> None:
        self._log.append(outcome_body(record), "os", look=False)

    def note(self, record: IssueRecord | PivotRecord | TaskRecord) -> None:
        self._log.append(record_body(record), "os", look=True)

    def checkpoint(self) -> None:
        """Cover every record written up to now by a signed checkpoint. Done by itself every 1,000 records or 10 seconds, and at the end."""
        self._log.checkpoint()

    def close(self) -> None:
        """Write the last checkpoint and let go of the file. Called by itself at the end; a later record opens it again."""
        self._log.close()


def _left(folder: str, log: Log) -> None:
    with _logs_lock:
        log.users -= 1
        if log.users > 0:
            return
        if _logs.get(folder) is log:
            del _logs[folder]
    log.close()


def writing(folder: Path) -> Log | None:
    """The log of `folder` if this process writes it."""
    with _logs_lock:
        return _logs.get(os.path.realpath(folder))


def _in_event_loop() -> bool:
    events = sys.modules.get("asyncio.events")  # never loaded by us
    return events is not None and events._get_running_loop() is not None


def _forked() -> None:
    global _logs_lock
    _logs_lock = threading.RLock()
    for log in _logs.values():
        log.forked()


os.register_at_fork(after_in_child=_forked)
