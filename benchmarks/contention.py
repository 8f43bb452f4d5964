"""Many processes race for one limit on one SQLite file: what is granted, and how long the unluckiest caller waited.

    python -m benchmarks.contention [--processes 8] [--calls 1500] [--limit 2000]

Rows: our store; the same without a limit in reach, so that every call writes; threads of one process; and the control, a counter
that is read and then written (fail-open row F46), which must come out above the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Thread
from time import perf_counter, sleep, time

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 20.0
"""Seconds a caller would wait: far above what is measured, so that nobody gives up and every wait is seen."""

__all__ = ["Race", "race", "threads"]


@dataclass(frozen=True, slots=True)
class Race:
    """`waits`: the wall time of every call in seconds, sorted."""

    granted: int
    waits: list[float]
    seconds: float

    @property
    def longest(self) -> float:
        return self.waits[-1]


def _caller(path: Path, limit: int) -> Callable[[], bool]:
    """A call as the guard makes it: a tombstone, a step counter, a limit. True: granted."""
    from guard.ops import Absent, Add, Applied, Op
    from guard.state import SqliteState

    store = SqliteState(path, timeout=TIMEOUT)
    ops: list[Op] = [Absent("task|ended"), Add("task|step"), Add("task|limit", 1, limit)]
    return lambda: type(store.apply(ops, now=datetime.now(UTC))) is Applied


def _naive(path: Path, limit: int) -> Callable[[], bool]:
    """Get, then increment: what the store must not be."""
    import sqlite3

    connection = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("CREATE TABLE IF NOT EXISTS counter (k TEXT PRIMARY KEY, n INTEGER)")
    connection.execute("INSERT OR IGNORE INTO counter VALUES ('limit', 0)")

    def call() -> bool:
        (n,) = connection.execute("SELECT n FROM counter").fetchone()
        if n >= limit:
            return False
        sleep(0.0002)  # the tool call's own work between the two, here a moment
        connection.execute("UPDATE counter SET n = ?", (n + 1,))
        return True

    return call


def _work(call: Callable[[], bool], calls: int) -> tuple[int, list[float]]:
    granted, waits = 0, []
    for _ in range(calls):
        began = perf_counter()
        granted += call()
        waits.append(perf_counter() - began)
    return granted, waits


def race(path: Path, *, processes: int, calls: int, limit: int, naive: bool = False) -> Race:
    """`processes` processes of `calls` calls each; all begin together."""
    (_naive if naive else _caller)(path, limit)  # the file is there before they are
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "benchmarks.contention", "--worker", str(path), f"--calls={calls}", f"--limit={limit}"]
    command += ["--naive"] if naive else []
    workers = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # it is ready
    begin = time() + 0.05
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{begin}\n")
        worker.stdin.flush()
    granted, waits, ended = 0, list[float](), begin
    for worker in workers:
        out, _ = worker.communicate()
        found = json.loads(out)
        granted, ended = granted + found["granted"], max(ended, found["ended"])
        waits += found["waits"]
    return Race(granted, sorted(waits), ended - begin)


def threads(path: Path, *, number: int, calls: int, limit: int) -> Race:
    """The same in one process: `number` threads share one store."""
    call, start, answers = _caller(path, limit), Barrier(number), list[tuple[int, list[float]]]()

    def thread() -> None:
        start.wait()
        answers.append(_work(call, calls))

    began = perf_counter()
    running = [Thread(target=thread) for _ in range(number)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    return Race(sum(granted for granted, _ in answers), sorted(wait for _, waits in answers for wait in waits), perf_counter() - began)


def _worker(path: Path, calls: int, limit: int, naive: bool) -> None:
    call = (_naive if naive else _caller)(path, limit)
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    sleep(max(0.0, begin - time()))
    granted, waits = _work(call, calls)
    print(json.dumps({"granted": granted, "waits": waits, "ended": time()}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--naive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        _worker(given.worker, given.calls, given.limit, given.naive)
        return 0
    p, n, limit = given.processes, given.calls, given.limit
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "sqlite": race(Path(folder) / "a.db", processes=p, calls=n, limit=limit),
            "sqlite, every call writes": race(Path(folder) / "b.db", processes=p, calls=n, limit=p * n),
            "sqlite, threads": threads(Path(folder) / "c.db", number=p, calls=n, limit=limit),
            "control: get, then increment": race(Path(folder) / "d.db", processes=p, calls=n, limit=limit, naive=True),
        }
    print(f"{p} callers x {n} calls, limit {limit}\n")
    print(f"{'':30} {'granted':>8} {'median us':>10} {'p99 ms':>8} {'longest ms':>11} {'calls/s':>9}")
    for name, row in rows.items():
        middle, late = row.waits[len(row.waits) // 2] * 1e6, row.waits[int(len(row.waits) * 0.99)] * 1e3
        print(f"{name:30} {row.granted:8d} {middle:10.0f} {late:8.2f} {row.longest * 1e3:11.1f} {len(row.waits) / row.seconds:9.0f}")
    exact = (
        rows["sqlite"].granted == rows["sqlite, threads"].granted == min(limit, p * n)
        and rows["sqlite, every call writes"].granted == p * n
    )
    if not exact:
        print("\nthe limit was not kept exactly")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
