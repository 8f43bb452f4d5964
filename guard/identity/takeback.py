"""Credentials that could not be taken back when their call ended: tried again beside the calls, a few times, and then left to expire.

| try                        | when                                       |
|----------------------------|--------------------------------------------|
| the first                  | 1 s after it failed                        |
| the next three             | 5, 20 and 60 s after the one before        |
| none any more              | the credential has expired; the issuer said no, and not "later"; 1,024 wait already; the process ends |

What becomes of each is logged (logger `guardtrail.credentials`, JSON as message): its id and resource, never its text.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Final

from guard.errors import GuardError
from guard.reasons import ReasonCode

__all__ = ["WAITS", "TakeBack", "again"]

WAITS: Final = (1.0, 5.0, 20.0, 60.0)
_MOST: Final = 1024

_log = logging.getLogger("guardtrail.credentials")
_log.addHandler(logging.NullHandler())  # who configured no logging sees nothing: stderr belongs to the program


class TakeBack:
    """What waits to be tried again, and the one thread that does it (made with the first)."""

    def __init__(self, waits: tuple[float, ...] = WAITS, steady: Callable[[], float] = monotonic) -> None:
        self._waits, self._steady = waits, steady
        self._numbers = count()
        self.begin()

    def begin(self) -> None:
        """With nothing waiting; also in the child of a fork: what waits is the parent's to take back, and its thread is there."""
        self._heap: list[tuple[float, int, int, Callable[[], object], str, str, float]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"TakeBack({len(self._heap)} waiting)"

    def put(self, take_back: Callable[[], object], name: str, resource: str, seconds: float) -> None:
        """`take_back` is called again; `seconds`: for how long it is worth it. Never raises, never waits."""
        self._later(take_back, name, resource, self._steady() + seconds, 0)

    def _later(self, take_back: Callable[[], object], name: str, resource: str, until: float, tried: int) -> None:
        at = self._steady() + self._waits[tried] if tried < len(self._waits) else until
        if at >= until:
            self._say("left to expire", name, resource, tried)
            return
        with self._changed:
            full = len(self._heap) >= _MOST
            if not full:
                heappush(self._heap, (at, next(self._numbers), tried, take_back, name, resource, until))
                self._work()
                self._changed.notify()
        if full:
            self._say("left to expire", name, resource, tried)

    def _work(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        try:
            self._thread = threading.Thread(target=self._run, name="guardtrail-take-back", daemon=True)
            self._thread.start()
        except RuntimeError:  # the interpreter goes down: they expire
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while (left := self._heap[0][0] - self._steady() if self._heap else 3600.0) > 0:
                    self._changed.wait(left)
                _, _, tried, take_back, name, resource, until = heappop(self._heap)
            try:
                take_back()
            except GuardError as error:
                if error.code == ReasonCode.CREDENTIAL_REFUSED:
                    self._say("left to expire", name, resource, tried + 1)
                else:
                    self._later(take_back, name, resource, until, tried + 1)
            except Exception:  # of a port of the program's own
                self._later(take_back, name, resource, until, tried + 1)
            else:
                self._say("taken back late", name, resource, tried + 1)
            del take_back  # it holds the text

    def _say(self, what: str, name: str, resource: str, tried: int) -> None:
        about = {"event": "guardtrail.credential", "what": what, "id": name, "resource": resource, "tries": tried}
        try:
            _log.log(logging.INFO if what == "taken back late" else logging.WARNING, json.dumps(about))
        except Exception:  # noqa: S110 - a handler that raises: nothing of ours may fail for it
            pass


again: Final = TakeBack()
"""The process's own."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=again.begin)
