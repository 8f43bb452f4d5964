"""The plan for one tool under one delegation: everything that is known before any call is made.

Made once, kept with the delegation, asked on every call. What it costs to ask depends on the rules for this tool and on nothing
else: not on the number of tools, of policies, or on how far the task has come.

| what            | comes of                                                | costs a call without it |
|-----------------|---------------------------------------------------------|-------------------------|
| `fixed`         | limits on the number of calls                           | -                       |
| `rules`         | rules judged on the call alone, limits with arguments   | -                       |
| `past`          | verbs that look back: read first, held at the commit    | -                       |
| `order`, `once` | held at the commit                                      | -                       |
| `events`        | what a call of this tool leaves behind (`events.py`)    | a look into a set       |
| `sources`       | `flow`, `from`, `carries`, `unless: {flow: ...}`        | -                       |
| `asked`         | the prompt's words                                      | -                       |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from guard.model import Delegation, Finding, Judge, Signal
from guard.ops import AMOUNT_MAX, Absent, Drop, Op, Refused, Sum
from guard.policy.judge import Check, bind_params, grant_checks, intent_check, judge, refused
from guard.reasons import ReasonCode
from guard.workflow.atoms import Live, Values
from guard.workflow.events import NOTHING, SOURCES, Events, compile_events, left_behind, look, shapes_in
from guard.workflow.limits import Claim, Context, LimitSource
from guard.workflow.marks import once_key
from guard.workflow.past import Hold, PastRule, compile_past
from guard.workflow.rules import CompiledRule, compile_rule, concerns, excused, looks_back, monitored_until, uses_sources

if TYPE_CHECKING:
    from guard.policy.data import Intent, PolicyData, Rule, Tool
    from guard.workflow.asked import AskedPlan
    from guard.workflow.flowtable import Sourced, SourcePlan

__all__ = [
    "RESERVED", "Agreed", "Fixed", "Plan", "Weighed", "approved", "keep_counters", "make_plan", "reads", "weigh", "weigh_plain",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`always`: findings that stand whatever the arguments. `choices`: per judge, the alternative permissions.

    `fixed`: limits every call takes one of, whatever its arguments; `rules`, `limits`: those that depend on them. `order`: for an
    intent's `order`: the steps that may not have run yet. `intent`: the delegation's. `required`: the judges that must permit (token,
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
    order: tuple[Hold, ...]
    required: tuple[Judge, ...]
    ends: int | None
    sync: Literal["os", "group"]
    tally: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
    tells: bool = False
    all_required: tuple[Judge, ...] = ()

    possible: bool = False
    """Could this tool ever be allowed under this delegation?"""
    past: tuple[PastRule, ...] = ()
    events: Events = NOTHING
    intent: str | None = None
    signals: tuple[str, ...] = ()
    """Names of the signals its rules ask for."""
    suspending: frozenset[tuple[str, str]] = frozenset()
    """(id, place) of the rules whose refusal stops the task."""
    watched: bool = False
    """Some rule of the policies suspends: a refusal for another reason asks whether the task was stopped."""
    incomplete: Finding | None = None
    """A rule counts what was not counted yet when the task began."""
    sources: SourcePlan | None = None
    """Where its values come from: None where no layer asks."""
    asked: AskedPlan | None = None
    plain: bool = False
    """Nothing looks back and nothing depends on arguments but grants and intent: `weigh_plain` will do, once its counters stand."""
    agreed: Agreed | None = None
    """Of a `plain` plan that finds the same whenever all permit."""


_NO_SINCE: Final[Mapping[str, int]] = {}
_NO_SIGNALS: Final[Mapping[str, Signal]] = {}
_NOBODY: Final[Mapping[str, str]] = {}


class Fixed(NamedTuple):
    """A limit whose key and amount are known before the call: one of `max`. `told`: what is left of it is said in the permit."""

    key: str
    max: int
    window: int | None
    source: LimitSource
    told: bool


class Weighed(NamedTuple):
    """What the pure judges say of one call, and what it would take from the shared state.

    `clear`: nobody forbids and nobody asks, so that it is worth taking. `holds` come before `marks`, and those before `claims`.
    `unmark`: what takes the marks back where the body does not run; `forget`: where its error means that nothing happened.
    `labels`: those that latch, as far as a rule names them.
    """

    findings: Sequence[Finding]
    claims: list[Claim]
    clear: bool
    holds: Sequence[Hold]
    marks: Sequence[Op]
    unmark: Sequence[Op]
    forget: Sequence[Op]
    labels: tuple[str, ...]


class Agreed(NamedTuple):
    """What is found when every judge permits: made with the plan, and the same objects for every such call.

    `granted`: the findings of `weighed` and the permit of the reservation. The guard asks `decide` of them when it takes the plan.
    """

    weighed: Weighed
    granted: tuple[Finding, ...]


RESERVED: Final = Finding("state", "permit", ReasonCode.PERMIT, text="reserved")


def make_plan(
    layers: Sequence[PolicyData], delegation: Delegation, tool: str, context: Context, since: Mapping[str, int] = _NO_SINCE
) -> Plan:
    """Compile what `layers` and `delegation` say about `tool`, for the task and actor of `context`.

    `since`: shape -> the second from which it is counted.
    """
    base = layers[0]
    spec = base.tools.get(tool)
    token = Finding(
        "token", "permit", ReasonCode.PERMIT, text=f"token of {delegation.issuer}{' (local issuer)' if delegation.local else ''}"
    )
    if spec is None:
        unknown = Finding("call", "forbid", ReasonCode.TOOL_UNKNOWN, text=f"not a tool of policy {base.name}", fix=None)
        return Plan(
            None, (token, unknown), (), (), {}, (), (), ("token", "grants"), None, "os", ((), ()), False, ("token", "grants", "state")
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
    order: tuple[Hold, ...] = ()
    ends: int | None = None
    params: Mapping[str, object] = {}
    if delegation.intent is not None:
        required = ("token", "grants", "intent")
        intent = base.intents.get(delegation.intent)
        ends = intent.ttl if intent is not None else None
        answer = _intent(base, delegation, tool)
        if isinstance(answer, Finding):
            always.append(answer)
        else:
            check, intent, params = answer
            choices.append((check,))
            permission = intent.allow[tool]
            if permission.limit is not None:
                code = ReasonCode.LIMIT_SUM if permission.limit.sum else ReasonCode.LIMIT_CALLS
                name = f"i|{intent.name}|{tool}"
                sources.append(LimitSource(permission.limit, name, "intent", code, "forbid", None, permission.where, "calls"))
            order = _order(intent, permission.where, tool, context)
    fixed, asked, past = _rules(layers, spec, delegation.intent, sources, context)
    about = [rule for layer in layers for rule in layer.rules if concerns(rule, spec, delegation.intent)]
    events = compile_events(layers, spec, context)
    origins, votes = _sources(layers, spec, delegation.intent, params)
    if origins is not None and since.get(SOURCES, 0) > context.opened:
        origins = replace(origins, young=True)
    if origins is not None and origins.has_flow:
        required = (*required, "flow")
    plain = events.light and not (asked or past or limits or order or origins or votes)
    possible = all(finding.says == "permit" for finding in always)
    together = [each for each in fixed if each.window is None]
    tally = (f"{context.task}|step", *(each.key for each in together)), (AMOUNT_MAX, *(each.max for each in together))
    # What cannot be undone is on disk before it starts; the rest is with the operating system.
    return Plan(
        spec, tuple(always), tuple(choices), asked, limits, fixed, order, required, ends,
        "os" if spec.reversible else "group", tally, any(each.told for each in fixed), (*required, "state"),
        possible,
        past, events, delegation.intent,
        tuple(sorted({name for rule in about for name in rule.signals})),
        frozenset((rule.id, rule.where) for rule in about if rule.then == "suspend"),
        any(rule.then == "suspend" for layer in layers for rule in layer.rules), _incomplete(layers, about, context, since, origins), origins, votes, plain,
        _agreed(always, choices) if plain and possible else None,
    )  # fmt: skip


def _sources(
    layers: Sequence[PolicyData], tool: Tool, intent: str | None, params: Mapping[str, object]
) -> tuple[SourcePlan | None, AskedPlan | None]:
    """What asks where values come from, and the prompt's vote. Their modules are loaded with a guard whose policies need them (`House`)."""
    if not uses_sources(layers) and all(layer.asked is None for layer in layers):
        return None, None
    from guard.workflow.asked import compile_asked
    from guard.workflow.sources import compile_sources

    return compile_sources(layers, tool, intent, params), compile_asked(layers, tool)


