"""`LogSink`: what an operator should see in the logs: refusals, asks, failed bodies. JSON by structlog, off the call path."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from guard.events import DecisionRecord, OutcomeRecord

__all__ = ["LogSink"]

_HELD = 1000
_NAME = "guardtrail"

logging.getLogger(_NAME).addHandler(logging.NullHandler())  # who configured no logging sees nothing: stderr belongs to the program


class LogSink:
    """Logs denials, asks, errors and credentials that were not taken back, as `guardtrail` events. Not required; never waits for whoever reads the logs.

    | where they go                                        | when                                        |
    |------------------------------------------------------|---------------------------------------------|
    | `stream`, one JSON object per line                   | it is given                                 |
    | structlog, as the program configured it              | the program has configured structlog        |
    | the logger `guardtrail` of `logging`, JSON as message| else; without handlers nothing is shown     |

    Up to 1,000 events wait; what comes on top of that is counted and said in the next one. The audit file misses none.
    """

    required = False
    inline = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._waiting: deque[tuple[str, dict[str, object]]] = deque()
        self._dropped = 0
        self._off = False
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def decision(self, record: DecisionRecord) -> None:
        if record.verdict == "allow":
            return
        text = next((f.text for f in record.findings if str(f.code) == record.code and f.mode == "enforce"), "")
        rule = next((f.rule for f in record.findings if str(f.code) == record.code and f.rule), None)
        self._put(
            "warning" if record.verdict == "deny" else "info",
            {
                "event": "guardtrail.decision", "decision": record.verdict, "code": record.code, "tool": record.tool, "reason": text,
                "rule": rule, "id": record.id, "task": record.task, "step": record.step, "credential": record.credential,
                "origin": record.origin, "actors": list(record.actors), "count": record.count, "trace_id": record.trace,
                "span_id": record.span,
            },
        )  # fmt: skip

    def outcome(self, record: OutcomeRecord) -> None:
        lent = record.credential
        if lent and lent.get("taken_back") is False:  # it lives until it expires, or a later try takes it back
            about = {name: lent.get(name) for name in ("id", "resource", "expires", "why")}
            self._put("warning", {"event": "guardtrail.credential", **about, "tool": record.tool, "decision": record.decision})
        if record.status in ("ok", "not_executed"):
            return
        fields = {"event": "guardtrail.outcome", "outcome": record.status, "tool": record.tool, "error": record.error}
        self._put("error", {**fields, "id": record.decision, "task": record.task, "step": record.step})

    def flush(self, seconds: float = 1.0) -> None:
        """Wait, for a limited time, until what waits is written."""
        if self._thread is not None and self._thread.is_alive():
            self._wake.set()
            self._idle.wait(seconds)

    def _put(self, level: str, fields: dict[str, object]) -> None:
        with self._lock:
            if self._off:
                return
            if len(self._waiting) >= _HELD:
                self._dropped += 1
                return
            if self._dropped:
                fields["dropped_before"], self._dropped = self._dropped, 0
            self._waiting.append((level, fields))
            self._idle.clear()
            if self._thread is None or not self._thread.is_alive():  # the first one, or the child of a fork
                if self._thread is None:
                    atexit.register(self.flush)
                self._thread = threading.Thread(target=self._run, name="guardtrail-log", daemon=True)
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        try:
            emit = _emitter(self._stream)
        except Exception:  # no structlog, or one that does not start: the log is a convenience, the audit file is the record
            self._off = True
            self._idle.set()
            return
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                level, fields = self._waiting.popleft()
                try:
                    emit(level, fields)
                except Exception:  # noqa: S112 - a closed stream, a handler that raises: nothing of ours may fail for it
                    continue
            self._idle.set()


def _emitter(stream: TextIO | None) -> Callable[[str, dict[str, object]], None]:
    """How events are written. Imports structlog: only ever on the thread."""
    import structlog

    logger: Any
    if stream is None and structlog.is_configured():
        logger = structlog.get_logger(_NAME)
    else:
        inner = structlog.WriteLogger(stream) if stream is not None else logging.getLogger(_NAME)
        processors: list[Any] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
        logger = structlog.wrap_logger(inner, processors=processors, wrapper_class=structlog.BoundLogger, context_class=dict)

    def emit(level: str, fields: dict[str, object]) -> None:
        event = dict(fields)
        getattr(logger, level)(event.pop("event"), **event)

    return emit
