"""The plan of a recorded call: what the policies say of a tool under a delegation that is only known from a record.

| judge  | in a replay                                                                                                        |
|--------|--------------------------------------------------------------------------------------------------------------------|
| token, grants | not judged again: what a guard found stands in its record; a foreign trace has no token                     |
| intent | its tools, limits and order; what it asks of arguments where they, or the answers, are known                       |
| flow, asked | from a record, what was found in the ledger then; of a trace, where its prompt and its results were captured   |
| rules  | as inline                                                                                                          |

What cannot be judged is left out of the plan by name, so that the rest still is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from guard.model import Credential, Delegation
from guard.policy.data import Intent, PolicyData
from guard.sources import Seen
from guard.workflow.atoms import NotJudged, Values
from guard.workflow.events import NOTHING, labels_of
from guard.workflow.limits import Context
from guard.workflow.marks import ok_keys, plain_keys
from guard.workflow.plan import Fixed, Plan, make_plan
from guard.workflow.rules import looks_over
from guard.workflow.sources import compile_sources
from guard.workflow.weigh import reads, weigh

__all__ = ["judgeable", "looked_at", "plan_for", "seated", "tenant_wide", "without_params", "without_sources"]

_NOWHERE = Credential("replay", "", "")


def plan_for(layers: Sequence[PolicyData], seen: Seen, context: Context, whole: Sequence[PolicyData], kept: frozenset[str]) -> Plan:
    """`layers`: of `without_params` where the parameters are not known; `whole`: as they are. `kept`: of `looked_at`. Other counters and
    ends are not written: inline they are, for rules to come, and a replay has none.
    """
    delegation = Delegation(
        "replay", *seen.task, _NOWHERE, seen.origin, "person" if seen.person else "workload", seen.actors or ("agent",), 0, 0, "", seen.intent,
        seen.params or {}, person=seen.person,
    )  # fmt: skip
    plan = make_plan(layers, delegation, seen.tool, context)
    if plan.tool is None:
        return plan
    always = tuple(found for found in plan.always if found.judge not in ("token", "grants"))
    choices = tuple(checks for checks in plan.choices if checks[0].judge == "intent")
    required = tuple(judge for judge in plan.required if judge in ("intent", "flow"))
    # What an intent pins to a value it pins whether the value is known here or not.
    sources = compile_sources(whole, plan.tool, seen.intent, seen.params or {}) if plan.sources is not None else None
    return replace(
        plan, sources=sources, always=always, choices=choices, limits={}, tally=((), ()), required=required, all_required=(*required, "state"),
        possible=all(found.says == "permit" for found in always),
        events=replace(
            plan.events, counters=tuple(filter(kept.__contains__, plan.events.counters)), ends=tuple(filter(kept.__contains__, plan.events.ends))
        ),
    )  # fmt: skip


def seated(plan: Plan, context: Context) -> Plan:
    """The plan for whoever acts for whom in `context`: nothing else in it depends on that but keys of limits `per` tenant, origin, actor."""
    if plan.tool is None or not any(each.source.limit.per for each in plan.fixed):
        return plan
    name = plan.tool.name
    keyed = [(each, each.source.fixed(context, name)) for each in plan.fixed]
    return replace(plan, fixed=tuple([each if known is None else Fixed(*known, each.source, each.told) for each, known in keyed]))


def looked_at(layers: Sequence[PolicyData], task: str) -> frozenset[str]:
    """The keys of `events.counters` and `events.ends` that some rule, or some intent's order, reads."""
    tools, keys = layers[0].tools, set[str]()
    for rule in (rule for layer in layers for rule in layer.rules):
        for item in (*(rule.after.items if rule.after else ()), *((rule.before.item,) if rule.before else ())):
            keys.update(plain_keys(item, tools, task) or (), ok_keys(item, tools, task) or ())
    keys.update(f"{task}|x|t|{tool}" for intent in layers[0].intents.values() for tool in intent.order)
    return frozenset(keys)


