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

import hmac
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from time import perf_counter, time_ns

from guard.constraints import BindError
from guard.decide import Ruling, decide
from guard.drive import Failure, Flow, Lease, Need, Run
from guard.errors import GuardError, TokenRefused
from guard.events import DecisionRecord, OutcomeRecord, PivotRecord, TaskRecord
from guard.house import House, TaskState, Ticket, frozen_details
from guard.model import Bound, Decision, Delegation, Finding, Outcome, ToolCall
from guard.ops import Absent, Add, Applied, Mark, Op, Refused, Take
from guard.ports import Sink
from guard.reasons import REASONS, ReasonCode
from guard.workflow.limits import Claim
from guard.workflow.plan import Plan, weigh

__all__ = ["call_flow", "decide_flow", "finish_flow"]

Bind = Callable[[House], Bound]
_ORDER = ("task", "token", "call", "grants", "intent", "flow", "asked", "rules", "external", "state", "record", "guard")
_STATE_OK = Finding("state", "permit", ReasonCode.PERMIT, text="reserved")
_TRIES = 3
_INTERRUPTS = (KeyboardInterrupt, SystemExit, GeneratorExit)


def _forbid(judge: str, code: ReasonCode, text: str = "", fix: str | None = None) -> Finding:
    return Finding(judge, "forbid", code, text=text or REASONS[code].meaning, fix=fix)  # type: ignore[arg-type]


class _Draft:
    """What one flow knows so far."""

    __slots__ = ("at", "bound", "call", "call_key", "claims", "dry", "findings", "id", "now", "plan", "refund", "replay", "step", "task")

    def __init__(self, house: House, task: TaskState | None, call: ToolCall, dry: bool) -> None:
        self.id = house.ids()
        self.task = task
        self.call = call
        self.dry = dry
        self.findings: list[Finding] = []
        self.claims: list[Claim] = []
        self.bound: Bound | None = None
        self.plan: Plan | None = None
        self.now: datetime | None = None
        self.at = 0
        self.step = 0
        self.call_key: str | None = None
        self.refund: tuple[Op, ...] = ()
        self.replay: Outcome | None = None


# -- the steps -----------------------------------------------------------------------------------------------------------------


def read_clock(house: House) -> Flow[tuple[datetime, int] | Finding]:
    """Now, never earlier than any time this guard has seen. Attack: a clock set back revives an expired token."""
    wall = yield Need(house.clock, house.clock.now, ())
    steady = yield Need(house.clock, house.clock.monotonic, ())
    if type(wall) is not datetime or wall.tzinfo is None or type(steady) is not float:
        return _failed(wall if type(wall) is Failure else steady, "task", ReasonCode.CLOCK_UNAVAILABLE)
    at = wall.timestamp()
    if abs((at - house.wall0) - (steady - house.steady0)) > 60:
        return _forbid("task", ReasonCode.CLOCK_DRIFT, fix="restart the process once the clock is right")
    if at < house.high:
        at = house.high
        wall = datetime.fromtimestamp(at, UTC)
    else:
        house.high = at
    return wall, int(at)


def _failed(answer: object, judge: str, code: ReasonCode) -> Finding:
    """A port that gave no usable answer: its code, or the deadline's, or the interrupt's."""
    if type(answer) is Failure:
        if answer.interrupted:
            return _forbid(judge, ReasonCode.CALL_CANCELLED)
        if answer.late:
            return _forbid(judge, code, f"{REASONS[code].meaning}: no answer within the guard's deadline")
    return _forbid(judge, code)


def identify(house: House, token: str, now: int) -> Flow[Delegation | Finding]:
    """Token to delegation, and nothing revoked. The answer None of the revocation list, and only None, means not revoked."""
    answer = yield Need(house.verifier, house.verifier.verify, (token,), {"now": now})
    if type(answer) is Failure and isinstance(answer.error, TokenRefused) and not answer.late:
        return Finding("token", "forbid", answer.error.reason, text=str(answer.error))
    if type(answer) is not Delegation:
        return _failed(answer, "token", ReasonCode.KEYS_UNAVAILABLE)
    revoked = yield Need(house.revocations, house.revocations.find, (answer,), {"now": now})
    if type(revoked) is str and revoked:
        return _forbid("token", ReasonCode.TOKEN_REVOKED, f"{revoked} was revoked", "a new token, from an identity that was not revoked")
    if revoked is not None:
        return _failed(revoked, "token", ReasonCode.REVOCATION_UNAVAILABLE)
    return answer


