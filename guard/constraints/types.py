"""The type words of a policy, and one normal form for each: what a value is compared as.

| type    | takes                                              | normal form                                     |
|---------|----------------------------------------------------|-------------------------------------------------|
| id      | a visible line without blanks at its ends; int     | as it is                                        |
| name    | the same, text only                                | as it is                                        |
| text    | text with line breaks, no other controls           | as it is                                        |
| int     | int up to 2^53-1 (never bool, never text)          | int                                             |
| decimal | int, decimal text, Decimal, finite number          | shortest decimal text                           |
| bool    | true, false                                        | bool                                            |
| date    | 2027-03-01, RFC 3339 time, date, datetime          | ISO 8601 text                                   |
| email   | exactly one address                                | domain in lower case, A-labels                  |
| url     | with scheme and host, without user information; `www.` alone is https | RFC 3986 normal form         |
| host    | name or IP address                                 | lower case, A-labels, no trailing dot           |
| iban    | IBAN or account, blanks allowed                    | no blanks, upper case                           |
| path    | path of this machine                               | resolved; by letters where nobody resolves      |
| command | one line, or a list of words                       | as it is                                        |
| secret  | text                                               | as it is                                        |
| any     | JSON data                                          | as it is; Decimal and dates as text             |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from typing import Final

from guard.constraints import hosts, paths
from guard.constraints.text import is_clean, is_line, is_prose

__all__ = ["DECIMAL", "MAX_DEPTH", "MAX_INT", "NORMAL", "TYPES", "Resolve", "ValueRefused", "decimal_text", "normalise"]

MAX_INT: Final = 2**53 - 1
MAX_DEPTH: Final = 32
_MAX_LINE: Final = 4096

Resolve = Callable[[str], str]

_SHORTEST = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?", re.ASCII)
DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_IBAN = re.compile(r"[A-Z0-9]{2,34}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII)


class ValueRefused(ValueError):
    """The value is not of its type, or holds characters no value may hold. Carries no text: it might show the value."""


def normalise(type: str, value: object, *, resolve: Resolve | None = None) -> object:
    """`value` in the normal form of `type`. Raises ValueRefused, and nothing else."""
    try:
        return NORMAL[type](value, resolve)
    except ValueRefused:
        raise
    except Exception:  # a subclass with methods of its own, a path the machine cannot resolve
        raise ValueRefused from None


def _str(value: object) -> str:
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise ValueRefused


def _line(value: object, resolve: Resolve | None) -> str:
    text = _str(value)
    if len(text) > _MAX_LINE or not is_clean(text):
        raise ValueRefused
    return text


def _id(value: object, resolve: Resolve | None) -> object:
    if type(value) is str and 0 < len(value) <= _MAX_LINE and value.isascii() and value.isprintable() and value[0] != " " != value[-1]:
        return value  # the ordinary identifier
    return _line(value, resolve) if isinstance(value, str) else _int(value, resolve)


def _text(value: object, resolve: Resolve | None) -> str:
    text = _str(value)
    if not is_prose(text):
        raise ValueRefused
    return text


def _int(value: object, resolve: Resolve | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueRefused
    number = int.__index__(value)
    if not -MAX_INT <= number <= MAX_INT:
        raise ValueRefused
    return number


def _decimal(value: object, resolve: Resolve | None) -> str:
    if isinstance(value, str):
        text = value if type(value) is str else _str(value)
        if _SHORTEST.fullmatch(text) and text != "-0":
            return text
        if not DECIMAL.fullmatch(text):
            raise ValueRefused
        return decimal_text(Decimal(text))
    if isinstance(value, bool):
        raise ValueRefused
    if isinstance(value, int):
        return str(_int(value, resolve))
    if isinstance(value, float) and isfinite(value):
        return decimal_text(Decimal(repr(float(value))))
    if isinstance(value, Decimal) and value.is_finite():
        return decimal_text(value)
    raise ValueRefused


def decimal_text(number: Decimal) -> str:
    """`20.00` -> `20`, `-0` -> `0`, `1E+3` -> `1000`. Bounded: 40 digits on either side of the point."""
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or len(digits) + max(exponent, 0) > 80 or exponent > 40 or exponent < -80:
        raise ValueRefused
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if not DECIMAL.fullmatch(text):
        raise ValueRefused
    return "0" if text == "-0" else text


def _bool(value: object, resolve: Resolve | None) -> bool:
    if value is True or value is False:
        return value
    raise ValueRefused


def _date(value: object, resolve: Resolve | None) -> str:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    text = _str(value)
    if _DATE.fullmatch(text):
        return date.fromisoformat(text).isoformat()
    if _TIME.fullmatch(text):
        return datetime.fromisoformat(text).isoformat()
    raise ValueRefused


def _email(value: object, resolve: Resolve | None) -> str:
    return hosts.email(value if type(value) is str else _str(value))


def _url(value: object, resolve: Resolve | None) -> str:
    text = _str(value)
    # People and models write `www.example.com/page`. The tool is handed the normal form, so the scheme that is judged is the one that runs.
    return hosts.url(hosts.with_scheme(text) or text)


def _host(value: object, resolve: Resolve | None) -> str:
    return hosts.host(_str(value))


def _iban(value: object, resolve: Resolve | None) -> str:
    text = _str(value).replace(" ", "").upper()
    if not _IBAN.fullmatch(text):
        raise ValueRefused
    return text


def _path(value: object, resolve: Resolve | None) -> str:
    text = _str(value.__fspath__()) if hasattr(value, "__fspath__") else _str(value)
    return paths.lexical(text) if resolve is None else paths.resolved(text, resolve)


def _command(value: object, resolve: Resolve | None) -> object:
    if isinstance(value, (list, tuple)):
        words = [_str(word) for word in value]
        if not words or not all(is_prose(word) for word in words):
            raise ValueRefused
        return words
    text = _str(value)
    if not text.strip() or not is_prose(text):
        raise ValueRefused
    return text


def _any(value: object, resolve: Resolve | None, depth: int = 0) -> object:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, resolve)
    if isinstance(value, int):
        return _int(value, resolve)
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueRefused
        return float(value)
    if isinstance(value, Decimal):
        return _decimal(value, resolve)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if depth >= MAX_DEPTH:
        raise ValueRefused
    if isinstance(value, (list, tuple)):
        return [_any(inner, resolve, depth + 1) for inner in value]
    if isinstance(value, Mapping):
        found = {}
        for key, inner in value.items():
            if type(key) is not str or not is_line(key):
                raise ValueRefused
            found[key] = _any(inner, resolve, depth + 1)
        return found
    raise ValueRefused


NORMAL: Final[Mapping[str, Callable[[object, Resolve | None], object]]] = {
    "id": _id,
    "name": _line,
    "text": _text,
    "int": _int,
    "decimal": _decimal,
    "bool": _bool,
    "date": _date,
    "email": _email,
    "url": _url,
    "host": _host,
    "iban": _iban,
    "path": _path,
    "command": _command,
    "secret": _text,
    "any": _any,
}

TYPES: Final = tuple(NORMAL)
"""The type words of POLICY."""
