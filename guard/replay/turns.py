"""The order in which the events of all tasks are judged where rules look over a tenant: as they were committed, in their task and in their tenant.

| event                       | stands in its task                                        | stands in its tenant, where it has a number |
|-----------------------------|-----------------------------------------------------------|---------------------------------------------|
| a call that was let run     | at its step                                               | at its number                               |
| a call that was refused     | right after the step it was judged at, else at its own    | before the commit of its number             |
| one taken back after that   | after it was let                                          | at its number                               |
| an outcome                  | after its call; before what was judged at its settling or | at its number                               |
|                             | later, after what was refused before that                 |                                             |
| the end of a task           | where it was read                                         | -                                           |

An event waits until one is read that was `LAG` later, and while a number before it is missing; but never for more than `MOST` events.
Then it is judged, and before it everything that was committed before it, in whatever order the files hold them. So a log has no say in how
much waits, and nothing waits for what never comes: a number that was left out is counted (`missing`), what is read after its turn is
judged then and counted (`late`).

Numbers are of one tenant and one state (`DecisionRecord.state`). Two states have two orders; between them it is as they were read.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from guard.sources import Seen

__all__ = ["LAG", "MOST", "Line", "Turns"]

LAG: Final = 2_000_000
"""Microseconds. A guard's deadline, and what the disk may take, are a quarter of a second each: by then a decision has its record."""
MOST: Final = 8192
"""Events. What is displaced farther than that is not put in order."""
_COUNTS: Final = 65_536

Count = tuple[str, str]
"""Tenant and state."""


class _Entry:
    """An event that waits. `commits`: its number is its own, not that of the commit it stands before. `gone`: it was judged."""

    __slots__ = ("commits", "count", "gone", "line", "number", "order", "seen")

    def __init__(self, seen: Seen, line: Line, count: Count, number: int, commits: bool) -> None:
        self.seen, self.line, self.count, self.number, self.commits = seen, line, count, number, commits
        self.order = max(0, seen.order)
        self.gone = False


_Row = deque[tuple[int, int, _Entry]]


class Line:
    """What waits of one task."""

    __slots__ = ("by_id", "calls", "ended", "name", "refused", "settled", "waiting")

    def __init__(self, name: tuple[str, str, str]) -> None:
        self.name = name
        self.waiting = 0
        self.by_id: dict[str, _Entry] = {}
        self.calls: deque[tuple[tuple[int, int, int, int], int, _Entry]] = deque()
        self.refused: _Row = deque()
        """Calls, by the settling they were judged at."""
        self.settled: _Row = deque()
        """Outcomes that left something, by their settling."""
        self.ended: deque[_Entry] = deque()
        """Outcomes that left nothing."""

    def put(self, entry: _Entry, *, again: bool) -> None:
        seen, number = entry.seen, entry.number
        self.waiting += 1
        if seen.kind == "outcome":
            if seen.settled > 0:
                _into(self.settled, (seen.settled, number, entry))
            else:
                self.ended.append(entry)
        elif seen.kind == "call":
            place = seen.step, 0, 0, 0
            # What takes back what was let says where that was, or (where a sink failed) only what it was judged on.
            if seen.status == "not_executed" and seen.judged is not None and (not again or seen.judged[0] >= seen.step):
                place = seen.judged[0], 1 + max(0, seen.judged[1]), entry.order, seen.step  # as they were read, not as they were numbered
                _into(self.refused, (seen.judged[1], number, entry))
            _into(self.calls, (place, number, entry))
            self.by_id[seen.id] = entry

    def first(self, entry: _Entry) -> bool:
        """Is it plain that nothing of the task stands before it? Then it is taken out of what waits: the way of most events."""
        seen = entry.seen
        if seen.kind == "call":
            if self.calls[0][2] is not entry or ((self.settled or self.ended) and self._due(entry) is not None):
                return False
            self.calls.popleft()
        elif seen.kind == "outcome":
            if seen.id in self.by_id:
                return False
            if seen.settled <= 0:
                if self.ended[0] is not entry:
                    return False
                self.ended.popleft()
            elif self.settled[0][2] is not entry or (
                self.refused and (call := _first(self.refused)) is not None and _judged(call) < seen.settled
            ):
                return False
            else:
                self.settled.popleft()
        return True

    def before(self, entry: _Entry) -> Iterator[_Entry]:
        """What stands before `entry` in the task and is not judged yet, then `entry`; whoever takes one sees to it that it is judged."""
        seen = entry.seen
        if seen.kind == "call":
            yield from self._until(entry)
            return
        if seen.kind == "outcome":
            yield from self._own(entry)
            while seen.settled > 0 and (first := _first(self.refused)) is not None and _judged(first) < seen.settled:
                yield from self._until(first)
            while seen.settled > 0 and (first := _first(self.settled)) is not None and first.seen.settled < seen.settled:
                yield from self._own(first)
                if not first.gone:
                    yield first
        if not entry.gone:
            yield entry

    def _own(self, outcome: _Entry) -> Iterator[_Entry]:
        call = self.by_id.get(outcome.seen.id)
        if call is not None:
            yield from self._until(call)

    def _until(self, call: _Entry) -> Iterator[_Entry]:
        calls = self.calls
        while calls and not call.gone:
            first = calls[0][2]
            if first.gone:
                calls.popleft()
            elif (outcome := self._due(first)) is not None:
                yield outcome
            else:
                yield first

    def _due(self, call: _Entry) -> _Entry | None:
        """An outcome that stands before the call."""
        if self.settled and (first := _first(self.settled)) is not None and first.seen.id not in self.by_id and _stands(first, call):
            return first
        ended = self.ended
        while ended and ended[0].gone:
            ended.popleft()
        return ended[0] if ended and ended[0].number < call.number and ended[0].seen.id not in self.by_id else None