def _identity(house: House, draft: _Draft, now: int) -> Flow[Finding | None]:
    task = draft.task
    if task is None:
        return _forbid("task", ReasonCode.TASK_NONE, "called outside a task; open one with `with guard.task(token):`")
    if task.closed:
        return _forbid("task", ReasonCode.TASK_ENDED)
    found = yield from identify(house, task.token, now)
    if isinstance(found, Finding):
        return found
    if found is not task.delegation:
        if found.task != task.delegation.task or found.origin != task.delegation.origin:
            return _forbid("task", ReasonCode.TASK_MISMATCH)
        task.delegation, task.plans = found, {}  # keys were rotated or a cache forgot: same token, verified anew
    return None


def _bind(house: House, draft: _Draft, bind: Bind | None) -> Finding | None:
    tool = draft.call.tool
    if tool not in house.layers[0].tools:
        return None  # the plan says `tool.unknown`
    try:
        if bind is not None:
            draft.bound = bind(house)
        else:
            draft.bound = house.binders[tool].bind(draft.call.args, house.resolve)
    except BindError as error:
        return Finding("call", "forbid", error.code, text=str(error))
    except BaseException as error:
        if isinstance(error, _INTERRUPTS):
            raise
        return _forbid("call", ReasonCode.ARGS_TYPE)
    return None


