"""Foreign traces and the verb: what is said, what is left out and named, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.cli.replay import replay
from guard.errors import Denied
from guard.model import Outcome
from guard.policy.load import read_policy
from guard.policy.supported import ALL
from guard.record import AuditFile, ListSink
from guard.replay import WITHOUT, Judged, Replay
from guard.sources import Seen, read
from guard.testing import FrozenClock
from tests.runtime.conftest import POLICY
from tests.sources.test_sources import CORPORA, tool

CLOCK = """
guardtrail: 1
name: clock
owner: a@b.example
tools:
  get_current_time: {effect: read, control: {timezone: text}}
  write_file: {effect: write, data: {text: text}}
intents:
  year: {description: The year., allow: {get_current_time: {}, write_file: {}}}
rules:
"""
RULES = [
    "  - {id: r, when: {tool: write_file}, forbid_after: [{tool: get_current_time}]}",
    "  - {id: r, when: {tool: write_file}, require_before: {tool: get_current_time, outcome: ok}}",
    "  - {id: r, when: {tool: get_current_time}, require: {args.timezone: {one_of: [Europe/Paris]}}}",
    "  - {id: r, when: {tool: write_file}, limit: {calls: 1}}",
    "  - {id: r, when: {tool: write_file}, then: ask}",
]
app = typer.Typer()
app.command()(replay)


def judged(policy: Policy, *paths: Path) -> tuple[list[Judged], Replay]:
    run = Replay([policy])
    found = [one for seen in read(paths) for one in run.feed(seen)]
    return [*found, *run.close()], run


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["langchain_trace.json", "openai_trace.json"])
def test_a_foreign_trace_says_what_the_guard_says_inline(name: str, rule: str) -> None:
    if not CORPORA.is_dir():
        pytest.skip("the corpora are not here: GUARDTRAIL_CORPORA names their folder")
    policy = read_policy(CLOCK + rule, parts=ALL)
    calls, run = judged(policy, CORPORA / "traces" / name)
    iam = LocalIssuer("x")
    guard = Guard(policy, trust=iam, sinks=[ListSink()])
    with guard.task(iam.mint(origin="a", actor="b", intent="year", ttl="10m")):
        inline = []
        for one in calls:
            decision = guard.before(ToolCall(one.seen.tool, one.seen.args or {}))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))
            inline.append((one.seen.tool, decision.verdict, str(decision.code)))
    assert [(one.seen.tool, one.verdict, one.code) for one in calls] == inline
    assert [one.seen.tool for one in calls] == ["get_current_time", "write_file"]
    assert all(one.assumed_order and len(one.not_judged) == 1 for one in calls)  # there is no token, and that is said
    assert run.summary.tasks == 1


def trace(folder: Path, *spans: dict[str, Any], name: str = "t.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(span) + "\n" for span in spans), "utf-8")
    return path


def test_what_needs_arguments_is_left_out_and_the_rest_is_judged(tmp_path: Path) -> None:
    policy = read_policy(CLOCK + "\n".join((RULES[2], RULES[4].replace("id: r", "id: s"))), parts=ALL)
    blind = tool("get_current_time", 1, "a" * 16)
    del blind["attributes"]["gen_ai.tool.args"]
    (first, second), run = judged(policy, trace(tmp_path, blind, tool("write_file", 2, "b" * 16, text="x")))
    assert (first.verdict, second.verdict, second.rule) == ("allow", "ask", "s")
    assert {"rule r", WITHOUT} <= set(first.not_judged)
    assert run.summary.not_judged[WITHOUT, first.seen.file] == 1


def test_a_call_that_ran_counts_also_where_it_would_be_refused(tmp_path: Path) -> None:
    policy = read_policy(CLOCK + RULES[3], parts=ALL)
    spans = [tool("write_file", n, f"{n:016x}", text="x") for n in range(1, 5)]
    calls, run = judged(policy, trace(tmp_path, *spans))
    assert [one.verdict for one in calls] == ["allow", "deny", "deny", "deny"]
    assert calls[3].witnesses == (f"{3:016x}",)
    assert (run.summary.violations, len(run.summary.violating)) == (3, 1)


@pytest.mark.parametrize("ident", ["a#1", "a b=c", "\u00e4\n", "\ud800", "x" * 5000])
def test_ids_of_a_foreign_trace_are_anybodys_text(ident: str, tmp_path: Path) -> None:
    """They become words of the state, and witnesses; two that differ stay two."""
    policy = read_policy(CLOCK + RULES[0], parts=ALL)
    ids = (ident, ident + "#")
    spans = [tool("get_current_time", n, one, timezone="x") for n, one in enumerate(ids, 1)]
    for span, one in zip(spans, ids, strict=True):
        span["attributes"]["guardtrail.decision.id"] = one
    calls, _ = judged(policy, trace(tmp_path, *spans, tool("write_file", 3, "f" * 16, text="x")))
    assert [one.verdict for one in calls] == ["allow", "allow", "deny"]
    assert len({one.seen.id for one in calls}) == 3
    assert set(calls[2].witnesses) <= {one.seen.id for one in calls[:2]} and calls[2].witnesses


@pytest.mark.parametrize("path", ["agentdojo/banking/pairs.jsonl", "agentdojo/workspace/user_tasks.jsonl", "tau2/airline_tasks.jsonl"])
def test_the_corpora_are_replayed_to_their_end(path: str, corpora: Path) -> None:
    names = sorted({seen.tool for seen in read([corpora / path])})
    policy = read_policy(json.dumps({"guardtrail": 1, "name": "t", "owner": "o", "tools": {name: {"effect": "read"} for name in names}}))
    calls, run = judged(policy, corpora / path)
    assert len(calls) == run.summary.calls == len(list(read([corpora / path])))
    assert run.summary.tasks == len({one.seen.task for one in calls})


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, Path]:
    """A policy's file and the audit log of a short run under it: two calls let, two not."""
    (tmp_path / "policy.yaml").write_text(POLICY, "utf-8")
    clock = FrozenClock()
    iam = LocalIssuer("x", clock=lambda: clock.now().timestamp())
    guard = Guard(Policy.from_text(POLICY, file=str(tmp_path / "policy.yaml")), trust=iam, sinks=[AuditFile(tmp_path / "log")], clock=clock)
    token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"}, ttl="10m", txn="t1")
    calls = [("look", "A-17", None), ("refund", "B-99", "20"), ("refund", "A-17", "20"), ("refund", "A-17", "20")]
    with guard.task(token):
        for name, order, amount in calls:
            decision = guard.before(ToolCall(name, {"order": order} | ({"amount": amount} if amount else {})))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))
    return tmp_path / "policy.yaml", tmp_path / "log"


