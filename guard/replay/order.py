"""The order in which the events of one task are judged: not as they were written, but as they were committed.

| event                    | stands                                                                                       |
|--------------------------|----------------------------------------------------------------------------------------------|
| a call that was let run  | at its step                                                                                  |
| a call that was refused  | right after the step it was judged at (`judged[0]`), else at its own                         |
| an outcome               | before the first call that was judged at its settling or later (`judged[1] >= settled`); where the call does not say, as written |

Steps are dense, so a call waits only while an earlier one is missing: until it has ended itself, or `MOST` calls of its task wait.
"""

from __future__ import annotations

from heapq import heappop, heappush

from guard.sources import Seen

__all__ = ["MOST", "Waiting"]

MOST = 64


class Waiting:
    """The events of one task that are not judged yet."""

    __slots__ = ("_calls", "_next", "_number", "_outcomes", "_steps", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._calls: list[tuple[tuple[int, int, int], int, Seen]] = []
        self._outcomes: list[tuple[int, Seen]] = []
        self._steps: set[int] = set()
        self._next = 1
        self._number = 0

    def put(self, seen: Seen) -> None:
        self._number += 1
        if seen.kind == "outcome":
            self._outcomes.append((self._number, seen))
            if not self._window and seen.step >= self._next:  # its call has ended: what stands before it was never recorded
                self._skip(seen.step)
            return
        refused = seen.status == "not_executed"
        place = (seen.judged[0], 1, seen.step) if refused and seen.judged is not None else (seen.step, 0, 0)
        heappush(self._calls, (place, self._number, seen))
        if seen.step >= self._next:
            self._steps.add(seen.step)
            while self._next in self._steps:
                self._steps.discard(self._next)
                self._next += 1

    def _skip(self, step: int) -> None:
        self._next = step + 1
        self._steps = {each for each in self._steps if each >= self._next}

    def take(self, *, all: bool = False) -> list[Seen]:
        """Those whose turn it is."""
        calls, found = self._calls, list[Seen]()
        while calls and (all or len(calls) > MOST or (len(calls) > self._window and calls[0][0][0] < self._next)):
            place, number, seen = heappop(calls)
            if place[0] >= self._next:  # the steps before are not in this log
                self._skip(place[0])
            if self._outcomes:
                found += self._before(seen, number)
            found.append(seen)
        if not calls and self._outcomes and (all or not self._window):
            found += [seen for _, seen in sorted(self._outcomes, key=lambda one: (one[1].settled or 0, one[0]))]
            self._outcomes = []
        return found

    def _before(self, call: Seen, number: int) -> list[Seen]:
        first, later = list[tuple[int, int, Seen]](), list[tuple[int, Seen]]()
        for at, seen in self._outcomes:
            if seen.settled <= call.judged[1] if seen.settled and call.judged is not None else at < number:
                first.append((seen.settled, at, seen))
            else:
                later.append((at, seen))
        self._outcomes = later
        return [seen for _, _, seen in sorted(first, key=lambda one: one[:2])]