def _reserve(house: House, draft: _Draft, order: Sequence[Op]) -> Flow[None]:
    """Everything the call takes from shared state, in one transaction; `draft.refund` is what would take it back.

    Refused: the finding of what refused, then, by a trial of each claim alone, of everything else that would.
    """
    task, claims, call_key = draft.task, draft.claims, draft.call_key
    assert task is not None and draft.now is not None  # noqa: S101
    fixed: list[Op] = [Absent(f"{task.key}|ended"), Add(f"{task.key}|step", 1, None, None, draft.id)]
    if call_key is not None:
        fixed += [Absent(call_key), Mark(call_key, draft.id, value=draft.id)]
    ops = [*fixed, *order, *(claim.op for claim in claims)]
    first = len(ops) - len(claims)
    for _ in range(_TRIES):
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now, "commit": not draft.dry})
        if type(answer) is Applied and len(answer.values) == len(ops) and type(answer.values[1]) is int:
            draft.step = answer.values[1]
            draft.findings.append(_STATE_OK)
            for claim, value in zip(claims, answer.values[first:], strict=True):
                said = claim.applied(value)
                if said is not None:
                    draft.findings.append(said)
            draft.refund = refunds(ops, first, claims, answer.now)
            return
        if type(answer) is not Refused:
            draft.findings.append(_failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
            if type(answer) is Failure:
                _take_back(house, answer, ops, first, claims)
            return
        refused = yield from _refusals(house, draft, answer, first)
        if refused:
            draft.findings += refused
            return
    draft.findings.append(_forbid("state", ReasonCode.CALL_CONTENDED))


def _take_back(house: House, failure: Failure, ops: Sequence[Op], first: int, claims: Sequence[Claim]) -> None:
    """The store answered too late or to a cancelled caller: what it applied is taken back when it is known."""

    def undo(answer: object, now: datetime) -> None:
        if type(answer) is Applied:
            house.store.apply(refunds(ops, first, claims, answer.now), now=now)

    if type(failure.answer) is Applied:
        try:
            undo(failure.answer, datetime.now(UTC))
        except Exception:  # noqa: S110 - counted too high is the safe side
            pass
    house.orphan(failure, undo)


def refunds(ops: Sequence[Op], first: int, claims: Sequence[Claim], at: int) -> tuple[Op, ...]:
    """What takes a reservation back: marks are taken, claims are refunded. The step number stays used."""
    marks = tuple(Take(op.key, need=False) for op in ops[:first] if type(op) is Mark)
    return marks + tuple(claim.refund(at) for claim in claims)


def _refusals(house: House, draft: _Draft, answer: Refused, first: int) -> Flow[list[Finding]]:
    index = answer.index
    if index == 0:
        return [_forbid("task", ReasonCode.TASK_ENDED)]
    if draft.call_key is not None and index == 2:
        text = "a call with this id and these arguments was decided before"
        return [Finding("state", "forbid", ReasonCode.CALL_REPLAYED, text=text, witnesses=(answer.by,) if answer.by else ())]
    if index < first:
        text = "a later step of the intent's order has already run"
        where = draft.plan.intent.where if draft.plan is not None and draft.plan.intent is not None else None
        return [Finding("intent", "forbid", ReasonCode.INTENT_ORDER, where=where, text=text, fix="a new task", witnesses=(str(answer.value),))]
    return (yield from _trial(house, draft))


def _trial(house: House, draft: _Draft) -> Flow[list[Finding]]:
    """Which claims would refuse right now, each asked alone; nothing is taken."""
    found: list[Finding] = []
    for claim in draft.claims:
        if claim.soft:
            continue
        answer = yield Need(house.store, house.store.apply, ((claim.op,),), {"now": draft.now, "commit": False})
        if type(answer) is Refused:
            found.append(claim.refused(answer))
        elif type(answer) is not Applied:
            found.append(_failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
            break
    return found


# -- the decision --------------------------------------------------------------------------------------------------------------


def decide_flow(house: House, task: TaskState | None, call: ToolCall, bind: Bind | None = None, *, dry: bool = False) -> Flow[Ticket]:
    """Steps 1 to 8: a recorded decision, and the ticket under which the call may run. `dry`: judge only, nothing taken or written."""
    draft = _Draft(house, task, call, dry)
    try:
        ruling = yield from _judge(house, draft, bind)
        if draft.replay is not None:
            return Ticket(_decision(house, draft, ruling), draft.bound, task, draft.plan, replay=draft.replay)
    except _INTERRUPTS:
        raise
    except BaseException as error:  # a panic of a native library is not an Exception (fail-open row F12)
        ruling = _crashed(draft, error)
    if dry:
        return Ticket(_decision(house, draft, ruling), draft.bound, task, draft.plan)
    try:
        return (yield from _conclude(house, draft, ruling))
    except _INTERRUPTS:
        raise
    except BaseException as error:
        return Ticket(_decision(house, draft, _crashed(draft, error)), draft.bound, task, draft.plan)


def _crashed(draft: _Draft, error: BaseException) -> Ruling:
    """An exception anywhere in the guard is a denial with one code, never an allow and never a foreign exception."""
    draft.findings = [_forbid("guard", ReasonCode.GUARD_ERROR, f"an unexpected {type(error).__name__} inside the guard")]
    return decide(draft.findings, ())


def _judge(house: House, draft: _Draft, bind: Bind | None) -> Flow[Ruling]:
    """Steps 1 to 7: what every judge says, and the reservation if they all permit."""
    task, call = draft.task, draft.call
    clock = yield from read_clock(house)
    if isinstance(clock, Finding):
        return _stopped(draft, clock)
    draft.now, now = clock
    draft.at = int(draft.now.timestamp() * 1_000_000)
    stop = yield from _identity(house, draft, now)
    if stop is not None or task is None:
        return _stopped(draft, stop or _forbid("task", ReasonCode.TASK_NONE))
    draft.plan = plan = task.plan(house.layers, call.tool)
    stop = _bind(house, draft, bind)
    order: Sequence[Op] = ()
    if draft.bound is not None:
        draft.findings, draft.claims, order = weigh(plan, draft.bound.values, task.context, draft.id, now)
        if call.id:
            draft.call_key = _call_key(task, call, draft.bound)
            draft.replay = None if draft.dry else house.outcomes.get(draft.call_key)
            if draft.replay is not None:
                # Resumed: its outcome is handed out again; one decision, one record, one run (fail-open rows F67, F68).
                return Ruling("allow", ReasonCode.PERMIT, None)
    else:
        draft.findings += plan.always
    _task_findings(house, draft, now)
    if stop is not None:
        draft.findings.append(stop)
    # Later: external decision points stand here, before the reservation, and may only narrow.
    if draft.bound is not None and decide(draft.findings, plan.required).verdict == "allow":
        yield from _reserve(house, draft, order)
    elif draft.claims:
        draft.findings += yield from _trial(house, draft)
    _in_order(draft.findings)
    return decide(draft.findings, (*plan.required, "state"))


def _stopped(draft: _Draft, finding: Finding) -> Ruling:
    draft.findings.append(finding)
    return decide(draft.findings, ())


def _task_findings(house: House, draft: _Draft, now: int) -> None:
    task = draft.task
    assert task is not None  # noqa: S101
    if task.incomplete:
        text = "the store is younger than the token and does not know this task's past"
        draft.findings.append(Finding("task", "ask", ReasonCode.STATE_INCOMPLETE, text=text, fix="a new task"))
    intent = house.layers[0].intents.get(task.delegation.intent or "")
    if intent is not None and intent.ttl is not None and now >= task.opened + intent.ttl:
        draft.findings.append(_forbid("task", ReasonCode.TASK_EXPIRED, fix="a new task"))


def _in_order(findings: list[Finding]) -> None:
    if any(f.says != "permit" or f.mode == "monitor" for f in findings):
        findings.sort(key=lambda f: _ORDER.index(f.judge) if f.judge in _ORDER else -1)


def _call_key(task: TaskState, call: ToolCall, bound: Bound) -> str:
    told = b"%b\x00%b\x00%b" % (call.id.encode(errors="backslashreplace"), call.tool.encode(), bound.canonical)
    return f"{task.key}|c|{sha256(told).hexdigest()}"


def _decision(house: House, draft: _Draft, ruling: Ruling) -> Decision:
    task, bound = draft.task, draft.bound
    findings = tuple(draft.findings)
    witnesses = tuple(w for f in findings for w in f.witnesses)
    monitored = ruling.verdict == "allow" and any(f.mode == "monitor" for f in findings)
    args_hmac = "" if task is None or bound is None else hmac.digest(task.hmac_key, bound.canonical, "sha256").hex()[:32]
    return Decision(
        draft.id,
        ruling.verdict,
        "monitor" if monitored else "enforce",
        ruling.code,
        findings,
        ruling.finding.fix if ruling.finding is not None and ruling.verdict != "allow" else None,
        witnesses,
        task.delegation.txn if task is not None else "",
        draft.step,
        draft.call.tool if type(draft.call.tool) is str else "",
        args_hmac,
        house.policy,
        lambda: frozen_details(task, bound),
    )


def _conclude(house: House, draft: _Draft, ruling: Ruling) -> Flow[Ticket]:
    """Step 8: number, record ahead; what no required sink could take is denied and its reservation taken back."""
    task = draft.task
    if ruling.verdict != "allow":
        yield from _cancel(house, draft)
        if task is not None and draft.now is not None and draft.step == 0 and not task.closed:
            counted = (Add(f"{task.key}|step", 1, None, None, draft.id), Add(f"{task.key}|denied", 1, None, None, draft.id))
            answer = yield Need(house.store, house.store.apply, (counted,), {"now": draft.now})
            if type(answer) is Applied and type(answer.values[0]) is int:
                draft.step = answer.values[0]
    decision = _decision(house, draft, ruling)
    span = house.spans.start(decision, task, draft.call.id, time_ns()) if house.spans is not None else None
    failed = yield from _write(house, draft, decision, span)
    if failed is not None and decision.verdict == "allow":
        yield from _cancel(house, draft)
        sink, finding = failed
        draft.findings.append(finding)
        decision = _decision(house, draft, decide(draft.findings, ()))
        yield from _write(house, draft, decision, span, besides=sink)  # the refusal, to whatever sink still listens
    ticket = Ticket(decision, draft.bound, task, draft.plan, draft.refund, draft.call_key, span, perf_counter())
    if decision.blocks and span is not None:
        span.denied(decision)
    return ticket


def _cancel(house: House, draft: _Draft) -> Flow[None]:
    """Take the reservation back: the body will not run."""
    if draft.refund:
        yield Need(house.store, house.store.apply, (draft.refund,), {"now": draft.now})
        draft.refund = ()


def _write(house: House, draft: _Draft, decision: Decision, span: object, besides: Sink | None = None) -> Flow[tuple[Sink, Finding] | None]:
    """The decision record to every sink, required ones first; the first required one that failed an allow, with its finding."""
    count = 1
    if draft.task is None:
        count = house.refusals.count(str(decision.code), draft.at // 60_000_000)
        if count == 0:
            return None
    record = decision_record(house, draft.task, draft.call, draft.plan, decision, draft.at, span, count)
    for sink in house.sinks:
        if sink is besides:
            continue
        answer = yield Need(sink, sink.decision, (record,))
        if type(answer) is Failure and sink.required is not False and decision.verdict == "allow":
            return sink, _sink_failed(answer)
    return None


def _sink_failed(failure: Failure) -> Finding:
    if isinstance(failure.error, GuardError) and failure.error.code == ReasonCode.RECORD_UNAVAILABLE:
        return _forbid("record", ReasonCode.RECORD_UNAVAILABLE, str(failure.error))
    return _failed(failure, "record", ReasonCode.RECORD_UNAVAILABLE)


def decision_record(
    house: House, task: TaskState | None, call: ToolCall, plan: Plan | None, decision: Decision, at: int, span: object, count: int
) -> DecisionRecord:
    """The record of a decision: who, on what, by which rule; no values."""
    d = task.delegation if task is not None else None
    spec = plan.tool if plan is not None else None
    return DecisionRecord(
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
        str(decision.code),
        decision.findings,
        decision.fix,
        decision.witnesses,
        decision.policy,
        d.intent if d else None,
        ("local" if d.local else d.issuer) if d else "",
        str(d.credential) if d else "",
        d.credential.kid if d else "",
        task.origin if task else "",
        d.origin_kind if d else "",
        d.actors if d else (),
        d.workload if d else None,
        decision.args_hmac,
        plan.sync if plan else "os",
        getattr(span, "trace_id", ""),
        getattr(span, "span_id", ""),
        count,
    )


# -- the whole call ------------------------------------------------------------------------------------------------------------


def call_flow(house: House, task: TaskState | None, call: ToolCall, execute: Callable[..., object], bind: Bind | None = None) -> Flow[tuple[Ticket, Outcome]]:
    """Steps 1 to 11: decide, run once, observe, settle."""
    ticket = yield from decide_flow(house, task, call, bind)
    if ticket.replay is not None:
        return ticket, ticket.replay
    if ticket.decision.blocks:
        return ticket, Outcome("not_executed")
    assert ticket.bound is not None  # noqa: S101 - no allow without a bound call: `state` is required
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
    errors_have_no_effect = plan is not None and plan.tool is not None and plan.tool.errors_have_no_effect
    if ticket.refunds and outcome.status == "error" and errors_have_no_effect:
        # A limit unit comes back; the mark of the call id stays: it was decided, and its outcome is known.
        claims = tuple(op for op in ticket.refunds if type(op) is Add)
        if claims:
            yield Need(house.store, house.store.apply, (claims,), {"now": datetime.now(UTC)})
    clock = yield Need(house.clock, house.clock.now, ())
    at = int((clock if type(clock) is datetime else datetime.now(UTC)).timestamp() * 1_000_000)
    error = type(outcome.error).__name__ if outcome.error is not None else None
    micros = int((perf_counter() - ticket.started) * 1_000_000)
    record = OutcomeRecord(decision.id, at, decision.task, decision.step, decision.tool, outcome.status, error, micros)
    for sink in house.sinks:
        yield Need(sink, sink.outcome, (record,))
    if ticket.span is not None:
        ticket.span.end(record)
    if task is not None:
        task.tickets.pop(decision.id, None)


def note_flow(house: House, note: PivotRecord | TaskRecord) -> Flow[None]:
    """A record that belongs to a task, to the sinks that take such."""
    for sink in house.sinks:
        write = getattr(sink, "note", None)
        if write is not None:
            yield Need(sink, write, (note,))

