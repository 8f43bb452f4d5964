"""Which file this process writes: a writer owns one file and one chain, and whoever holds the file's lock is that writer.

| what stands there                                          | then                                                       |
|------------------------------------------------------------|------------------------------------------------------------|
| nothing                                                    | `audit.jsonl` is made, a writer registered for it          |
| a registered file that nobody holds                        | its writer is continued: also after a crash                |
| the same, with a last line that was never finished         | that piece is cut off; it was never acknowledged           |
| a registered file that was full: another goes on from it   | never again; the one that goes on is looked at             |
| a registered file that another process holds               | the next one; if none is free, `audit-<writer>.jsonl`      |
| a registered file that does not end as its chain must, or  | it is left as it is: it is evidence, `verify_log` says of  |
| before its last checkpoint, or is missing                  | what; a writer of its own is registered                    |
| a file that nobody registered                              | the same: never ours                                       |

Continuing keeps the number of files at the number of processes that ever wrote at the same time, and lets the next checkpoint cover
what a crash left uncovered. The lock is the kernel's (`flock`): it goes with the process that held it, however that ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from pathlib import Path
from secrets import token_hex
from time import sleep
from typing import NamedTuple

from guard.record.chain import MAIN, After, Registered, checkpoints_of, continued, last_line, link, own_hash, register, writers
from guard.record.checkpoints import last_checkpoint
from guard.record.files import ensure, sync_folder

__all__ = ["Claim", "begin", "claim", "end_of", "file_of", "held"]

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Claim(NamedTuple):
    """A file this process holds, and where its chain stands. `reopened`: its last checkpoint says it was closed."""

    fd: int
    writer: str
    file: str
    seq: int
    head: str
    size: int
    covered: int
    reopened: bool
    after: After | None = None


def claim(folder: Path, now: int, left: Collection[str] = ()) -> Claim:
    """Find or make a file to write. Never one of `left`. Raises OSError."""
    ensure(folder)
    known: dict[str, Registered] = {}
    for entry in writers(folder):
        known.setdefault(entry.file, entry)
    full = continued(known.values())
    for entry in known.values():
        if entry.file not in left and entry.writer not in full and (found := _continue(folder, entry)) is not None:
            return found
    if MAIN not in known and MAIN not in left and (found := _begin_main(folder, now)) is not None:
        return found
    return begin(folder, token_hex(4), now)


def begin(folder: Path, writer: str, now: int, after: After | None = None) -> Claim:
    """A file of its own for a new writer. Raises OSError."""
    file = file_of(writer)
    fd = os.open(folder / file, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _begin(folder, fd, writer, file, now, after)
    except BaseException:
        os.close(fd)
        if not any(each.writer == writer for each in writers(folder)):
            (folder / file).unlink(missing_ok=True)  # a full disk: not one more empty file with every try
        raise


def file_of(writer: str) -> str:
    """The name of a writer's own file."""
    return f"audit-{writer}.jsonl"


def _begin_main(folder: Path, now: int) -> Claim | None:
    fd = os.open(folder / MAIN, _FLAGS | os.O_CREAT, 0o600)
    try:
        # Asked again with the lock held: another process may have registered it, or written it, between our two looks.
        if _lock(fd) and os.fstat(fd).st_size == 0 and not any(entry.file == MAIN for entry in writers(folder)):
            return _begin(folder, fd, token_hex(4), MAIN, now)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _begin(folder: Path, fd: int, writer: str, file: str, now: int, after: After | None = None) -> Claim:
    entry = register(folder, writer, file, now, after)
    sync_folder(folder)
    return Claim(fd, writer, file, 0, entry.genesis, 0, 0, False, after)


def _continue(folder: Path, entry: Registered) -> Claim | None:
    """The file of a registered writer, if it is free and whole. Not made anew where it is missing: that would hide it."""
    try:
        fd = os.open(folder / entry.file, _FLAGS)
    except OSError:
        return None
    try:
        if _lock(fd) and (end := end_of(fd, entry)) is not None:
            seq, head, size = end
            last = last_checkpoint(checkpoints_of(folder, entry.file, entry.writer))
            if last is None:
                return Claim(fd, entry.writer, entry.file, seq, head, size, 0, False, entry.after)
            if last.next is not None:
                # Attack: who went on from here was taken away with its registration. Writing on would bury that.
                os.close(fd)
                return None
            # Attack: the file was cut to before its last checkpoint. Writing on would bury the gap under new records.
            if last.writer == entry.writer and (last.seq < seq or (last.seq == seq and last.head == head)):
                return Claim(fd, entry.writer, entry.file, seq, head, size, last.seq, last.closed, entry.after)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def end_of(fd: int, entry: Registered) -> tuple[int, str, int] | None:
    """(number and hash of the last record, size), None where the file does not end like this writer's. An unfinished line is cut off."""
    line, good, size = last_line(fd)
    if not line:
        if good != 0 or (size and os.pread(fd, 1, 0) != b"{"):
            return None
        seq, head = 0, entry.genesis
    else:
        end = link(line)
        if end is None or end.writer != entry.writer or own_hash(line) != end.hash:
            return None
        seq, head = end.seq, end.hash
    if good != size:
        os.ftruncate(fd, good)
    return seq, head, good


def _lock(fd: int) -> bool:
    for pause in (0.001, 0.002, 0.0):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            sleep(pause)  # `held` asks by taking the lock for an instant
    return False


def held(path: Path) -> bool:
    """Is a process writing this file now?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)
