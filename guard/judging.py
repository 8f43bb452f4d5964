"""Steps 1 to 7: what every judge says of a call, and the reservation if they all permit.

Identity comes before binding, so that nobody who is not authenticated makes the guard walk through large arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from time import monotonic

from guard.approving import answered, resting_on, with_answers
from guard.constraints import BindError
from guard.decide import ALLOW, Ruling, decide
from guard.drive import INTERRUPTS, Failure, Flow, Need
from guard.house import House, SystemClock, TaskState
from guard.model import Bound, Delegation, Finding, ToolCall
from guard.ops import Applied, Op, Refused, Sum
from guard.reasons import ReasonCode
from guard.reserving import Question, alive, granted, look, objections, questions, refusals, trial, wanted
from guard.steps import NO_SIGNALS as _NO_SIGNALS
from guard.steps import Draft, actor_of, both, clock_said, failed, forbid, gone, revocation_said, token_said, with_keys
from guard.workflow.atoms import Live
from guard.workflow.marks import commits
from guard.workflow.plan import Plan
from guard.workflow.verb import summed
from guard.workflow.weigh import reads, weigh, weigh_plain

__all__ = ["Bind", "judge_flow"]

Bind = tuple[int, Sequence[object], Mapping[str, object]]
"""A call as Python wrote it: number of the binder (`House.fitted`), arguments by position and by name."""
_ORDER = ("task", "token", "call", "grants", "intent", "flow", "asked", "rules", "external", "state", "record", "guard")
_TRIES = 3


def _whose(task: TaskState | None) -> Finding | None:
    if task is None:
        return forbid("task", ReasonCode.TASK_NONE, "called outside a task; open one with `with guard.task(token):`")
    return forbid("task", ReasonCode.TASK_ENDED) if task.closed else None


def _renewed(house: House, draft: Draft, task: TaskState, found: Delegation) -> Flow[Finding | None]:
    """Keys were rotated, the registry changed, or a cache forgot: the same token, verified anew."""
    if found is task.delegation:
        return None
    if found.task != task.delegation.task or found.origin != task.delegation.origin:
        return forbid("task", ReasonCode.TASK_MISMATCH)
    if house.registry is not None:
        # Attack: a key or a workload is taken from an identity, and its open tasks go on counting as that one for a separation of duty.
        proven = yield from actor_of(house, draft, found)
        if proven != task.context.actor_proven:
            task.context = replace(task.context, actor_proven=proven)
    task.renew(found)
    return None


def _bound(house: House, draft: Draft, bind: Bind | Finding | None) -> Finding | None:
    """The arguments fitted to the tool, into the draft; or why they do not fit."""
    try:
        if bind is None:
            draft.bound = house.binders[draft.call.tool].bind(draft.call.args, house.resolve)
        elif isinstance(bind, Finding):  # `Guard.arefuse`: whoever hands the call over knows better than its arguments
            return bind
        else:
            number, args, kwargs = bind
            binder = house.fitted[number][2]
            draft.bound = binder.bind_call(args, kwargs, house.resolve) if args else binder.bind(kwargs, house.resolve)
    except BindError as error:
        return Finding("call", "forbid", error.code, text=str(error))
    except BaseException as error:
        if isinstance(error, INTERRUPTS):
            raise
        return forbid("call", ReasonCode.ARGS_TYPE)
    return None


def judge_flow(house: House, draft: Draft, bind: Bind | Finding | None) -> Flow[Ruling]:
    """Steps 1 to 7: what every judge says, and the reservation if they all permit."""
    stop = yield from _identified(house, draft)
    task, call, now = draft.task, draft.call, draft.at // 1_000_000
    if stop is not None or task is None:
        return _stopped(draft, stop)
    plans = task.plans
    draft.plan = plan = (plans.get(call.tool) if plans.load == house.load else None) or task.plan(house, call.tool)
    stop = _bound(house, draft, bind) if plan.tool is not None else None  # else the plan says `tool.unknown`
    bound = draft.bound
    if bound is None:
        draft.findings += plan.always
        _besides(draft, task, plan, now, stop)
        return decide(_in_order(draft), plan.all_required)
    once = False
    if plan.proof or call.proof:
        from guard.proving import by_workload, proven

        stop = proven(draft, task, plan, bound, now)
        if stop is None and "workload" in plan.proof:
            stop = yield from by_workload(house, draft, task, now)
        if stop is not None:
            return _stopped(draft, stop)
        once = bool(call.proof) or draft.request is not None
    if call.id:
        draft.call_key = _call_key(task, call, bound)
        # What came with a proof is not handed out again: whoever saw call and proof pass could ask for it.
        draft.replay = None if draft.dry or once else house.outcomes.get(draft.call_key)
        if draft.replay is not None:
            # Resumed: its outcome is handed out again; one decision, one record, one run (fail-open rows F67, F68).
            return Ruling("allow", ReasonCode.PERMIT, None)
    stop = yield from _agreed(house, draft, task, plan, bound, now)
    if stop is not None:
        draft.findings += plan.always
        return _stopped(draft, stop)
    if draft.agreed is not None:
        return ALLOW  # as `decide` said of these findings when the plan was taken (`TaskState.plan`)
    ruling = decide(draft.findings, plan.all_required)
    if ruling.verdict == "allow" and not draft.claims:
        return ruling
    return decide(_in_order(draft), plan.all_required)


def _identified(house: House, draft: Draft) -> Flow[Finding | None]:
    """What time it is, and that the call is made in an open task, under a token that holds; or why not.

    As `read_clock` and `identify` say it, written out for the path of every call (what that saves: docs/design/0003): a port that never blocks is asked here,
    any other through the driver.
    """
    clock, verifier, revocations = house.clock, house.verifier, house.revocations
    answer: object
    if getattr(clock, "inline", False) is True:
        try:
            answer = clock.read() if type(clock) is SystemClock else both(clock)
        except BaseException as error:
            answer = draft.raised(error)
    else:
        answer = yield Need(clock, both, (clock,))
    stop, task = clock_said(house, draft, answer), draft.task
    if stop is not None or task is None or task.closed:
        return stop or _whose(task)
    now = draft.at // 1_000_000
    if getattr(verifier, "inline", False) is True:
        try:
            answer = verifier.verify(task.token, now=now)
        except BaseException as error:
            answer = draft.raised(error)
    else:
        answer = yield Need(verifier, verifier.verify, (task.token,), {"now": now})
    found = answer
    if type(found) is not Delegation:
        found = yield from with_keys(house, draft, task.token, found)
        if type(found) is not Delegation:
            return token_said(found)
    if getattr(revocations, "inline", False) is True:
        try:
            answer = revocations.find(found, now=now)
        except BaseException as error:
            answer = draft.raised(error)
    else:
        answer = yield Need(revocations, revocations.find, (found,), {"now": now})
    if answer is not None or found is not task.delegation:
        stop = revocation_said(answer) or (yield from _renewed(house, draft, task, found))
        if stop is not None:
            return stop
    return (yield from gone(house, draft, task)) if task.handed else None


def _agreed(house: House, draft: Draft, task: TaskState, plan: Plan, bound: Bound, now: int) -> Flow[Finding | None]:
    """Every judge is asked, and if nobody objects the call takes what it takes; a lost race is judged again. The findings are in the draft; None, or
    what kept them from being asked.
    """
    call, store = draft.call, house.store
    lost = 0
    asked: Sequence[Question] | None = None
    while True:
        draft.adds = adds = call.tool not in task.ran if draft.dry else not task.rests(call.tool)
        weighed = weigh_plain(plan, bound.values) if plan.plain and not adds and asked is None else None
        if weighed is not None and weighed.clear:
            draft.weighed = weighed
        else:
            stop = yield from _weigh(house, draft, task, plan, bound, now, asked)
            if stop is not None or draft.weighed is None:
                return stop or forbid("guard", ReasonCode.GUARD_ERROR)
            weighed = draft.weighed
        draft.findings, draft.claims = list(weighed.findings), weighed.claims
        clear = weighed.clear
        if task.incomplete or plan.incomplete is not None or (plan.ends is not None and now >= task.opened + plan.ends):
            clear = _besides(draft, task, plan, now, None) and clear
        if draft.approvals:
            weighed = draft.weighed = resting_on(draft, weighed, plan, task)
            draft.findings = with_answers(draft)
            clear = plan.possible and all(found.says == "permit" or found.mode == "monitor" for found in draft.findings)
        if asked:
            draft.findings += (found := objections(asked, draft.looked, draft.read_at))
            clear = clear and not found
        # Later: external decision points stand here, before the reservation, and may only narrow.
        if not clear:
            if plan.wide and asked is None and ((asked := questions(draft)) or draft.read_at):
                continue  # all of it once more in one look, at a known place in the order of the tenant: so a replay can say it again
            dead = (yield from alive(house, draft, task)) if plan.watched or _asks(draft) else None
            if dead is not None:
                draft.findings.append(dead)
            if asked is None and (plan.fixed or draft.claims or weighed.holds):
                draft.findings += yield from trial(house, draft)
            if house.approvals is not None and (yield from answered(house, draft, task)):
                asked = None
                continue
            return None
        # Nobody objects so far; without the reservation's own permit nothing is allowed.
        ops, first = wanted(draft, task, plan, weighed)
        answer: object
        if getattr(store, "inline", False) is True:
            try:
                answer = store.apply(ops, now=draft.now, commit=not draft.dry)  # type: ignore[arg-type] # the clock has said it
            except BaseException as error:
                answer = draft.raised(error)
            if monotonic() > draft.deadline:
                answer = Failure(None, late=True, answer=answer)
        else:
            answer = yield Need(store, store.apply, (ops,), {"now": draft.now, "commit": not draft.dry})
        if granted(house, draft, plan, answer, ops, first):
            return None
        refused = (yield from refusals(house, draft, task, answer)) if type(answer) is Refused else None
        if refused:
            draft.findings += refused
            if house.approvals is not None and (yield from answered(house, draft, task)):
                continue
            return None
        # A race was lost: read and judge again. A refused trial that finds nothing is one too. What was approved is looked up again.
        lost += refused is None or asked is not None or not plan.wide or bool(draft.approvals)  # else it is only asked what refused
        if lost == _TRIES:
            draft.findings.append(forbid("state", ReasonCode.CALL_CONTENDED))
            return None
        asked = questions(draft) if plan.wide and not draft.approvals else None
        draft.approvals, draft.cleared, draft.endorses = (), {}, False


def _weigh(
    house: House, draft: Draft, task: TaskState, plan: Plan, bound: Bound, now: int, besides: Sequence[Question] | None
) -> Flow[Finding | None]:
    """Read what looks back, and ask every pure judge, into the draft. `besides`: what is read with it, of a call that was refused."""
    live = draft.live
    if live is None:
        live = draft.live = Live(bound.values)
    context, origins, asked = task.context, plan.sources, plan.asked
    if origins is not None and task.unlearnt:
        origins = replace(origins, young=True)
    asks = reads(plan, live, context)
    own = len(asks)
    if origins is not None:
        asks += origins.reads(live, context, draft.call.args)
    if asked is not None:
        asks += asked.reads(context.task)
    if asks or plan.signals or besides:
        stop = yield from _read(house, draft, task, plan, asks, besides)
        if stop is not None:
            return stop
    answers = draft.answers
    votes = asked.judge(live, answers[-1:]) if asked is not None else ()
    sourced = origins.judge(live, answers[own:], context, draft.id, draft.call.args) if origins is not None else None
    draft.masks = sourced.masks if sourced is not None else None
    at = max(now, draft.read_at)
    weighed = weigh(
        plan, live, context, draft.id, at, answers[:own], draft.signals, draft.cleared, seen=not draft.adds, sourced=sourced, votes=votes
    )  # fmt: skip
    if draft.mark is not None or draft.request is not None:
        from guard.proving import with_marks

        weighed = with_marks(weighed, draft)
    draft.weighed = weighed
    return None


def _besides(draft: Draft, task: TaskState, plan: Plan, now: int, stop: Finding | None) -> bool:
    """What stands beside the judges; True where none of it is there."""
    clear = stop is None
    if task.incomplete:
        text = "the store does not know all of this task's past"
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


def _read(
    house: House, draft: Draft, task: TaskState, plan: Plan, asks: Sequence[Op], besides: Sequence[Question] | None
) -> Flow[Finding | None]:
    """Signals, then the past, into the draft. A part of it that fails denies: nothing is judged on half of the past."""
    if plan.signals and draft.signals is _NO_SIGNALS:
        port = house.signals
        if port is not None:
            got = draft.ask(port, port.get, (task.delegation, plan.signals), {"now": draft.at // 1_000_000})
            if type(got) is Need:
                got = yield got
            # A port that fails has said nothing: what is missing does not satisfy.
            draft.signals = dict(got) if isinstance(got, Mapping) else _NO_SIGNALS
    if not asks and not besides:
        return None
    ops = (*asks, Sum(task.step_key), Sum(f"{task.key}|c"))
    if besides is not None:
        ops += (Sum(commits(task.context)), *(look(op) for op, _ in besides))
    answer = draft.ask(house.store, house.store.apply, (ops,), {"now": draft.now, "commit": False})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is not Applied or len(answer.values) != len(ops):
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    own = len(asks)
    draft.answers, draft.read_at = answer.values[:own], answer.now
    step, settled = answer.values[own : own + 2]
    if besides is not None:
        draft.order, draft.looked = summed(answer.values[own + 2])[0] + 1, answer.values[own + 3 :]
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
