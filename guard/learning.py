"""What a task learns, through the store: of its prompt and parameters when it opens, of what the user says later, of every result.

| what                                             | its values are then                                          |
|--------------------------------------------------|--------------------------------------------------------------|
| the prompt of the first opener at depth 0        | `prompt`; what is quoted in it, `text`                       |
| another prompt, later                            | nothing: whoever comes second does not speak for the user    |
| the prompt of a sub-agent                        | `text`: it was written by an agent that has read things      |
| the token's parameters, the origin's identifiers | `params`                                                     |
| a result                                         | as the tool's `returns` says, see `guard.workflow.shapes`    |
| a result that nobody could look at               | withheld; what is unknown from then on may be one of its     |
| a stream                                         | not looked at: the same, and it is handed on                 |

What the store does not take is not learnt, and then the task may have seen more than is known of it: what is unknown is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from guard.drive import INTERRUPTS, Failure, Flow, Need
from guard.errors import GuardError
from guard.house import House, TaskState, Ticket
from guard.model import Delegation, Finding, Outcome
from guard.ops import Applied, Op, Refused
from guard.reasons import ReasonCode
from guard.steps import Draft, failed

if TYPE_CHECKING:
    from guard.workflow.asked import AskedState
    from guard.workflow.ledger import Ledger
    from guard.workflow.observe import Learning

__all__ = ["learn_opening", "learn_said", "learning_of", "settled", "withheld"]


def _ledger(state: TaskState) -> Ledger:
    from guard.workflow.ledger import Ledger

    return Ledger(state.context.task_key, state.key)


def _asked(house: House, text: str | None) -> AskedState | None:
    """What the words ask for, by the words of every layer that has `asked`; None where no layer asks."""
    from guard.workflow.asked import asked_of, words_of

    rows = [row for layer in house.layers if layer.flow is not None for row in layer.flow.values()]
    if all(layer.asked is None for layer in house.layers) and not any(row.handed for row in rows):
        return None
    return asked_of(text, words_of(house.layers))


def _params(house: House, delegation: Delegation) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """The token's parameters in normal form, with their types; none where they do not fit the intent, which denies every call."""
    from guard.policy.judge import bind_params

    intent = house.layers[0].intents.get(delegation.intent or "")
    params = bind_params(intent, delegation.params) if intent is not None else {}
    return ({}, {}) if intent is None or isinstance(params, Finding) else (params, intent.params)


def learn_opening(house: House, draft: Draft, state: TaskState, prompt: str | None) -> Flow[Finding | None]:
    """Prompt and parameters, when a task is opened. Only where some policy asks where values come from."""
    from guard.policy.judge import identifiers
    from guard.workflow.observe import opening

    ledger, (params, types) = _ledger(state), _params(house, state.delegation)
    me = identifiers(state.delegation)
    own = prompt if state.delegation.depth == 0 else None
    answer = yield Need(
        house.store,
        house.store.apply,
        (opening(ledger, own, params, types, me=me, asked=_asked(house, own)),),
        {"now": draft.now},
    )
    if type(answer) is Refused:  # Attack: a second opener gives the task the words it needs.
        answer = yield Need(house.store, house.store.apply, (opening(ledger, None, params, types, me=me),), {"now": draft.now})
    if type(answer) is not Applied:
        return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
    return (yield from _said(house, draft, state, prompt, "", trusted=False)) if prompt is not None and own is None else None


def learn_said(house: House, draft: Draft, state: TaskState, text: str, quoted: str) -> Flow[Finding | None]:
    """What the user says later; of a sub-agent, what another agent says."""
    return (yield from _said(house, draft, state, text, quoted, trusted=state.delegation.depth == 0))


def _said(house: House, draft: Draft, state: TaskState, text: str, quoted: str, *, trusted: bool) -> Flow[Finding | None]:
    from guard.workflow.grams import without
    from guard.workflow.ledger import room
    from guard.workflow.observe import said

    ledger = _ledger(state)
    ops = said(ledger, text, quoted=quoted, trusted=trusted, by=draft.id)
    ops = [*room(ledger, len(ops), draft.id), *ops]
    asked = _asked(house, without(text, quoted)) if trusted else None
    more: list[Op] = asked.ops(state.key, draft.id) if asked is not None else []
    answer = yield Need(house.store, house.store.apply, ([*ops, *more],), {"now": draft.now})
    if type(answer) is Refused:  # the ledger is full: what is unknown may be one of these
        answer = yield Need(house.store, house.store.apply, ([ledger.widen(draft.id), *more],), {"now": draft.now})
    return None if type(answer) is Applied else failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)


# -- results -------------------------------------------------------------------------------------------------------------------


def learning_of(ticket: Ticket, outcome: Outcome) -> tuple[Learning | None, BaseException | None]:
    """What is to be learnt of an outcome, None where nobody asks; and the interrupt that came meanwhile (Ctrl-C).

    Whatever goes wrong here withholds the result. Attack: a result that raises no `Exception` when it is looked at (a panic of a native
    library, a cancellation) leaves a call without an outcome.
    """
    task, plan = ticket.task, ticket.plan
    if task is None or plan is None or plan.sources is None or ticket.bound is None or not plan.sources.learns:
        return None, None
    from guard.policy.judge import identifiers
    from guard.workflow.ledger import Masks
    from guard.workflow.observe import Learning, learn, observe, wide_ops

    ledger = _ledger(task)
    try:
        if ticket.streamed:
            return Learning(wide_ops(ledger, ticket.decision.id), (), 0), None
        seen = observe(plan.sources, outcome, ticket.bound.values, identifiers(task.delegation))
        return learn(plan.sources, ledger, seen, ticket.masks or Masks(), ticket.decision.id), None
    except BaseException as error:
        return Learning(wide_ops(ledger, ticket.decision.id), (), 0, failed=True), error if isinstance(error, INTERRUPTS) else None


def withheld(outcome: Outcome, learning: Learning | None) -> Outcome:
    """The outcome to hand out. A result that could not be looked at would carry values into the model that no later call is judged by."""
    if learning is None or not learning.failed:
        return outcome
    code = ReasonCode.OBSERVE_FAILED
    error = GuardError("the result could not be looked at and is withheld; the tool did run", code=str(code))
    return Outcome(outcome.status, None, error)


def _waiting(task: TaskState) -> Iterator[Op]:
    """What waits for the next list; each to one thread."""
    while True:
        try:
            one = task.pending.pop()
        except IndexError:
            return
        yield one


def settled(house: House, task: TaskState, ops: Sequence[Op], learning: Learning | None, wall: datetime) -> Flow[object]:
    """Apply what a call leaves when it has ended, with what was learnt; where the ledger has no room, with its mark that it has none."""
    before = [*ops, *_waiting(task)]
    more = learning.ops if learning is not None else ()  # none at all where there was nothing to learn: that widens nothing
    answer = yield Need(house.store, house.store.apply, ((*before, *more),), {"now": wall})
    if type(answer) is Failure and answer.answer is not None:
        answer = answer.answer  # late, or to a cancelled caller: it is done all the same
    if learning is None:
        return answer
    if type(answer) is Refused and answer.index == len(before):
        answer = yield Need(house.store, house.store.apply, ((*before, *learning.full),), {"now": wall})
    elif type(answer) is Applied:
        refund = learning.refund(answer.values[len(before) :], _ledger(task))
        if refund is not None:
            task.pending.append(refund)
    if type(answer) is not Applied and learning.ops:
        # Attack: a value that a text brought into a slow moment passes for one that only the trusted list has (`also`).
        task.unlearnt = True
        task.pending.append(_ledger(task).widen(""))
    return answer
