"""A constraint: a mapping of kinds, all of which must hold. Read once, compiled to closures, asked on every call.

    parse({"range": {"min": "0.01", "max": "$ceiling"}}, origin="policy", params={"ceiling"})
        .typed("decimal").bind({"ceiling": "50"}).matches("20")

Closed world: an unknown kind does not parse. There is no regular expression, no expression language and no negation here: a token
is narrowed by others than wrote it, and only what can be compared can be proven narrower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, cast

from guard.constraints import words
from guard.constraints.kinds import Range, Test, build, listed, never, number, same
from guard.constraints.types import ValueRefused, normalise
from guard.frozen import frozen

__all__ = ["KINDS", "WHOLE", "Constraint", "ConstraintError", "Origin", "Parameter", "Part", "has_parameter", "made"]

Origin = Literal["token", "policy"]

KINDS: Final = (
    "any", "eq", "one_of", "range", "prefix", "suffix", "glob", "under", "url", "email", "cidr", "command", "mentions", "each", "len", "subset", "any_of",
)  # fmt: skip
WHOLE: Final = frozenset({"len", "subset"})
"""On a path that ends in `[]`, these speak of the list; all others of each of its items."""


# What makes sense for which type. A prefix of a URL or path is a trap: `https://good.example.evil.example` begins well.
_LINES: Final = frozenset({"prefix", "suffix", "glob", "len", "mentions"})
_ALWAYS: Final = frozenset({"any", "eq", "one_of", "any_of", "len", "subset"})
_FITS: Final[Mapping[str, frozenset[str]]] = {
    "id": _LINES,
    "name": _LINES,
    "text": _LINES,
    "secret": frozenset({"len"}),
    "int": frozenset({"range"}),
    "decimal": frozenset({"range"}),
    "bool": frozenset(),
    "date": frozenset({"prefix"}),
    "email": frozenset({"email", "suffix", "glob"}),
    "url": frozenset({"url"}),
    "host": frozenset({"cidr", "suffix", "glob"}),
    "iban": _LINES,
    "path": frozenset({"under", "suffix", "glob", "mentions"}),
    "command": frozenset({"command", "mentions"}),
}
_INSTEAD: Final[Mapping[tuple[str, str], str]] = {
    ("prefix", "url"): "use `url: {under: ...}`: what only begins well may go anywhere",
    ("glob", "url"): "use `url: {host: ..., under: ...}`",
    ("prefix", "path"): "use `under`: what only begins well may go anywhere",
    ("prefix", "command"): "use `command: {program: ...}`: what only begins well may go on with `;`",
    ("prefix", "host"): "use `suffix` or `eq`",
}


class ConstraintError(ValueError):
    """The constraint does not parse. `path`: keys and numbers from its top to what is wrong. `unsupported`: right, but not built yet."""

    def __init__(self, text: str, path: tuple[object, ...] = (), suggestion: str | None = None, *, unsupported: bool = False) -> None:
        super().__init__(text)
        self.path = path
        self.suggestion = suggestion
        self.unsupported = unsupported


class Parameter(str):
    """A `$name` in a literal's place. A text that only looks like one cannot come out of a bound parameter."""

    __slots__ = ()


class Part(NamedTuple):
    """One kind of a constraint. `spec`: its literals, normalised, parameters bound where they are. `inner`: for `each` and `any_of`."""

    kind: str
    spec: Any
    inner: tuple[Constraint, ...]


