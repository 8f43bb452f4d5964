"""Run as a program: guarded calls until killed. python -m tests.runtime.killed FOLDER RUN

The body's first act is a line in `bodies`, handed to the operating system: what is there has started. One task and one limit serve all
runs; state, records and the development issuer's key lie in FOLDER.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

from guard import Guard, LocalIssuer, ToolCall
from guard.policy import Policy
from guard.record import AuditFile
from guard.state import SqliteState

POLICY = """
guardtrail: 1
name: killed
owner: o@acme.example
tools: {act: {effect: write, control: {n: id}}}
intents: {work: {description: d, allow: {act: {args: {n: {any: true}}, limit: {calls: 100000}}}}}
"""


def main(folder: Path, run: str) -> None:
    key = folder / "issuer.json"
    if not key.exists():
        LocalIssuer("acme-dev").save(key)
    iam = LocalIssuer.load(key)
    long = timedelta(seconds=60)  # it ends by being killed, and not because the machine stood still
    state, log = SqliteState(folder / "state.db", timeout=60), AuditFile(folder / "log", patience=long)
    guard = Guard(Policy.from_text(POLICY), trust=iam, state=state, sinks=[log], deadline=long)
    bodies = os.open(folder / "bodies", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def body(n: str) -> None:
        os.write(bodies, f"{n}\n".encode())

    task = guard.task(iam.mint(origin="alice", actor="worker", intent="work", txn="one", ttl="1h"))
    task.__enter__()
    os.write(1, b"ready\n")
    step = 0
    while True:
        step += 1
        guard.call(ToolCall("act", {"n": f"{run}-{step}"}), body)
        os.write(1, b"x")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
