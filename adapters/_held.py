"""What a tool's function holds: agents in closures, globals, defaults, fields of objects. For `coverage`, which looks for sub-agents there.

Sub-agents escape the guard of their parent in most frameworks (fail-open row F58), and most frameworks have no other way to make one than a function
that knows an agent. What a function fetches from elsewhere while it runs is not seen: its own tools must be guarded where they are made.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType

__all__ = ["held"]

_DEPTH = 4
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, CodeType)


def held(thing: object, wanted: type | tuple[type, ...], skip: frozenset[str] = frozenset()) -> Iterator[object]:
    """Every object of the types `wanted` that `thing` holds, once. Not what lies inside of those. `skip`: first words of the names of modules whose functions
    are the framework's own and are not looked into."""
    seen: set[int] = set()
    waiting: list[tuple[object, int]] = [(thing, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, _PLAIN) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, wanted) and one is not thing:
            yield one
        elif depth <= _DEPTH and not _own(one, skip):
            waiting += [(inner, depth + 1) for inner in _inside(one)]


def _own(thing: object, skip: frozenset[str]) -> bool:
    name = getattr(thing, "__module__", None)
    word = name.partition(".")[0] if isinstance(name, str) else ""
    return word == "guard" or (word in skip and isinstance(thing, FunctionType))


def _inside(thing: object) -> Iterator[object]:
    if isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, Mapping):
        yield from list(thing.values())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from list(thing)
    elif not isinstance(thing, ModuleType):
        yield from list(getattr(thing, "__dict__", {}).values())
        yield from [each for each in vars(type(thing)).values() if isinstance(each, FunctionType)]  # a method may know a global


def _of_function(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield getattr(function, "__wrapped__", None)
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        found = function.__globals__[name]
        if isinstance(found, ModuleType):  # `agents.helper.invoke(...)`
            yield from [vars(found)[other] for other in names & vars(found).keys() if not isinstance(vars(found)[other], ModuleType)]
        else:
            yield found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