@frozen
class Constraint:
    """What a value must be. `raw`: as written. `params`: names of the parameters that are not bound yet.

    `optional`: absent and null pass, and an empty list does.
    """

    raw: Any
    origin: Origin
    parts: tuple[Part, ...]
    optional: bool = False
    params: frozenset[str] = frozenset()
    kind: str | None = None
    _tests: list[Test] = field(default_factory=list, compare=False, repr=False)
    """Compiled when first asked for: most grants of a token are never used."""

    @property
    def test(self) -> Test:
        """What holds of a value."""
        return (self._tests or self._compiled())[0]

    @property
    def whole(self) -> Test:
        """What holds of the value as a list, on a path that ends in `[]`."""
        return (self._tests or self._compiled())[1]

    @property
    def item(self) -> Test:
        """What holds of each item there."""
        return (self._tests or self._compiled())[2]

    def _compiled(self) -> list[Test]:
        if self.params:  # with parameters that are not bound it admits nothing
            return [never, never, never]
        tests = [(part.kind in WHOLE, _test(part, self.optional)) for part in self.parts]
        self._tests[:] = [
            _all([test for _, test in tests]),
            _all([test for whole, test in tests if whole]),
            _all([test for whole, test in tests if not whole]),
        ]
        return self._tests

    def matches(self, value: object) -> bool:
        """Whether `value` meets every kind. Never raises; with parameters that are not bound, never true. None counts as absent."""
        try:
            return self.optional if value is None else self.test(value) is True
        except Exception:  # fail-open row F01: a predicate that cannot be evaluated does not hold
            return False

    def bind(self, params: Mapping[str, object]) -> Constraint:
        """With the values of its parameters, which are normalised already. What they make impossible never matches."""
        if not self.params:
            return self
        parts = tuple(Part(part.kind, _bound(part.spec, params), tuple(one.bind(params) for one in part.inner)) for part in self.parts)
        return made(self.raw, self.origin, parts, self.optional, self.params - params.keys(), self.kind)

    def typed(self, kind: str, *, item: bool = False) -> Constraint:
        """With its literals in the normal form of type `kind`. Raises ConstraintError where a kind or literal does not fit that type.

        `item`: the values are the items of a list, of which `len` and `subset` may speak.
        """
        if kind == "any":
            return self
        parts = []
        for part in self.parts:
            if (
                part.kind not in _ALWAYS | _FITS[kind]
                or (part.kind == "subset" and not item)
                or (part.kind == "len" and not item and kind not in _SIZED)
            ):
                raise ConstraintError(f"`{part.kind}` does not fit type {kind}", (part.kind,), _INSTEAD.get((part.kind, kind)))
            parts.append(Part(part.kind, _typed(part, kind), tuple(one.typed(kind) for one in part.inner)))
        return made(self.raw, self.origin, tuple(parts), self.optional, self.params, kind)

    @property
    def text(self) -> str:
        """`must equal $order`. Policy literals may stand in it, literals of a token never."""
        return "must " + " and ".join(self._said(words.must))

    @property
    def fact(self) -> str:
        """`is under $page`: the same, of a value that does."""
        return " and ".join(self._said(words.fact))

    def _said(self, say: Callable[..., str]) -> Iterator[str]:
        for part in self.parts:
            if part.kind == "any_of":
                yield " or ".join(" and ".join(one._said(say)) for one in part.inner)
            elif part.kind == "each":
                head = "for each item " if say is words.must else "each item "
                yield head + " and ".join(part.inner[0]._said(say))
            elif part.kind != "any" or len(self.parts) == 1:
                yield say(part.kind, self.raw[part.kind], granted=self.origin == "token", secret=self.kind == "secret")

    @property
    def never_matches(self) -> str | None:
        """Why no value can meet this, None where one may."""
        for part in self.parts:
            spec = self.raw.get(part.kind)
            if part.kind == "range" and not has_parameter(part.spec):
                found = Range.of(part.spec)
                if found is not None and found.empty:
                    low = "above" if found.low_open else "min"
                    high = "below" if found.high_open else "max"
                    word = "above" if cast(Decimal, found.low) > cast(Decimal, found.high) else "not below"
                    return f"`{low}: {_quoted(spec[low])}` is {word} its own `{high}: {_quoted(spec[high])}`"
            if part.kind == "len" and "max" in part.spec and part.spec.get("min", 0) > part.spec["max"]:
                return f"`min: {part.spec['min']}` is above its own `max: {part.spec['max']}`"
            if part.kind == "any_of" and all(one.never_matches for one in part.inner):
                return f"no alternative can be met: {part.inner[0].never_matches}"
            if part.kind == "each" and part.inner[0].never_matches:
                return part.inner[0].never_matches
        values = self.finite
        if values is not None and not self.params and not any(map(self.matches, values)):
            return "its own values do not meet its other conditions"
        return None

    @property
    def pins(self) -> bool:
        """Does it leave nothing but values that are written there, or parameters of the task?"""
        for part in self.parts:
            if part.kind in ("eq", "one_of", "subset") or (part.kind in ("any_of", "each") and all(one.pins for one in part.inner)):
                return True
        return False

    @property
    def finite(self) -> tuple[object, ...] | None:
        """The only values that may meet this (not all of them need to), None where there are more than can be listed."""
        for part in self.parts:
            if part.kind == "eq" and not has_parameter(part.spec):
                return (part.spec,)
            if part.kind == "one_of" and not has_parameter(part.spec):
                return tuple(part.spec)
            if part.kind == "any_of":
                several = [one.finite for one in part.inner]
                if all(values is not None for values in several):
                    return tuple(value for values in several for value in cast("tuple[object, ...]", values))
        return None

    def lower_bound(self) -> Decimal | None:
        """A number below which no value meets this, None where there is none to be proven."""
        found: list[Decimal] = []
        for part in self.parts:
            bounds: list[Decimal | None] = []
            if part.kind == "range":
                known = [number(part.spec[name]) for name in ("min", "above") if name in part.spec]
                bounds = [max(low for low in known if low is not None)] if any(low is not None for low in known) else []
            elif part.kind in ("eq", "one_of"):
                numbers = [number(value) for value in (part.spec if part.kind == "one_of" else [part.spec])]
                bounds = [None if None in numbers else min(low for low in numbers if low is not None)]
            elif part.kind == "any_of":
                lows = [one.lower_bound() for one in part.inner]
                bounds = [None if None in lows else min(low for low in lows if low is not None)]
            found += [low for low in bounds if low is not None]
        return max(found) if found else None


