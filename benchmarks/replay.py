"""Row `replay.1m`: a log of a million records judged again, against `json.loads` of the same lines.

The log is made of a real one: a hundred tasks under the stated policy, open side by side, recorded by a real guard into a real audit
file. It is written again and again under new names (tenant, tasks, decisions, times) until it has the wanted number of lines; hash
chains are left as they were, which a replay does not look at. So every copy must come to the recorded verdicts, and that is checked.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from time import process_time_ns
from typing import Any

from benchmarks.measure import Row
from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied
from guard.model import Outcome
from guard.record import AuditFile
from guard.replay import Replay
from guard.sources import read
from guard.testing import FrozenClock

__all__ = ["POLICY", "Batch", "record_batch", "replay_rows", "write_log"]

_READS = 10
_MARK = "bench-batch"
_AT = re.compile(rb'"at":(\d+)')

POLICY = f"""
guardtrail: 1
name: replay
owner: bench@acme.example
tools:
{
    "".join(
        f'''  read_{i}: {{effect: read, control: {{order: id}}, returns: {{format: json, labels: []}}}}
'''
        for i in range(_READS)
    )
}  read_invoice: {{effect: read, control: {{order: id}}, returns: {{format: json, labels: [private]}}}}
  fetch_page: {{effect: fetch, control: {{url: url}}, returns: {{format: text, labels: [untrusted]}}}}
  send_email: {{effect: send, control: {{to: email}}, data: {{body: text}}, returns: none}}
  pay: {{effect: pay, control: {{iban: iban}}, data: {{amount: decimal}}, returns: none}}
  approve: {{effect: approve, control: {{iban: iban}}, data: {{amount: decimal}}, returns: none}}
  write_note: {{effect: write, data: {{text: text}}, returns: none}}
  close_log: {{effect: write, returns: none}}
intents:
  work:
    description: Everything.
    params: {{ceiling: decimal}}
    ttl: 10h
    allow:
{
    "".join(
        f'''      read_{i}: {{args: {{order: {{glob: "A-*"}}}}}}
'''
        for i in range(_READS)
    )
}      read_invoice: {{args: {{order: {{glob: "A-*"}}}}}}
      fetch_page: {{args: {{url: {{url: {{scheme: https}}}}}}}}
      send_email: {{args: {{to: {{email: {{domain: acme.example}}}}}}}}
      pay: {{args: {{amount: {{range: {{min: "0.01", max: $ceiling}}}}}}}}
      approve: {{args: {{amount: {{range: {{min: "0.01", max: $ceiling}}}}}}}}
      write_note: {{}}
      close_log: {{}}
