"""One bounded copy of a result, as plain data. What changes afterwards was not observed, and what cannot be copied is said to be so.

| the result                                     | becomes                                                            |
|------------------------------------------------|--------------------------------------------------------------------|
| dict, list, tuple, set, named tuple, dataclass | dicts and lists                                                    |
| pydantic model                                 | `model_dump(mode="json")`                                          |
| MCP result                                     | its structured content, else the texts of its content              |
| bytes that are UTF-8                           | text; other bytes are `binary`                                     |
| date, Decimal, Enum, UUID, path                | text or number                                                     |
| one that contains itself                       | cut there, `cyclic`                                                |
| too many, too deep, too long                   | cut there, not complete                                            |
| anything else, or one that raises              | nothing, `failed`                                                  |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import UUID

__all__ = ["MAX_CHARS", "MAX_DEPTH", "MAX_LEAVES", "Snapshot", "snapshot"]

MAX_DEPTH: Final = 32
MAX_LEAVES: Final = 5_000
MAX_NODES: Final = 20_000
MAX_CHARS: Final = 1 << 20
_TRIES: Final = 3
_MCP: Final = frozenset({"content", "structuredContent", "structured_content", "isError", "is_error", "_meta", "meta"})


class Snapshot(NamedTuple):
    """`data`: plain data. `complete`: nothing was cut off. `problem`: why its shape does not hold. `failed`: it could not be observed."""

    data: object
    complete: bool = True
    problem: str | None = None
    failed: bool = False


class _Opaque(Exception):
    """Nobody knows how to look into this."""


_CUT: Final = object()


def snapshot(value: object) -> Snapshot:
    """Never raises."""
    copier = _Copier()
    try:
        data = copier.copy(value, 0)
    except Exception:  # whatever its own methods do
        return Snapshot(None, False, "failed", True)
    return Snapshot(None if data is _CUT else data, copier.complete, copier.problem)


class _Copier:
    """What is left of the bounds, and what was met on the way."""

    def __init__(self) -> None:
        self.leaves, self.nodes, self.chars = MAX_LEAVES, MAX_NODES, MAX_CHARS
        self.complete = True
        self.problem: str | None = None
        self._above: set[int] = set()

    def copy(self, value: object, depth: int) -> object:
        self.nodes -= 1
        if self.nodes < 0 or depth > MAX_DEPTH:
            return self._cut()
        plain = self._leaf(value)
        if plain is not _CUT:
            self.leaves -= 1
            return plain if self.leaves >= 0 else self._cut()
        if id(value) in self._above:
            self.problem = "cyclic"
            return _CUT
        self._above.add(id(value))
        try:
            return self._inside(value, depth)
        finally:
            self._above.discard(id(value))

    def _cut(self) -> object:
        self.complete = False
        return _CUT

    def _leaf(self, value: object) -> object:
        """A scalar as plain data, `_CUT` where it is none."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self._leaf(value.value)
        if isinstance(value, str):
            return self._text(value if type(value) is str else str.__str__(value))
        if isinstance(value, (int, float, Decimal)):
            return self._number(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bytes(value)
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, (UUID, timedelta)):
            return str(value)
        if hasattr(type(value), "__fspath__"):
            return self._leaf(value.__fspath__())  # type: ignore[attr-defined]
        return _CUT

    def _text(self, text: str) -> str:
        if len(text) > self.chars:
            self.complete = False
            text = text[: max(self.chars, 0)]
        self.chars -= len(text)
        return text

    def _number(self, value: float | Decimal) -> object:
        if isinstance(value, int):
            return int.__index__(value) if value.bit_length() <= 256 else None
        return value if isinstance(value, Decimal) else float(value)

    def _bytes(self, value: bytes | bytearray | memoryview) -> object:
        if len(value) > self.chars:
            self.complete = False
        raw = bytes(value[: max(self.chars, 0)])
        try:
            return self._text(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            if error.start >= len(raw) - 3 and len(raw) < len(value):  # cut within a character
                return self._text(raw[: error.start].decode("utf-8"))
            self.problem = self.problem or "binary"
            return None

    def _inside(self, value: Any, depth: int) -> object:
        fields = getattr(type(value), "model_fields", None)
        if isinstance(fields, Mapping) and hasattr(type(value), "model_dump"):
            return self._model(value, fields, depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        names = getattr(type(value), "_fields", None)
        if isinstance(value, tuple) and isinstance(names, tuple):
            return self._pairs(list(zip(names, value, strict=True)), depth)
        if isinstance(value, (list, tuple)):
            return self._items(_stable(lambda: value, self.nodes + 1), depth)
        if isinstance(value, (set, frozenset)):
            items = self._items(_stable(lambda: value, self.nodes + 1), depth)
            return sorted(items, key=repr)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._pairs([(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)], depth)
        raise _Opaque

    def _model(self, value: Any, fields: Mapping[Any, object], depth: int) -> object:
        if "content" in fields and ("structuredContent" in fields or "structured_content" in fields):
            structured = getattr(value, "structuredContent" if "structuredContent" in fields else "structured_content")
            return self._mcp(structured, value.content, depth)
        return self.copy(value.model_dump(mode="json"), depth)

    def _mcp(self, structured: object, content: object, depth: int) -> object:
        if structured is not None:
            return self.copy(structured, depth + 1)
        blocks = _stable(lambda: content, self.nodes + 1) if isinstance(content, (list, tuple)) else []
        texts = [block.get("text") if isinstance(block, Mapping) else getattr(block, "text", None) for block in blocks]
        plain = [text for text in texts if isinstance(text, str)]
        return self.copy(plain[0] if len(plain) == 1 else plain, depth + 1)

    def _mapping(self, value: Mapping[Any, object], depth: int) -> object:
        pairs = _stable(value.items, self.nodes + 1)
        names = {key for key, _ in pairs if isinstance(key, str)}
        if "content" in names and names & {"structuredContent", "structured_content"} and names <= _MCP:
            found = dict(pairs)
            return self._mcp(found.get("structuredContent", found.get("structured_content")), found["content"], depth)
        return self._pairs(pairs, depth)

    def _pairs(self, pairs: list[tuple[Any, Any]], depth: int) -> object:
        made: dict[str, object] = {}
        for key, inner in pairs:
            name = self._key(key)
            copied = self.copy(inner, depth + 1)
            if name in made:
                self.problem = self.problem or "duplicate key"
            elif copied is not _CUT:
                made[name] = copied
            if self.nodes < 0 or self.leaves < 0:
                self.complete = False
                break
        return made

    def _key(self, key: object) -> str:
        plain = self._leaf(key)
        if plain is _CUT:
            raise _Opaque
        return plain if isinstance(plain, str) else repr(plain)

    def _items(self, items: list[Any], depth: int) -> list[object]:
        made: list[object] = []
        for inner in items:
            copied = self.copy(inner, depth + 1)
            if copied is not _CUT:
                made.append(copied)
            if self.nodes < 0 or self.leaves < 0:
                self.complete = False
                break
        return made


def _stable(items: Callable[[], Any], most: int) -> list[Any]:
    """A copy of the first `most` items. Somebody may be changing them: then once more, and at last not at all."""
    for attempt in range(_TRIES):
        try:
            return list(islice(iter(items()), max(most, 0)))
        except RuntimeError:
            if attempt == _TRIES - 1:
                raise
    return []
