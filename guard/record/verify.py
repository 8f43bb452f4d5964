"""`verify_log`: was a record edited, deleted, inserted, moved? Streams: what it holds does not grow with the log.

| what was done                                    | how it shows                                                           |
|--------------------------------------------------|------------------------------------------------------------------------|
| a record edited                                  | its hash does not fit its bytes                                        |
| ... and its hash written anew                    | the next record's `prev` does not fit                                  |
| ... and every hash after it                      | the next checkpoint has another hash for the record it counts          |
| records deleted, moved, inserted                 | numbers and `prev` do not follow one another                           |
| the end cut off, up to the last checkpoint       | the checkpoint counts more records than there are                      |
| the end cut off after it                         | cannot be told from a crash: **incomplete**                            |
| a checkpoint edited, forged, deleted             | signature, `prev` and `n` do not fit; too many records under none      |
| a whole file deleted                             | the list of writers, and the checkpoints of the other writers, name it |
| ... the newest, with all that names it there     | the last checkpoint of the file before it names who went on from it    |
| everything rewritten, checkpoints signed anew    | only by a key or a checkpoint kept elsewhere: `key`, `witness`         |
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from guard.frozen import frozen
from guard.record.audit import writing
from guard.record.chain import LINE_MAX, MAIN, Registered, checkpoints_of, continued, writers
from guard.record.checkpoints import Checkpoint, parse_checkpoint, public_key
from guard.record.claim import held
from guard.record.walk import Findings, Mark, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Damage", "Verified", "verify_log"]

Progress = Callable[[int, int], None]


@frozen
class Damage:
    """One thing that is wrong. `record`: the line of `file`, 0 where it is about the file as a whole. `text` holds no values."""

    file: str
    record: int
    text: str

    def __str__(self) -> str:
        return self.text if self.file == MAIN else f"{self.text} ({self.file})"


@frozen
class Verified:
    """What a log is worth.

    `ok`: nothing is wrong with it. `incomplete`: nothing proves that its end is there: a writer ended without closing, or the end
    was cut off after the last checkpoint; `why` says which. `uncovered`: records under no checkpoint. `running`: a writer is at
    work, which is why records may be uncovered. `more`: problems beyond the ones listed.
    """

    ok: bool
    incomplete: bool
    running: bool
    records: int
    checkpoints: int
    writers: int
    uncovered: int
    problems: tuple[Damage, ...]
    more: int
    why: str

    @property
    def text(self) -> str:
        """One line."""
        if self.problems:
            others = len(self.problems) + self.more - 1
            return f"found: {self.problems[0]}" + (f" (+{others} more)" if others else "")
        counts = f"{_count(self.records, 'record')}, {_count(self.checkpoints, 'checkpoint')}"
        if self.incomplete:
            return f"incomplete ({counts}): {self.why}"
        if self.uncovered:
            return f"log ok so far ({counts}); the last {self.uncovered:,} wait for a checkpoint of the running writer"
        return f"whole log ok ({counts})"


def verify_log(
    path: str | Path, key: str | Path | bytes | None = None, witness: str | Path | None = None, *, progress: Progress | None = None
) -> Verified:
    """Check the log in a directory; naming one of its files is the same as naming the directory.

    `key`: the public key that checks its checkpoints (a file like `keys/audit.pub`, or its 32 bytes), kept elsewhere; without it the
    one beside the log is taken, which finds everything but a history rewritten by somebody who can read `keys/audit.key`. `witness`:
    a copy of a checkpoint file, or some lines of it, kept elsewhere. `progress(done, of)`: bytes. Raises OSError where the log
    cannot be read, and FileNotFoundError where there is none. A log that this process writes is given a checkpoint first.
    """
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    if not given.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(given))
    live = writing(folder)
    if live is not None:
        try:
            live.checkpoint()
        except OSError:
            pass
    known: dict[str, Registered] = {}
    for entry in writers(folder):
        known.setdefault(entry.file, entry)
    files = sorted(p.name for p in folder.glob("audit*.jsonl"))
    if not files and not known:
        raise FileNotFoundError(errno.ENOENT, "there is no audit log", str(folder))
    return _Check(folder, known, key, witness, progress).run(files)


class _Check:
    """One verification."""

    def __init__(
        self,
        folder: Path,
        known: dict[str, Registered],
        key: str | Path | bytes | None,
        witness: str | Path | None,
        progress: Progress | None,
    ) -> None:
        self.folder = folder
        self.known = known
        self._key = _key(key) if key is not None else None
        self.marks: dict[str, list[Mark]] = {}
        self.findings = Findings()
        self.records = self.checkpoints = self.uncovered = 0
        self.running = False
        self.open_ends: list[str] = []
        self._progress = progress
        self._done = 0
        self._of = sum(_size(folder / name) for name in known)
        self._witness = Path(witness) if witness is not None else None

    def run(self, files: list[str]) -> Verified:
        self._heads()
        if self._witness is not None:
            self._read_witness(self._witness)
        if not self.known:
            # Attack: an empty or foreign folder that passes because there is nothing to find fault with.
            self.findings.add("writers.jsonl", 0, "writers.jsonl is missing: nobody is known to have written here")
        for entry in self.known.values():
            if entry.after is not None:
                writer, seq, head = entry.after
                self.marks.setdefault(writer, []).append(Mark(seq, head, 0, "", "the list of writers"))
        for entry in self.known.values():
            self._writer(entry)
        # Asked again: a writer that came while we read is no stranger, only not read.
        here = {entry.writer for entry in (*self.known.values(), *writers(self.folder))}
        for writer in sorted(set(self.marks) - here):
            self.findings.add(
                "writers.jsonl", 0, f"writer {writer}, whom {self.marks[writer][0].by} knows, is not in the list of writers any more"
            )
        self._foreign(files)
        problems, more = self.findings.ordered()
        why = self.open_ends[0] if self.open_ends else ""
        return Verified(
            not problems, bool(self.open_ends), self.running, self.records, self.checkpoints, len(self.known), self.uncovered,
            tuple(Damage(*each) for each in problems), more, why,
        )  # fmt: skip

    @property
    def key(self) -> bytes | None:
        """What checks checkpoints. The one beside the log is looked for when the first is met: a log that has just begun has none."""
        if self._key is None:
            self._key = public_key(self.folder)
        return self._key

    # -- one writer --------------------------------------------------------------------------------------------------------------

    def _writer(self, entry: Registered) -> None:
        path = self.folder / entry.file
        marks = self.marks.get(entry.writer, [])
        if not path.exists():
            self.findings.add(entry.file, 0, f"{entry.file} is missing; writer {entry.writer} wrote it")
            return
        running = held(path)
        walk = Walk(entry, self._signed(entry), marks, self.findings)
        with path.open("rb") as file:
            while line := file.readline(LINE_MAX):
                if not line.endswith(b"\n") and len(line) < LINE_MAX:
                    walk.torn = True  # a write cut short by the end of the process: never acknowledged
                    break
                walk.line(line)
                self._done += len(line)
                if self._progress is not None and walk.number % 4096 == 0:
                    self._progress(self._done, self._of)
        walk.finish()
        self.records += walk.number
        self.checkpoints += walk.checkpoints
        self.uncovered += walk.uncovered
        self.running = self.running or running
        heir = continued(self.known.values()).get(entry.writer)
        if heir is not None and heir.after is not None and walk.last > heir.after[1]:
            self.findings.add(
                entry.file, heir.after[1] + 1, f"record {heir.after[1] + 1} was added after the file was full and {heir.file} went on"
            )
        why = walk.open_end()
        if heir is None and walk.next is not None and not any(each.writer == walk.next[0] for each in writers(self.folder)):
            text = f"writer {walk.next[0]}, who went on from here in {walk.next[1]}, is not in the list of writers any more"
            self.findings.add(entry.file, 0, text)
        if why and not running:
            self.open_ends.append(why if entry.file == MAIN else f"{why} ({entry.file})")

    def _signed(self, entry: Registered) -> Iterator[Checkpoint]:
        """The checkpoints of a writer whose signature holds, in order. What is wrong with others is noted."""
        path = checkpoints_of(self.folder, entry.file, entry.writer)
        name, n, prev = path.name, 0, "0" * 64
        for number, (line, point) in enumerate(_checkpoints(path), 1):
            if point is None:
                if line.endswith(b"\n"):
                    self.findings.add(name, number, f"checkpoint {number} is not readable any more")
                continue
            if self.key is None:
                self.findings.add(name, 0, "keys/audit.pub is missing: no checkpoint can be checked")
                return
            if not _verifies(self.key, point):
                self.findings.add(name, number, f"checkpoint {number} was changed or forged: its signature does not verify")
                continue
            if point.writer != entry.writer:
                self.findings.add(name, number, f"checkpoint {number} is one of writer {point.writer}")
                continue
            if point.n != n + 1 or point.prev != prev:
                self.findings.add(name, number, f"before checkpoint {number} others are missing or moved: it is number {point.n}")
            n, prev = point.n, point.hash
            yield point

    # -- what others know of a writer --------------------------------------------------------------------------------------------

    def _heads(self) -> None:
        """The furthest point of each writer that the checkpoints of the others state."""
        furthest: dict[tuple[str, str], Mark] = {}
        for entry in self.known.values():
            for _, point in _checkpoints(checkpoints_of(self.folder, entry.file, entry.writer)):
                if point is None:
                    continue
                for other, (n, seq, head) in point.heads.items():
                    held = furthest.get((entry.writer, other))
                    if held is None or n >= held.n:
                        furthest[entry.writer, other] = Mark(seq, head, n, "", f"a checkpoint of writer {entry.writer}")
        for (_, other), mark in furthest.items():
            self.marks.setdefault(other, []).append(mark)

    def _read_witness(self, path: Path) -> None:
        with path.open("rb"):  # who names a witness that cannot be read wants to hear of it
            pass
        for number, (_, point) in enumerate(_checkpoints(path), 1):
            if point is None or self.key is None or not _verifies(self.key, point):
                self.findings.add(path.name, number, f"line {number} of the witness is not a checkpoint signed by this log's key")
                continue
            self.marks.setdefault(point.writer, []).append(Mark(point.seq, point.head, point.n, point.hash, "the witness"))
            for other, (n, seq, head) in point.heads.items():
                self.marks.setdefault(other, []).append(Mark(seq, head, n, "", "the witness"))

    def _foreign(self, files: list[str]) -> None:
        known = [*self.known.values(), *writers(self.folder)]
        expected = {e.file for e in known} | {checkpoints_of(self.folder, e.file, e.writer).name for e in known}
        for name in (*files, *sorted(p.name for p in self.folder.glob("checkpoints*.jsonl"))):
            # An empty one is a writer that was killed before it could register.
            if name not in expected and _size(self.folder / name):
                self.findings.add(name, 0, f"{name} is of no writer in the list of writers")


def _checkpoints(path: Path) -> Iterator[tuple[bytes, Checkpoint | None]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        # As of now: a running writer may add one that counts records which come after the end that we shall read.
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline(min(left, LINE_MAX))):
            left -= len(line)
            yield line, parse_checkpoint(line)


def _verifies(key: bytes, point: Checkpoint) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(point.signature, point.signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _key(given: str | Path | bytes) -> bytes:
    raw = given if isinstance(given, bytes) else Path(given).read_bytes()
    if len(raw) == 32:
        return raw
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise OSError(
            errno.EINVAL, "it is not a public key: 64 hex digits, as in keys/audit.pub", None if isinstance(given, bytes) else str(given)
        )
    return key


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
