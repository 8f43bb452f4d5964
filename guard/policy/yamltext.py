"""YAML text -> positioned tree, and nothing that two readers could read differently.

YAML 1.2 core types only: `on`, `yes` and dates are strings. Refused, each with its place: duplicate keys, anchors, aliases, tags,
merges, directives, several documents, keys that are not text, `010` (8 or 10), invisible line breaks and reversed text, control
characters, lone surrogates. Size, nesting and number of nodes are capped before anything is built (fail_open F03).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import yaml

from guard.frozen import frozen
from guard.policy.problems import Enough, Mark, Report

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Entry", "Leaf", "Map", "Node", "Seq", "parse", "place", "plain"]

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 48
MAX_NODES: Final = 100_000

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")

# What makes a file read differently from how it looks: NUL and other controls, line breaks only some readers honour, text that
# runs backwards (Trojan Source), a byte order mark in the middle.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]|\r(?!\n)"
)
_VALUE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@frozen
class Leaf:
    """A scalar, typed by YAML 1.2 core. `text`: as written. `block`: a literal block, whose lines stand below its mark."""

    value: bool | int | float | str | None
    text: str
    at: Mark
    block: bool = False


@frozen
class Seq:
    items: tuple[Node, ...]
    at: Mark


class Entry(NamedTuple):
    """A value and the place of its key."""

    key: Mark
    node: Node


@frozen
class Map:
    entries: Mapping[str, Entry]
    at: Mark


Node = Leaf | Seq | Map


def plain(node: Node) -> object:
    """The tree as ordinary data."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, Seq):
        return [plain(item) for item in node.items]
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def place(tree: Node, path: Sequence[object]) -> Mark:
    """Where in the text `path` leads (keys and numbers, as pydantic's `loc`), as far as it is there: of a member its key."""
    at, node = tree.at, tree
    for step in path:
        if isinstance(node, Map) and step in node.entries:
            at, node = node.entries[str(step)].key, node.entries[str(step)].node
        elif isinstance(node, Seq) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            at = node.at
    return at


class _Stop(Exception):
    """Reading cannot go on; the report says why."""


def parse(text: str, report: Report, *, line: int = 1, column: int = 1) -> Node | None:
    """The tree of `text`, None where the report has its errors. `line`, `column`: where the text begins in its file."""
    if not _readable(text, report, line, column):
        return None
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        tree = _Builder(loader, report, line, column).build()
    except (_Stop, Enough):
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _syntax(report, error, _shift(mark.line, mark.column, 1, line, column) if mark else Mark(line, column))
        return None
    except (yaml.YAMLError, ValueError, OverflowError, IndexError, RecursionError) as error:
        # PyYAML lets some of these through, as for "\U00110000"; the place is where its scanner stood.
        at = _shift(getattr(loader, "line", 0), getattr(loader, "column", 0), 1, line, column)
        report.error("yaml", at, f"this is not YAML: {type(error).__name__} while reading")
        return None
    return None if report.failed else tree


def _shift(line: int, column: int, width: int, line0: int, column0: int) -> Mark:
    return Mark(line + line0, column + (column0 if line == 0 else 1), width)


