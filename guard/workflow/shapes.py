"""A result as leaves with their sources: what the policy's shape says of a place, and `text` for every other.

| the result                                | its leaves                                                            |
|-------------------------------------------|-----------------------------------------------------------------------|
| structured, as the shape says             | by the shape                                                          |
| text in the declared format               | by the shape; of `keyvalue`, never better than ask                    |
| text that does not parse, a key twice     | all of it one text                                                    |
| cyclic, binary, a key twice               | every leaf text                                                       |
| no `returns`                              | every leaf text                                                       |

Places are walked along the shape, never compared as text: a field named `a.b` is not the field `b` of `a`. The items of a list that are
objects are records; conditions and `from` look at one record and what it lies in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from guard.constraints import Constraint
from guard.frozen import frozen
from guard.policy import yamltext
from guard.policy.data import Leaf, Returns
from guard.policy.problems import Report
from guard.workflow.reach import reach
from guard.workflow.snapshot import snapshot

__all__ = ["Observed", "Seen", "labels", "leaves", "variant_labels"]

MAX_YAML: Final = 1 << 18
"""Longer YAML is text: reading it would take seconds."""
_ANY_LENGTH: Final = frozenset({"id", "name", "directory"})
UNDECLARED: Final = ("untrusted",)


class Seen(NamedTuple):
    """One leaf. `path`: its place in the shape, "" where the shape does not name it. `declared`: it counts at any length."""

    path: str
    record: int
    value: object
    source: str
    declared: bool
    key: bool = False
    """It is a name of a field, not a value."""


@frozen
class Observed:
    """What was seen of a result. `weak`: by `keyvalue`, never better than ask. `degraded`: why the shape does not hold.

    `above`: record -> the record it lies in. `failed`: nothing could be seen, the result must be withheld.
    """

    items: tuple[Seen, ...] = ()
    complete: bool = True
    degraded: str | None = None
    weak: bool = False
    failed: bool = False
    above: Mapping[int, int] = field(default_factory=dict)


class _Place:
    """A place of the shape. `path`: as written, None where only something below it is named."""

    __slots__ = ("fields", "items", "keys", "leaf", "path")

    def __init__(self) -> None:
        self.leaf: Leaf | None = None
        self.path: str | None = None
        self.fields: dict[str, _Place] = {}
        self.items: _Place | None = None
        self.keys: _Place | None = None

    def at(self, path: str) -> _Place:
        """The place `path` leads to, made where it is new. `name{}`: the names of the fields of `name`, where they are data."""
        place = self
        for step in path.split(".") if path not in ("", ".", "$") else ():
            name = step.rstrip("[]{}")
            if name:
                place = place.fields.setdefault(name, _Place())
            for _ in range(step.count("[]")):
                place.items = place.items or _Place()
                place = place.items
            if step.endswith("{}"):
                place.keys = place.keys or _Place()
                place = place.keys
        place.path = path
        return place


def _places(shape: Mapping[str, Leaf], names: Iterable[str]) -> _Place:
    root = _Place()
    for path, leaf in shape.items():
        root.at(path).leaf = leaf
        for other in leaf.when:
            root.at(other)
    for path in names:
        root.at(path)
    return root


def labels(returns: Returns | None, values: Mapping[str, object], me: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels a call of these arguments latches, before it runs.

    A variant that cannot be evaluated, since an argument is absent, adds its labels; so does every one up to the first that holds.
    """
    if returns is None:
        return UNDECLARED
    found: dict[str, None] = {}
    for variant in returns.variants:
        state = _holds(variant.when, values, me)
        if state is not False:
            found.update(dict.fromkeys(variant.labels))
        if state is True:
            return tuple(found)
    return tuple({**dict.fromkeys(returns.labels), **found})


def variant_labels(returns: Returns | None) -> frozenset[str]:
    """Every label a call of the tool may latch."""
    if returns is None:
        return frozenset(UNDECLARED)
    return frozenset(returns.labels).union(*(variant.labels for variant in returns.variants))


def _holds(when: Mapping[str, Constraint], values: Mapping[str, object], me: Sequence[str]) -> bool | None:
    """None: an argument it speaks of is absent."""
    absent = False
    for path, written in when.items():
        found, constraint = reach(path, values), written.bind({"me": sorted(set(me))})
        if not found:
            absent = True
        elif not all(constraint.matches(value) for value in found):
            return False
    return None if absent else True


def leaves(
    returns: Returns | None,
    value: object,
    args: Mapping[str, object],
    me: Sequence[str] = (),
    *,
    creates: bool = False,
    names: Iterable[str] = (),
) -> Observed:
    """What is to be learnt from a result. `creates`: an `id` in it names an object this task made. `names`: more places that matter.

    Never raises.
    """
    if returns is not None and returns.none:
        return Observed()
    copied = snapshot(value)
    if copied.failed:
        return Observed((), False, copied.problem, failed=True)
    data, complete, problem = copied.data, copied.complete, copied.problem
    shape: Mapping[str, Leaf] = {}
    weak = False
    try:
        if returns is not None:
            shape = next((one.shape for one in returns.variants if _holds(one.when, args, me) is True), returns.shape)
        if isinstance(data, str) and returns is not None and shape and _is_rendered(shape):
            parsed = _parse(returns.format, data, shape)
            if parsed is None:
                problem = problem or f"not {returns.format}"
            else:
                again = snapshot(parsed)
                data, complete, problem = again.data, complete and again.complete, problem or again.problem
                weak = returns.format == "keyvalue"
        if problem is not None or (not complete and isinstance(value, (str, bytes))):
            shape = {}
        walk = _Walk(creates, me)
        root = _places(shape, names if shape else ())
        walk.go(root, data, 0)
        return Observed(tuple(walk.judged()), complete, problem, weak, False, dict(walk.above))
    except Exception:  # a walk over plain, bounded data does not fail; if it does, nothing was seen
        return Observed((), False, "failed", failed=True)


