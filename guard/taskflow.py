"""Opening and ending a task: the flows behind `with guard.task(token):`.

| at the opening                                        | answer                              |
|-------------------------------------------------------|-------------------------------------|
| the token does not verify, or something of it is revoked | `token.*`, `keys.*`, `revocation.*` |
| the task was ended before (its tombstone stands)      | `task.ended`                        |
| the task is known with another origin, intent or parameters | `task.mismatch`               |
| unknown to a durable store that is younger than the token | opened, every call asks: `state.incomplete` |
| another credential, actor or workload than last time  | opened, and a pivot is recorded     |
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from time import time_ns

from guard.constraints import canonical
from guard.decide import Ruling
from guard.drive import Flow, Need
from guard.events import PivotRecord, TaskRecord
from guard.house import House, TaskState
from guard.model import Decision, Delegation, Finding, ToolCall
from guard.ops import Absent, Applied, Lookup, Mark, Op, Pin, Put, Refused
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, forbid, identify, read_clock
from guard.workflow.limits import Context
from guard.writing import decision_of, note_flow, write

__all__ = ["end_flow", "open_flow"]


def open_flow(house: House, token: str, prompt: str | None) -> Flow[TaskState | Decision]:
    """Verify, pin, and open; or the recorded refusal."""
    draft = Draft(house, None, ToolCall("task.open"), dry=False)
    stop = yield from read_clock(house, draft)
    if stop is not None or draft.now is None:
        return (yield from _refuse(house, draft, stop or forbid("task", ReasonCode.CLOCK_UNAVAILABLE)))
    now = draft.at // 1_000_000
    found = yield from identify(house, draft, token)
    if isinstance(found, Finding):
        return (yield from _refuse(house, draft, found))
    opened = yield from _pin(house, found, draft.now, now)
    if isinstance(opened, Finding):
        return (yield from _refuse(house, draft, opened))
    first, since, incomplete, before = opened
    key = task_key(found)
    context = Context(key, found.tenant, found.origin, found.actor)
    try:
        hmac_key = house.blinds.task_key(found.tenant, found.issuer, found.txn)
        origin = house.blinds.origin(found.tenant, found.person or found.origin)
    except Exception:
        return (
            yield from _refuse(house, draft, forbid("record", ReasonCode.RECORD_UNAVAILABLE, "the keys for pseudonyms are not available"))
        )
    state = TaskState(token, found, key, context, hmac_key, origin, since, first, incomplete, prompt)
    holder = _holder(found)
    if before is not None and before != holder:
        changed = tuple(
            name
            for name, old, new in zip(("credential", "actor", "workload"), before.split("\n"), holder.split("\n"), strict=False)
            if old != new
        )
        note = PivotRecord(draft.at, found.txn, changed, before.split("\n")[0], str(found.credential), found.actors, found.workload, origin)
        yield from note_flow(house, note)
    return state


def task_key(delegation: Delegation) -> str:
    """The prefix of a task's state keys. Hashed: issuer and txn are the issuer's words and may hold any character."""
    return sha256("\x00".join(delegation.task).encode()).hexdigest()[:32]


def _holder(d: Delegation) -> str:
    return "\n".join((str(d.credential), ">".join(d.actors), d.workload or ""))


def _pin(house: House, d: Delegation, wall: datetime, now: int) -> Flow[tuple[bool, int, bool, str | None] | Finding]:
    """First sight pins origin, intent and parameters; ended tasks leave tombstones."""
    key = task_key(d)
    pin = sha256(canonical({"origin": d.origin, "intent": d.intent, "params": dict(d.params)})).hexdigest()
    ops: list[Op] = [
        Absent(f"{key}|ended"),
        Pin(f"{key}|pin", pin),
        Lookup(f"{key}|opened"),
        Lookup(f"{key}|incomplete"),
        Put(f"{key}|holder", _holder(d)),
    ]
    answer = yield Need(house.store, house.store.apply, (ops,), {"now": wall})
    if type(answer) is Refused:
        return forbid("task", ReasonCode.TASK_ENDED if answer.index == 0 else ReasonCode.TASK_MISMATCH)
    if type(answer) is not Applied or len(answer.values) != len(ops):
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
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
    return first, int(since), incomplete, before if type(before) is str else None


def _refuse(house: House, draft: Draft, finding: Finding) -> Flow[Decision]:
    draft.findings.append(finding)
    decision = decision_of(house, draft, Ruling("deny", finding.code, finding))
    span = house.spans.start(decision, None, "", time_ns()) if house.spans is not None else None
    yield from write(house, draft, decision, span)
    if span is not None:
        span.denied(decision)
    return decision


def end_flow(house: House, state: TaskState) -> Flow[Decision]:
    """Judge `task.end`, leave a tombstone. Rules `when: task.end` come with the workflow rules; the verdict is recorded if it is not allow."""
    draft = Draft(house, state, ToolCall("task.end"), dry=False)
    finding = yield from read_clock(house, draft)
    if finding is None:
        key = state.key
        ops = (Mark(f"{key}|ended", value=draft.id), Lookup(f"{key}|step"))
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now})
        if type(answer) is not Applied:
            finding = failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    state.closed = True
    draft.findings.append(finding or Finding("task", "permit", ReasonCode.PERMIT, text="the task may end"))
    if finding is None:
        return decision_of(house, draft, Ruling("allow", ReasonCode.PERMIT, None))
    decision = decision_of(house, draft, Ruling("deny", finding.code, finding))
    at = draft.at or int(datetime.now(UTC).timestamp() * 1_000_000)
    yield from note_flow(house, TaskRecord(at, decision.task, decision.verdict, str(decision.code), decision.step))
    return decision
