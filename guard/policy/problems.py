"""Problems with their places. Everything wrong with a text is collected; nothing stops at the first error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from guard.errors import PolicyError, Problem
from guard.policy.supported import BUILT, PARTS

__all__ = ["Enough", "Mark", "Report", "one_of", "suggest"]

_MOST = 500  # errors listed; a hostile file must not make a report of megabytes, nor take minutes to be refused
_NAMES = 2000  # known names among which a near one is looked for
_EXCERPT = 400


class Mark(NamedTuple):
    """A place in the text: line and column count from 1; `width` characters belong to it."""

    line: int
    column: int
    width: int = 1


class Enough(Exception):
    """So many errors that reading on tells nobody anything. Caught where a text is loaded."""


class Report:
    """Collects the problems of one text. `parts`: the parts of the language it may use."""

    def __init__(self, text: str, file: str, parts: frozenset[str] = BUILT) -> None:
        self.file, self.parts = file, parts
        self.lines = [line.removesuffix("\r") for line in text.split("\n")]
        self._found: list[Problem] = []
        self._seen: set[tuple[int, int, str, str]] = set()
        self.errors = 0

    def error(self, code: str, at: Mark, text: str, suggestion: str | None = None) -> None:
        self._add("error", code, at, text, suggestion)
        self.errors += 1
        if self.errors >= _MOST:
            raise Enough

    def warn(self, code: str, at: Mark, text: str, suggestion: str | None = None) -> None:
        self._add("warning", code, at, text, suggestion)

    def lacks(self, part: str, at: Mark, name: str) -> bool:
        """Report `name` and be true where the part of the language it belongs to is not judged yet."""
        if part in self.parts:
            return False
        self.error("not-supported-yet", at, f"`{name}` is not supported yet: it comes with {PARTS[part].comes_with}")
        return True

    @property
    def failed(self) -> bool:
        return self.errors > 0

    def where(self, at: Mark) -> str:
        """`policy.yaml:12:31`, for findings and records: the file's name, not where it lies on this machine."""
        return f"{self.file.replace(chr(92), '/').rpartition('/')[2]}:{at.line}:{at.column}"

    def _add(self, level: str, code: str, at: Mark, text: str, suggestion: str | None) -> None:
        key = (at.line, at.column, code, text)
        if key in self._seen or len(self._found) >= 2 * _MOST:
            return
        self._seen.add(key)
        excerpt = self.lines[at.line - 1] if 0 < at.line <= len(self.lines) else ""
        shown = excerpt[:_EXCERPT].encode("utf-8", "replace").decode("utf-8")
        width = max(1, min(at.width, len(excerpt) - at.column + 1))
        self._found.append(Problem(self.file, at.line, at.column, level, f"lint.{code}", text, suggestion, shown, width))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Errors by place, then warnings by place."""
        return tuple(sorted(self._found, key=lambda p: (p.level != "error", p.line, p.column)))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.level == "warning")

    def check(self) -> None:
        """Raise PolicyError with everything found so far, if any of it is an error."""
        if self.failed:
            raise PolicyError(self.problems)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """``did you mean `amount`?`` where something known looks like `word`."""
    names = sorted(known)
    if len(word) > 100 or len(names) > _NAMES:
        return None
    folded = {name.casefold(): name for name in names}
    if word.casefold() in folded:
        return f"did you mean `{folded[word.casefold()]}`?"
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


def one_of(words: Iterable[str]) -> str:
    """``one of `a`, `b`, `c` ``, shortened where there are many."""
    names = list(words)
    listed = ", ".join(f"`{name}`" for name in names[:14])
    return f"one of {listed}" + (", ..." if len(names) > 14 else "")
