"""Lines of a file as JSON values, in bounded memory. A broken, cut or overlong line is counted and passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from guard.sources.seen import Found

__all__ = ["DOCUMENT_MAX", "LINE_MAX", "Lines", "value_of"]

LINE_MAX = 1 << 26
"""No longer line is read: a batch of spans with content is long, more than this is not a line."""
DOCUMENT_MAX = 1 << 28
_TELL = 1 << 20


def value_of(line: bytes) -> Any:
    """`json.loads(line)`, in half the time: what the faster parser refuses (lone surrogates, other encodings, deep nesting) is asked again.

    Raises ValueError, RecursionError as `json.loads` does.
    """
    try:
        return from_json(line, cache_strings="keys")
    except ValueError:
        return json.loads(line)


class Lines:
    """The JSON values of one file and the number of each line. `told`: called with the bytes read since the last time."""

    def __init__(self, path: Path, found: Found, told: Callable[[int], None]) -> None:
        self.path, self.name = path, str(path)
        self._found, self._told = found, told

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = pending = 0
        with self.path.open("rb") as file:
            while line := file.readline(LINE_MAX):
                number += 1
                pending += len(line)
                if pending >= _TELL:
                    self._told(pending)
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
        self._told(pending)

    def broken(self) -> None:
        self._found.broken[self.name] += 1

    @staticmethod
    def _rest(file: Any) -> None:
        while (more := file.readline(LINE_MAX)) and not more.endswith(b"\n"):
            pass

    def first(self) -> Any:
        """The first line that is a JSON object or list; None where there is none among the first few, or the file is one document."""
        with self.path.open("rb") as file:
            for _ in range(100):
                line = file.readline(LINE_MAX)
                if not line:
                    return None
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict | list) and value:
                    return value
        return None

    def document(self) -> Any:
        """The whole file as one JSON value; None where it is none, or too large to be read at once."""
        with self.path.open("rb") as file:
            raw = file.read(DOCUMENT_MAX + 1)
        self._told(len(raw))
        if len(raw) > DOCUMENT_MAX:
            return None
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return None
