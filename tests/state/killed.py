"""Run as a program: processes that count are killed at random points; what they were told is granted must still be counted.

python killed.py STATE_FILE KILLS. Two children count at a time, each on its own key and on a shared one, and write a byte to a
pipe for every unit they were granted. Prints JSON. Made of fork, so that the fifty deaths cost two seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from random import Random

from guard.ops import AMOUNT_MAX, Add, Applied, Mark, Op
from guard.state import SqliteState


def count(path: str, pipe: int, name: str) -> None:
    store = SqliteState(path, timeout=20)
    n = 0
    while True:
        n += 1
        ops: list[Op] = [Add("all", 1, AMOUNT_MAX, None, name), Add(name, 1), Add("window", 1, None, 86_400), Mark(f"{name}|{n}", name, 5)]
        if type(store.apply(ops, now=datetime.now(UTC))) is Applied:
            os.write(pipe, b".")


def child(path: str, name: str) -> tuple[int, int, str]:
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        try:
            count(path, into, name)
        finally:
            os._exit(1)  # it only ends by being killed
    os.close(into)
    return pid, out, name


def acknowledged(pid: int, out: int, least: int) -> tuple[int, bool]:
    """Kill it, once it was granted `least` units, however slow the machine is."""
    got = 0
    while got < least and (data := os.read(out, least - got)):
        got += len(data)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while data := os.read(out, 1 << 16):
        got += len(data)
    os.close(out)
    return got, os.WIFSIGNALED(status)


def main(path: str, kills: int) -> None:
    random, acks, ended, killed = Random(), dict[str, int](), 0, 0
    running = [child(path, "child-0")]
    for n in range(1, kills + 1):
        running.append(child(path, f"child-{n}"))
        time.sleep(random.random() * 0.04)
        pid, out, name = running.pop(0)
        acks[name], by_us = acknowledged(pid, out, n % 24)
        killed, ended = killed + by_us, ended + (not by_us)
    pid, out, name = running.pop()
    acks[name], by_us = acknowledged(pid, out, 0)
    store = SqliteState(path)
    answer = store.apply([Add("all", 0), Add("window", 0, None, 86_400), *(Add(name, 0) for name in acks)], now=datetime.now(UTC))
    values = [value for value in answer.values if isinstance(value, int)] if isinstance(answer, Applied) else []
    assert store._cursor is not None
    healthy = store._cursor.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    lost = [name for name, value in zip(acks, values[2:], strict=True) if not acks[name] <= value <= acks[name] + 1]
    print(
        json.dumps(
            {
                "killed": killed,
                "ended": ended,
                "acks": sum(acks.values()),
                "all": values[0],
                "window": values[1],
                "lost": lost,
                "healthy": healthy,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
