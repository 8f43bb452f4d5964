"""Both stores against the naive one, on lists and clocks that hypothesis makes up; and windows against exact sums."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from guard.ops import Absent, Add, Applied, Drop, Know, Lookup, Mark, Op, Pin, Put, Require, Sum, Take
from guard.state import MemoryState, SqliteState
from guard.state.window import BUCKETS, width
from guard.testing.state_contract import START, Oracle

KEYS = st.sampled_from(["a", "b", "a|b"])
BY = st.sampled_from(["", "d1", "d2", "d3"])
VALUES = st.sampled_from(["", "x", "y"])
WORDS = st.sampled_from(["W", "a", "b:1", "c,d"])
WINDOWS = st.sampled_from([1, 5, 64, 200])
PLAIN: st.SearchStrategy[Op] = st.one_of(
    st.builds(Add, KEYS, st.integers(-3, 6), st.none() | st.integers(0, 12), st.none(), BY, st.none()),
    st.builds(Mark, KEYS, BY, st.none() | st.integers(0, 9), VALUES),
    st.builds(Absent, KEYS),
    st.builds(Require, KEYS),
    st.builds(Take, KEYS, st.booleans()),
    st.builds(Pin, KEYS, VALUES, BY, st.none() | st.integers(0, 9)),
    st.builds(Put, KEYS, VALUES, BY),
    st.builds(Lookup, KEYS),
    st.builds(Sum, KEYS, st.none(), st.none() | st.integers(0, 9)),
    st.builds(
        Know,
        KEYS,
        WORDS,
        WORDS,
        st.sampled_from(["first", "last"]),
        BY,
        st.just("") | KEYS,
        st.integers(1, 3),
        st.none() | st.integers(0, 9),
    ),
    st.builds(Drop, KEYS, WORDS, st.booleans()),
)
COUNTED: st.SearchStrategy[Op] = (
    PLAIN | st.builds(Sum, KEYS, WINDOWS, st.none()) | st.builds(Add, KEYS, st.integers(0, 6), st.none(), WINDOWS, BY, st.none())
)
ANYTHING: st.SearchStrategy[Op] = (
    COUNTED
    | st.builds(Sum, KEYS, WINDOWS, st.integers(0, 9))
    | st.builds(Add, KEYS, st.integers(0, 6), st.integers(0, 9), WINDOWS, BY, st.none())
)


class Stores(RuleBasedStateMachine):
    """Memory and SQLite must agree in everything; the naive store knows what they must say, and bounds for windows."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.db"
        self.memory, self.sqlite, self.oracle = MemoryState(), SqliteState(self.path), Oracle()
        self.beside = SqliteState(self.path)
        """Another connection to the same file, as another process has one: what one writes, the other must not answer from memory."""
        self.at = 0.0
        self.limited = False

    def ask(self, ops: list[Op], commit: bool) -> Any:
        now = START + timedelta(seconds=self.at)
        answer = self.memory.apply(ops, now=now, commit=commit)
        assert self.sqlite.apply(ops, now=now, commit=commit) == answer
        return answer

    @rule(seconds=st.sampled_from([-5, 0.3, 1, 2, 4, 30, 100, 500]))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds

    @rule(ops=st.lists(COUNTED, max_size=6), commit=st.booleans(), swap=st.booleans())
    def counted(self, ops: list[Op], commit: bool, swap: bool) -> None:
        if swap:
            self.sqlite, self.beside = self.beside, self.sqlite
        answer = self.ask(ops, commit)
        if not self.limited:
            expected = self.oracle.apply(ops, now=START + timedelta(seconds=self.at), commit=commit)
            assert self.oracle.allows(answer, expected), (answer, expected)

    @rule(amount=st.integers(1, 6), key=KEYS, window=WINDOWS, ops=st.lists(PLAIN, max_size=2))
    def reserve_and_take_back(self, amount: int, key: str, window: int, ops: list[Op]) -> None:
        reserved = self.ask([Add(key, amount, None, window, "r")], True)
        between = self.ask(ops, True)
        refunded = self.ask([Add(key, -amount, None, window, "r", reserved.now)], True)
        if not self.limited:
            now = START + timedelta(seconds=self.at)
            for ops_, answer in (
                ([Add(key, amount, None, window, "r")], reserved),
                (ops, between),
                ([Add(key, -amount, None, window, "r", reserved.now)], refunded),
            ):
                assert self.oracle.allows(answer, self.oracle.apply(ops_, now=now))

    @rule(ops=st.lists(ANYTHING, max_size=5), commit=st.booleans())
    def limited_windows(self, ops: list[Op], commit: bool) -> None:
        """May refuse where an exact store would not: from here on only the two stores are compared."""
        self.limited = True
        self.ask(ops, commit)

    @rule()
    def another_process(self) -> None:
        self.sqlite.close()
        self.sqlite = SqliteState(self.path)

    @invariant()
    def bounded(self) -> None:
        assert all(len(buckets) <= BUCKETS for buckets, _ in self.memory._windows.values())
        assert len(self.memory._mark_dues.heap) == len(self.memory._mark_dues.keys) <= 3

    def teardown(self) -> None:
        self.sqlite.close()
        self.beside.close()
        self.folder.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(stateful_step_count=25, deadline=None)


@given(
    window=st.integers(1, 400) | st.sampled_from([3600, 86_400]),
    steps=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 5)), max_size=40),
    scale=st.sampled_from([0.1, 1, 10]),
)
@settings(deadline=None)
def test_a_windowed_sum_never_counts_too_little_and_at_most_a_bucket_too_much(
    window: int, steps: list[tuple[int, int]], scale: float
) -> None:
    store, added, at = MemoryState(), list[tuple[int, int]](), 0.0
    for pause, amount in steps:
        at += pause * scale
        answer = store.apply([Add("k", amount, None, window)], now=START + timedelta(seconds=at))
        assert isinstance(answer, Applied)
        added.append((answer.now, amount))
        exact = sum(n for second, n in added if second >= answer.now - window)
        wider = sum(n for second, n in added if second > answer.now - window - width(window))
        found = answer.values[0]
        assert isinstance(found, int)
        assert exact <= found <= wider
        assert len(store._windows["k", window][0]) <= BUCKETS


def test_memory_forgets_what_has_ended() -> None:
    store = MemoryState()
    for n in range(5000):
        now = START + timedelta(seconds=n)
        store.apply([Mark(f"m{n}", "d", 10), Mark("same", "d", 1000), Add(f"w{n}", 1, None, 60)], now=now)
    assert len(store._marks) < 50
    assert len(store._windows) < 200
    assert len(store._mark_dues.heap) < 50


def test_sqlite_forgets_what_has_ended(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db") as store:
        for n in range(1500):
            now = START + timedelta(seconds=n)
            store.apply([Mark(f"m{n}", "d", 10), Add(f"w{n}", 1, None, 60)], now=now)
        assert store._cursor is not None
        (rows,) = store._cursor.execute("SELECT count(*) FROM kv").fetchone()
    assert rows < 800
