"""Opening and ending a task: the flows behind `with guard.task(token):`.

| at the opening                                        | answer                              |
|-------------------------------------------------------|-------------------------------------|
| the token does not verify, or something of it is revoked | `token.*`, `keys.*`, `revocation.*` |
| the task was ended before (its tombstone stands)      | `task.ended`                        |
| the task is known with another origin, intent or parameters | `task.mismatch`               |
| unknown to a durable store that is younger than the token | opened, every call asks: `state.incomplete` |
| a rule suspended it                                   | `task.suspended`                    |
| it was judged by newer policies than these            | `policy.older`                      |
| another credential, actor or workload than last time  | opened, and a pivot is recorded     |
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from os import urandom
from time import time_ns
from typing import TYPE_CHECKING, Final

from guard.constraints import canonical
from guard.decide import Ruling, decide
from guard.drive import Flow, Need
from guard.events import PivotRecord, TaskRecord
from guard.handed import ancestors, descent_key, gone
from guard.house import House, TaskState, owner_of
from guard.learning import learn_opening, learn_said
from guard.model import Decision, Delegation, Finding, Judge, ToolCall
from guard.ops import Add, Applied, Know, Lookup, Mark, Op, Pin, Put, Refused, Take, map_text, parse_map
from guard.reasons import ReasonCode
from guard.steps import Draft, actor_of, failed, forbid, identify, life_said, read_clock
from guard.workflow.end import end_reads, weigh_end
from guard.workflow.events import SOURCES, shapes_in
from guard.workflow.limits import Context
from guard.workflow.verb import Hold
from guard.writing import decision_of, note_flow, write

if TYPE_CHECKING:
    from guard.shown import Shown

__all__ = ["begin_flow", "end_flow", "open_flow", "says_flow"]

_SPEAKS: Final[tuple[Judge, ...]] = ("task",)
"""Who must permit the end of a task."""


def open_flow(house: House, token: str, prompt: str | None, shown: Shown | None = None) -> Flow[TaskState | Decision]:
    """Verify, pin, and open; or the recorded refusal. `shown`: what came with the HTTP request that presents the token."""
    draft = Draft(house, None, ToolCall("task.open"), dry=False)
    stop = yield from read_clock(house, draft)
    if stop is not None or draft.now is None:
        return (yield from _refuse(house, draft, stop or forbid("task", ReasonCode.CLOCK_UNAVAILABLE)))
    now = draft.at // 1_000_000
    found = yield from identify(house, draft, token)
    if isinstance(found, Finding):
        return (yield from _refuse(house, draft, found))
    if shown is not None:
        stop = yield from shown.enters(house, draft, found, token)
        if stop is not None:
            return (yield from _refuse(house, draft, stop))
    if house.since is None:
        stop = yield from _begin(house, draft, now)
        if stop is not None:
            return (yield from _refuse(house, draft, stop))
    opened = yield from _pin(house, draft, found, draft.now, now)
    if isinstance(opened, Finding):
        return (yield from _refuse(house, draft, opened))
    first, since, incomplete, before, keys, descent = opened
    key = task_key(found)
    proven = yield from actor_of(house, draft, found)
    context = Context(
        key, found.tenant, found.origin, found.actor, keys[0], keys[1], person_of(found),
        proven, found.depth, since,
    )  # fmt: skip
    try:
        hmac_key = house.blinds.task_key(found.tenant, found.issuer, found.txn)
        origin = house.blinds.origin(found.tenant, found.person or found.origin)
        subject = house.blinds.origin(found.tenant, found.origin) if found.person and found.person != found.origin else ""
    except Exception:
        return (
            yield from _refuse(house, draft, forbid("record", ReasonCode.RECORD_UNAVAILABLE, "the keys for pseudonyms are not available"))
        )
    state = TaskState(token, found, key, context, hmac_key, origin, since, first, incomplete, prompt)
    state.subject, state.shown = subject, shown
    if house.registry is not None:
        state.owner = owner_of(house.registry, found)
    state.under(house)
    above = ancestors(descent, found)
    state.handed = above or ()
    stop = forbid("state", ReasonCode.STATE_UNAVAILABLE) if above is None else (yield from gone(house, draft, state))
    if stop is not None:
        return (yield from _refuse(house, draft, stop))
    if house.tracks:
        stop = yield from learn_opening(house, draft, state, prompt)
        if stop is not None:
            return (yield from _refuse(house, draft, stop))
    holder = _holder(found)
    if before is not None and before != holder:
        changed = tuple(
            name
            for name, old, new in zip(("credential", "actor", "workload"), before.split("\n"), holder.split("\n"), strict=False)
            if old != new
        )
        note = PivotRecord(draft.at, found.txn, changed, before.split("\n")[0], str(found.credential), found.actors, found.workload, origin)
        yield from note_flow(house, note)
    if house.spans is not None:
        house.spans.opened(state, house.policy)
    return state


def says_flow(house: House, state: TaskState, text: object, quoted: object) -> Flow[Decision | None]:
    """More words of the user; None where they were heard, else the recorded refusal."""
    draft = Draft(house, state, ToolCall("task.user_says"), dry=False)
    if state.closed:
        return (yield from _refuse(house, draft, forbid("task", ReasonCode.TASK_ENDED)))
    if type(text) is not str or type(quoted) is not str:
        return (yield from _refuse(house, draft, forbid("call", ReasonCode.ARGS_TYPE, "what the user says is text")))
    state.under(house)
    stop = yield from read_clock(house, draft)
    if stop is None:
        found = yield from identify(house, draft, state.token)
        stop = found if isinstance(found, Finding) else None
    if stop is None and state.shown is not None:
        stop = yield from state.shown.takes(house, draft, state)
    if stop is None:
        answer = yield Need(house.store, house.store.apply, ((state.life,),), {"now": draft.now, "commit": False})
        if type(answer) is Refused:
            stop = yield from life_said(house, draft, state.life, answer, renew=False)
        elif type(answer) is not Applied:
            stop = failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    if stop is None and house.tracks:
        stop = yield from learn_said(house, draft, state, text, quoted)
    return None if stop is None else (yield from _refuse(house, draft, stop))


def task_key(delegation: Delegation) -> str:
    """The prefix of a task's state keys. Hashed: issuer and txn are the issuer's words and may hold any character."""
    return sha256("\x00".join(delegation.task).encode()).hexdigest()[:32]


def _holder(d: Delegation) -> str:
    return "\n".join((str(d.credential), ">".join(d.actors), d.workload or ""))


def person_of(d: Delegation) -> str | None:
    """The proven person behind the work: the token says so, or its subject is one."""
    return d.person or (d.origin if d.origin_kind == "person" else None)


def begin_flow(house: House, *, late: bool = False, newest: bool = True) -> Flow[Finding | None]:
    """`_begin` for policies that are loaded into a running guard: they are the newest, also where they were loaded before (a rollback).

    `late`: tasks may be open that began in this very second.
    """
    draft = Draft(house, None, ToolCall("policy.reload"), dry=False)
    stop = yield from read_clock(house, draft)
    return stop if stop is not None else (yield from _begin(house, draft, draft.at // 1_000_000 + late, newest=newest))


def _begin(house: House, draft: Draft, now: int, *, newest: bool = False) -> Flow[Finding | None]:
    """Once after a load: the number of these policies, and from when on their shapes are counted.

    | these policies      | their number | a shape is counted since                                                             |
    |---------------------|--------------|--------------------------------------------------------------------------------------|
    | never seen          | the next     | as stored, where the policies just before had it too; else now                       |
    | seen; a process starts | as it was | as stored, where these policies, or newer ones, had it last; else now                |
    | seen, loaded again  | the next     | as where they were never seen                                                        |

    Attack: a rule is dropped and comes back, and what a task did in between was not counted.
    """
    tag = f"gen|{house.generation}"
    answer = yield Need(house.store, house.store.apply, ((Lookup(tag),),), {"now": draft.now})
    if type(answer) is not Applied:
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    number, fresh = answer.values[0], False
    if newest or type(number) is not str or not number.isdigit():
        counted = yield Need(house.store, house.store.apply, ((Add("gen", 1),),), {"now": draft.now})
        if type(counted) is not Applied:
            return failed(counted, "state", ReasonCode.STATE_UNAVAILABLE)
        number, fresh = str(counted.values[0]), True
        # Two processes that start with the same policies at once: the first number stands.
        op = Put(tag, number) if newest else Pin(tag, number)
        answer = yield Need(house.store, house.store.apply, ((op,),), {"now": draft.now})
        if type(answer) is Refused and type(answer.value) is str and answer.value.isdigit():
            number, fresh = answer.value, False
        elif type(answer) is not Applied:
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    shapes = sorted({shape for layer in house.layers for found in shapes_in(layer).values() for shape in found})
    shapes += [SOURCES] if house.tracks else []
    if shapes:
        answer = yield Need(house.store, house.store.apply, ([Lookup(f"since|{shape}") for shape in shapes],), {"now": draft.now})
        if type(answer) is not Applied or len(answer.values) != len(shapes):
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        since = {shape: _since(text, int(number) - fresh, now) for shape, text in zip(shapes, answer.values, strict=True)}
        kept = [
            Put(f"since|{shape}", map_text({"at": str(since[shape]), "n": max(number, parse_map(text).get("n", "0"), key=int)}))
            for shape, text in zip(shapes, answer.values, strict=True)
        ]
        answer = yield Need(house.store, house.store.apply, (kept,), {"now": draft.now})
        if type(answer) is not Applied:
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        house.since = since
    else:
        house.since = {}
    return None


def _since(text: object, least: int, now: int) -> int:
    """`text`: since when, and the number of the last policies that had the shape. `least`: what that must be to go on counting."""
    found = parse_map(text)
    at, last = found.get("at", ""), found.get("n", "")
    return int(at) if at.isdigit() and last.isdigit() and int(last) >= least else now


_Opened = tuple[bool, int, bool, str | None, tuple[bytes, bytes], object]


def _pin(house: House, draft: Draft, d: Delegation, wall: datetime, now: int) -> Flow[_Opened | Finding]:
    """First sight pins origin, intent and parameters; ended tasks leave tombstones. The keys of hashes are drawn once and shared."""
    key = task_key(d)
    pin = sha256(canonical({"origin": d.origin, "intent": d.intent, "params": dict(d.params)})).hexdigest()
    life = Pin(f"{key}|life", house.generation, draft.id)
    ops: list[Op] = [
        life,
        Pin(f"{key}|pin", pin),
        Lookup(f"{key}|opened"),
        Lookup(f"{key}|incomplete"),
        Put(f"{key}|holder", _holder(d)),
        Know(f"{d.tenant}|key", "k", urandom(16).hex()),
        Lookup(f"{d.tenant}|key"),
        Know(f"{key}|key", "k", urandom(16).hex()),
        Lookup(f"{key}|key"),
        Lookup(descent_key(key, d)),
    ]
    answer: object = None
    for _ in range(3):
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": wall})
        if type(answer) is not Refused:
            break
        if answer.index != 0:
            return forbid("task", ReasonCode.TASK_MISMATCH)
        dead = yield from life_said(house, draft, life, answer)
        if dead is not None:
            return dead
    if type(answer) is not Applied or len(answer.values) != len(ops):
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    keys = tuple(parse_map(answer.values[at]).get("k", "") for at in (6, 8))
    if not all(len(text) == 32 for text in keys):
        return forbid("state", ReasonCode.STATE_UNAVAILABLE)
    first, since, incomplete, before = answer.values[1] is True, answer.values[2], answer.values[3] is not None, answer.values[4]
    if type(since) is not str or not since.isdigit():
        born = getattr(house.store, "born", None)
        # A durable store that was lost or replaced knows nothing of what the task has done: a person must look, limits may be spent.
        incomplete = incomplete or (type(born) is datetime and d.issued_at < int(born.timestamp()))
        marks: list[Op] = [Mark(f"{key}|opened", value=str(now))]
        if incomplete:
            marks.append(Mark(f"{key}|incomplete", value="store"))
        marked = yield Need(house.store, house.store.apply, (marks,), {"now": wall})
        if type(marked) is not Applied:
            return failed(marked, "state", ReasonCode.STATE_UNAVAILABLE)
        since = str(now)
    return first, int(since), incomplete, before if type(before) is str else None, (keys[0].encode(), keys[1].encode()), answer.values[9]


def _refuse(house: House, draft: Draft, finding: Finding) -> Flow[Decision]:
    draft.findings.append(finding)
    decision = decision_of(house, draft, Ruling("deny", finding.code, finding))
    span = house.spans.start(decision, None, "", time_ns()) if house.spans is not None else None
    yield from write(house, draft, decision, span)
    if span is not None:
        span.denied(decision)
    return decision


def end_flow(house: House, state: TaskState, *, final: bool = True) -> Flow[Decision]:
    """Judge `task.end`, leave a tombstone; the verdict is recorded, whatever it is.

    | the rules         | `final` (the outermost `with` is left)   | not `final` (`task.end()`)               |
    |-------------------|------------------------------------------|------------------------------------------|
    | let it end        | ended                                    | ended                                    |
    | do not            | deny or ask, recorded; ended all the same | the same, and open: it can be repaired   |
    """
    draft = Draft(house, state, ToolCall("task.end"), dry=False)
    finding = yield from read_clock(house, draft)
    if finding is None and state.shown is not None and not final:
        finding = yield from state.shown.takes(house, draft, state)
    findings: list[Finding] = []
    ended = False
    for _ in range(3) if finding is None else ():
        findings, holds, finding = yield from _judge_end(house, draft, state)
        objects = [f for f in findings if f.says != "permit" and f.mode == "enforce"]
        if finding is not None or (objects and not final):
            break
        ops: list[Op] = [] if objects else [hold.op for hold in holds]
        ops += [Put(f"{state.key}|life", f"ended:{draft.id}", draft.id), Take(f"{state.key}|key", need=False), Lookup(f"{state.key}|step")]
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now})
        if type(answer) is Refused:
            continue  # what was read has changed
        ended = type(answer) is Applied
        if not ended:
            finding = failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        break
    else:
        finding = finding or forbid("state", ReasonCode.CALL_CONTENDED)
    state.closed = ended or final
    draft.findings += findings
    if finding is not None:
        draft.findings.append(finding)
    if not any(f.says != "permit" and f.mode == "enforce" for f in draft.findings):
        draft.findings.append(Finding("task", "permit", ReasonCode.PERMIT, text="the task may end"))
    decision = decision_of(house, draft, decide(draft.findings, _SPEAKS))
    at = draft.at or int(datetime.now(UTC).timestamp() * 1_000_000)
    rules = tuple(dict.fromkeys(f.rule for f in findings if f.rule and f.says != "permit"))
    yield from note_flow(house, TaskRecord(at, decision.task, decision.verdict, str(decision.code), decision.step, rules, decision.policy))
    if house.spans is not None:
        house.spans.ended(state, decision)
    forget = getattr(house.approvals, "forget", None) if ended else None
    if forget is not None:  # what the task has asked for, arguments and all: nobody can answer it any more
        yield Need(house.approvals, forget, state.delegation.task, {"now": at // 1_000_000})
    return decision


def _judge_end(house: House, draft: Draft, state: TaskState) -> Flow[tuple[list[Finding], list[Hold], Finding | None]]:
    intent, context = state.delegation.intent, state.context
    wanted = end_reads(house.layers, intent, context)
    answer: object = Applied((), draft.at // 1_000_000)
    if wanted:
        answer = yield Need(house.store, house.store.apply, (wanted,), {"now": draft.now, "commit": False})
    if type(answer) is not Applied or len(answer.values) != len(wanted):
        return [], [], failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    findings, holds = weigh_end(house.layers, intent, context, answer.values, answer.now)
    return findings, holds, None
