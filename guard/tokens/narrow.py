"""`widened(parent, child)`: what makes a child wider than its parent, or None. One rule for every door: exchange, chain, token service.

| of the child                | must be                                                                                        |
|-----------------------------|------------------------------------------------------------------------------------------------|
| tenant, issuer, task, origin, person, session, audience | the parent's: none may be dropped, since each is what somebody may revoke  |
| intent, parameters          | the parent's; where it has none, an intent only beside grants                                  |
| grants                      | each inside one grant of the parent (no unions); never none where the parent has some; beside scopes alone, none that are new; with scopes, none may be gone, since a grant narrows what a scope says of its tool |
| scopes                      | some of the parent's; beside a task without grants, all of them: scopes hold a task to their tools |
| end                         | not after the parent's                                                                         |
| actors                      | the parent's and one more                                                                      |
| a bound key                 | some key, where the parent has one                                                             |

A token that names no `act` is held by its client, which then stands as its only actor (RFC 9068). The one who exchanges it is the first that acts
(RFC 8693 section 4.1): for such a parent the new actor alone will do.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.constraints import subsumes
from guard.model import Delegation, Grant

__all__ = ["covers", "widened"]


def widened(parent: Delegation, child: Delegation) -> str | None:
    """What is wider, in names and without values; None: nothing is."""
    if (parent.tenant, parent.issuer, parent.txn, parent.local) != (child.tenant, child.issuer, child.txn, child.local):
        return "it is of another task"
    if (parent.origin, parent.origin_kind, parent.person) != (child.origin, child.origin_kind, child.person):
        return "it is for another origin"
    if parent.session != child.session:
        return "it is of another session, or of none"
    if parent.audience != child.audience:
        return "it is for another audience"
    if child.expires_at > parent.expires_at:
        return "it lives longer"
    if parent.credential.thumbprint is not None and child.credential.thumbprint is None:
        return "it is not bound to a key any more"
    return _actors(parent, child) or _rights(parent, child)


def _actors(parent: Delegation, child: Delegation) -> str | None:
    before, new = child.actors[:-1], child.actors[-1:]
    held = () if parent.actors == (parent.workload,) else parent.actors
    if before not in (parent.actors, held) or new[0] in parent.actors or new[0] in (parent.origin, parent.person):
        return "its actors are not the parent's and one more"
    return None


def _rights(parent: Delegation, child: Delegation) -> str | None:
    if parent.intent is not None and (child.intent, dict(child.params)) != (parent.intent, dict(parent.params)):
        return "it is for another intent, or its parameters are others"
    if parent.intent is None and child.intent is not None and child.grants is None:
        return "it is for an intent, which the parent is not"
    if not child.scopes <= parent.scopes:
        return "it has a scope that the parent has not"
    if child.grants is None:
        if parent.grants is not None:
            return "its grants are gone, which leaves it everything"
        # Attack: scopes hold a task to their tools; given up, they leave it the whole task.
        return "a scope is gone that may hold it to its tools" if child.intent is not None and child.scopes != parent.scopes else None
    if parent.grants is None:
        return None if parent.intent is not None and not parent.scopes else "it has grants where the parent has only scopes"
    gone = parent.grants.keys() - child.grants.keys()
    if gone and child.scopes:  # Attack: the grant that narrows a scope is given up, and the scope speaks for its tool.
        return f"its grant of `{min(gone)}` is gone, and a scope it has may stand for it"
    for tool, grants in child.grants.items():
        for grant in grants:
            if not any(covers(own, grant) for own in parent.grants.get(tool, ())):
                return f"a grant of `{tool}` is not inside one of the parent's"
    return None


def covers(parent: Grant, child: Grant) -> bool:
    """Whether every call the child admits, the parent admits too.

    An argument that the child does not name may not be given; the parent must not ask for it.
    """
    if parent.calls is not None and (child.calls is None or child.calls > parent.calls):
        return False
    if parent.args is None:
        return True
    if child.args is None or not child.args.keys() <= parent.args.keys():
        return False
    own: Sequence[str] = [path for path in parent.args if path not in child.args]
    return all(parent.args[path].optional for path in own) and all(subsumes(parent.args[path], child.args[path]) for path in child.args)
