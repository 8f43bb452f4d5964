"""What a function is, guessed from its name and its types. Guesses are marked as such in the policy; a person corrects them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import date
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from guard.frozen import frozen
from guard.policy.data import IRREVERSIBLE
from guard.policy.table import NAMES

__all__ = ["Argument", "Guess", "guess", "guess_schema"]

_EFFECTS: Mapping[str, str] = {
    "read": "get read list search lookup look find show view query count check describe load peek status diff log",
    "fetch": "fetch browse download crawl scrape open visit",
    "send": "send email mail post notify message reply forward text sms announce",
    "pay": "pay transfer refund charge settle wire payout withdraw",
    "buy": "buy order book purchase reserve rent subscribe",
    "delete": "delete remove drop purge erase wipe destroy cancel",
    "execute": "run exec execute shell eval spawn invoke",
    "share": "share publish invite expose",
    "approve": "approve confirm authorize sign",
    "admin": "grant admin revoke promote demote configure",
    "write": "create write update set save add edit append insert put patch commit upload store rename move copy close",
}
_VERBS = {verb: effect for effect, verbs in _EFFECTS.items() for verb in verbs.split()}

_TYPES: Mapping[str, str] = {
    "email": "email mail to cc bcc recipient recipients attendee attendees invitee invitees",
    "url": "url uri link href page webpage site website endpoint",
    "host": "host hostname domain server",
    "path": "path file filename filepath folder directory dir",
    "iban": "iban",
    "decimal": "amount price total cost sum fee balance ceiling budget",
    "date": "date day",
    "command": "command cmd shell script",
    "secret": "password passwd secret token key pin credential",
    "id": "id order ticket invoice customer account user channel repo repository branch project booking reservation event message_id uuid sku",
    "name": "name vendor username",
    "text": "body text message content subject note reason description comment title query reference memo summary",
}
_WORDS = {word: kind for kind, words in _TYPES.items() for word in words.split()}

_CONTROL = frozenset({"email", "url", "host", "path", "iban", "id", "name", "command"})
"""Types of values that decide whom or what a call reaches."""
_PLAIN: Mapping[object, str] = {int: "int", bool: "bool", float: "decimal", Decimal: "decimal", date: "date", bytes: "any"}


@frozen
class Argument:
    path: str
    type: str
    control: bool


@frozen
class Guess:
    """One tool. `sure`: the effect's word stood in the name. `left_out`: what a policy cannot say of this function."""

    name: str
    effect: str
    sure: bool
    arguments: tuple[Argument, ...]
    left_out: tuple[str, ...] = field(default=())

    @property
    def irreversible(self) -> bool:
        return self.effect in IRREVERSIBLE

    def part(self, control: bool) -> list[Argument]:
        return [argument for argument in self.arguments if argument.control is control]


def guess(name: str, function: Callable[..., object]) -> Guess:
    """Raises ValueError where the signature cannot be read."""
    try:
        signature = inspect.signature(function)
    except TypeError as error:
        raise ValueError(str(error)) from None
    hints = _hints(function)
    effect = _effect(name)
    arguments: list[Argument] = []
    left_out: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            left_out.append(f"{'*' if parameter.kind is parameter.VAR_POSITIONAL else '**'}{parameter.name}")
        elif not re.match(NAMES["path"], parameter.name):
            left_out.append(parameter.name)
        else:
            arguments.append(_argument(parameter.name, hints.get(parameter.name, parameter.annotation)))
    return Guess(name, effect or "write", effect is not None, tuple(arguments), tuple(left_out))


