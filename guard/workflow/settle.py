"""What an outcome leaves behind.

| outcome       | ends (`require_before`) | facts | counters of the commit                              |
|---------------|-------------------------|-------|-----------------------------------------------------|
| ok            | written                 | kept  | stay                                                |
| error         | -                       | -     | stay; with `errors_have_no_effect` `Weighed.forget` |
| unknown       | -                       | -     | stay: it may have run                               |
| not executed  | -                       | -     | `Weighed.unmark`                                    |
"""

from __future__ import annotations

from guard.model import Outcome
from guard.ops import Op
from guard.workflow.atoms import Values
from guard.workflow.events import ended_well
from guard.workflow.facts import remembered
from guard.workflow.limits import Context
from guard.workflow.plan import Plan

__all__ = ["settle_ops"]


def settle_ops(plan: Plan, values: Values, context: Context, decision: str, outcome: Outcome, now: int, *, seen: bool = False) -> list[Op]:
    """`seen`: the plain ends of this tool stand already (`TaskState.settled`)."""
    if outcome.status != "ok" or plan.tool is None:
        return []
    ops = ended_well(plan.events, values, context, decision, now, seen=seen)
    if plan.tool.remember:
        ops += remembered(plan.tool, values, context, outcome.value, decision)
    return ops
