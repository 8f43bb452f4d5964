"""Binding: a call's arguments fitted to its tool, typed, normalised, copied. What policy sees is what runs.

| the caller sends                               | answer         |
|------------------------------------------------|----------------|
| no mapping, a key that is no text              | `args.type`    |
| more than 256 arguments, 10,000 values, 1 MiB  | `args.size`    |
| an argument nobody declares, twice, too many   | `args.unknown` |
| a required argument missing or null            | `args.missing` |
| a value of another type, with bad characters   | `args.type`    |

Defaults of the tool are filled in, so that policy judges them too. Containers are rebuilt: nobody changes a list after it was
judged. Paths, URLs, hosts, addresses and accounts reach the body in their normal form: no second parser reads them differently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from guard.constraints.canonical import canonical, canonical_flat, in_order
from guard.constraints.types import MAX_DEPTH, NORMAL, Resolve, ValueRefused, normalise
from guard.errors import ConfigError
from guard.model import Bound
from guard.reasons import ReasonCode
from guard.suggest import did_you_mean

__all__ = ["BindError", "Binder", "Shape"]

MAX_ARGS: Final = 256
MAX_NODES: Final = 10_000
MAX_CHARS: Final = 1 << 20

_HANDED_ON: Final = frozenset({"path", "url", "host", "email", "iban"})
"""Types whose normal form is what the body gets."""


_bound: Any = Bound.__new__


class BindError(Exception):
    """The arguments do not fit. `text` names the argument, never its value."""

    def __init__(self, code: ReasonCode, argument: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.argument = argument


class Shape(NamedTuple):
    """What a callable accepts. `names`: in the order of positional arguments, then keyword-only ones. `open`: it takes others too."""

    names: tuple[str, ...]
    required: frozenset[str]
    defaults: Mapping[str, object]
    positional: int
    open: bool = False

    @classmethod
    def from_signature(cls, signature: inspect.Signature, *, skip_first: bool = False) -> Self:
        """Raises ConfigError for parameters that have no name to be judged by (`*args`, positional-only)."""
        names: list[str] = []
        defaults: dict[str, object] = {}
        positional, opened = 0, False
        for parameter in list(signature.parameters.values())[1 if skip_first else 0 :]:
            if parameter.kind is parameter.VAR_KEYWORD:
                opened = True
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                mark = f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else f"{parameter.name}, /"
                raise ConfigError(
                    f"@guard.tool: parameter `{mark}` has no name a caller could use; wrap it in a function that names its arguments"
                )
            names.append(parameter.name)
            positional += parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if parameter.default is not parameter.empty:
                defaults[parameter.name] = parameter.default
        return cls(tuple(names), frozenset(names) - defaults.keys(), defaults, positional, opened)

    @classmethod
    def from_schema(cls, schema: object) -> Self:
        """A JSON Schema of an object, as MCP and function calling give it: its properties, what is required, defaults.

        Only the outermost level is read; types come from the policy. A schema that cannot be read has no arguments.
        """
        if not isinstance(schema, Mapping):
            return cls((), frozenset(), {}, 0)
        properties, needed = schema.get("properties"), schema.get("required")
        given = {str(name): one for name, one in properties.items()} if isinstance(properties, Mapping) else {}
        required = frozenset(map(str, needed)) if isinstance(needed, (list, tuple)) else frozenset()
        defaults = {name: one["default"] for name, one in given.items() if isinstance(one, Mapping) and one.get("default") is not None}
        opened = schema.get("additionalProperties", True) is not False
        return cls(tuple(given), required, defaults, 0, opened)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Self:
        """Named arguments, none of them required."""
        return cls(tuple(names), frozenset(), {}, 0)


_Node = dict[str, "_Declared"]


class _Declared(NamedTuple):
    """What a policy says of one argument: its type, or of its items, or of its fields."""

    type: str | None
    items: _Declared | None
    fields: _Node | None


def _declare(types: Mapping[str, str]) -> _Node:
    """`to[]: email` -> to: items email; `methods[].id: id` -> methods: items with field id. The most specific word for a place holds."""
    root: dict[str, Any] = {}
    for path, word in types.items():
        node = root
        for step in path.split("."):
            name = step.removesuffix("[]")
            node = node.setdefault("fields", {}).setdefault(name, {})
            if step.endswith("[]"):
                node = node.setdefault("items", {})
        node["type"] = word
    return {name: _declared(below) for name, below in root.get("fields", {}).items()}


def _declared(node: dict[str, Any]) -> _Declared:
    items = _declared(node["items"]) if "items" in node else None
    fields = {name: _declared(below) for name, below in node["fields"].items()} if "fields" in node else None
    return _Declared(node.get("type") if items is None and fields is None else None, items, fields)


class _Budget:
    """What is left of the bounds for one call."""

    __slots__ = ("chars", "nodes")

    def __init__(self) -> None:
        self.chars = MAX_CHARS
        self.nodes = MAX_NODES

    def take(self, value: object, depth: int = 0) -> None:
        """Walk `value` before anything else looks at it. Raises OverflowError at a bound: depth, number, or length."""
        self.nodes -= 1
        if self.nodes < 0 or depth > MAX_DEPTH:
            raise OverflowError
        if isinstance(value, (str, bytes)):
            self.chars -= len(value)
            if self.chars < 0:
                raise OverflowError
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self.take(key, depth + 1)
                self.take(inner, depth + 1)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                self.take(inner, depth + 1)
        elif isinstance(value, int) and value.bit_length() > 4096:
            raise OverflowError


class _Leaf(NamedTuple):
    """One plain argument: its type, the function that makes its normal form, whether the body gets that form."""

    kind: str
    normal: Callable[[object, Resolve | None], object]
    handed_on: bool


class Binder:
    """Fits calls of one tool. `shape` None: only the policy says what the arguments are. `types`: argument path -> type word."""

    def __init__(self, tool: str, shape: Shape | None, types: Mapping[str, str]) -> None:
        self._tool = tool
        self._shape = shape
        self._declared = _declare(types)
        known = None if shape is None or shape.open else frozenset(shape.names)
        self._known = known
        leaves = {name: one.type for name, one in self._declared.items() if one.type is not None and (known is None or name in known)}
        self._leaves = {name: _Leaf(kind, NORMAL[kind], kind in _HANDED_ON) for name, kind in leaves.items() if kind != "any"}
        self._defaults = dict(shape.defaults) if shape is not None else {}
        self._order = in_order(self._leaves)
        self._required = shape.required if shape is not None else frozenset[str]()

    def under(self, types: Mapping[str, str]) -> Binder:
        """The same shape under other declarations: the policy was loaded anew."""
        return Binder(self._tool, self._shape, types)

    def bind(self, args: Mapping[str, object], resolve: Resolve | None = None) -> Bound:
        """Raises BindError."""
        if type(args) is not dict and not isinstance(args, Mapping):
            raise BindError(ReasonCode.ARGS_TYPE, "", "the arguments are not a mapping of names to values")
        if len(args) > MAX_ARGS:
            raise BindError(ReasonCode.ARGS_SIZE, "", f"more than {MAX_ARGS} arguments")
        given = {**self._defaults, **args} if self._defaults else args
        leaves = self._leaves
        out: dict[str, object] = {}
        values: dict[str, object] = {}
        budget: _Budget | None = None
        flat = True
        for name, value in given.items():
            kind = type(value)
            if kind is str:  # the ordinary argument, without a walk
                if len(value) > MAX_CHARS:  # type: ignore[arg-type]
                    raise BindError(ReasonCode.ARGS_SIZE, _shown(name), f"the arguments are longer than {MAX_CHARS:,} characters")
            elif value is not None and kind is not bool:
                budget = budget or _Budget()
                self._measure(budget, name, value)
            leaf = leaves.get(name)
            if leaf is None:
                flat = False
                self._other(name, value, out, values, resolve)
            elif value is None:
                out[name] = None
            else:
                word, make, handed_on = leaf
                try:
                    normal = values[name] = make(value, resolve)
                except Exception:
                    raise _not(name, word) from None
                if kind is str:
                    out[name] = normal if handed_on else value
                    continue
                out[name] = _body(word, value, normal)
                if kind is list or kind is tuple:
                    flat = False
        if not self._required <= values.keys():  # no value is None
            name = min(self._required - values.keys())
            raise BindError(ReasonCode.ARGS_MISSING, name, f"argument {name} is missing")
        told = canonical_flat(values, self._order) if flat else self._canonical(values)
        if len(told) > 2 * MAX_CHARS:
            raise BindError(ReasonCode.ARGS_SIZE, "", f"the arguments are longer than {MAX_CHARS:,} characters")
        made: Bound = _bound(Bound, self._tool, out, values, told)
        return made

    def bind_call(self, args: Sequence[object], kwargs: Mapping[str, object], resolve: Resolve | None = None) -> Bound:
        """The same for a call as Python writes it. An argument by position is the argument of that name (fail-open row F27)."""
        if not args:
            return self.bind(kwargs, resolve)
        shape = self._shape
        if shape is None or len(args) > shape.positional:
            raise BindError(ReasonCode.ARGS_UNKNOWN, "", f"more positional arguments than {self._tool} takes")
        named = dict(zip(shape.names, args, strict=False))
        for name in named:
            if name in kwargs:
                raise BindError(ReasonCode.ARGS_UNKNOWN, name, f"argument {name} is given twice")
        return self.bind({**named, **kwargs}, resolve)

    def _measure(self, budget: _Budget, name: object, value: object) -> None:
        try:
            budget.take(value)
        except (OverflowError, RecursionError):
            raise BindError(ReasonCode.ARGS_SIZE, _shown(name), f"argument {_shown(name)} is too large or nested too deep") from None
        except Exception:
            raise _not(name, None) from None

    def _canonical(self, values: Mapping[str, object]) -> bytes:
        try:
            return canonical(values)
        except Exception:
            raise BindError(ReasonCode.ARGS_TYPE, "", "the arguments have no canonical form") from None

    def _other(self, name: object, value: object, out: dict[str, object], values: dict[str, object], resolve: Resolve | None) -> None:
        """An argument that is no plain leaf: unknown, or a list or mapping."""
        if type(name) is not str:
            raise BindError(ReasonCode.ARGS_TYPE, "", "an argument's name is not text")
        declared = self._declared.get(name)
        if declared is None or (self._known is not None and name not in self._known):
            raise BindError(ReasonCode.ARGS_UNKNOWN, _shown(name), f"{self._tool} has no argument {_shown(name)}{self._near(name)}")
        if value is None:
            out[name] = None
            return
        values[name], out[name] = _walk(declared, value, name, resolve)

    def _near(self, name: str) -> str:
        return did_you_mean(name, self._declared) if _shown(name) == name else ""


def _walk(declared: _Declared, value: object, path: str, resolve: Resolve | None) -> tuple[object, object]:
    """(as policy sees it, as the body gets it)."""
    if declared.items is not None:
        if not isinstance(value, (list, tuple)):
            raise BindError(ReasonCode.ARGS_TYPE, path, f"argument {path} is not a list")
        pairs = [_walk(declared.items, one, f"{path}[]", resolve) for one in value]
        body = [one for _, one in pairs]
        return [normal for normal, _ in pairs], tuple(body) if isinstance(value, tuple) else body
    if declared.fields is not None:
        if not isinstance(value, Mapping):
            raise BindError(ReasonCode.ARGS_TYPE, path, f"argument {path} is not an object")
        return _fields(declared.fields, value, path, resolve)
    kind = declared.type or "any"
    try:
        normal = normalise(kind, value, resolve=resolve)
    except ValueRefused:
        raise _not(path, kind) from None
    return normal, _body(kind, value, normal)


def _fields(known: _Node, value: Mapping[Any, object], path: str, resolve: Resolve | None) -> tuple[object, object]:
    values: dict[str, object] = {}
    out: dict[str, object] = {}
    for name, inner in value.items():
        declared = known.get(name)
        if declared is None:
            raise BindError(ReasonCode.ARGS_UNKNOWN, f"{path}.{_shown(name)}", f"argument {path} has no field {_shown(name)}")
        if inner is None:
            out[name] = None
        else:
            values[name], out[name] = _walk(declared, inner, f"{path}.{name}", resolve)
    return values, out


def _body(kind: str, value: object, normal: object) -> object:
    """What the body gets: the normal form where two parsers could differ, else what was given; containers always rebuilt."""
    if kind in _HANDED_ON:
        return type(value)(normal) if hasattr(value, "__fspath__") else normal  # type: ignore[call-arg]
    if isinstance(value, str):
        return value if type(value) is str else normal
    if isinstance(value, tuple) and isinstance(normal, list):
        return tuple(normal)
    return normal if isinstance(value, (list, Mapping)) else value


def _shown(name: object) -> str:
    """An argument's name as texts may carry it: a caller chose it."""
    return name if isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name) <= 64 else "(unnamed)"


def _not(path: object, kind: str | None) -> BindError:
    what = f"is not of type {kind}, or holds characters that no value may hold" if kind is not None else "is not JSON data"
    return BindError(ReasonCode.ARGS_TYPE, _shown(path), f"argument {_shown(path)} {what}")
