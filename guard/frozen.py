"""`@frozen`: what `@dataclass(frozen=True, slots=True)` makes, in a fraction of the time, both when a class is made and when an object is.

| what                                       | dataclasses                                | here                                             |
|--------------------------------------------|--------------------------------------------|--------------------------------------------------|
| `==`, `hash`, `repr`, refusing to change   | written out and compiled for every class   | a few lines below, the same for all              |
| the constructor                            | sets each field past its own refusal       | fills a twin that is not frozen, and makes it one|

`import guard` makes some thirty such classes and a call half a dozen such objects. Fields, defaults, `replace`, `fields` and `__match_args__` are
those of dataclasses. On the path of every call, `Thing.__new__(Thing, ...)` is the constructor without the steps of `type.__call__`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

__all__ = ["another", "frozen"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A frozen class with slots of a class with annotations. What the class defines itself stays. Not for classes that inherit."""
    if cls.__bases__ != (object,):
        raise TypeError(f"{cls.__name__} has a base: use dataclasses")
    listed = fields(dataclass(init=False, repr=False, eq=False)(cls))  # type: ignore[arg-type]
    names = tuple(f.name for f in listed)
    own = {name: value for name, value in vars(cls).items() if name not in (*names, "__dict__", "__weakref__")}
    made: Any = type(cls.__name__, (_open(cls, names),), {**own, "__slots__": ()})
    made.__slots__ = names  # as it looks elsewhere; the slots themselves are the base's
    methods: dict[str, Any] = {
        **_comparing(tuple(f.name for f in listed if f.compare)),
        "__repr__": _showing(tuple(f.name for f in listed if f.repr)),
        "__reduce__": _reducing(tuple(f.name for f in listed if f.init)),
        "__setattr__": _set,
        "__delattr__": _delete,
    }
    for name, method in methods.items():
        if name not in own or name == "__hash__":
            setattr(made, name, method)
    made.__new__ = staticmethod(_constructor(made, listed))
    result: type[T] = made
    return result


def _open(cls: type, names: tuple[str, ...]) -> type:
    """The twin: the same fields, and nothing refuses. It is the base of the frozen class, so that becoming one asks for no comparison of their fields."""
    return type(f"_Open{cls.__name__}", (), {"__slots__": names, "__qualname__": f"_Open{cls.__qualname__}", "__module__": cls.__module__})


def _constructor(cls: type, listed: tuple[Field[Any], ...]) -> Callable[..., Any]:
    """Written out as dataclasses writes its own: a loop over the fields costs more than all the assignments."""
    known: dict[str, Any] = {"new": object.__new__, "twin": cls.__base__, "MISSING": MISSING}
    takes, lines = ["cls"], []
    for f in listed:
        known[f"_{f.name}"] = f.default_factory if f.default is MISSING else f.default
        made = f"_{f.name}" if f.default is not MISSING else f"_{f.name}()"
        if not f.init:
            lines.append(f"one.{f.name} = {made}")
        elif f.default is MISSING and f.default_factory is not MISSING:
            takes.append(f"{f.name}=MISSING")
            lines.append(f"one.{f.name} = {made} if {f.name} is MISSING else {f.name}")
        else:
            takes.append(f.name if f.default is MISSING else f"{f.name}={made}")
            lines.append(f"one.{f.name} = {f.name}")
    after = ["one.__post_init__()"] if hasattr(cls, "__post_init__") else []
    return _written(cls, "__new__", takes, [*lines, "one.__class__ = cls", *after], known)


def another(cls: type[T], *names: str) -> Callable[..., T]:
    """Makes another one of a frozen class: what the first argument says, but for the fields `names`, whose values follow. For what is made on every
    call and mostly says the same: it takes a fraction of the expressions for every field."""
    listed = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    lines = [*[f"one.{name} = {name if name in names else f'_like.{name}'}" for name in listed], "one.__class__ = cls"]
    return _written(cls, "another", ["_like", *names], lines, {"new": object.__new__, "twin": cls.__base__, "cls": cls})


def _written(cls: type, name: str, takes: list[str], lines: list[str], known: dict[str, Any]) -> Callable[..., Any]:
    body = "\n    ".join(["one = new(twin)", *lines, "return one"])
    exec(f"def {name}({', '.join(takes)}):\n    {body}", known)  # noqa: S102 - names of our own fields, nothing from outside
    make: Callable[..., Any] = known[name]
    make.__qualname__ = f"{cls.__qualname__}.{name}"
    make.__module__ = cls.__module__
    return make


def _comparing(names: tuple[str, ...]) -> dict[str, Any]:
    of: Callable[[Any], Any] = attrgetter(*names)

    def eq(self: object, other: object) -> bool:
        return bool(of(self) == of(other)) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: object) -> int:
        return hash(of(self))

    return {"__eq__": eq, "__hash__": hashed}


def _showing(names: tuple[str, ...]) -> Callable[[Any], str]:
    def shown(self: object) -> str:
        return f"{self.__class__.__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in names])})"

    return shown


def _reducing(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    def reduced(self: object) -> tuple[Any, ...]:
        return self.__class__, tuple([getattr(self, name) for name in names])

    return reduced


def _set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
