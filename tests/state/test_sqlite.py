"""The file: who may read it, what is refused, what happens when it goes away or another holds it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest

from guard.errors import ConfigError, GuardError, StateUnavailable
from guard.ops import Absent, Add, Applied, Mark, Op, Refused
from guard.state import MemoryState, SqliteState, open_state
from guard.state.sqlite import SCHEMA

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ONE: list[Op] = [Add("k")]


def test_open_state(tmp_path: Path) -> None:
    assert isinstance(open_state("memory:"), MemoryState)
    store = open_state(f"sqlite:{tmp_path}/state.db")
    assert isinstance(store, SqliteState)
    store.close()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("memory", "did you mean `memory:`"),
        ("memori:", "did you mean `memory`"),
        ("memory:x", "nothing after the colon"),
        ("sqlite:", "a file path"),
        ("sqlite:///state.db", "one colon"),
        ("sqlite::memory:", "did you mean `memory:`"),
        ("sqllite:a.db", "did you mean `sqlite`"),
        ("state.db", "did you mean `sqlite:state.db`"),
        ("redis://localhost/0", "redis comes with a later release"),
        ("", "must be"),
    ],
)
def test_what_is_no_state(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        open_state(spec)


def test_the_file_is_the_users_own(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with SqliteState(tmp_path / "sub" / "state.db") as store:
            store.apply(ONE, now=NOW)
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "sub").iterdir()} == {0o600}
            assert len(list((tmp_path / "sub").iterdir())) == 3  # the file, its log, its index
    finally:
        os.umask(before)


def test_it_knows_when_it_was_made(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    with SqliteState(tmp_path / "state.db") as first:
        assert began <= first.born <= datetime.now(UTC)
        with SqliteState(tmp_path / "state.db") as second:
            assert second.born == first.born
    with SqliteState(tmp_path / "state.db") as third:
        assert third.born == first.born
    assert MemoryState().born is None


def test_a_second_process_counts_on(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db") as store:
        store.apply(ONE, now=NOW)
        code = "import sys; from guard.state import open_state; from guard.ops import Add; from datetime import datetime, UTC\n"
        code += "print(open_state('sqlite:' + sys.argv[1]).apply([Add('k')], now=datetime(2026, 3, 1, tzinfo=UTC)).values)"
        done = subprocess.run([sys.executable, "-c", code, store.path], capture_output=True, text=True, check=True)
        assert done.stdout == "(2,)\n"
        assert store.apply(ONE, now=NOW)[0] == (3,)


def test_what_another_connection_writes_is_read_anew(tmp_path: Path) -> None:
    """Rows are kept as long as nobody else commits. In turns, and twice in a row."""
    with SqliteState(tmp_path / "s.db") as one, SqliteState(tmp_path / "s.db") as two:
        for turn, store in enumerate([one, two, one, one, two, two, one]):
            answer = store.apply([Add("k"), Absent(f"m{turn}"), Mark(f"m{turn}")], now=NOW)
            assert isinstance(answer, Applied)
            assert answer.values == (turn + 1, None, None)


def test_what_a_refused_list_did_is_not_so(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "s.db") as store:
        for turn in range(3):
            assert isinstance(store.apply([Add("k", 100), Mark("m"), Add("k", 100, 150)], now=NOW), Refused)
            answer = store.apply([Add("k"), Absent("m")], now=NOW)
            assert isinstance(answer, Applied)
            assert answer.values == (turn + 1, None)


def test_sqlite_is_loaded_only_when_it_is_used() -> None:
    code = "import sys; from guard.state import open_state; open_state('memory:'); print('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# -- the file is not what it should be ------------------------------------------------------------------------------------------


def newer(path: Path) -> None:
    SqliteState(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(SCHEMA + 1),))
    connection.close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()


def beheaded(path: Path) -> None:
    SqliteState(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()


def torn(path: Path) -> None:
    with SqliteState(path) as store:
        for n in range(200):
            store.apply([Mark(f"{n}", "d", None, "x" * 200)], now=NOW)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (newer, f"has schema {SCHEMA + 1}, this guardtrail knows {SCHEMA}: upgrade guardtrail"),
        (foreign, "not a guardtrail state file"),
        (beheaded, "cannot be used"),
        (torn, "cannot be used: SQLITE_CORRUPT"),
        (lambda path: path.write_text("tea and biscuits, and a good deal of both\n" * 100), "cannot be used: SQLITE_NOTADB"),
        (lambda path: path.mkdir(), "cannot be used"),
        (lambda path: path.symlink_to("/dev/full"), "cannot be used"),
    ],
)
def test_what_is_no_state_file_is_refused(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "state.db"
    make(path)
    with pytest.raises(StateUnavailable, match=says):
        SqliteState(path, timeout=0.2)


@pytest.mark.parametrize("where", ["file/state.db", "no/such/folder/state.db", "x" * 300])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnavailable, match="cannot be used"):
        SqliteState(tmp_path / where)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StateUnavailable, match="cannot be used"):
        SqliteState(tmp_path / "locked" / "state.db")


# -- the file changes under us --------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_or_replaced_is_not_counted_on(tmp_path: Path) -> None:
    """Counting from nothing in a new file would hand every limit out again."""
    path = tmp_path / "state.db"
    with SqliteState(path) as store:
        store.apply(ONE, now=NOW)
        path.rename(tmp_path / "moved.db")
        with pytest.raises(StateUnavailable, match="gone"):
            store.apply(ONE, now=NOW)
        SqliteState(path).close()
        with pytest.raises(StateUnavailable, match="replaced"):
            store.apply(ONE, now=NOW, commit=False)


def test_a_file_that_is_overwritten_under_us(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with SqliteState(path) as store:
        for n in range(500):
            store.apply([Mark(f"{n}", "d", None, "x" * 200)], now=NOW)
    with SqliteState(path) as store:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(StateUnavailable, match="cannot be used"):
            for n in range(500):
                store.apply([Mark(f"{n}", "d")], now=NOW)


def test_closed(tmp_path: Path) -> None:
    store = SqliteState(tmp_path / "state.db")
    store.close()
    store.close()
    with pytest.raises(StateUnavailable, match="closed"):
        store.apply(ONE, now=NOW)


def test_who_waits_too_long_is_refused_and_nothing_is_counted(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db", timeout=0.1) as store:
        store.apply(ONE, now=NOW)
        holder = sqlite3.connect(store.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        began = monotonic()
        with pytest.raises(StateUnavailable, match="other processes took too long"):
            store.apply(ONE, now=NOW)
        assert monotonic() - began > 0.09
        assert store.apply(ONE, now=NOW, commit=False) == Applied((2,), int(NOW.timestamp())), "a trial waits for nobody"
        holder.execute("ROLLBACK")
        holder.close()
        assert store.apply(ONE, now=NOW)[0] == (2,)


def test_threads_behind_a_stuck_one_are_refused_in_time(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db", timeout=0.1) as store:
        errors: list[str] = []
        with store._lock:

            def call() -> None:
                try:
                    store.apply(ONE, now=NOW)
                except GuardError as error:
                    errors.append(error.code)

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=30)
        assert errors == ["state.unavailable"] * 4


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.state import sqlite

    with SqliteState(tmp_path / "state.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                store.apply(ONE, now=NOW)
        assert store.apply(ONE, now=NOW)[0] == (1,)


def test_unpaired_surrogates_are_no_text(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db") as store:
        lists: list[list[Op]] = [[Add("\ud800")], [Add("k"), Mark("m", "d", None, "\udfff")]]
        for ops in lists:
            with pytest.raises(StateUnavailable):
                store.apply(ops, now=NOW)
        assert store.apply(ONE, now=NOW + timedelta(seconds=1))[0] == (1,)


def test_its_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db") as store:
        for n in range(3000):
            store.apply([Add("k"), Mark(f"m{n % 50}", "d", 60)], now=NOW)
        assert (tmp_path / "state.db-wal").stat().st_size < 10_000_000
