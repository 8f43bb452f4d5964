"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["START", "FrozenClock"]

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When the clock of every policy test starts."""


class FrozenClock:
    """Implements `guard.ports.Clock`. Wall time and monotonic seconds move together, so that the guard sees no drift.

    Times are counted in whole microseconds from `start`: advancing a thousand times by 0.1 is advancing once by 100.
    """

    inline = True

    def __init__(self, start: datetime = START) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock needs a time with its zone: `datetime(2026, 1, 1, tzinfo=UTC)`")
        self._start = start.astimezone(UTC)
        self._past = timedelta(0)

    def now(self) -> datetime:
        return self._start + self._past

    def monotonic(self) -> float:
        return self._past.total_seconds()

    def advance(self, seconds: float | timedelta) -> None:
        """Move on by `seconds`, which may not be negative: no clock that the guard trusts goes back."""
        step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        if step < timedelta(0):
            raise ValueError("a frozen clock only moves on")
        self._past += step
