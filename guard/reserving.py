"""What a call takes from the shared state, and what the store's answer means.

One list, all of it or none: the life of the task, its step, the call's id, what must still be so, what is left behind, what is counted.
The state permit is a required judge of its own: no path that skips the reservation can allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from guard.drive import Failure, Flow, Need
from guard.house import House, TaskState
from guard.model import Finding
from guard.ops import AMOUNT_MAX, Absent, Add, Applied, Lookup, Mark, Op, Pin, Refused, Sum, Tally
from guard.reasons import ReasonCode
from guard.steps import Draft, Taken, failed, life_said, refunds
from guard.workflow.limits import Claim
from guard.workflow.marks import commits
from guard.workflow.plan import RESERVED, Plan, Weighed
from guard.workflow.verb import summed

__all__ = ["Question", "alive", "granted", "look", "objections", "questions", "refusals", "trial", "wanted"]

Question = tuple[Op, Callable[[Refused], Finding]]
"""What may refuse, and what is said then."""

_new: Any = tuple.__new__
"""Named tuples of the ordinary call are made past their own constructor, which takes twice as long."""


def wanted(draft: Draft, task: TaskState, plan: Plan, weighed: Weighed) -> tuple[list[Op], int]:
    """Everything the call takes from shared state, and where what counts begins in it.

    In this order: the life of the task, its step, the call's id, what must still be so, what is left behind, what is counted.
    """
    by, call_key = draft.id, draft.call_key
    ops: list[Op] = [draft.life or task.life]
    if call_key is not None:
        ops += (Absent(call_key), Mark(call_key, by, value=by))
    if weighed.holds:
        ops += [hold.op for hold in weighed.holds]
    if weighed.marks:
        ops += weighed.marks
    if plan.wide:
        draft.numbered = len(ops)
        ops.append(Add(commits(task.context), 1, None, None, by))
    # Who was the last one before this, of a limit that refuses nothing: its finding names the step that used it up.
    if draft.claims:
        ops += [Sum(claim.op.key, claim.op.window) for claim in draft.claims if claim.told]
    first = len(ops)
    keys, most = plan.tally
    fixed = plan.fixed
    if draft.cleared:  # a limit whose ask was answered still counts
        fixed = tuple(each._replace(max=AMOUNT_MAX) if each.source.cleared(draft.cleared) else each for each in fixed)
        most = (most[0], *(each.max for each in fixed[: len(keys) - 1]))
    ops.append(_new(Tally, (keys, most, by)))
    if len(keys) <= len(fixed):
        ops += [Add(each.key, 1, each.max, each.window, by) for each in fixed[len(keys) - 1 :]]
    if draft.claims:
        ops += [claim.op for claim in draft.claims]
    return ops, first


def granted(house: House, draft: Draft, plan: Plan, answer: object, ops: list[Op], first: int) -> bool:
    """What the store's answer means, except a refusal: False where it is one."""
    weighed = draft.weighed
    if type(answer) is Applied and len(answer.values) == len(ops) and type(tallied := answer.values[first]) is tuple:
        draft.step = tallied[0]
        draft.findings.append(RESERVED)
        if plan.wide and type(number := answer.values[draft.numbered]) is int:
            draft.order = number
        if plan.agreed is not None and weighed is plan.agreed.weighed and not plan.tells:
            draft.agreed = plan.agreed.granted
        elif plan.tells or draft.claims:
            _reserved(draft, plan, [*tallied[1:], *answer.values[first + 1 :]], answer.values[:first])
        left = weighed if weighed is not None and (weighed.marks or weighed.holds) else None
        draft.taken = _new(Taken, (ops, first, answer.now, left))
        if (
            draft.adds
            and plan.events.skippable
            and not draft.dry
            and draft.task is not None
            and draft.task.plans.get(draft.call.tool) is plan
        ):
            # Not of a call that began under older policies: what it leaves is not all that these count.
            draft.task.ran.setdefault(draft.call.tool, [False])
        return True
    if type(answer) is Refused:
        return False
    draft.findings.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
    if type(answer) is Failure:
        _take_back(house, answer, ops, first, weighed)
    return True


def _reserved(draft: Draft, plan: Plan, counted: list[object], before: tuple[object, ...]) -> None:
    """What is to be said of what was granted: what is left of a limit, and limits that only count and went over. `before`: answers of what
    stands before the counts; the last of them say who used up the limits that only count.
    """
    told = [claim for claim in draft.claims if claim.told]
    witnesses = {claim.op.key: found[1] for claim, found in zip(reversed(told), reversed(before), strict=False) if type(found) is tuple}
    for each, value in zip(plan.fixed, counted, strict=False):
        if each.told:
            text = f"{value} of {each.max} {each.source.unit}"
            draft.findings.append(Finding(each.source.judge, "permit", ReasonCode.PERMIT, where=each.source.where, text=text))
    for claim, value in zip(draft.claims, counted[len(plan.fixed) :], strict=True):
        said = claim.applied(value, witnesses.get(claim.op.key, ""))
        if said is not None:
            draft.findings.append(said)


