"""The plan for one tool under one delegation: everything that is known before any call is made.

Made once, kept with the delegation, asked on every call. What it costs to ask depends on the rules for this tool and on nothing
else: not on the number of tools, of policies, or on how far the task has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from guard.model import Delegation, Finding, Judge
from guard.ops import AMOUNT_MAX, Absent, Mark, Op
from guard.policy.judge import Check, bind_params, grant_checks, intent_check, judge
from guard.reasons import ReasonCode
from guard.workflow.limits import Claim, Context, LimitSource
from guard.workflow.rules import CompiledRule, compile_rule

if TYPE_CHECKING:
    from guard.policy.data import Intent, PolicyData, Tool

__all__ = ["Fixed", "Plan", "Weighed", "make_plan", "weigh"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`always`: findings that stand whatever the arguments. `choices`: per judge, the alternative permissions.

    `fixed`: limits every call takes one of, whatever its arguments; `rules`, `limits`: those that depend on them. `later`, `own`: for
    an intent's `order`: the steps that may not have run yet, and this tool's own. `required`: the judges that must permit (token,
    grants, intent when the token names one; a judge with nothing to say is not among them). `all_required`: with the
    reservation. `ends`: the intent's time to live. `tally`: keys and maxima of the task's step counter and of
    those of `fixed` without a window.
    `tells`: some of `fixed` is told.
    """

    tool: Tool | None
    always: tuple[Finding, ...]
    choices: tuple[tuple[Check, ...], ...]
    rules: tuple[CompiledRule, ...]
    limits: Mapping[int, LimitSource]
    fixed: tuple[Fixed, ...]
    later: tuple[Absent, ...]
    own: str | None
    required: tuple[Judge, ...]
    ends: int | None
    sync: Literal["os", "group"]
    tally: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
    tells: bool = False
    all_required: tuple[Judge, ...] = ()

    possible: bool = False
    """Could this tool ever be allowed under this delegation?"""


class Fixed(NamedTuple):
    """A limit whose key and amount are known before the call: one of `max`. `told`: what is left of it is said in the permit."""

    key: str
    max: int
    window: int | None
    source: LimitSource
    told: bool


Weighed = tuple[list[Finding], list[Claim], Sequence[Op], bool]
"""What the pure judges say; what the call would take from the shared state; the `order` operations, which come before the claims;
and whether nobody forbids and nobody asks, so that the claims are worth making."""


def make_plan(layers: Sequence[PolicyData], delegation: Delegation, tool: str, context: Context) -> Plan:
    """Compile what `layers` and `delegation` say about `tool`, for the task and actor of `context`."""
    base = layers[0]
    spec = base.tools.get(tool)
    token = Finding(
        "token", "permit", ReasonCode.PERMIT, text=f"token of {delegation.issuer}{' (local issuer)' if delegation.local else ''}"
    )
    if spec is None:
        unknown = Finding("call", "forbid", ReasonCode.TOOL_UNKNOWN, text=f"not a tool of policy {base.name}", fix=None)
        return Plan(
            None, (token, unknown), (), (), {}, (), (), None, ("token", "grants"), None, "os", ((), ()), False, ("token", "grants", "state")
        )
    always = [token]
    choices: list[tuple[Check, ...]] = []
    limits: dict[int, LimitSource] = {}
    sources: list[LimitSource] = []
    granted = grant_checks(delegation, tool, base.scopes)
    if isinstance(granted, Finding):
        always.append(granted)
    elif len(granted) == 1 and granted[0].test is None and granted[0].calls is None:
        always.append(granted[0].permit)  # a scope, or the task itself: nothing in it depends on the call
    else:
        choices.append(granted)
        for i, check in enumerate(granted):
            if check.calls is not None:
                # Keyed by task, not by token: two children of one grant share one count (attack A095).
                from guard.policy.data import Limit  # loaded long since, by whoever read the policy

                of = Limit(Decimal(check.calls))
                limits[id(check)] = LimitSource(of, f"g|{tool}|{i}", "grants", ReasonCode.LIMIT_CALLS, "forbid", None, None, "calls")
    required: tuple[Judge, ...] = ("token", "grants")
    later: tuple[Absent, ...] = ()
    own: str | None = None
    ends: int | None = None
    if delegation.intent is not None:
        required = ("token", "grants", "intent")
        intent = base.intents.get(delegation.intent)
        ends = intent.ttl if intent is not None else None
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
                sources.append(LimitSource(permission.limit, name, "intent", code, "forbid", None, permission.where, "calls"))
            later, own = _order(intent, tool, context)
    rules = [
        rule for layer in layers for each in layer.rules if (rule := compile_rule(each, spec, delegation.intent, layer.name)) is not None
    ]
    sources += [rule.limit for rule in rules if rule.limit is not None and rule.always]
    fixed = [Fixed(*known, source, source.rule is None) for source in sources if (known := source.fixed(context, tool)) is not None]
    fixed.sort(key=lambda each: each.window is not None)  # what is counted together stands together, and first
    together = [each for each in fixed if each.window is None]
    tally = (f"{context.task}|step", *(each.key for each in together)), (AMOUNT_MAX, *(each.max for each in together))
    settled = {id(each.source) for each in fixed}
    asked = tuple(rule for rule in rules if rule.limit is None or id(rule.limit) not in settled)
    # What cannot be undone is on disk before it starts; the rest is with the operating system.
    return Plan(
        spec, tuple(always), tuple(choices), asked, limits, tuple(fixed), later, own, required, ends,
        "os" if spec.reversible else "group", tally, any(each.told for each in fixed), (*required, "state"),
        all(finding.says == "permit" for finding in always),
    )  # fmt: skip