_SIZED: Final = frozenset({"id", "name", "text", "secret", "iban", "command"})


def has_parameter(spec: Any) -> bool:
    if isinstance(spec, list):
        return any(map(has_parameter, spec))
    if isinstance(spec, dict):
        return any(map(has_parameter, spec.values()))
    return type(spec) is Parameter


def _bound(spec: Any, params: Mapping[str, object]) -> Any:
    if type(spec) is Parameter:
        return params.get(spec, spec)
    if isinstance(spec, list):
        return [_bound(one, params) for one in spec]
    if isinstance(spec, dict):
        return {key: _bound(one, params) for key, one in spec.items()}
    return spec


def _typed(part: Part, kind: str) -> Any:
    """The literals of one part in the normal form of `kind`."""
    if part.kind == "eq":
        return _literal(part.spec, kind, ("eq",))
    if part.kind in ("one_of", "subset") and isinstance(part.spec, list):
        return [_literal(one, kind, (part.kind, number)) for number, one in enumerate(part.spec)]
    if part.kind == "range" and kind == "int":
        for name, bound in part.spec.items() if isinstance(part.spec, dict) else ():
            if type(bound) is str and "." in bound:
                raise ConstraintError(f"`{name}` is not a whole number, and the argument is an int", ("range", name))
    return part.spec


def _literal(value: Any, kind: str, at: tuple[object, ...]) -> Any:
    if type(value) is Parameter:
        return value
    if isinstance(value, list):
        return [_literal(one, kind, at) for one in value]
    try:
        return normalise(kind, value)
    except ValueRefused:
        hint = "quote it" if kind not in ("int", "decimal", "bool") and not isinstance(value, str) else None
        raise ConstraintError(f"the value is not of type {kind}, so nothing would ever equal it", at, hint) from None


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# -- compiling -----------------------------------------------------------------------------------------------------------------------


def made(raw: Any, origin: Origin, parts: tuple[Part, ...], optional: bool, params: frozenset[str], kind: str | None) -> Constraint:
    """Put together."""
    one: Constraint = _constraint(Constraint, raw, origin, parts, optional, params, kind)
    return one


_constraint: Any = Constraint.__new__


def _all(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if not tests:
        return _always
    return lambda value: all(test(value) for test in tests)


def _always(value: object) -> bool:
    return True


def _test(part: Part, optional: bool) -> Test:
    if part.kind == "any_of":
        return lambda value: any(one.matches(value) for one in part.inner)
    if part.kind == "each":
        inner = part.inner[0]
        return lambda value: isinstance(value, (list, tuple)) and (bool(value) or optional) and all(map(inner.matches, value))
    if part.kind == "subset":
        literals = listed(part.spec)
        return lambda value: (
            isinstance(value, (list, tuple)) and (bool(value) or optional) and all(any(same(one, lit) for lit in literals) for one in value)
        )
    return build(part.kind, part.spec)