def test_the_table_and_the_last_line(log: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(app, [str(log[1]), "--policy", str(log[0])])
    assert done.exit_code == 1
    head, second, fourth, last = done.stdout.splitlines()
    assert head.split() == ["task", "step", "tool", "would", "be", "rule", "witnesses", "first", "seen"]
    assert second.split() == ["t1", "2", "refund", "deny", "args.constraint", "agent", "support"]
    assert fourth.split() == ["t1", "4", "refund", "deny", "limit.calls", "step", "3", "agent", "support"]
    assert last == "1 task, 4 calls: 1 task with violations."
    assert done.stderr == ""  # no bar where nobody looks


def test_json_is_a_line_a_call(log: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(app, [str(log[1]), "--policy", str(log[0]), "--json"])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [(line["step"], line["verdict"]) for line in lines] == [(1, "allow"), (2, "deny"), (3, "allow"), (4, "deny"), (0, "allow")]
    assert lines[3] == {
        "task": "t1", "step": 4, "tool": "refund", "verdict": "deny", "code": "limit.calls", "rule": None,
        "witnesses": [{"task": "t1", "step": 3}], "not_judged": [],
    }  # fmt: skip


def test_another_policy_names_what_it_cannot_judge(log: tuple[Path, Path]) -> None:
    log[0].write_text(POLICY.replace("limit: {calls: 1}}", "limit: {calls: 2}}"), "utf-8")
    done = CliRunner().invoke(app, [str(log[1]), "--policy", str(log[0])])
    assert done.exit_code in (0, 1)
    assert "Not judged: arguments of intent refund-order of 4 calls" in done.stdout
    assert "limit.calls" not in done.stdout


def test_a_rule_beside_the_policy(log: tuple[Path, Path]) -> None:
    more = log[0].parent / "more.yaml"
    more.write_text("guardtrail: 1\nname: more\nowner: o\nrules:\n  - {id: no-looks, when: {tool: look}, then: ask}\n", "utf-8")
    done = CliRunner().invoke(app, [str(log[1]), "-p", str(log[0]), "-p", str(more)])
    assert done.exit_code == 1
    assert "no-looks" in done.stdout


def test_exit_codes(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(CLOCK.removesuffix("rules:\n"), "utf-8")
    (tmp_path / "empty.jsonl").write_text("", "utf-8")
    fine = trace(tmp_path, tool("write_file", 1, "a" * 16, text="x"))
    for args, code in (([str(fine)], 0), ([str(tmp_path / "empty.jsonl")], 3), ([str(tmp_path / "nowhere")], 3)):
        assert CliRunner().invoke(app, [*args, "-p", str(policy)]).exit_code == code
    assert CliRunner().invoke(app, [str(fine), "-p", str(fine)]).exit_code == 3
    assert CliRunner().invoke(app, [str(fine)]).exit_code == 2


def _reads(task: str, at: int, name: str) -> Seen:
    return Seen("call", ("t", "i", task), at, id=name, tool="get_current_time", args={}, status="ok", actors=("a",), origin="o")


def test_one_record_from_the_future_forgets_no_task_and_idle_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = read_policy(CLOCK + "  - {id: r, when: {tool: get_current_time}, limit: {calls: 1}}", parts=ALL)
    day = 24 * 3600 * 1_000_000
    run = Replay([policy])
    list(run.feed(_reads("mine", day, "1")))
    list(run.feed(_reads("other", 1000 * day, "2")))
    (second,) = run.feed(_reads("mine", day + 1, "3"))
    assert (second.verdict, second.code) == ("deny", "rule.limit")
    monkeypatch.setattr("guard.replay.run._BUSY", 50)
    run = Replay([policy])
    for n in range(200):
        list(run.feed(_reads(f"t{n}", n * day, str(n))))
    assert len(run._tasks) <= 52


def test_the_end_of_a_task_is_judged(tmp_path: Path) -> None:
    policy = read_policy(CLOCK + "  - {id: must-write, when: task.end, require_before: {tool: write_file, outcome: ok}}", parts=ALL)
    iam = LocalIssuer("x")
    guard = Guard(policy, trust=iam, sinks=[AuditFile(tmp_path)])
    with pytest.raises(Denied), guard.task(iam.mint(origin="a", actor="b", intent="year", ttl="10m")):
        guard.after(guard.before(ToolCall("get_current_time", {"timezone": "UTC"})), Outcome("ok"))
    calls, run = judged(policy, tmp_path)
    assert [(one.seen.tool, one.verdict, one.code, one.rule) for one in calls] == [
        ("get_current_time", "allow", "permit", None),
        ("task.end", "deny", "task.end", "must-write"),
    ]
    assert run.summary.differ == 0
