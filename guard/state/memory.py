"""State in this process: dictionaries and a lock. Exact while the process lives, gone with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heappop, heappush
from typing import Any
from weakref import WeakSet

from guard.errors import StateUnavailable
from guard.ops import (
    AMOUNT_MAX,
    Absent,
    Add,
    Applied,
    Drop,
    Know,
    Lookup,
    Mark,
    Op,
    Pin,
    Put,
    Refused,
    Require,
    Sum,
    Take,
    Tally,
    known,
    map_text,
    parse_map,
)
from guard.state import window as windows

__all__ = ["MemoryState"]

_Held = tuple[str, str, int | None]  # value, by, the second it expires at

_Undo = list[tuple[dict[Any, Any], Any, Any]]
"""What stood where before: put back in reverse order by a refusal and by a trial."""


_new: Any = tuple.__new__


class _Dues:
    """When to look at what expires: at most one entry a key, whatever happens to the key meanwhile."""

    __slots__ = ("heap", "keys")

    def __init__(self) -> None:
        self.heap: list[tuple[int, Any]] = []
        self.keys: set[Any] = set()

    def note(self, key: Any, when: int) -> None:
        if key not in self.keys:
            self.keys.add(key)
            heappush(self.heap, (when, key))

    def sweep(self, at: int, most: int, expires: Callable[[Any], int | None], drop: Callable[[Any, None], object]) -> None:
        """Look at no more than `most` keys. `expires`: when the key does as things stand, None if it does not."""
        heap = self.heap
        while heap and heap[0][0] <= at and most > 0:
            most -= 1
            _, key = heappop(heap)
            self.keys.discard(key)
            when = expires(key)
            if when is not None and when <= at:
                drop(key, None)
            elif when is not None:
                self.note(key, when)


class MemoryState:
    """Implements `guard.ports.StateStore`; `inline`, because it never waits for anything outside the process.

    Counters and marks are two namespaces. A counter with a window is another counter than one without, or with another.
    """

    inline = True
    born: datetime | None = None
    """Not durable: it has no past that could have been lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, str]] = {}
        self._marks: dict[str, _Held] = {}
        self._windows: dict[tuple[str, int], windows.Held] = {}
        self._dues = False  # has anything ever been written that expires?
        self._mark_dues = _Dues()
        self._window_dues = _Dues()
        self._high = 0
        self._now: tuple[datetime | None, int] = (None, 0)
        self._distinct: object = None
        """The last keys of a tally that were found to be distinct: a tool's calls bring the same object."""
        _stores.add(self)

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        """See the port. One pass: each operation is done and remembers what stood before; a refusal or a trial puts it back."""
        undo: _Undo = []
        values: list[object] = []
        counts, marks = self._counts, self._marks
        refused: tuple[object, str] | None = None
        with self._lock:
            try:
                if now.tzinfo is None:
                    raise TypeError("now")
                last, at = self._now
                if last is not now:  # a guard hands the same object over for a whole second
                    at = int(now.timestamp())
                    self._now = (now, at)
                if at < self._high:
                    at = self._high
                for op in ops:
                    kind = type(op)
                    if kind is Add and op.window is None:  # type: ignore[union-attr]
                        key, amount, most, _, by, _ = op  # type: ignore[misc]
                        if type(amount) is not int or type(key) is not str or type(by) is not str:
                            raise TypeError("Add")
                        held = counts.get(key)
                        total = amount if held is None else held[0] + amount
                        if amount >= 0:
                            if total > AMOUNT_MAX or (most is not None and total > most):
                                refused = held or (0, "")
                                break
                        elif total < -AMOUNT_MAX:
                            raise OverflowError("Add")
                        elif held is not None:
                            by = held[1]  # a refund is no witness
                        undo.append((counts, key, held))
                        counts[key] = (total, by)
                        values.append(total)
                    elif kind is Tally:
                        keys, tops, by = op  # type: ignore[misc]
                        if type(by) is not str or (keys is not self._distinct and len(set(keys)) != len(keys)):
                            raise TypeError("Tally")
                        self._distinct = keys if type(keys) is tuple else None
                        totals = []
                        for key, most in zip(keys, tops, strict=True):  # type: ignore[arg-type]
                            held = counts.get(key)
                            total = 1 if held is None else held[0] + 1
                            if total > most or total > AMOUNT_MAX:
                                refused = held or (0, "")
                                break
                            undo.append((counts, key, held))
                            counts[key] = (total, by)
                            totals.append(total)
                        else:
                            values.append(tuple(totals))
                            continue
                        break
                    elif kind is Pin and (mark := marks.get(op.key)) is not None and mark[2] is None:  # type: ignore[union-attr]
                        # The life of the task, on every call: it stands, and never ends.
                        if mark[0] != op.value:  # type: ignore[union-attr]
                            _text(op.value, op.by)  # type: ignore[union-attr]
                            refused = (mark[0], mark[1])
                            break
                        values.append(False)
                    else:
                        refused = _TABLE[kind](self, op, at, undo, values)
                        if refused is not None:
                            break
            except Exception as error:  # a list that is no list of operations changes nothing
                _rollback(undo)
                raise StateUnavailable(f"not a list of operations: {type(error).__name__}") from None
            except BaseException:
                _rollback(undo)
                raise
            if refused is not None or not commit:
                _rollback(undo)
            if commit:
                self._high = at
                if self._dues:
                    self._sweep(at, len(undo))
        return _new(Applied, (tuple(values), at)) if refused is None else Refused(len(values), refused[0], refused[1], at)

    def _sweep(self, at: int, wrote: int) -> None:
        """Forget what has expired: a little on every call, more than the call can have added."""
        marks, held = self._marks, self._windows
        self._mark_dues.sweep(at, wrote + 2, lambda key: marks[key][2] if key in marks else None, marks.pop)
        self._window_dues.sweep(at, wrote + 2, lambda key: windows.gone(held[key], key[1]) if key in held else None, held.pop)

    # -- one method an operation: appends its answer to `values`, or returns (value, by) for a refusal ----------------------------

    def _live(self, key: str, at: int) -> _Held | None:
        if type(key) is not str:
            raise TypeError("key")
        mark = self._marks.get(key)
        return None if mark is None or (mark[2] is not None and mark[2] <= at) else mark

    def _set(self, key: str, value: str, by: str, ends: int | None, undo: _Undo) -> None:
        if type(key) is not str or type(value) is not str or type(by) is not str:
            raise TypeError("text")
        marks = self._marks
        undo.append((marks, key, marks.get(key)))
        marks[key] = (value, by, ends)
        if ends is not None:
            self._dues = True
            self._mark_dues.note(key, ends)

    def _window(self, op: Add, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        if type(op.amount) is not int or type(op.key) is not str or type(op.by) is not str or type(op.window) is not int or op.window < 1:
            raise TypeError("Add")
        key = (op.key, op.window)
        held = self._windows.get(key)
        new, total, by, done = windows.add(held, op, op.window, at)
        if not done:
            return total, by
        if new is not None:
            undo.append((self._windows, key, held))
            self._windows[key] = new
            self._dues = True
            self._window_dues.note(key, windows.gone(new, op.window))
        values.append(total)
        return None

    def _mark(self, op: Mark, at: int, undo: _Undo, values: list[object]) -> None:
        ttl = op.ttl
        if ttl is not None and (type(ttl) is not int or ttl < 0):
            raise TypeError("Mark")
        self._set(op.key, op.value, op.by, None if ttl is None else at + ttl, undo)
        values.append(None)

    def _require(self, op: Require, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        mark = self._live(op.key, at)
        if mark is None:
            return None, ""
        values.append(mark[0])
        return None

    def _take(self, op: Take, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        mark = self._live(op.key, at)
        if mark is None and op.need:
            return None, ""
        if mark is not None:
            undo.append((self._marks, op.key, mark))
            del self._marks[op.key]
        values.append(None if mark is None else mark[0])
        return None

    def _pin(self, op: Pin, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        mark = self._live(op.key, at)
        if mark is None:
            ttl = op.ttl
            if ttl is not None and (type(ttl) is not int or ttl < 0):
                raise TypeError("Pin")
            self._set(op.key, op.value, op.by, None if ttl is None else at + ttl, undo)
        elif mark[0] != op.value:
            return mark[0], mark[1]
        values.append(mark is None)
        return None

    def _put(self, op: Put, at: int, undo: _Undo, values: list[object]) -> None:
        mark = self._live(op.key, at)
        self._set(op.key, op.value, op.by, None, undo)
        values.append(None if mark is None else mark[0])

    def _absent(self, op: Absent, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        mark = self._live(op.key, at)
        if mark is not None:
            return mark[0], mark[1]
        values.append(None)
        return None

    def _sum(self, op: Sum, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        window = op.window
        if type(op.key) is not str or (op.most is not None and type(op.most) is not int):
            raise TypeError("Sum")
        if window is None:
            total, by = self._counts.get(op.key, (0, ""))
        elif type(window) is int and window > 0:
            total, by = windows.total(self._windows.get((op.key, window)), window, at)
        else:
            raise TypeError("Sum")
        if op.most is not None and total > op.most:
            return total, by
        values.append((total, by))
        return None

    def _know(self, op: Know, at: int, undo: _Undo, values: list[object]) -> None:
        mark = self._live(op.key, at)
        veto = self._live(op.veto, at) if op.veto != "" else None
        text = known(op, mark[0] if mark is not None else None, veto[0] if veto is not None else None)
        if text is not None:
            self._set(op.key, text, op.by, None if op.ttl is None else at + op.ttl, undo)
        values.append(text is not None)

    def _drop(self, op: Drop, at: int, undo: _Undo, values: list[object]) -> tuple[object, str] | None:
        mark = self._live(op.key, at)
        if type(op.word) is not str:
            raise TypeError("Drop")
        words = parse_map(mark[0]) if mark is not None else {}
        value = words.pop(op.word, None)
        if value is None and op.need:
            return (None, "") if mark is None else (mark[0], mark[1])
        if value is not None and mark is not None:
            undo.append((self._marks, op.key, mark))
            if words:
                self._marks[op.key] = (map_text(words), mark[1], mark[2])
            else:
                del self._marks[op.key]
        values.append(value)
        return None

    def _lookup(self, op: Lookup, at: int, undo: _Undo, values: list[object]) -> None:
        mark = self._live(op.key, at)
        values.append(None if mark is None else mark[0])


def _text(*words: object) -> None:
    for word in words:
        if type(word) is not str:
            raise TypeError("text")


def _rollback(undo: _Undo) -> None:
    for table, key, before in reversed(undo):
        if before is None:
            table.pop(key, None)
        else:
            table[key] = before


_TABLE: dict[type, Callable[..., tuple[object, str] | None]] = {
    Add: MemoryState._window,
    Mark: MemoryState._mark,
    Require: MemoryState._require,
    Take: MemoryState._take,
    Pin: MemoryState._pin,
    Put: MemoryState._put,
    Lookup: MemoryState._lookup,
    Absent: MemoryState._absent,
    Sum: MemoryState._sum,
    Know: MemoryState._know,
    Drop: MemoryState._drop,
}

# A child made by fork while another thread is inside would wait for ever for a lock nobody holds, over half-done changes.
_stores: WeakSet[MemoryState] = WeakSet()


def _hold() -> None:
    for store in list(_stores):
        store._lock.acquire()


def _release() -> None:
    for store in list(_stores):
        store._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)
