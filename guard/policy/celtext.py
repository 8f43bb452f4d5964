"""The text of a CEL expression, looked at without CEL: what it names, and how much work it can be.

| the expression                                 | what it may cost                                                       |
|------------------------------------------------|------------------------------------------------------------------------|
| mentions arguments n times                     | n times the characters and values of those it names                    |
| walks lists (`all`, `exists`, `map`, ...)      | that, for each of at most 10,000 steps (CEL's own bound on them)       |
| `matches`                                      | that 512 times over: a pattern with counted repetitions is that slow   |

More than `MOST_WORK` of it is not evaluated. CEL bounds the steps of an expression, not what a step costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

__all__ = ["MOST_WORK", "CelError", "Reading", "read_expression"]

MOST_WORK: Final = 1 << 22
"""Characters looked at. Four million are 5 to 150 ms, whatever is done with them."""
_STEPS: Final = 10_000
_REGEX: Final = 512
_SKIP: Final = re.compile(
    r"//[^\n]*"
    r"|[bB]?[rR][bB]?(?:\"\"\".*?\"\"\"|'''.*?'''|\"[^\"\n]*\"|'[^'\n]*')"
    r"|[bB]?(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')",
    re.DOTALL,
)
_WALKS: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")
_MENTIONS: Final = re.compile(r"\bargs\b")
_MATCHES: Final = re.compile(r"\bmatches\s*\(")
_WRITTEN: Final = re.compile(r"\.\s*matches\s*\(\s*(\"_*\")\s*\)")
_HAS: Final = re.compile(r"\bhas\s*\(\s*\.?\s*args\s*\.\s*\w+\s*\)")


class CelError(Exception):
    """The expression does not compile. `line`, `column`: where in it, from 1. `unknown`: the name it does not know, "" where that is not it."""

    def __init__(self, text: str, line: int = 1, column: int = 1, unknown: str = "") -> None:
        super().__init__(text)
        self.line, self.column, self.unknown = line, column, unknown


class Reading(NamedTuple):
    """`text`: as written. `bare`: the same, with a blank in place of each comment and `"___"` in place of each string.

    `walks`, `mentions`: how many there are. `written`: more values than the lists written out in it have.
    `patterns`: of `matches`, as written, quotes and all, with where they stand.
    """

    text: str
    bare: str
    walks: int
    mentions: int
    written: int
    patterns: tuple[tuple[str, int, int], ...]

    def names(self, words: Iterable[str]) -> bool:
        """Do all the words stand in it? A field that is asked for by `has` is not needed."""
        words = tuple(words)
        if re.search(rf"\bhas\s*\([^()]*\.\s*{re.escape(words[-1])}\s*\)", self.bare):
            return False
        return all(re.search(rf"\b{re.escape(word)}\b", self.text) for word in words)

    def too_large(self, arguments: Iterable[object]) -> bool:
        """More work than `MOST_WORK`, if these are the arguments it names."""
        most = MOST_WORK // (max(self.mentions, 1) * (_REGEX if self.patterns else 1))
        count = characters = 0
        stack = list(arguments)
        while stack:
            value = stack.pop()
            count += 1
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, Mapping):
                characters += sum(map(len, value))
                stack += value.values()
            elif isinstance(value, (list, tuple)):
                stack += value
            if count + characters > most:
                return True
        steps = min(_STEPS, (count + self.written) ** self.walks) if self.walks else 1
        return (count + characters) * steps > most


def read_expression(text: str) -> Reading:
    """Raises CelError for what CEL would take and that could not be relied on."""
    bare = _SKIP.sub(_blank, text)
    written = list(_WRITTEN.finditer(bare))
    patterns = tuple((text[found.start(1) : found.end(1)], *_place(text, found.start(1))) for found in written)
    for found in _MATCHES.finditer(bare):
        # Attack: a pattern out of an argument is the caller's program.
        if not any(one.start() < found.start() < one.end() for one in written):
            raise CelError(
                "`matches` takes a pattern that is written out, as in `args.x.matches('^[a-z]+$')`", *_place(text, found.start())
            )
    if (has := _HAS.search(bare)) is not None:  # CEL answers the argument's own value here, not whether it is there
        raise CelError("`has` asks for a field of an argument; an argument that a check names must be there", *_place(text, has.start()))
    walks = len(_WALKS.findall(bare))
    return Reading(text, bare, walks, len(_MENTIONS.findall(bare)), 1 + bare.count(",") + bare.count(":"), patterns)


def _blank(found: re.Match[str]) -> str:
    text = found[0]
    return " " * len(text) if text.startswith("//") else f'"{"_" * (len(text) - 2)}"'


def _place(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
