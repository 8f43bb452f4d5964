"""Two processes with one approval, and processes that are killed: an approval runs one call, and is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guard.approvals import Approvals
from guard.errors import ApprovalRequired
from guard.record import verify_log
from tests.approvals.killed import call_of, guard_of

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "campaign" else 25


def process(folder: Path, mode: str, first: int = 0) -> subprocess.Popen[bytes]:
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.approvals.killed", str(folder), str(first), mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert started.stdout is not None
    assert started.stdout.read(1) == b"r"
    return started


def asked(folder: Path, rounds: int) -> None:
    """So many calls of the task `one`, each asked about and approved."""
    guard, iam, desk = guard_of(folder)
    with guard.task(iam.mint(origin="alice", actor="payer", intent="work", txn="one", ttl="24h")):
        guard._openers.clear()
        for n in range(rounds):
            with pytest.raises(ApprovalRequired) as required:
                guard.call(call_of(n), lambda to, amount: None)
            assert desk.approve(str(required.value.request["id"]), iam.login("alice")).state == "approved"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("mode", ["run", "memory"])
def test_of_two_processes_with_one_approval_exactly_one_runs(mode: str, tmp_path: Path) -> None:
    """Also where they share nothing but the approvals (`memory`): used up where they lie."""
    for start in range(0, ROUNDS, 500):  # as many asks as a task may make, and a file that stays small
        rounds = min(500, ROUNDS - start)
        folder = tmp_path / str(start)
        folder.mkdir()
        bodies = folder / "bodies"
        asked(folder, rounds)
        with process(folder, mode) as one, process(folder, mode) as other:
            for n in range(rounds):
                for each in (one, other):
                    assert each.stdin is not None
                    each.stdin.write(b"g")
                    each.stdin.flush()
                said = sorted(each.stdout.read(1) for each in (one, other) if each.stdout is not None)
                assert said == [b"+", b"-"], n
        assert sorted(map(int, bodies.read_text().split())) == list(range(rounds))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_between_the_approval_and_the_call_loses_nothing(tmp_path: Path) -> None:
    rounds = 2
    asked(tmp_path, rounds)
    for n in range(rounds):
        with process(tmp_path, "hang", n) as died:
            died.send_signal(signal.SIGKILL)
        assert [each.state for each in Approvals(folder=tmp_path).pending(every=True)][-1 - n] == "approved"
        for said in (b"+", b"-"):
            with process(tmp_path, "run", n) as again:
                assert again.communicate(b"g")[0] == said
    assert (tmp_path / "bodies").read_text().split() == [str(n) for n in range(rounds)]
    assert verify_log(tmp_path / "audit.jsonl").problems == ()
