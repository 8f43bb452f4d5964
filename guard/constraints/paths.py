"""Paths of a file system in one spelling, or refused.

| refused                                  | the attack                                                    |
|------------------------------------------|---------------------------------------------------------------|
| `..` that no file system was asked about | `/data/../etc/passwd` below `/data` by its letters            |
| `%2e`, `%2f`, `%5c`, `%00`               | a step that a later layer decodes                             |
| backslash                                | a separator on one system, a letter on the other              |
| look-alike dots and slashes              | a step that a later layer normalises                          |
| NUL and other controls                   | a path that ends early                                        |
"""

from __future__ import annotations

import re
from collections.abc import Callable

from guard.constraints.text import is_line

__all__ = ["MAX_PATH", "is_below", "lexical", "resolved"]

MAX_PATH = 4096

_ENCODED = re.compile(r"%(2[eEfF]|5[cC]|00|25)", re.ASCII)
_LOOKALIKE = re.compile("[\u2024\u2025\u2026\u2044\u2215\u2216\u2571\u29f5\u29f8\u29f9\ufe52\ufe68\uff0e\uff0f\uff3c]")


def _plain(text: str) -> bool:
    return (
        0 < len(text) <= MAX_PATH
        and "\\" not in text
        and is_line(text)
        and _ENCODED.search(text) is None
        and (text.isascii() or _LOOKALIKE.search(text) is None)
    )


def lexical(text: str) -> str:
    """The normal form by letters alone: no `.`, no empty steps, no slash at the end. Raises ValueError for a step up."""
    if not _plain(text) or text.startswith("~"):
        raise ValueError
    steps = [step for step in text.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise ValueError
    return ("/" if text.startswith("/") else "") + "/".join(steps) or "."


def resolved(text: str, resolve: Callable[[str], str]) -> str:
    """The normal form by the machine's own word: steps up and symbolic links followed. Raises ValueError."""
    if not _plain(text) or text.startswith("~"):
        raise ValueError
    real = resolve(text)
    if type(real) is not str or not real.startswith("/"):
        raise ValueError
    return lexical(real)


def is_below(path: str, root: str) -> bool:
    """Whether the absolute, normal `path` is `root` or lies below it, step by step: `/data` is not above `/database`."""
    return path == root or path.startswith(root if root.endswith("/") else root + "/")
