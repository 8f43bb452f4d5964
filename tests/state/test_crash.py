"""Killed processes, full disks, forks: no granted unit is lost from the count, and nothing but StateUnavailable comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guard.errors import StateUnavailable
from guard.ops import Add, Applied
from guard.state import SqliteState

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run(program: str, *arguments: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run([sys.executable, str(HERE / program), *arguments], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kill_9_loses_no_granted_unit(tmp_path: Path) -> None:
    found = run("killed.py", str(tmp_path / "state.db"), "50")
    assert found["killed"] == 50
    assert found["ended"] == 0, "a child ended by itself"
    assert found["healthy"]
    assert found["lost"] == []
    # Each of the 51 children may have died between the commit and the word about it: counted and not acknowledged, never the reverse.
    assert found["acks"] <= found["all"] <= found["acks"] + 51
    assert found["window"] == found["all"]
    assert found["acks"] > 500, "the children hardly ran"


def test_a_full_disk_denies_and_recovers(tmp_path: Path) -> None:
    found = run("full.py", str(tmp_path / "state.db"))
    assert found["refused"] > 0
    assert found["before"] > 0
    assert found["after"] == 20
    assert found["counted"] == found["acks"]
    assert all("state.db" in text and "xxx" not in text for text in found["texts"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other threads of the test run; the child only counts and leaves
def test_a_fork_opens_the_file_anew_on_both_sides(tmp_path: Path) -> None:
    with SqliteState(tmp_path / "state.db", timeout=60) as store:  # where one side stands still, the other waits
        store.apply([Add("k")], now=datetime.now(UTC))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                done = [store.apply([Add("k")], now=datetime.now(UTC)) for _ in range(50)]
                code = 0 if all(type(answer) is Applied for answer in done) else 2
            finally:
                os._exit(code)
        for _ in range(50):
            store.apply([Add("k")], now=datetime.now(UTC))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert store.apply([Add("k", 0)], now=datetime.now(UTC))[0] == (101,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_that_inherited_an_open_file_refuses(tmp_path: Path) -> None:
    """Forked by something that does not tell Python beforehand: the hooks of the child run alone."""
    from guard.state import sqlite

    with SqliteState(tmp_path / "state.db") as store:
        store.apply([Add("k")], now=datetime.now(UTC))
        sqlite._after_fork_in_child()
        with pytest.raises(StateUnavailable, match="fork"):
            store.apply([Add("k")], now=datetime.now(UTC))
    sqlite._abandoned.pop().close()  # type: ignore[attr-defined]