rules:
{
    "".join(
        f'''  - {{id: reads-{i}, when: {{tool: read_{i}}}, limit: {{calls: {2 if i == 0 else 50}}}}}
'''
        for i in range(_READS)
    )
}  - {{id: invoices, when: {{tool: read_invoice}}, limit: {{calls: 20}}}}
  - {{id: pages, when: {{tool: fetch_page}}, limit: {{calls: 20}}}}
  - {{id: mails, when: {{tool: send_email}}, limit: {{calls: 10}}}}
  - {{id: payments, when: {{tool: pay}}, limit: {{calls: 3}}}}
  - {{id: notes, when: {{tool: write_note}}, limit: {{calls: 20}}}}
  - {{id: hourly-reads, when: {{effect: read}}, limit: {{calls: 100000, within: 1h, per: [origin]}}}}
  - {{id: hourly-mails, when: {{tool: send_email}}, limit: {{calls: 1000, within: 1h, per: [args.to]}}}}
  - {{id: payment-cap, when: {{tool: pay}}, limit: {{sum: args.amount, max: "5000"}}}}
  - {{id: daily-cap, when: {{tool: pay}}, limit: {{sum: args.amount, max: "500000", within: 24h, per: [origin]}}}}
  - {{id: stubborn, limit: {{denied: 20}}, then: suspend}}
  - id: no-exfiltration
    when: {{effect: [send, fetch]}}
    forbid_after: [{{label: untrusted}}, {{label: private}}]
    then: ask
  - id: four-eyes
    when: {{tool: pay, args: {{amount: {{range: {{above: "100"}}}}}}}}
    require_before: {{tool: approve, outcome: ok, match: {{iban: args.iban, amount: args.amount}}, distinct: person, within: 1h, consume: true}}
    then: ask
  - id: maker-checker
    exclusive: [{{tool: pay}}, {{tool: approve}}]
    by: person
    per: [args.iban]
  - id: note-then-mail
    when: {{tool: pay}}
    forbid_after: [{{tool: write_note}}, {{tool: send_email}}]
    in_order: true
  - id: log-closed
    when: task.end
    require_before: {{tool: close_log, outcome: ok}}
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of a recorded batch. `marks`: what is another in each copy. `span`: microseconds from the first to the last."""

    lines: list[bytes]
    marks: tuple[bytes, bytes]
    span: int
    calls: int
    blocked: int


def _call(r: Random) -> tuple[str, dict[str, object]]:
    dice = r.random()
    if dice < 0.70:
        return f"read_{r.randrange(_READS)}", {"order": f"A-{r.randrange(1000)}"}
    if dice < 0.78:
        return "fetch_page", {"url": f"https://acme.example/{r.randrange(100)}"}
    if dice < 0.82:
        return "read_invoice", {"order": f"A-{r.randrange(1000)}"}
    if dice < 0.88:
        return "send_email", {"to": f"{r.choice('abcdefgh')}@acme.example", "body": "Hello"}
    if dice < 0.94:
        return "write_note", {"text": "noted"}
    iban = r.choice(("DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606"))
    return ("pay" if dice < 0.98 else "approve"), {"iban": iban, "amount": str(r.choice((20, 40, 880)))}


def record_batch(folder: Path, *, tasks: int = 100, calls: int = 20, seed: int = 1) -> Batch:
    """`tasks` tasks of about `calls` calls under `POLICY`, twenty of them open at a time."""
    r, clock = Random(seed), FrozenClock()
    iam = LocalIssuer(_MARK, clock=lambda: clock.now().timestamp())
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[AuditFile(folder)], clock=clock, deadline=timedelta(seconds=60))
    tasks_open: list[tuple[Any, int]] = []
    begun = 0
    while begun < tasks or tasks_open:
        guard._current.set(None)
        if begun < tasks and len(tasks_open) < 20:
            token = iam.mint(
                origin=r.choice(("alice", "bob", "carol")), actor=["planner", r.choice(("payer", "reader"))], intent="work",
                params={"ceiling": "900"}, ttl="10h", txn=f"{_MARK}-{begun:05d}",
            )  # fmt: skip
            tasks_open.append((guard.task(token).__enter__(), r.randrange(calls // 2, calls * 3 // 2)))
            begun += 1
            continue
        at = r.randrange(len(tasks_open))
        task, left = tasks_open[at]
        name, args = _call(r) if left else ("close_log", {})
        clock.advance(0.2)
        with task:
            decision = guard.before(ToolCall(name, args))
            if not decision.blocks:
                clock.advance(0.1)
                guard.after(decision, Outcome("error", None, RuntimeError("no")) if r.random() < 0.03 else Outcome("ok"))
        tasks_open[at] = task, left - 1
        if not left:
            tasks_open.pop(at)
            with suppress(Denied):
                task.__exit__(None, None, None)
    lines = [line + b"\n" for file in sorted(folder.glob("audit*.jsonl")) for line in file.read_bytes().splitlines()]
    kept = [line for line in lines if _AT.search(line)]
    decisions = [one for line in kept if (one := json.loads(line))["kind"] == "decision"]
    times = [int(found[1]) for line in kept if (found := _AT.search(line))]
    drawn = decisions[0]["id"][10:18].encode()
    blocked = sum(one["verdict"] != "allow" for one in decisions)
    return Batch(kept, (_MARK.encode(), drawn), max(times) - min(times) + 1_000_000, len(decisions), blocked)


def write_log(batch: Batch, path: Path, lines: int) -> int:
    """Copies of `batch` until there are `lines` lines. Answers the number of calls among them."""
    parts = [_AT.split(line, maxsplit=1) for line in batch.lines]
    cut = [(before + b'"at":', int(at), after) for before, at, after in parts]
    mark, drawn = batch.marks
    written = calls = copies = 0
    with path.open("wb") as file:
        while written < lines:
            shift, code = copies * batch.span, b"%08d" % copies
            named = b"bench-%05d" % copies
            text = b"".join([before + b"%d" % (at + shift) + after for before, at, after in cut[: lines - written]])
            file.write(text.replace(mark, named).replace(drawn, code))
            calls += text.count(b'"kind":"decision"')
            written += min(len(cut), lines - written)
            copies += 1
    return calls


def replayed(lines: int, *, chunk: int = 5_000, name: str = "replay.1m", bar: float | None = 8.0) -> Iterator[Row]:
    """Chunks of the log in turns: `json.loads` of its lines (read before, not in the time), then the replay of them, reading included."""
    with tempfile.TemporaryDirectory() as folder:
        batch = record_batch(Path(folder) / "batch")
        log = Path(folder) / "log.jsonl"
        calls = write_log(batch, log, lines)
        run = Replay([Policy.from_text(POLICY)])
        before = _peak()
        events = read([log])
        ratios, ours, theirs = list[float](), 0, 0
        with log.open("rb") as file:
            done = 0
            while taken := list(islice(file, chunk)):
                began = process_time_ns()
                for line in taken:
                    json.loads(line)
                middle = process_time_ns()
                # A line of the log is one event, except the few kinds a replay has no use for.
                done += len(taken)
                for seen in islice(events, sum(b'"kind":"pivot"' not in line for line in taken)):
                    for _ in run.feed(seen):
                        pass
                ended = process_time_ns()
                ratios.append((ended - middle) / (middle - began))
                ours, theirs = ours + ended - middle, theirs + middle - began
        for _ in run.close():
            pass
        said = run.summary
        if said.calls != calls or said.differ or said.orphans:
            raise RuntimeError(
                f"replay of {calls} calls: {said.calls} judged, {said.differ} differ, {said.orphans} outcomes without a call"
            )
        print(
            f"{'':24} {done:,} lines, {log.stat().st_size / 1e6:.0f} MB, {said.calls:,} calls of {said.tasks:,} tasks, "
            f"{said.violations:,} refused; {ours / 1e9:.0f} s against {theirs / 1e9:.0f} s; "
            f"peak {_peak() / 2**20:.0f} MiB, {before / 2**20:.0f} before"
        )
        if bar is not None and _peak() > 2**30:
            raise RuntimeError("replay took more than 1 GiB")
        yield Row(name, round(ours / done / 1000, 2), "json.loads", round(median(ratios), 3), bar)


def _peak() -> int:
    """Peak resident memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def replay_rows(rounds: int) -> Iterator[Row]:
    """Few rounds are a smoke test: then a short log, whose row is named by its length and has no bar."""
    if rounds > 10:
        yield from replayed(1_000_000)
    else:
        yield from replayed(20_000, name="replay.20k", bar=None)
