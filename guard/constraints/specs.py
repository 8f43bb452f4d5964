"""What each kind of constraint may be given: the specification as written -> what is wrong with it. Parameters are put aside first."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, cast

from guard.constraints import hosts, paths
from guard.constraints.commands import MORE
from guard.constraints.globs import MAX_GLOB
from guard.constraints.kinds import MAX_ITEMS, listed, networks, number
from guard.constraints.text import is_line

__all__ = ["spec_error"]

_NAME: Final = re.compile(r"[\w.+*-]+")

Wrong = tuple[tuple[object, ...], str, str | None]
"""Path below the kind, what is wrong, a suggestion."""


def is_literal(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(is_literal, value.values()))
    return type(value) in (str, int, float, bool)


def _text_spec(spec: object) -> Wrong | None:
    if type(spec) is not str or not spec or not is_line(spec):
        return (), "takes one line of text, not empty", None
    return None


def _glob_spec(spec: object) -> Wrong | None:
    if wrong := _text_spec(spec):
        return wrong
    if any(mark in cast(str, spec) for mark in "?[]{}\\") or "**" in cast(str, spec):
        return (), "knows one wild card, `*`, which stays within one name", "list several values with `any_of`"
    return None if len(cast(str, spec)) <= MAX_GLOB else ((), "is longer than 256 characters", None)


def _under_spec(spec: object) -> Wrong | None:
    try:
        good = type(spec) is str and spec.startswith("/") and bool(paths.lexical(spec))
    except ValueError:
        good = False
    return None if good else ((), "takes an absolute path without `..`", None)


def _range_spec(spec: object) -> Wrong | None:
    if not isinstance(spec, dict) or not spec:
        return (), "takes `min`, `max`, `above`, `below`", None
    for name, bound in spec.items():
        if name not in ("min", "max", "above", "below"):
            return (name,), f"has no `{name}`; it takes `min`, `max`, `above`, `below`", None
        if number(bound) is None or type(bound) is float:
            return (name,), f"`{name}` is not a number", "write amounts in quotes" if type(bound) is float else None
    return None


def _scheme(value: object) -> bool:
    return type(value) is str and value.isascii() and value.islower() and value.isalnum()


def _pattern(value: object) -> bool:
    if type(value) is not str:
        return False
    name = value.removeprefix("*.")
    try:
        return hosts.host(name) == name and not (name != value and "." not in name)
    except ValueError:
        return False


def _url_spec(spec: object) -> Wrong | None:
    if not isinstance(spec, dict) or not spec:
        return (), "takes `scheme`, `host`, `port`, `under`", None
    for name, part in spec.items():
        items = listed(part)
        if name not in ("scheme", "host", "port", "under"):
            return (name,), f"has no `{name}`; it takes `scheme`, `host`, `port`, `under`", None
        if not items or len(items) > MAX_ITEMS:
            return (name,), f"`{name}` is empty or too long", None
        if name == "scheme" and not all(map(_scheme, items)):
            return (name,), "`scheme` is a word in lower case, as in `https`", None
        if name == "host" and not all(map(_pattern, items)):
            return (name,), "`host` is a name in lower case, or `*.` and a name", None
        if name == "port" and not all(type(port) is int and 0 < port < 65536 for port in items):
            return (name,), "`port` is a number from 1 to 65535", None
        if name == "under" and not _root(part):
            return (name,), "`under` is a URL, or a path that begins with `/`", None
    return None


def _root(spec: object) -> bool:
    if type(spec) is not str:
        return False
    try:
        return bool(hosts.split_url(spec if "://" in spec else f"http://host{spec}")) and ("://" in spec or spec.startswith("/"))
    except ValueError:
        return False


def _email_spec(spec: object) -> Wrong | None:
    if not isinstance(spec, dict) or set(spec) != {"domain"}:
        return (), "takes `domain`", None
    if not listed(spec["domain"]) or not all(map(_pattern, listed(spec["domain"]))):
        return ("domain",), "`domain` is a name in lower case, or `*.` and a name", None
    return None


def _cidr_spec(spec: object) -> Wrong | None:
    try:
        good = all(type(text) is str for text in listed(spec)) and bool(
            networks(spec)
        )  # texts first: `ip_network` takes False for a number
    except (ValueError, TypeError):
        good = False
    return None if good else ((), "takes a network as `10.0.0.0/8`, its host bits zero, or a list of them", None)


_FORM: Final = frozenset({"program", "flags", "operands"})


def _command_spec(spec: object) -> Wrong | None:
    forms = spec if isinstance(spec, list) else [spec]
    if not forms or len(forms) > MAX_ITEMS:
        return (), f"takes a form of `program`, `flags` and `operands`, or a list of 1 to {MAX_ITEMS} of them", None
    for place, one in enumerate(forms):
        if wrong := _form_spec(one):
            at, text, hint = wrong
            return ((place, *at) if isinstance(spec, list) else at), text, hint
    return None


def _form_spec(form: object) -> Wrong | None:
    if not isinstance(form, dict) or "program" not in form or not set(form) <= _FORM:
        return (), "takes `program`, `flags` and `operands`", None
    for name, part in form.items():
        words = listed(part)
        if name == "operands":
            words = [inner for word in words for inner in (listed(word) if word else [""])]
        if (not words and name == "program") or not all(map(_word, words)):
            return (name,), f"`{name}` is a word or a list of words", None
        if name == "flags" and not all(cast(str, word).startswith("-") and word != "-=" for word in words):
            return (name,), "a flag begins with `-`", None
        if name == "flags" and len({cast(str, word).removesuffix("=") for word in words}) < len(words):
            return (name,), "a flag is there twice", "with `=` it takes a value, without it does not"
        if name == "operands" and (wrong := _operands_wrong(listed(part))):
            return (name,), *wrong
    return None


def _word(word: object) -> bool:
    return type(word) is str and bool(word) and is_line(word) and " " not in word


def _operands_wrong(operands: list[object]) -> tuple[str, str | None] | None:
    flat = [word for one in operands for word in listed(one)]
    if MORE in flat and (operands[-1] != MORE or flat.count(MORE) > 1 or len(operands) < 2):
        return "`...` stands at the end, after what may come again", None
    if any("**" in cast(str, word) for word in flat):
        return "`**` is not known here", "`*` stays within one name; alone it is any one word"
    return None


def _mentions_spec(spec: object) -> Wrong | None:
    names = listed(spec)
    if not names or len(names) > MAX_ITEMS or not all(map(_word, names)):
        return (), f"takes a name or a list of 1 to {MAX_ITEMS} names", None
    for name in cast("list[str]", names):
        if not _NAME.fullmatch(name) or not name.strip("*") or len(name) > MAX_GLOB:
            return (), "a name has letters, digits, `.`, `_`, `+`, `-`, and `*` for any of them", "a path is named by its parts"
    return None


def _len_spec(spec: object) -> Wrong | None:
    if not isinstance(spec, dict) or not spec or not set(spec) <= {"min", "max"}:
        return (), "takes `min` and `max`", None
    for name, bound in spec.items():
        if type(bound) is not int or bound < 0:
            return (name,), f"`{name}` is a whole number from 0", None
    return None


def _eq_spec(spec: object) -> Wrong | None:
    if spec is None or not is_literal(spec):
        return (), "takes a value; an absent one is `optional: true`", None
    return None


def _one_of_spec(spec: object) -> Wrong | None:
    if not isinstance(spec, list) or not spec or len(spec) > MAX_ITEMS or not all(map(is_literal, spec)):
        return (), f"takes a list of 1 to {MAX_ITEMS} values", None
    return None


def _any_spec(spec: object) -> Wrong | None:
    return None if spec is True else ((), "is written `any: true`", None)


_SPECS: Final[dict[str, Callable[[object], Wrong | None]]] = {
    "any": _any_spec,
    "eq": _eq_spec,
    "one_of": _one_of_spec,
    "subset": _one_of_spec,
    "range": _range_spec,
    "prefix": _text_spec,
    "suffix": _text_spec,
    "glob": _glob_spec,
    "under": _under_spec,
    "url": _url_spec,
    "email": _email_spec,
    "cidr": _cidr_spec,
    "command": _command_spec,
    "mentions": _mentions_spec,
    "len": _len_spec,
}


def spec_error(kind: str, spec: object) -> Wrong | None:
    """What is wrong with `spec` for `kind`, parameters put aside."""
    return _SPECS[kind](spec)
