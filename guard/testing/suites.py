"""Which cases belong to a policy file, and under which layers each is run: for `guardtrail test` and for the pytest plugin.

| the file                | its cases                                  | run under                                                     |
|-------------------------|--------------------------------------------|---------------------------------------------------------------|
| `policy.yaml`           | its `tests:`                               | itself                                                        |
| `policy.cases.yaml`     | the file's, beside the policy or by itself | the policies it names beside it, else the one that is tested; |
|                         |                                            | over its own tools where it has some (`over:`)                |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.policy import Policy, cases_from_text, check_layers
from guard.policy.data import Case
from guard.testing.cases import CaseResult

__all__ = ["Suite", "beside", "failure", "is_cases", "read_file", "suites"]

_MOST = 8 << 20
_ENDS = (".cases.yaml", ".cases.yml")
Read = Callable[[Path, str], str]


@frozen
class Suite:
    """Cases of one file and the layers they are run under. `note`: what a reader should know of it, else empty."""

    file: str
    layers: tuple[Policy, ...]
    cases: tuple[Case, ...]
    note: str = ""


def is_cases(path: Path) -> bool:
    """Is this a file of cases, by its name?"""
    return path.name.endswith(_ENDS)


def beside(path: Path) -> Path:
    """Where the cases of a policy lie that are not in it: `policy.cases.yaml` beside `policy.yaml`."""
    return path.with_name(f"{path.stem}.cases{path.suffix or '.yaml'}")


def read_file(path: Path, what: str) -> str:
    """The text of `path`. Raises ConfigError; `what` names it there."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST + 1)
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {(error.strerror or type(error).__name__).lower()}") from None
    if len(raw) > _MOST:
        raise ConfigError(f"{what} {path} is larger than {_MOST >> 10:,} KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} is not UTF-8 text") from None


def suites(path: Path, more: Sequence[Path] = (), *, read: Read = read_file, alone: bool = False) -> Iterator[Suite]:
    """The suites of `path`, then those of the case files `more`. `alone`: without the case file beside it.

    Raises PolicyError with every problem where one does not load, ConfigError where they do not go together; `read` raises its own.
    """
    if is_cases(path):
        yield _of_cases(path, None, read)
    else:
        policy = _load(path, read)
        if policy.tests:
            yield Suite(policy.file, check_layers([policy]), policy.tests)
        if not alone and beside(path).is_file():
            more = [beside(path), *more]
    for each in more:
        yield _of_cases(each, path, read)


def _load(path: Path, read: Read) -> Policy:
    return Policy.from_text(read(path, "policy"), file=str(path))


def _of_cases(path: Path, tested: Path | None, read: Read) -> Suite:
    file = cases_from_text(read(path, "case file"), str(path))
    names = [path.with_name(name) for name in file.policies]
    if not names and tested is None:
        raise ConfigError(f"{path} names no policy: write `policy: NAME.yaml`, or give the policy and `--cases {path}`")
    note = ""
    if tested is not None and names and tested.resolve() not in [name.resolve() for name in names]:
        note = f"{path} tests {', '.join(file.policies)}, not {tested.name}"
    layers = [_load(name, read) for name in names or ([tested] if tested is not None else [])]
    return Suite(str(path), check_layers([*([file.over] if file.over is not None else []), *layers]), file.tests, note)


def failure(result: CaseResult) -> list[str]:
    """Why a case failed, as it is printed: which step, its line, what was expected and what came."""
    return [f"step {result.failed}", result.steps[-1].text, result.message]
