"""Constraints over the arguments of a call: `path -> constraint`, compiled once, asked on every call.

| at the path                         | optional | says                          |
|-------------------------------------|----------|-------------------------------|
| absent, null, an empty list         | no       | refused                       |
| absent, null, an empty list         | yes      | holds                         |
| one of several objects lacks it     | no       | refused                       |
| there                               | -        | as the constraint says        |

Paths: `name`; `name[]`, the items of a list; `name[].field`, `name.field`. On a path that ends in `[]`, `len` and `subset` speak of
the list, everything else of each item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from guard.constraints.constraint import Constraint

__all__ = ["compile_args", "compile_when"]

Failed = tuple[str, Constraint | None]


class _Path(NamedTuple):
    """A constraint at its place. `steps`: (name, whether its items). `flat`: the name, where the path is nothing but a name."""

    path: str
    constraint: Constraint
    steps: tuple[tuple[str, bool], ...]
    flat: str | None
    last_items: bool


def _place(path: str, constraint: Constraint) -> _Path:
    steps = tuple((step.removesuffix("[]"), step.endswith("[]")) for step in path.split("."))
    return _Path(path, constraint, steps, path if len(steps) == 1 and not steps[0][1] else None, steps[-1][1])


def compile_args(args: Mapping[str, Constraint], *, closed: bool) -> Callable[[Mapping[str, object]], Failed | None]:
    """The first failing (path, its constraint) or None. `closed`: an argument no path names fails too, as (path, None)."""
    places = tuple(_place(path, constraint) for path, constraint in args.items())
    flat = tuple(
        (place.flat, place.constraint, place.constraint.test, place.constraint.optional) for place in places if place.flat is not None
    )
    deep = tuple(place for place in places if place.flat is None)
    names = _tree(places) if closed else None

    def check(values: Mapping[str, object]) -> Failed | None:
        for name, constraint, test, optional in flat:
            value = values.get(name)
            if value is None:
                if not optional:
                    return name, constraint
                continue
            try:
                holds = test(value) is True
            except Exception:  # what cannot be evaluated does not hold
                holds = False
            if not holds:
                return name, constraint
        for place in deep:
            if not _holds(place, values):
                return place.path, place.constraint
        if names is not None:
            stray = _stray(names, values, "")
            if stray is not None:
                return stray, None
        return None

    return check


def compile_when(args: Mapping[str, Constraint]) -> Callable[[Mapping[str, object]], bool]:
    """Whether a rule's `when` is met: every predicate is, or cannot be evaluated since its argument is absent.

    A caller must not escape a rule by leaving an argument out. Over a list, a predicate is met if any item meets it.
    """
    places = tuple(_place(path, constraint) for path, constraint in args.items())

    def met(values: Mapping[str, object]) -> bool:
        for place in places:
            found = list(_found(place, values))
            present = [value for value in found if value is not None]
            if not present or len(present) < len(found):
                continue  # absent, or absent in one of several: cannot be evaluated, so it matches
            if place.last_items:
                if not any(
                    _whole(place, value) and isinstance(value, (list, tuple)) and any(map(_item(place), value)) for value in present
                ):
                    return False
            elif not any(place.constraint.matches(value) for value in present):
                return False
        return True

    return met


def _whole(place: _Path, value: object) -> bool:
    try:
        return place.constraint.whole(value) is True
    except Exception:
        return False


def _item(place: _Path) -> Callable[[object], bool]:
    def test(value: object) -> bool:
        try:
            return value is not None and place.constraint.item(value) is True
        except Exception:
            return False

    return test


def _found(place: _Path, values: Mapping[str, object]) -> Iterator[object]:
    """What stands at the path, None for each place where nothing does. Of a path that ends in `[]`, the lists."""
    level: list[object] = [values]
    for at, (name, items) in enumerate(place.steps):
        below: list[object] = []
        for value in level:
            inner = value.get(name) if isinstance(value, Mapping) else None
            if items and at < len(place.steps) - 1:
                below.extend(inner if isinstance(inner, (list, tuple)) and inner else [None])
            else:
                below.append(inner)
        level = below
    yield from level


def _holds(place: _Path, values: Mapping[str, object]) -> bool:
    constraint = place.constraint
    for value in _found(place, values):
        if value is None:
            if not constraint.optional:
                return False
        elif not place.last_items:
            if not constraint.matches(value):
                return False
        elif (
            not isinstance(value, (list, tuple))
            or (not value and not constraint.optional)
            or not _whole(place, value)
            or not all(map(_item(place), value))
        ):
            return False
    return True


_Tree = dict[tuple[str, bool], "_Tree | None"]
"""What is named: a step leads to what is below it, None: all of it is."""


def _tree(places: tuple[_Path, ...]) -> _Tree:
    root: _Tree = {}
    for place in places:
        node: _Tree | None = root
        for at, step in enumerate(place.steps):
            if node is None:
                break  # named as a whole already
            if at == len(place.steps) - 1:
                node[step] = None
            else:
                node = node.setdefault(step, {})
    return root


def _stray(names: _Tree, values: Mapping[str, object], above: str) -> str | None:
    """The first argument nothing names. Names come from a caller: only plain ones are shown."""
    for name, value in values.items():
        if value is None:
            continue
        path = f"{above}{name}" if name.isascii() and name.isprintable() and len(name) <= 64 else f"{above}(unnamed)"
        whole, items = names.get((name, False), False), names.get((name, True), False)
        if whole is None or items is None:
            continue
        if isinstance(items, dict) and isinstance(value, (list, tuple)):
            below = [_stray(items, one, f"{path}[].") if isinstance(one, Mapping) else path for one in value]
        elif isinstance(whole, dict) and isinstance(value, Mapping):
            below = [_stray(whole, value, f"{path}.")]
        else:
            return path
        stray = next((one for one in below if one is not None), None)
        if stray is not None:
            return stray
    return None
