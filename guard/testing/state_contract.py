"""What every `StateStore` must do, as tests that need nothing but the store.

    class TestMine(StateContract):
        def make(self) -> StateStore:
            return MyState(...)

Each method of `StateContract` whose name begins with `test_` is one promise; pytest finds them in the subclass, and `run(make)`
runs them without pytest. `make` is asked for a fresh, empty store each time. `Oracle` is the naive store the answers are compared
with: it keeps every addition for ever and copies everything before every list.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random

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
    parse_map,
)
from guard.ports import StateStore

__all__ = ["START", "Oracle", "StateContract", "run"]

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _same(found: object, expected: object, what: str = "") -> None:
    if found != expected:
        raise AssertionError(f"{what + ': ' if what else ''}expected {expected!r}, found {found!r}")


class Oracle:
    """The contract, written to be read and not to be fast. A windowed counter answers with bounds: (exact, exact and a bucket more)."""

    def __init__(self, slack: Callable[[int], int] = lambda window: -(-window // 63)) -> None:
        self.counts: dict[str, int] = {}
        self.added: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.marks: dict[str, tuple[str, str, int | None]] = {}
        self.witness: dict[str, str] = {}
        self.high = 0
        self.slack = slack

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        before = copy.deepcopy((self.counts, self.added, self.marks, self.witness))
        at = max(self.high, int(now.timestamp()))
        if commit:
            self.high = at
        values: list[object] = []
        refused: tuple[object, str] | None = None
        for op in ops:
            refused = self._one(op, at, values)
            if refused is not None:
                break
        if refused is not None or not commit:
            self.counts, self.added, self.marks, self.witness = before
        return Applied(tuple(values), at) if refused is None else Refused(len(values), *refused, at)

    @staticmethod
    def allows(answer: Applied | Refused, expected: Applied | Refused) -> bool:
        """Is `answer` what this store expects? Only sums of windows have room."""
        if isinstance(answer, Refused) or isinstance(expected, Refused):
            return answer == expected
        if answer.now != expected.now or len(answer.values) != len(expected.values):
            return False
        return all(_within(found, room) for found, room in zip(answer.values, expected.values, strict=True))

    def _one(self, op: Op, at: int, values: list[object]) -> tuple[object, str] | None:
        if isinstance(op, Add):
            return self._add(op, at, values)
        if isinstance(op, Sum):
            return self._sum(op, at, values)
        if isinstance(op, Tally):
            sums: list[object] = []
            for key, most in zip(op.keys, op.most, strict=True):
                refused = self._add(Add(key, 1, most, None, op.by), at, sums)
                if refused is not None:
                    return refused
            values.append(tuple(sums))
            return None
        stood = self.marks.get(op.key)
        if stood is not None and stood[2] is not None and stood[2] <= at:
            stood = None
        value, by = (None, "") if stood is None else stood[:2]
        match op:
            case Absent() if stood is not None:
                return value, by
            case Require() | Take(need=True) if stood is None:
                return None, ""
            case Pin() if stood is not None and value != op.value:
                return value, by
            case Drop(need=True) if op.word not in parse_map(value):
                return value, by
        match op:
            case Know():
                values.append(self._know(op, parse_map(value), at))
            case Drop():
                words = parse_map(value)
                values.append(words.pop(op.word, None))
                if values[-1] is not None and stood is not None:
                    self._write(op.key, words, by, stood[2])
            case Mark():
                self.marks[op.key] = (op.value, op.by, None if op.ttl is None else at + op.ttl)
                values.append(None)
            case Take():
                self.marks.pop(op.key, None)
                values.append(value)
            case Pin():
                if stood is None:
                    self.marks[op.key] = (op.value, op.by, None if op.ttl is None else at + op.ttl)
                values.append(stood is None)
            case Put():
                self.marks[op.key] = (op.value, op.by, None)
                values.append(value)
            case _:
                values.append(value)
        return None

    def _know(self, op: Know, words: dict[str, str], at: int) -> bool:
        veto = self.marks.get(op.veto, ("", "", None)) if op.veto else ("", "", None)
        if "W" in parse_map(veto[0]) and (veto[2] is None or veto[2] > at):
            return False
        if op.word in words and op.keep == "first":
            return False
        young = [(word, value) for word, value in words.items() if word != op.word] + [(op.word, op.value)]
        self._write(op.key, dict(young[-op.most :]), op.by, None if op.ttl is None else at + op.ttl)
        return True

    def _write(self, key: str, words: dict[str, str], by: str, ends: int | None) -> None:
        self.marks.pop(key, None)
        if words:
            self.marks[key] = (" ".join(f"{word}={value}" for word, value in words.items()), by, ends)

    def _sum(self, op: Sum, at: int, values: list[object]) -> tuple[object, str] | None:
        """Over a window only without `most`, and then a sum with bounds; who added last is not compared."""
        if op.window is not None:
            added = self.added.get((op.key, op.window), [])
            low = sum(amount for second, amount in added if second >= at - op.window)
            values.append((low, sum(amount for second, amount in added if second > at - op.window - self.slack(op.window)), "sum"))
            return None
        total, by = self.counts.get(op.key, 0), self.witness.get(op.key, "")
        if op.most is not None and total > op.most:
            return total, by
        values.append((total, by))
        return None

    def _add(self, op: Add, at: int, values: list[object]) -> tuple[object, str] | None:
        if op.window is not None:
            added = self.added.setdefault((op.key, op.window), [])
            added.append((op.at if op.at is not None and op.amount < 0 else at, op.amount))
            low = sum(amount for second, amount in added if second >= at - op.window)
            high = sum(amount for second, amount in added if second > at - op.window - self.slack(op.window))
            values.append((low, high))
            return None
        total = self.counts.get(op.key, 0) + op.amount
        if op.amount >= 0 and total > (AMOUNT_MAX if op.max is None else op.max):
            return total - op.amount, self.witness.get(op.key, "")
        if op.amount >= 0 or op.key not in self.counts:
            self.witness[op.key] = op.by
        self.counts[op.key] = total
        values.append(total)
        return None


def _within(found: object, room: object) -> bool:
    if isinstance(room, tuple) and len(room) == 3 and isinstance(found, tuple):  # `Sum` over a window
        found, room = found[0], room[:2]
    if isinstance(room, tuple) and type(room[1]) is int:
        return type(found) is int and room[0] <= found <= room[1]
    return found == room


class StateContract:
    """Inherit and say how to `make` a store."""

    def make(self) -> StateStore:
        raise NotImplementedError("make() answers a fresh, empty store")

    def slack(self, window: int) -> int:
        """Seconds of one bucket: by how much a window of this length may reach too far. 64 buckets at most, so at least this."""
        return -(-window // 63)

    # -- counters -----------------------------------------------------------------------------------------------------------------

    def test_an_empty_list_is_applied(self) -> None:
        _same(self.make().apply([], now=START), Applied((), int(START.timestamp())))

    def test_add_counts_to_the_limit_and_not_beyond(self) -> None:
        store = self.make()
        for n in range(1, 4):
            _same(_applied(store, Add("k", 1, 3, None, f"d{n}")), (n,))
        refused = _refused(store, Add("k", 1, 3, None, "d4"))
        _same(refused[:3], (0, 3, "d3"), "the sum that stands and the last one who added")
        _same(_applied(store, Add("k", 0, 3)), (3,), "adding nothing at the limit")
        _same(_refused(store, Add("k", 0, 2)).value, 3, "a lower limit, whatever is added")
        _same(_applied(store, Add("k", 1, None)), (4,), "without a limit it only counts")
        _same(_refused(store, Add("new", 5, 4))[:3], (0, 0, ""), "nothing stood there")

    def test_amounts_are_exact_to_the_largest(self) -> None:
        store = self.make()
        _same(_applied(store, Add("k", AMOUNT_MAX - 1, AMOUNT_MAX)), (AMOUNT_MAX - 1,))
        _same(_refused(store, Add("k", 2, AMOUNT_MAX)).value, AMOUNT_MAX - 1)
        _same(_applied(store, Add("k", 1, AMOUNT_MAX)), (AMOUNT_MAX,))
        _same(_refused(store, Add("k", 1, None)).value, AMOUNT_MAX, "no sum passes the largest, also without a limit")
        _same(_refused(store, Add("k", 1, AMOUNT_MAX * 4)).value, AMOUNT_MAX)

    def test_a_refund_is_never_refused_and_is_no_witness(self) -> None:
        store = self.make()
        _applied(store, Add("k", 3, 3, None, "first"))
        _same(_applied(store, Add("k", -1, 0, None, "refund")), (2,), "below its own limit or not")
        _same(_refused(store, Add("k", 2, 3)).by, "first")
        _same(_applied(store, Add("k", 1, 3, None, "second")), (3,), "what was taken back may be used again")

    # -- windows ------------------------------------------------------------------------------------------------------------------

    def test_a_window_forgets_and_not_too_early(self) -> None:
        for window in (1, 7, 60, 63, 64, 100, 3600, 86_400):
            store = self.make()
            _same(_applied(store, Add("k", 1, 1, window, "first")), (1,))
            _same(_refused(store, Add("k", 1, 1, window), at=window)[:3], (0, 1, "first"), f"window {window}, its last second")
            after = window + self.slack(window)
            _same(_applied(store, Add("k", 1, 1, window, "second"), at=after), (1,), f"window {window}, one bucket later")

    def test_a_window_may_count_a_bucket_too_much_but_never_too_little(self) -> None:
        for seed in range(12):
            random = Random(seed)  # noqa: S311 - cases, not secrets
            store, oracle = self.make(), Oracle(self.slack)
            window = random.choice((3, 30, 63, 90, 600, 7200))
            at = 0.0
            done: list[tuple[int, int]] = []
            for _ in range(120):
                at += random.choice((0, 0.4, 1, window / 100, window / 7, window / 7, window * 1.5 if random.random() < 0.05 else 0))
                if done and random.random() < 0.3:
                    second, amount = done.pop(random.randrange(len(done)))
                    op = Add("k", -amount, None, window, "", second)
                else:
                    op = Add("k", random.randrange(1, 9), None, window)
                answer, bounds = store.apply([op], now=_at(at)), oracle.apply([op], now=_at(at))
                if not (isinstance(answer, Applied) and isinstance(bounds, Applied)):
                    raise AssertionError(f"nothing limits {op}, yet {answer}")
                if not oracle.allows(answer, bounds):
                    raise AssertionError(f"seed {seed}, window {window}, second {at}: {answer.values} is not within {bounds.values}")
                if op.amount > 0:
                    done.append((answer.now, op.amount))

    def test_a_limit_in_a_window_is_never_exceeded(self) -> None:
        for seed in range(6):
            random = Random(seed)  # noqa: S311 - cases, not secrets
            store, granted, at = self.make(), list[tuple[int, int]](), 0.0
            for _ in range(200):
                at += random.random() * 3
                amount = random.randrange(4)
                if isinstance(answer := store.apply([Add("k", amount, 20, 50)], now=_at(at)), Applied):
                    granted.append((answer.now, amount))
            for end, _ in granted:
                total = sum(amount for second, amount in granted if end - 50 <= second <= end)
                if total > 20:
                    raise AssertionError(f"seed {seed}: {total} of 20 within 50 seconds")

    def test_a_refund_in_a_window_finds_its_bucket_or_is_dropped(self) -> None:
        store = self.make()
        first = store.apply([Add("k", 5, 9, 630, "a")], now=START).now
        _applied(store, Add("k", 3, 9, 630, "b"), at=300)
        _same(_applied(store, Add("k", -5, None, 630, "a", first), at=301), (3,))
        _same(_refused(store, Add("k", 7, 9, 630), at=302)[:3], (0, 3, "b"))
        _same(_applied(store, Add("k", -5, None, 630, "a", first - 5000), at=303), (3,), "that bucket is gone: dropped")
        _garbage(store, [Add("k", -3, None, 630)], at=304)
        _same(_applied(store, Add("k", 0, None, 630), at=305), (3,))

    def test_counters_and_marks_of_one_key_are_apart(self) -> None:
        store = self.make()
        _same(_applied(store, Add("k", 2), Add("k", 3, None, 60), Mark("k", "", None, "v"), Add("k", 1)), (2, 3, None, 3))
        _same(_applied(store, Lookup("k"), Take("k"), Lookup("k"), Add("k", 0), Add("k", 0, None, 60)), ("v", "v", None, 3, 3))

    def test_a_tally_is_one_added_to_each(self) -> None:
        store = self.make()
        _same(_applied(store, Tally(("a", "b"), (2, 1), "d1")), ((1, 1),))
        _same(_refused(store, Absent("x"), Tally(("a", "b"), (2, 1), "d2"))[:3], (1, 1, "d1"), "the one that fails, and who filled it")
        _same(_applied(store, Add("a", 0), Add("b", 0)), (1, 1), "none of a refused tally is kept")
        _same(_applied(store, Add("a", 1, 2, None, "d3"), Mark("m"), Tally(("c", "a"), (9, 9))), (2, None, (1, 3)))
        _same(_applied(store, Tally((), ())), ((),))
        trial = store.apply([Tally(("a",), (9,))], now=START, commit=False)
        _same(getattr(trial, "values", None), ((4,),))
        _same(_applied(store, Add("a", 0)), (3,), "a trial takes nothing")
        for bad in (Tally(("a", "a"), (9, 9)), Tally(("a",), (9, 9)), Tally(("a",), (9,), 1)):  # type: ignore[arg-type]
            _garbage(store, [bad])

    def test_keys_are_opaque(self) -> None:
        store = self.make()
        keys = ["", "a", "A", "a ", "a#c", "a#m", "a#w60", "a|b", "now", "a%", "a_", "a\x00b", "a\n", "é", "e\u0301", "'; DROP", "x" * 5000]
        for n, key in enumerate(keys):
            _same(_applied(store, Add(key, n + 1), Pin(key, f"v{n}")), (n + 1, True), repr(key[:9]))
        for n, key in enumerate(keys):
            _same(_applied(store, Add(key, 0), Lookup(key)), (n + 1, f"v{n}"), repr(key[:9]))

    # -- marks --------------------------------------------------------------------------------------------------------------------

    def test_marks(self) -> None:
        store = self.make()
        _same(_applied(store, Absent("k"), Lookup("k"), Take("k", False)), (None, None, None))
        _same(_refused(store, Require("k"))[:3], (0, None, ""))
        _same(_refused(store, Take("k"))[:3], (0, None, ""))
        _same(_applied(store, Mark("k", "d1", None, "one")), (None,))
        _same(_refused(store, Absent("k"))[:3], (0, "one", "d1"))
        _same(_applied(store, Require("k"), Lookup("k")), ("one", "one"))
        _same(_applied(store, Mark("k", "d2")), (None,), "a second mark replaces the first")
        _same(_refused(store, Absent("k"))[:3], (0, "", "d2"))
        _same(_applied(store, Take("k"), Absent("k")), ("", None))

    def test_a_mark_ends_after_its_time(self) -> None:
        store = self.make()
        _applied(store, Mark("k", "d", 10, "v"))
        _same(_refused(store, Absent("k"), at=9).value, "v")
        _same(_applied(store, Absent("k"), Lookup("k"), Take("k", False), at=10), (None, None, None))
        _same(_refused(store, Require("k"), at=10)[:3], (0, None, ""))
        _same(_applied(store, Pin("k", "other"), at=10), (True,), "an ended mark pins nothing")
        _applied(store, Mark("j", "d", 10), at=20)
        _applied(store, Mark("j", "d", None), at=21)
        _same(_refused(store, Absent("j"), at=1000).index, 0, "replaced by one for ever")
        _same(_applied(store, Mark("z", "d", 0), Absent("z"), at=1000), (None, None), "no time at all")

    def test_pin_and_put(self) -> None:
        store = self.make()
        _same(_applied(store, Pin("k", "one", "d1"), Pin("k", "one", "d2")), (True, False))
        _same(_refused(store, Pin("k", "two", "d3"))[:3], (0, "one", "d1"), "the first sight is the witness")
        _same(_applied(store, Put("k", "two", "d4"), Put("k", "three", "d5"), Lookup("k")), ("one", "two", "three"))
        _same(_refused(store, Absent("k"))[:3], (0, "three", "d5"))
        _same(_applied(store, Put("new", "v")), (None,))
        _applied(store, Mark("m", "d", 5, "old"))
        _same(_applied(store, Put("m", "new"), Lookup("m"), at=3), ("old", "new"))
        _same(_applied(store, Lookup("m"), at=500), ("new",), "put stays for ever")

    def test_a_pin_ends_after_its_time(self) -> None:
        store = self.make()
        _same(_applied(store, Pin("k", "one", "d1", 10)), (True,))
        _same(_applied(store, Pin("k", "one", "d2", 10), at=9), (False,), "who stands there stays, and so does its end")
        _same(_refused(store, Pin("k", "two", "d3", 10), at=9)[:3], (0, "one", "d1"))
        _same(_applied(store, Pin("k", "two", "d4", 10), Lookup("k"), at=10), (True, "two"))
        _same(_refused(store, Absent("k"), at=19)[:3], (0, "two", "d4"))
        _same(_applied(store, Absent("k"), Pin("k", "three"), at=20), (None, True))
        _same(_refused(store, Pin("k", "one", "d", 5), at=5000).value, "three", "without a time it stays")

    # -- sums and maps ------------------------------------------------------------------------------------------------------------

    def test_sum_answers_and_changes_nothing(self) -> None:
        store = self.make()
        _same(_applied(store, Sum("k"), Sum("k", 60), Sum("k", None, 0)), ((0, ""), (0, ""), (0, "")))
        _applied(store, Add("k", 3, None, None, "d1"), Add("k", 2, None, 60, "d2"))
        _same(_applied(store, Sum("k"), Sum("k", 60), Sum("k", None, 3), Sum("k", 60, 2)), ((3, "d1"), (2, "d2"), (3, "d1"), (2, "d2")))
        _same(_refused(store, Sum("k"), Sum("k", None, 2))[:3], (1, 3, "d1"))
        _same(_refused(store, Sum("k", 60, 1))[:3], (0, 2, "d2"))
        _same(_applied(store, Add("k", 1, None, None, "d3"), Sum("k")), (4, (4, "d3")), "it sees earlier operations of its list")
        _same(_applied(store, Sum("k", 60, 0), at=63), ((0, ""),), "what left the window has no witness either")

    def test_a_map_in_a_mark(self) -> None:
        store = self.make()
        _same(_applied(store, Know("k", "a", "1", by="d1"), Know("k", "a", "2"), Know("k", "b", "3")), (True, False, True))
        _same(_applied(store, Lookup("k")), ("a=1 b=3",))
        _same(_applied(store, Know("k", "a", "2", "last"), Lookup("k")), (True, "b=3 a=2"), "a word that is replaced is the youngest")
        _same(_applied(store, Know("k", "c", most=2), Lookup("k")), (True, "a=2 c=-"), "the oldest goes")
        _same(_refused(store, Drop("k", "b"))[:2], (0, "a=2 c=-"))
        _same(_applied(store, Drop("k", "b", need=False), Drop("k", "a"), Lookup("k")), (None, "2", "c=-"))
        _same(_applied(store, Drop("k", "c"), Absent("k"), Drop("k", "c", need=False)), ("-", None, None), "an empty map is no mark")
        _same(_refused(store, Drop("k", "c"))[:3], (0, None, ""))

    def test_a_veto_keeps_a_map_as_it_is(self) -> None:
        store = self.make()
        _same(_applied(store, Know("w", "W"), Know("k", "a", veto="w"), Know("w", "b", veto="w"), Lookup("k")), (True, False, False, None))
        _same(_applied(store, Know("k", "a", veto="other"), Drop("w", "W"), Know("k", "b", veto="w")), (True, "-", True))
        _same(_applied(store, Know("t", "W", ttl=5), Know("k", "c", veto="t"), at=1), (True, False))
        _same(_applied(store, Know("k", "c", veto="t"), at=6), (True,), "an ended mark vetoes nothing")

    def test_a_map_ends_with_its_mark(self) -> None:
        store = self.make()
        _applied(store, Know("k", "a", ttl=10))
        _same(_applied(store, Drop("k", "x", need=False), Lookup("k"), at=9), (None, "a=-"))
        _same(_applied(store, Lookup("k"), Know("k", "b", ttl=10), Lookup("k"), at=10), (None, True, "b=-"))
        _same(_applied(store, Know("k", "c", ttl=10), at=15), (True,))
        _same(_applied(store, Drop("k", "b"), Lookup("k"), at=24), ("-", "c=-"), "what is taken out does not begin the time anew")
        _same(_applied(store, Lookup("k"), at=25), (None,))

    # -- lists --------------------------------------------------------------------------------------------------------------------

    def test_operations_of_one_list_see_each_other(self) -> None:
        store = self.make()
        _same(_refused(store, Mark("k", "me"), Absent("k"))[:3], (1, "", "me"))
        _same(_refused(store, Add("n", 2, 3), Add("n", 2, 3))[:2], (1, 2))
        _same(_refused(store, Add("w", 2, 3, 60), Add("w", 2, 3, 60))[:2], (1, 2))
        _same(_refused(store, Pin("p", "a"), Pin("p", "b"))[:2], (1, "a"))
        _same(_refused(store, Mark("t"), Take("t"), Take("t"))[:2], (2, None))
        _same(_applied(store, Absent("k"), Add("n", 0), Add("w", 0, None, 60), Lookup("p"), Lookup("t")), (None, 0, 0, None, None))

    def test_all_or_none(self) -> None:
        store = self.make()
        _applied(store, Add("n", 5), Mark("m", "d", None, "v"), Add("w", 5, None, 60), Pin("p", "p"), Put("q", "q"))
        changes: list[Op] = [
            Add("n", 1),
            Take("m"),
            Add("w", 1, None, 60),
            Mark("m2"),
            Pin("p2", "x"),
            Put("q", "z"),
            Mark("p", "x"),
            Add("n", -3),
        ]
        for at in range(len(changes) + 1):
            _same(_refused(store, *changes[:at], Require("nothing"), *changes[at:]).index, at)
        seen = _applied(store, Add("n", 0), Lookup("m"), Add("w", 0, None, 60), Absent("m2"), Absent("p2"), Lookup("q"), Lookup("p"))
        _same(seen, (5, "v", 5, None, None, "q", "p"))

    def test_a_trial_answers_the_same_and_changes_nothing(self) -> None:
        store = self.make()
        _applied(store, Add("n", 5, None, None, "d"), Mark("m", "d", 50, "v"))
        lists: list[list[Op]] = [
            [Add("n", 1, 6), Take("m"), Add("w", 1, 1, 60), Pin("p", "x"), Put("q", "z"), Mark("j", "d", 1)],
            [Add("n", 2, 6)],
            [Absent("m")],
        ]
        for ops in lists:
            first = store.apply(ops, now=_at(1), commit=False)
            _same(store.apply(ops, now=_at(1), commit=False), first, "asked twice")
            _same(store.apply(ops, now=_at(1)), first, "a trial and the real thing")
            _applied(store, Add("n", 5 - 6 if isinstance(first, Applied) else 0), at=1)
            store.apply([Mark("m", "d", 50, "v"), Add("w", -1, None, 60, "", first.now), Take("p", False), Take("q", False)], now=_at(1))

    # -- time ---------------------------------------------------------------------------------------------------------------------

    def test_time_never_goes_back(self) -> None:
        store = self.make()
        high = int(_at(100).timestamp())
        _same(store.apply([Mark("k", "d", 10), Add("w", 1, None, 60)], now=_at(0)).now, high - 100)
        _same(store.apply([Add("x")], now=_at(100.9)).now, high)
        _same(store.apply([Absent("k"), Add("w", 0, None, 60)], now=_at(0)), Applied((None, 0), high), "an earlier clock revives nothing")
        _same(store.apply([Absent("k")], now=_at(0), commit=False).now, high)
        _same(store.apply([], now=_at(500), commit=False).now, high + 400)
        _same(store.apply([], now=_at(0)).now, high, "a trial does not move the clock")
        _same(store.apply([Require("none")], now=_at(200)).now, high + 100)
        _same(store.apply([], now=_at(0)).now, high + 100, "a refusal has seen the time")

    # -- many at once -------------------------------------------------------------------------------------------------------------

    def test_parallel_callers_get_exactly_the_limit(self) -> None:
        store = self.make()
        granted, first, errors = list[int](), list[int](), list[BaseException]()
        start = threading.Barrier(8)

        def caller(me: int) -> None:
            try:
                start.wait()
                if isinstance(answer := store.apply([Pin("p", "same")], now=START), Applied) and answer.values[0] is True:
                    first.append(me)
                for _ in range(50):
                    if isinstance(store.apply([Absent("ended"), Add("n", 1), Add("limit", 1, 150)], now=START), Applied):
                        granted.append(me)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=caller, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _same(errors, [])
        _same((len(granted), len(first)), (150, 1))
        _same(_applied(store, Add("n", 0), Add("limit", 0)), (150, 150), "what was refused was not counted either")

    # -- what is no operation -----------------------------------------------------------------------------------------------------

    def test_garbage_is_unavailable_and_changes_nothing(self) -> None:
        store = self.make()
        bad: list[object] = [
            None, "Add", ("k", 1), object(), Add, 7,
            Add("k", True), Add("k", 1.0), Add("k", "1"), Add("k", None), Add(7), Add(None), Add(b"k"), Add("k", 1, "2"), Add("k", 1, None, 0),  # type: ignore[arg-type]
            Add("k", 1, None, -5), Add("k", 1, None, "60"), Add("k", 1, None, 1.5), Add("k", 1, None, None, None), Add("k", -AMOUNT_MAX - 1),  # type: ignore[arg-type]
            Mark(7), Mark("k", 7), Mark("k", "", "10"), Mark("k", "", -1), Mark("k", "", None, None), Pin("k", None), Pin("k", "v", "", "10"), Pin("k", "v", "", -1), Put("k", 7), Put([], "v"),  # type: ignore[arg-type]
            Absent(None), Require(7), Take(b"k"), Lookup([]),  # type: ignore[arg-type]
            Sum(7), Sum("k", 0), Sum("k", "60"), Sum("k", None, "1"), Know("k", ""), Know("k", "a b"), Know("k", "a", "x=y"), Know("k", "a", ""),  # type: ignore[arg-type]
            Know("k", "a", keep="any"), Know("k", "a", most=0), Know("k", "a", ttl=-1), Know(7, "a"), Know("k", "a", veto=7), Know("k", "a", by=7),  # type: ignore[arg-type]
            Know("k", 7), Drop("k", 7), Drop(None, "a"),  # type: ignore[arg-type]
        ]  # fmt: skip
        for op in bad:
            _garbage(store, [Add("n"), Mark("m"), op])
        _garbage(store, None)
        _garbage(store, 7)
        for now in (None, 7, "now", datetime(2026, 3, 1, 12, 0)):  # noqa: DTZ001 - that is the case
            try:
                store.apply([Add("n"), Mark("m")], now=now)  # type: ignore[arg-type]
            except StateUnavailable:
                continue
            raise AssertionError(f"took {now!r} for a time")
        _same(_applied(store, Add("n", 0), Absent("m"), Absent("k"), Add("k", 0)), (0, None, None, 0))

    # -- everything ---------------------------------------------------------------------------------------------------------------

    def test_it_answers_like_the_naive_store(self) -> None:
        for seed in range(10):
            random = Random(seed)  # noqa: S311 - cases, not secrets
            store, oracle, at = self.make(), Oracle(self.slack), 0.0
            for step in range(60):
                at += random.choice((0, 0, 0.5, 1, 2, 5, -3))
                ops = [_random_op(random) for _ in range(random.randrange(6))]
                commit = random.random() < 0.8
                found, expected = store.apply(ops, now=_at(at), commit=commit), oracle.apply(ops, now=_at(at), commit=commit)
                _same(found, expected, f"seed {seed}, step {step}, {ops}")


def _random_op(random: Random) -> Op:
    key, by, value = random.choice("abc"), f"d{random.randrange(100)}", random.choice("xyz")
    kinds: list[Callable[[], Op]] = [
        lambda: Add(key, random.randrange(-2, 5), random.choice((None, 5, 9)), None, by),
        lambda: Mark(key, by, random.choice((None, 1, 3, 8)), value),
        lambda: Absent(key),
        lambda: Require(key),
        lambda: Take(key, random.random() < 0.5),
        lambda: Pin(key, value, by, random.choice((None, None, 1, 5))),
        lambda: Put(key, value, by),
        lambda: Lookup(key),
        lambda: Sum(key, None, random.choice((None, 0, 4))),
        lambda: Know(
            key, value, random.choice("pq"), random.choice(("first", "last")), by, random.choice(("", "a")), 2, random.choice((None, 3))
        ),
        lambda: Know("a", "W"),
        lambda: Drop(key, value, random.random() < 0.5),
    ]
    return random.choice(kinds)()


def _applied(store: StateStore, *ops: Op, at: float = 0) -> tuple[object, ...]:
    answer = store.apply(ops, now=_at(at))
    if not isinstance(answer, Applied):
        raise AssertionError(f"{ops} was refused: {answer}")
    return answer.values


def _refused(store: StateStore, *ops: Op, at: float = 0) -> Refused:
    answer = store.apply(ops, now=_at(at))
    if not isinstance(answer, Refused):
        raise AssertionError(f"{ops} was applied: {answer}")
    return answer


def _garbage(store: StateStore, ops: object, at: float = 0) -> None:
    for commit in (False, True):
        try:
            answer = store.apply(ops, now=_at(at), commit=commit)  # type: ignore[arg-type]
        except StateUnavailable:
            continue
        raise AssertionError(f"{ops!r} was answered with {answer}")


def run(make: Callable[[], StateStore]) -> list[str]:
    """Run the whole contract; the names of the promises that were kept. Raises AssertionError at the first that was not."""

    class Contract(StateContract):
        def make(self) -> StateStore:
            return make()

    kept = [name for name in dir(Contract) if name.startswith("test_")]
    for name in kept:
        getattr(Contract(), name)()
    return kept
