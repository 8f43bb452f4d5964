"""What a guard asks of a port that keeps requests, besides what persons have answered. Loaded where there is one.

| a port that also has          | is asked                                            | an answer but a good one          |
|-------------------------------|-----------------------------------------------------|-----------------------------------|
| `ask(request)`                | before it is asked to keep one: what was answered   | deny `ask.unavailable`, if none   |
| `ask(request)`                | where the verdict is ask: to keep the request       | deny `ask.unavailable`            |
| `take(approvals, decision)`   | before a call that rests on approvals is recorded   | deny `ask.used`: it does not run  |
| `forget(tenant, issuer, txn)` | when the task has ended                             | what it holds lapses by itself    |
"""

from __future__ import annotations

from guard.approving import pseudonyms
from guard.decide import Ruling, decide
from guard.drive import Flow, Need
from guard.events import ApprovalRecord
from guard.house import House, TaskState
from guard.model import Finding, Request
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, forbid
from guard.tokens.proof import digest
from guard.workflow.approvals import asks_of, unmet

__all__ = ["ask_persons", "asked_note", "take_approvals", "used_notes"]

_LONGEST = 7 * 86400
"""Seconds a request waits at most, whatever `within` says: its arguments lie encrypted that long."""


def ask_persons(house: House, draft: Draft, task: TaskState) -> Flow[tuple[Finding | None, bool]]:
    """The request of a call whose verdict is ask, kept where persons find it. A finding where nobody could ever answer it; whether it is a new one.

    One request lists every ask that shows now, those of the store too. What comes up later, because the state has changed, is asked in a
    new request, which takes the place of this one.
    """
    keep, bound = getattr(house.approvals, "ask", None), draft.bound
    if keep is None or bound is None:
        return None, False
    d, now = task.delegation, draft.at // 1_000_000
    asks = unmet(house.layers, draft.findings)
    waits = min(_LONGEST, max((rule.within for ask in asks for rule in ask.rules), default=0))
    tool = draft.plan.tool if draft.plan is not None else None
    request = Request(
        draft.id, now, now + waits, d.tenant, d.issuer, d.txn, draft.call.tool, task.args_hmac(bound.canonical), digest(bound.canonical), asks,
        d.origin, d.person, d.actors, house.policy, tuple(tool.control) if tool is not None else tuple(bound.args), bound.canonical,
    )  # fmt: skip
    kept = draft.ask(house.approvals, keep, (request,), {"now": now})
    if type(kept) is Need:
        kept = yield kept
    if type(kept) is str and kept:
        return None, kept == draft.id
    return failed(kept, "task", ReasonCode.ASK_UNAVAILABLE), False


def take_approvals(house: House, draft: Draft) -> Flow[Ruling | None]:
    """Use up, where they lie, the approvals an allowed call rests on; None: done. They are used up in the state too: this one holds where two
    guards share the approvals and not the state, or a state in memory has forgotten."""
    take = getattr(house.approvals, "take", None)
    if take is None:
        return None
    taken = draft.ask(house.approvals, take, (draft.approvals, draft.id), {"now": draft.at // 1_000_000})
    if type(taken) is Need:
        taken = yield taken
    if taken is True:
        return None
    draft.findings.append(forbid("task", ReasonCode.ASK_USED) if taken is False else failed(taken, "task", ReasonCode.ASK_UNAVAILABLE))
    return decide(draft.findings, ())


def asked_note(draft: Draft, task: TaskState) -> ApprovalRecord:
    """That a request was made."""
    asks = tuple(asks_of(draft.findings))
    return ApprovalRecord(draft.at, task.delegation.txn, "asked", "", "", draft.call.tool, request=draft.id, asks=asks)


def used_notes(house: House, draft: Draft, task: TaskState) -> list[ApprovalRecord]:
    """Which approvals a call has used up; of ports that keep them."""
    if not hasattr(house.approvals, "take"):
        return []
    d, tool = task.delegation, draft.call.tool
    return [
        ApprovalRecord(
            draft.at, d.txn, "used", pseudonyms(house, d, one.approver), one.id, tool, request=one.request, asks=tuple(one.asks), decision=draft.id
        )
        for one in draft.approvals
    ]  # fmt: skip
