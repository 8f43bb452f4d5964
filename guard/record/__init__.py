"""The record: what is written about every call, where it goes, and how it is checked. The only room that knows OpenTelemetry and structlog.

| name                    | what it is                                                                  |
|-------------------------|-----------------------------------------------------------------------------|
| `AuditFile`             | the required sink: one hash chain per writing process, signed checkpoints   |
| `verify_log`            | finds what was edited, deleted, inserted or moved in a log: `Verified`      |
| `Blinds`                | the keys behind pseudonyms and argument HMACs                               |
| `Spans`                 | one OpenTelemetry span per call                                             |
| `LogSink`               | denials, asks and errors as JSON logs                                       |
| `ListSink`, `ListSpans` | records and spans in a list, for tests                                      |
| `default_sinks`         | what a guard uses unless it is told otherwise                               |
| `directory`             | where records lie: `$GUARDTRAIL_DIR`, else `.guardtrail`                    |

The verifier is loaded when it is asked for: programs that only write do not pay for it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from guard.ports import Sink
from guard.record.audit import AuditFile
from guard.record.blinds import Blinds
from guard.record.files import Unavailable, directory
from guard.record.logs import LogSink
from guard.record.memory import ListSink
from guard.record.spans import Spans

if TYPE_CHECKING:
    from guard.record.listed import ListSpans
    from guard.record.verify import Damage, Verified, verify_log

__all__ = [
    "AuditFile",
    "Blinds",
    "Damage",
    "ListSink",
    "ListSpans",
    "LogSink",
    "Spans",
    "Unavailable",
    "Verified",
    "default_sinks",
    "directory",
    "verify_log",
]


def __getattr__(name: str) -> Any:
    if name in ("Damage", "Verified", "verify_log"):
        from guard.record import verify

        return getattr(verify, name)
    if name == "ListSpans":
        from guard.record.listed import ListSpans

        return ListSpans
    raise AttributeError(f"module 'guard.record' has no attribute {name!r}")


def default_sinks(patience: timedelta | None = None) -> list[Sink]:
    """The audit file in `directory()`, OpenTelemetry as configured, and logs. `patience`: of the audit file, for servers that many ask at once."""
    audit = AuditFile(directory()) if patience is None else AuditFile(directory(), patience=patience)
    return [audit, Spans(), LogSink()]
