"""What is left of a lent credential: records that verify, replay and explain; spans; logs; a process that was killed."""

from __future__ import annotations

import contextvars
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guard import Denied, Policy, ToolCall, telemetry
from guard.errors import GuardError
from guard.model import CredentialRequest, Issued
from guard.reasons import ReasonCode
from guard.record import AuditFile, LogSink, Spans, verify_log
from guard.replay import Replay
from guard.sources import read
from guard.testing import FakeCredentials
from tests.cli.conftest import Said
from tests.lending.world import POLICY, RESOURCE, Desk

ROOT = Path(__file__).resolve().parents[2]


class Fickle(FakeCredentials):
    """Refuses every third time, and takes its time."""

    def obtain(self, request: CredentialRequest) -> Issued:
        if len(self.asked) % 3 == 0:
            self.asked.append(request)
            time.sleep(0.002)
            raise GuardError("it answered 400", code=ReasonCode.CREDENTIAL_REFUSED)
        return super().obtain(request)


def test_many_at_once_replay_as_they_were_decided(tmp_path: Path) -> None:
    """Between a call that was let and its refusal others are judged with its unit of the limit taken: the replay takes it back at that very place."""
    limit = "rules:\n  - {id: few, when: {tool: create_issue}, limit: {calls: 12, per: [origin]}}\n"
    policy = POLICY.partition("rules:")[0].replace("calls: 3", "calls: 90") + limit
    desk = Desk(policy, sinks=[AuditFile(tmp_path)], credentials=Fickle())
    start = threading.Barrier(8)

    def many() -> list[str]:
        start.wait(20)
        return [call(desk) for _ in range(6)]

    with ThreadPoolExecutor(8) as pool, desk.task():
        codes = [code for each in [pool.submit(contextvars.copy_context().run, many) for _ in range(8)] for code in each.result(60)]
    after = list[str]()  # the crowd may have used up its calls while those that were refused stood in for others
    with desk.task():
        while len(after) < 40 and "limit.calls" not in after:
            after.append(call(desk))
    codes += after
    assert codes.count("allow") == 12 and codes.count("credential.refused") > 1
    run = Replay([Policy.from_text(policy)])
    for seen in read([tmp_path]):
        for _ in run.feed(seen):
            pass
    list(run.close())
    assert (run.summary.differ, run.summary.late, run.summary.missing) == (0, 0, 0)


