"""Run as a program: the state file may not grow any more (as on a full disk), and then may again. python full.py STATE_FILE."""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import UTC, datetime

from guard.errors import StateUnavailable
from guard.ops import Add, Applied, Mark, Op
from guard.state import SqliteState


def main(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    store, acks, errors = SqliteState(path), 0, list[str]()

    def call(n: int) -> None:
        nonlocal acks
        ops: list[Op] = [Add("n"), Mark(f"call|{n}", "d", None, "x" * 500)]
        try:
            acks += type(store.apply(ops, now=datetime.now(UTC))) is Applied
        except StateUnavailable as error:
            errors.append(str(error))

    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
    for n in range(300):
        call(n)
    refused, before = len(errors), acks
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for n in range(300, 320):
        call(n)
    again = SqliteState(path).apply([Add("n", 0)], now=datetime.now(UTC))
    counted = again.values[0] if isinstance(again, Applied) else None
    print(
        json.dumps(
            {"refused": refused, "before": before, "after": acks - before, "acks": acks, "counted": counted, "texts": sorted(set(errors))}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
