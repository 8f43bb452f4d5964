"""Logs: refusals, asks and errors; nothing else, no values, and nobody waits."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from guard.model import Finding
from guard.record import LogSink, logs
from tests.record.making import decision, outcome

ROOT = Path(__file__).resolve().parents[2]
FORBID = (Finding("rules", "forbid", "rule.limit", rule="few", text="2 of 2 used"),)  # type: ignore[arg-type]


def written(sink: LogSink, stream: io.StringIO) -> list[dict[str, Any]]:
    sink.flush(30)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_is_logged() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)
    sink.decision(decision())
    sink.outcome(outcome(decision()))
    sink.outcome(outcome(decision(), status="not_executed"))
    sink.decision(decision(verdict="deny", code="rule.limit", findings=FORBID, id="D1", trace="t", span="s"))
    sink.decision(decision(verdict="ask", code="rule.require_before"))
    sink.outcome(outcome(decision(), status="error", error="ValueError"))
    deny, ask, error = written(sink, stream)
    assert deny.pop("timestamp")
    assert deny == {
        "event": "guardtrail.decision", "level": "warning", "decision": "deny", "code": "rule.limit", "tool": "refund", "reason": "2 of 2 used",
        "rule": "few", "id": "D1", "task": "t-1", "step": 1, "credential": "acme-dev/7Qm2", "origin": "p-00",
        "actors": ["orchestrator", "worker"], "count": 1, "trace_id": "t", "span_id": "s",
    }  # fmt: skip
    assert (ask["level"], ask["decision"]) == ("info", "ask")
    assert (error["level"], error["event"], error["error"]) == ("error", "guardtrail.outcome", "ValueError")


def test_it_goes_through_logging_as_the_program_configured_it(caplog: pytest.LogCaptureFixture) -> None:
    sink = LogSink()
    with caplog.at_level(logging.INFO, logger="guardtrail"):
        sink.decision(decision(verdict="deny", code="rule.limit", findings=FORBID))
        sink.flush(30)
    (record,) = [each for each in caplog.records if each.name == "guardtrail"]
    assert record.levelname == "WARNING"
    assert json.loads(record.getMessage())["code"] == "rule.limit"


SAYS = """
import sys; sys.path.insert(0, {root!r})
{before}
from guard.record import LogSink
from tests.record.making import decision
LogSink.flush.__defaults__ = (30.0,)  # at the end a second is waited for: a loaded machine needs it for the import of structlog alone
LogSink().decision(decision(verdict="deny", code="rule.limit"))
print("done")
"""


@pytest.mark.parametrize(
    ("before", "out", "err"),
    [
        ("", "done\n", ""),
        ("import logging; logging.basicConfig(format='%(message)s')", "done\n", '"code": "rule.limit"'),
        ("import structlog; structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))", "done\n", "guardtrail.decision"),
    ],
    ids=["nobody listens", "logging", "structlog"],
)
def test_stdout_and_stderr_belong_to_the_program(before: str, out: str, err: str) -> None:
    code = SAYS.format(root=str(ROOT), before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == out
    assert err in done.stderr
    assert bool(done.stderr) == bool(err)


def test_a_reader_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_HELD", 10)
    hold, gave_up = threading.Event(), list[bool]()

    class Hanging(io.StringIO):
        def write(self, text: str) -> int:
            gave_up.append(not hold.wait(30))
            return super().write(text)

    stream = Hanging()
    sink = LogSink(stream)
    for _ in range(50):
        sink.decision(decision(verdict="deny", code="rule.limit"))
    assert not gave_up, "nobody waited for the reader"
    hold.set()
    sink.flush(30)
    sink.decision(decision(verdict="deny", code="rule.limit"))
    lines = written(sink, stream)
    assert len(lines) < 20
    assert sum(line.get("dropped_before", 0) for line in lines) == 51 - len(lines)


def test_a_stream_that_is_closed_is_no_error() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)
    stream.close()
    sink.decision(decision(verdict="deny", code="rule.limit"))
    sink.flush(30)


def test_fork() -> None:
    read, write = os.pipe()
    sink = LogSink(io.StringIO())
    sink.decision(decision(verdict="deny", code="rule.limit"))
    sink.flush(30)
    child = os.fork()
    if child == 0:
        try:
            sink._stream = os.fdopen(write, "w")
            sink.decision(decision(verdict="deny", code="rule.limit", id="child"))
            sink.flush(30)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert '"child"' in file.read()
    os.waitpid(child, 0)
