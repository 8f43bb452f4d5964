"""`check`: a CEL expression over the arguments of a call, compiled against their types. It comes with the extra `[cel]`.

    compile("size(args.body) < 4000", {"body": "text"})({"body": "hello"}) is True

| type of the argument                  | in CEL                                     |
|---------------------------------------|--------------------------------------------|
| int                                   | int                                        |
| decimal                               | double: write `1000.0`, not `1000`         |
| bool                                  | bool                                       |
| any                                   | dyn                                        |
| all others                            | string                                     |
| `to[]`; `items[].id`; `at.city`       | list; list of map; map                     |

| what is judged                                                            | holds                                   |
|---------------------------------------------------------------------------|-----------------------------------------|
| the expression is exactly true                                            | yes                                     |
| it is false, an error, or anything else                                   | no                                      |
| an argument or declared field it names is absent or null                  | no; a field may be asked for by `has`   |
| a list of control values it names is empty                                | no, as with `args`                      |
| a decimal that a double does not hold exactly (more than 15 to 17 digits) | no                                      |
| arguments so large, or walked so often, that it could take long           | no, and `too_large` says so             |
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from guard.policy.celtext import CelError, Reading, read_expression

__all__ = ["INSTALL", "CelError", "CelMissing", "Expression", "compile"]

INSTALL: Final = 'pip install "guardtrail[cel]"'
_MOST: Final = 4000
_MODULE: Final = "cel_expr_python.cel"
_PLACE: Final = re.compile(r"ERROR: [^:\n]*:(\d+):(\d+): ([^\n]*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([^']*)'")
_NODE = dict[str, Any]
_Steps = tuple[tuple[str, bool], ...]


class CelMissing(Exception):
    """The extra `[cel]` is not installed."""


class Expression:
    """A compiled expression. Called with an argument mapping in normal form it answers True or False, and raises nothing."""

    __slots__ = ("_made", "_names", "_needed", "_reading", "_shapes")

    def __init__(self, made: Any, shapes: Mapping[str, Any], needed: tuple[tuple[_Steps, bool], ...], reading: Reading) -> None:
        self._made, self._shapes, self._needed, self._reading = made, shapes, needed, reading
        self._names = {name: f"args.{name}" for name in shapes}

    def __call__(self, values: Mapping[str, object]) -> bool:
        try:
            # CEL takes `missing > 3 || true` for true; here what is named must be there (attack: leaving an argument out, fail_open F06).
            if not all(_there(values, steps, full) for steps, full in self._needed) or self.too_large(values):
                return False
            data = {called: _value(values[name], self._shapes[name]) for name, called in self._names.items()}
            return self._made.eval(data=data).value() is True  # its value of an error is truthy (F05)
        except Exception:  # what cannot be evaluated does not hold
            return False

    def too_large(self, values: Mapping[str, object]) -> bool:
        """Could it take long? Then it is not evaluated: nothing interrupts an expression that runs (F08)."""
        return self._reading.too_large(values[name] for name in self._names if name in values)


def compile(expression: str, types: Mapping[str, str], control: Iterable[str] = ()) -> Expression:  # noqa: A001 - as `re.compile`
    """A test of an argument mapping in normal form; the same one for the same question. Raises CelMissing, CelError."""
    return _compiled(expression, tuple(sorted(types.items())), frozenset(control))


@lru_cache(maxsize=512)
def _compiled(expression: str, types: tuple[tuple[str, str], ...], control: frozenset[str]) -> Expression:
    try:
        cel: Any = importlib.import_module(_MODULE)
    except Exception:  # not there, or a binary of another machine
        raise CelMissing from None
    if len(expression) > _MOST:
        raise CelError(f"the expression is longer than {_MOST} characters")
    tree = _tree(dict(types))
    try:
        made = _made(cel, expression, tree)
        kind = made.return_type()
    except Exception as error:
        raise _explained(str(error)) from None
    reading = read_expression(expression)
    if kind != cel.Type.BOOL:
        raise CelError("the expression is not true or false")
    for pattern, line, column in reading.patterns:
        if not _is_pattern(cel, pattern):
            raise CelError("the pattern of `matches` is not one", line, column)
    shapes = {name: node for name, node in tree.items() if _names(cel, expression, tree, name)}
    return Expression(made, shapes, tuple(_needed(shapes, types, control, reading)), reading)


def _made(cel: Any, expression: str, tree: Mapping[str, Any]) -> Any:
    return cel.NewEnv(variables={f"args.{name}": _type(cel, node) for name, node in tree.items()}).compile(expression)


def _is_pattern(cel: Any, written: str) -> bool:
    """CEL takes any text for a pattern, and what is none never holds."""
    try:
        return type(cel.NewEnv().compile(f"''.matches({written})").eval(data={}).value()) is bool
    except Exception:
        return False


def _names(cel: Any, expression: str, tree: Mapping[str, Any], name: str) -> bool:
    """Does the expression name the argument? It does if it does not compile without it: there are many ways to write a name."""
    if name not in expression:
        return False
    try:
        _made(cel, expression, {other: node for other, node in tree.items() if other != name})
    except Exception:
        return True
    return False


def _needed(
    shapes: Mapping[str, Any], types: tuple[tuple[str, str], ...], control: frozenset[str], reading: Reading
) -> Iterable[tuple[_Steps, bool]]:
    """What must be there: every argument that is named, and every declared field of one whose names stand in the expression.

    With each: an empty list is not there.
    """
    for name, node in shapes.items():
        full = any(path.partition(".")[0].removesuffix("[]") == name for path in control)
        yield ((name, isinstance(node, tuple)),), full
    for path, _ in types:
        steps = tuple((step.removesuffix("[]"), step.endswith("[]")) for step in path.split("."))
        if len(steps) > 1 and steps[0][0] in shapes and reading.names(name for name, _ in steps[1:]):
            yield steps, path in control


def _there(value: object, steps: _Steps, full: bool) -> bool:
    (name, items), rest = steps[0], steps[1:]
    inner = value.get(name) if isinstance(value, Mapping) else None
    if inner is None:
        return False
    if not items:
        return not rest or _there(inner, rest, full)
    if not isinstance(inner, (list, tuple)) or (full and not inner):
        return False
    return all(one is not None and (not rest or _there(one, rest, full)) for one in inner)


def _explained(text: str) -> CelError:
    found = _PLACE.search(text)
    if found is None:
        return CelError("the expression is not CEL")
    line, column = int(found[1]), int(found[2])
    if unknown := _UNKNOWN.search(found[3]):
        return CelError(f"there is no `{unknown[1]}`", line, column, unknown[1])
    said = found[3].partition(" expecting ")[0].partition(" (in container")[0].replace("'", "`")
    return CelError(said, line, column)


def _tree(types: Mapping[str, str]) -> _NODE:
    """Argument paths as a tree: a type word, `("list", below)` or a mapping of names."""
    root: _NODE = {}
    for path, kind in types.items():
        node, steps = root, path.split(".")
        for number, step in enumerate(steps):
            name, last = step.removesuffix("[]"), number == len(steps) - 1
            below: Any = kind if last else {}
            present = node.get(name)
            if present is None:
                node[name] = ("list", below) if step.endswith("[]") else below
                present = node[name]
            inner = present[1] if isinstance(present, tuple) else present
            if last:
                break
            if not isinstance(inner, dict):
                break  # said as a whole already
            node = inner
    return root


def _type(cel: Any, node: Any) -> Any:
    if isinstance(node, tuple):
        return cel.Type.List(_type(cel, node[1]))
    if isinstance(node, dict):
        return cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return {"int": cel.Type.INT, "decimal": cel.Type.DOUBLE, "bool": cel.Type.BOOL, "any": cel.Type.DYN}.get(node, cel.Type.STRING)


def _value(value: Any, node: Any) -> Any:
    """The value as CEL takes it: decimals, which are texts in normal form, as numbers; null as absent. Raises where that loses something."""
    if isinstance(node, tuple):
        return [_value(one, node[1]) for one in value]
    if isinstance(node, dict):
        return {key: _value(one, node.get(key)) for key, one in value.items() if one is not None}
    if node != "decimal":
        return value
    number = float(value)
    if Decimal(repr(number)) != Decimal(value):  # a limit of 1000.0 would hold 1000.0000000000000001
        raise ValueError
    return number