def _is_rendered(shape: Mapping[str, Leaf]) -> bool:
    """Whether the shape speaks of more than the bare text."""
    return any(path not in ("", ".", "$") for path in shape)


class _Walk:
    """Leaves of plain data, with the records they stand in."""

    def __init__(self, creates: bool, me: Sequence[str]) -> None:
        self.creates, self.me = creates, sorted(set(me))
        self.found: list[tuple[_Place | None, Leaf | None, int, object, bool]] = []
        self.above: dict[int, int] = {}
        self.values: dict[tuple[int, str], list[object]] = {}
        self._bound: dict[int, dict[str, Constraint]] = {}

    def go(self, place: _Place | None, data: object, record: int, leaf: Leaf | None = None) -> None:
        if isinstance(data, dict):
            keys = place.keys if place else None
            for name, inner in data.items():
                if keys is not None:
                    self._leaf(keys, keys.leaf, record, name)
                else:
                    self.found.append((None, None, record, name, True))
                self.go(place.fields.get(name) if place else None, inner, record)
        elif isinstance(data, list):
            below = place.items if place else None
            # `tags: structured` speaks of the items of a list of plain values too, of nothing deeper.
            spread = place.leaf if place and below is None else None
            for inner in data:
                if isinstance(inner, (dict, list)):
                    self.above[one := len(self.above) + 1] = record
                    self.go(below, inner, one)
                else:
                    self.go(below if below is not None else place if spread else None, inner, record)
        elif data is not None:
            self._leaf(place, place.leaf if place else leaf, record, data)

    def _leaf(self, place: _Place | None, leaf: Leaf | None, record: int, data: object) -> None:
        self.found.append((place, leaf, record, data, False))
        if place is not None and place.path is not None:
            self.values.setdefault((record, place.path), []).append(data)

    def judged(self) -> Iterator[Seen]:
        for place, leaf, record, value, key in self.found:
            source = self._source(leaf, record) if leaf is not None else "text"
            declared = source in _ANY_LENGTH
            if source == "id" and self.creates:
                source = "made_here"
            elif source in ("id", "name"):
                source = "structured"
            path = place.path if place is not None and place.path is not None else ""
            yield Seen(path, record, value, source, declared, key)

    def _source(self, leaf: Leaf, record: int) -> str:
        """The leaf's word, or its other one where a condition does not hold of the record or what it lies in."""
        if not leaf.when:
            return leaf.source
        bound = self._bound.get(id(leaf))
        if bound is None:
            bound = self._bound[id(leaf)] = {path: one.bind({"me": self.me}) for path, one in leaf.when.items()}
        for path, constraint in bound.items():
            values = self.near(record, path)
            if not values or not all(constraint.matches(value) for value in values):
                return leaf.otherwise
        return leaf.source

    def near(self, record: int, path: str) -> list[object]:
        """The values at `path` in the record, else in the nearest one around it."""
        while True:
            values = self.values.get((record, path))
            if values is not None or record == 0:
                return values or []
            record = self.above[record]


# --- text in a declared format


def _parse(format: str, text: str, shape: Mapping[str, Leaf]) -> object:
    """Plain data, None where the text is not what was declared."""
    if format == "json":
        return _json(text)
    if format == "yaml":
        return _yaml(text)
    if format == "keyvalue":
        return _keyvalue(text, shape)
    return None


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError, OverflowError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _refuse(word: str) -> NoReturn:
    raise ValueError


def _yaml(text: str) -> object:
    if len(text) > MAX_YAML:
        return None
    try:
        node = yamltext.parse(text, Report("", ""))
        return None if node is None else yamltext.plain(node)
    except Exception:  # the reader is bounded, but not ours
        return None


def _keyvalue(text: str, shape: Mapping[str, Leaf]) -> object:
    """`Key: value` lines. Blank lines part records where the shape is a list."""
    known = _keys(tuple(shape))
    many = any(path.startswith("[]") for path in shape)
    records: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        if not line.strip():
            if many and records[-1]:
                records.append({})
            continue
        key, colon, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if not colon or not key or key in records[-1]:
            return None
        if any(f"{name}:" in f"{value}".casefold().replace(" :", ":") for name in known):
            return None  # a value that forges a field
        records[-1][key] = value
    if many:
        return [record for record in records if record]
    return records[0] or None


@lru_cache(maxsize=256)
def _keys(paths: tuple[str, ...]) -> frozenset[str]:
    return frozenset(step.casefold() for path in paths for one in path.split(".") if (step := one.rstrip("[]{}")))
