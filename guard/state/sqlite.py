"""State in one SQLite file (WAL): shared by every process of one machine, exact across a kill -9.

A list is judged on rows, and a row that this connection has read or written is not read again before another one has committed.

One connection a process, used by the caller's own thread under a lock: handing a list to a writer thread and back costs more
than the whole transaction (measured: 44 us for the hand-over, 30 us for the transaction). Waiting for another process is ours, not
SQLite's: its busy handler sleeps ever longer, up to 100 ms, so that whoever has waited longest waits longest still.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import random
from time import monotonic, sleep
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakSet

from guard.errors import StateUnavailable
from guard.ops import Applied, Op, Refused
from guard.state.rows import NOW, Changes, Row, judge, names

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SCHEMA", "SqliteState"]

T = TypeVar("T")

SCHEMA = 1
_OPEN_SECONDS = 5.0
_BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED, whatever the extended code adds
_SLOW, _SUSPECT = 0.05, 10.0
"""Seconds: a call that takes longer is slow, and for how long the store is then asked from a helper thread."""
_HELD = 8192
"""Rows kept in memory: so many, then all are read anew."""
_SWEEP = 256
"""Committed lists between two looks for rows that have ended."""

_CREATE = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE kv (k TEXT PRIMARY KEY, n INTEGER, v TEXT, by TEXT NOT NULL, ends INTEGER) WITHOUT ROWID",
    "CREATE INDEX kv_ends ON kv (ends) WHERE ends IS NOT NULL",
)
_WRITE = "REPLACE INTO kv (k, n, v, by, ends) VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM kv WHERE k = ?"
_FORGET = "DELETE FROM kv WHERE k IN (SELECT k FROM kv WHERE ends <= ? LIMIT ?)"


class SqliteState:
    """Implements `guard.ports.StateStore`. `timeout`: seconds a caller waits for others before it is refused with StateUnavailable.

    `born`: when the file was made; what happened before, it cannot know. The file must lie on a local disk, belongs to its user
    (mode 0600), and survives a killed process; after a power failure the last commits may be missing (`synchronous=NORMAL`).
    """

    def __init__(self, path: str | Path, *, timeout: float = 1.0) -> None:
        self.path = Path(path).absolute()
        self._text = str(self.path)
        self.timeout = timeout
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._file: tuple[int, int] | None = None
        self._refuses: str | None = None
        self._lists = self._ending = 0
        self._slow_until = 0.0
        self._reads: dict[int, str] = {}
        self._rows: dict[str, Row | None] = {}
        self._version = -1
        self.born: datetime = datetime.now(UTC)
        try:
            self._open(monotonic() + max(timeout, _OPEN_SECONDS))
        except Exception as error:
            self._drop()
            raise _unavailable(error, self.path.name) from None
        _stores.add(self)

    @property
    def inline(self) -> bool:
        """May the caller's own thread ask? A transaction takes less than handing it to another thread does, so: yes, as long as none was
        slow in the last seconds, and not where waiting for another process would stop an event loop."""
        return monotonic() > self._slow_until and not _in_event_loop()

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        """See the port. One read of every row the list is about, one judgement, one write of what changed; all in one transaction."""
        deadline = monotonic() + self.timeout
        try:
            if now.tzinfo is None:
                raise TypeError("now")
            at = int(now.timestamp())
            named = names(ops)
        except Exception as error:
            raise StateUnavailable(f"not a list of operations: {type(error).__name__}") from None
        if not self._lock.acquire(timeout=self.timeout):
            raise StateUnavailable(f"state file {self.path.name}: other callers of this process took too long")
        try:
            answer, at = self._apply(ops, named, at, deadline) if commit else self._trial(ops, named, at, deadline)
            return answer if type(answer) is Refused else Applied(tuple(answer), at)
        except Exception as error:
            raise _unavailable(error, self.path.name) from None
        finally:
            self._lock.release()
            ended = monotonic()
            if ended - deadline + self.timeout > _SLOW:
                self._slow_until = ended + _SUSPECT

    def close(self) -> None:
        """Close the file. Every later call is refused. Safe to repeat."""
        with self._lock:
            self._refuses = "is closed"
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self._drop()

    # -- one list, under the lock -------------------------------------------------------------------------------------------------

    def _apply(self, ops: Sequence[Op], named: list[str], at: int, deadline: float) -> tuple[list[object] | Refused, int]:
        cursor = self._ready(deadline)
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except Exception as error:
            if not _busy(error):
                raise
            _patiently(lambda: cursor.execute("BEGIN IMMEDIATE"), deadline)
        finished = False
        try:
            rows = self._rows_of(cursor, named)
            held = rows[NOW]
            if held is not None and held[1] is not None and held[1] > at:
                at = held[1]
            answer, changes = judge(ops, named, rows, at)
            if type(answer) is Refused:  # what it had done up to there stands in the rows, and is not so
                rows.clear()
            if held is None or held[1] is None or held[1] < at:
                rows[NOW] = changes[NOW] = (NOW, at, None, "", None)
            if changes:
                self._write(cursor, changes, at)
                cursor.execute("COMMIT")
            else:
                cursor.execute("ROLLBACK")
            finished = True
        finally:
            if not finished:
                self._rows.clear()
                self._undo(cursor)
        return answer, at

    def _rows_of(self, cursor: sqlite3.Cursor, named: list[str]) -> dict[str, Row | None]:
        """What is known of the file, every row of `named` in it; None: there is no such row. For a transaction in which nobody else can write.

        What this connection has read or written stays so until another one commits; then `data_version` is another.
        """
        rows = self._rows
        (version,) = cursor.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(rows) > _HELD:
            rows.clear()
            self._version = version
        missing = [name for name in (NOW, *named) if name not in rows]
        if missing:
            rows.update(dict.fromkeys(missing))
            rows.update([(row[0], row) for row in cursor.execute(self._read(len(missing)), missing)])
        return rows

    def _trial(self, ops: Sequence[Op], named: list[str], at: int, deadline: float) -> tuple[list[object] | Refused, int]:
        cursor = self._ready(deadline)
        sql, keys = self._read(len(named) + 1), (NOW, *named)
        # One statement sees one state of the file: no transaction, and nobody waits for it.
        rows = _patiently(lambda: {row[0]: row for row in cursor.execute(sql, keys)}, deadline)
        held = rows.get(NOW)
        if held is not None and held[1] > at:
            at = held[1]
        answer, _ = judge(ops, named, rows, at)
        return answer, at

    def _read(self, n: int) -> str:
        sql = self._reads.get(n)
        if sql is None:
            sql = self._reads[n] = f"SELECT k, n, v, by, ends FROM kv WHERE k IN ({','.join('?' * n)})"  # noqa: S608 - question marks only
        return sql

    def _write(self, cursor: sqlite3.Cursor, changes: Changes, at: int) -> None:
        rows: list[Row] = []
        for key, row in changes.items():
            if row is None:
                cursor.execute(_DELETE, (key,))
                continue
            rows.append(row)
            if row[4] is not None:
                self._ending += 1
        cursor.executemany(_WRITE, rows)
        self._lists += 1
        if self._lists % _SWEEP == 0:
            cursor.execute(_FORGET, (at, 2 * self._ending + 64))  # more than were added since: it cannot fall behind
            self._ending = 0

    def _undo(self, cursor: sqlite3.Cursor) -> None:
        try:
            if cursor.connection.in_transaction:
                cursor.execute("ROLLBACK")
        except Exception:
            self._drop()  # a connection that cannot even roll back is not used again

    # -- the file -----------------------------------------------------------------------------------------------------------------

    def _ready(self, deadline: float) -> sqlite3.Cursor:
        """The cursor, on the very file this store was made on: counting on in a file that was moved away would begin from nothing."""
        if self._refuses is not None:
            raise StateUnavailable(f"state file {self.path.name} {self._refuses}")
        try:
            found = os.stat(self._text)  # noqa: PTH116 - half the time of Path.stat, on every call
        except OSError as error:
            raise StateUnavailable(f"state file {self.path.name} is gone or cannot be reached: {type(error).__name__}") from None
        if (found.st_dev, found.st_ino) != self._file:
            raise StateUnavailable(f"state file {self.path.name} was replaced by another: start again with it on purpose")
        return self._cursor if self._cursor is not None else self._open(deadline)

    def _open(self, deadline: float) -> sqlite3.Cursor:
        import sqlite3

        if self._file is None:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileExistsError):  # made here, because SQLite would make it readable for everybody
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._connection = sqlite3.connect(self._text, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)
        cursor = self._connection.cursor()
        mode = _patiently(lambda: cursor.execute("PRAGMA journal_mode=WAL").fetchone(), deadline)
        if mode != ("wal",):
            raise StateUnavailable(f"state file {self.path.name}: this file system cannot share it (no WAL)")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA journal_size_limit=16777216")
        self.born = _patiently(lambda: _schema(cursor, self.path.name), deadline)
        found = self.path.stat()
        self._file = found.st_dev, found.st_ino
        self._cursor = cursor
        return cursor

    def _drop(self) -> None:
        connection, self._connection, self._cursor = self._connection, None, None
        self._rows.clear()
        self._version = -1
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _schema(cursor: sqlite3.Cursor, name: str) -> datetime:
    """Make the tables in an empty file; refuse a file that is not ours or is newer than we are. Answers when it was made."""
    cursor.execute("BEGIN IMMEDIATE")
    try:
        tables = {row[0] for row in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in _CREATE:
                cursor.execute(statement)
            meta = [("schema", str(SCHEMA)), ("born", datetime.now(UTC).isoformat())]
            cursor.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta)
        elif not {"meta", "kv"} <= tables:
            raise StateUnavailable(f"{name} is a database, but not a guardtrail state file")
        found = dict(cursor.execute("SELECT name, value FROM meta"))
        if int(found["schema"]) > SCHEMA:
            raise StateUnavailable(
                f"state file {name} has schema {int(found['schema'])}, this guardtrail knows {SCHEMA}: upgrade guardtrail"
            )
        born = datetime.fromisoformat(found["born"])
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(Exception):
            cursor.execute("ROLLBACK")
        raise
    return born


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # who has not imported it has no loop
    return asyncio is not None and asyncio._get_running_loop() is not None


def _busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def _patiently(attempt: Callable[[], T], deadline: float) -> T:
    """Again until it is not busy. Short, uneven pauses that get shorter with age: who has waited longest asks most often."""
    began = monotonic()
    while True:
        try:
            return attempt()
        except Exception as error:
            if not _busy(error):
                raise
            waited = monotonic()
            if waited >= deadline:
                raise
        sleep((0.0002 if waited - began > 0.01 else 0.0008) * (0.2 + random()))  # noqa: S311 - no secret


def _unavailable(error: Exception, name: str) -> StateUnavailable:
    if isinstance(error, StateUnavailable):
        return error
    if _busy(error):
        return StateUnavailable(f"state file {name}: other processes took too long")
    return StateUnavailable(f"state file {name} cannot be used: {getattr(error, 'sqlite_errorname', type(error).__name__)}")


# SQLite's own table of open files is copied by fork and would be wrong in the child, even for a connection opened there. So the
# connection is closed before a fork, and opened again on each side when next needed.
_stores: WeakSet[SqliteState] = WeakSet()
_held: list[SqliteState] = []
_abandoned: list[object] = []


def _before_fork() -> None:
    for store in list(_stores):
        if store._lock.acquire(timeout=max(store.timeout, 1.0) * 2):
            _held.append(store)
            store._drop()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._lock = threading.Lock()
        if store._connection is not None:  # never touched again, not even to close it
            _abandoned.append(store._connection)
            store._connection = store._cursor = None
            store._refuses = "was open across a fork: make the store in the child"
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