def _stands(outcome: _Entry, call: _Entry) -> bool:
    """Before the call? Both numbered, the numbers say; a call that says at which settling it was judged, that; else as they were read, unless
    the outcome has a turn of its own.
    """
    if outcome.order and call.order and outcome.count == call.count:
        return outcome.order < call.order
    if call.seen.judged is not None:
        return outcome.seen.settled <= call.seen.judged[1]
    return not outcome.order and outcome.number < call.number


def _judged(call: _Entry) -> int:
    return call.seen.judged[1] if call.seen.judged is not None else 0


def _first(row: _Row) -> _Entry | None:
    while row and row[0][2].gone:
        row.popleft()
    return row[0][2] if row else None


def _into(row: deque[Any], item: tuple[Any, ...]) -> None:
    """Into what is sorted. Nearly all come in order, and then this is cheaper than a heap."""
    if row and item < row[-1]:
        insort(row, item)
    else:
        row.append(item)


class _Numbers:
    """What waits of one count. `next`: the number whose turn it is."""

    __slots__ = ("next", "row")

    def __init__(self) -> None:
        self.row: deque[tuple[int, bool, int, _Entry]] = deque()
        self.next = 1


class Turns:
    """`missing`: numbers that are not in the log. `late`: events that were read after their turn."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._at = 0
        self._read: deque[_Entry] = deque()
        self._counts: dict[Count, _Numbers] = {}
        self._number = 0
        self.missing = self.late = 0

    def put(self, seen: Seen, line: Line, count: Count, *, again: bool = False) -> bool:
        """`again`: it takes back what was let. Is it time to `take`? Several at once cost less."""
        self._number += 1
        entry = _Entry(seen, line, count, self._number, again or seen.status != "not_executed")
        self._read.append(entry)
        self._at = seen.at
        line.put(entry, again=again)
        if entry.order:
            held = self._counts.get(count)
            if held is None:
                if len(self._counts) >= _COUNTS:  # names come from the log: they must not fill the memory
                    self._counts = {name: one for name, one in self._counts.items() if one.row}
                held = self._counts[count] = _Numbers()
            _into(held.row, (entry.order, entry.commits, entry.number, entry))
        return not self._number & 31

    def take(self, *, all: bool = False) -> list[tuple[Line, Seen]]:
        """Those whose turn it is. They wait (`Line.waiting`) until whoever takes them counts them out."""
        read, out = self._read, list[tuple[Line, Seen]]()
        while read:
            entry = read[0]
            if not entry.gone:
                if not all and len(read) <= self._most and (self._at - entry.seen.at <= LAG or self._gap(entry)):
                    break
                self._take(entry, out)
            read.popleft()
        return out

    def _gap(self, entry: _Entry) -> bool:
        """Is a number missing before it?"""
        if not entry.order:
            return False
        held = self._counts[entry.count]
        row = held.row
        while row[0][3].gone:
            row.popleft()
        return row[0][0] > held.next

    def _take(self, entry: _Entry, out: list[tuple[Line, Seen]]) -> None:
        if not entry.order:
            if entry.line.first(entry):
                out.append(self._out(entry))
                return
        elif (row := self._counts[entry.count].row)[0][3] is entry and entry.line.first(entry):
            row.popleft()
            out.append(self._out(entry))
            return
        for each in entry.line.before(entry):
            if each.order:
                self._up_to(each, out)
            else:
                out.append(self._out(each))

    def _up_to(self, entry: _Entry, out: list[tuple[Line, Seen]]) -> None:
        """All of its count that stand before it, each with what stands before it in its task; then itself."""
        row = self._counts[entry.count].row
        while not entry.gone:
            first = row.popleft()[3]
            if not first.gone:
                out.extend(map(self._out, first.line.before(first)))

    def _out(self, entry: _Entry) -> tuple[Line, Seen]:
        entry.gone = True
        line, seen = entry.line, entry.seen
        if seen.kind == "call" and line.by_id.get(seen.id) is entry:
            del line.by_id[seen.id]
        if entry.order:
            self._counted(self._counts[entry.count], entry.order, entry.commits)
        return line, seen

    def _counted(self, held: _Numbers, order: int, commits: bool) -> None:
        if order < held.next:
            self.late += 1
            self.missing -= commits and self.missing > 0  # it was counted as one that is not there
            return
        self.missing += order - held.next
        held.next = order + commits