def without_sources(plan: Plan) -> Plan:
    """The plan without what asks where values come from, and what the prompt asks for."""
    every = [*(each.rule for each in plan.rules), *(each.rule for each in plan.past)]
    blind = [rule for rule in every if rule.unless is not None and rule.unless.flow is not None]
    required = tuple(judge for judge in plan.required if judge != "flow")
    return replace(
        plan, sources=None, asked=None, required=required, all_required=(*required, "state"),
        rules=tuple(each for each in plan.rules if each.rule not in blind), past=tuple(each for each in plan.past if each.rule not in blind),
    )  # fmt: skip


def without_params(layers: Sequence[PolicyData], *, all_args: bool) -> tuple[PolicyData, ...]:
    """The layers with intents that need no parameters: without the constraints that use them, or (`all_args`) without any.

    For records, whose answers to the intent's question are read back and not asked again.
    """
    base = layers[0]
    intents = {name: _open(intent, all_args) for name, intent in base.intents.items()}
    return (replace(base, intents=intents), *layers[1:])


def _open(intent: Intent, all_args: bool) -> Intent:
    allow = {}
    for tool, permission in intent.allow.items():
        kept = {} if all_args else {path: one for path, one in permission.args.items() if not one.params - {"me"}}
        allow[tool] = replace(permission, args=kept, check=None if all_args else permission.check)
    return replace(intent, params={}, allow=allow)


def _known(ask: Callable[[], object]) -> str | None:
    """The site nothing is known of, or None."""
    try:
        ask()
    except NotJudged as missing:
        return missing.site
    return None


def judgeable(plan: Plan, values: Values, context: Context, now: int) -> tuple[Plan, tuple[str, ...]]:
    """The plan without what cannot be judged, and the names of that."""
    left_out: dict[str, None] = {}
    intent = plan.choices
    if intent and _known(lambda: weigh(_only(plan, choices=intent), values, context, "", now)):
        left_out[f"arguments of intent {plan.intent}"] = None
        plan = replace(plan, choices=(), required=(), all_required=("state",))
    rules = []
    for rule in plan.rules:
        if _known(lambda rule=rule: weigh(_only(plan, rules=(rule,)), values, context, "", now)):  # type: ignore[misc]
            left_out[f"rule {rule.rule.id}" if rule.rule.id else f"limit of intent {plan.intent}"] = None
        else:
            rules.append(rule)
    past = []
    for each in plan.past:
        if _known(lambda each=each: each.reads(values, context)):  # type: ignore[misc]
            left_out[f"rule {each.rule.id}"] = None
        else:
            past.append(each)
    plan = replace(plan, rules=tuple(rules), past=tuple(past))
    tool, events = plan.tool, plan.events
    if tool is not None:
        if tool.once is not None and _known(lambda: weigh(_only(plan, events=replace(NOTHING, light=False)), values, context, "", now)):
            left_out["once"] = None
            plan = replace(plan, tool=replace(tool, once=None))
        if _known(lambda: labels_of(tool, values)):
            left_out["what the call leaves: labels"] = None
            events = replace(events, labels=(), places=())
        kept = replace(plan, past=(), rules=(), choices=(), events=events)
        site = _known(lambda: weigh(kept, values, context, "", now, _zeros(kept, values, context)))
        if site is not None:
            left_out["what the call leaves for rules that compare arguments"] = None
            events = replace(events, shaped=(), apart=(), places=(), ended=())
        plan = replace(plan, events=events)
    return plan, tuple(left_out)


def _zeros(plan: Plan, values: Values, context: Context) -> tuple[object, ...]:
    return tuple((0, "") for _ in reads(plan, values, context))


def _only(plan: Plan, **kept: object) -> Plan:
    tool = plan.tool if "events" in kept or plan.tool is None else replace(plan.tool, once=None)
    bare: dict[str, object] = {
        "tool": tool,
        "always": (),
        "choices": (),
        "rules": (),
        "past": (),
        "events": NOTHING,
        "order": (),
        "possible": True,
    }
    return replace(plan, **{**bare, **kept})  # type: ignore[arg-type]


def tenant_wide(layers: Sequence[PolicyData]) -> bool:
    """Does a rule look over the tenant, so that the order of calls of different tasks matters?"""
    if any(looks_over(rule) for layer in layers for rule in layer.rules):
        return True
    limits = [permission.limit for intent in layers[0].intents.values() for permission in intent.allow.values()]
    return any(limit is not None and limit.per for limit in limits) or any(tool.once is not None for tool in layers[0].tools.values())
