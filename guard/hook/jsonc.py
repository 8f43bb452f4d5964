"""JSON with comments, edited as text: what is not touched stays byte for byte, comments and trailing commas too. Pure.

    root = scan(text); text = insert(text, root, '"a": 1', unit="  "); text = remove(text, root, 0)

Each edit is one; scan again after it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Item", "Node", "NotJson", "insert", "remove", "scan", "unit_of"]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null', re.DOTALL)
_DEEPEST: Final = 60


class NotJson(ValueError):
    """It does not parse, or a member stands twice: nobody knows which one counts."""


@dataclass(slots=True)
class Item:
    """One member or element: where it begins (a member: its key), its value, where the comma after it stands (-1: none)."""

    start: int
    key: str
    value: Node
    comma: int = -1


@dataclass(slots=True)
class Node:
    """A value from `start` to before `end`. `items`: of an object or a list, in order. `data`: what it is."""

    kind: str
    start: int
    end: int
    data: Any
    depth: int
    items: list[Item] = field(default_factory=list)

    def member(self, key: str) -> Node | None:
        return next((item.value for item in self.items if item.key == key), None) if self.kind == "{" else None


def scan(text: str) -> Node:
    """Raises NotJson."""
    node = _value(text, _skip(text, 0), 0)
    if _skip(text, node.end) != len(text):
        raise NotJson("something stands after its end")
    return node


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> Node:
    if depth > _DEEPEST:
        raise NotJson("it is too deep")
    if text[at : at + 1] in ("{", "["):
        return _container(text, at, depth)
    found = _SCALAR.match(text, at)
    if found is None:
        raise NotJson(f"line {text.count(chr(10), 0, at) + 1} does not parse")
    try:
        return Node("", at, found.end(), json.loads(found[0]), depth)
    except ValueError:
        raise NotJson(f"line {text.count(chr(10), 0, at) + 1} does not parse") from None


def _container(text: str, at: int, depth: int) -> Node:
    kind, close = text[at], "}" if text[at] == "{" else "]"
    node = Node(kind, at, at, {} if kind == "{" else [], depth)
    here = _skip(text, at + 1)
    while text[here : here + 1] != close:
        if node.items and node.items[-1].comma < 0:
            raise NotJson(f"line {text.count(chr(10), 0, here) + 1}: a comma is missing")
        start, key = here, ""
        if kind == "{":
            name = _value(text, here, depth)
            colon = _skip(text, name.end)
            if not isinstance(name.data, str) or text[colon : colon + 1] != ":":
                raise NotJson(f"line {text.count(chr(10), 0, here) + 1} does not parse")
            key, here = name.data, _skip(text, colon + 1)
            if key in node.data:
                raise NotJson(f"line {text.count(chr(10), 0, start) + 1}: this member stands twice")
        value = _value(text, here, depth + 1)
        if kind == "{":
            node.data[key] = value.data
        else:
            node.data.append(value.data)
        item = Item(start, key, value)
        node.items.append(item)
        here = _skip(text, value.end)
        if text[here : here + 1] == ",":
            item.comma = here
            here = _skip(text, here + 1)
    node.end = here + 1
    return node


def unit_of(text: str) -> str:
    """By how much the file is indented."""
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def insert(text: str, into: Node, what: str, *, unit: str) -> str:
    """`what` as the last member or element of `into`. Comments stay where they are."""
    close, inner, outer = into.end - 1, unit * (into.depth + 1), unit * into.depth
    last = into.items[-1] if into.items else None
    after = into.start + 1 if last is None else last.value.end
    comma = "," if last is not None and last.comma < 0 else ""
    trailing = "," if last is not None and last.comma >= 0 else ""  # as who wrote it does
    kept = text[after:close].rstrip()
    return f"{text[:after]}{comma}{kept}\n{inner}{what}{trailing}\n{outer}{text[close:]}"


def remove(text: str, of: Node, number: int) -> str:
    """Without one member or element, and without the comma it leaves."""
    item = of.items[number]
    cuts = [(item.start, item.value.end)]
    if item.comma >= 0:
        cuts.append((item.comma, item.comma + 1))
    elif number:
        cuts.append((of.items[number - 1].comma, of.items[number - 1].comma + 1))
    for start, end in sorted(cuts, reverse=True):
        text = text[:start] + text[end:]
        begins = text.rfind("\n", 0, start) + 1
        ends = text.find("\n", start)
        if ends >= 0 and begins and not text[begins:ends].strip():  # the line held nothing else
            text = text[:begins] + text[ends + 1 :]
    return text
