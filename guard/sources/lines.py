"""Lines of a file as JSON values, in bounded memory. A broken, cut or overlong line is counted and passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from guard.sources.seen import Found

__all__ = ["LINE_MAX", "Lines", "value_of"]

LINE_MAX = 1 << 26
"""No longer line is read: a batch of spans with content is long, more than this is not a line."""
_FIRST = 1 << 23
"""A first line that is longer is read item by item (`documents.py`)."""
_TELL = 1 << 20


def value_of(line: bytes | str) -> Any:
    """`json.loads(line)`, in half the time: what the faster parser refuses (lone surrogates, other encodings, deep nesting) is asked again.

    Raises ValueError, RecursionError as `json.loads` does.
    """
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line)


class Lines:
    """The JSON values of one file and the number of each line. `told`: called with the bytes that are done since the last time."""

    def __init__(self, path: Path, found: Found, told: Callable[[int], None]) -> None:
        self.path, self.name = path, str(path)
        self._found, self._tell = found, told
        self.last = False
        """Nothing is read after this file that could go on with what it holds."""
        self._halved = False
        self._owed = self._paid = 0

    def halve(self) -> None:
        """Reading is half the work: of what is read from now on, the other half is told as it is given (`given`)."""
        self._halved = True

    def given(self, part: int, whole: int) -> None:
        """So much of what was read has gone on to whoever asked for it."""
        due = self._owed * part // whole
        self._tell(due - self._paid)
        self._paid = due

    def told(self, more: int) -> None:
        """So many bytes more were read."""
        owed = more // 2 if self._halved else 0
        self._owed += owed
        self._tell(more - owed)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = pending = 0
        with self.path.open("rb") as file:
            while line := file.readline(LINE_MAX):
                number += 1
                pending += len(line)
                if pending >= _TELL:
                    self.told(pending)
                    pending = 0
                if not line.endswith(b"\n") and len(line) >= LINE_MAX:
                    self._rest(file)
                    self.broken()
                    continue
                if line.isspace():
                    continue
                try:
                    yield number, value_of(line)
                except (ValueError, RecursionError):
                    self.broken()
        self.told(pending)

    def broken(self) -> None:
        self._found.broken[self.name] += 1

    @staticmethod
    def _rest(file: Any) -> None:
        while (more := file.readline(LINE_MAX)) and not more.endswith(b"\n"):
            pass

    def first(self) -> Any:
        """The first line that is a JSON object or list; None where there is none among the first few, or a value goes over several lines."""
        with self.path.open("rb") as file:
            for _ in range(100):
                line = file.readline(_FIRST)
                if not line or (len(line) >= _FIRST and not line.endswith(b"\n")):
                    return None
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    if line.lstrip().startswith(b"["):  # its items may stand in lines of their own, each of which is JSON
                        return None
                    continue
                if isinstance(value, dict | list) and value:
                    return value
        return None