def _intent(base: PolicyData, delegation: Delegation, tool: str) -> tuple[Check, Intent] | Finding:
    intent = base.intents.get(delegation.intent or "")
    if intent is None:
        return Finding("intent", "forbid", ReasonCode.INTENT_UNKNOWN, text=f"policy {base.name} has no such intent")
    params = bind_params(intent, delegation.params)
    if isinstance(params, Finding):
        return params
    check = intent_check(base, delegation, intent, params, tool)
    return check if isinstance(check, Finding) else (check, intent)


def _order(intent: Intent, tool: str, context: Context) -> tuple[tuple[Absent, ...], str | None]:
    """Marks of the steps to the right of this tool, and this tool's own mark. Steps in flight and unknown count: marked before the body."""
    if tool not in intent.order:
        return (), None
    at = intent.order.index(tool)
    keys = [f"{context.task}|o|{intent.name}|{name}" for name in intent.order]
    return tuple(Absent(key) for key in keys[at + 1 :]), keys[at]


def weigh(plan: Plan, values: Mapping[str, object], context: Context, decision: str, now: int) -> Weighed:
    """Ask every pure judge; collect the claims. Findings in the order token, grants, intent, rules."""
    findings: list[Finding] = list(plan.always)
    claims: list[Claim] = []
    sources: list[LimitSource] = []
    clear = plan.possible
    for checks in plan.choices:
        found = judge(checks, values)
        if type(found) is Check:
            findings.append(found.permit)
            if plan.limits:
                source = plan.limits.get(id(found))
                if source is not None:
                    sources.append(source)
        else:
            findings.append(cast("Finding", found))
            clear = False
    for rule in plan.rules:
        if not rule.always and not rule.matches(values):
            continue
        if rule.limit is not None:
            sources.append(rule.limit)
        else:
            finding = rule.judge(values, now)
            if finding is not None:
                findings.append(finding)
                clear = clear and (finding.says == "permit" or finding.mode == "monitor")
    if sources:
        tool = plan.tool.name if plan.tool is not None else ""
        for source in sources:
            claim = source.claim(context, tool, values, decision, now)
            if isinstance(claim, Finding):
                findings.append(claim)
                clear = False
            else:
                claims.append(claim)
    order: Sequence[Op] = plan.later
    if plan.own is not None:
        order = (*plan.later, Mark(plan.own, decision, value=decision))
    return findings, claims, order, clear
