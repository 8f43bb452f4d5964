"""What a value is compared as: a class of values and the normal form in it. Two values are the same if one form of them is.

| class | of arguments of type           | of text in results that is wholly                         |
|-------|--------------------------------|-----------------------------------------------------------|
| email | email                          | an address, or `Name <address>`                           |
| url   | url                            | a URL                                                     |
| host  | host                           | a host by its usual ending                                |
| iban  | iban                           | an IBAN or account                                        |
| num   | int, decimal                   | a number of 4 digits or more                              |
| date  | date                           | a date                                                    |
| path  | path                           | a path, by its letters                                    |
| phone | -                              | a phone number                                            |
| line  | id, name, text, command, secret| the text itself                                           |

An argument of a line type is also compared as the address, account or number it is. Equality only, never a part of a text: a directory
with `x@evil.example` beside a real name must not lend its source to what merely contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isfinite
from typing import Final
from unicodedata import normalize

from guard.constraints import hosts
from guard.constraints.types import DECIMAL, ValueRefused, decimal_text, normalise
from guard.workflow.entities import Entity, bare_host, file_path, iban, named_address, phone

__all__ = ["LINES", "Form", "entity_forms", "forms", "is_whole", "leaf_forms", "one_form", "same_host"]

Form = tuple[str, str]

MOST_LINE: Final = 4096
LINES: Final = frozenset({"id", "name", "text", "command", "secret", "any"})
_OWN: Final = frozenset({"id", "name"})
_CLASS: Final = {"email": "email", "url": "url", "host": "host", "iban": "iban", "date": "date"}
_LEAST_TEXT: Final = 4
_LEAST_DIGITS: Final = 4
_LEAST_ACCOUNT: Final = 5


def forms(kind: str, value: object, *, declared: bool = False, written: object = None) -> tuple[Form, ...]:
    """The forms of an argument's value of type `kind`, which is normal already. Empty: it is compared with nothing.

    `declared`: it is compared at any length; types id and name always are. `written`: a path as the caller wrote it.
    """
    if value is None or isinstance(value, bool):
        return ()
    if kind in _CLASS:
        return ((_CLASS[kind], str(value)),)
    if kind in ("int", "decimal"):
        return _number(value, declared)
    if kind == "path":
        return _path(value, written)
    # Of `Bob <x@evil.example>` the name must not vouch for the address.
    return _leaf_forms(value, declared or kind in _OWN, numbers=kind == "any", names=False)


def leaf_forms(value: object, *, declared: bool = False) -> tuple[Form, ...]:
    """The forms of a leaf of a result: as a line, and as each typed class it is wholly of. Never raises."""
    return _leaf_forms(value, declared, numbers=True, names=True)


def _leaf_forms(value: object, declared: bool, *, numbers: bool, names: bool) -> tuple[Form, ...]:
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, (int, float, Decimal)):
        found = _number(value, declared)
        if not found:
            return ()
        text = found[0][1]
        account = (("iban", text),) if text.isdigit() and len(text) >= _LEAST_ACCOUNT else ()
        return (*found, ("line", text), *account)
    if not isinstance(value, str):
        return ()
    short = len(value) < _LEAST_TEXT or (len(value) < 24 and _few_digits(value))
    if not value or len(value) > MOST_LINE or (short and not declared):
        return ()
    return tuple(dict.fromkeys([("line", _nfc(value)), *_typed(value.strip(), numbers, names)]))


def _few_digits(text: str) -> bool:
    return sum(char.isdigit() for char in text) < _LEAST_DIGITS and DECIMAL.fullmatch(text) is not None


def _padded(text: str) -> bool:
    """`007`: an identifier, whatever its digits are worth."""
    digits = text.lstrip("-")
    return digits[:1] == "0" and digits[1:2].isdigit()


def _number(value: object, declared: bool) -> tuple[Form, ...]:
    try:
        if isinstance(value, float):
            if not isfinite(value):
                return ()
            text = decimal_text(Decimal(repr(float(value))))
        elif isinstance(value, int):
            if value.bit_length() > 256:
                return ()
            text = str(int(value))
        else:
            text = decimal_text(Decimal(str(value)))
    except (ArithmeticError, ValueError, TypeError):
        return ()
    if not declared and sum(char.isdigit() for char in text) < _LEAST_DIGITS:
        return ()
    return (("num", text),)


def _path(value: object, written: object) -> tuple[Form, ...]:
    """As it resolves, as it was written, and as the words the user may have said."""
    made: list[Form] = [("path", str(value))]
    said = str(written) if written is not None else str(value)
    lexical = file_path(said)
    if lexical is not None:
        made.append(("path", lexical))
    if said:
        made.append(("line", _nfc(said)))
    return tuple(dict.fromkeys(made))


def _typed(text: str, numbers: bool = True, names: bool = True) -> list[Form]:
    made: list[Form] = []
    if not text:
        return made
    if "@" in text:
        named = named_address(text)
        address = named[1] if named else _try(hosts.email, text.removeprefix("mailto:"))
        if address is not None:
            made.append(("email", address))
        if named and names:
            made.append(("line", _nfc(named[0])))
        if len(text) < 64 and text[0] == "@" and text[1:].replace("_", "").replace("-", "").replace(".", "").isalnum():
            made.append(("line", text[1:]))
        return made
    if "://" in text:
        url = _try(hosts.url, text)
        return [("url", url)] if url is not None else []
    whole = hosts.with_scheme(text)
    if whole is not None and (url := _try(hosts.url, whole)) is not None:
        made.append(("url", url))
    host = bare_host(text)
    if host is not None:
        made.append(("host", host))
    else:
        path = file_path(text)
        if path is not None:
            made.append(("path", path))
    if len(text) <= 64 and any(char.isdigit() for char in text):
        made += _digits(text, numbers)
    return made


def _digits(text: str, numbers: bool) -> list[Form]:
    made: list[Form] = []
    account = iban(text) or (text if text.isascii() and text.isdigit() and _LEAST_ACCOUNT <= len(text) <= 34 else None)
    if account is not None:
        made.append(("iban", account))
    number = phone(text)
    if number is not None:
        made.append(("phone", number))
    if numbers and DECIMAL.fullmatch(text) and not _padded(text):
        made += _number(text, False)
    if numbers and text[:4].isdigit() and "-" in text:
        try:
            made.append(("date", str(normalise("date", text))))
        except ValueRefused:
            pass
    return made


def _try(read: Callable[[str], str], text: str) -> str | None:
    try:
        return read(text)
    except (ValueError, IndexError):
        return None


def _nfc(text: str) -> str:
    return text if text.isascii() else normalize("NFC", text)


def entity_forms(entity: Entity) -> tuple[Form, ...]:
    """What an entity that stands in a text is compared as."""
    kind, value = entity
    if kind in ("email", "url", "host", "date", "phone"):
        return ((kind, value),)
    if kind in ("iban", "account"):
        return (("iban", value), ("line", value))
    if kind == "amount":
        return _number(value, False)
    if kind == "path":
        return (("path", value), ("line", value))
    if kind == "handle":
        return (("line", f"@{value}"), ("line", value)) if len(value) >= _LEAST_TEXT else (("line", f"@{value}"),)
    if kind == "repo":
        owner, _, name = value.partition("/")
        return tuple(("line", one) for one in (value, owner, name) if len(one) >= _LEAST_TEXT)
    return (("line", value),) if len(value) >= _LEAST_TEXT and not _few_digits(value) else ()


def is_whole(text: str, found: Sequence[Form]) -> bool:
    """Nothing can stand inside: one short word, or one that is wholly something."""
    if len(text) > MOST_LINE or any(char.isspace() for char in text):
        return False
    return len(text) < 4 or (len(found) > 1 and not any(char in text for char in ",;|<>()[]{}\"'"))


def one_form(value: object) -> Form | None:
    """The one form by which records are joined: typed where the value is wholly that, else its line. Any length."""
    if isinstance(value, bool):
        return ("bool", "true" if value else "false")
    if isinstance(value, (int, float, Decimal)):
        found = _number(value, True)
        return found[0] if found else None
    if not isinstance(value, str) or not value or len(value) > MOST_LINE:
        return None
    if DECIMAL.fullmatch(value) and len(value) <= 15 and not _padded(value):
        found = _number(value, True)  # `00123` is an account of its own, not the number 123
        if found:
            return found[0]
    for form in _typed(value.strip()):
        if form[0] in ("email", "url", "date") or (form[0] == "iban" and not value.isdigit()):
            return form
    return ("line", _nfc(value))


def same_host(url: object) -> Form | None:
    """The host whose sources a URL without query or fragment may take."""
    try:
        parts = hosts.split_url(str(url))
    except ValueError:
        return None
    return ("host", parts.host) if parts.query is None and parts.fragment is None else None
