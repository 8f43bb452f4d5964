"""`guardtrail test`: the policy's own tests, run through the real guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import read_text
from guard.cli.output import NO, YES, CannotAnswer, Json, answers, count, dump, note, pad, say, styled, width
from guard.testing.cases import CaseResult, run_case
from guard.testing.suites import Suite, beside, failure, is_cases, suites

__all__ = ["test"]

_NAME = 60
_GAP = 3


@answers
def test(
    policy: Annotated[Path, typer.Argument(help="The policy, or a `*.cases.yaml` that names it.", show_default=False)],
    cases: Annotated[
        list[Path] | None, typer.Option("--cases", help="Another case file. Repeatable.", metavar="FILE", show_default=False)
    ] = None,
    as_json: Json = False,
) -> int:
    """Run the tests of a policy: its `tests:` and those of `<name>.cases.yaml` beside it.

    Each test runs through a real guard with a local issuer, a frozen clock and state in memory; no tool runs.

    \b
    guardtrail test policy.yaml
    guardtrail test policy.yaml --cases more.cases.yaml

    \b
    --json: {"ok": bool, "passed": int, "failed": int, "tests": [{"name", "file", "where", "ok", "message",
             "steps": [{"text", "expected", "verdict", "code", "ok"}]}]}
    Exit 0: all pass; 1: one fails; 3: nothing was tested, or a file does not load.
    """
    suites = list(_suites(policy, cases or []))
    if not any(suite.cases for suite in suites):
        missing = "" if is_cases(policy) else f" and there is no {beside(policy).name} beside it" if not beside(policy).is_file() else ""
        raise CannotAnswer(f"nothing tested: {policy} has no `tests:`{missing}")
    results: list[tuple[Suite, CaseResult]] = []
    wide = min(_NAME, max(width(case.name) for suite in suites for case in suite.cases)) + _GAP
    for suite in suites:
        for case in suite.cases:
            result = run_case(suite.layers, case)
            results.append((suite, result))
            if not as_json:
                _show(result, wide)
    failed = sum(not result.ok for _, result in results)
    if as_json:
        dump({"ok": not failed, "passed": len(results) - failed, "failed": failed, "tests": [_dict(*each) for each in results]})
    else:
        say(f"{len(results) - failed} passed" + (f", {failed} failed" if failed else ""))
    return NO if failed else YES


def _suites(path: Path, more: Sequence[Path]) -> Iterator[Suite]:
    for suite in suites(path, more, read=read_text):
        if suite.note:
            note(suite.note)
        yield suite


def _show(result: CaseResult, wide: int) -> None:
    name = pad(result.name, wide - _GAP) + " " * _GAP  # also behind a name that is wider than the column
    if result.ok:
        calls = len(result.steps) - sum(step.text == "task.end" for step in result.steps)
        say("  ", styled("ok"), f"    {name}{count(calls, 'call')}")
        return
    head, line, why = failure(result)
    say("  ", styled("FAIL"), f"  {name}{head}")
    say(f"          {line}")
    say(f"          {why}")


def _dict(suite: Suite, result: CaseResult) -> dict[str, Any]:
    steps = [{"text": s.text, "expected": s.expected, "verdict": s.got.verdict, "code": str(s.got.code), "ok": s.ok} for s in result.steps]
    return {"name": result.name, "file": suite.file, "where": result.where, "ok": result.ok, "message": result.message, "steps": steps}
