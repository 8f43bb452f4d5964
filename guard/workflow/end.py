"""`task.end`: what must be so before a task may end. Rules `when: task.end`, with keys that do not depend on a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from guard.model import Finding
from guard.ops import Op
from guard.reasons import ReasonCode
from guard.workflow.atoms import Live
from guard.workflow.limits import Context
from guard.workflow.past import PastRule, compile_verb
from guard.workflow.rules import looks_back, monitored_until
from guard.workflow.verb import Hold, fires

if TYPE_CHECKING:
    from guard.policy.data import PolicyData, Rule

__all__ = ["end_reads", "weigh_end"]

_NOTHING = Live({})


def _rules(layers: Sequence[PolicyData], intent: str | None, context: Context) -> list[tuple[Rule, PastRule | None]]:
    found: list[tuple[Rule, PastRule | None]] = []
    for layer in layers:
        for rule in layer.rules:
            if rule.when.end and (not rule.when.intents or intent in rule.when.intents):
                verb = compile_verb(rule, None, layers[0], context)
                if verb is not None:
                    found.append((rule, PastRule(rule, verb, None, monitored_until(rule))))
                elif not looks_back(rule):
                    found.append((rule, None))
    return found


def end_reads(layers: Sequence[PolicyData], intent: str | None, context: Context) -> tuple[Op, ...]:
    """What must be read before the end can be weighed."""
    return tuple(op for _, past in _rules(layers, intent, context) if past is not None for op in past.reads(_NOTHING, context))


def weigh_end(
    layers: Sequence[PolicyData], intent: str | None, context: Context, answers: Sequence[object], now: int
) -> tuple[list[Finding], list[Hold]]:
    """What the rules say of the end, nothing where none objects; and what must still be so. `unless: {intent: ...}` excuses, as for a call."""
    findings: list[Finding] = []
    holds: list[Hold] = []
    at = 0
    for rule, past in _rules(layers, intent, context):
        said: Finding | None
        if past is None:
            said = fires(rule, "fires on the end of the task", now, monitored_until(rule))
        else:
            n = len(past.reads(_NOTHING, context))
            said, held = past.judge(_NOTHING, context, answers[at : at + n], now)
            holds += held
            at += n
        unless = rule.unless
        if said is None or (
            unless is not None
            and unless.intents
            and intent in unless.intents
            and unless.flow is None
            and not unless.args
            and not unless.several
        ):
            continue
        findings.append(replace(said, code=ReasonCode.TASK_END))
    return findings, holds
