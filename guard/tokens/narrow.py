"""What makes a child delegation wider than its parent. One rule for three doors: chains, token exchange, the token service.

Which tools a delegation may use at all (`mapped`: its scopes that the policy's `scopes:` names):

| it has                            | it may use                                                    |
|-----------------------------------|---------------------------------------------------------------|
| grants or mapped scopes           | the tools of its grants, and those of its mapped scopes       |
| neither, and an intent            | whatever the intent uses: it was given the task itself        |
| neither, and no intent            | nothing                                                       |

A child against its parent, of which intent and parameters are the same:

| the parent                        | a grant of the child                  | a mapped scope of the child             | neither   |
|-----------------------------------|---------------------------------------|-----------------------------------------|-----------|
| grants name the tool              | within one of these grants            | one of these grants must be unrestricted | widened   |
| a mapped scope names the tool     | any                                   | yes                                     | widened   |
| grants or scopes, not this tool   | widened                               | widened                                 | widened   |
| was given the task itself         | any: the intent is asked as well      | not possible, scopes are a subset       | the same  |

Within one grant: never the union of two (attack A093). Argument sets are closed: a child may leave an argument out where the parent
calls it optional, and may never name one the parent does not (A090). A limit is never above, and where the parent counts, the child
has the same grants of that tool, or each has one: counters belong to a grant's place in its token.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from guard.constraints import Constraint, subsumes
from guard.model import Delegation, Grant

__all__ = ["NO_SCOPES", "exceeds", "grant_exceeds", "reissued", "widened"]

NO_SCOPES: Final[Mapping[str, tuple[str, ...]]] = {}

_SAME: Final = ("tenant", "issuer", "txn", "audience", "origin", "origin_kind", "person", "session", "local", "intent")
_same = attrgetter(*_SAME)
"""What a child has from its parent, whoever made it. `session`: without its own a child would outlive the session's end (R17)."""


def widened(
    parent: Delegation, child: Delegation, *, scopes: Mapping[str, tuple[str, ...]] = NO_SCOPES, given: Mapping[str, object] = NO_SCOPES
) -> str | None:
    """Why `child` is no narrower delegation of `parent` to one more actor, with names only; None where it is.

    `scopes`: the policy's map of scopes to tools. `given`: what the one who made the child says of its own instead of taking the
    parent's (`issuer`, `audience`, `txn` of a token service); nothing else may be said so.
    """
    # A token without `act` is held by its client, which stands as its only actor (RFC 9068); who exchanges it is the first that acts.
    held = parent.actors == (parent.workload,) and child.actors[:-1] == ()
    if child.actors[:-1] != parent.actors and not held:
        return "the actors are not those of its parent and one more"
    if child.actor in parent.actors or (child.origin_kind == "person" and child.actor == child.origin):
        return "the new actor is in the chain already"
    if not parent.hands_to(child.actor):
        return "the new actor is not the one its parent names in `may_act`"
    return exceeds(parent, child, scopes=scopes, given=given)


def reissued(
    parent: Delegation,
    child: Delegation,
    *,
    given: Mapping[str, object],
    actor: str | None = None,
    scopes: Mapping[str, tuple[str, ...]] | None = None,
) -> str | None:
    """Why `child` is no narrower delegation that a token service made of `parent`; None where it is.

    `given`: as above. `actor`: whom the service added; None: the actors are the same. `scopes` None: the service does not know the policy's
    map, and what it says holds under whatever map. That is stricter, because the fewer scopes and grants a token has the *more* it may mean:

    | without the map                              | what a policy could make of it                                        |
    |----------------------------------------------|-----------------------------------------------------------------------|
    | a task and scopes, and one scope less        | the scope that is gone restricted the task, the others are not mapped |
    | a task and scopes, and now a grant too       | the scopes did not lead to that tool                                  |
    | a restricted grant less, and scopes are left | a scope leads to the tool without the restriction                     |
    """
    if actor is None:
        why = (
            "the actors are not the same"
            if child.actors != parent.actors
            else "it may be taken over by another"
            if child.may_act != parent.may_act
            else exceeds(parent, child, scopes=scopes or NO_SCOPES, given=given)
        )
    else:
        why = widened(parent, child, scopes=scopes or NO_SCOPES, given=given)
        if why is None and child.actor != actor:
            why = "another actor was added"
    if why is None and (child.bound, child.credential.thumbprint) != (parent.bound, parent.credential.thumbprint):
        why = "it is bound to another key"
    return why if why is not None or scopes is not None else _unmapped(parent, child)


