"""Real kills, real full disks: what was acknowledged is on file, and the log verifies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guard.record import AuditFile, verify_log
from tests.patience import PYTHONPATH
from tests.record.making import decision, records_in

ROOT = Path(__file__).resolve().parents[2]
KILLS = 50


def program(name: str, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    # Not buffered: `communicate` reads the pipe itself, and what `readline` had taken ahead of it would be lost.
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(name)), *words], bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )


def killed(folder: Path, sync: str, seconds: float) -> list[str]:
    """Start a writer, kill it that long after its first record; what it acknowledged."""
    writer = program("killed.py", str(folder), sync)
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    rest, errors = writer.communicate()
    assert writer.returncode == -signal.SIGKILL, errors.decode()
    return [line.decode() for line in (first + rest).split(b"\n")[:-1]]


@pytest.mark.slow
def test_kill_9_fifty_times(tmp_path: Path) -> None:
    """Two at a time in one directory, so that files are continued after a crash and shared out among the living."""
    rng = random.Random(9)
    runs = [("group" if i % 5 == 0 else "os", rng.uniform(0, 0.06)) for i in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        acked = [each for acks in pool.map(lambda run: killed(tmp_path / "log", *run), runs) for each in acks]
    assert len(acked) >= KILLS
    on_file = set()
    for path in (tmp_path / "log").glob("audit*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["kind"] == "decision":
                on_file.add(record["id"])
    assert set(acked) <= on_file
    found = verify_log(tmp_path / "log")
    assert found.ok, found.text
    assert found.incomplete
    assert found.writers <= 4  # continued, not one file per crash

    # Who writes next covers what the crashes left of its file.
    sink = AuditFile(tmp_path / "log")
    sink.decision(decision())
    sink.close()
    assert verify_log(tmp_path / "log").ok


def test_a_full_disk(tmp_path: Path) -> None:
    done = program("full.py", str(tmp_path / "log"))
    out, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors.decode()
    said = json.loads(out)
    assert said["before"] > 50
    assert said["refused"] > 50
    assert said["after"] == 20
    assert said["texts"] == [f"audit log {tmp_path / 'log' / 'audit.jsonl'} is not writable; no tool runs unrecorded"]
    assert [record["id"] for record in records_in(tmp_path / "log")] == said["acks"]  # and nothing of what was refused
    assert verify_log(tmp_path / "log").text.startswith("whole log ok")