def _agreed(always: Sequence[Finding], choices: Sequence[tuple[Check, ...]]) -> Agreed | None:
    if any(len(checks) != 1 for checks in choices):
        return None  # which of several grants admits a call, the call says
    permits = [*always, *(checks[0].permit for checks in choices)]
    return Agreed(Weighed(permits, [], True, (), (), (), (), ()), (*permits, RESERVED))


def _rules(
    layers: Sequence[PolicyData], tool: Tool, intent: str | None, sources: list[LimitSource], context: Context
) -> tuple[tuple[Fixed, ...], tuple[CompiledRule, ...], tuple[PastRule, ...]]:
    """The rules about a tool, by what they cost: limits known before the call, rules of the call alone, rules that look back."""
    rules, past = list[CompiledRule](), list[PastRule]()
    for layer in layers:
        for each in layer.rules:
            if concerns(each, tool, intent):
                found = compile_past(each, tool, layers[0], monitored_until(each), context)
                if found is not None:
                    past.append(found)
                elif not looks_back(each):
                    rules.append(compile_rule(each, layer.name, tool))
    sources += [rule.limit for rule in rules if rule.limit is not None and rule.always and rule.rule.unless is None]
    fixed = [Fixed(*known, source, source.rule is None) for source in sources if (known := source.fixed(context, tool.name)) is not None]
    fixed.sort(key=lambda each: each.window is not None)  # what is counted together stands together, and first
    settled = {id(each.source) for each in fixed}
    asked = [rule for rule in rules if rule.limit is None or id(rule.limit) not in settled]
    loose = [source for source in sources if source.rule is None and id(source) not in settled]
    return tuple(fixed), (*(CompiledRule.of_limit(source) for source in loose), *asked), tuple(past)


