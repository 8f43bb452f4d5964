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
from dataclasses import field, replace
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from guard.frozen import frozen
from guard.model import Delegation, Finding, Judge
from guard.ops import AMOUNT_MAX, Op, Refused, Sum
from guard.policy.judge import Check, bind_params, grant_checks, intent_check
from guard.reasons import ReasonCode
from guard.tokens.rules import HOP
from guard.workflow import marks
from guard.workflow.events import NOTHING, SOURCES, Events, compile_events, shapes_in
from guard.workflow.limits import Claim, Context, LimitSource
from guard.workflow.past import PastRule, compile_past
from guard.workflow.rules import CompiledRule, compile_rule, concerns, looks_back, looks_over, monitored_until, uses_sources
from guard.workflow.verb import Hold

if TYPE_CHECKING:
    from guard.policy.data import Intent, PolicyData, Rule, Tool
    from guard.workflow.asked import AskedPlan
    from guard.workflow.flowtable import SourcePlan

__all__ = ["RESERVED", "Agreed", "Fixed", "Plan", "Weighed", "make_plan"]


@frozen
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
    required: tuple[Judge, ...]
    all_required: tuple[Judge, ...]
    choices: tuple[tuple[Check, ...], ...] = ()
    rules: tuple[CompiledRule, ...] = ()
    limits: Mapping[int, LimitSource] = field(default_factory=dict)
    fixed: tuple[Fixed, ...] = ()
    order: tuple[Hold, ...] = ()
    ends: int | None = None
    sync: Literal["os", "group"] = "os"
    tally: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
    tells: bool = False

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
    late: tuple[CompiledRule, ...] = ()
    """Rules that suspend and ask for signals: asked again when the call has ended (`guard/late.py`)."""
    wide: str = ""
    """It looks over the tenant, or leaves something for those that do: its commits are numbered; as `marks.numbering`. "": nothing does."""
    proof: frozenset[str] = frozenset()
    """What a call must prove: `key` (the token names one, or the policy demands it), `workload` (the policy does)."""
    lends: bool = False
    """Its body needs a credential (`guard/lending.py`)."""
    agreed: Agreed | None = None
    """Of a `plain` plan that finds the same whenever all permit."""
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What shells make of it once, each under a name of its own: a plan is of one guard, delegation, tool and load of the policies."""


_NO_SINCE: Final[Mapping[str, int]] = {}


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
    layers: Sequence[PolicyData],
    delegation: Delegation,
    tool: str,
    context: Context,
    since: Mapping[str, int] = _NO_SINCE,
    known: Sequence[Finding] = (),
) -> Plan:
    """Compile what `layers` and `delegation` say about `tool`, for the task and actor of `context`.

    `since`: shape -> the second from which it is counted. `known`: what the registry says of who acts.
    """
    base = layers[0]
    spec = base.tools.get(tool)
    whose = f"token of {delegation.issuer}{' (local issuer)' if delegation.local else ''}"
    always = [Finding("token", "permit", ReasonCode.PERMIT, text=whose), *known]
    required: tuple[Judge, ...] = ("token", "grants")
    if spec is None:
        always.append(Finding("call", "forbid", ReasonCode.TOOL_UNKNOWN, text=f"not a tool of policy {base.name}"))
        return Plan(tool=None, always=tuple(always), required=required, all_required=(*required, "state"))
    choices, counted = _granted(base, delegation, tool, always)
    intended = _NO_INTENT
    limits: list[LimitSource] = []
    if delegation.intent is not None:
        required = (*required, "intent")
        intended = _intended(base, delegation, delegation.intent, tool, context)
        always += intended.refused
        choices += intended.checks
        limits += intended.limits
    fixed, asked, past = _rules(layers, spec, delegation.intent, limits, context)
    about = [rule for layer in layers for rule in layer.rules if concerns(rule, spec, delegation.intent)]
    events = compile_events(layers, spec, context)
    origins, votes = _sources(layers, spec, delegation.intent, intended.params)
    if origins is not None and since.get(SOURCES, 0) > context.opened:
        origins = replace(origins, young=True)
    if origins is not None and origins.has_flow:
        required = (*required, "flow")
    # All that any layer demands of any of its effects: the strictest wins, and a key is no workload nor the other way round.
    proof = frozenset(layer.proof[effect] for layer in layers for effect in spec.effects if effect in layer.proof)
    proof |= {"key"} if delegation.bound else frozenset()
    asks = any(finding.says == "ask" for finding in always)
    plain = events.light and not (asked or past or counted or intended.order or origins or votes or proof or asks)
    possible = all(finding.says in ("permit", "ask") for finding in always)
    together = [each for each in fixed if each.window is None]
    weighty = [*(rule.rule for rule in asked), *(rule.rule for rule in past)]
    return Plan(
        tool=spec,
        intent=delegation.intent,
        always=tuple(always),
        choices=tuple(choices),
        rules=asked,
        limits=counted,
        fixed=fixed,
        order=intended.order,
        past=past,
        events=events,
        sources=origins,
        asked=votes,
        required=required,
        all_required=(*required, "state"),
        possible=possible,
        plain=plain,
        agreed=_agreed(always, choices) if plain and possible else None,
        ends=intended.ends,
        # What cannot be undone is on disk before it starts; the rest is with the operating system.
        sync="os" if spec.reversible else "group",
        tally=((f"{context.task}|step", *(each.key for each in together)), (AMOUNT_MAX, *(each.max for each in together))),
        tells=any(each.told for each in fixed),
        signals=tuple(sorted({name for rule in about for name in rule.signals})),
        suspending=frozenset((rule.id, rule.where) for rule in about if rule.then == "suspend"),
        watched=any(rule.then == "suspend" for layer in layers for rule in layer.rules),
        incomplete=_incomplete(layers, about, context, since, origins),
        late=tuple(rule for rule in asked if rule.rule.then == "suspend" and rule.rule.signals),
        wide=marks.numbering(context) if _wide(spec, (*limits, *counted.values()), weighty, events) else "",
        proof=proof,
        lends=spec.credential is not None,
    )


def _granted(
    base: PolicyData, delegation: Delegation, tool: str, always: list[Finding]
) -> tuple[list[tuple[Check, ...]], dict[int, LimitSource]]:
    """Each hop's grants, asked on every call: a later one is never asked alone (promise P2); and their counters. What depends on nothing: to `always`."""
    choices: list[tuple[Check, ...]] = []
    counted: dict[int, LimitSource] = {}
    for hop in (*delegation.above, delegation):
        granted = grant_checks(hop, tool, base.scopes)
        if isinstance(granted, Finding):
            always.append(granted)
        elif len(granted) == 1 and granted[0].test is None and granted[0].calls is None:
            always.append(granted[0].permit)  # a scope, or the task itself: nothing in it depends on the call
        else:
            choices.append(granted)
            _counted(counted, hop, tool, granted)
    return choices, counted


