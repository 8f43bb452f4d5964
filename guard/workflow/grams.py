"""The words of a prompt: what a name or title in an argument is compared with, as the user said it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from guard.workflow.entities import CLOSING, OPENING

__all__ = ["grams", "without"]

_QUOTED = re.compile(r"\"([^\"\n]{1,256})\"|(?<!\w)'([^'\n]{1,256})'(?!\w)|“([^”\n]{1,256})”|‘([^’\n]{1,256})’|`([^`\n]{1,256})`")
_POSSESSIVE: Final = ("'s", "’s", "s'", "s’")


def grams(text: str, longest: int = 6, most: int = 2048) -> list[str]:
    """What is quoted in `text`, and its runs of up to `longest` words, shorter ones first; at most `most`.

    A run loses quotes and closing punctuation at its ends, and comes once more without a possessive `'s`.
    """
    found: dict[str, None] = {}
    for match in _QUOTED.finditer(text):
        found.setdefault(" ".join((match[1] or match[2] or match[3] or match[4] or match[5]).split()))
    words = [word for word in (match.group() for match in re.finditer(r"\S+", text)) if len(word) <= 256]
    for size in range(1, longest + 1):
        for at in range(len(words) - size + 1):
            for run in _run(words[at : at + size]):
                found.setdefault(run)
            if len(found) >= most:
                return list(found)[:most]
    return list(found)[:most]


def _run(words: list[str]) -> Iterator[str]:
    run = " ".join(words).lstrip(OPENING[:-1]).rstrip(CLOSING)
    if not run or not any(char.isalnum() for char in run):
        return
    yield run
    if run.startswith("#"):
        yield run.lstrip("#")
    for ending in _POSSESSIVE:
        if run.endswith(ending):
            yield run[: -len(ending)] if ending[0] in "'’" else run[:-1]


def without(text: str, quoted: str) -> str:
    """`text` without the parts that are `quoted`, so that nobody else's words count as the user's."""
    return text.replace(quoted, "\n") if quoted else text
