"""What stands on the spans of calls, under the names of `guard/telemetry.py`. Names, codes, keyed hashes; no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard.model import Decision
from guard.telemetry import (
    ACTOR,
    ARGS_HMAC,
    CHAIN,
    CODE,
    CREDENTIAL,
    DEFAULT_DENY,
    DEPTH,
    EFFECT,
    FIX,
    INTENT,
    ISSUER,
    MONITORED,
    OPERATION,
    ORIGIN,
    OWNER,
    POLICY,
    RULE,
    SPAN_EXECUTE,
    TASK_ID,
    TOOL_NAME,
    WITNESSES,
    WORKLOAD,
)

__all__ = ["Attributes", "executes", "facts_of", "held_by", "more_facts", "unnamed"]

Attributes = dict[str, Any]


def facts_of(task: Any, tool: str) -> Attributes:
    """What is the same for every call of a tool under one delegation."""
    d = task.delegation
    plan = task.plans.get(tool)
    spec = plan.tool if plan is not None else None
    out: Attributes = {OPERATION: SPAN_EXECUTE, TOOL_NAME: tool[:128]}
    if spec is not None:
        out[EFFECT] = ",".join(spec.effects)
    if d.intent:
        out[INTENT] = d.intent
    out[TASK_ID] = d.txn
    out[CREDENTIAL] = str(d.credential)
    out[ORIGIN] = task.origin
    out[ACTOR] = d.actor
    out[DEPTH] = d.depth
    if d.depth:
        out[CHAIN] = " > ".join(d.actors)
    if d.workload:
        out[WORKLOAD] = d.workload
    if task.owner:
        out[OWNER] = task.owner
    if d.local:
        out[ISSUER] = "local"
    return out


def more_facts(decision: Decision) -> Attributes:
    """What an allow without remark has no need to say."""
    finding = decision.deciding
    out: Attributes = {CODE: str(decision.code), POLICY: decision.policy}
    if decision.verdict != "allow" and (finding is None or finding.rule):
        out[RULE] = (finding.rule or "") if finding is not None else DEFAULT_DENY
    if decision.args_hmac:
        out[ARGS_HMAC] = decision.args_hmac
    if decision.fix:
        out[FIX] = decision.fix
    if decision.witnesses:
        out[WITNESSES] = decision.witnesses
    monitored = [f.rule or str(f.code) for f in decision.findings if f.mode == "monitor" and f.says != "permit"]
    if monitored:
        out[MONITORED] = ",".join(monitored)
    return out


def executes(span: Any, tool: str) -> bool:
    """Is this the span of a framework for the execution of this tool?"""
    attributes = getattr(span, "attributes", None)
    return isinstance(attributes, Mapping) and attributes.get(OPERATION) == SPAN_EXECUTE and attributes.get(TOOL_NAME) == tool


def held_by(delegation: Any) -> tuple[str, tuple[str, ...], str | None]:
    return str(delegation.credential), delegation.actors, delegation.workload


def unnamed(decision: Decision) -> list[tuple[str, str]]:
    named = {each for finding in decision.findings for each in finding.witnesses}
    return [("witness", each) for each in decision.witnesses if each not in named]
