"""One call through the house: a generator from a call to a decided, recorded, executed and settled one.

| step      | what can go wrong                                   | what then                                         |
|-----------|-----------------------------------------------------|---------------------------------------------------|
| clock     | raises, garbage, drifted                            | deny `clock.*`                                    |
| identity  | no task, bad, expired or revoked token, no answer   | deny `task.*`, `token.*`, `keys.*`, `revocation.*`|
| bind      | unknown, missing, ill-typed, oversized arguments    | deny `args.*`                                     |
| judges    | a forbid, an ask, no permit                         | deny, ask, deny                                   |
| reserve   | limit used up; store fails, late, garbage           | deny `limit.*`, `rule.*`; deny `state.*`          |
| record    | a required sink fails or is late                    | the reservation is taken back; deny `record.*`    |
| execute   | the body raises; is interrupted                     | outcome error; outcome unknown                    |
| settle    | the store or a sink fails                           | the count stays (too high is the safe side)       |

Identity comes before binding, so that nobody who is not authenticated makes the guard walk through large arguments. The state
permit is a required judge of its own: no path that skips the reservation can allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic, perf_counter
from typing import Any, cast

from guard.constraints import BindError
from guard.decide import Ruling, decide
from guard.drive import INTERRUPTS, Failure, Flow, Lease, Need, Run
from guard.events import OutcomeRecord
from guard.house import House, TaskState, Ticket
from guard.model import Bound, Delegation, Finding, Outcome, ToolCall, quick
from guard.ops import Absent, Add, Applied, Mark, Op, Refused, Tally
from guard.reasons import ReasonCode
from guard.steps import Draft, Taken, both, clock_said, failed, forbid, refunds, revocation_said, token_said
from guard.workflow.limits import Claim
from guard.workflow.plan import Plan, weigh
from guard.writing import conclude, decision_of

__all__ = ["call_flow", "decide_flow", "finish_flow", "judge_flow"]

Bind = Callable[[House], Bound]
_ORDER = ("task", "token", "call", "grants", "intent", "flow", "asked", "rules", "external", "state", "record", "guard")
_STATE_OK = Finding("state", "permit", ReasonCode.PERMIT, text="reserved")
_TRIES = 3
_new: Any = tuple.__new__
"""Named tuples of the ordinary call are made past their own constructor, which takes twice as long."""
_outcome_record = quick(OutcomeRecord)


# -- the steps -----------------------------------------------------------------------------------------------------------------


def _whose(task: TaskState | None) -> Finding | None:
    if task is None:
        return forbid("task", ReasonCode.TASK_NONE, "called outside a task; open one with `with guard.task(token):`")
    return forbid("task", ReasonCode.TASK_ENDED) if task.closed else None


def _renewed(task: TaskState, found: Delegation) -> Finding | None:
    """Keys were rotated or a cache forgot: the same token, verified anew."""
    if found is task.delegation:
        return None
    if found.task != task.delegation.task or found.origin != task.delegation.origin:
        return forbid("task", ReasonCode.TASK_MISMATCH)
    task.renew(found)
    return None


def _bound(house: House, draft: Draft, bind: Bind | None) -> Finding | None:
    """The arguments fitted to the tool, into the draft; or why they do not fit."""
    try:
        draft.bound = bind(house) if bind is not None else house.binders[draft.call.tool].bind(draft.call.args, house.resolve)
    except BindError as error:
        return Finding("call", "forbid", error.code, text=str(error))
    except BaseException as error:
        if isinstance(error, INTERRUPTS):
            raise
        return forbid("call", ReasonCode.ARGS_TYPE)
    return None


def _wanted(draft: Draft, task: TaskState, plan: Plan, order: Sequence[Op]) -> tuple[list[Op], int]:
    """Everything the call takes from shared state, and where what counts begins in it."""
    by, call_key = draft.id, draft.call_key
    ops: list[Op] = [task.ended]
    if call_key is not None:
        ops += (Absent(call_key), Mark(call_key, by, value=by))
    if order:
        ops += order
    first = len(ops)
    keys, most = plan.tally
    ops.append(_new(Tally, (keys, most, by)))
    if len(keys) <= len(plan.fixed):
        ops += [Add(each.key, 1, each.max, each.window, by) for each in plan.fixed[len(keys) - 1 :]]
    if draft.claims:
        ops += [claim.op for claim in draft.claims]
    return ops, first


def _granted(house: House, draft: Draft, plan: Plan, answer: object, ops: list[Op], first: int) -> bool:
    """What the store's answer means, except a refusal: False where it is one."""
    if type(answer) is Applied and len(answer.values) == len(ops) and type(tallied := answer.values[first]) is tuple:
        draft.step = tallied[0]
        draft.findings.append(_STATE_OK)
        if plan.tells or draft.claims:
            _reserved(draft, plan, [*tallied[1:], *answer.values[first + 1 :]])
        draft.taken = _new(Taken, (ops, first, answer.now))
        return True
    if type(answer) is Refused:
        return False
    draft.findings.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
    if type(answer) is Failure:
        _take_back(house, answer, ops, first)
    return True


