"""`guardtrail explain`: one decision, who it was made for, why, and the chain it stood in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, columns, count, dump, note, say, styled, table
from guard.cli.records import Chain, chain_of, find, listed, nearest, witnesses_of
from guard.record import directory

__all__ = ["explain"]

_AROUND = 20
_LOOKS_LIKE = str.maketrans("ILO", "110")
Row = Mapping[str, Any]


@answers
def explain(
    id: Annotated[str, typer.Argument(help="A decision's id or its beginning, or `last`.", metavar="ID", show_default=False)],
    dir: Annotated[
        Path | None,
        typer.Option("--dir", help="Where the records are (default: $GUARDTRAIL_DIR, .guardtrail).", metavar="DIR", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every step of the task, however many.")] = False,
    as_json: Json = False,
) -> int:
    """Explain a recorded decision: who, under which credential, what each judge said, the fix, and the chain of its task.

    In the chain `>` is this step and `*` a witness: an earlier step that made a rule fire. Of a long task the first and the last
    step, the witnesses, the asks and the steps around this one are shown. Records hold no argument values; a keyed hash says whether two
    calls had the same ones.

    \b
    guardtrail explain 01KAW5C
    guardtrail explain last --all

    \b
    --json: {"decision": the record, "chain": [decisions of the task, each with "outcome", "witness_of", "late" where it
              suspended the task, "lent" where its body had a credential],
             "notes": [pivots, approvals, ends], "decisions": how many the task has, "omitted": how many are not in "chain"}
    Exit 0: found; 2: several begin like that; 3: nothing found or nothing recorded.
    """
    folder = dir if dir is not None else directory()
    decision = _one(folder, id)
    chain = _chain(folder, decision, None if every else _AROUND)
    if as_json:
        witnesses = witnesses_of(decision)
        steps = [{**row, "witness_of": witnesses.get(str(row.get("id")), [])} for row in chain.steps]
        omitted = chain.decisions - len(chain.steps)
        dump({"decision": decision, "chain": steps, "notes": chain.notes, "decisions": chain.decisions, "omitted": omitted})
        return YES
    _show(decision, chain.steps)
    if len(chain.steps) > 1 or chain.notes:
        _show_chain(decision, chain)
    return YES


def _chain(folder: Path, decision: Row, around: int | None) -> Chain:
    if decision.get("task"):
        return chain_of(folder, decision, around=around)
    return Chain([dict(decision)], [], 1)


def _one(folder: Path, given: str) -> Row:
    # Ids are written without I, L and O, so that whoever reads one out cannot be misheard; they are taken for what they look like.
    prefix = given.strip() if given == "last" else given.strip().upper().translate(_LOOKS_LIKE)
    if not prefix:
        raise WrongUsage("an id is needed, or its beginning, or `last`")
    found = find(folder, prefix)
    if found.broken:
        note(f"note: {count(found.broken, 'line')} could not be read as records; `guardtrail audit verify` says more")
    if not found.decisions:
        meant = "".join(f"\n  {row['id']}  {_title(row)}" for row in nearest(folder, prefix))
        raise CannotAnswer(f"no decision in {folder} begins with {given[:40]}" + (f"; the nearest are:{meant}" if meant else ""))
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
    if row.get("owner") or row.get("proven"):
        say(f"  owner    {row.get('owner') or 'unknown'}" + (f"   actor proven as {row['proven']}" if row.get("proven") else ""))
    steps = {str(each.get("id")): each for each in chain}
    lines = [_finding(f, steps) for f in row.get("findings") or () if isinstance(f, dict)]
    for line in columns(lines, gap=3):
        say(line)
    late = steps.get(str(row.get("id")), {}).get("late")
    if isinstance(late, dict):
        say(f"  late     {late.get('text')}; the task was suspended when the call had ended   {late.get('where') or ''}".rstrip())
    lent = steps.get(str(row.get("id")), {}).get("lent")
    if isinstance(lent, dict):
        say(f"  lent     {_lent(lent)}")
    if row.get("fix"):
        say(f"  fix      {row['fix']}")
    if row.get("count", 1) != 1:
        say(f"  count    stands for {row['count']} equal refusals of that minute")
    say(f"  record   {row.get('id')}   policy {row.get('policy')}" + (f"   trace {row['trace']}" if row.get("trace") else ""))


def _lent(lent: Row) -> str:
    """The credential of the call's body."""
    scope = ", ".join(str(each) for each in listed(lent.get("scope")))
    what = f"{scope} at {lent.get('resource')}" if scope else str(lent.get("resource"))
    if not lent.get("id"):
        return f"nothing: {what} was not obtained"
    ends = lent.get("expires")
    until = f"; it expires {_when({'at': ends * 1_000_000})} UTC" if isinstance(ends, int) and ends else ""
    back = "taken back" if lent.get("taken_back") is True else f"NOT taken back: {lent.get('why') or 'unknown'}{until}"
    return f"{lent['id']} for {what}   {back}"


