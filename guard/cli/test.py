"""`guardtrail test`: the policy's own tests, run through the real guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import is_cases, load_policy, read_text
from guard.cli.output import NO, YES, CannotAnswer, Json, answers, count, dump, note, pad, say, styled, width
from guard.policy import Policy, cases_from_text, check_layers
from guard.policy.data import Case
from guard.testing.cases import CaseResult, run_case

__all__ = ["test"]

_NAME = 60
_GAP = 3


@dataclass(frozen=True, slots=True)
class _Suite:
    """Cases of one file and the layers they are run under."""

    file: str
    layers: tuple[Policy, ...]
    cases: tuple[Case, ...]


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
        beside = "" if is_cases(policy) else f" and there is no {_beside(policy).name} beside it" if not _beside(policy).is_file() else ""
        raise CannotAnswer(f"nothing tested: {policy} has no `tests:`{beside}")
    results: list[tuple[_Suite, CaseResult]] = []
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


def _suites(path: Path, more: Sequence[Path]) -> Iterator[_Suite]:
    if is_cases(path):
        yield _case_file(path, None)
    else:
        policy = load_policy(path)
        if policy.tests:
            yield _Suite(policy.file, check_layers([policy]), policy.tests)
        more = [*([_beside(path)] if _beside(path).is_file() else []), *more]
    for each in more:
        yield _case_file(each, path)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.cases{path.suffix or '.yaml'}")


def _case_file(path: Path, tested: Path | None) -> _Suite:
    """Its cases under the policies it names beside it, else under the one that is tested; over its own tools where it has some."""
    file = cases_from_text(read_text(path, "case file"), str(path))
    names = [path.with_name(name) for name in file.policies]
    if not names and tested is None:
        raise CannotAnswer(f"{path} names no policy: write `policy: NAME.yaml`, or give the policy and `--cases {path}`")
    if tested is not None and names and tested.resolve() not in [name.resolve() for name in names]:
        note(f"{path} tests {', '.join(file.policies)}, not {tested.name}")
    layers = [load_policy(name) for name in names or ([tested] if tested is not None else [])]
    return _Suite(str(path), check_layers([*([file.over] if file.over is not None else []), *layers]), file.tests)


def _show(result: CaseResult, wide: int) -> None:
    name = pad(result.name, wide - _GAP) + " " * _GAP  # also behind a name that is wider than the column
    if result.ok:
        calls = len(result.steps) - sum(step.text == "task.end" for step in result.steps)
        say("  ", styled("ok"), f"    {name}{count(calls, 'call')}")
        return
    step = result.steps[-1]
    say("  ", styled("FAIL"), f"  {name}step {result.failed}")
    say(f"          {step.text}")
    say(f"          {result.message}")


def _dict(suite: _Suite, result: CaseResult) -> dict[str, Any]:
    steps = [{"text": s.text, "expected": s.expected, "verdict": s.got.verdict, "code": str(s.got.code), "ok": s.ok} for s in result.steps]
    return {"name": result.name, "file": suite.file, "where": result.where, "ok": result.ok, "message": result.message, "steps": steps}
