"""Reading what a user names: policies, case files, tokens, calls. Bounded, and a clear word where it cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from guard.cli.output import CannotAnswer, WrongUsage, flat, say, styled, width
from guard.errors import PolicyError, Problem
from guard.policy import Policy, check_layers
from guard.testing.suites import is_cases

__all__ = ["is_cases", "load_layers", "load_policy", "read_stdin", "read_text", "read_token", "show_problem"]

_MOST_TEXT = 8 << 20
_MOST_TOKEN = 64 << 10
_MARGIN = 100


def read_text(path: Path, what: str, *, most: int = _MOST_TEXT) -> str:
    """The text of a file the user named."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        why = "it is a directory" if isinstance(error, IsADirectoryError) else (error.strerror or type(error).__name__).lower()
        raise CannotAnswer(f"{what} {path} cannot be read: {why}") from None
    return _decode(raw, f"{what} {path}", most)


def read_stdin(what: str, *, most: int = _MOST_TEXT) -> str:
    stream = getattr(sys.stdin, "buffer", None)
    raw = stream.read(most + 1) if stream is not None else sys.stdin.read(most + 1).encode()
    return _decode(raw, f"{what} on standard input", most)


def _decode(raw: bytes, what: str, most: int) -> str:
    if len(raw) > most:
        raise CannotAnswer(f"{what} is larger than {most >> 10:,} KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CannotAnswer(f"{what} is not UTF-8 text") from None


def read_token(given: str) -> str:
    """A token as given: itself, `@file`, or `-` for standard input."""
    if given == "-":
        return read_stdin("the token", most=_MOST_TOKEN).strip()
    if given.startswith("@"):
        if given == "@":
            raise WrongUsage("`@` needs a file name: `--token @task.jwt`")
        return read_text(Path(given[1:]), "token file", most=_MOST_TOKEN).strip()
    return given.strip()


def load_policy(path: Path) -> Policy:
    """Read and lint one policy. Raises PolicyError, CannotAnswer."""
    return Policy.from_text(read_text(path, "policy"), file=str(path))


def load_layers(paths: Sequence[Path]) -> tuple[Policy, ...]:
    """Several policies as layers; every problem of all of them at once."""
    policies: list[Policy] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            policies.append(load_policy(path))
        except PolicyError as error:
            problems.extend(error.problems)
    if problems:
        raise PolicyError(problems)
    return check_layers(policies)


def show_problem(problem: Problem) -> None:
    """One finding of the linter: where, what, and where there is a suggestion the line with a mark under the word."""
    say(f"{problem.file}:{problem.line}:{problem.column}: ", styled(problem.level), f" [{problem.code}] {problem.text}")
    if problem.suggestion is None:
        return
    if not problem.excerpt:
        say(f"      | {problem.suggestion}")
        return
    excerpt, column = _window(flat(problem.excerpt), problem.column)
    marks = "^" * max(1, width(excerpt[column - 1 : column - 1 + problem.width]))
    say(f"{problem.line:5} | {excerpt}")
    say(f"      | {' ' * width(excerpt[: column - 1])}", (marks, "bold red"), f" {problem.suggestion}")


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a long line around `column`, and the column in it."""
    if len(line) <= 2 * _MARGIN:
        return line, column
    start = max(0, column - _MARGIN)
    return ("..." if start else "") + line[start : start + 2 * _MARGIN], column - start + (3 if start else 0)
