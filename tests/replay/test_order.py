"""The law, where a rule looks over a tenant: what several guards decided at once comes to the same in a replay, in whatever order it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.cli.replay import replay
from guard.model import Outcome
from guard.policy.data import PolicyData
from guard.record import AuditFile, ListSink
from guard.replay import Judged, Replay
from guard.replay.turns import Line, Turns
from guard.sources import Seen, read
from guard.testing import FrozenClock
from tests.replay.crowd import POLICY, race
from tests.workflow.chains import make_world

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
CROWD = Policy.from_text(POLICY)
ROOT = Path(__file__).parents[2]
app = typer.Typer()
app.command()(replay)


def replayed(policy: PolicyData, paths: list[Path]) -> tuple[list[Judged], Replay]:
    run = Replay([policy])
    found = [judged for seen in read(paths) for judged in run.feed(seen)]
    return [*found, *run.close()], run


def differences(judged: list[Judged]) -> list[tuple[str, ...]]:
    return [
        (one.seen.task[2], str(one.seen.step), str(one.seen.order), one.seen.tool, one.seen.code, one.code)
        for one in judged
        if (one.verdict, one.code) != (one.seen.verdict, one.seen.code)
    ]


def exact(policy: PolicyData, paths: list[Path]) -> Counter[str]:
    """0 differences, and nothing was assumed; what was decided."""
    judged, run = replayed(policy, paths)
    said = run.summary
    assert differences(judged) == []
    assert (said.missing, said.late, said.unnumbered, said.orphans, dict(said.not_judged)) == (0, 0, 0, 0, {})
    return Counter(one.seen.code for one in judged if one.seen.kind == "call")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("audit*.jsonl")) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("shared", [False, True], ids=["each its tasks", "the same tasks"])
def test_guards_that_race_are_replayed_as_they_committed(shared: bool, tmp_path: Path) -> None:
    decided: Counter[str] = Counter()
    for seed in range(400 if MANY else 12):
        logs = race(CROWD, seed, tmp_path / str(seed), shared=shared)
        decided += exact(CROWD, logs)
        exact(CROWD, logs[::-1])
    assert {"permit", "rule.limit", "rule.require_before", "rule.exclusive", "rule.forbid_after", "call.already_run"} <= set(decided)


def test_generated_policies_raced_are_too(tmp_path: Path) -> None:
    wide = 0
    for seed in range(1000 if MANY else 40):
        policy = make_world(Random(seed)).policy
        logs = race(policy, seed, tmp_path / str(seed), steps=15)
        exact(policy, logs[:: -1 if seed % 2 else 1])
        wide += any(line.get("order") for line in records(logs[0]))
    assert wide > 10


def test_processes_that_race_are_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own file in one directory, and the time of the machine."""
    monkeypatch.setattr("guard.replay.turns.LAG", 120_000_000)  # of a guard's deadline and a disk's patience, which are minutes here
    started = [
        subprocess.Popen([sys.executable, "-m", "tests.replay.crowd", str(tmp_path), str(at), "3", "60"], cwd=ROOT, env=os.environ)
        for at in range(3)
    ]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    files = sorted((tmp_path / "log").glob("audit*.jsonl"))
    assert len(files) == 3
    decided = exact(CROWD, files)
    assert sum(decided.values()) > 60 and len(decided) > 3
    exact(CROWD, files[::-1])