def _incomplete(
    layers: Sequence[PolicyData], about: Sequence[Rule], context: Context, since: Mapping[str, int], origins: SourcePlan | None
) -> Finding | None:
    """An ask, where a rule about the tool rests on counts that began later than the task: what it did before, nobody knows.

    Not for `require_before`, whose strict side is that nothing was, and not for rules that only record.
    """
    if not since:
        return None
    for layer in layers:
        for rule_id, shapes in shapes_in(layer).items():
            rule = next((one for one in about if one.id == rule_id and not one.monitor and one.then != "alert"), None)
            if rule is not None and any(since.get(shape, 0) > context.opened for shape in shapes):
                text = f"rule {rule.id} is younger than the task and does not know its past"
                return Finding("task", "ask", ReasonCode.STATE_INCOMPLETE, None, rule.where, text, fix="a new task")
    if origins is not None and origins.young and origins.particular:
        text = "the flow table is younger than the task, and does not know what it has seen"
        return Finding("task", "ask", ReasonCode.STATE_INCOMPLETE, None, origins.tool.where or None, text, fix="a new task")
    return None


def _intent(base: PolicyData, delegation: Delegation, tool: str) -> tuple[Check, Intent, Mapping[str, object]] | Finding:
    intent = base.intents.get(delegation.intent or "")
    if intent is None:
        return Finding("intent", "forbid", ReasonCode.INTENT_UNKNOWN, text=f"policy {base.name} has no such intent")
    params = bind_params(intent, delegation.params)
    if isinstance(params, Finding):
        return params
    check = intent_check(base, delegation, intent, params, tool)
    return check if isinstance(check, Finding) else (check, intent, params)


def _order(intent: Intent, where: str, tool: str, context: Context) -> tuple[Hold, ...]:
    """Holds: none of the steps to the right of this tool may have run. Steps in flight and unknown count: counted before the body."""
    if tool not in intent.order:
        return ()
    text = "a later step of the intent's order has already run"

    def said(refused: Refused) -> Finding:
        witnesses = (refused.by,) if refused.by else ()
        return Finding("intent", "forbid", ReasonCode.INTENT_ORDER, None, where, text, fix="a new task", witnesses=witnesses)

    later = intent.order[intent.order.index(tool) + 1 :]
    return tuple(Hold(Sum(f"{context.task}|x|t|{name}", None, 0), said) for name in later)


