"""JSON values that go over several lines: read one after the other, a long list item by item, never a file as a whole.

| at the top                     | gives                                                         |
|--------------------------------|---------------------------------------------------------------|
| a list                         | its items                                                     |
| `spans: [...]`                 | its items                                                     |
| `resourceSpans: [...]`         | each span, as a request of its own that holds nothing else    |
| another object, or what is no container | itself, but for lists under the names of this table  |

What is broken is counted; reading goes on with the next line.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Generator, Iterator
from typing import IO, Any, Final

from guard.sources.lines import LINE_MAX, Lines

__all__ = ["values_of"]

_CHUNK: Final = 1 << 20
_WORD: Final = 16
"""Where a value is cut the parser stops so near to the end, or in a text."""
_BLANK: Final = " \t\r\n"
_INTO: Final = {
    "spans": "spans",
    "resourceSpans": "resources", "resource_spans": "resources",
    "scopeSpans": "scopes", "scope_spans": "scopes", "instrumentationLibrarySpans": "scopes",
}  # fmt: skip
_WITHIN: Final = {"": ("spans", "resources"), "resources": ("scopes",), "scopes": ("spans",)}
"""Where one may stand in another."""


def values_of(lines: Lines) -> Generator[tuple[int, Any], None, None]:
    """The values of a file, as if each stood in a first line of its own. Raises OSError."""
    lines.halve()
    with lines.path.open("rb") as file:
        text = _Text(file, lines)
        while text.peek():
            try:
                for value in _top(text):
                    yield 1, value
            except (ValueError, RecursionError):
                lines.broken()
                text.skip_line()


def _top(text: _Text) -> Iterator[Any]:
    match text.peek():
        case "[":
            yield from _items(text)
        case "{":
            yield from _object(text, "")
        case _:
            yield text.value()


def _items(text: _Text) -> Iterator[Any]:
    """The items of a list."""
    text.take("[")
    if text.took("]"):
        return
    while True:
        yield text.value()
        if text.took("]"):
            return
        text.take(",")


def _object(text: _Text, kind: str) -> Iterator[Any]:
    """What an object holds in its long lists, and what else it holds."""
    text.take("{")
    rest: dict[str, Any] = {}
    into = False
    more = not text.took("}")
    while more:
        name = text.value()
        if not isinstance(name, str):
            raise ValueError("name")
        text.take(":")
        inner = _INTO.get(name, "")
        if inner in _WITHIN[kind] and text.peek() == "[":
            into = True
            yield from _items(text) if inner == "spans" else _nested(text, inner)
        else:
            rest[name] = text.value()
        more = not text.took("}")
        if more:
            text.take(",")
    if not (into or kind):
        yield rest


def _nested(text: _Text, kind: str) -> Iterator[Any]:
    """The spans of a list of resources, or of scopes."""
    text.take("[")
    if text.took("]"):
        return
    while True:
        if text.peek() == "{":
            found = _object(text, kind)
            if kind == "scopes":
                found = ({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]} for span in found)
            yield from found
        else:
            text.value()
        if text.took("]"):
            return
        text.take(",")


class _Text:
    """The characters of a file, some of them held. What was read is told as it is taken in."""

    def __init__(self, file: IO[bytes], lines: Lines) -> None:
        self._file, self._lines = file, lines
        head = file.read(4)
        file.seek(0)
        # `json.loads` takes these encodings, and what is no Unicode.
        self._decode = getincrementaldecoder(json.detect_encoding(head))("surrogatepass").decode
        self._scan = json.JSONDecoder().raw_decode
        self._held, self._at, self._end = "", 0, False

    def _more(self, size: int = 0) -> bool:
        if self._end:
            return False
        raw = self._file.read(size or _CHUNK)
        self._end = not raw
        self._lines.told(len(raw))
        try:
            self._held = self._held[self._at :] + self._decode(raw, self._end)
        except UnicodeDecodeError:
            raise OSError(0, "it is no Unicode text") from None
        self._at = 0
        return True

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            held = self._held
            while self._at < len(held):
                if held[self._at] not in _BLANK:
                    return held[self._at]
                self._at += 1
            if not self._more():
                return ""

    def took(self, wanted: str) -> bool:
        """Whether that is the next one; then it is passed."""
        if self.peek() != wanted:
            return False
        self._at += 1
        return True

    def take(self, wanted: str) -> None:
        if not self.took(wanted):
            raise ValueError(f"no {wanted}")

    def value(self) -> Any:
        """The next value. Raises ValueError, RecursionError where there is none, or it is longer than a line may be."""
        if not self.peek():
            raise ValueError("the file ends")
        while True:
            held, left = self._held, len(self._held) - self._at
            try:
                found, end = self._scan(held, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(held) - _WORD or error.msg.startswith("Unterminated")
                if not cut or left >= LINE_MAX or not self._more(min(max(_CHUNK, left), LINE_MAX)):
                    raise
                continue
            if isinstance(found, int | float) and len(held) - end < 3 and self._more():  # it may go on: `1` of `1e+5`
                continue
            self._at = end
            return found

    def skip_line(self) -> None:
        while (end := self._held.find("\n", self._at)) < 0:
            self._at = len(self._held)
            if not self._more():
                return
        self._at = end + 1
