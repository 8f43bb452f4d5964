"""Which policies judge a record, by which plan, and what is known of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guard.constraints import Binder, BindError
from guard.model import Finding
from guard.policy.data import PolicyData
from guard.replay.plans import looked_at, plan_for, seated, tenant_wide, without_params, without_sources
from guard.replay.state import tenant_key
from guard.replay.taking import NO_SOURCES, is_blind, is_digest, path_of
from guard.replay.task import KEY, SECRET, Task
from guard.sources import Seen
from guard.workflow.atoms import Live, Told, Values
from guard.workflow.limits import Context
from guard.workflow.plan import Plan

__all__ = ["Version", "Versions"]

NO_TOKEN = "grants and intents: a trace has no token"


def _keep(plans: dict[tuple[object, ...], Plan], name: tuple[object, ...], plan: Plan) -> None:
    """Names come from the log: they must not fill the memory."""
    if len(plans) >= 4096:
        plans.clear()
    plans[name] = plan


class Version:
    """Policies that judge together. `name`: as records name them."""

    def __init__(self, layers: Sequence[PolicyData]) -> None:
        self.layers = tuple(layers)
        self.name = ",".join(f"{layer.name}@{layer.digest[:12]}" for layer in layers)
        self.recorded = without_params(layers, all_args=True)
        self.unknown = without_params(layers, all_args=False)
        self.binders = {name: Binder(name, None, tool.types) for name, tool in layers[0].tools.items()}


class Versions:
    """The policies of a replay, and the plans made of them. `own`: what judges a run. `was`: what judges a part of it, by the name that records say."""

    def __init__(self, own: Sequence[PolicyData], was: Sequence[Sequence[PolicyData]]) -> None:
        self.own = Version(own)
        self.was = {version.name: version for version in map(Version, was)}
        every = (self.own, *self.was.values())
        self.layers = [layer for version in every for layer in version.layers]
        self.together = any(tenant_wide(version.layers) for version in every)
        self._kept = frozenset[str]().union(*(looked_at(version.layers, KEY) for version in every))
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._bases: dict[tuple[object, ...], Plan] = {}

    def of(self, seen: Seen) -> Version:
        """The policies that judge it."""
        return self.was.get(seen.policy, self.own) if self.was else self.own

    def plan(self, task: Task, seen: Seen) -> tuple[Plan, Context, tuple[str, ...]]:
        """The plan of a call, whose it is, and what cannot be judged of it by name."""
        own = seen.trust == "proven"
        params = None if seen.params is None else repr(sorted(seen.params.items()))
        name = (seen.tool, seen.actors, seen.origin, seen.person, seen.proven, seen.intent, self.of(seen).name, params)
        held = task.plans.get(name)
        if held is None:
            context = task.contexts.get(name[1:5])
            if context is None:
                context = Context(
                    task.key, tenant_key(seen.task[0]), seen.origin, seen.actors[-1] if seen.actors else "", SECRET, SECRET, seen.person, seen.proven,
                    max(len(seen.actors) - 1, 0), task.opened,
                )  # fmt: skip
                if len(task.contexts) < 4096:
                    task.contexts[name[1:5]] = context
            plan = self._shared_plan((seen.task[0], own, *name), seen, context)
            held = plan, context
            if len(task.plans) < 4096:
                task.plans[name] = held
        plan, context = held
        if own:
            return plan, context, ()
        left_out: tuple[str, ...] = (NO_TOKEN,) if seen.intent is None and self.own.layers[0].intents else ()
        if (plan.sources is not None or plan.asked is not None) and not (task.heard and seen.args is not None):
            why = "the results were not captured" if task.prompted else "the prompt is not known"
            left_out += (f"{NO_SOURCES}: {why}",)
            plan = without_sources(plan)
        blind = [each.rule.id for each in plan.rules if is_blind(each.rule)] + [each.rule.id for each in plan.past if is_blind(each.rule)]
        if blind:
            left_out += tuple(f"rule {name}: a trace has no signals, and proves no actor" for name in blind)
            rules = tuple(each for each in plan.rules if not is_blind(each.rule))
            plan = replace(plan, rules=rules, past=tuple(each for each in plan.past if not is_blind(each.rule)))
        return plan, context, left_out

    def _shared_plan(self, name: tuple[object, ...], seen: Seen, context: Context) -> Plan:
        """One plan for every task of a tenant with the same tool, intent, parameters, and who acts for whom: their keys are the same.

        Of a record's plan, who acts for whom is only in keys of limits: it is compiled once for all and seated. A foreign trace's may ask
        for the origin's own identifiers among its arguments, so each has its own.
        """
        plan = self._plans.get(name)
        if plan is None:
            own = seen.trust == "proven"
            version = self.of(seen)
            base = (version.name, seen.tool, seen.intent, name[-1]) if own else name
            plan = self._bases.get(base)
            if plan is None:
                plan = plan_for(
                    version.recorded if own else version.unknown if seen.params is None else version.layers,
                    seen,
                    context,
                    version.layers,
                    self._kept,
                )
                if not own and seen.intent is None:
                    plan = replace(plan, always=tuple(f for f in plan.always if f.judge == "call"))
                _keep(self._bases, base, plan)
            plan = seated(plan, context)
            _keep(self._plans, name, plan)
        return plan

    def values(self, seen: Seen) -> Values | Finding:
        """Its arguments, or the answers that its record has; a finding where they do not fit the tool."""
        version = self.of(seen)
        if seen.args is not None:
            binder = version.binders.get(seen.tool)
            try:
                return Live(binder.bind(seen.args).values if binder is not None else {})
            except BindError as error:
                return Finding("call", "forbid", error.code, text=str(error))
        atoms = seen.atoms or {}
        if seen.policy and seen.policy != version.name:  # a site that is a digest of what it asks is the same question in any policy
            atoms = {site: answer for site, answer in atoms.items() if is_digest(site.partition(".")[0])}
        told = Told(atoms)
        intent = version.layers[0].intents.get(seen.intent or "")
        permission = intent.allow.get(seen.tool) if intent is not None else None
        if permission is not None and not (permission.args or permission.check or permission.origins):
            told.told["intent"] = 0
        elif seen.policy == version.name:
            said = next((f for f in seen.findings if f.judge == "intent" and not str(f.code).startswith(("limit", "intent"))), None)
            if said is not None:
                told.told.setdefault("intent", 0 if said.says == "permit" else path_of(said.text))
        return told
