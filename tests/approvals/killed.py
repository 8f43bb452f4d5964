"""Run as a program: a process that makes one call of a task again, on what others left. python -m tests.approvals.killed FOLDER ROUND MODE

MODE `run`: call as soon as a byte comes on standard input, and say what came of it. `hang`: get ready, say so, and wait to be killed. `memory`: as `run`,
with a state of its own that nobody shares.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from guard import Guard, LocalIssuer, ToolCall
from guard.approvals import Approvals
from guard.errors import Denied
from guard.record import AuditFile
from guard.state import SqliteState
from tests.approvals.world import POLICY


def guard_of(folder: Path, *, memory: bool = False) -> tuple[Guard, LocalIssuer, Approvals]:
    key = folder / "issuer.json"
    if not key.exists():
        LocalIssuer("acme-dev").save(key)
    iam = LocalIssuer.load(key)
    long = timedelta(seconds=30)  # a machine that stands still must not change an answer
    desk = Approvals(SqliteState(folder / "approvals.db", timeout=30), trust=iam, folder=folder)
    state = "memory:" if memory else SqliteState(folder / "state.db", timeout=30)
    made = Guard(POLICY, trust=iam, state=state, sinks=[AuditFile(folder, patience=long)], approvals=desk, deadline=long)
    return made, iam, desk


def call_of(n: int) -> ToolCall:
    return ToolCall("pay", {"to": "bob", "amount": str(101 + n)})


def main(folder: Path, first: int, mode: str) -> None:
    guard, iam, _ = guard_of(folder, memory=mode == "memory")
    bodies = os.open(folder / "bodies", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    task = guard.task(iam.mint(origin="alice", actor="payer", intent="work", txn="one", ttl="24h"))
    task.__enter__()
    guard._openers.clear()
    os.write(1, b"r")
    if mode == "hang":
        time.sleep(60)
    n = first
    while os.read(0, 1):
        call = call_of(n)
        try:
            guard.call(call, lambda to, amount, n=n: os.write(bodies, f"{n}\n".encode()))
            os.write(1, b"+")
        except Denied:
            os.write(1, b"-")
        n += 1
    os._exit(0)  # the task goes on without this process


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
