"""Windows as buckets: how a sum over the last seconds is kept in a bounded number of integers, the same in every store.

Times are whole seconds, cut off. An addition in second `t` may be younger than `now - t` seconds, so second `now - window` still
counts; and a bucket counts whole while any of its seconds does. Both errors count too much, never too little.
"""

from __future__ import annotations

from guard.ops import AMOUNT_MAX, Add

__all__ = ["BUCKETS", "Held", "add", "gone", "total", "width"]

BUCKETS = 64
"""The most a key ever holds."""

Held = tuple[dict[int, int], str]
"""Buckets (first second -> sum) and who added last. Never changed in place: an older one is what a rollback puts back."""


def width(window: int) -> int:
    """Seconds of one bucket: `BUCKETS - 1` of them span the window, one more lies partly outside."""
    return -(-window // (BUCKETS - 1))


def gone(held: Held, window: int) -> int:
    """The first second at which nothing of it counts any more."""
    return max(held[0], default=-window) + width(window) + window


def total(held: Held | None, window: int, at: int) -> tuple[int, str]:
    """The sum at second `at` and who added last; nothing where nothing counts any more."""
    if held is None:
        return 0, ""
    edge = at - window - width(window)
    live = [amount for start, amount in held[0].items() if start > edge]
    return (sum(live), held[1]) if live else (0, "")


def add(held: Held | None, op: Add, window: int, at: int) -> tuple[Held | None, int, str, bool]:
    """`op` at second `at`: what to hold then (None: as before), the sum, who added last, whether it was done."""
    wide = width(window)
    edge = at - window - wide
    live = {start: amount for start, amount in held[0].items() if start > edge} if held is not None else {}
    by = held[1] if held is not None and live else ""
    total = sum(live.values())
    if op.amount >= 0:
        if total + op.amount > (AMOUNT_MAX if op.max is None or op.max > AMOUNT_MAX else op.max):
            return None, total, by, False
        start, by = at - at % wide, op.by
    else:
        second = op.at
        if type(second) is not int:
            raise TypeError("a refund in a window names the second it takes back")
        start = second - second % wide
        if start not in live:
            return None, total, by, True
    live[start] = live.get(start, 0) + op.amount
    return (live, by), total + op.amount, by, True
