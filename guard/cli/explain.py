"""`guardtrail explain`: one decision, who it was made for, why, and the chain it stood in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, columns, count, dump, note, say, styled, table
from guard.cli.records import find, steps_of
from guard.record import directory

__all__ = ["explain"]

_AROUND = 20
Row = Mapping[str, Any]


@answers
def explain(
    id: Annotated[str, typer.Argument(help="A decision's id or its beginning, or `last`.", metavar="ID", show_default=False)],
    dir: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the records are (default: $GUARDTRAIL_DIR, .guardtrail).", metavar="DIR", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """Explain a recorded decision: who, under which credential, what each judge said, the fix, and the chain of its task.

    Records hold no argument values; a keyed hash says whether two calls had the same ones.

    \b
    guardtrail explain 01KAW5C
    guardtrail explain last

    \b
    --json: {"decision": the record, "chain": [records of the task, each with "outcome"]}
    Exit 0: found; 2: several begin like that; 3: nothing found or nothing recorded.
    """
    folder = dir if dir is not None else directory()
    decision = _one(folder, id)
    chain = steps_of(folder, decision) if decision.get("task") else [dict(decision)]
    if as_json:
        dump({"decision": decision, "chain": chain})
        return YES
    _show(decision, chain)
    if len(chain) > 1:
        _show_chain(decision, chain)
    return YES


def _one(folder: Path, given: str) -> Row:
    prefix = given.strip() if given == "last" else given.strip().upper()
    if not prefix:
        raise WrongUsage("an id is needed, or its beginning, or `last`")
    found = find(folder, prefix)
    if found.broken:
        note(f"note: {count(found.broken, 'line')} could not be read as records; `guardtrail audit verify` says more")
    if not found.decisions:
        raise CannotAnswer(f"no decision in {folder} begins with {given[:40]}")
    if len(found.decisions) > 1:
        near = sorted(found.decisions)
        listed = "\n".join(f"  {each}  {_title(found.decisions[each])}" for each in near[:10])
        more = f"\n  and {len(near) - 10} more" if len(near) > 10 else ""
        raise WrongUsage(f"{len(near)} decisions begin with {given[:40]}; a few more characters, please:\n{listed}{more}")
    return next(iter(found.decisions.values()))


def _title(row: Row) -> str:
    return f"{row.get('verdict')}  {row.get('tool')}  {_when(row)}"


def _when(row: Row, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    at = row.get("at")
    try:
        return datetime.fromtimestamp(float(at or 0) / 1_000_000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError, TypeError):
        return "at an unknown time"


def _verdict(row: Row) -> str:
    return f"{row.get('verdict')}{' (monitor)' if row.get('mode') == 'monitor' else ''}"


def _show(row: Row, chain: Sequence[Row]) -> None:
    hmac = f"(args: not captured, hmac {str(row['args_hmac'])[:8]})" if row.get("args_hmac") else "(args: not captured)"
    place = f"step {row.get('step')} of task {row.get('task')}, " if row.get("task") else "outside a task, "
    say(styled(_verdict(row)), f"  {row.get('tool')}{hmac}      {place}{_when(row)} UTC")
    who = " > ".join(str(each) for each in (row.get("origin") or "unknown", *(row.get("actors") or ())))
    issuer = " (local issuer)" if row.get("issuer") == "local" else ""
    credential = f"{row.get('credential') or 'none'}{issuer}"
    say(f"  who      {who}   credential {credential}   workload {row.get('workload') or 'unknown'}")
    steps = {str(each.get("id")): each for each in chain}
    lines = [_finding(f, steps) for f in row.get("findings") or () if isinstance(f, dict)]
    for line in columns(lines, gap=3):
        say(line)
    if row.get("fix"):
        say(f"  fix      {row['fix']}")
    if row.get("count", 1) != 1:
        say(f"  count    stands for {row['count']} equal refusals of that minute")
    say(f"  record   {row.get('id')}   policy {row.get('policy')}" + (f"   trace {row['trace']}" if row.get("trace") else ""))


def _finding(finding: Row, steps: Mapping[str, Row]) -> list[str]:
    says = f"would {finding.get('says')}" if finding.get("mode") == "monitor" else str(finding.get("says"))
    about = str(finding.get("text", ""))
    if finding.get("rule"):
        about = f"rule {finding['rule']}: {about}"
    seen = [f"step {steps[w].get('step')}" if w in steps else str(w) for w in finding.get("witnesses") or ()]
    where = "   ".join(part for part in (str(finding.get("where") or ""), f"witness {', '.join(seen)}" if seen else "") if part)
    name = str(finding.get("code")) if finding.get("says") != "permit" else str(finding.get("judge"))
    return [f"{says:6}", name, about, where]


def _show_chain(decision: Row, chain: Sequence[Row]) -> None:
    at = next((i for i, row in enumerate(chain) if row.get("id") == decision.get("id")), 0)
    first, last = max(0, at - _AROUND), min(len(chain), at + _AROUND + 1)
    say("")
    shown = ", steps around this one" if last - first < len(chain) else ""
    say(f"task {decision.get('task')}: {count(len(chain), 'decision')}{shown}")
    rows = [_step(row, row.get("id") == decision.get("id")) for row in chain[first:last]]
    table(["", "#", "tool", "decision", "outcome", "why"], rows, numbers=frozenset({1}))


def _step(row: Row, this: bool) -> list[str]:
    findings = [f for f in row.get("findings") or () if isinstance(f, dict)]
    if row.get("verdict") == "allow":
        monitored = next((f for f in findings if f.get("mode") == "monitor"), None)
        said = monitored or next((f for f in findings if f.get("judge") == "intent"), None) or {}
        why = ("would deny: " if monitored else "") + str(said.get("text", ""))
    else:
        deciding = next((f for f in findings if f.get("code") == row.get("code")), {})
        why = f"{row.get('code')}: {deciding.get('text', '')}"
    return [">" if this else " ", str(row.get("step")), str(row.get("tool")), _verdict(row), str(row.get("outcome", "")), why]