def _wide(tool: Tool, limits: Sequence[LimitSource], rules: Sequence[Rule], events: Events) -> bool:
    """Can a call of the tool read, hold, count or leave a key of the tenant?"""
    if tool.once is not None or any(source.limit.per for source in limits):
        return True
    if any(item.match for item, _ in events.shaped) or any(exclusive.per for exclusive, _ in events.apart):
        return True
    return any(ended.before.item.match for ended in events.ended) or any(map(looks_over, rules))


def _counted(limits: dict[int, LimitSource], hop: Delegation, tool: str, granted: tuple[Check, ...]) -> None:
    """The counters of a hop's grants. Keyed by task, not by token: two children of one grant share its count (attack A095).

    An offline hop counts its own besides, for all that stand under it: by its place in the chain, since the text of a hop can have a twin.
    """
    from guard.policy.data import Limit  # loaded long since, by whoever read the policy

    place = f"|{sha256(f'{hop.credential.kid} {hop.credential.jti}'.encode()).hexdigest()[:24]}" if hop.kind == HOP else ""
    for i, check in enumerate(granted):
        if check.calls is not None:
            name = f"g|{tool}|{i}{place}"
            limits[id(check)] = LimitSource(
                Limit(Decimal(check.calls)), name, "grants", ReasonCode.LIMIT_CALLS, "forbid", None, None, "calls"
            )


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


class Intended(NamedTuple):
    """What the intent of a delegation says of a tool: refuses it, or what is asked of a call. `ends`: its time to live, in seconds."""

    refused: tuple[Finding, ...] = ()
    checks: tuple[tuple[Check, ...], ...] = ()
    params: Mapping[str, object] = {}
    limits: tuple[LimitSource, ...] = ()
    order: tuple[Hold, ...] = ()
    ends: int | None = None


_NO_INTENT: Final = Intended()


def _intended(base: PolicyData, delegation: Delegation, name: str, tool: str, context: Context) -> Intended:
    intent = base.intents.get(name)
    if intent is None:
        unknown = Finding("intent", "forbid", ReasonCode.INTENT_UNKNOWN, text=f"policy {base.name} has no such intent")
        return Intended((unknown,))
    params = bind_params(intent, delegation.params)
    if isinstance(params, Finding):
        return Intended((params,), ends=intent.ttl)
    check = intent_check(base, delegation, intent, params, tool)
    if isinstance(check, Finding):
        return Intended((check,), ends=intent.ttl)
    limit, where = intent.allow[tool].limit, intent.allow[tool].where
    limits: tuple[LimitSource, ...] = ()
    if limit is not None:
        code = ReasonCode.LIMIT_SUM if limit.sum else ReasonCode.LIMIT_CALLS
        limits = (LimitSource(limit, f"i|{intent.name}|{tool}", "intent", code, "forbid", None, where, "calls"),)
    return Intended((), ((check,),), params, limits, _order(intent, where, tool, context), intent.ttl)


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
