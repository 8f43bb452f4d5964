"""Replay of traces of agents that were never guarded: a million tool spans in one file, in traces of four. What it costs, and its peak memory.

A child replays, so that the peak is its own. The spans stand as they were exported, nearly in order; each names an agent above it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import process_time_ns

from benchmarks.measure import Row

__all__ = ["foreign_rows"]

POLICY = """
guardtrail: 1
name: foreign
owner: bench@acme.example
tools:
  search: {effect: read, control: {q: text}}
  write: {effect: write, control: {q: text}}
  send: {effect: send, control: {q: text}}
rules:
  - {id: few-sends, when: {tool: send}, limit: {calls: 2}, then: ask}
  - {id: no-send-after-write, when: {tool: send}, forbid_after: [{tool: write}], then: ask}
"""
_MOST = 400
"""MiB, of a million spans."""
_CHILD = """
import re, resource, sys
from pathlib import Path
from time import process_time_ns
from guard import Policy
from guard.replay import Replay, fed
from guard.sources import read

began = process_time_ns()
run = Replay([Policy.from_text(Path(sys.argv[1]).read_text("utf-8"))])
for seen in read([Path(sys.argv[2])]):
    for _ in fed(run, seen):
        pass
for _ in run.close():
    pass
spent = process_time_ns() - began
# Linux hands the peak of a parent down to `getrusage`.
status = Path("/proc/self/status")
peak = int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(spent, peak, run.summary.calls, run.summary.tasks, run.summary.violations)
"""


def write_spans(path: Path, calls: int) -> None:
    r = Random(7)
    with path.open("w", encoding="utf-8") as file:
        for number in range(calls):
            trace, place = divmod(number, 4)
            start = (trace * 8_000 + place * 1_000 + r.randrange(3_000)) * 1_000
            if place == 0:
                file.write(_line(trace, trace << 8, 0, start - 1_000_000, {"gen_ai.agent.name": "mailer"}))
            attributes = {
                "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": r.choice(("search", "search", "write", "send")),
                "gen_ai.tool.call.arguments": json.dumps({"q": f"order {number % 977}"}), "gen_ai.tool.call.result": f"found {r.random()}",
            }  # fmt: skip
            file.write(_line(trace, (trace << 8) + place + 1, trace << 8, start, attributes))


def _line(trace: int, ident: int, parent: int, start: int, attributes: dict[str, str]) -> str:
    context = {"trace_id": f"{trace + 1:032x}", "span_id": f"{ident + (1 << 60):016x}"}
    above = f"{parent + (1 << 60):016x}" if parent != ident and ident & 255 else None
    whole = {"name": "span", "context": context, "parent_id": above, "start_time": start, "attributes": attributes, "status": {}}
    return json.dumps(whole) + "\n"


def foreign_rows(rounds: int) -> Iterator[Row]:
    """Few rounds are a smoke test: then a short file."""
    calls = 1_000_000 if rounds > 10 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        policy, path = Path(folder) / "policy.yaml", Path(folder) / "spans.jsonl"
        policy.write_text(POLICY, "utf-8")
        write_spans(path, calls)
        said = subprocess.run([sys.executable, "-c", _CHILD, str(policy), str(path)], capture_output=True, text=True, check=True)
        spent, peak, judged, tasks, refused = map(int, said.stdout.split())
        began = process_time_ns()
        with path.open("rb") as file:
            for line in file:
                json.loads(line)
        parsed = process_time_ns() - began
        if judged != calls:
            raise RuntimeError(f"replay of {calls} foreign calls: {judged} judged")
        print(
            f"{'':24} {path.stat().st_size / 1e6:.0f} MB, {judged:,} calls of {tasks:,} tasks, {refused:,} refused; "
            f"{spent / 1e9:.0f} s against {parsed / 1e9:.0f} s; peak {peak / 1024:.0f} MiB"
        )
        if peak > _MOST << 10:
            raise RuntimeError(f"replay of foreign traces took more than {_MOST} MiB")
        yield Row("replay.foreign", round(spent / calls / 1000, 2), "json.loads", round(spent / parsed, 3))
