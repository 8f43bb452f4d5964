"""What a delegate asks for: the `authorization_details` (RFC 9396) of a narrower token, made from those of the parent.

| `tools`                      | the parent's token                    | asked for                                                        |
|------------------------------|---------------------------------------|------------------------------------------------------------------|
| None                         | -                                     | what the parent has                                              |
| names                        | has grants for the tool               | those grants, unchanged                                          |
| names                        | was given the task, or scopes, alone  | a grant of the tool without constraints on its arguments         |
| a name it has no right to    | -                                     | refused                                                          |
| name -> constraints          | has grants for the tool               | each with the constraints added; where both speak of an argument by the same kind, the given one must be inside |
| name -> constraints          | no constraints on its arguments       | the given ones; every other declared argument stays free         |
| an argument the grant does not name | -                              | refused: what is not named there is not granted                  |

With `tools`, a scope is kept only if it grants none but these: a scope beside the grants permits whatever it maps to.

The answer is compared with what was asked whatever the issuer says (`guard.tokens.narrow`); this only makes that an honest question is never wider.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from guard.constraints import Constraint, ConstraintError, parse, subsumes
from guard.model import Delegation, Grant
from guard.tokens.text import is_name

__all__ = ["Asked", "Tools", "Wider", "asked_of"]

Tools = Sequence[str] | Mapping[str, Mapping[str, object]]
_FREE = {"any": True, "optional": True}


class Wider(ValueError):
    """More was asked for than there is. The text holds names, no values."""


class Asked(NamedTuple):
    """`details`: the entries; None: the parent's own. `scopes`: those to keep."""

    details: tuple[dict[str, object], ...] | None
    scopes: frozenset[str]


def asked_of(
    parent: Delegation, tools: Tools | None, declared: Mapping[str, Collection[str]], scopes: Mapping[str, Collection[str]]
) -> Asked:
    """What to ask for. `declared`: tool -> its argument paths. `scopes`: what the policy maps them to.

    Raises Wider, and `ConstraintError` where a constraint does not parse.
    """
    if tools is None:
        return Asked(None, parent.scopes)
    scoped = {tool for scope in parent.scopes for tool in scopes.get(scope, ())}
    restricted = parent.grants is not None or parent.intent is None or any(scope in scopes for scope in parent.scopes)
    found: list[dict[str, object]] = []
    if parent.intent is not None:
        found.append({"type": "agent_task", "intent": parent.intent, "params": dict(parent.params)})
    for tool in tools:
        grants = (parent.grants or {}).get(tool)
        if not is_name(tool) or (grants is None and restricted and tool not in scoped):
            raise Wider(f"{parent.actor} was not granted `{tool}`" if is_name(tool) else "a tool is a visible name")
        more = tools[tool] if isinstance(tools, Mapping) else {}
        found += [_entry(grant, more, declared.get(tool, ())) for grant in grants or (Grant(tool),)]
    return Asked(tuple(found), frozenset(scope for scope in parent.scopes if set(scopes.get(scope, ())) <= set(tools)))


def _entry(grant: Grant, more: Mapping[str, object], declared: Collection[str]) -> dict[str, object]:
    entry: dict[str, object] = {"type": "agent_tool", "tool": grant.tool}
    if grant.args is not None:
        args = {path: constraint.raw for path, constraint in grant.args.items()}
        for path, raw in more.items():
            if path not in grant.args:
                raise Wider(f"argument {path} of `{grant.tool}` is not named in the grant, and what is not named is not granted")
            args[path] = _both(grant.args[path], raw, f"argument {path} of `{grant.tool}`")
        entry["args"] = args
    elif more:
        entry["args"] = dict.fromkeys(declared, _FREE) | {path: _checked(raw, path) for path, raw in more.items()}
    if grant.calls is not None:
        entry["limit"] = {"calls": grant.calls}
    return entry


def _checked(raw: object, path: str) -> object:
    parse(raw, origin="token")
    if not is_name(path):
        raise Wider("an argument is a visible name")
    return raw


def _both(had: Constraint, raw: object, name: str) -> object:
    """Both hold. A mapping with several kinds means all of them; a kind that both have is the narrower one's."""
    added = parse(raw, origin="token")
    if subsumes(had, added):
        return raw
    if not isinstance(raw, Mapping) or not isinstance(had.raw, Mapping) or had.optional or added.optional or set(had.raw) & set(raw):
        raise Wider(f"{name}: what is asked for is not inside the grant")
    both = {**had.raw, **raw}
    try:
        parse(both, origin="token")
    except ConstraintError:
        raise Wider(f"{name}: what is asked for does not fit the grant") from None
    return both
