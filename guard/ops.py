"""What a store is asked: a short list of keyed operations, all applied or none.

Keys are opaque text made by the judges (`<tenant>|<task>|<what>|...`). `by` is the id of the decision that asks: the store keeps
the last one per key, so that a refusal can name its witness. Times are whole seconds; amounts are integers in `UNIT`s.
Operations are named tuples, not dataclasses, because they are made on every call.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

__all__ = [
    "AMOUNT_MAX",
    "UNIT",
    "Absent",
    "Add",
    "Applied",
    "Drop",
    "Know",
    "Lookup",
    "Mark",
    "Op",
    "Pin",
    "Put",
    "Refused",
    "Require",
    "Sum",
    "Take",
    "Tally",
    "known",
    "map_text",
    "parse_map",
    "units",
]

UNIT = Decimal("0.000001")
AMOUNT_MAX = 2**53 - 1
"""Largest magnitude of an amount and of a sum, in units: what every store, also one that counts in doubles, holds exactly."""


class Add(NamedTuple):
    """Add `amount` to the counter at `key`; refuse if the sum over the last `window` seconds would exceed `max`.

    `max` None: count only. `window` None: since ever, exact. With a window the store keeps at most 64 buckets and counts a bucket
    whole while any of it lies inside the window: it may over-count, never under-count. A negative amount is a refund: it is
    never refused; with a window it must carry `at`, the `Applied.now` second of the addition it takes back, and is dropped if
    that bucket is gone. Answer: the new sum.
    """

    key: str
    amount: int = 1
    max: int | None = None
    window: int | None = None
    by: str = ""
    at: int | None = None


class Tally(NamedTuple):
    """`Add` of one without a window to each of `keys`, up to its maximum in `most`; refuse if any would pass. Answer: the new sums.

    What most calls take from most limits, as one operation. The keys are distinct.
    """

    keys: tuple[str, ...]
    most: tuple[int, ...]
    by: str = ""


class Mark(NamedTuple):
    """Set the mark `key` (with `value`), replacing an older one. `ttl` seconds, None: for ever. Answer: None."""

    key: str
    by: str = ""
    ttl: int | None = None
    value: str = ""


class Absent(NamedTuple):
    """Refuse if the mark `key` is set and not expired. Answer: None; refused value: the mark's value."""

    key: str


class Require(NamedTuple):
    """Refuse unless the mark `key` is set and not expired. Answer: its value."""

    key: str


class Take(NamedTuple):
    """Remove the mark `key`. With `need`, refuse unless it was set. Answer: its value, None where it was not set."""

    key: str
    need: bool = True


class Pin(NamedTuple):
    """First sight sets `key` to `value`, for `ttl` seconds (None: for ever); refuse if another value stands there. Answer: True on first
    sight, else False, and its end stays as it was."""

    key: str
    value: str
    by: str = ""
    ttl: int | None = None


class Put(NamedTuple):
    """Set `key` to `value` and answer the value that stood there before, None at first."""

    key: str
    value: str
    by: str = ""


class Lookup(NamedTuple):
    """Answer the value at `key` (mark, pin or put), None where there is none. Never refuses."""

    key: str


class Sum(NamedTuple):
    """The counter at `key`, over the last `window` seconds; nothing changes. Answer: (sum, who added last).

    With `most`: refuse if the sum is greater. Refused value: the sum.
    """

    key: str
    window: int | None = None
    most: int | None = None


class Know(NamedTuple):
    """Into the map in the mark `key`, write `word` -> `value`. Answer: whether the map changed.

    | the map has `word` | keep    | then                                      |
    |--------------------|---------|-------------------------------------------|
    | no                 | -       | written, as the youngest                  |
    | yes                | `first` | stays                                     |
    | yes                | `last`  | replaced, now the youngest                |
    | the mark `veto` has the word `W` | - | nothing is written, answer False    |

    More than `most` words: the oldest goes, so a caller uses it only where forgetting is the strict side. What is written begins `ttl`
    anew. Words and values are made of `A-Za-z0-9_:.,-`, neither is empty.
    """

    key: str
    word: str
    value: str = "-"
    keep: str = "first"
    by: str = ""
    veto: str = ""
    most: int = 16
    ttl: int | None = None


class Drop(NamedTuple):
    """Remove one word of the map at `key`. With `need`, refuse unless it was there. Answer: its value, None where it was not.

    A map without words is a mark that is not set.
    """

    key: str
    word: str
    need: bool = True


Op = Add | Tally | Mark | Absent | Require | Take | Pin | Put | Lookup | Sum | Know | Drop


class Applied(NamedTuple):
    """Everything was applied. `values`: the answer of each operation. `now`: the store's high-water mark, epoch seconds."""

    values: tuple[object, ...]
    now: int


class Refused(NamedTuple):
    """Nothing was applied. `index`: the first operation that failed. `value`: what stood there (sum, mark value). `by`: who set it."""

    index: int  # type: ignore[assignment]
    value: object
    by: str
    now: int


def parse_map(text: object) -> dict[str, str]:
    """The map in a mark, oldest word first; empty where the mark is not set, or holds something that is no map."""
    if type(text) is not str or not text:
        return {}
    found: dict[str, str] = {}
    for pair in text.split(" "):
        word, equals, value = pair.partition("=")
        if equals:
            found[word] = value
    return found


def map_text(words: dict[str, str]) -> str:
    """The text of a map, as it stands in a mark."""
    return " ".join([f"{word}={value}" for word, value in words.items()])


_WORD: Final = re.compile(r"[A-Za-z0-9_:.,\-]+")


def known(op: Know, text: object, veto: object) -> str | None:
    """The map `text` after `op`, None where it stays as it is. `veto`: the text of the mark it names. The same in every store.

    Raises TypeError where it is no operation: a blank in a word would forge another one.
    """
    if type(op.word) is not str or type(op.value) is not str or type(op.by) is not str or op.keep not in ("first", "last"):
        raise TypeError("Know")
    if not _WORD.fullmatch(op.word) or not _WORD.fullmatch(op.value):
        raise TypeError("Know")
    if type(op.most) is not int or op.most < 1 or (op.ttl is not None and (type(op.ttl) is not int or op.ttl < 0)):
        raise TypeError("Know")
    words = parse_map(text)
    if op.veto and "W" in parse_map(veto):
        return None
    if op.word in words:
        if op.keep == "first":
            return None
        del words[op.word]
    words[op.word] = op.value
    while len(words) > op.most:
        del words[next(iter(words))]
    return map_text(words)


def units(amount: Decimal | int) -> int | None:
    """An amount in units, or None where it is not a whole number of units or beyond `AMOUNT_MAX`."""
    exact = Decimal(amount)
    if not exact.is_finite() or abs(exact) > AMOUNT_MAX * UNIT:  # the bound first: scaling 1E+999999 would build a huge integer
        return None
    whole = int(exact / UNIT)
    return whole if whole * UNIT == exact else None  # compared, not divided: a comparison of decimals is exact at any length


def seconds(now: datetime) -> int:
    """Whole epoch seconds of an aware time."""
    return int(now.timestamp())
