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
| execute   | the body raises; is interrupted                     | outcome error; outcome unknown                    |
| settle    | the store or a sink fails                           | the count stays (too high is the safe side)       |

Identity comes before binding, so that nobody who is not authenticated makes the guard walk through large arguments. The state
permit is a required judge of its own: no path that skips the reservation can allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic, perf_counter
from typing import Any, cast

from guard.approving import answered, resting_on, with_answers
from guard.constraints import BindError
from guard.decide import Ruling, decide
from guard.drive import INTERRUPTS, Failure, Flow, Lease, Need, Run
from guard.events import OutcomeRecord
from guard.house import House, TaskState, Ticket
from guard.learning import learning_of, settled, withheld
from guard.model import Bound, Delegation, Finding, Outcome, ToolCall, quick
from guard.ops import AMOUNT_MAX, Absent, Add, Applied, Mark, Op, Refused, Sum, Tally
from guard.reasons import ReasonCode
from guard.steps import NO_SIGNALS as _NO_SIGNALS
from guard.steps import Draft, Taken, both, clock_said, failed, forbid, life_said, refunds, revocation_said, token_said
from guard.workflow.atoms import Live
from guard.workflow.limits import Claim
from guard.workflow.plan import Plan, Weighed, reads, weigh, weigh_plain
from guard.workflow.settle import settle_ops
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


def _wanted(draft: Draft, task: TaskState, plan: Plan, weighed: Weighed) -> tuple[list[Op], int]:
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


def _granted(house: House, draft: Draft, plan: Plan, answer: object, ops: list[Op], first: int) -> bool:
    """What the store's answer means, except a refusal: False where it is one."""
    weighed = draft.weighed
    if type(answer) is Applied and len(answer.values) == len(ops) and type(tallied := answer.values[first]) is tuple:
        draft.step = tallied[0]
        draft.findings.append(_STATE_OK)
        if plan.tells or draft.claims:
            _reserved(draft, plan, [*tallied[1:], *answer.values[first + 1 :]])
        left = weighed if weighed is not None and (weighed.marks or weighed.holds) else None
        draft.taken = _new(Taken, (ops, first, answer.now, left))
        if draft.adds and plan.events.skippable and not draft.dry and draft.task is not None:
            draft.task.ran.setdefault(draft.call.tool, [False])
        return True
    if type(answer) is Refused:
        return False
    draft.findings.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
    if type(answer) is Failure:
        _take_back(house, answer, ops, first, weighed)
    return True


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


def _refusals(house: House, draft: Draft, task: TaskState, answer: Refused) -> Flow[list[Finding] | None]:
    """The findings of what the store refused; None: what was read has changed, and the call is to be judged again."""
    index, weighed = answer.index, draft.weighed
    if index == 0:
        dead = yield from life_said(house, draft, task.life, answer.value)
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
    return (yield from _trial(house, draft))


