"""Run as a program: lends before a fork and after it. Prints what the child's calls came to, and whether the child took back what it was lent."""

from __future__ import annotations

import os
import time

from guard import Denied, ToolCall, lending
from tests.lending.world import Desk


def main() -> None:
    lending.OBTAIN = lending.RETURN = 50.0  # type: ignore[misc]  # who waits for a thread that is not there waits for longer than a machine stands still
    desk = Desk()
    with desk.task():
        for _ in range(2):
            desk.guard.call(ToolCall("pay", {"to": "bob"}), lambda to: None)
        if os.fork():
            os.wait()
            os._exit(0)
        said = []
        for _ in range(2):
            begun = time.monotonic()
            try:
                desk.guard.call(ToolCall("pay", {"to": "bob"}), lambda to: None)
                said.append("ran")
            except Denied as denied:
                said.append(str(denied.code))
            if time.monotonic() - begun > 40:
                said.append("waited")
        print(*said, len(desk.lender.issued) - len(desk.lender.taken_back), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
