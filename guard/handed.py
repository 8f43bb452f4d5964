"""What a token from an exchange descends from. An issuer's token does not name the one it was exchanged for (RFC 8693 has no word for it), so the state that
all processes share remembers it, as long as the child lives: whoever takes back a token takes back what was made of it (attack A097).

Written before the child is handed out, read when its task is opened, asked about with every call. Of a chain it is read for every link: a hop that its holder made
alone was written nowhere, and what it stands on may come from an exchange. Where the child goes to a guard with another state, nobody there knows: the task, the session,
the origin and the actors reach it there too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

from guard.drive import Flow, Need
from guard.house import House, TaskState
from guard.model import Credential, Delegation, Finding
from guard.ops import Applied, Lookup, Mark
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, forbid, revocation_said
from guard.tokens.claims import SKEW

__all__ = ["ancestors", "gone", "remember"]

_MOST = 16
"""Tokens above one: eight actors at most, and a chain's hops."""


def remember(house: House, draft: Draft, state: TaskState, parent: Delegation, child: Delegation) -> Flow[Finding | None]:
    """In the store: all that stands above `child`, which was made of `parent`. A finding: it could not be written, and the child is not to be handed out."""
    above = {one.credential: one for one in (*state.handed, *parent.above, parent)}.values()
    rows = [[one.credential.jti, one.credential.kid, one.credential.thumbprint or "", one.issued_at] for one in above]
    ttl = max(1, child.expires_at + 2 * SKEW - draft.at // 1_000_000)
    mark = Mark(_key(state.key, child), draft.id, ttl, json.dumps(rows, separators=(",", ":")))
    answer = yield Need(house.store, house.store.apply, ((mark,),), {"now": draft.now})
    return None if type(answer) is Applied else failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)


def ancestors(house: House, draft: Draft, state: TaskState) -> Flow[Finding | None]:
    """Into the state: what the store knows to stand above its token. A finding: the store does not answer, or nobody can read what it says; or one of them is dead."""
    links = (*state.delegation.above, state.delegation)
    ops = tuple(Lookup(_key(state.key, link)) for link in links)
    answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now, "commit": False})
    if type(answer) is not Applied or len(answer.values) != len(ops):
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    known: dict[Credential, Delegation] = {}
    for text in answer.values:
        found = () if text is None else _read(text, state.delegation)
        if found is None:
            return forbid("state", ReasonCode.STATE_UNAVAILABLE)
        known |= {one.credential: one for one in found}
    state.handed = tuple(known.values())
    if not known:
        return None
    return (yield from gone(house, draft, state))


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


def _key(task: str, d: Delegation) -> str:
    return f"{task}|by|{sha256(str(d.credential).encode()).hexdigest()[:32]}"


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
