"""The plan for one tool under one delegation: everything that is known before any call is made.

Made once, kept with the delegation, asked on every call. What it costs to ask depends on the rules for this tool and on nothing
else: not on the number of tools, of policies, or on how far the task has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from guard.model import Delegation, Finding, Judge
from guard.ops import Absent, Mark, Op
from guard.policy.data import Intent, Limit, PolicyData, Tool
from guard.policy.judge import Check, bind_params, grant_checks, intent_check, judge
from guard.reasons import ReasonCode
from guard.workflow.limits import Claim, Context, LimitSource
from guard.workflow.rules import CompiledRule, compile_rule

__all__ = ["Plan", "Weighed", "make_plan", "weigh"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`always`: findings that stand whatever the arguments. `choices`: per judge, the alternative permissions.

    `later`, `own`: for an intent's `order`: the steps that may not have run yet, and this tool's own. `required`: the judges that
    must permit (token, grants, intent when the token names one; a judge with nothing to say is not among them).
    """

    tool: Tool | None
    always: tuple[Finding, ...]
    choices: tuple[tuple[Check, ...], ...]
    rules: tuple[CompiledRule, ...]
    limits: Mapping[int, LimitSource]
    intent: LimitSource | None
    later: tuple[str, ...]
    own: str | None
    required: tuple[Judge, ...]
    sync: Literal["os", "group"]

    @property
    def possible(self) -> bool:
        """Could this tool ever be allowed under this delegation?"""
        return not any(finding.says == "forbid" for finding in self.always)


class Weighed(NamedTuple):
    """What the pure judges say, and what the call would take from the shared state. `order` operations come before the claims."""

    findings: list[Finding]
    claims: list[Claim]
    order: list[Op]


def make_plan(layers: Sequence[PolicyData], delegation: Delegation, tool: str) -> Plan:
    """Compile what `layers` and `delegation` say about `tool`."""
    base = layers[0]
    spec = base.tools.get(tool)
    token = Finding("token", "permit", ReasonCode.PERMIT, text=f"token of {delegation.issuer}{' (local issuer)' if delegation.local else ''}")
    if spec is None:
        unknown = Finding("call", "forbid", ReasonCode.TOOL_UNKNOWN, text=f"not a tool of {base.file}", fix=None)
        return Plan(None, (token, unknown), (), (), {}, None, (), None, ("token", "grants"), "os")
    always = [token]
    choices: list[tuple[Check, ...]] = []
    limits: dict[int, LimitSource] = {}
    granted = grant_checks(delegation, tool, base.scopes)
    if isinstance(granted, Finding):
        always.append(granted)
    else:
        choices.append(granted)
        for i, check in enumerate(granted):
            if check.calls is not None:
                # Keyed by task, not by token: two children of one grant share one count (attack A095).
                name = f"g|{tool}|{i}"
                of = Limit(Decimal(check.calls))
                limits[id(check)] = LimitSource(of, name, "grants", ReasonCode.LIMIT_CALLS, "forbid", None, None, "calls")
    required: tuple[Judge, ...] = ("token", "grants")
    own_limit: LimitSource | None = None
    later: tuple[str, ...] = ()
    own: str | None = None
    if delegation.intent is not None:
        required = ("token", "grants", "intent")
        answer = _intent(base, delegation, tool)
        if isinstance(answer, Finding):
            always.append(answer)
        else:
            check, intent = answer
            choices.append((check,))
            permission = intent.allow[tool]
            if permission.limit is not None:
                code = ReasonCode.LIMIT_SUM if permission.limit.sum else ReasonCode.LIMIT_CALLS
                name = f"i|{intent.name}|{tool}"
                own_limit = LimitSource(permission.limit, name, "intent", code, "forbid", None, permission.where, "calls")
            later, own = _order(intent, tool)
    rules = tuple(
        rule for layer in layers for each in layer.rules if (rule := compile_rule(each, spec, delegation.intent, layer.file)) is not None
    )
    # What cannot be undone is on disk before it starts; the rest is with the operating system.
    return Plan(spec, tuple(always), tuple(choices), rules, limits, own_limit, later, own, required, "os" if spec.reversible else "group")


def _intent(base: PolicyData, delegation: Delegation, tool: str) -> tuple[Check, Intent] | Finding:
    intent = base.intents.get(delegation.intent or "")
    if intent is None:
        return Finding("intent", "forbid", ReasonCode.INTENT_UNKNOWN, text=f"{base.file} has no such intent")
    params = bind_params(intent, delegation.params)
    if isinstance(params, Finding):
        return params
    check = intent_check(base, delegation, intent, params, tool)
    return check if isinstance(check, Finding) else (check, intent)


def _order(intent: Intent, tool: str) -> tuple[tuple[str, ...], str | None]:
    """Marks of the steps to the right of this tool, and this tool's own mark. Steps in flight and unknown count: marked before the body."""
    if tool not in intent.order:
        return (), None
    at = intent.order.index(tool)
    keys = [f"o|{intent.name}|{name}" for name in intent.order]
    return tuple(keys[at + 1 :]), keys[at]


def weigh(plan: Plan, values: Mapping[str, object], context: Context, decision: str, now: int) -> Weighed:
    """Ask every pure judge; collect the claims. Findings in the order token, grants, intent, rules."""
    findings: list[Finding] = list(plan.always)
    claims: list[Claim] = []
    sources: list[LimitSource] = []
    for checks in plan.choices:
        found = judge(checks, values)
        if isinstance(found, Finding):
            findings.append(found)
            continue
        findings.append(found.permit)
        source = plan.limits.get(id(found)) if plan.limits else None
        if source is not None:
            sources.append(source)
    if plan.intent is not None:
        sources.append(plan.intent)
    for rule in plan.rules:
        if not rule.matches(values):
            continue
        if rule.limit is not None:
            sources.append(rule.limit)
        else:
            finding = rule.judge(values, now)
            if finding is not None:
                findings.append(finding)
    tool = plan.tool.name if plan.tool is not None else ""
    for source in sources:
        claim = source.claim(context, tool, values, decision, now)
        if isinstance(claim, Finding):
            findings.append(claim)
        else:
            claims.append(claim)
    order: list[Op] = [Absent(f"{context.task}|{key}") for key in plan.later]
    if plan.own is not None:
        order.append(Mark(f"{context.task}|{plan.own}", decision, value=decision))
    return Weighed(findings, claims, order)
