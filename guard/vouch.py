"""What a person vouches for: that a value may be used although its source would not do, that a label does not hold any more.

Both go like a call: judged, asked about, recorded ahead. They are named as tools, `task.endorse` and `task.declassify`, and only an
approval lets them happen; who may answer stands in `asks` under `ask.endorse` and `ask.declassify` (else `ask`, else `default`).

| what                       | then                                                                              |
|----------------------------|-----------------------------------------------------------------------------------|
| `endorse(tool, arg, value)`| this argument of this tool may have this value: source `endorsed`. Satisfies flow, never a rule |
| `declassify(label)`        | what the task did before does not count for rules on the label; the next such call sets it again |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from guard.approving import answered, pseudonyms, resting_on, with_answers
from guard.constraints import ValueRefused, canonical, normalise
from guard.decide import Ruling, decide
from guard.drive import INTERRUPTS, Flow, Need
from guard.errors import ConfigError
from guard.events import ApprovalRecord
from guard.flow import finish_flow
from guard.house import House, TaskState
from guard.model import Bound, Decision, Finding, Judge, Outcome, ToolCall
from guard.ops import Add, Applied, Op, Refused, Sum
from guard.reasons import REASONS, ReasonCode
from guard.steps import Draft, failed, forbid, identify, life_said, read_clock
from guard.suggest import did_you_mean
from guard.workflow.marks import label_key
from guard.workflow.plan import Weighed
from guard.writing import conclude, note_flow

__all__ = ["DECLASSIFY", "ENDORSE", "Vouch", "declassified", "endorsed", "vouch_flow"]

ENDORSE = "task.endorse"
DECLASSIFY = "task.declassify"
_SPEAKS: tuple[Judge, ...] = ("task",)
_NOTHING = Weighed([], [], True, (), (), (), (), ())


class Vouch(NamedTuple):
    """What is vouched for. `args`: as its request names them. `kind`: of the value."""

    tool: str
    args: Mapping[str, object]
    code: ReasonCode
    kind: str = ""


def endorsed(house: House, tool: object, argument: object, value: object) -> Vouch:
    """Raises ConfigError where the policy has no such control argument, or the value is none."""
    if not isinstance(tool, str) or not isinstance(argument, str):
        raise ConfigError("`task.endorse` takes the names of a tool and of one of its control arguments, as texts")
    spec = house.layers[0].tools.get(tool)
    if spec is None:
        raise ConfigError(f"`{tool}` is not a tool of policy {house.layers[0].name}{did_you_mean(tool, house.layers[0].tools)}")
    if argument not in spec.control:
        raise ConfigError(f"`{argument}` is not a control argument of `{tool}`{did_you_mean(argument, spec.control)}")
    kind = spec.types.get(argument, "any")
    try:
        normal = normalise(kind, value, resolve=house.resolve)
    except ValueRefused:
        raise ConfigError(f"the value is not a {kind}, which `{argument}` of `{tool}` is") from None
    return Vouch(ENDORSE, {"tool": tool, "argument": argument, "value": normal}, ReasonCode.ASK_ENDORSE, kind)


def declassified(house: House, label: object) -> Vouch:
    """Raises ConfigError where no rule asks for the label: then there is nothing to take back."""
    if not isinstance(label, str):
        raise ConfigError("`task.declassify` takes a label, as a text")
    rules = [rule for layer in house.layers for rule in layer.rules]
    named = {item.label for rule in rules if rule.after is not None for item in rule.after.items if item.label is not None}
    if label not in named:
        raise ConfigError(f"no rule asks for label `{label}`{did_you_mean(label, named)}")
    return Vouch(DECLASSIFY, {"label": label}, ReasonCode.ASK_DECLASSIFY)


def vouch_flow(house: House, state: TaskState, vouch: Vouch) -> Flow[Decision]:
    """Judge, record, apply. Its decision blocks where nobody has vouched, or the task may do nothing any more."""
    draft = Draft(house, state, ToolCall(vouch.tool, vouch.args), dry=False)
    draft.bound = Bound(vouch.tool, vouch.args, vouch.args, canonical(vouch.args))
    try:
        ruling = yield from _judge(house, draft, state, vouch)
    except INTERRUPTS:
        raise
    except BaseException as error:  # as with a call: a denial with one code, and never a foreign exception (`decide_flow`)
        ruling = _instead(draft, forbid("guard", ReasonCode.GUARD_ERROR, f"an unexpected {type(error).__name__} inside the guard"))
    ticket = yield from conclude(house, draft, ruling)
    if ticket.decision.blocks:
        return ticket.decision
    done = yield from _effect(house, draft, state, vouch)
    yield from finish_flow(house, ticket, Outcome("ok" if done else "unknown"))
    for note in _notes(house, draft, state, vouch) if done else ():
        yield from note_flow(house, note)
    if done:
        return ticket.decision
    finding = forbid("state", ReasonCode.STATE_UNAVAILABLE)
    return replace(ticket.decision, verdict="deny", code=finding.code, findings=(*ticket.decision.findings, finding))


def _judge(house: House, draft: Draft, state: TaskState, vouch: Vouch) -> Flow[Ruling]:
    """The approval is used up here, before the record; what it allows follows after it."""
    if state.closed:
        return _instead(draft, forbid("task", ReasonCode.TASK_ENDED))
    state.under(house)
    stop = yield from read_clock(house, draft)
    if stop is None:
        found = yield from identify(house, draft, state.token)
        stop = found if isinstance(found, Finding) else None
    if stop is None and state.shown is not None:
        stop = yield from state.shown.takes(house, draft, state)
    if stop is not None:
        return _instead(draft, stop)
    ask = Finding("task", "ask", vouch.code, text=REASONS[vouch.code].meaning, fix="an approval of it")
    for _ in range(3):
        draft.findings, draft.approvals, draft.cleared = [ask], (), {}
        if vouch.tool == DECLASSIFY and not (yield from _held(house, draft, state, vouch)):
            return _instead(draft, forbid("state", ReasonCode.STATE_UNAVAILABLE))
        if not (yield from answered(house, draft, state)):
            break
        draft.findings = with_answers(draft)
        resting = resting_on(draft, _NOTHING, None, state)
        ops: list[Op] = [state.life, *(hold.op for hold in resting.holds), *resting.marks, Add(state.step_key, 1, None, None, draft.id)]
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now})
        if type(answer) is Applied:
            step = answer.values[-1]
            draft.step = step if type(step) is int else 0
            break
        dead = (yield from life_said(house, draft, state.life, answer)) if type(answer) is Refused and answer.index == 0 else None
        if type(answer) is not Refused or dead is not None:
            return _instead(draft, dead or failed(answer, "state", ReasonCode.STATE_UNAVAILABLE))
    else:
        return _instead(draft, forbid("state", ReasonCode.CALL_CONTENDED))
    return decide(draft.findings, _SPEAKS)


def _held(house: House, draft: Draft, state: TaskState, vouch: Vouch) -> Flow[bool]:
    """What a person who takes a label back has seen: the last call that set it stands in the request, and how often it was set in the draft.

    Attack: an agent gets the approval, sets the label once more, and then uses it.
    """
    key = label_key(state.key, str(vouch.args["label"]))
    read = yield Need(house.store, house.store.apply, ((Sum(key),),), {"now": draft.now, "commit": False})
    found = read.values[0] if type(read) is Applied else None
    if type(found) is not tuple:
        return False
    args = {**vouch.args, "last": str(found[1])}
    draft.bound, draft.answers = Bound(vouch.tool, args, args, canonical(args)), (found[0],)
    return True


def _instead(draft: Draft, finding: Finding) -> Ruling:
    """This and nothing else: an ask that was found before is not made."""
    draft.findings = [finding]
    return decide(draft.findings, ())


def _effect(house: House, draft: Draft, state: TaskState, vouch: Vouch) -> Flow[bool]:
    """What is allowed, done; False where the store did not take it, or the label was set meanwhile: nobody has vouched for that."""
    if vouch.tool == ENDORSE:
        from guard.workflow.ledger import Ledger
        from guard.workflow.observe import endorse

        ledger = Ledger(state.context.task_key, state.key)
        ops = endorse(ledger, str(vouch.args["tool"]), str(vouch.args["argument"]), vouch.kind, vouch.args["value"], draft.id)
        return type((yield Need(house.store, house.store.apply, (ops,), {"now": draft.now}))) is Applied
    key = label_key(state.key, str(vouch.args["label"]))
    times = draft.answers[0]
    if type(times) is not int:
        return False
    back = (Sum(key, None, times), Add(key, -times, None, None, draft.id))
    return type((yield Need(house.store, house.store.apply, (back,), {"now": draft.now}))) is Applied


def _notes(house: House, draft: Draft, state: TaskState, vouch: Vouch) -> list[ApprovalRecord]:
    args, named = vouch.args, vouch.tool == ENDORSE
    hashed = state.args_hmac(draft.bound.canonical) if draft.bound is not None and named else ""
    made = []
    what: Literal["endorse", "declassify"] = "endorse" if named else "declassify"
    tool, argument, label = (str(args.get(name, "")) for name in ("tool", "argument", "label"))
    for one in draft.approvals:
        by = pseudonyms(house, state.delegation, one.approver)
        made.append(ApprovalRecord(draft.at, state.delegation.txn, what, by, one.id, tool, argument, hashed, label))
    return made