def guess_schema(name: str, tool: str, schema: object, hints: object = None) -> Guess:
    """The same of a tool that a JSON Schema describes. `name`: in the policy; `tool`: its own. `hints`: what its server says that it does; a guess, too."""
    effect, sure = _effect(tool), True
    if effect is None:
        said = hints if isinstance(hints, Mapping) else {}
        effect = "read" if said.get("readOnlyHint") is True else "delete" if said.get("destructiveHint") is True else "write"
        sure = False
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    arguments: list[Argument] = []
    left_out: list[str] = []
    for own, about in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(own, str) and re.match(NAMES["path"], own):
            kind, many = _of_schema(about)
            arguments.append(_named(own, kind, many, "text" if kind is None else "any"))
        else:
            left_out.append(str(own))
    return Guess(name, effect, sure, tuple(arguments), tuple(left_out))


_SCHEMA_TYPES: Mapping[str, str] = {"integer": "int", "number": "decimal", "boolean": "bool"}
_FORMATS: Mapping[str, str] = {"uri": "url", "email": "email", "date": "date", "date-time": "date", "hostname": "host"}


def _of_schema(about: object) -> tuple[str | None, bool]:
    """The type word of a property (None: some text) and whether it is a list of them."""
    if not isinstance(about, Mapping):
        return "any", False
    kind = about.get("type")
    if isinstance(kind, list):
        left = [each for each in kind if each != "null"]
        kind = left[0] if len(left) == 1 else None
    several = about.get("anyOf")
    if kind is None and isinstance(several, list):
        left = [each for each in several if not (isinstance(each, Mapping) and each.get("type") == "null")]
        return _of_schema(left[0]) if len(left) == 1 else ("any", False)
    if kind == "array":
        inner, nested = _of_schema(about.get("items", {}))
        return ("any", False) if nested or inner == "any" else (inner, True)
    if kind == "string":
        return _FORMATS.get(str(about.get("format"))), False
    return _SCHEMA_TYPES.get(str(kind), "any"), False


def words(name: str) -> list[str]:
    """`sendEmail_to2` -> send, email, to2"""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)] or [name.lower()]


def _effect(name: str) -> str | None:
    """The first word that is a verb of the table: `send_email` sends, `get_order` reads."""
    return next((_VERBS[word] for word in words(name.rpartition("/")[2]) if word in _VERBS), None)


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # an annotation that names what is not importable here says nothing, as no annotation does
        return {}


def _argument(name: str, annotation: object) -> Argument:
    kind, many = _of(annotation)
    return _named(name, kind, many, "text" if annotation is inspect.Parameter.empty else "any")


def _named(name: str, kind: str | None, many: bool, otherwise: str) -> Argument:
    by_name = _by_name(name)
    # The name says what a text is for; a type that is not text says it itself, but an `int` id is an id all the same.
    if kind is None or kind == "text" or (kind == "int" and by_name == "id"):
        kind = by_name or kind or otherwise
    return Argument(f"{name}[]" if many else name, kind, kind in _CONTROL)


def _by_name(name: str) -> str | None:
    parts = words(name)
    for candidate in (name.lower(), parts[-1], parts[-1].removesuffix("s"), parts[0]):
        kind = _WORDS.get(candidate)
        if kind is not None:
            return kind
    return None


def _of(annotation: object) -> tuple[str | None, bool]:
    """The type word of an annotation (None: any text or unknown) and whether it is a list of them."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        left = [each for each in args if each is not type(None)]
        return _of(left[0]) if len(left) == 1 else ("any", False)
    if origin is typing.Annotated:
        return _of(args[0])
    if origin is typing.Literal:
        return ("text" if all(isinstance(each, str) for each in args) else "any"), False
    if origin in (list, tuple, set, frozenset) or (isinstance(origin, type) and origin.__module__ == "collections.abc" and len(args) == 1):
        kind, nested = _of(args[0]) if args else ("any", False)
        return ("any", False) if nested else (kind, True)
    if annotation in (list, tuple, set, frozenset):
        return None, True
    if annotation is inspect.Parameter.empty or annotation is str:
        return None, False
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path", False
    if annotation in _PLAIN:
        return _PLAIN[annotation], False
    return "any", False
