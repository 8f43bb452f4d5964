"""Run as a program: write decisions until killed, acknowledge each on standard output. python killed.py DIRECTORY SYNC."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from guard.record import AuditFile
from tests.record.making import decision, outcome


def main(folder: str, sync: str) -> None:
    sink = AuditFile(folder, patience=timedelta(seconds=60))  # it ends by being killed, and not because a disk is slow
    step = 0
    while True:
        step += 1
        made = decision(id=f"{os.getpid()}-{step}", step=step, sync=sync)
        sink.decision(made)
        os.write(1, f"{made.id}\n".encode())
        sink.outcome(outcome(made))
        if step % 400 == 0:
            sink.checkpoint()


if __name__ == "__main__":
    main(*sys.argv[1:])
