"""`guardtrail lint`: everything wrong with a policy, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from guard.cli.files import is_cases, load_layers, load_policy, read_text, show_problem
from guard.cli.output import NO, YES, Json, answers, count, dump, say, styled
from guard.errors import PolicyError, Problem
from guard.policy import CasesFile, Policy, cases_from_text

__all__ = ["lint"]


@answers
def lint(
    policies: Annotated[list[Path], typer.Argument(help="Policy files, or `*.cases.yaml`.", metavar="POLICY...", show_default=False)],
    layers: Annotated[bool, typer.Option("--layers", help="Judge the files together, as layers of one guard.")] = False,
    as_json: Json = False,
) -> int:
    """Say everything that is wrong with a policy: file, line, column, what to write instead.

    Each file is read alone; `--layers` also checks that they fit together as `Guard([...])` would load them.

    \b
    guardtrail lint policy.yaml
    guardtrail lint --layers policy.yaml company-rules.yaml

    \b
    --json: {"ok": bool, "problems": [{"file", "line", "column", "level": "error" | "warning",
             "code", "text", "suggestion", "excerpt", "width"}]}
    Exit 0: no errors (warnings may be); 1: errors; 3: a file cannot be read.
    """
    problems: list[Problem] = []
    sound: list[Policy | CasesFile] = []
    failed = 0
    for path in policies:
        try:
            sound.append(_read(path))
            problems += getattr(sound[-1], "warnings", ())
        except PolicyError as error:
            problems += error.problems
            failed += 1
    if layers and not failed:
        try:
            load_layers([path for path in policies if not is_cases(path)])
        except PolicyError as error:
            problems += error.problems
            failed += 1
    if as_json:
        dump({"ok": not failed, "problems": [asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            show_problem(problem)
        _summary(problems, sound, failed, len(policies))
    return NO if failed else YES


def _read(path: Path) -> Policy | CasesFile:
    return cases_from_text(read_text(path, "case file"), str(path)) if is_cases(path) else load_policy(path)


def _summary(problems: Sequence[Problem], sound: Sequence[Policy | CasesFile], failed: int, files: int) -> None:
    errors = sum(problem.level == "error" for problem in problems)
    warnings = len(problems) - errors
    counts = ", ".join(count(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number)
    if failed:
        what = (
            "the policy is not loaded while it has errors"
            if files == 1
            else f"{failed} of {files} files do not load while they have errors"
        )
        say(f"{counts}; {what}")
        return
    for one in sound:
        if isinstance(one, CasesFile):
            say(styled("ok"), f"  {count(len(one.tests), 'test')}")
        else:
            say(styled("ok"), f"  {one.file}: {_contents(one)}")
    if counts:
        say(counts)


def _contents(policy: Policy) -> str:
    parts = ((policy.tools, "tool"), (policy.intents, "intent"), (policy.rules, "rule"), (policy.tests, "test"))
    return f"policy {policy.name}: " + ", ".join(count(len(part), word) for part, word in parts)
