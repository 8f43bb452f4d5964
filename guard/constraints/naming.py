"""`mentions: [.env, "*.pem", .ssh]`: one of the names in a text, a path or a command is one of these.

For rules that deny or ask: what it finds it finds, and a program may reach a file without naming it. So it is never the only
protection: the intent says which programs and paths there are. A text is parted where no file name of these goes on, after what a
shell takes away (quotes, backslashes). Names compare without regard to case: some file systems do too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["naming"]

_QUOTES: Final = re.compile(r"[\"'\\]")
_APART: Final = re.compile(r"[^\w.+-]+")
_NAME: Final = r"[\w.+-]*"


def naming(names: Sequence[str]) -> Callable[[object], bool]:
    """`*` in a name stands for any letters of one name, also none."""
    patterns = "|".join(_NAME.join(map(re.escape, _fold(name).split("*"))) for name in names)
    match = re.compile(patterns).fullmatch

    def mentioned(value: object) -> bool:
        return isinstance(value, str) and any(match(part) is not None for part in _APART.split(_fold(_QUOTES.sub("", value))) if part)

    return mentioned


def _fold(text: str) -> str:
    """Attack: `.ＥＮＶ`, `.Env`: letters that some file system or shell takes for the same."""
    return unicodedata.normalize("NFKC", text).casefold()