def _repeated(refused: Refused) -> Finding:
    text = "it ran before with the same values, or may have"
    witnesses = (str(refused.value),) if refused.value else ()
    return Finding("state", "forbid", ReasonCode.CALL_ALREADY_RUN, text=text, witnesses=witnesses)


# -- one call ------------------------------------------------------------------------------------------------------------------


def reads(plan: Plan, values: Values, context: Context) -> tuple[Op, ...]:
    """What must be read from the store before the call can be weighed; () where nothing looks back."""
    if not plan.past and not plan.events.places:
        return ()
    ops: list[Op] = []
    for rule in plan.past:
        ops += rule.reads(values, context)
    if plan.events.places and plan.tool is not None:
        ops += look(plan.events, plan.tool, values)
    return tuple(ops)


def weigh_plain(plan: Plan, values: Mapping[str, object]) -> Weighed:
    """`weigh` for a `plain` plan whose counters stand: the call of every day, and it costs nothing that it does not need."""
    if plan.agreed is not None:
        for checks in plan.choices:
            test = checks[0].test
            if test is not None and test(values) is not None:
                break
        else:
            return plan.agreed.weighed
    findings: list[Finding] = [*plan.always]
    clear = plan.possible
    for checks in plan.choices:
        found = judge(checks, values)
        if type(found) is Check:
            findings.append(found.permit)
        else:
            findings.append(found)  # type: ignore[arg-type]
            clear = False
    made: Weighed = _new(Weighed, (findings, [], clear, (), (), (), (), ()))
    return made


_new: Final[Any] = tuple.__new__


def weigh(
    plan: Plan,
    values: Values,
    context: Context,
    decision: str,
    now: int,
    answers: Sequence[object] = (),
    signals: Mapping[str, Signal] = _NO_SIGNALS,
    cleared: Mapping[str, str] = _NOBODY,
    *,
    seen: bool = False,
    sourced: Sourced | None = None,
    votes: Sequence[Finding] = (),
) -> Weighed:
    """Ask every pure judge; collect what the call would take. Findings in the order token, grants, intent, flow, asked, rules.

    `answers`: of `reads`, in its order. `cleared`: the asks that approvals cover, with what is said of them. `seen`: see `events.left_behind`. `sourced`: what the
    sources say of it, None: not known, and then no `unless: {flow: ...}` excuses. `votes`: what the prompt's words say.
    """
    findings: list[Finding] = list(plan.always)
    claims: list[Claim] = []
    sources = _permissions(plan, values, findings)
    masks: Mapping[str, Sequence[str]] | None = None
    written: Sequence[Op] = ()
    if sourced is not None:
        masks, written = sourced.masks.letters, sourced.marks
        findings += sourced.findings
    findings += votes
    for rule in plan.rules:
        if not rule.always and not rule.matches(values):
            continue
        if rule.limit is not None:
            silent = rule.rule.unless is not None and excused(rule.rule, plan, values, masks)
            sources.append((rule.limit, silent))
            continue
        finding = rule.judge(values, now, signals)
        if finding is not None:
            findings.append(_unless(rule.rule, finding, plan, values, masks))
    holds: list[Hold] = []
    at = _past(plan, values, context, now, answers, findings, holds, masks)
    if sources:
        name = plan.tool.name if plan.tool is not None else ""
        for source, silent in sources:
            claim = source.claim(context, name, values, decision, now)
            if isinstance(claim, Finding):
                findings.append(claim)
            else:
                claims.append(claim.silenced() if silent else claim)
    if cleared:
        findings = [approved(found, cleared) for found in findings]
        claims = [claim.silenced() if claim.source.cleared(cleared) else claim for claim in claims]
    clear = plan.possible and all(found.says == "permit" or found.mode == "monitor" for found in findings)
    tool, events = plan.tool, plan.events
    if tool is None or (events.light and (seen or not clear)):
        return _weighed(
            findings, claims, clear, _arranged([*holds, *plan.order]) if holds else plan.order, written if clear else (), (), (), ()
        )
    holds += plan.order
    if tool.once is not None:
        holds.append(Hold(Absent(once_key(tool, values, context)), _repeated))
    if not clear:
        return _weighed(findings, claims, clear, _arranged(holds), (), (), (), ())
    left = left_behind(events, tool, values, context, decision, answers[at:], seen=seen)
    kept = [*left.marks, *written]  # what it writes stays also if it does not run: then that learns nothing new, the strict side
    return _weighed(findings, claims, clear, _arranged([*holds, *left.holds]), kept, left.unmark, left.forget, left.labels)


