"""One call through the house: a generator from a call to a decided, recorded, executed and settled one.

| step      | what can go wrong                                   | what then                                         |
|-----------|-----------------------------------------------------|---------------------------------------------------|
| clock     | raises, garbage, drifted                            | deny `clock.*`                                    |
| identity  | no task, bad, expired or revoked token, no answer   | deny `task.*`, `token.*`, `keys.*`, `revocation.*`|
| bind      | unknown, missing, ill-typed, oversized arguments    | deny `args.*`                                     |
| judges    | a forbid, an ask, no permit                         | deny, ask, deny                                   |
| read      | only where a rule looks back; the store fails       | deny `state.*`                                    |
| reserve   | limit used up; store fails, late, garbage           | deny `limit.*`, `rule.*`; deny `state.*`          |
|           | what was read has changed                           | read and judged again; at last `call.contended`   |
| record    | a required sink fails or is late                    | the reservation is taken back; deny `record.*`    |
| lend      | the credential the tool needs is not to be had      | taken back; deny `credential.*` (`guard/lending.py`) |
| execute   | the body raises; is interrupted                     | outcome error; outcome unknown                    |
| settle    | the store or a sink fails                           | the count stays (too high is the safe side)       |
|           | a late finding (`guard/late.py`)                    | the task is suspended                             |

Steps 1 to 7 are in `guard/judging.py`, what is taken from the state in `guard/reserving.py`, the record in `guard/writing.py`, what is
learnt of a result in `guard/learning.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from guard.decide import Ruling, decide
from guard.drive import INTERRUPTS, Flow, Lease, Need, Run
from guard.events import OutcomeRecord, outcome_like
from guard.house import House, TaskState, Ticket
from guard.judging import Bind, judge_flow
from guard.learning import learning_of, settled, withheld
from guard.model import Decision, Finding, Outcome, ToolCall
from guard.ops import Add, Applied, Op
from guard.reasons import ReasonCode
from guard.steps import Draft, both, forbid, refunds
from guard.workflow.atoms import Live
from guard.workflow.marks import commits
from guard.workflow.plan import Plan
from guard.workflow.settle import settle_ops
from guard.writing import conclude, decision_of

if TYPE_CHECKING:
    from guard.workflow.observe import Learning

__all__ = ["call_flow", "decide_flow", "decline_flow", "finish_flow"]

_outcome_record: Any = OutcomeRecord.__new__
_new: Any = tuple.__new__
_NOTHING: Mapping[str, object] = {}
_STREAMS = ("generator", "async_generator", "coroutine")


def decide_flow(
    house: House, task: TaskState | None, call: ToolCall, bind: Bind | Finding | None = None, *, dry: bool = False
) -> Flow[Ticket]:
    """Steps 1 to 8: a recorded decision, and the ticket under which the call may run. `dry`: judge only, nothing taken or written."""
    draft = Draft(house, task, call, dry)
    try:
        ruling = yield from judge_flow(house, draft, bind)
        if draft.replay is not None:
            return Ticket(decision_of(house, draft, ruling), draft.bound, task, draft.plan, replay=draft.replay)
    except INTERRUPTS:
        raise
    except BaseException as error:  # a panic of a native library is not an Exception (fail-open row F12)
        ruling = _crashed(draft, error)
    if dry:
        return Ticket(decision_of(house, draft, ruling), draft.bound, task, draft.plan)
    try:
        ticket = yield from conclude(house, draft, ruling)
        if draft.plan is not None and draft.plan.lends and draft.interrupt is None and not ticket.decision.blocks:
            from guard.lending import lend_flow  # few tools need a credential

            ticket = yield from lend_flow(house, draft, ticket)
            if ticket.decision.blocks:
                yield from finish_flow(house, ticket, Outcome("not_executed"))
    except INTERRUPTS:
        raise
    except BaseException as error:
        return Ticket(decision_of(house, draft, _crashed(draft, error)), draft.bound, task, draft.plan)
    if draft.interrupt is not None:
        raise draft.interrupt  # Ctrl-C while a port was asked: recorded, and now it goes on
    return ticket


def decline_flow(house: House, task: TaskState | None, call: ToolCall) -> Flow[Decision]:
    """A call that the program said no to before it was made, on record: always a deny, and nothing is taken. Who said it is not known, so it is no
    person's no: that one is in the approvals.
    """
    looked, draft = Draft(house, task, call, True), Draft(house, task, call, False)
    try:
        yield from judge_flow(house, looked, None)  # whose it is, and its arguments
        draft.at, draft.now, draft.plan, draft.bound = looked.at, looked.now, looked.plan, looked.bound
        draft.findings = [found for found in looked.findings if found.judge in ("task", "token") and found.says == "forbid"]
        draft.findings.append(forbid("task", ReasonCode.ASK_DECLINED, fix="none: this call was not wanted"))
        ticket = yield from conclude(house, draft, decide(draft.findings, ()))
    except INTERRUPTS:
        raise
    except BaseException as error:
        return decision_of(house, draft, _crashed(draft, error))
    interrupt = looked.interrupt or draft.interrupt
    if interrupt is not None:
        raise interrupt
    return ticket.decision


def _crashed(draft: Draft, error: BaseException) -> Ruling:
    """An exception anywhere in the guard is a denial with one code, never an allow and never a foreign exception."""
    draft.findings = [forbid("guard", ReasonCode.GUARD_ERROR, f"an unexpected {type(error).__name__} inside the guard")]
    return decide(draft.findings, ())


def call_flow(
    house: House, task: TaskState | None, call: ToolCall, execute: Callable[..., object], bind: Bind | None = None
) -> Flow[tuple[Ticket, Outcome]]:
    """Steps 1 to 11: decide, run once, observe, settle."""
    ticket = yield from decide_flow(house, task, call, bind)
    if ticket.replay is not None:
        return ticket, ticket.replay
    if ticket.decision.verdict != "allow":
        return ticket, Outcome("not_executed")
    assert ticket.bound is not None
    span = ticket.span
    if span is not None:
        span.attach()
    try:
        # A function that the decorator wraps is not sealed, and what it finds sealed it may not run.
        lease = ticket.lent.lease(running=bind is not None) if ticket.lent is not None else Lease(call.tool) if bind is None else None
        ran = yield _new(Run, (execute, (), ticket.bound.args, lease))
    finally:
        if span is not None:
            span.detach()
    outcome = ran if type(ran) is Outcome else Outcome("unknown")
    if type(outcome.value).__name__ not in _STREAMS:
        outcome = yield from finish_flow(house, ticket, outcome)
    return ticket, outcome


def _settle(ticket: Ticket, task: TaskState, plan: Plan, outcome: Outcome, now: int) -> list[Op]:
    """What the outcome leaves behind; of an error that means that nothing happened, what is taken back."""
    if outcome.status == "error" and plan.tool is not None and plan.tool.errors_have_no_effect and ticket.taken is not None:
        # A limit unit comes back; the mark of the call id stays: it was decided, and its outcome is known.
        return list(refunds(ticket.taken, marks=False))
    try:
        values = ticket.live if ticket.live is not None else Live(ticket.bound.values if ticket.bound is not None else {})
        return settle_ops(plan, values, task.context, ticket.decision.id, outcome, now, seen=ticket.decision.tool in task.settled)
    except Exception:  # a result of a strange kind: it leaves nothing behind, which is the strict side
        return []


def _time_of(house: House) -> Flow[tuple[datetime, int]]:
    """When the body ended, and that in microseconds: nothing is judged by it, so where the clock has no answer the system's will do."""
    clock = house.clock
    said: object
    if getattr(clock, "inline", False) is not True:
        said = yield Need(clock, both, (clock,))
    else:
        try:
            said = both(clock)
        except Exception:
            said = None
    wall, _, seconds = said if type(said) is tuple else (None, None, None)
    if type(wall) is not datetime:
        wall, seconds = datetime.now(UTC), None
    return wall, int((seconds if type(seconds) is float else wall.timestamp()) * 1_000_000)


