"""Run as a program, to be killed: python -m tests.lending.killed FOLDER WHERE. WHERE: `exchange` (the answer never comes), `body`."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from guard import Guard, LocalIssuer, Policy, ToolCall, lending
from guard.model import CredentialRequest, Issued
from guard.record import AuditFile
from guard.testing import FakeCredentials
from tests.lending.world import POLICY


class Lender(FakeCredentials):
    """Writes down what it gives and takes, as a server would."""

    def __init__(self, folder: Path, where: str) -> None:
        super().__init__()
        self.folder, self.where = folder, where

    def obtain(self, request: CredentialRequest) -> Issued:
        made = super().obtain(request)
        _line(self.folder / "issued", f"{made.token} {time.time() + request.seconds:.0f}")
        if self.where == "exchange":
            os.write(1, b"ready\n")
            time.sleep(60)
        return made

    def take_back(self, issued: Issued) -> None:
        _line(self.folder / "back", issued.token)


def _line(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(f"{text}\n")


def main(folder: Path, where: str) -> None:
    patient = timedelta(seconds=30)  # who kills this may be late, and a busy machine is no refusal
    lending.OBTAIN = 60.0  # type: ignore[misc]
    iam = LocalIssuer("acme-dev")
    guard = Guard(
        Policy.from_text(POLICY),
        trust=iam,
        state=f"sqlite:{folder / 'state.db'}",
        sinks=[AuditFile(folder / "log", patience=patient)],
        credentials=Lender(folder, where),
        deadline=patient,
    )

    def body(**_: Any) -> None:
        _line(folder / "bodies", guard.credential().id)
        os.write(1, b"ready\n")
        time.sleep(60)

    with guard.task(iam.mint(origin="alice", actor="support", intent="triage")):
        guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), body)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
