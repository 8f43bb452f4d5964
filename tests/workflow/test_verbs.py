"""The verbs against the naive oracle, on generated policies and chains, in memory and in SQLite."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import rmtree

import pytest

from guard.state import MemoryState, SqliteState
from guard.testing.clock import START
from tests.workflow.chains import run_chain

CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
PAIRS = 20_000 if CAMPAIGN else 2_000
ON_DISK = PAIRS if CAMPAIGN else PAIRS // 10
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_every_prefix_is_judged_as_by_the_whole_history(part: int) -> None:
    for seed in range(part, PAIRS, PARTS):
        assert run_chain(seed, MemoryState) is None


@pytest.mark.parametrize("part", range(PARTS))
def test_the_same_in_sqlite(part: int, tmp_path: Path) -> None:
    for seed in range(part, ON_DISK, PARTS):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        store = SqliteState(folder / "state.db", timeout=30)
        store.born = START  # as old as the frozen clock, not younger than its tokens
        with store:
            assert run_chain(1_000_000 + seed, lambda store=store: store) is None  # type: ignore[misc]
        rmtree(folder)  # twenty thousand of them would fill a disk
