"""Reading a constraint: JSON data to a `Constraint`, or a `ConstraintError` that says where and what would be right."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from guard.constraints.constraint import KINDS, Constraint, ConstraintError, Origin, Parameter, Part, has_parameter, made
from guard.constraints.specs import spec_error
from guard.suggest import did_you_mean

__all__ = ["parse"]

_NESTED: Final = frozenset({"each", "any_of"})
_MAX_DEPTH: Final = 6
_MAX_BRANCHES: Final = 64
_PARAMETER: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_POLICY_ONLY: Final = frozenset({"from", "where", "age"})
_FOREIGN: Final[Mapping[str, str]] = {
    "regex": "there are no regular expressions; use `glob`, `prefix` or `one_of`",
    "pattern": "there are no regular expressions; use `glob`, `prefix` or `one_of`",
    "not": "there is no negation; say what is allowed",
    "min": "write `range: {min: ...}`",
    "max": "write `range: {max: ...}`",
    "in": "did you mean `one_of`?",
    "enum": "did you mean `one_of`?",
    "equals": "did you mean `eq`?",
    "domain": "write `email: {domain: ...}`",
    "program": "write `command: {program: ...}`",
}


def parse(raw: object, *, origin: Origin = "token", params: Collection[str] = frozenset()) -> Constraint:
    """Read a constraint. Raises ConstraintError. `params`: the parameters a `$name` may stand for; a token has none."""
    return _parse(raw, origin, frozenset(params), (), 0)


def _parse(raw: object, origin: Origin, known: frozenset[str], at: tuple[object, ...], depth: int) -> Constraint:
    if not isinstance(raw, dict) or not raw:
        raise ConstraintError(
            "a constraint is a mapping of kinds, as in `{eq: value}`", at, None if raw else "`{any: true}` says that anything will do"
        )
    if depth > _MAX_DEPTH:
        raise ConstraintError("constraints are nested too deep", at)
    optional = raw.get("optional", False)
    if type(optional) is not bool:
        raise ConstraintError("`optional` is true or false", (*at, "optional"))
    parts: list[Part] = []
    used: set[str] = set()
    for kind, spec in raw.items():
        if kind == "optional":
            continue
        if kind not in KINDS:
            raise _unknown(kind, origin, at)
        if kind in _NESTED:
            inner = _inner(kind, spec, origin, known, (*at, kind), depth)
            used.update(name for one in inner for name in one.params)
            parts.append(Part(kind, None, inner))
            continue
        marked = spec if type(spec) is str and spec[:1] != "$" else _marked(spec, origin, known, (*at, kind), used)
        if kind == "eq" and type(marked) is str:  # the ordinary constraint of a token
            parts.append(Part("eq", marked, ()))
            continue
        wrong = None if type(marked) is Parameter else spec_error(kind, _without(marked))
        if wrong is not None and not (has_parameter(marked) and not _without(marked)):
            raise ConstraintError(f"`{kind}` {wrong[1]}", (*at, kind, *wrong[0]), wrong[2])
        parts.append(Part(kind, marked, ()))
    if not parts:
        parts.append(Part("any", True, ()))
        raw = {**raw, "any": True}
    return made(raw, origin, tuple(parts), optional, frozenset(used), None)


def _inner(kind: str, spec: object, origin: Origin, known: frozenset[str], at: tuple[object, ...], depth: int) -> tuple[Constraint, ...]:
    if kind == "each":
        return (_parse(spec, origin, known, at, depth + 1),)
    if not isinstance(spec, list) or not 0 < len(spec) <= _MAX_BRANCHES:
        raise ConstraintError(f"`any_of` takes a list of 1 to {_MAX_BRANCHES} constraints", at)
    return tuple(_parse(one, origin, known, (*at, number), depth + 1) for number, one in enumerate(spec))


def _unknown(kind: object, origin: Origin, at: tuple[object, ...]) -> ConstraintError:
    if kind in _POLICY_ONLY:
        why = "is not known in a token" if origin == "token" else "is not supported yet"
        return ConstraintError(f"`{kind}` {why}", (*at, kind), unsupported=origin == "policy")
    name = kind if isinstance(kind, str) and kind.isascii() and kind.isprintable() and len(kind) <= 40 else "this"
    near = did_you_mean(name, KINDS).removeprefix("; ")
    return ConstraintError(
        f"there is no kind of constraint `{name}`", (*at, kind), _FOREIGN.get(name) or near or f"it is one of {', '.join(KINDS)}"
    )


def _marked(spec: object, origin: Origin, known: frozenset[str], at: tuple[object, ...], used: set[str]) -> Any:
    """`spec` with its `$names` marked. Raises ConstraintError for one that is not known here."""
    if isinstance(spec, str):
        if spec[:1] != "$" or not _PARAMETER.fullmatch(spec):
            return spec
        if origin == "token" or spec[1:] not in known:
            raise ConstraintError(f"`{spec}` is not a declared parameter" if origin == "policy" else "a token has no parameters", at)
        used.add(spec[1:])
        return Parameter(spec[1:])
    if isinstance(spec, list):
        return [_marked(one, origin, known, (*at, number), used) for number, one in enumerate(spec)]
    if isinstance(spec, dict):
        return {key: _marked(one, origin, known, (*at, key), used) for key, one in spec.items()}
    return spec


def _without(spec: Any) -> Any:
    """`spec` as far as it has no parameter."""
    if isinstance(spec, list):
        return [_without(one) for one in spec if type(one) is not Parameter]
    if isinstance(spec, dict):
        return {key: _without(one) for key, one in spec.items() if type(one) is not Parameter}
    return spec
