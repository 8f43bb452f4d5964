"""Along one writer's file and its checkpoints, side by side, from the first line to the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from guard.record.chain import Registered, link, own_hash
from guard.record.checkpoints import Checkpoint
from guard.record.keeper import MOST_UNCOVERED

__all__ = ["Findings", "Mark", "Walk"]

_LISTED = 1000
_GAPS = 10_000


class Mark(NamedTuple):
    """What somebody else states of a writer: record `seq` has the hash `head`, under its checkpoint `n` (with that hash, if known)."""

    seq: int
    head: str
    n: int
    hash: str
    by: str


class Findings:
    """What is wrong, up to a number; beyond it, how much more."""

    def __init__(self) -> None:
        self._listed: list[tuple[str, int, str]] = []
        self._more = 0

    def add(self, file: str, record: int, text: str) -> None:
        if len(self._listed) < _LISTED:
            self._listed.append((file, record, text))
        else:
            self._more += 1

    def ordered(self) -> tuple[list[tuple[str, int, str]], int]:
        """By file in the order they were read, then by record."""
        order: dict[str, int] = {}
        for file, _, _ in self._listed:
            order.setdefault(file, len(order))
        return sorted(self._listed, key=lambda each: (order[each[0]], each[1])), self._more


class Walk:
    """Takes the lines of one file in order. Each is judged by what the line before it, and the next checkpoint, say it must be."""

    def __init__(self, entry: Registered, checkpoints: Iterator[Checkpoint], marks: list[Mark], findings: Findings) -> None:
        self._entry = entry
        self._points = checkpoints
        self._marks: dict[int, list[Mark]] = {}
        for mark in marks:
            self._marks.setdefault(mark.seq, []).append(mark)
        self._claims: dict[int, list[Mark]] = {}
        for mark in marks:
            self._claims.setdefault(mark.n, []).append(mark)
        self._findings = findings
        self._expected = 1
        self._prev: str | None = entry.genesis  # None: the line before was damaged, and says nothing
        self._gaps: list[tuple[int, int, int]] = []
        self._point: Checkpoint | None = None
        self._covered = 0
        self._closed = False
        self._trusted = True  # nothing wrong since the last checkpoint
        self.number = 0
        self.checkpoints = 0
        self.next: tuple[str, str] | None = None
        """Writer and file that go on from here, as the last checkpoint says."""
        self.torn = False
        self._next_point()

    @property
    def uncovered(self) -> int:
        return max(0, self._expected - 1 - self._covered)

    @property
    def last(self) -> int:
        """Number of the last record."""
        return self._expected - 1

    def open_end(self) -> str:
        """Why nothing proves that the end is there; "" where it is proven."""
        if self.uncovered:
            cut = ", and one more was cut short" if self.torn else ""
            return f"the last {self.uncovered:,} are under no checkpoint{cut}; whether more followed cannot be told"
        if self.torn:
            return "a record at the end was cut short"
        if not self._closed:
            return f"its writer ended without closing it; whether records followed number {self._covered:,} cannot be told"
        return ""

    def line(self, line: bytes) -> None:
        self.number += 1
        found = link(line)
        if found is None:
            self._wrong(f"line {self.number} is not a record", self.number)
            self._skip()
            return
        if own_hash(line) != found.hash:
            self._wrong(f"record {self.number} was changed after it was written", self.number)
            # Its number is taken to be the next one; its stated hash is what the next record was chained to, if it was left alone.
            self._accept(self._expected, found.hash)
            return
        if found.writer != self._entry.writer:
            self._wrong(f"record {self.number} was written by {found.writer}, not by this file's writer", self.number)
            return
        seq = found.seq
        if seq < self._expected:
            self._misplaced(seq)
            return
        if seq > self._expected:
            if len(self._gaps) < _GAPS:
                self._gaps.append((self._expected, seq - 1, self.number))
            else:
                self._wrong(f"before record {seq}, others are missing", self.number)
            self._trusted = False
        elif self._prev is not None and found.prev != self._prev:
            before = f"record {seq - 1}" if seq > 1 else "the list of writers"
            self._wrong(f"record {seq} does not follow from {before}: one of them was replaced", self.number)
        self._accept(seq, found.hash)

    def finish(self) -> None:
        """After the last line."""
        last = self._expected - 1
        short = 0
        while self._point is not None:
            short = max(short, self._point.seq)
            self._next_point()
        for mark in (each for marks in self._marks.values() for each in marks):
            if mark.seq > last and mark.seq > short:
                self._wrong(f"the end is missing: {mark.by} counts {mark.seq} records, there are {last}", last + 1)
        if short > last:
            self._wrong(f"{_records(last + 1, short)} missing at the end: a checkpoint counts them", last + 1)
        elif last - self._covered > MOST_UNCOVERED:
            self._wrong(f"no checkpoint covers {_records(self._covered + 1, last, verb=False)}: checkpoints were taken away", last)
        for claims in self._claims.values():
            for mark in claims:
                if mark.n > self.checkpoints:
                    self._wrong(f"checkpoint {mark.n} is missing; {mark.by} knows it", last)
        for first, until, at in self._gaps:
            self._wrong(f"{_records(first, until)} missing", at)

    # -- steps -------------------------------------------------------------------------------------------------------------------

    def _wrong(self, text: str, record: int) -> None:
        self._trusted = False
        self._findings.add(self._entry.file, record, text)

    def _skip(self) -> None:
        self._expected += 1
        self._prev = None

    def _misplaced(self, seq: int) -> None:
        """A number that should have come before."""
        for i, (first, until, at) in enumerate(self._gaps):
            if first <= seq <= until:
                rest = [(a, b, at) for a, b in ((first, seq - 1), (seq + 1, until)) if a <= b]
                self._gaps[i : i + 1] = rest
                self._wrong(f"record {seq} was moved to line {self.number}", self.number)
                return
        self._wrong(f"line {self.number} was inserted: there is a record {seq} before it", self.number)

    def _accept(self, seq: int, digest: str) -> None:
        self._expected = seq + 1
        self._prev = digest
        for mark in self._marks.get(seq, ()):
            if mark.head != digest:
                self._wrong(f"{_records(1, seq, verb=False)} are not those that {mark.by} knows: rewritten", self.number)
        while self._point is not None and self._point.seq <= seq:
            point = self._point
            if point.seq == seq and point.head != digest and self._trusted:
                self._wrong(f"{_records(self._covered + 1, seq, verb=False)} rewritten: the checkpoint has another hash", self.number)
            if point.seq - self._covered > MOST_UNCOVERED:
                self._wrong(f"before record {point.seq}, checkpoints were taken away", self.number)
            self._covered = max(self._covered, point.seq)
            self._trusted = True
            self._next_point()

    def _next_point(self) -> None:
        """The next checkpoint whose signature holds."""
        self._point = next(self._points, None)
        point = self._point
        if point is None:
            return
        self.checkpoints += 1
        self._closed = point.closed
        self.next = point.next
        for mark in self._claims.get(point.n, ()):
            if (mark.hash and mark.hash != point.hash) or (mark.seq, mark.head) != (point.seq, point.head):
                self._wrong(f"checkpoint {point.n} is not the one that {mark.by} knows: rewritten", 0)


def _records(first: int, last: int, *, verb: bool = True) -> str:
    if first == last:
        return f"record {first}" + (" is" if verb else "")
    return f"records {first} to {last}" + (" are" if verb else "")
