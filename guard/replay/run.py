"""Replay: events in, judgements out. What waits for its turn, which tasks are remembered, and what is counted; `judging.py` judges."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from guard.policy.data import PolicyData
from guard.reasons import ReasonCode
from guard.replay.judging import Judging
from guard.replay.order import MOST, Waiting
from guard.replay.said import WITHOUT, Judged, Summary
from guard.replay.state import Tables
from guard.replay.task import Task
from guard.replay.turns import Count, Line, Turns
from guard.replay.versions import Versions
from guard.sources import Seen

__all__ = ["Replay"]

_IDLE = 24 * 3600 * 1_000_000
_BUSY = 100_000
"""A task is forgotten when it is idle for a day, and for so many events besides. Attack: one record from the future, and every open task is."""
_UNTAKEN: Final = str(ReasonCode.RECORD_UNAVAILABLE)
"""The code of a call that was let, and taken back because no sink took its record."""


class Replay:
    """Feed it the events of a run, in the order they were recorded. `layers`: what judges them. `was`: policies that were loaded for a part of
    the run (a reload): what was recorded under one of them is judged by it.
    """

    def __init__(self, layers: Sequence[PolicyData], was: Sequence[Sequence[PolicyData]] = ()) -> None:
        self.summary = Summary()
        versions = Versions(layers, was)
        self._judging = Judging(versions, self.summary)
        self._turns = Turns() if versions.together else None
        self._tasks: OrderedDict[tuple[str, str, str], Task] = OrderedDict()
        self._decisions: OrderedDict[str, tuple[tuple[str, str, str], Count]] = OrderedDict()
        self._fed = 0

    def feed(self, seen: Seen) -> Iterator[Judged]:
        """What can be judged now that this is known: mostly the event itself, sometimes one before it."""
        if seen.kind == "call":
            if not seen.task[2]:
                yield self._told(Judged(seen, seen.verdict, seen.code, seen.findings))
                return
            task = self._task(seen)
            again = seen.id in self._decisions or seen.code == _UNTAKEN
            if seen.state and seen.state != task.decided[1][1]:
                task.decided = task.name, (task.name[0], seen.state)
            self._decisions[seen.id] = task.decided
            if len(self._decisions) > 1_000_000:
                self._decisions.popitem(last=False)
            yield from self._put(task, seen, task.decided[1], again=again)
        elif seen.kind == "outcome":
            decided = self._decisions.get(seen.id)
            of = self._tasks.get(decided[0]) if decided is not None else None
            if of is None or decided is None:
                self.summary.orphans += decided is None
                return
            of.last = seen.at
            yield from self._put(of, seen, decided[1])
        else:
            # The record names the task's identifier only; where two tenants share one, the end is that of the last one seen.
            key = next((key for key in reversed(self._tasks) if key[2] == seen.task[2] and not self._tasks[key].ended), None)
            seen.task = key or seen.task
            task = self._task(seen)
            task.ended = seen.verdict == "allow"
            if self._turns is None:
                yield from self._go(task, all=True)
                if (judged := self._one(task, seen)) is not None:
                    yield judged
            else:
                yield from self._put(task, seen, task.decided[1])
        while (
            self._fed > _BUSY
            and self._tasks
            and (first := next(iter(self._tasks.items())))[1].touched < self._fed - _BUSY
            and seen.at - first[1].last > _IDLE
            and not first[1].line.waiting
        ):
            yield from self._go(first[1], all=True)
            self._drop(first[0])

    def close(self) -> Iterator[Judged]:
        """Everything that still waits."""
        if self._turns is not None:
            yield from self._taken(self._turns, all=True)
        for key in list(self._tasks):
            yield from self._go(self._tasks[key], all=True)
            self._drop(key)

    def _task(self, seen: Seen) -> Task:
        task = self._tasks.get(seen.task)
        if task is None:
            self.summary.tasks += 1
            waiting, name = Waiting(MOST // 2 if seen.trust == "proven" else 0), seen.task
            task = Task(name, seen.at // 1_000_000, waiting, Tables(self._judging.store), Line(name), (name, (name[0], "")))
            self._tasks[name] = task
        else:
            self._tasks.move_to_end(seen.task)
        self._fed += 1
        task.touched = self._fed
        task.last = max(task.last, seen.at)
        return task

    def _drop(self, key: tuple[str, str, str]) -> None:
        self._tasks.pop(key, None)

    def _put(self, task: Task, seen: Seen, count: Count, *, again: bool = False) -> Iterator[Judged]:
        """An event of a task; then those whose turn it is."""
        turns = self._turns
        if turns is None:
            task.waiting.put(seen)
            return self._go(task)
        return self._taken(turns) if turns.put(seen, task.line, count, again=again) else iter(())

    def _taken(self, turns: Turns, *, all: bool = False) -> Iterator[Judged]:
        for line, seen in turns.take(all=all):
            line.waiting -= 1
            judged = self._one(self._tasks[line.name], seen)
            if judged is not None:
                yield judged
        self.summary.missing, self.summary.late = turns.missing, turns.late

    def _go(self, task: Task, *, all: bool = False) -> Iterator[Judged]:
        for seen in task.waiting.take(all=all):
            judged = self._one(task, seen)
            if judged is not None:
                yield judged

    def _one(self, task: Task, seen: Seen) -> Judged | None:
        """An event whose turn it is."""
        if not task.begun:
            self._judging.open(task, seen)
        judged: Judged | None = None
        if seen.kind == "outcome":
            self._judging.settle(task, seen.id, seen)
        elif seen.kind == "call":
            task.who = seen
            judged = self._told(self._judging.call(task, seen))
        else:
            judged = self._told(self._judging.end(task, seen))
        if task.ended and not task.open and not task.line.waiting and (self._turns is not None or seen.kind == "task"):
            self._drop(task.name)  # else what other processes still have in flight may end later
        return judged

    def _told(self, judged: Judged) -> Judged:
        said = self.summary
        seen = judged.seen
        said.calls += seen.kind == "call"
        said.assumed += judged.assumed_order
        for name in (WITHOUT,) if WITHOUT in judged.not_judged else judged.not_judged:
            said.not_judged[name, seen.file] += 1
        if judged.verdict in ("deny", "ask"):
            said.violations += 1
            said.violating.add(seen.task)
        if seen.verdict and (judged.verdict, judged.code) != (seen.verdict, seen.code):
            said.differ += 1
        return judged