def _left(
    house: House, ticket: Ticket, task: TaskState, plan: Plan, ops: list[Op], learning: Learning | None, outcome: Outcome, wall: datetime
) -> Flow[tuple[int, int]]:
    """`ops` and what was learnt, applied: the number of this settle in the task, and its order in the tenant where rules look over it; 0: not known."""
    decision, wide = ticket.decision, bool(ops) and plan.wide
    if wide:
        ops.insert(0, Add(commits(task.context), 1, None, None, decision.id))
    answer = yield from settled(house, task, (Add(f"{task.key}|c", 1, None, None, decision.id), *ops), learning, wall)
    if type(answer) is not Applied or type(number := answer.values[0]) is not int:
        return 0, 0
    if outcome.status == "ok" and task.plans.get(decision.tool) is plan:
        task.settled.add(decision.tool)
    return number, order if wide and type(order := answer.values[1]) is int else 0


def finish_flow(house: House, ticket: Ticket, outcome: Outcome) -> Flow[Outcome]:
    """Steps 10 and 11; the outcome to hand out. Nothing here can undo that the body ran, so nothing here raises."""
    task, plan, decision = ticket.task, ticket.plan, ticket.decision
    learning, interrupt, late = None, None, None
    lent: Mapping[str, object] = _NOTHING
    if ticket.lent is not None:
        from guard.lending import return_flow

        lent = yield from return_flow(ticket)
    if plan is not None and plan.sources is not None and decision.verdict == "allow":
        learning, interrupt = learning_of(ticket, outcome)
    if learning is not None:
        outcome = withheld(outcome, learning)
    if ticket.call_key is not None:
        house.outcomes.put(ticket.call_key, outcome)
    wall, at = yield from _time_of(house)
    number = order = 0
    stands = False  # what it leaves behind stands already
    if task is not None and plan is not None and decision.verdict == "allow":
        stands = outcome.status == "ok" and plan.plain and not plan.events.every and decision.tool in task.settled
        ops = [] if stands else _settle(ticket, task, plan, outcome, at // 1_000_000)
        if ops or learning is not None:
            number, order = yield from _left(house, ticket, task, plan, ops, learning, outcome, wall)
    if plan is not None and plan.late and decision.verdict == "allow":
        from guard.late import late_flow  # few policies have such a rule

        late = yield from late_flow(house, ticket, wall)
    error = type(outcome.error).__name__ if outcome.error is not None else None
    micros = int((perf_counter() - ticket.started) * 1_000_000)
    ordinary = plan.kept if stands and plan is not None and error is None and late is None and not lent else None
    like = ordinary.get("outcome") if ordinary is not None else None
    if like is not None:
        record = outcome_like(like, like, decision.id, at, decision.step, micros)
    else:
        task_, step, tool, learnt = decision.task, decision.step, decision.tool, learning.learnt if learning is not None else 0
        record = _outcome_record(
            OutcomeRecord, decision.id, at, task_, step, tool, outcome.status, error, micros, number, order, {}, learnt, late, lent
        )
        if ordinary is not None:
            ordinary["outcome"] = record
    for sink in house.sinks:
        if getattr(sink, "inline", False) is True:
            try:
                sink.outcome(record)
            except INTERRUPTS as stop:
                interrupt = stop
            except BaseException:  # noqa: S112 - the body ran; a sink that cannot say so changes nothing
                continue
        else:
            yield Need(sink, sink.outcome, (record,))
    if late is not None and house.spans is not None:
        house.spans.late(late, decision, task, ticket.span)
    if ticket.span is not None:
        ticket.span.end(record)
    if task is not None:
        task.tickets.pop(decision.id, None)
    if interrupt is not None:
        raise interrupt
    return outcome
