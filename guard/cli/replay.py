"""`guardtrail replay`: what would these policies have said of runs that are over? Traces and audit logs in, violations out."""

from __future__ import annotations

import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import load_layers
from guard.cli.output import NO, YES, CannotAnswer, answers, count, note, say, table, terminal
from guard.replay import WITHOUT, Judged, Replay, Summary, fed
from guard.sources import Found, Seen, read

__all__ = ["replay"]

_SHOWN = 1000
_KEPT = 200_000


@answers
def replay(
    paths: Annotated[list[Path], typer.Argument(help="Audit logs, traces, or directories of them.", metavar="PATHS", show_default=False)],
    policy: Annotated[
        list[Path], typer.Option("--policy", "-p", help="The policy; several are layers.", metavar="FILE", show_default=False)
    ],
    was: Annotated[
        list[Path] | None,
        typer.Option(
            "--was", help="A policy loaded before, for what was recorded under it; as often as needed.", metavar="FILE", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one line a call.")] = False,
) -> int:
    """Judge recorded runs again, under these policies. Nothing runs, nothing is changed.

    Read are our own audit logs, OTLP as JSON lines (also of others: GenAI and OpenInference tool spans), spans as objects, and the test
    corpora; each file by its first record. Calls that ran count as having run, also where they would have been refused. Rules that look over
    a tenant need all its audit files, given in any order; what is not there is counted in the last line.

    \b
    guardtrail replay .guardtrail --policy policy.yaml
    guardtrail replay traces/*.jsonl --policy policy.yaml --policy more-rules.yaml
    guardtrail replay .guardtrail --policy policy.yaml --was policy-of-last-week.yaml

    \b
    --json, a line per call: {"task", "step", "tool", "verdict": "allow" | "deny" | "ask" | "", "code", "rule",
                              "witnesses": [{"task", "step"} | id], "not_judged": [what was left out]}
    Exit 0: no violation; 1: violations; 3: nothing that can be read, or a policy that does not load.
    """
    layers = load_layers(policy)
    found = Found()
    run = Replay(layers, [load_layers([each]) for each in was or ()])
    shown = _Shown()
    with _progress() as told:
        for seen in read(paths, progress=told, found=found):
            shown.saw(seen)
            for judged in fed(run, seen):
                shown.take(judged, as_json=as_json)
        for judged in run.close():
            shown.take(judged, as_json=as_json)
    _notes(found)
    if run.summary.calls == 0:
        files = list(found.unreadable)
        why = f": {files[0]}: {found.unreadable[files[0]]}" if files else ": there is no call in it"
        raise CannotAnswer(f"nothing to replay{why}")
    if not as_json:
        shown.table()
        _last(run.summary)
    return NO if run.summary.violations else YES


class _Shown:
    """The violations as rows, and where their witnesses stood."""

    def __init__(self) -> None:
        self._rows: list[list[str]] = []
        self._more = 0
        self._steps: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def saw(self, seen: Seen) -> None:
        if seen.kind == "call":
            self._steps[seen.id] = seen.task[2], seen.step
            if len(self._steps) > _KEPT:
                self._steps.popitem(last=False)

    def take(self, judged: Judged, *, as_json: bool) -> None:
        if as_json:
            _line(self._dict(judged))
        elif judged.verdict in ("deny", "ask"):
            if len(self._rows) < _SHOWN:
                self._rows.append(self._row(judged))
            else:
                self._more += 1

    def _row(self, judged: Judged) -> list[str]:
        seen = judged.seen
        first = f"agent {seen.actors[-1]}" if seen.actors else ""
        witnesses = ", ".join(self._place(by, seen) for by in judged.witnesses[:5])
        step = str(seen.step) if seen.step else "end"
        return [_short(seen.task[2]), step, seen.tool, judged.verdict, judged.rule or judged.code, witnesses, first]

    def _place(self, by: str, seen: Seen) -> str:
        place = self._steps.get(by)
        if place is None:
            return by
        return f"step {place[1]}" if place[0] == seen.task[2] else f"step {place[1]} of {_short(place[0])}"

    def _dict(self, judged: Judged) -> dict[str, Any]:
        seen = judged.seen
        witnesses = [{"task": place[0], "step": place[1]} if (place := self._steps.get(by)) else by for by in judged.witnesses]
        return {
            "task": seen.task[2],
            "step": seen.step,
            "tool": seen.tool,
            "verdict": judged.verdict,
            "code": judged.code,
            "rule": judged.rule,
            "witnesses": witnesses,
            "not_judged": list(judged.not_judged),
        }

    def table(self) -> None:
        if self._rows:
            table(["task", "step", "tool", "would be", "rule", "witnesses", "first seen"], self._rows)
        if self._more:
            say(f"  and {self._more:,} more")


def _short(task: str) -> str:
    """Long ids are hex: their beginning is enough to find them."""
    return task[:8] if len(task) == 32 and all(c in "0123456789abcdef" for c in task) else task[:40]


def _line(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def _last(summary: Summary) -> None:
    """`1,204 tasks, 41,200 calls: 2 tasks with violations. Not judged: 37 calls without arguments (traces/old.jsonl, no content captured)`"""
    violating = len(summary.violating)
    said = (
        f"{count(violating, 'task')} with violations"
        if violating
        else "no violations"
        if not summary.violations
        else "violations outside tasks"
    )
    say(f"{count(summary.tasks, 'task')}, {count(summary.calls, 'call')}: {said}." + _not_judged(summary) + _assumed(summary))


def _not_judged(summary: Summary) -> str:
    """What was left out, by what and where; the files of one reason together."""
    by: OrderedDict[str, Counter[str]] = OrderedDict()
    for (name, file), calls in summary.not_judged.items():
        by.setdefault(name, Counter())[file] += calls
    parts: list[str] = []
    for name, files in by.items():
        total = sum(files.values())
        listed = ", ".join(list(files)[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        if name == WITHOUT:
            parts.insert(0, f"{count(total, 'call')} without arguments ({listed}, no content captured)")
        else:
            parts.append(f"{name} of {count(total, 'call')} ({listed})")
    if len(parts) > 12:
        parts = [*parts[:12], f"{len(parts) - 12} more (`--json` lists them)"]
    return f" Not judged: {'; '.join(parts)}" if parts else ""


def _assumed(summary: Summary) -> str:
    """Why rules that look over a tenant may have been judged in another order than then, or without all that was before."""
    parts = [f"{count(summary.missing, 'commit')} not in these files"] if summary.missing else []
    parts += [f"{count(summary.late, 'record')} read long after its turn"] if summary.late == 1 else []
    parts += [f"{count(summary.late, 'record')} read long after their turn"] if summary.late > 1 else []
    parts += [f"{count(summary.unnumbered, 'call')} without a number"] if summary.unnumbered else []
    return f" Order over the tenant assumed: {'; '.join(parts)}." if parts else ""


def _notes(found: Found) -> None:
    for file, lines in found.broken.items():
        note(f"note: {file}: {count(lines, 'line')} could not be read and {'is' if lines == 1 else 'are'} left out")
    for file, why in found.unreadable.items():
        note(f"note: {file}: {why}")


def _progress() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar on standard error, where that is a terminal."""
    return _Bar() if terminal(sys.stderr) else nullcontext(None)


class _Bar(AbstractContextManager[Callable[[int, int], None]]):
    def __enter__(self) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(TextColumn("replay"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._bar.start()
        task = self._bar.add_task("replay", total=None)
        return lambda done, total: self._bar.update(task, completed=done, total=max(total, done))

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