def _refused(house: House, draft: Draft, plan: Plan, answer: object, ops: list[Op], first: int) -> Flow[None]:
    """The finding of what refused, then, by a trial of each claim alone, of everything else that would. A race lost is judged again."""
    for _ in range(_TRIES):
        if type(answer) is Refused:
            refused = yield from _refusals(house, draft, answer, first)
            if refused:
                draft.findings += refused
                return
        answer = draft.ask(house.store, house.store.apply, (ops,), {"now": draft.now, "commit": not draft.dry})
        if type(answer) is Need:
            answer = yield answer
        if _granted(house, draft, plan, answer, ops, first):
            return
    draft.findings.append(forbid("state", ReasonCode.CALL_CONTENDED))


def _reserved(draft: Draft, plan: Plan, counted: list[object]) -> None:
    """What is to be said of what was granted: what is left of a limit, and limits that only count and went over."""
    for each, value in zip(plan.fixed, counted, strict=False):
        if each.told:
            text = f"{value} of {each.max} {each.source.unit}"
            draft.findings.append(Finding(each.source.judge, "permit", ReasonCode.PERMIT, where=each.source.where, text=text))
    for claim, value in zip(draft.claims, counted[len(plan.fixed) :], strict=True):
        said = claim.applied(value)
        if said is not None:
            draft.findings.append(said)


def _take_back(house: House, failure: Failure, ops: list[Op], first: int) -> None:
    """The store answered too late or to a cancelled caller: what it applied is taken back when it is known."""

    def undo(answer: object, now: datetime) -> None:
        if type(answer) is Applied:
            house.store.apply(refunds(Taken(ops, first, answer.now)), now=now)

    if type(failure.answer) is Applied:
        try:
            undo(failure.answer, datetime.now(UTC))
        except Exception:  # noqa: S110 - counted too high is the safe side
            pass
    house.orphan(failure, undo)


def _refusals(house: House, draft: Draft, answer: Refused, first: int) -> Flow[list[Finding]]:
    index = answer.index
    if index == 0:
        return [forbid("task", ReasonCode.TASK_ENDED)]
    if draft.call_key is not None and index == 1:
        text = "a call with this id and these arguments was decided before"
        return [Finding("state", "forbid", ReasonCode.CALL_REPLAYED, text=text, witnesses=(answer.by,) if answer.by else ())]
    if index < first:
        text = "a later step of the intent's order has already run"
        return [
            Finding(
                "intent",
                "forbid",
                ReasonCode.INTENT_ORDER,
                where=_place(draft),
                text=text,
                fix="a new task",
                witnesses=(str(answer.value),),
            )
        ]
    return (yield from _trial(house, draft))


def _place(draft: Draft) -> str | None:
    """Where the intent's permission for this tool stands."""
    plan = draft.plan
    found = [check.where for checks in plan.choices for check in checks if check.judge == "intent"] if plan is not None else []
    return found[0] if found else None


def _trial(house: House, draft: Draft) -> Flow[list[Finding]]:
    """Which claims would refuse right now, each asked alone; nothing is taken."""
    found: list[Finding] = []
    fixed = draft.plan.fixed if draft.plan is not None else ()
    claims = [Claim(Add(each.key, 1, each.max, each.window, draft.id), each.source, "enforce", False) for each in fixed]
    for claim in (*claims, *draft.claims):
        if claim.soft:
            continue
        answer = draft.ask(house.store, house.store.apply, ((claim.op,),), {"now": draft.now, "commit": False})
        if type(answer) is Need:
            answer = yield answer
        if type(answer) is Refused:
            found.append(claim.refused(answer))
        elif type(answer) is not Applied:
            found.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
            break
    return found


