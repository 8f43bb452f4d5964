"""What a record says of a call, and what a call takes from the state and leaves behind. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from guard.model import Finding
from guard.ops import Add, Drop, Op
from guard.policy.data import Rule
from guard.reasons import ReasonCode
from guard.replay.plans import judgeable, without_sources
from guard.sources import Seen
from guard.workflow.atoms import Values
from guard.workflow.events import left_behind
from guard.workflow.limits import Context
from guard.workflow.past import PastRule
from guard.workflow.plan import Plan, Weighed
from guard.workflow.rules import CompiledRule

__all__ = [
    "as_it_stands",
    "besides_of",
    "cleared_of",
    "forced_of",
    "is_blind",
    "is_digest",
    "path_of",
    "wanted_of",
    "what_is_left",
    "without",
]

_HANDED_ON: Final = frozenset(("task", "token", "call", "grants"))
_FAILED: Final = frozenset(("guard", "record", "external"))
_SHAPE = 16
_SOURCES: Final = frozenset(("flow", "got", "host", "from"))
NO_SOURCES: Final = "where values come from"
"""In `not_judged`: what asks for the sources of values was left out."""


# -- what a record says ----------------------------------------------------------------------------------------------------------


def as_it_stands(seen: Seen) -> bool:
    """Refused before anything was judged, or because something failed: there is nothing to judge again."""
    deciding, token, code = None, False, seen.code
    for f in seen.findings:
        if f.says == "permit":
            token = token or f.judge == "token"
        elif deciding is None and f.code == code and f.mode == "enforce":
            deciding = f
    if not token:
        return True
    if deciding is None:
        return False
    return deciding.judge in _FAILED or (deciding.judge == "state" and deciding.code != ReasonCode.CALL_ALREADY_RUN)


def besides_of(opened: int, seen: Seen, plan: Plan) -> list[Finding]:
    """What stands beside the judges: what was found of token, grants and task then, and the life of the intent."""
    findings = [
        f
        for f in seen.findings
        if f.says != "permit" and f.judge in _HANDED_ON and f.mode == "enforce" and f.code != ReasonCode.TOOL_UNKNOWN
    ]
    known = bool(findings) and any(f.code == ReasonCode.TASK_EXPIRED for f in findings)
    if plan.ends is not None and not known and seen.at // 1_000_000 >= opened + plan.ends:
        findings.append(Finding("task", "forbid", ReasonCode.TASK_EXPIRED, text="the time of the intent is over", fix="a new task"))
    return findings


def cleared_of(seen: Seen) -> dict[str, str]:
    """The asks that approvals covered, with what the record says of them."""
    head = "approved: "
    found = [f.text for f in seen.findings if f.says == "permit" and f.text.startswith(head)]
    return {text[len(head) :].partition(" ")[0]: text for text in found}


def path_of(text: str) -> str:
    """`argument order must ...`: the argument."""
    words = text.split(" ", 2)
    return words[1] if len(words) > 1 and words[0] == "argument" else ""


def is_digest(word: str) -> bool:
    return len(word) == _SHAPE and all(c in "0123456789abcdef" for c in word)


def is_blind(rule: Rule) -> bool:
    """It asks for what no foreign trace holds: signals, or which actor has proven to be one."""
    by_actor = (rule.exclusive is not None and rule.exclusive.by == "actor") or (
        rule.before is not None and rule.before.distinct == "actor"
    )
    return bool(rule.signals) or by_actor


# -- what a call takes -------------------------------------------------------------------------------------------------------------


def wanted_of(plan: Plan, weighed: Weighed, by: str, cleared: Mapping[str, str]) -> tuple[list[Op], int]:
    ops: list[Op] = [*(hold.op for hold in weighed.holds), *weighed.marks]
    first = len(ops)
    ops += [Add(each.key, 1, None if each.source.cleared(cleared) else each.max, each.window, by) for each in plan.fixed]
    ops += [claim.op for claim in weighed.claims]
    return ops, first


def forced_of(plan: Plan, weighed: Weighed, by: str) -> tuple[list[Op], int]:
    """The same for a call that ran although it would be refused: nothing of it may refuse."""
    ops: list[Op] = [hold.op._replace(need=False) for hold in weighed.holds if type(hold.op) is Drop]
    ops += weighed.marks
    first = len(ops)
    ops += [Add(each.key, 1, None, each.window, by) for each in plan.fixed]
    ops += [claim.op._replace(max=None) for claim in weighed.claims]
    return ops, first


def what_is_left(plan: Plan, values: Values, context: Context, by: str, answers: Sequence[object], weighed: Weighed, adds: bool) -> Weighed:
    """What a call that ran leaves behind although something objects: `weigh` says it only of calls that are clear."""
    if plan.tool is None:
        return weighed
    at = sum(len(rule.reads(values, context)) for rule in plan.past)
    left = left_behind(plan.events, plan.tool, values, context, by, answers[at:], seen=not adds)
    return weighed._replace(marks=left.marks, unmark=left.unmark, forget=left.forget, labels=left.labels)


def without(plan: Plan, site: str, values: Values, context: Context, now: int) -> tuple[Plan, tuple[str, ...]]:
    """The plan without what cannot be judged; at least without the rule that asked at `site`."""
    kept, names = judgeable(plan, values, context, now)
    if names:
        return kept, names
    if site.partition(".")[0] in _SOURCES:
        return without_sources(plan), (NO_SOURCES,)
    rules = tuple(each for each in plan.rules if not site.startswith(f"{each.rule.id}."))
    past = tuple(each for each in plan.past if not site.startswith(f"{each.rule.id}."))
    both: list[CompiledRule | PastRule] = [*plan.rules, *plan.past]
    gone = [each.rule.id for each in both if each not in rules and each not in past]
    return replace(plan, rules=rules, past=past), tuple(f"rule {name}" for name in gone)
