"""kill -9 in the middle of guarded calls: between reservation, record, body and outcome, wherever it strikes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guard.model import Credential, Delegation
from guard.ops import Add, Applied
from guard.record import verify_log
from guard.state import SqliteState
from guard.taskflow import task_key

KILLS = 50
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_fifty_times(tmp_path: Path) -> None:
    """No granted unit is lost from the count, the log verifies, and every body that started has its decision record."""
    r = random.Random(17)
    answered = 0
    for run in range(KILLS):
        command = [sys.executable, "-m", "tests.runtime.killed", str(tmp_path), str(run)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            answered += len(process.stdout.read(run % 5))  # however slow the machine is, some calls come to their end
            time.sleep(r.random() * 0.03)
            process.send_signal(signal.SIGKILL)
            answered += len(process.stdout.read())
    bodies = (tmp_path / "bodies").read_text().split()
    records = [
        json.loads(line)
        for path in (tmp_path / "log").glob("audit*.jsonl")
        for line in path.read_bytes().splitlines()
        if line.endswith(b"}")
    ]
    allowed = [record for record in records if record["kind"] == "decision" and record["verdict"] == "allow"]
    outcomes = {record["decision"] for record in records if record["kind"] == "outcome"}
    assert len(bodies) == len(set(bodies)), "no body ran twice"
    assert len(allowed) >= len(bodies) >= answered > KILLS
    assert len({record["id"] for record in allowed}) == len(allowed)
    assert outcomes <= {record["id"] for record in allowed}
    assert len(allowed) - len(outcomes) <= KILLS, "at most one call of each run is left without its outcome"
    assert _used(tmp_path) >= len(bodies), "a unit of the limit was lost"
    found = verify_log(tmp_path / "log" / "audit.jsonl")
    assert found.problems == ()


def _used(folder: Path) -> int:
    """What the limit's counter says."""
    delegation = Delegation("", "acme-dev", "acme-dev", "one", Credential("", "", ""), "", "person", ("worker",), 0, 0, "")
    with SqliteState(folder / "state.db") as state:
        answer = state.apply([Add(f"{task_key(delegation)}|i|work|act", 0)], now=datetime.now(UTC))
    assert isinstance(answer, Applied)
    assert isinstance(answer.values[0], int)
    return answer.values[0]