# -- the decision --------------------------------------------------------------------------------------------------------------


def decide_flow(house: House, task: TaskState | None, call: ToolCall, bind: Bind | None = None, *, dry: bool = False) -> Flow[Ticket]:
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
    except INTERRUPTS:
        raise
    except BaseException as error:
        return Ticket(decision_of(house, draft, _crashed(draft, error)), draft.bound, task, draft.plan)
    if draft.interrupt is not None:
        raise draft.interrupt  # Ctrl-C while a port was asked: recorded, and now it goes on
    return ticket


def _crashed(draft: Draft, error: BaseException) -> Ruling:
    """An exception anywhere in the guard is a denial with one code, never an allow and never a foreign exception."""
    draft.findings = [forbid("guard", ReasonCode.GUARD_ERROR, f"an unexpected {type(error).__name__} inside the guard")]
    return decide(draft.findings, ())


def judge_flow(house: House, draft: Draft, bind: Bind | None) -> Flow[Ruling]:
    """Steps 1 to 7: what every judge says, and the reservation if they all permit."""
    task, call, dry = draft.task, draft.call, draft.dry
    clock, verifier, revocations, store = house.clock, house.verifier, house.revocations, house.store
    # Each of the four ports in the same words: one that never blocks is asked here, any other through the driver. Written out, because
    # this is the path of every call.
    answer: object
    if getattr(clock, "inline", False) is True:
        try:
            answer = both(clock)
        except BaseException as error:
            answer = draft.raised(error)
    else:
        answer = yield Need(clock, both, (clock,))
    stop = clock_said(house, draft, answer)
    if stop is not None or task is None or task.closed:
        return _stopped(draft, stop or _whose(task))
    now = draft.at // 1_000_000
    found: object
    if getattr(verifier, "inline", False) is True:
        try:
            found = verifier.verify(task.token, now=now)
        except BaseException as error:
            found = draft.raised(error)
    else:
        found = yield Need(verifier, verifier.verify, (task.token,), {"now": now})
    if type(found) is not Delegation:
        return _stopped(draft, token_said(found))
    revoked: object
    if getattr(revocations, "inline", False) is True:
        try:
            revoked = revocations.find(found, now=now)
        except BaseException as error:
            revoked = draft.raised(error)
    else:
        revoked = yield Need(revocations, revocations.find, (found,), {"now": now})
    if revoked is not None or found is not task.delegation:
        stop = revocation_said(revoked) or _renewed(task, found)
        if stop is not None:
            return _stopped(draft, stop)
    draft.plan = plan = task.plans.get(call.tool) or task.plan(house.layers, call.tool)
    stop = _bound(house, draft, bind) if plan.tool is not None else None  # else the plan says `tool.unknown`
    bound = draft.bound
    order: Sequence[Op] = ()
    clear = False
    if bound is not None:
        draft.findings, draft.claims, order, clear = weigh(plan, bound.values, task.context, draft.id, now)
        if call.id:
            draft.call_key = _call_key(task, call, bound)
            draft.replay = None if draft.dry else house.outcomes.get(draft.call_key)
            if draft.replay is not None:
                # Resumed: its outcome is handed out again; one decision, one record, one run (fail-open rows F67, F68).
                return Ruling("allow", ReasonCode.PERMIT, None)
    else:
        draft.findings += plan.always
    if task.incomplete:
        text = "the store is younger than the token and does not know this task's past"
        draft.findings.append(Finding("task", "ask", ReasonCode.STATE_INCOMPLETE, text=text, fix="a new task"))
        clear = False
    if plan.ends is not None and now >= task.opened + plan.ends:
        draft.findings.append(forbid("task", ReasonCode.TASK_EXPIRED, fix="a new task"))
        clear = False
    if stop is not None:
        draft.findings.append(stop)
    # Later: external decision points stand here, before the reservation, and may only narrow.
    if clear:  # nobody objects so far; without the reservation's own permit nothing is allowed
        ops, first = _wanted(draft, task, plan, order)
        if getattr(store, "inline", False) is True:
            try:
                answer = store.apply(ops, now=cast("datetime", draft.now), commit=not dry)
            except BaseException as error:
                answer = draft.raised(error)
            if monotonic() > draft.deadline:
                answer = Failure(None, late=True, answer=answer)
        else:
            answer = yield Need(store, store.apply, (ops,), {"now": draft.now, "commit": not dry})
        if not _granted(house, draft, plan, answer, ops, first):
            yield from _refused(house, draft, plan, answer, ops, first)
    elif bound is not None and (plan.fixed or draft.claims):
        draft.findings += yield from _trial(house, draft)
    ruling = decide(draft.findings, plan.all_required)
    if ruling.verdict == "allow" and not draft.claims:
        return ruling
    return decide(_in_order(draft), plan.all_required)