def _take_back(house: House, failure: Failure, ops: list[Op], first: int, weighed: Weighed | None) -> None:
    """The store answered too late or to a cancelled caller: what it applied is taken back when it is known."""

    def undo(answer: object, now: datetime) -> None:
        if type(answer) is Applied:
            house.store.apply(refunds(Taken(ops, first, answer.now, weighed)), now=now)

    if type(failure.answer) is Applied:
        try:
            undo(failure.answer, datetime.now(UTC))
        except Exception:  # noqa: S110 - counted too high is the safe side
            pass
    house.orphan(failure, undo)


def refusals(house: House, draft: Draft, task: TaskState, answer: Refused) -> Flow[list[Finding] | None]:
    """The findings of what the store refused; None: what was read has changed, and the call is to be judged again. Of a tenant-wide plan
    none yet: it is judged again together with what refuses (`questions`).
    """
    index, weighed = answer.index, draft.weighed
    if index == 0:
        dead = yield from life_said(house, draft, task.life, answer)
        return [dead] if dead is not None else None
    begin = 1
    if draft.call_key is not None:
        if index == 1:
            text = "a call with this id and these arguments was decided before"
            return [Finding("state", "forbid", ReasonCode.CALL_REPLAYED, text=text, witnesses=(answer.by,) if answer.by else ())]
        begin = 3
    holds = weighed.holds if weighed is not None else ()
    if index - begin < len(holds) and holds[index - begin].said is None:
        return None
    return [] if draft.plan is not None and draft.plan.wide else (yield from trial(house, draft))


def trial(house: House, draft: Draft) -> Flow[list[Finding]]:
    """Which claims and holds would refuse right now, each asked alone; nothing is taken."""
    found: list[Finding] = []
    for op, said in questions(draft):
        answer = draft.ask(house.store, house.store.apply, ((op,),), {"now": draft.now, "commit": False})
        if type(answer) is Need:
            answer = yield answer
        if type(answer) is Refused:
            found.append(said(answer))
        elif type(answer) is not Applied:
            found.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
            break
    return found


def questions(draft: Draft) -> list[Question]:
    """The claims and holds of a call whose refusal is a finding. Which these are does not depend on what was read."""
    fixed = [each for each in (draft.plan.fixed if draft.plan is not None else ()) if not each.source.cleared(draft.cleared)]
    asked: list[Question] = []
    if draft.weighed is not None:
        asked += [(hold.op, hold.said) for hold in draft.weighed.holds if hold.said is not None]
    claims = [Claim(Add(each.key, 1, each.max, each.window, draft.id), each.source, "enforce", False) for each in fixed]
    asked += [(claim.op, claim.refused) for claim in (*claims, *draft.claims) if not claim.soft]
    return asked


def look(op: Op) -> Op:
    """What answers, without refusing, whether the operation of a question would refuse."""
    if type(op) is Add or type(op) is Sum:
        return Sum(op.key, op.window)
    return Lookup(op.key) if type(op) is Absent or type(op) is Pin else op


def objections(asked: Sequence[Question], answers: Sequence[object], now: int) -> list[Finding]:
    """The findings of `trial`, from the answers of `look`: so what is tenant-wide is judged at one moment between two commits."""
    found: list[Finding] = []
    for (op, said), answer in zip(asked, answers, strict=True):
        if type(op) is Absent or type(op) is Pin:
            refused = answer is not None and not (type(op) is Pin and answer == op.value)
            value, by = answer, ""
        else:
            value, by = summed(answer)
            most = op.max if type(op) is Add else op.most if type(op) is Sum else None
            refused = most is not None and value + (op.amount if type(op) is Add else 0) > most
        if refused:
            found.append(said(Refused(0, value, by, now)))
    return found


def alive(house: House, draft: Draft, task: TaskState) -> Flow[Finding | None]:
    """Is the task at its end? Asked where nothing is reserved, so that an ended or suspended task denies and does not ask."""
    answer = draft.ask(house.store, house.store.apply, ((task.life,),), {"now": draft.now, "commit": False})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is Refused:
        return (yield from life_said(house, draft, task.life, answer, renew=False))
    return None if type(answer) is Applied else failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
