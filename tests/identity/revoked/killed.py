"""Run as a program: processes that take back are killed at random points; what was acknowledged must still be known.

How long that takes is the machine's affair: each is killed after some acknowledgements, and a random moment later.

python killed.py STATE_FILE KILLS. Prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from random import Random

from guard.identity.revoked import StoreRevocations
from guard.state import SqliteState


def write(path: str, pipe: int, name: str) -> None:
    revoked = StoreRevocations(SqliteState(path, timeout=20))
    n = 0
    while True:
        n += 1
        revoked.revoke("task", f"{name}-{n}")
        os.write(pipe, b".")


def child(path: str, name: str) -> tuple[int, int, str]:
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        try:
            write(path, into, name)
        finally:
            os._exit(1)  # it only ends by being killed
    os.close(into)
    return pid, out, name


def main(path: str, kills: int) -> None:
    random, acked, signalled = Random(), dict[str, int](), 0
    running = [child(path, "c0")]
    for n in range(1, kills + 1):
        running.append(child(path, f"c{n}"))
        pid, out, name = running.pop(0)
        got, by_signal = _reap(pid, out, random)
        acked[name], signalled = got, signalled + by_signal
    for pid, out, name in running:
        got, by_signal = _reap(pid, out, random)
        acked[name], signalled = got, signalled + by_signal
    known = {entry.value for entry in StoreRevocations(SqliteState(path)).entries()}
    lost = [f"{name}-{n}" for name, most in acked.items() for n in range(1, most + 1) if f"{name}-{n}" not in known]
    print(json.dumps({"acked": sum(acked.values()), "known": len(known), "lost": lost, "signalled": signalled}))


def _reap(pid: int, out: int, random: Random) -> tuple[int, bool]:
    got, least = 0, random.randint(6, 20)
    while got < least and (data := os.read(out, 1 << 16)):
        got += len(data)
    time.sleep(random.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while data := os.read(out, 1 << 16):
        got += len(data)
    os.close(out)
    return got, os.WIFSIGNALED(status)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