def _finding(finding: Row, steps: Mapping[str, Row]) -> list[str]:
    says = f"would {finding.get('says')}" if finding.get("mode") == "monitor" else str(finding.get("says"))
    about = str(finding.get("text", ""))
    if finding.get("rule") and not about.startswith(f"rule {finding['rule']}"):
        about = f"rule {finding['rule']}: {about}"
    seen = [_witness(steps[str(w)]) if str(w) in steps else str(w) for w in listed(finding.get("witnesses"))]
    where = "   ".join(part for part in (str(finding.get("where") or ""), f"witness {', '.join(seen)}" if seen else "") if part)
    name = str(finding.get("code")) if finding.get("says") != "permit" else str(finding.get("judge"))
    return [f"{says:6}", name, about, where]


def _witness(row: Row) -> str:
    return f"step {row.get('step')}" + (f" (span {row['span']})" if row.get("span") else "")


def _show_chain(decision: Row, chain: Chain) -> None:
    witnesses = witnesses_of(decision)
    left_out = chain.decisions - len(chain.steps)
    say("")
    shown = f", {len(chain.steps):,} shown: the ends, witnesses, asks, steps around this one (`--all`: every one)" if left_out else ""
    say(f"task {decision.get('task')}: {count(chain.decisions, 'decision')}{shown}")
    out: list[list[str]] = []
    notes, before = list(chain.notes), 0
    for row in chain.steps:
        while notes and (notes[0].get("at") or 0) <= (row.get("at") or 0):
            out.append(_note(notes.pop(0)))
        step = row.get("step") or 0
        if left_out and step > before + 1:
            out.append(["", "...", count(step - before - 1, "step"), "", "", ""])
        before = max(before, step)
        out.append(_step(row, row.get("id") == decision.get("id"), witnesses.get(str(row.get("id")))))
    table(["", "#", "tool", "decision", "outcome", "why"], [*out, *map(_note, notes)], numbers=frozenset({1}))


def _note(row: Row) -> list[str]:
    """A pivot, an approval, or the end of the task."""
    if row.get("kind") == "task":
        rules = ", ".join(f"rule {rule}" for rule in row.get("rules") or ())
        return ["", "", "task.end", _verdict(row), "", "" if row.get("verdict") == "allow" else f"{row.get('code')}: {rules}".rstrip(": ")]
    if row.get("kind") == "approval":
        if row.get("request"):
            asks = ", ".join(str(each) for each in row.get("asks") or ())
            by = f" by {row['by']}" if row.get("by") else ""
            about = f" for decision {row['decision']}" if row.get("decision") else ""
            return ["", "", "approval", "", "", f"{row.get('what')} {asks}{by} (request {row['request']!s}){about}"]
        about = row.get("label") or " ".join(str(row[name]) for name in ("tool", "argument") if row.get(name))
        return ["", "", "approval", "", "", f"{row.get('what')} {about} by {row.get('by')}"]
    changed = " and ".join(str(each) for each in row.get("changed") or ())
    who = " > ".join(str(each) for each in row.get("actors") or ())
    return ["", "", "pivot", "", "", f"another {changed}: now {who}, credential {row.get('credential')}, before {row.get('before')}"]


def _step(row: Row, this: bool, witness_of: Sequence[str] | None) -> list[str]:
    findings = [f for f in row.get("findings") or () if isinstance(f, dict)]
    if row.get("verdict") == "allow":
        monitored = next((f for f in findings if f.get("mode") == "monitor" and f.get("says") != "permit"), None)
        said = monitored or next((f for f in findings if f.get("judge") == "intent"), None) or {}
        why = (f"would {'ask' if monitored.get('says') == 'ask' else 'deny'}: " if monitored else "") + str(said.get("text", ""))
    else:
        deciding = next((f for f in findings if f.get("code") == row.get("code")), {})
        why = f"{row.get('code')}: {deciding.get('text', '')}"
    if isinstance(late := row.get("late"), dict):
        why = "; ".join(part for part in (why, f"then suspended by {late.get('text')}") if part)
    if witness_of is not None:
        why = f"witness of {', '.join(witness_of) or 'this'}; {why}".removesuffix("; ")
    mark = ">" if this else "*" if witness_of is not None else " "
    return [mark, str(row.get("step")), str(row.get("tool")), _verdict(row), str(row.get("outcome", "")), why]