def test_who_is_judged_in_between_is_judged_so_in_a_replay(tmp_path: Path) -> None:
    """The same in a task whose limits are its own: while the issuer is asked, another call finds the limit used up; then it was not."""
    policy = POLICY.partition("rules:")[0].replace("calls: 3", "calls: 1")
    desk = Desk(policy, sinks=[AuditFile(tmp_path)], credentials=(lender := FakeCredentials()))
    codes = list[str]()

    class Between(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Issued:
            desk.guard._house.credentials = lender
            codes.append(here.run(call, desk))
            raise GuardError("it answered 400", code=ReasonCode.CREDENTIAL_REFUSED)

    with desk.task():
        here = contextvars.copy_context()
        desk.guard._house.credentials = Between()
        codes += [call(desk), call(desk), call(desk)]
    assert codes == ["limit.calls", "credential.refused", "allow", "limit.calls"]
    run = Replay([Policy.from_text(policy)])
    judged = [each for seen in read([tmp_path]) for each in run.feed(seen)] + [*run.close()]
    assert run.summary.differ == 0 and len(judged) == 6


@pytest.fixture
def said() -> Callable[..., Said]:
    """The command line, in this process."""
    from typer.testing import CliRunner

    from guard.cli import app

    def run(*args: str) -> Said:
        result = CliRunner().invoke(app, list(args), env={"COLUMNS": "400"})
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


def call(desk: Desk, tool: str = "create_issue", **args: object) -> str:
    given = args or {"repo": "a", "title": "b"}
    try:
        desk.guard.call(ToolCall(tool, given), lambda **_: None)
    except Denied as denied:
        return str(denied.code)
    return "allow"


def test_records_verify_and_replay(tmp_path: Path) -> None:
    """Also where calls were let and then not lent anything: what they took was given back, live and in the replay."""
    desk = Desk(sinks=[AuditFile(tmp_path)])
    codes = []
    with desk.task():
        for refuse in (False, True, False, True, False, False):
            desk.lender.refuse = refuse
            codes.append(call(desk))
    assert codes == ["allow", "credential.refused", "allow", "credential.refused", "allow", "limit.calls"]
    assert verify_log(tmp_path / "audit.jsonl").problems == ()
    run = Replay([Policy.from_text(POLICY)])
    judged = [each for seen in read([tmp_path]) for each in run.feed(seen)] + [*run.close()]
    calls = [each for each in judged if each.seen.kind == "call"]
    assert len(calls) == 8, "a call that was not lent anything has two records"
    assert [(each.verdict, each.code) for each in calls] == [(each.seen.verdict, each.seen.code) for each in calls]
    assert run.summary.differ == 0 and run.summary.orphans == 0


def test_what_ended_while_it_waited_replays(tmp_path: Path) -> None:
    class Ends(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Issued:
            task.end()
            return super().obtain(request)

    desk = Desk(sinks=[AuditFile(tmp_path)], credentials=Ends())
    with desk.task() as task:
        assert call(desk) == "task.ended"
    assert verify_log(tmp_path / "audit.jsonl").problems == ()
    run = Replay([Policy.from_text(POLICY)])
    judged = [each for seen in read([tmp_path]) for each in run.feed(seen)] + [*run.close()]
    calls = [(each.seen.kind, each.seen.code) for each in judged]
    assert (
        calls == [("call", "permit"), ("task", "permit"), ("call", "task.ended")] and run.summary.differ == 0 and run.summary.orphans == 0
    )


def test_explain(tmp_path: Path, said: Callable[..., Said]) -> None:
    desk = Desk(sinks=[AuditFile(tmp_path / ".guardtrail")])
    with desk.task():
        call(desk)
        desk.lender.keeps = True
        call(desk)
        desk.lender.refuse = True
        call(desk)
    lines = [json.loads(line) for path in (tmp_path / ".guardtrail").glob("audit*.jsonl") for line in path.read_text().splitlines()]
    ids = list(dict.fromkeys(each["id"] for each in lines if each["kind"] == "decision"))
    lent = [each["credential"] for each in lines if each["kind"] == "outcome"]
    shown = [said("explain", each, "--dir", str(tmp_path / ".guardtrail")) for each in ids]
    assert f"lent     {lent[0]['id']} for issues.write at {RESOURCE}   taken back" in shown[0].out
    assert f"lent     {lent[1]['id']} for issues.write at {RESOURCE}   NOT taken back: the issuer failed; it expires " in shown[1].out
    assert f"lent     nothing: issues.write at {RESOURCE} was not obtained" in shown[2].out
    assert "credential.refused" in shown[2].out and shown[2].out.startswith("deny  create_issue")
    assert "3 decisions" in shown[2].out
    found = json.loads(said("explain", ids[0], "--dir", str(tmp_path / ".guardtrail"), "--json").out)
    assert found["chain"][0]["lent"] == lent[0]


@pytest.mark.parametrize("broken", ["x", 7, [], {"id": 7}, {"id": "a", "expires": "x", "scope": 7}, {"id": "a", "expires": 1e400}])
def test_explain_a_record_that_somebody_changed(broken: object, tmp_path: Path, said: Callable[..., Said]) -> None:
    folder = tmp_path / ".guardtrail"
    desk = Desk(sinks=[AuditFile(folder)])
    with desk.task():
        call(desk)
    (path,) = folder.glob("audit*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for each in lines:
        if each["kind"] == "outcome":
            each["credential"] = broken
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert said("explain", "last", "--dir", str(folder)).code == 0


def test_spans_name_it_and_never_show_it() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    desk = Desk()
    desk = Desk(sinks=[desk.sink, Spans(provider)])
    with desk.task():
        call(desk)
        desk.lender.refuse = True
        call(desk)
    spans = [each for each in exporter.get_finished_spans() if each.name == "execute_tool create_issue"]
    first, second = (dict(each.attributes or {}) for each in spans)
    assert str(first[telemetry.CREDENTIAL_LENT]).startswith("hmac:") and first[telemetry.EXECUTED] is True
    assert telemetry.CREDENTIAL_LENT not in second
    assert (second[telemetry.EXECUTED], second[telemetry.CODE]) == (False, "credential.refused")
    text = "".join(each.to_json() for each in exporter.get_finished_spans())
    assert desk.lender.issued[0].token not in text


def test_what_was_not_taken_back_is_logged() -> None:
    out = io.StringIO()
    log = LogSink(out)
    desk = Desk()
    desk = Desk(sinks=[desk.sink, log])
    desk.lender.keeps = True
    with desk.task():
        call(desk)
    log.flush(10)
    (line,) = [json.loads(each) for each in out.getvalue().splitlines()]
    assert (line["event"], line["level"], line["why"], line["resource"]) == (
        "guardtrail.credential",
        "warning",
        "the issuer failed",
        RESOURCE,
    )
    assert desk.lender.issued[0].token not in out.getvalue()


@pytest.mark.parametrize("where", ["exchange", "body"])
def test_kill_9_leaves_what_expires(where: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lending.killed", str(tmp_path), where]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    token, ends = (tmp_path / "issued").read_text().split()
    assert not (tmp_path / "back").exists(), "nobody was there to take it back"
    assert float(ends) - time.time() <= 121, "so it lives for the minutes of `ttl`, and no longer"
    assert (tmp_path / "bodies").exists() == (where == "body")
    text = "".join(path.read_text() for path in (tmp_path / "log").iterdir() if path.suffix == ".jsonl")
    records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    assert [each["verdict"] for each in records if each["kind"] == "decision"] == ["allow"], "decided and recorded before it was asked for"
    assert not [each for each in records if each["kind"] == "outcome"] and token not in text
    assert verify_log(tmp_path / "log" / "audit.jsonl").problems == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_lends_and_takes_back_as_its_parent() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.lending.forked"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ran ran 0\n"