def _unmapped(parent: Delegation, child: Delegation) -> str | None:
    """The table above, of a child that does not exceed its parent as long as no scope means anything."""
    if parent.grants is None:
        if parent.intent is not None and parent.scopes and (child.grants is not None or child.scopes != parent.scopes):
            return "fewer scopes, or a grant beside them, could be more than its parent has"
        return None
    if child.scopes:
        for tool, grants in parent.grants.items():
            if tool not in (child.grants or {}) and _grants(grants, (Grant(tool),)) is not None:
                return f"tool {tool}: its restricted grant is left out, and a scope could lead to it"
    return None


def exceeds(
    parent: Delegation, child: Delegation, *, scopes: Mapping[str, tuple[str, ...]] = NO_SCOPES, given: Mapping[str, object] = NO_SCOPES
) -> str | None:
    """Where `child` says more than `parent`, the actors aside; None where it says as much or less. An order: x never exceeds x, and
    who exceeds neither y nor, through y, x, does not exceed x."""
    for name in () if _same(child) == _same(parent) and not given else _SAME:
        own = given[name] if name in given and name in ("issuer", "audience", "txn") else getattr(parent, name)
        if getattr(child, name) != own:
            return f"another {name}"
    if child.params is not parent.params and not _equal(parent.params, child.params):
        return "other parameters"
    if child.expires_at > parent.expires_at:
        return "it expires later"
    if parent.bound and not child.bound:
        return "its parent is bound to a key and it is not"
    if not child.scopes <= parent.scopes:
        return "a scope its parent does not have"
    return _tools(parent, child, scopes)


def _equal(one: object, other: object) -> bool:
    """Equal as JSON, type by type: True is not 1, and 1.0 is not 1 (attack A092)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and one == other


def _tools(parent: Delegation, child: Delegation, scopes: Mapping[str, tuple[str, ...]]) -> str | None:
    """The table above."""
    mapped = {tool for scope in child.scopes for tool in scopes.get(scope, ())}
    above = {tool for scope in parent.scopes for tool in scopes.get(scope, ())}
    whole = parent.grants is None and not any(scope in scopes for scope in parent.scopes)
    if child.grants is None and not any(scope in scopes for scope in child.scopes):
        return None if whole or child.intent is None else "it has the whole task, of which its parent has a part"
    own, theirs = child.grants or {}, parent.grants or {}
    for tool, grants in own.items():
        if tool in theirs:
            why = _grants(theirs[tool], grants)
            if why is not None:
                return f"tool {tool}: {why}"
        elif tool not in above and (not whole or parent.intent is None):
            return f"tool {tool}: its parent was not granted it"
    for tool in sorted(mapped - own.keys()):
        if tool in theirs and _grants(theirs[tool], (Grant(tool),)) is not None:
            return f"tool {tool}: by scope alone, where its parent's grant restricts it"
    return None


def _grants(parents: tuple[Grant, ...], children: tuple[Grant, ...]) -> str | None:
    if parents == children:
        return None
    if any(grant.calls is not None for grant in parents) and (len(parents) > 1 or len(children) > 1):
        return "several grants, of which some are counted"
    why = None
    for child in children:
        found = [grant_exceeds(parent, child) for parent in parents]
        if None not in found:
            why = found[0] if len(found) == 1 else "no single grant of its parent covers it"
            break
    return why


def grant_exceeds(parent: Grant, child: Grant) -> str | None:
    """Where one grant says more than another of the same tool; None where it does not."""
    if parent.calls is not None and (child.calls is None or child.calls > parent.calls):
        return "more calls"
    if parent.args is None or parent.args is child.args:
        return None
    if child.args is None:
        return "no constraint on its arguments"
    for path, constraint in child.args.items():
        above = parent.args.get(path)
        if above is None:
            return f"argument {path}, which its parent does not name"
        if above is not constraint and not subsumes(above, constraint, items=path.endswith("[]")):
            return f"argument {path} is wider"
    return _left_out(parent.args, child.args)


def _left_out(parents: Mapping[str, Constraint], children: Mapping[str, Constraint]) -> str | None:
    """An argument may go only where the parent lets it be absent, and only whole: of two paths into one argument, one alone would
    leave the other's part of it unconstrained, or demanded by the parent and missing."""
    kept = {_head(path) for path in children}
    for path, constraint in parents.items():
        if path not in children and (not constraint.optional or _head(path) in kept):
            return f"argument {path} is left out, which its parent demands"
    return None


def _head(path: str) -> str:
    return path.partition(".")[0].removesuffix("[]")
