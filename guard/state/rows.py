"""Operations on rows: what a store that keeps one row a key answers to a list, and which rows change. Pure; used by SQLite.

A row is `(k, n, v, by, ends)`. Three kinds share the table, told apart by the end of `k`: `KEY#c` a counter (`n`), `KEY#m` a mark
(`v`), `KEY#w600` a counter with a window (`v`: first second and sum of each bucket, in turns). `ends`: the second from which the
row means nothing; None: for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guard.ops import (
    AMOUNT_MAX,
    Absent,
    Add,
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

__all__ = ["NOW", "Changes", "Row", "Rows", "judge", "names"]

Row = tuple[str, int | None, str | None, str, int | None]
Rows = dict[str, Row | None]
Changes = dict[str, Row | None]
"""None: the row goes."""

NOW = "now"
"""The key of the high-water mark (`n`). Without a `#`: no operation can name it."""

_INT = frozenset((int,))
_MARKS = frozenset((Mark, Absent, Require, Take, Pin, Put, Lookup, Drop))


def names(ops: Sequence[Op]) -> list[str]:
    """The rows each operation is about, one a piece, of a `Tally` one a key; then those of vetoes. Raises TypeError where the list is no list
    of operations."""
    found, vetoes = [], []
    for op in ops:
        kind = type(op)
        if kind is Sum:
            if op.most is not None and type(op.most) is not int:  # type: ignore[union-attr]
                raise TypeError("Sum")
            found.append(_counter(op.key, op.window))  # type: ignore[union-attr]
        elif kind is Know:
            found.append(op.key + "#m")  # type: ignore[union-attr]
            if op.veto != "":  # type: ignore[union-attr]
                vetoes.append(op.veto + "#m")  # type: ignore[union-attr]
        elif kind is Tally:
            found += _tallied(op)  # type: ignore[arg-type]
        elif kind is Add:
            if type(op.amount) is not int or type(op.by) is not str:  # type: ignore[union-attr]
                raise TypeError("Add")
            found.append(_counter(op.key, op.window))  # type: ignore[union-attr]
        elif kind in _MARKS:
            found.append(op.key + "#m")  # type: ignore[union-attr]
        else:
            raise TypeError("operation")
    return found + vetoes if vetoes else found


def _tallied(op: Tally) -> list[str]:
    keys, most = op.keys, op.most
    if type(op.by) is not str or len(keys) != len(most) or len(set(keys)) != len(keys) or not _INT.issuperset(map(type, most)):
        raise TypeError("Tally")
    return [key + "#c" for key in keys]


def _counter(key: str, window: object) -> str:
    """The row of a counter."""
    if window is None:
        return key + "#c"
    if type(window) is int and window > 0:
        return f"{key + '#w'}{window}"
    raise TypeError("window")


def judge(ops: Sequence[Op], named: Sequence[str], rows: Rows, at: int) -> tuple[list[object] | Refused, Changes]:
    """The answers and the changed rows, or the refusal and none. `rows` is used up: later operations see earlier ones in it."""
    values: list[object] = []
    changes: Changes = {}
    each = iter(named)
    for op in ops:
        kind = type(op)
        if kind is Tally:
            refused, sums = _tally(op, each, rows, changes)  # type: ignore[arg-type]
            if refused is not None:
                return Refused(len(values), *refused, at), {}
            values.append(sums)
            continue
        name = next(each)
        row = rows.get(name)
        if kind is Add:
            done, answer, by, new = _add(op, name, row, at) if op.window is None else _window(op, name, row, at)  # type: ignore[union-attr, arg-type]
        elif kind is Sum:
            done, answer, by, new = _sum(op, row, at)  # type: ignore[arg-type]
        else:
            if row is not None and row[4] is not None and row[4] <= at:
                row = None
            if kind is Know:
                done, answer, by, new = _know(op, name, row, rows.get(op.veto + "#m"), at)  # type: ignore[arg-type, union-attr]
            elif kind is Drop:
                done, answer, by, new = _drop(op, name, row)  # type: ignore[arg-type]
            else:
                done, answer, by, new = _mark(op, name, row, at)
        if not done:
            return Refused(len(values), answer, by, at), {}
        values.append(answer)
        if new is not None:
            rows[name] = changes[name] = new
        elif row is not None and (kind is Take or (kind is Drop and answer is not None)):
            del rows[name]
            changes[name] = None
    return values, changes


_Step = tuple[bool, object, str, Row | None]
"""Done? The answer (or what stood there), who set it, the row to write."""


def _add(op: Add, name: str, row: Row | None, at: int) -> _Step:
    amount, by = op.amount, op.by
    stood = 0 if row is None else row[1] or 0
    total = stood + amount
    if amount >= 0:
        if total > AMOUNT_MAX or (op.max is not None and total > op.max):
            return False, stood, "" if row is None else row[3], None
    elif total < -AMOUNT_MAX:
        raise OverflowError("Add")
    elif row is not None:
        by = row[3]  # a refund is no witness
    return True, total, by, (name, total, None, by, None)


def _tally(op: Tally, named: Iterator[str], rows: Rows, changes: Changes) -> tuple[tuple[int, str] | None, tuple[int, ...]]:
    """What refuses it, and the new sums."""
    sums = []
    for most, name in zip(op.most, named, strict=False):  # `most` first: of `named` no more is taken than that
        row = rows.get(name)
        stood, by = (0, "") if row is None else (row[1] or 0, row[3])
        if stood >= most or stood >= AMOUNT_MAX:
            return (stood, by), ()
        rows[name] = changes[name] = (name, stood + 1, None, op.by, None)
        sums.append(stood + 1)
    return None, tuple(sums)


def _held(row: Row | None) -> windows.Held | None:
    if row is None:
        return None
    numbers = [int(word) for word in (row[2] or "").split()]
    return dict(zip(numbers[::2], numbers[1::2], strict=True)), row[3]


def _window(op: Add, name: str, row: Row | None, at: int) -> _Step:
    window = op.window or 0
    held = _held(row)
    new, total, by, done = windows.add(held, op, window, at)
    if new is None:
        return done, total, by, None
    text = " ".join([f"{start} {amount}" for start, amount in new[0].items()])
    return done, total, by, (name, None, text, by, windows.gone(new, window))


def _sum(op: Sum, row: Row | None, at: int) -> _Step:
    if op.window is None:
        total, by = (0, "") if row is None else (row[1] or 0, row[3])
    else:
        total, by = windows.total(_held(row), op.window, at)
    if op.most is not None and total > op.most:
        return False, total, by, None
    return True, (total, by), by, None


def _know(op: Know, name: str, row: Row | None, veto: Row | None, at: int) -> _Step:
    vetoed = veto[2] if veto is not None and (veto[4] is None or veto[4] > at) else None
    text = known(op, row[2] if row is not None else None, vetoed)
    if text is None:
        return True, False, "", None
    return True, True, "", (name, None, text, op.by, None if op.ttl is None else at + op.ttl)


def _drop(op: Drop, name: str, row: Row | None) -> _Step:
    if type(op.word) is not str:
        raise TypeError("Drop")
    words = parse_map(row[2]) if row is not None else {}
    value = words.pop(op.word, None)
    if row is None or value is None:
        return not op.need, None if not op.need or row is None else row[2], "" if row is None else row[3], None
    return True, value, row[3], (name, None, map_text(words), row[3], row[4]) if words else None


def _mark(op: Op, name: str, row: Row | None, at: int) -> _Step:
    """`row`: the mark that stands, None where it is not set or has expired."""
    stood, by = (None, "") if row is None else (row[2], row[3])
    kind = type(op)
    if kind is Absent:
        return row is None, stood, by, None
    if kind is Lookup:
        return True, stood, by, None
    if kind is Require or (kind is Take and op.need):  # type: ignore[union-attr]
        return row is not None, stood, by, None
    if kind is Take:
        return True, stood, by, None
    value, setter = op.value, op.by  # type: ignore[union-attr]
    if type(value) is not str or type(setter) is not str:
        raise TypeError("text")
    if kind is Pin:
        if row is not None:
            return stood == value, False if stood == value else stood, by, None
        return True, True, by, (name, None, value, setter, _end(op.ttl, at))  # type: ignore[union-attr]
    if kind is Put:
        return True, stood, by, (name, None, value, setter, None)
    return True, None, by, (name, None, value, setter, _end(op.ttl, at))  # type: ignore[union-attr]


def _end(ttl: object, at: int) -> int | None:
    if ttl is not None and (type(ttl) is not int or ttl < 0):
        raise TypeError("ttl")
    return None if ttl is None else at + ttl
