"""Late findings: what is known of a call only when it has ended, and stops its task then.

What the chain holds (events, labels, counts) has its place in the order of commits: a call is judged on what was there before it, and what
comes beside it is found on the next call. Signals have no such place. A device that was sound when a call began may not be when it ends.

| a rule `then: suspend` about the call, with `signals.*` | then                                             |
|---------------------------------------------------------|--------------------------------------------------|
| the signal is fresh, and not as it must be              | the task is suspended; the outcome's record says so |
| it is as it must be                                     | nothing                                          |
| missing or stale, or the port failed                    | nothing: the next call asks, and it denies there |
| the rule is monitored, or the call is excused from it   | nothing                                          |
| the task has ended, or is suspended already             | nothing: that stands                             |
| the store does not take it                              | in this process every further call of the task asks (`state.incomplete`) |

The body has run, and its result is handed out: bodies in flight are not stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from guard.drive import Flow, Need
from guard.house import House, TaskState, Ticket
from guard.model import Finding
from guard.ops import Applied, Pin, Put, Refused
from guard.workflow.atoms import Live

__all__ = ["late_flow"]

_TRIES = 3


def late_flow(house: House, ticket: Ticket, wall: datetime) -> Flow[Finding | None]:
    """The finding that has suspended the task. `wall`: when the call ended."""
    task, plan, port = ticket.task, ticket.plan, house.signals
    if task is None or plan is None or port is None or ticket.bound is None:
        return None
    at = int(wall.timestamp())
    names = tuple(sorted({name for each in plan.late for name in each.rule.signals}))
    heard = yield Need(port, port.get, (task.delegation, names), {"now": at})
    if not isinstance(heard, Mapping):
        return None
    values, masks = ticket.live or Live(ticket.bound.values), ticket.masks
    for each in plan.late:
        try:
            found = each.late(plan, values, at, heard, masks.letters if masks is not None else None)
        except Exception:  # noqa: S112 - a signal of a strange kind says nothing
            continue
        if found is not None and (yield from _suspend(house, task, ticket.decision.id, str(found.rule), wall)):
            return replace(found, witnesses=(ticket.decision.id,))
    return None


def _suspend(house: House, task: TaskState, by: str, rule: str, wall: datetime) -> Flow[bool]:
    """True where the task was open and is suspended now. Attack: whoever is late opens a task again that has ended."""
    stands: str = task.life.value
    for _ in range(_TRIES):
        ops = (Pin(task.life.key, stands), Put(task.life.key, f"suspended:{rule}", by))
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": wall})
        if type(answer) is Applied:
            return True
        if type(answer) is not Refused:
            # Attack: a slow moment of the store, and a task that was to be stopped goes on as if nothing had been found.
            task.incomplete = True
            return False
        if type(answer.value) is not str or not answer.value.startswith("g:"):
            return False
        stands = answer.value  # newer policies were loaded meanwhile; the task is still open
    return False
