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

Only `true` allows: an argument that is absent, an error while evaluating and any other value do not hold.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["INSTALL", "CelError", "CelMissing", "compile"]

INSTALL: Final = 'pip install "guardtrail[cel]"'
_MOST: Final = 4000
_MODULE: Final = "cel_expr_python.cel"
_PLACE: Final = re.compile(r"ERROR: [^:\n]*:(\d+):(\d+): ([^\n]*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([^']*)'")
_NODE = dict[str, Any]


class CelMissing(Exception):
    """The extra `[cel]` is not installed."""


class CelError(Exception):
    """The expression does not compile. `line`, `column`: where in it, from 1. `unknown`: the name it does not know, "" where that is not it."""

    def __init__(self, text: str, line: int = 1, column: int = 1, unknown: str = "") -> None:
        super().__init__(text)
        self.line, self.column, self.unknown = line, column, unknown


def compile(expression: str, types: Mapping[str, str]) -> Callable[[Mapping[str, object]], bool]:  # noqa: A001 - as `re.compile`
    """A test of an argument mapping in normal form. Raises CelMissing, CelError."""
    try:
        cel: Any = importlib.import_module(_MODULE)
    except Exception:  # not there, or a binary of another machine
        raise CelMissing from None
    if len(expression) > _MOST:
        raise CelError(f"the expression is longer than {_MOST} characters")
    tree = _tree(types)
    names = {f"args.{name}": name for name in tree}
    try:
        env = cel.NewEnv(variables={name: _type(cel, tree[argument]) for name, argument in names.items()})
        made = env.compile(expression)
        kind = made.return_type()
    except Exception as error:
        raise _explained(str(error)) from None
    if kind != cel.Type.BOOL:
        raise CelError("the expression is not true or false")
    shapes = {name: tree[argument] for name, argument in names.items()}
    return lambda values: _holds(made, shapes, names, values)


def _holds(made: Any, shapes: Mapping[str, Any], names: Mapping[str, str], values: Mapping[str, object]) -> bool:
    try:
        data = {name: _value(values[argument], shapes[name]) for name, argument in names.items() if values.get(argument) is not None}
        return made.eval(data=data).value() is True
    except Exception:  # what cannot be evaluated does not hold
        return False


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
    """The value as CEL takes it: decimals, which are texts in normal form, as numbers."""
    if isinstance(node, tuple):
        return [_value(one, node[1]) for one in value]
    if isinstance(node, dict):
        return {key: _value(one, node.get(key)) for key, one in value.items()}
    return float(value) if node == "decimal" else value
