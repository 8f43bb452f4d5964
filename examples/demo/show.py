"""What the demo prints: the chain as it stands in the audit log, and the world as it is afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["steps", "text"]

_GREEN, _RED, _YELLOW, _OFF = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def steps(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per decision record, in the order of the task. Every word comes from the record."""
    decisions = [record for record in records if record["kind"] == "decision"]
    step_of = {record["id"]: record["step"] for record in decisions}
    outcomes = {record["decision"]: record["status"] for record in records if record["kind"] == "outcome"}
    return [
        {
            "step": record["step"],
            "tool": record["tool"],
            "verdict": record["verdict"],
            "mode": record["mode"],
            "code": record["code"],
            "why": _why(record, step_of),
            "fix": record["fix"] or "",
            "outcome": outcomes.get(record["id"], "not_executed"),
            "id": record["id"],
        }
        for record in decisions
    ]


def _why(record: Mapping[str, Any], step_of: Mapping[str, int]) -> str:
    findings = record["findings"]
    monitored = [f for f in findings if f.get("mode") == "monitor"]
    if monitored:
        return f"would deny: {_text(record, monitored[0], step_of)}"
    if record["verdict"] == "allow":
        return "; ".join(f["text"] for f in findings if f["judge"] == "intent" and f["says"] == "permit")
    deciding = next((f for f in findings if f["code"] == record["code"]), None)
    return f"{record['code']}: {_text(record, deciding, step_of)}" if deciding else str(record["code"])


def _text(record: Mapping[str, Any], finding: Mapping[str, Any], step_of: Mapping[str, int]) -> str:
    """The finding's own words, without what the page's second line has said already; its witnesses as steps."""
    at = [f"step {step_of[witness]}" for witness in finding.get("witnesses", ()) if witness in step_of]
    said = (
        str(finding.get("text", finding["code"]))
        .removeprefix("argument ")
        .removesuffix(" in this task")
        .removesuffix(f" of intent {record['intent']}")
    )
    return said + (f" at {', '.join(at)}" if at else "")


def text(result: Mapping[str, Any]) -> str:
    """The page a person reads."""
    task, world, records = result["task"], result["world"], result["records"]
    chain = " > ".join((task["origin"], *task["actors"]))
    git, web = world["git"], world["web"]
    happened = (
        f"git: {_count(git['commits'], 'commit')}, index {'clean' if git['index_clean'] else 'NOT clean'}, "
        f"{'nothing reset' if git['index_untouched'] else 'index WRITTEN after the commit'}    "
        f"web: {_count(web['requests'], 'request')}, {web['collected']} to /collect"
    )
    known = f"credential + workload + origin known for {records['known']} of {records['decisions']}"
    lines = [
        "guardtrail demo: a scripted agent, two real MCP servers (git, fetch), one injected web page. No model, no key, loopback only.",
        f"task {task['id'][:8]} {task['intent']}   {chain}   {task['issuer']} issuer, {task['minutes']} min",
        *_table(result["steps"]),
        "",
        f"{'really happened':18}{happened}",
        f"{'records':18}{_count(records['decisions'], 'decision')}, {_count(records['outcomes'], 'outcome')}; {known}",
        f"{'audit verify':18}{result['verify']['text']}",
        f"{'a tampered copy':18}{result['tampered']['text']}",
        f"{'look next':18}{result['next']}",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [(str(row["step"]), row["tool"], _decision(row), row["why"], row["fix"]) for row in rows]
    heads = ("#", "tool", "decision", "why", "smallest fix")
    wide = [max(len(row[at]) for row in (heads, *cells)) for at in range(4)]
    lines = []
    for at, row in enumerate((heads, *cells)):
        decision = row[2].ljust(wide[2])
        if at and sys.stdout.isatty():
            colour = _RED if row[2].startswith("deny") else _YELLOW if "monitor" in row[2] else _GREEN
            decision = f"{colour}{decision}{_OFF}"
        lines.append(f"{row[0]:>{wide[0] + 2}}  {row[1]:{wide[1]}}  {decision}  {row[3]:{wide[3]}}  {row[4]}".rstrip())
    return lines


def _decision(row: Mapping[str, Any]) -> str:
    return f"{row['verdict']} (monitor)" if row["mode"] == "monitor" else str(row["verdict"])


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