def _trial(house: House, draft: Draft) -> Flow[list[Finding]]:
    """Which claims and holds would refuse right now, each asked alone; nothing is taken."""
    found: list[Finding] = []
    fixed = [each for each in (draft.plan.fixed if draft.plan is not None else ()) if not each.source.cleared(draft.cleared)]
    asked: list[tuple[Op, Callable[[Refused], Finding]]] = []
    if draft.weighed is not None:
        asked += [(hold.op, hold.said) for hold in draft.weighed.holds if hold.said is not None]
    claims = [Claim(Add(each.key, 1, each.max, each.window, draft.id), each.source, "enforce", False) for each in fixed]
    asked += [(claim.op, claim.refused) for claim in (*claims, *draft.claims) if not claim.soft]
    for op, said in asked:
        answer = draft.ask(house.store, house.store.apply, ((op,),), {"now": draft.now, "commit": False})
        if type(answer) is Need:
            answer = yield answer
        if type(answer) is Refused:
            found.append(said(answer))
        elif type(answer) is not Applied:
            found.append(failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
            break
    return found


def _alive(house: House, draft: Draft, task: TaskState) -> Flow[Finding | None]:
    """Is the task at its end? Asked where nothing is reserved, so that an ended or suspended task denies and does not ask."""
    answer = draft.ask(house.store, house.store.apply, ((task.life,),), {"now": draft.now, "commit": False})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is Refused:
        return (yield from life_said(house, draft, task.life, answer.value, renew=False))
    return None if type(answer) is Applied else failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)


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
    if task.generation != house.generation:
        task.begin(house.generation, house.since or {})  # the policies were loaded anew since
    draft.plan = plan = task.plans.get(call.tool) or task.plan(house.layers, call.tool)
    stop = _bound(house, draft, bind) if plan.tool is not None else None  # else the plan says `tool.unknown`
    bound = draft.bound
    if bound is None:
        draft.findings += plan.always
        _besides(draft, task, plan, now, stop)
        return decide(_in_order(draft), plan.all_required)
    if call.id:
        draft.call_key = _call_key(task, call, bound)
        draft.replay = None if draft.dry else house.outcomes.get(draft.call_key)
        if draft.replay is not None:
            # Resumed: its outcome is handed out again; one decision, one record, one run (fail-open rows F67, F68).
            return Ruling("allow", ReasonCode.PERMIT, None)
    lost = 0
    while True:
        draft.adds = adds = call.tool not in task.ran if dry else not task.rests(call.tool)
        weighed = weigh_plain(plan, bound.values) if plan.plain and not adds else None
        if weighed is not None and weighed.clear:
            draft.weighed = weighed
        else:
            stop = yield from _weigh(house, draft, task, plan, bound, now)
            if stop is not None or draft.weighed is None:
                draft.findings += plan.always
                return _stopped(draft, stop)
            weighed = draft.weighed
        draft.findings, draft.claims = weighed.findings, weighed.claims
        clear = weighed.clear
        if task.incomplete or plan.incomplete is not None or (plan.ends is not None and now >= task.opened + plan.ends):
            clear = _besides(draft, task, plan, now, None) and clear
        if draft.approvals:
            weighed = draft.weighed = resting_on(draft, weighed, plan, task)
            draft.findings = with_answers(draft)
            clear = plan.possible and all(found.says == "permit" or found.mode == "monitor" for found in draft.findings)
        # Later: external decision points stand here, before the reservation, and may only narrow.
        if not clear:
            dead = (yield from _alive(house, draft, task)) if plan.watched or _asks(draft) else None
            if dead is not None:
                draft.findings.append(dead)
            if plan.fixed or draft.claims or weighed.holds:
                draft.findings += yield from _trial(house, draft)
            if house.approvals is not None and (yield from answered(house, draft, task)):
                continue
            break
        # Nobody objects so far; without the reservation's own permit nothing is allowed.
        ops, first = _wanted(draft, task, plan, weighed)
        if getattr(store, "inline", False) is True:
            try:
                answer = store.apply(ops, now=cast("datetime", draft.now), commit=not dry)
            except BaseException as error:
                answer = draft.raised(error)
            if monotonic() > draft.deadline:
                answer = Failure(None, late=True, answer=answer)
        else:
            answer = yield Need(store, store.apply, (ops,), {"now": draft.now, "commit": not dry})
        if _granted(house, draft, plan, answer, ops, first):
            break
        refused = (yield from _refusals(house, draft, task, answer)) if type(answer) is Refused else None
        if refused:
            draft.findings += refused
            if house.approvals is not None and (yield from answered(house, draft, task)):
                continue
            break
        # A race was lost: read and judge again. A refused trial that finds nothing is one too. What was approved is looked up again.
        lost += 1
        if lost == _TRIES:
            draft.findings.append(forbid("state", ReasonCode.CALL_CONTENDED))
            break
        draft.approvals, draft.cleared = (), {}
    ruling = decide(draft.findings, plan.all_required)
    if ruling.verdict == "allow" and not draft.claims:
        return ruling
    return decide(_in_order(draft), plan.all_required)


def _weigh(house: House, draft: Draft, task: TaskState, plan: Plan, bound: Bound, now: int) -> Flow[Finding | None]:
    """Read what looks back, and ask every pure judge, into the draft."""
    live = draft.live
    if live is None:
        live = draft.live = Live(bound.values)
    context, origins, asked = task.context, plan.sources, plan.asked
    wanted = reads(plan, live, context)
    own = len(wanted)
    if origins is not None:
        wanted += origins.reads(live, context, draft.call.args)
    if asked is not None:
        wanted += asked.reads(context.task)
    if wanted or plan.signals:
        stop = yield from _read(house, draft, task, plan, wanted)
        if stop is not None:
            return stop
    answers = draft.answers
    votes = asked.judge(live, answers[-1:]) if asked is not None else ()
    sourced = origins.judge(live, answers[own:], context, draft.id, draft.call.args) if origins is not None else None
    draft.masks = sourced.masks if sourced is not None else None
    at = max(now, draft.read_at)
    draft.weighed = weigh(
        plan, live, context, draft.id, at, answers[:own], draft.signals, draft.cleared, seen=not draft.adds, sourced=sourced, votes=votes
    )  # fmt: skip
    return None