def keep_counters(weighed: Weighed | None, plan: Plan) -> Weighed | None:
    """The same without taking back the counters of the tool: other calls have rested on them."""
    if weighed is None:
        return None
    counters = frozenset(plan.events.counters)
    return weighed._replace(unmark=[op for op in weighed.unmark if op.key not in counters])  # type: ignore[union-attr]


def _weighed(*fields: Any) -> Weighed:
    made: Weighed = _new(Weighed, fields)
    return made


def _permissions(plan: Plan, values: Values, findings: list[Finding]) -> list[tuple[LimitSource, bool]]:
    """Grants and intent. Written down: which of several permissions admitted the call, and the argument on which it was refused; that
    the only one permitted, a record says already (`atoms.told_of`).
    """
    sources: list[tuple[LimitSource, bool]] = []
    for checks in plan.choices:
        found = judge(checks, values.values) if type(values) is Live else _told(checks, values)
        if isinstance(found, Finding):
            findings.append(found)
            if type(values) is Live and checks and checks[0].test is not None:
                failed = checks[0].test(values.values)
                values.told[checks[0].judge] = failed[0] if failed is not None else ""
            continue
        if type(values) is Live and len(checks) > 1:
            values.told[found.judge] = checks.index(found)
        findings.append(found.permit)
        if plan.limits:
            source = plan.limits.get(id(found))
            if source is not None:
                sources.append((source, False))
    return sources


def _told(checks: tuple[Check, ...], values: Values) -> Check | Finding:
    """In replay: the permission that was found then, or the refusal."""
    first = checks[0]
    answer = values.ask(first.judge, lambda _: None)
    if type(answer) is int and 0 <= answer < len(checks):
        return checks[answer]
    return refused(first, str(answer))


def _unless(rule: Rule, finding: Finding, plan: Plan, values: Values, masks: Mapping[str, Sequence[str]] | None) -> Finding:
    """The finding of a rule that fires, or a permit that says it is excused."""
    if rule.unless is not None and excused(rule, plan, values, masks):
        return Finding("rules", "permit", ReasonCode.PERMIT, rule.id, rule.where, "excused")
    return finding


def _past(
    plan: Plan, values: Values, context: Context, now: int, answers: Sequence[object], findings: list[Finding], holds: list[Hold],
    masks: Mapping[str, Sequence[str]] | None,
) -> int:  # fmt: skip
    """Ask the rules that look back; where their answers end."""
    at = 0
    for rule in plan.past:
        n = len(rule.reads(values, context))
        finding, held = rule.judge(values, context, answers[at : at + n], now)
        at += n
        if finding is not None:
            findings.append(_unless(rule.rule, finding, plan, values, masks))
        else:
            holds += held
    return at


def _arranged(holds: list[Hold]) -> list[Hold]:
    """What only looks before what takes, and nothing taken twice: two rules may rest on the same end, and both consume it."""
    takes = {hold.op: hold for hold in holds if type(hold.op) is Drop}
    return [*(hold for hold in holds if type(hold.op) is not Drop), *takes.values()] if takes else holds


def approved(finding: Finding, cleared: Mapping[str, str]) -> Finding:
    """The finding, or a permit where an approval covers its ask."""
    if finding.says == "ask" and finding.mode == "enforce" and (finding.rule or str(finding.code)) in cleared:
        return replace(finding, says="permit", code=ReasonCode.PERMIT, text=cleared[finding.rule or str(finding.code)], fix=None)
    return finding
