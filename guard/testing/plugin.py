"""The pytest plugin: each entry of a policy's `tests:` is one test item. Loaded only where `guardtrail_policies` names a file.

    [tool.pytest.ini_options]
    guardtrail_policies = ["policy.yaml"]

| pytest is called                        | policy items                                                              |
|-----------------------------------------|---------------------------------------------------------------------------|
| without paths                           | all                                                                       |
| with paths                              | those of named files, or under named folders                              |
| with `policy.yaml::the ordinary run`    | that one                                                                  |

A file that is not there, has nothing to test, or does not load is an error and never a run with fewer tests. The fixture `guardtrail` is in
`guard/testing/desk.py`; `_guardtrail_pytest.py` is what pytest sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import pytest

from guard.errors import GuardError, PolicyError
from guard.policy import Policy
from guard.policy.data import Case
from guard.testing.cases import CaseResult, run_case
from guard.testing.suites import beside, failure, is_cases, suites

__all__ = ["PolicyFile", "PolicyItem", "collected", "configure"]

_FILES = pytest.StashKey[frozenset[Path]]()


def configure(config: pytest.Config, named: Iterable[Path]) -> None:
    """Find the files, and add them to what is collected where the command line names nothing. Raises UsageError for one that is not there."""
    listed = list(_listed(named))
    files = dict.fromkeys(listed)
    files |= dict.fromkeys(near for path in listed if not is_cases(path) and (near := beside(path)).is_file())
    config.stash[_FILES] = frozenset(files)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        # `testpaths` seldom holds the policy. What is inside a folder that is walked anyway is found there.
        walked = [Path(os.path.abspath(config.invocation_params.dir / arg)) for arg in config.args]  # noqa: PTH100 - not resolved, as pytest
        config.args += [str(path) for path in files if not any(path.is_relative_to(folder) for folder in walked)]


def _listed(named: Iterable[Path]) -> Iterator[Path]:
    for path in named:
        found = sorted(glob(str(path), recursive=True)) if has_magic(str(path)) else [str(path)] if path.is_file() else []  # noqa: PTH207
        if not found:
            raise pytest.UsageError(f"guardtrail_policies: there is no file {path}")
        yield from (Path(os.path.abspath(each)) for each in found)  # noqa: PTH100


def collected(path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """The collector of one of our files."""
    return PolicyFile.from_parent(parent, path=path) if path in parent.config.stash.get(_FILES, ()) else None


class PolicyFile(pytest.File):
    """A policy, or a file of cases."""

    def collect(self) -> Iterator[PolicyItem]:
        shown = _shown(self.path, self.config)
        try:
            found = list(suites(shown, alone=True))
        except PolicyError as error:
            raise self.CollectError("\n".join(_lines(error))) from None
        except GuardError as error:
            raise self.CollectError(str(error)) from None
        if not any(suite.cases for suite in found) and not (not is_cases(self.path) and beside(self.path).is_file()):
            raise self.CollectError(f"nothing tested: {shown} has no `tests:`; write some, or take it out of guardtrail_policies")
        for suite in found:
            for case in suite.cases:
                yield PolicyItem.from_parent(self, name=case.name, layers=suite.layers, case=case)


def _shown(path: Path, config: pytest.Config) -> Path:
    """`path` as the terminal names files: from where pytest was called, if it can be said so."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def _lines(error: PolicyError) -> Iterator[str]:
    for problem in error.problems:
        yield str(problem)
        if problem.excerpt:
            yield f"    {problem.excerpt.strip()}"


class PolicyItem(pytest.Item):
    """One case."""

    def __init__(self, *, layers: tuple[Policy, ...], case: Case, **named: Any) -> None:
        super().__init__(**named)
        self._layers = layers
        self._case = case

    def runtest(self) -> None:
        result = run_case(self._layers, self._case)
        if not result.ok:
            raise CaseFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """As `guardtrail test` prints it."""
        if not isinstance(excinfo.value, CaseFailed):
            return super().repr_failure(excinfo, style)
        result = excinfo.value.result
        step, line, why = map(_printable, failure(result))
        return f"{result.where}: FAIL  {self.name}   {step}\n          {line}\n          {why}"

    def reportinfo(self) -> tuple[Path, int | None, str]:
        line = self._case.where.rsplit(":", 2)[-2:-1]
        return self.path, int(line[0]) - 1 if line and line[0].isdigit() else None, self.name


class CaseFailed(AssertionError):
    """A case did not come out as it says."""

    def __init__(self, result: CaseResult) -> None:
        super().__init__(result.message)
        self.result = result


def _printable(text: str) -> str:
    """Nothing from a trace moves a cursor or turns text around."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
