"""Step 8: a decision becomes a record, and the record reaches every sink before the body starts."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, perf_counter, time_ns
from typing import Any

from guard.decide import ALLOW, Ruling, decide
from guard.drive import Failure, Flow, Need
from guard.errors import GuardError
from guard.events import ApprovalRecord, DecisionRecord, PivotRecord, TaskRecord, decision_like
from guard.house import House, TaskState, Ticket, frozen_details
from guard.model import Decision, Finding
from guard.ops import Add, Applied, Op, Put, Refused
from guard.ports import Sink
from guard.reasons import ReasonCode
from guard.steps import Draft, Taken, failed, forbid, gone, refunds, revocation_said
from guard.workflow.atoms import Live
from guard.workflow.marks import commits
from guard.workflow.plan import Plan
from guard.workflow.weigh import keep_counters

__all__ = ["conclude", "decision_of", "meanwhile", "note_flow", "write"]

_AT_ITS_END = (ReasonCode.TASK_ENDED, ReasonCode.TASK_SUSPENDED)
_decision: Any = Decision.__new__
_record: Any = DecisionRecord.__new__


def decision_of(house: House, draft: Draft, ruling: Ruling) -> Decision:
    """The decision that follows from a draft and its ruling."""
    task, bound = draft.task, draft.bound
    witnesses: tuple[str, ...] = ()
    monitored = False
    if ruling is ALLOW and draft.agreed is not None:  # all permit, and none of them has more to say
        findings = draft.agreed
    else:
        findings = tuple(draft.findings)
        for finding in findings:
            if finding.witnesses:
                witnesses += finding.witnesses
            if finding.mode == "monitor":
                monitored = True
    allowed = ruling.verdict == "allow"
    tool = draft.call.tool
    made: Decision = _decision(
        Decision,
        draft.id,
        ruling.verdict,
        "monitor" if monitored and allowed else "enforce",
        ruling.code,
        findings,
        None if allowed or ruling.finding is None else ruling.finding.fix,
        witnesses,
        "" if task is None else task.delegation.txn,
        draft.step,
        tool if type(tool) is str else "",
        "" if task is None or bound is None else task.args_hmac(bound.canonical),
        house.policy,
        lambda: frozen_details(task, bound),
    )
    return made


def conclude(house: House, draft: Draft, ruling: Ruling) -> Flow[Ticket]:
    """Number and record ahead; what no required sink could take is denied and its reservation taken back."""
    task, allowed = draft.task, ruling.verdict == "allow"
    notes: Sequence[ApprovalRecord] = ()
    if not allowed:
        yield from cancel(house, draft)
        if task is not None and draft.now is not None and draft.step == 0 and not task.closed:
            ruling = yield from _count(house, draft, task, ruling)
        if ruling.verdict == "ask" and house.approvals is not None and task is not None:
            from guard.asking import ask_persons, asked_note

            nobody, asked = yield from ask_persons(house, draft, task)
            if nobody is not None:
                draft.findings.append(nobody)
                ruling = yield from _count(house, draft, task, decide(draft.findings, ()))
            elif asked:
                notes = (asked_note(draft, task),)
    elif draft.approvals and task is not None:
        from guard.asking import take_approvals, used_notes

        refusal = yield from take_approvals(house, draft)
        if refusal is not None:
            allowed = False
            yield from cancel(house, draft)
            ruling = yield from _count(house, draft, task, refusal)
        else:
            notes = used_notes(house, draft, task)
    decision = decision_of(house, draft, ruling)
    span = house.spans.start(decision, task, draft.call.id, time_ns()) if house.spans is not None else None
    refused = yield from write(house, draft, decision, span)
    if allowed:
        if refused is None and monotonic() > draft.deadline:
            refused = None, failed(Failure(None, late=True), "record", ReasonCode.RECORD_UNAVAILABLE)
        if refused is not None:
            yield from cancel(house, draft)
            sink, finding = refused
            draft.findings.append(finding)
            decision = decision_of(house, draft, decide(draft.findings, ()))
            yield from write(house, draft, decision, span, besides=sink)  # the refusal, to whatever sink still listens
    if notes:  # also where the record failed: what was used up stays so
        if span is not None and draft.approvals:
            span.approved(tuple(draft.cleared.values()))
        for note in notes:
            yield from note_flow(house, note)
    if span is not None and decision.verdict != "allow":
        span.denied(decision)
    if house.spans is not None:
        house.spans.decided(decision, task, draft.deadline - house.seconds)
    return Ticket(
        decision, draft.bound, task, draft.plan, draft.taken, draft.call_key, draft.live, draft.masks, False, span, perf_counter()
    )


def _count(house: House, draft: Draft, task: TaskState, ruling: Ruling) -> Flow[Ruling]:
    """Number what was not allowed; count the denial; stop the task where a rule says so, in the same list. The ruling: a task that has
    asked as often as it may is denied. Attack: ask until a tired person says yes.

    A rule suspends by a finding that enforces, whoever else forbids.
    """
    by, key = draft.id, task.key
    ops: list[Op] = [Add(task.step_key, 1, None, None, by)] if draft.step == 0 else []
    if ruling.verdict == "deny":
        ops += [Add(f"{key}|denied", 1, None, window, by) for window in house.windows]
        stops = draft.plan.suspending if draft.plan is not None else ()
        forbids = [f for f in draft.findings if f.says == "forbid" and f.mode == "enforce"]
        rule = next((f.rule for f in forbids if (f.rule, f.where) in stops), None)
        if rule is not None and not any(f.code in _AT_ITS_END for f in forbids):
            ops.append(Put(task.life.key, f"suspended:{rule}", by))
    else:
        ops.append(Add(f"{key}|asks", 1, house.most_asks, None, by))
    answer = draft.ask(house.store, house.store.apply, (ops,), {"now": draft.now})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is Refused and ruling.verdict == "ask":
        text = f"{house.most_asks} asks of this task were made, and no more may be"
        draft.findings.append(forbid("task", ReasonCode.ASK_TOO_MANY, text, fix="a new task"))
        return (yield from _count(house, draft, task, decide(draft.findings, ())))
    if type(answer) is Applied and draft.step == 0 and type(answer.values[0]) is int:
        draft.step = answer.values[0]
    return ruling


def cancel(house: House, draft: Draft, besides: tuple[Op, ...] = ()) -> Flow[Sequence[object]]:
    """Take the reservation back: the body will not run. `besides`: what goes with it in the same transaction; its answers, () where there are none."""
    taken, task = draft.taken, draft.task
    if taken is not None:
        if (
            draft.adds
            and task is not None
            and draft.plan is not None
            and draft.plan.events.skippable
            and not task.takes_back(draft.call.tool)
        ):
            taken = Taken(taken.ops, taken.first, taken.at, keep_counters(taken.left, draft.plan))
        ops = (*refunds(taken), *besides)
        if draft.plan is not None and draft.plan.wide and task is not None:
            ops += (Add(commits(task.context), 1, None, None, draft.id),)
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now})
        number = answer.values[-1] if type(answer) is Applied and len(answer.values) == len(ops) and ops else 0
        draft.taken, draft.order = None, number if ops and draft.order and type(number) is int else 0
        if besides and type(answer) is Applied and len(answer.values) == len(ops):
            first = len(refunds(taken))
            return answer.values[first : first + len(besides)]
    return ()


def write(
    house: House, draft: Draft, decision: Decision, span: object, besides: Sink | None = None
) -> Flow[tuple[Sink | None, Finding] | None]:
    """The decision record to every sink, required ones first; the first required one that failed an allow, with its finding. Nobody, with a
    finding: while an allow was being written it was taken back."""
    count, waited = 1, bool(draft.approvals)  # they were used up in a store of their own
    if draft.task is None:
        count = house.refusals.count(str(decision.code), draft.at // 60_000_000)
        if count == 0:
            return None
    record = decision_record(house, draft, decision, span, count)
    answer: object
    for sink in house.sinks:
        if sink is besides:
            continue
        if getattr(sink, "inline", False) is True:
            try:
                sink.decision(record)
                continue
            except BaseException as error:
                answer = draft.raised(error)
        else:
            answer = yield Need(sink, sink.decision, (record,))
            waited = True
        if type(answer) is Failure and sink.required is not False and decision.verdict == "allow":
            return sink, _sink_failed(answer)
    found = (yield from meanwhile(house, draft)) if waited and decision.verdict == "allow" else None
    return None if found is None else (None, found)


def meanwhile(house: House, draft: Draft) -> Flow[Finding | None]:
    """What was taken back while something was waited for. Attack: a slow disk, or a slow issuer, holds a call between decision and body, and what is
    revoked in that time runs all the same."""
    if draft.task is None:
        return None
    answer = draft.ask(house.revocations, house.revocations.find, (draft.task.delegation,), {"now": draft.at // 1_000_000})
    if type(answer) is Need:
        answer = yield answer
    found = revocation_said(answer)
    if found is None and draft.task.handed:
        found = yield from gone(house, draft, draft.task)
    return found


def _sink_failed(failure: Failure) -> Finding:
    if isinstance(failure.error, GuardError) and failure.error.code == ReasonCode.RECORD_UNAVAILABLE:
        return forbid("record", ReasonCode.RECORD_UNAVAILABLE, str(failure.error))
    return failed(failure, "record", ReasonCode.RECORD_UNAVAILABLE)


_NO_ATOMS: dict[str, object] = {}


def decision_record(house: House, draft: Draft, decision: Decision, span: Any, count: int) -> DecisionRecord:
    """The record of a decision: who, on what, by which rule; no values. Of an ordinary call, like the first one of its plan."""
    plan, call = draft.plan, draft.call.id
    if plan is None or decision.findings is not draft.agreed or draft.live is not None or draft.order:
        return _whole_record(house, draft, decision, span, count)
    first = plan.kept.get("record")
    if first is None:
        first = plan.kept["record"] = _whole_record(house, draft, decision, span, count)
    trace, own = ("", "") if span is None else (span.trace_id, span.span_id)
    called = call if type(call) is str else ""
    return decision_like(first, first, decision.id, draft.at, decision.step, called, decision.args_hmac, trace, own)


def _whole_record(house: House, draft: Draft, decision: Decision, span: object, count: int) -> DecisionRecord:
    task, call, plan, at = draft.task, draft.call, draft.plan, draft.at
    live, weighed = draft.live, draft.weighed
    deep = plan is not None and not plan.plain
    d = task.delegation if task is not None else None
    spec = plan.tool if plan is not None else None
    made: DecisionRecord = _record(
        DecisionRecord,
        decision.id,
        at,
        d.tenant if d else "",
        decision.task,
        decision.step,
        call.id if type(call.id) is str else "",
        decision.tool if spec is not None or d is None else decision.tool[:128],
        spec.effects if spec else (),
        decision.verdict,
        decision.mode,
        decision.code._value_,  # what `.value` answers after two calls
        decision.findings,
        decision.fix,
        decision.witnesses,
        decision.policy,
        d.intent if d else None,
        ("local" if d.local else d.issuer) if d else "",
        task.credential if task is not None else "",
        d.credential.kid if d else "",
        task.origin if task is not None else "",
        d.origin_kind if d else "",
        d.actors if d else (),
        d.workload if d else None,
        decision.args_hmac,
        plan.sync if plan else "os",
        getattr(span, "trace_id", ""),
        getattr(span, "span_id", ""),
        count,
        _atoms(live, plan) if live is not None and live.told else _NO_ATOMS,
        () if weighed is None else weighed.labels,
        draft.order,
        draft.judged,
        "",
        house.generation if deep else "",
        (task.context.actor_proven or "") if task is not None else "",
        task.subject if task is not None else "",
        plan.wide if plan is not None and draft.order else "",
        task.owner if task is not None else "",
    )
    return made


def _atoms(live: Live, plan: Plan | None) -> dict[str, object]:
    """What was asked of the values; of the sources, without the lists that only the ledger needs."""
    told = dict(live.told)
    if plan is not None and plan.sources is not None:
        for site in plan.sources.unrecorded:
            told.pop(site, None)
    return told


def note_flow(house: House, note: ApprovalRecord | PivotRecord | TaskRecord) -> Flow[None]:
    """A record that belongs to a task, to the sinks that take such."""
    for sink in house.sinks:
        tell = getattr(sink, "note", None)
        if tell is not None:
            yield Need(sink, tell, (note,))
