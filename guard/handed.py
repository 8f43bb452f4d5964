"""What a token from an exchange descends from. An issuer's token does not name the one it was exchanged for (RFC 8693 has no word for it), so the state that
all processes share remembers it, as long as the child lives: whoever takes back a token takes back what was made of it (attack A097).

Written before the child is handed out, read when its task is opened, asked about with every call. Of a chain it is read for the root: a hop names all before it, and
what its root descends from stands under the root. Where the child goes to a guard with another state, nobody there knows: the task, the session, the origin and the actors
reach it there too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

from guard.drive import Flow, Need
from guard.house import House, TaskState
from guard.model import Credential, Delegation, Finding
from guard.ops import Applied, Mark
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, revocation_said
from guard.tokens.claims import SKEW

__all__ = ["ancestors", "descent_key", "gone", "remember"]

_MOST = 16
"""Tokens above one: eight actors at most, and a chain's hops."""


def remember(house: House, draft: Draft, state: TaskState, parent: Delegation, child: Delegation) -> Flow[Finding | None]:
    """In the store: all that stands above `child`, which was made of `parent`. A finding: it could not be written, and the child is not to be handed out."""
    if child.above:  # a hop names all before it, and what its root descends from stands under the root
        return None
    above = (*state.handed, *parent.above, parent)
    rows = [[one.credential.jti, one.credential.kid, one.credential.thumbprint or "", one.issued_at] for one in above]
    ttl = max(1, child.expires_at + 2 * SKEW - draft.at // 1_000_000)
    mark = Mark(descent_key(state.key, child), draft.id, ttl, json.dumps(rows, separators=(",", ":")))
    answer = yield Need(house.store, house.store.apply, ((mark,),), {"now": draft.now})
    return None if type(answer) is Applied else failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)


def ancestors(text: object, of: Delegation) -> tuple[Delegation, ...] | None:
    """What stands above `of`, as the store says it under `descent_key`; None: nobody can read that."""
    return () if text is None else _read(text, (of.above or (of,))[0])


def gone(house: House, draft: Draft, state: TaskState) -> Flow[Finding | None]:
    """Whether one of them was taken back."""
    for one in state.handed:
        answer = draft.ask(house.revocations, house.revocations.find, (one,), {"now": draft.at // 1_000_000})
        if type(answer) is Need:
            answer = yield answer
        said = revocation_said(answer)
        if said is not None:
            return said
    return None


def descent_key(task: str, d: Delegation) -> str:
    """Of a chain it is its root's: hops are made offline, of a token that may have been exchanged for another."""
    root = (d.above or (d,))[0]
    return f"{task}|by|{sha256(str(root.credential).encode()).hexdigest()[:32]}"


def _read(text: object, child: Delegation) -> tuple[Delegation, ...] | None:
    """As delegations like the child's, under the names of those above: what is taken back by a name of theirs is found as with any other."""
    try:
        rows = json.loads(str(text))
        if not isinstance(rows, list) or len(rows) > _MOST:
            return None
        return tuple(
            replace(child, credential=Credential(child.issuer, str(jti), str(kid), str(thumbprint) or None), issued_at=int(at), above=())
            for jti, kid, thumbprint, at in rows
        )
    except (ValueError, TypeError, OverflowError):
        return None
