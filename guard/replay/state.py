"""State of a replay: in memory, and what belongs to a finished task is dropped with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from guard.ops import Applied, Op, Refused
from guard.state import MemoryState

__all__ = ["ReplayState"]


class ReplayState(MemoryState):
    """`MemoryState` by the clock of the log."""

    def at(self, second: int, ops: Sequence[Op], *, commit: bool = True) -> Applied | Refused:
        return self.apply(ops, now=datetime.fromtimestamp(max(0, min(second, 1 << 36)), UTC), commit=commit)

    def drop(self, keys: Iterable[tuple[str, int | None]]) -> None:
        """Forget these keys, whatever stands there. With each its window, None where it has none."""
        for key, window in keys:
            if window is not None:
                self._windows.pop((key, window), None)
            else:
                self._counts.pop(key, None)
                self._marks.pop(key, None)
