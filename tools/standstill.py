"""Run a command on a machine that stands still now and then: some of its processes are stopped for a moment, again and again.

    python tools/standstill.py [--seed N] [--longest SECONDS] -- COMMAND...

What a test shows must not depend on how long anything takes; whatever fails here and not without it hangs on a clock, or has found a race. Exit: that of the command.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress


def below(root: int) -> list[int]:
    """`root`'s children, theirs, and so on."""
    told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for pid, parent in (map(int, line.split()) for line in told.splitlines()):
        children.setdefault(parent, []).append(pid)
    found, todo = list[int](), [root]
    while todo:
        todo += (new := children.get(todo.pop(), []))
        found += new
    return found


def stand_still(root: int, r: random.Random, longest: float) -> None:
    """Two of them, for a moment."""
    there = below(root)
    stopped = r.sample(there, min(2, len(there)))
    try:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(r.uniform(longest / 16, longest))
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="which processes, and for how long (default: 0)")
    parser.add_argument("--longest", type=float, default=0.8, metavar="SECONDS", help="of a standstill (default: 0.8)")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    said = parser.parse_args(words)
    r = random.Random(said.seed)
    running = subprocess.Popen(said.command)
    while True:
        try:
            return running.wait(r.uniform(0.3, 1.5))
        except subprocess.TimeoutExpired:
            stand_still(running.pid, r, said.longest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
