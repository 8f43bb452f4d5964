"""Asks that were answered: the approvals of this very call, looked at where it would be asked about, used up where it runs.

The approvals port says what persons have answered; whether it counts is judged here, from what it says
(`guard/workflow/approvals.py`). A framework's "approved = true" comes nowhere near.

A rejection by somebody who may answer denies the very call, as long as an approval of that person would hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.drive import Failure, Flow, Need
from guard.house import House, TaskState
from guard.model import Approval, Delegation, Finding
from guard.ops import Absent, Applied, Lookup, Mark, Op, Take
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, forbid
from guard.workflow.approvals import about, asks_of, clear, rejected_by, rejections, used_key
from guard.workflow.plan import Plan, Weighed
from guard.workflow.verb import Hold
from guard.workflow.weigh import approved

__all__ = ["answered", "pseudonyms", "resting_on", "with_answers"]


def answered(house: House, draft: Draft, task: TaskState) -> Flow[bool]:
    """Do approvals answer every unmet ask of the draft? Then they stand in it, and the call is to be judged again with them.

    All of the asks or none: who approves one of two has not approved the call.
    """
    port, bound = house.approvals, draft.bound
    asks = asks_of(draft.findings)
    if (
        port is None
        or bound is None
        or not asks.keys() - draft.cleared.keys()
        or any(f.says == "forbid" and f.mode == "enforce" for f in draft.findings)
    ):
        return False
    now = {"now": draft.at // 1_000_000}
    hashed = task.args_hmac(bound.canonical)
    found = draft.ask(port, port.find, (task.delegation.txn, draft.call.tool, hashed), now)
    if type(found) is Need:
        found = yield found
    if type(found) is Failure and hasattr(port, "ask"):
        # Asked anew, an answer that could not be heard would be superseded: a no, too.
        draft.findings.append(failed(found, "task", ReasonCode.ASK_UNAVAILABLE))
        return False
    said_no = about(rejections(found), task.delegation, draft.call.tool, hashed)
    no = rejected_by(house.layers, task.delegation, asks, said_no, now["now"]) if said_no else None
    if no is not None:
        text = f"rejected by {pseudonyms(house, task.delegation, no)}"
        draft.findings.append(forbid("task", ReasonCode.ASK_REJECTED, text, "none: a person has said no to this call"))
        return False
    approvals = about(found, task.delegation, draft.call.tool, hashed)
    if not approvals:
        return False
    looks = tuple(Lookup(used_key(task.key, one.id)) for one in approvals)
    answer = draft.ask(house.store, house.store.apply, (looks,), {"now": draft.now, "commit": False})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is not Applied or len(answer.values) != len(looks):
        return False
    fresh = yield from _in_force(house, draft, [one for one, used in zip(approvals, answer.values, strict=True) if used is None])
    cleared = clear(house.layers, task.delegation, asks, fresh, now["now"])
    if cleared.asks.keys() != asks.keys():
        return False
    said = {name: f"approved: {name} by {pseudonyms(house, task.delegation, *persons)}" for name, persons in cleared.asks.items()}
    draft.cleared = {**draft.cleared, **said}
    draft.endorses = draft.endorses or any(code.startswith("flow.") for code in asks.values())
    draft.approvals = tuple({one.id: one for one in (*draft.approvals, *cleared.used)}.values())
    return True


def _in_force(house: House, draft: Draft, approvals: Sequence[Approval]) -> Flow[list[Approval]]:
    """Those whose approvers' tokens were not taken back since: who is locked out at noon has approved nothing in the morning.

    Only None says so; a port that fails leaves the ask.
    """
    port, now = house.revocations, {"now": draft.at // 1_000_000}
    kept = []
    for one in approvals:
        if one.credential is not None:
            revoked = draft.ask(port, port.find, (one.credential,), now)
            if type(revoked) is Need:
                revoked = yield revoked
            if revoked is not None:
                continue
        kept.append(one)
    return kept


def pseudonyms(house: House, delegation: Delegation, *persons: str) -> str:
    """Persons as they stand in records."""
    try:
        return ", ".join(house.blinds.origin(delegation.tenant, one) for one in persons)
    except Exception:
        return "a person"


def resting_on(draft: Draft, weighed: Weighed, plan: Plan | None, task: TaskState) -> Weighed:
    """The same, with the approvals it rests on: none used meanwhile, all used by this call; and the values they endorse."""
    keys = [used_key(task.key, one.id) for one in draft.approvals]
    holds = [Hold(Absent(key), None) for key in keys]
    marks: list[Op] = [Mark(key, draft.id, None, draft.id) for key in keys]
    if draft.endorses and plan is not None and plan.sources is not None and draft.live is not None:
        marks += plan.sources.endorsements(draft.live, task.context, draft.id)
    taken: list[Op] = [Take(key, need=False) for key in keys]
    return weighed._replace(holds=[*holds, *weighed.holds], marks=[*weighed.marks, *marks], unmark=[*weighed.unmark, *taken])


def with_answers(draft: Draft) -> list[Finding]:
    """The findings, with a permit for every ask that was answered; also of a limit, which says nothing else when it is silent."""
    findings = [approved(found, draft.cleared) for found in draft.findings]
    told = {found.text for found in findings}
    findings += [
        Finding("rules", "permit", ReasonCode.PERMIT, name, None, text) for name, text in draft.cleared.items() if text not in told
    ]
    return findings