def shuffled(r: Random, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Any order in which an outcome stands after its decision."""
    r.shuffle(lines)
    found, held, known = list[dict[str, Any]](), dict[str, list[dict[str, Any]]](), set[str]()
    for line in lines:
        name = line["decision"] if line["kind"] == "outcome" else line["id"]
        if line["kind"] == "outcome" and name not in known:
            held.setdefault(name, []).append(line)
            continue
        found.append(line)
        if line["kind"] == "decision":
            known.add(name)
            found += held.pop(name, [])
    return found


def numbered(tmp_path: Path, seed: int = 3) -> list[dict[str, Any]]:
    tmp_path.mkdir(exist_ok=True)
    logs = race(CROWD, seed, tmp_path / "run", workers=2, shared=True)
    return [line for log in logs for line in records(log) if line["kind"] in ("decision", "outcome")]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_the_order_of_the_lines_says_nothing(tmp_path: Path) -> None:
    lines = numbered(tmp_path)
    for seed in range(20):
        mixed = shuffled(Random(seed), list(lines))
        half = len(mixed) // 2
        first = mixed[:half]
        known = {line["id"] for line in first if line["kind"] == "decision"}
        second = [line for line in mixed[half:] if line["kind"] == "decision" or line["decision"] not in known]
        first += [line for line in mixed[half:] if line not in second]
        exact(CROWD, [written(tmp_path / "a.jsonl", first), written(tmp_path / "b.jsonl", second)])


def test_a_log_cut_into_more_files_than_are_open_at_a_time(tmp_path: Path) -> None:
    lines = [line for seed in range(5) for line in numbered(tmp_path / str(seed), seed)][:400]
    for at, line in enumerate(lines):
        line["at"] = at
    files = [written(tmp_path / f"{at:03}.jsonl", [line]) for at, line in enumerate(lines)]
    assert len(files) > 250
    assert [seen.at for seen in read(files[::-1])] == list(range(len(files)))


def test_without_the_numbers_it_does_and_that_is_said(tmp_path: Path) -> None:
    lines = numbered(tmp_path)
    for line in lines:
        line.pop("order", None)
    differ = 0
    for seed in range(20):
        _, run = replayed(CROWD, [written(tmp_path / "a.jsonl", shuffled(Random(seed), list(lines)))])
        differ += run.summary.differ
        assert run.summary.unnumbered == sum(line.get("verdict") == "allow" for line in lines)
    assert differ > 5


def test_a_number_that_is_not_there_is_counted_and_nothing_waits_for_it(tmp_path: Path) -> None:
    lines = numbered(tmp_path)
    gone = next(line for line in lines if line.get("verdict") == "allow" and line["order"] > 5)
    left = [line for line in lines if gone["id"] not in (line.get("id"), line.get("decision"))]
    numbers = sum(bool(line.get("order")) for line in lines) - sum(bool(line.get("order")) for line in left)
    path = written(tmp_path / "a.jsonl", left)
    judged, run = replayed(CROWD, [path])
    assert (run.summary.missing, run.summary.late) == (numbers, 0)
    assert sum(one.seen.kind == "call" for one in judged) == sum(line["kind"] == "decision" for line in left)
    (tmp_path / "policy.yaml").write_text(POLICY, "utf-8")
    done = CliRunner().invoke(app, [str(path), "--policy", str(tmp_path / "policy.yaml")])
    told = f"Order over the tenant assumed: {numbers} commit{'s' if numbers > 1 else ''} not in these files."
    assert done.stdout.rstrip().endswith(told)


# -- turns -----------------------------------------------------------------------------------------------------------------------


def call(task: str, step: int, order: int, *, at: int = 0, refused: bool = False, judged: tuple[int, int] | None = None) -> Seen:
    name = f"{task}-{step}"
    return Seen(
        "call", ("n", "i", task), at, order, step, name, "t", status="not_executed" if refused else "", judged=judged, trust="proven"
    )  # fmt: skip


def taken(turns: Turns, events: list[Seen]) -> list[Seen]:
    lines: dict[str, Line] = {}
    found = list[Seen]()
    for seen in events:
        turns.put(seen, lines.setdefault(seen.task[2], Line(seen.task)), ("n", "s"))
        found += [one for _, one in turns.take()]
    return [*found, *(one for _, one in turns.take(all=True))]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_turns_put_any_history_in_order(data: st.DataObject) -> None:
    """A history of commits and of looks between them, read in any order."""
    history, steps, number = list[Seen](), Counter[str](), 0
    looked: dict[int, list[str]] = {}
    for task, kind in data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("wide", "own", "refused"))), max_size=40)):
        steps[task] += 1
        number += kind == "wide"
        if kind == "refused":
            seen = call(task, steps[task], number + 1, refused=True, judged=(steps[task] - 1, 0))
            looked.setdefault(number + 1, []).append(seen.id)
        else:
            seen = call(task, steps[task], number if kind == "wide" else 0)
        history.append(seen)
    turns = Turns()
    out = taken(turns, data.draw(st.permutations(history)))
    assert sorted(one.id for one in out) == sorted(one.id for one in history)
    assert (turns.missing, turns.late) == (0, 0)
    at = {one.id: place for place, one in enumerate(out)}
    for task in "abc":
        mine = [one.step for one in out if one.task[2] == task]
        assert mine == sorted(mine)
    commits = [one for one in out if one.order and one.status == ""]
    assert [one.order for one in commits] == list(range(1, number + 1))
    for one in commits:
        assert all(at[name] < at[one.id] for name in looked.get(one.order, ()))
        assert all(at[name] > at[one.id] for name in looked.get(one.order + 1, ()))


def test_no_more_wait_than_may_and_what_comes_late_is_counted() -> None:
    turns = Turns(100)
    lines = {name: Line(("n", "i", name)) for name in "ab"}
    held = 0
    for step in range(2, 1000):  # number 1 does not come
        turns.put(call("a", step, step), lines["a"], ("n", "s"))
        turns.take()
        held = max(held, len(turns._read))
    assert 100 <= held <= 101
    assert turns.missing == 1
    turns.put(call("b", 1, 1), lines["b"], ("n", "s"))
    turns.take(all=True)
    assert (turns.missing, turns.late) == (0, 1)


def test_without_a_gap_nothing_waits_longer_than_the_lag() -> None:
    turns, line = Turns(), Line(("n", "i", "a"))
    for step in range(1, 100):
        turns.put(call("a", step, step, at=step * 1_000_000), line, ("n", "s"))
        turns.take()
        assert len(turns._read) <= 3


def test_histories_that_contradict_themselves_come_to_an_end() -> None:
    """Attack: a log in which the order of the tenant is not that of the tasks."""
    r = Random(1)
    for _ in range(300):
        turns = Turns(r.choice((3, 50)))
        events = [
            call(r.choice("ab"), r.randrange(6), r.randrange(6), refused=r.random() < 0.4, judged=(r.randrange(4), r.randrange(4)))
            for _ in range(30)
        ]
        events += [
            Seen("outcome", ("n", "i", r.choice("ab")), 0, r.randrange(6), 1, f"{r.choice('ab')}-{r.randrange(6)}", settled=r.randrange(4))
            for _ in range(20)
        ]
        r.shuffle(events)
        assert len(taken(turns, events)) == 50


# -- what stands in a record -----------------------------------------------------------------------------------------------------


def run(state: str, sink: Any, calls: list[tuple[str, str, int | None]]) -> None:
    iam = LocalIssuer("x")
    guard = Guard(CROWD, trust=iam, state=state, sinks=[sink])
    with guard.task(iam.mint(origin="alice", actor="worker", intent="work", ttl="10m")):
        for tool, x, n in calls:
            decision = guard.before(ToolCall(tool, {"x": x} | ({"n": n} if n is not None else {})))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))


def test_commits_are_numbered_and_what_was_refused_names_the_next(tmp_path: Path) -> None:
    sink = ListSink()
    run("memory:", sink, [("page", "a", None), ("note", "a", None), ("page", "a", None), ("check", "b", 3), ("pay", "b", 1)])
    decided = [(one.tool, one.verdict, one.order) for one in sink.decisions]
    assert decided == [("page", "allow", 1), ("note", "allow", 3), ("page", "deny", 5), ("check", "allow", 5), ("pay", "allow", 7)]
    assert len({one.state for one in sink.decisions}) == 1 and len(sink.decisions[0].state) == 8
    assert sink.decisions[2].judged is not None


def test_plans_that_look_at_nothing_of_the_tenant_have_no_numbers() -> None:
    sink = ListSink()
    iam = LocalIssuer("x")
    text = POLICY[: POLICY.index("rules:")].replace(", once: {key: [x], within: 24h}", "")
    text += "rules:\n  - {id: r, when: {tool: page}, forbid_after: [{tool: note}]}\n  - {id: s, when: {tool: pay}, limit: {calls: 1}}\n"
    guard = Guard(Policy.from_text(text), trust=iam, sinks=[sink])
    with guard.task(iam.mint(origin="alice", actor="worker", intent="work", ttl="10m")):
        for tool in ("look", "note", "page"):
            decision = guard.before(ToolCall(tool, {"x": "a"}))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))
    assert [(one.order, one.state) for one in sink.decisions] == [(0, "")] * 3
    assert [one.order for one in sink.outcomes] == [0, 0]
    assert "|n" not in {key[-2:] for key in guard._house.store._counts}  # type: ignore[attr-defined]


def test_a_state_that_begins_anew_counts_anew(tmp_path: Path) -> None:
    """Two runs with `memory:` into one log: both count from 1, and neither is taken for the other."""
    for x in "ab":
        run("memory:", AuditFile(tmp_path), [("page", x, None), ("check", x, 1), ("page", x, None)])
    judged, replayed_ = replayed(CROWD, [tmp_path])
    assert [one.seen.order for one in judged if one.seen.kind == "call"] == [1, 3, 5, 1, 3, 5]
    assert differences(judged) == []
    assert (replayed_.summary.missing, replayed_.summary.late) == (0, 0)


def test_a_record_that_no_sink_takes_gives_its_number_back_in_the_open(tmp_path: Path) -> None:
    """The reservation and its taking back are two commits; the log holds what came of it, and says what it lacks."""

    class Full(AuditFile):
        full = False

        def decision(self, record: Any) -> None:
            if Full.full and record.verdict == "allow":
                raise OSError("full")
            super().decision(record)

    clock = FrozenClock()
    iam = LocalIssuer("x", clock=lambda: clock.now().timestamp())
    sink = Full(tmp_path)
    first = ListSink()
    guard = Guard(CROWD, trust=iam, sinks=[first, sink], clock=clock)
    with guard.task(iam.mint(origin="alice", actor="worker", intent="work", ttl="10m")):
        for full in (False, True, False):
            Full.full = full
            decision = guard.before(ToolCall("pay", {"x": "a", "n": 1}))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))
    assert [(one.verdict, one.order) for one in first.decisions] == [("allow", 1), ("allow", 3), ("deny", 4), ("allow", 5)]
    judged, replay_ = replayed(CROWD, [tmp_path])
    assert differences(judged) == [] and (replay_.summary.missing, replay_.summary.late) == (2, 0)  # 3 and 4: the file took neither
