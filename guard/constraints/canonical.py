"""One byte form for equal values: RFC 8785 (JSON Canonicalization Scheme)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["canonical", "canonical_flat", "in_order"]

_MAX_INT = 2**53 - 1


def _encoder() -> Callable[[object], str]:
    """The C encoder, made once. For text, whole numbers and ASCII keys its output is RFC 8785; `_simple` guards the way here."""
    plain = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False, check_circular=False, allow_nan=False)
    try:
        from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]

        make: Any = c_make_encoder
        inner = make(None, plain.default, encode_basestring, None, ":", ",", True, False, False)
        join = "".join
        if join(inner({"b": (1, None), "a": "\u20ac\n"}, 0)) == '{"a":"\u20ac\\n","b":[1,null]}':
            return lambda value: join(inner(value, 0))
    except Exception:  # noqa: S110 - another interpreter: the slow way below is right everywhere
        pass
    return plain.encode


_encode = _encoder()


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of JSON data. Raises ValueError for what JSON cannot carry (NaN, 2^53 and beyond, other types)."""
    if _simple(value):
        return _encode(value).encode("utf-8")
    import rfc8785  # numbers with a fraction, keys beyond ASCII: seldom

    return rfc8785.dumps(value)  # type: ignore[arg-type]


Order = tuple[tuple[str, str], ...]


def in_order(names: Iterable[str]) -> Order:
    """Names as `canonical_flat` takes them: sorted, each with what stands before its value."""
    return tuple((name, f"{_quote(name)}:") for name in sorted(names))


def canonical_flat(values: dict[str, object], order: Order) -> bytes:
    """The same for a mapping of ASCII names, all of them in `order`, to text, booleans and bounded whole numbers: what the binder's
    ordinary arguments are."""
    try:
        return f"{{{','.join([begin + _quote(values[name]) for name, begin in order if name in values])}}}".encode()
    except TypeError:  # not text only
        return _encode(values).encode("utf-8")


try:
    from json.encoder import c_encode_basestring as _quote  # type: ignore[attr-defined]

    if _quote('\u20ac"\n') != '"\u20ac\\"\\n"':
        raise ImportError
except ImportError:  # another interpreter
    from json.encoder import py_encode_basestring as _quote


def _simple(value: object) -> bool:
    """No number with a fraction and no key beyond ASCII: there the two forms are the same, and one of them is written in C."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -_MAX_INT <= value <= _MAX_INT  # type: ignore[operator]
    if kind is dict:
        for key, inner in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not key.isascii() or not (type(inner) is str or _simple(inner)):
                return False
        return True
    if kind is list or kind is tuple:
        return all(_simple(inner) for inner in value)  # type: ignore[attr-defined]
    return False