def _readable(text: str, report: Report, line: int, column: int) -> bool:
    """Size and characters, before any parsing."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        report.error("too-large", Mark(line, column), f"the text is larger than {MAX_BYTES // 1024} KiB")
        return False
    for found in islice(_UNSEEN.finditer(text), 20):
        if found.group() == "\ufeff" and found.start() == 0:
            continue  # YAML allows one at the very beginning
        before = text.count("\n", 0, found.start())
        at = _shift(before, found.start() - (text.rfind("\n", 0, found.start()) + 1), 1, line, column)
        report.error("character", at, _character(found.group()))
    return not report.failed


def _character(char: str) -> str:
    code = f"U+{ord(char):04X}"
    if char == "\r":
        return "a carriage return alone: some readers see a new line here, others do not"
    if "\ud800" <= char <= "\udfff":
        return f"{code} is half of a character"
    if char == "\ufeff":
        return f"{code} (byte order mark) may only stand at the very beginning"
    if char in "\x85\u2028\u2029":
        return f"{code}: some readers see a new line here, others do not"
    if char < "\xa0" or char in "\ufffe\uffff":
        return f"{code} is a control character"
    return f"{code} changes the direction of the text: it reads differently from how it looks"


def _syntax(report: Report, error: yaml.MarkedYAMLError, at: Mark) -> None:
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        report.error("yaml", at, "a tab cannot indent or separate here", "use spaces")
    elif "\\x00" in problem or "<stream end>" in problem:
        report.error("yaml", at, f"the text ends too early {error.context or ''}".rstrip())
    elif "mapping values are not allowed" in problem:
        report.error("yaml", at, "a `:` cannot stand here", "quote text that holds `: `, and check the indentation")
    else:
        report.error("yaml", at, f"{problem}{' ' + error.context if error.context else ''}")


@dataclass(slots=True)
class _Frame:
    """A collection being read. `key`: of a mapping, the key whose value comes next."""

    at: Mark
    items: list[Node] | None
    entries: dict[str, Entry]
    key: tuple[str, Mark] | None = None


class _Builder:
    """Events -> tree, with its own stack: nesting costs no recursion."""

    def __init__(self, loader: yaml.SafeLoader, report: Report, line: int, column: int) -> None:
        self.loader, self.report = loader, report
        self.line, self.column = line, column
        self.stack: list[_Frame] = []
        self.root: Node | None = None
        self.documents = self.nodes = 0

    def build(self) -> Node | None:
        while True:
            event = self.loader.get_event()  # type: ignore[no-untyped-call]
            if event is None or isinstance(event, yaml.StreamEndEvent):
                return self.root
            at = self._mark(event)
            if isinstance(event, yaml.DocumentStartEvent):
                self._document(event, at)
            elif isinstance(event, yaml.NodeEvent):
                self._node(event, at)
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                self._close()

    def _mark(self, event: yaml.Event) -> Mark:
        start, end = event.start_mark, event.end_mark
        if start is None:
            return Mark(self.line, self.column)
        width = end.column - start.column if end is not None and end.line == start.line else 1
        return _shift(start.line, start.column, max(1, width), self.line, self.column)

    def _document(self, event: yaml.DocumentStartEvent, at: Mark) -> None:
        self.documents += 1
        if self.documents > 1:
            self.report.error("document", at, "a second YAML document begins here", "one policy is one file")
            raise _Stop
        if event.version is not None or event.tags:
            self.report.error("document", at, "YAML directives are not used here")

    def _node(self, event: yaml.NodeEvent, at: Mark) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.report.error("too-large", at, f"more than {MAX_NODES} values")
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self.report.error("anchor", at, "aliases are not used here", "write the value out")
            self._put(Leaf(None, "", at), at)
            return
        if event.anchor is not None:
            self.report.error("anchor", at, f"anchors are not used here (`&{event.anchor}`)", "write the value out")
        if getattr(event, "tag", None) is not None:
            self.report.error("tag", at, "tags are not used here", "the policy's schema gives every value its type")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, at)
        else:
            self._open(isinstance(event, yaml.SequenceStartEvent), at)

    def _open(self, sequence: bool, at: Mark) -> None:
        if self.stack and self.stack[-1].items is None and self.stack[-1].key is None:
            self.report.error("yaml", at, "a key must be text, not a list or a mapping")
            raise _Stop
        if len(self.stack) >= MAX_DEPTH:
            self.report.error("too-deep", at, f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        self.stack.append(_Frame(at._replace(width=1), [] if sequence else None, {}))

    def _close(self) -> None:
        frame = self.stack.pop()
        node: Node = Map(frame.entries, frame.at) if frame.items is None else Seq(tuple(frame.items), frame.at)
        self._put(node, frame.at)

    def _scalar(self, event: yaml.ScalarEvent, at: Mark) -> None:
        leaf = Leaf(event.value, event.value, at, block=event.style == "|")
        if event.style is None and event.tag is None:
            leaf = Leaf(self._typed(event.value, at), event.value, at)
        bad = _VALUE.search(event.value)
        if bad is not None and leaf.value is not None:
            self.report.error("character", at, f"escaped here: {_character(bad.group())}")
        if self.stack and self.stack[-1].items is None and self.stack[-1].key is None:
            self._key(leaf, plain_style=event.style is None)
        else:
            self._put(leaf, at)

    def _typed(self, text: str, at: Mark) -> bool | int | float | str | None:
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text[0] in "tT"
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            return self._number(text, at)
        if _BASED.fullmatch(text) and len(text) <= 20:
            return int(text[2:], 8 if text[1] == "o" else 16)
        if _SPECIAL.fullmatch(text):
            self.report.error("number", at, f"`{text}` is not a number a policy can use")
        return text

    def _number(self, text: str, at: Mark) -> int | float | str:
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            self.report.error(
                "number", at, f"`{text[:40]}` is one number in YAML 1.1 and another in 1.2", "quote it, or leave the leading zeros out"
            )
            return text
        number: int | float = int(text) if _INT.fullmatch(text) and len(text) <= 40 else float(text)
        if len(text) > 40 or not math.isfinite(number):
            self.report.error("number", at, "this number is too long", "quote it if it is an identifier")
            return text
        return number

    def _key(self, leaf: Leaf, *, plain_style: bool) -> None:
        frame = self.stack[-1]
        if leaf.text == "<<" and plain_style:
            self.report.error("merge", leaf.at, "merges are not used here", "write the values out")
        elif not isinstance(leaf.value, str):
            shown = f"`{leaf.text[:40]}` is not text" if leaf.text else "this key is empty"
            self.report.error("yaml", leaf.at, f"a key must be text: {shown}", "quote it" if leaf.text else None)
        elif leaf.text in frame.entries:
            first = frame.entries[leaf.text].key
            self.report.error("duplicate-key", leaf.at, f"`{leaf.text[:80]}` stands twice in this mapping, first in line {first.line}")
        frame.key = (leaf.text, leaf.at)

    def _put(self, node: Node, at: Mark) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if frame.items is not None:
            frame.items.append(node)
        elif frame.key is None:
            self.report.error("yaml", at, "a key must be text")
            raise _Stop
        else:
            key, mark = frame.key
            frame.entries.setdefault(key, Entry(mark, node))
            frame.key = None
