"""How a constraint is said: `must equal $order`, `is under $page`. Policy literals may be shown; what a token holds never is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

__all__ = ["fact", "must"]

_MOST: Final = 60
_GRANTED: Final[Mapping[str, str]] = {
    "any": "be present",
    "eq": "equal the granted value",
    "one_of": "be one of the granted values",
    "range": "lie in the granted range",
    "prefix": "begin as granted",
    "suffix": "end as granted",
    "glob": "match the granted pattern",
    "under": "be under the granted path",
    "url": "be a URL inside what was granted",
    "email": "be an address inside what was granted",
    "cidr": "be in the granted network",
    "command": "be a command inside what was granted",
    "mentions": "name one of the granted names",
    "len": "have a length inside what was granted",
    "subset": "hold granted values only",
}
_HIDDEN: Final = "..."


def _lit(value: object) -> str:
    text = (
        ("true" if value is True else "false" if value is False else str(value))
        if not isinstance(value, (list, dict))
        else "the value written there"
    )
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."


def _several(spec: object) -> str:
    items = spec if isinstance(spec, list) else [spec]
    said = ", ".join(_lit(item) for item in items[:4])
    return said if len(items) <= 4 else f"{said} and {len(items) - 4} more"


def _range(spec: object) -> str:
    bounds = cast("Mapping[str, object]", spec)
    words = {"min": "at least", "above": "above", "max": "at most", "below": "below"}
    return " and ".join(f"{word} {_lit(bounds[name])}" for name, word in words.items() if name in bounds)


def _url(spec: object) -> str:
    given = cast("Mapping[str, object]", spec)
    parts = []
    if "under" in given:
        parts.append(f"under {_lit(given['under'])}")
    if "scheme" in given:
        parts.append(f"with scheme {_several(given['scheme'])}")
    if "host" in given:
        parts.append(f"on host {_several(given['host'])}")
    if "port" in given:
        parts.append(f"on port {_several(given['port'])}")
    return " and ".join(parts)


def _command(spec: object) -> str:
    forms = cast("list[Mapping[str, object]]", spec if isinstance(spec, list) else [spec])
    if len(forms) > 1:
        programs = dict.fromkeys(
            str(word) for one in forms for word in (one["program"] if isinstance(one["program"], list) else [one["program"]])
        )
        return f"{_several(list(programs))} in a form that is listed, nothing chained or substituted that is not"
    given = forms[0]
    flags = "" if "flags" not in given else f" with no flags but {_several(given['flags'])}" if given["flags"] else " without flags"
    operands = " and the operands that are listed" if "operands" in given else ""
    return f"{_several(given['program'])}{flags}{operands}, nothing chained or substituted"


def _said(kind: str, spec: object) -> tuple[str, str]:
    """(what it must do, what it does) of one kind."""
    if kind == "eq":
        return f"equal {_lit(spec)}", f"equals {_lit(spec)}"
    if kind == "subset":
        return f"hold nothing but {_several(spec)}", f"within {_several(spec)}"
    if kind in ("prefix", "suffix"):
        word = "begin" if kind == "prefix" else "end"
        return f"{word} with {_lit(spec)}", f"{word}s with {_lit(spec)}"
    if kind == "glob":
        return f"match {_lit(spec)}", f"matches {_lit(spec)}"
    if kind == "len":
        bounds = cast("Mapping[str, object]", spec)
        words = " and ".join(f"{word} {_lit(bounds[name])}" for name, word in (("min", "at least"), ("max", "at most")) if name in bounds)
        return f"have a length of {words}", f"has a length of {words}"
    if kind == "any":
        return "be present", "is present"
    if kind == "mentions":
        return f"name {_several(spec)}", f"names {_several(spec)}"
    being = {
        "one_of": lambda: f"one of {_several(spec)}",
        "range": lambda: _range(spec),
        "under": lambda: f"under {_lit(spec)}",
        "url": lambda: _url(spec) if "under" in cast("Mapping[str, object]", spec) else f"a URL {_url(spec)}",
        "email": lambda: f"an address at {_several(cast('Mapping[str, object]', spec)['domain'])}",
        "cidr": lambda: f"in {_several(spec)}",
        "command": lambda: f"a command of {_command(spec)}",
    }[kind]()
    return f"be {being}", f"is {being}"


def must(kind: str, spec: object, *, granted: bool, secret: bool) -> str:
    """What a value must do, without the word `must`."""
    if granted:
        return _GRANTED[kind]
    return _said(
        kind,
        _HIDDEN
        if secret and kind in ("eq", "prefix", "suffix", "glob")
        else [_HIDDEN]
        if secret and kind in ("one_of", "subset")
        else spec,
    )[0]


def fact(kind: str, spec: object, *, granted: bool, secret: bool) -> str:
    """What a value does, for a permit."""
    if granted:
        return "is inside what was granted"
    return _said(
        kind,
        _HIDDEN
        if secret and kind in ("eq", "prefix", "suffix", "glob")
        else [_HIDDEN]
        if secret and kind in ("one_of", "subset")
        else spec,
    )[1]