def _stopped(draft: Draft, finding: Finding | None) -> Ruling:
    """Before anything else was looked at: nobody to judge for."""
    draft.findings.append(finding or forbid("task", ReasonCode.TASK_NONE))
    return decide(draft.findings, ())


def _in_order(draft: Draft) -> list[Finding]:
    """Findings in the order of the judges: the first forbid names the code."""
    draft.findings.sort(key=lambda f: _ORDER.index(f.judge) if f.judge in _ORDER else -1)
    return draft.findings


def _call_key(task: TaskState, call: ToolCall, bound: Bound) -> str:
    told = b"%b\x00%b\x00%b" % (call.id.encode(errors="backslashreplace"), call.tool.encode(), bound.canonical)
    return f"{task.key}|c|{sha256(told).hexdigest()}"


# -- the whole call ------------------------------------------------------------------------------------------------------------


def call_flow(
    house: House, task: TaskState | None, call: ToolCall, execute: Callable[..., object], bind: Bind | None = None
) -> Flow[tuple[Ticket, Outcome]]:
    """Steps 1 to 11: decide, run once, observe, settle."""
    ticket = yield from decide_flow(house, task, call, bind)
    if ticket.replay is not None:
        return ticket, ticket.replay
    if ticket.decision.blocks:
        return ticket, Outcome("not_executed")
    assert ticket.bound is not None
    span = ticket.span
    if span is not None:
        span.attach()
    try:
        ran = yield Run(execute, (), ticket.bound.args, Lease(call.tool))
    finally:
        if span is not None:
            span.detach()
    outcome = ran if type(ran) is Outcome else Outcome("unknown")
    if not _streams(outcome.value):
        yield from finish_flow(house, ticket, outcome)
    return ticket, outcome


def _streams(value: object) -> bool:
    return type(value).__name__ in ("generator", "async_generator", "coroutine")


def finish_flow(house: House, ticket: Ticket, outcome: Outcome) -> Flow[None]:
    """Steps 10 and 11. Nothing here can undo that the body ran, so nothing here raises."""
    task, plan, decision = ticket.task, ticket.plan, ticket.decision
    if ticket.call_key is not None:
        house.outcomes.put(ticket.call_key, outcome)
    # Later: the result is labelled and indexed here; a result that cannot be observed is withheld.
    if (
        outcome.status == "error"
        and ticket.taken is not None
        and plan is not None
        and plan.tool is not None
        and plan.tool.errors_have_no_effect
    ):
        # A limit unit comes back; the mark of the call id stays: it was decided, and its outcome is known.
        back = refunds(ticket.taken, marks=False)
        if back:
            yield Need(house.store, house.store.apply, (back,), {"now": datetime.now(UTC)})
    clock: object
    interrupt: BaseException | None = None
    if getattr(house.clock, "inline", False) is True:
        try:
            clock = house.clock.now()
        except Exception:
            clock = None
    else:
        clock = yield Need(house.clock, house.clock.now, ())
    at = int((clock if type(clock) is datetime else datetime.now(UTC)).timestamp() * 1_000_000)
    error = type(outcome.error).__name__ if outcome.error is not None else None
    micros = int((perf_counter() - ticket.started) * 1_000_000)
    record = _outcome_record(decision.id, at, decision.task, decision.step, decision.tool, outcome.status, error, micros)
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
    if ticket.span is not None:
        ticket.span.end(record)
    if task is not None:
        task.tickets.pop(decision.id, None)
    if interrupt is not None:
        raise interrupt