def _besides(draft: Draft, task: TaskState, plan: Plan, now: int, stop: Finding | None) -> bool:
    """What stands beside the judges; True where none of it is there."""
    clear = stop is None
    if task.incomplete:
        text = "the store is younger than the token and does not know this task's past"
        draft.findings.append(Finding("task", "ask", ReasonCode.STATE_INCOMPLETE, text=text, fix="a new task"))
        clear = False
    if plan.incomplete is not None:
        draft.findings.append(plan.incomplete)
        clear = False
    if plan.ends is not None and now >= task.opened + plan.ends:
        draft.findings.append(forbid("task", ReasonCode.TASK_EXPIRED, fix="a new task"))
        clear = False
    if stop is not None:
        draft.findings.append(stop)
    return clear


def _asks(draft: Draft) -> bool:
    return not any(found.says == "forbid" and found.mode == "enforce" for found in draft.findings)


def _read(house: House, draft: Draft, task: TaskState, plan: Plan, wanted: Sequence[Op]) -> Flow[Finding | None]:
    """Signals, then the past, into the draft. A part of it that fails denies: nothing is judged on half of the past."""
    if plan.signals and draft.signals is _NO_SIGNALS:
        port = house.signals
        if port is not None:
            got = draft.ask(port, port.get, (task.delegation, plan.signals), {"now": draft.at // 1_000_000})
            if type(got) is Need:
                got = yield got
            # A port that fails has said nothing: what is missing does not satisfy.
            draft.signals = dict(got) if isinstance(got, Mapping) else _NO_SIGNALS
    if not wanted:
        return None
    ops = (*wanted, Sum(task.step_key), Sum(f"{task.key}|c"))
    answer = draft.ask(house.store, house.store.apply, (ops,), {"now": draft.now, "commit": False})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is not Applied or len(answer.values) != len(ops):
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    draft.answers, draft.read_at = answer.values[:-2], answer.now
    step, settled = answer.values[-2:]
    if isinstance(step, tuple) and isinstance(settled, tuple):
        draft.judged = (step[0], settled[0])
    return None


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
        outcome = yield from finish_flow(house, ticket, outcome)
    return ticket, outcome


def _settle(ticket: Ticket, task: TaskState, plan: Plan, outcome: Outcome, now: int) -> list[Op]:
    """What the outcome leaves behind; of an error that means that nothing happened, what is taken back."""
    if outcome.status == "ok" and plan.plain and not plan.events.every and ticket.decision.tool in task.settled:
        return []
    if outcome.status == "error" and plan.tool is not None and plan.tool.errors_have_no_effect and ticket.taken is not None:
        # A limit unit comes back; the mark of the call id stays: it was decided, and its outcome is known.
        return list(refunds(ticket.taken, marks=False))
    try:
        values = ticket.live if ticket.live is not None else Live(ticket.bound.values if ticket.bound is not None else {})
        return settle_ops(plan, values, task.context, ticket.decision.id, outcome, now, seen=ticket.decision.tool in task.settled)
    except Exception:  # a result of a strange kind: it leaves nothing behind, which is the strict side
        return []


def _streams(value: object) -> bool:
    return type(value).__name__ in ("generator", "async_generator", "coroutine")


def finish_flow(house: House, ticket: Ticket, outcome: Outcome) -> Flow[Outcome]:
    """Steps 10 and 11; the outcome to hand out. Nothing here can undo that the body ran, so nothing here raises."""
    task, plan, decision = ticket.task, ticket.plan, ticket.decision
    learning = learning_of(ticket, outcome) if plan is not None and plan.sources is not None and not decision.blocks else None
    outcome = withheld(outcome, learning)
    if ticket.call_key is not None:
        house.outcomes.put(ticket.call_key, outcome)
    clock: object
    interrupt: BaseException | None = None
    if getattr(house.clock, "inline", False) is True:
        try:
            clock = house.clock.now()
        except Exception:
            clock = None
    else:
        clock = yield Need(house.clock, house.clock.now, ())
    wall = clock if type(clock) is datetime else datetime.now(UTC)
    at = int(wall.timestamp() * 1_000_000)
    number = learnt = 0
    if task is not None and plan is not None and not decision.blocks:
        ops = _settle(ticket, task, plan, outcome, at // 1_000_000)
        if learning is not None:
            learnt = learning.learnt
        if ops or learning is not None:
            answer = yield from settled(house, task, (Add(f"{task.key}|c", 1, None, None, decision.id), *ops), learning, wall)
            if type(answer) is Applied and type(answer.values[0]) is int:
                number = answer.values[0]
                if outcome.status == "ok":
                    task.settled.add(decision.tool)
    error = type(outcome.error).__name__ if outcome.error is not None else None
    micros = int((perf_counter() - ticket.started) * 1_000_000)
    record = _outcome_record(
        decision.id, at, decision.task, decision.step, decision.tool, outcome.status, error, micros, number, 0, {}, learnt
    )
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
    return outcome
