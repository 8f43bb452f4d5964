"""The verdict: one function from findings to a ruling.

| some forbid | some ask | every required judge permits | verdict | code of        |
|-------------|----------|------------------------------|---------|----------------|
| yes         | -        | -                            | deny    | first forbid   |
| no          | yes      | -                            | ask     | first ask      |
| no          | no       | yes                          | allow   | last permit    |
| no          | no       | no                           | deny    | `default.deny` |

Monitored findings are not in the table: they are recorded and have no part in the verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from guard.model import Finding, Judge, Verdict
from guard.reasons import ReasonCode

__all__ = ["ALLOW", "Ruling", "decide"]


class Ruling(NamedTuple):
    """A verdict and the finding it rests on (None: all that permit, or default deny)."""

    verdict: Verdict
    code: ReasonCode
    finding: Finding | None


ALLOW = Ruling("allow", ReasonCode.PERMIT, None)


def decide(findings: Sequence[Finding], required: Collection[Judge]) -> Ruling:
    """Deny wins over ask, ask over allow; without a permit from every judge in `required`, deny.

    An answer outside the vocabulary (a judge that says "yes", "allow" or True) is no permit: it is a forbid, because a truthy
    answer of the wrong kind is how guards fail open.
    """
    ask: Finding | None = None
    permits: list[Judge] = []
    for finding in findings:
        says = finding.says
        if finding.mode == "monitor":  # recorded, never a vote
            continue
        if says == "permit":
            permits.append(finding.judge)
        elif says == "ask":
            ask = ask or finding
        else:  # "forbid", and anything that is not one of the three words
            return Ruling("deny", finding.code, finding)
    if ask is not None:  # an unmet ask: not yet
        return Ruling("ask", ask.code, ask)
    for judge in required or (None,):
        if judge not in permits:
            return Ruling("deny", ReasonCode.DEFAULT_DENY, None)  # nothing speaks for the call
    return ALLOW  # every required judge has said yes
