"""Run as a program: no file may grow any more (as on a full disk), and then may again. python full.py DIRECTORY."""

from __future__ import annotations

import json
import resource
import signal
import sys

from guard.record import AuditFile, Unavailable
from tests.record.making import decision


def main(folder: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink, acks, errors = AuditFile(folder), list[str](), list[str]()

    def call() -> None:
        made = decision()
        try:
            sink.decision(made)
            acks.append(made.id)
        except Unavailable as error:
            errors.append(str(error))

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, most))
    for _ in range(300):
        call()
    refused, before = len(errors), len(acks)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for _ in range(20):
        call()
    sink.close()
    print(json.dumps({"refused": refused, "before": before, "after": len(acks) - before, "acks": acks, "texts": sorted(set(errors))}))


if __name__ == "__main__":
    main(sys.argv[1])
