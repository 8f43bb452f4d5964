"""Interleaved measurement: subject and reference alternate in small batches; the figure is the median of the per-round ratios.

CPU time of the whole process (all threads), because a store or an exporter may work on a thread of its own. Absolute times are
printed for orientation and never asserted: processors change speed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import process_time_ns

__all__ = ["Row", "interleave"]

Work = Callable[[int], None]
"""Does the thing n times."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure. `bar`: the largest ratio the project promises, None where the row only informs."""

    name: str
    cpu_us_median: float
    reference: str
    ratio: float
    bar: float | None = None

    @property
    def ok(self) -> bool:
        return self.bar is None or self.ratio <= self.bar


def interleave(
    name: str, subject: Work, reference_name: str, reference: Work, *, bar: float | None = None, rounds: int = 41, batch: int = 200
) -> Row:
    """`rounds` rounds of `batch` subject calls and `batch` reference calls, in changing order."""
    subject(batch)
    reference(batch)
    ratios: list[float] = []
    times: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            if i % 2:
                s, r = _time(subject, batch), _time(reference, batch)
            else:
                r, s = _time(reference, batch), _time(subject, batch)
            ratios.append(s / r)
            times.append(s / batch / 1000)
            if i % 8 == 0:
                gc.collect()
    finally:
        gc.enable()
    return Row(name, round(median(times), 2), reference_name, round(median(ratios), 3), bar)


def _time(work: Work, n: int) -> int:
    start = process_time_ns()
    work(n)
    return max(1, process_time_ns() - start)
