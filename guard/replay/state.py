"""State of a replay: in memory, each task's apart, and dropped with it.

A key that begins with `OWN` is a task's: it stands in the tables of the task that asks. Every other key is a tenant's and stands in tables
that all tasks share. So the keys of all tasks are the same, one plan serves them all, and a task is forgotten with its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from guard.ops import Applied, Op, Refused, Sum
from guard.state import MemoryState
from guard.state.memory import _Dues

__all__ = ["OWN", "ReplayState", "Tables", "tenant_key"]

OWN: Final = "\x00"
_NOTHING: Final = (0, "")
_get, _at, _set, _delete, _pop, _has = dict.get, dict.__getitem__, dict.__setitem__, dict.__delitem__, dict.pop, dict.__contains__


def tenant_key(tenant: str) -> str:
    """What the keys of a tenant begin with. Attack: a log that names a tenant as tasks are named, to count in their tables."""
    return f"N{tenant}"


class _Split(dict[Any, Any]):
    """A task's table before the one that all share. A key is a text, or for windows a pair that begins with one: `key[0][0]` fits both."""

    __slots__ = ("_shared",)

    def __init__(self, shared: dict[Any, Any]) -> None:
        self._shared = shared

    def get(self, key: Any, default: Any = None) -> Any:
        return _get(self, key, default) if key[0][0] == OWN else self._shared.get(key, default)

    def __getitem__(self, key: Any) -> Any:
        return _at(self, key) if key[0][0] == OWN else self._shared[key]

    def __contains__(self, key: Any) -> bool:
        return _has(self, key) if key[0][0] == OWN else key in self._shared

    def __setitem__(self, key: Any, value: Any) -> None:
        if key[0][0] == OWN:
            _set(self, key, value)
        else:
            self._shared[key] = value

    def __delitem__(self, key: Any) -> None:
        if key[0][0] == OWN:
            _delete(self, key)
        else:
            del self._shared[key]

    def pop(self, key: Any, *default: Any) -> Any:
        return _pop(self, key, *default) if key[0][0] == OWN else self._shared.pop(key, *default)

    def update(self, other: Any) -> None:  # type: ignore[override]
        for key, value in other.items():
            self[key] = value


class _BothDues(_Dues):
    """What of a task's keys expires, and what of the shared ones."""

    __slots__ = ("_shared",)

    def __init__(self, shared: _Dues) -> None:
        super().__init__()
        self._shared = shared

    def note(self, key: Any, when: int) -> None:
        if key[0][0] == OWN:
            super().note(key, when)
        else:
            self._shared.note(key, when)

    def sweep(self, at: int, most: int, expires: Callable[[Any], int | None], drop: Callable[[Any, None], object]) -> None:
        if self.heap and self.heap[0][0] <= at:
            super().sweep(at, most, expires, drop)
        shared = self._shared
        if shared.heap and shared.heap[0][0] <= at:
            shared.sweep(at, most, expires, drop)


class Tables:
    """What one task has left behind."""

    __slots__ = ("counts", "high", "mark_dues", "marks", "window_dues", "windows")

    def __init__(self, state: ReplayState) -> None:
        self.high = 0
        self.counts, self.marks, self.windows = _Split(state.shared_counts), _Split(state.shared_marks), _Split(state.shared_windows)
        self.mark_dues, self.window_dues = _BothDues(state.shared_mark_dues), _BothDues(state.shared_window_dues)


class ReplayState(MemoryState):
    """`MemoryState` by the clock of the log, for one task at a time.

    `together`: the tasks are taken in the order of the log, and one high-water mark holds for all. Else each has its own: events of one
    task may wait while those of another go on, and must not be dated by them.
    """

    def __init__(self, *, together: bool = True) -> None:
        super().__init__()
        self._together = together
        self.shared_counts, self.shared_marks, self.shared_windows = self._counts, self._marks, self._windows
        self.shared_mark_dues, self.shared_window_dues = self._mark_dues, self._window_dues
        self._clock = (-1, datetime.fromtimestamp(0, UTC))

    def look(self, tables: Tables, second: int, ops: Sequence[Op]) -> Sequence[object] | None:
        """The answers of operations that only look; None where they have none. Most ask for nothing but sums without a window."""
        counts, found = tables.counts, list[object]()
        for op in ops:
            if type(op) is not Sum or op.window is not None or op.most is not None:
                answer = self.at(tables, second, ops, commit=False)
                return answer.values if type(answer) is Applied else None
            found.append(counts.get(op.key, _NOTHING))
        return found

    def at(self, tables: Tables, second: int, ops: Sequence[Op], *, commit: bool = True) -> Applied | Refused:
        """Apply `ops` for the task of `tables`."""
        self._counts, self._marks, self._windows = tables.counts, tables.marks, tables.windows
        self._mark_dues, self._window_dues = tables.mark_dues, tables.window_dues
        last, now = self._clock
        if last != second:
            now = datetime.fromtimestamp(max(0, min(second, 1 << 36)), UTC)
            self._clock = second, now
        if self._together:
            return self.apply(ops, now=now, commit=commit)
        self._high = tables.high
        answer = self.apply(ops, now=now, commit=commit)
        tables.high = self._high
        return answer
