"""What a policy that reads well may still say wrong: rules that never fire, sums without a floor, tools left wide open.

Errors are what cannot be decided or cannot be meant; warnings are what an author should look at. Names, types and positions were
checked while reading; here things are looked at together: rules in this file, intents and sources in the two beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from guard.constraints import Constraint
from guard.frozen import frozen
from guard.policy.data import Item, Rule, When
from guard.policy.draft import Draft
from guard.policy.lint_intents import lint_intents
from guard.policy.lint_sources import lint_checks, lint_sources
from guard.policy.problems import Mark

__all__ = ["lint"]

_EVERYTHING = ""
_MOST_COMPARED = 2_000_000  # pairs of rules; a file of ten thousand rules must not take minutes


def lint(draft: Draft) -> None:
    present = {effect for tool in draft.tools.values() for effect in tool.effects}
    allowed = {name for intent in draft.intents.values() for name in intent.allow}
    for rule in draft.rules:
        _reaches(draft, rule, present)
        _satisfiable(draft, rule)
        _events_happen(draft, rule, allowed)
        _sum_has_floor(draft, rule)
    for effect in sorted(draft.proof.keys() - present) if not (draft.pack or draft.blind or draft.vague) else ():
        draft.report.error("never-matches", draft.at("proof", effect), f"`proof`: no tool of this policy has effect `{effect}`")
    _shadowing(draft)
    lint_sources(draft)
    if not draft.pack:
        lint_intents(draft)
    lint_checks(draft)


def _reaches(draft: Draft, rule: Rule, present: set[str]) -> None:
    """Some call of some task must be able to match."""
    if draft.blind or draft.vague:
        return
    what, when = f"rule `{rule.id}`", rule.when
    tools = draft.about(rule.when)
    for effect in sorted(when.effects - present) if not draft.pack else ():
        draft.report.error(
            "never-matches", draft.at("rules", rule.id, "effect", effect), f"{what}: no tool of this policy has effect `{effect}`"
        )
    for name in sorted(when.tools - {tool.name for tool in tools}) if when.effects & present else ():
        if name in draft.tools:
            text = f"{what}: tool `{name}` has none of the effects it names"
            draft.report.error("never-matches", draft.at("rules", rule.id, "tool", name), text)
    if when.intents and tools and not when.end and all(name in draft.intents for name in when.intents):
        allowed = {name for intent in when.intents for name in draft.intents[intent].allow}
        if not allowed.intersection(tool.name for tool in tools):
            draft.report.error("never-matches", draft.at("rules", rule.id), f"{what}: none of its intents allows any of its tools")


def _satisfiable(draft: Draft, rule: Rule) -> None:
    for part, args in (("when", rule.when.args), ("unless", rule.unless.args if rule.unless is not None else {})):
        for path, predicate in args.items():
            if why := predicate.never_matches:
                draft.report.error("never-matches", draft.at("rules", rule.id, part, path), f"rule `{rule.id}`: {why}")
    kept = {**(rule.require or {}), **{f"signals.{name}": one for name, one in rule.signals.items()}}
    for path, predicate in kept.items():
        if why := predicate.never_matches:
            draft.report.error("never-matches", draft.at("rules", rule.id, "require", path), f"rule `{rule.id}` can never be kept: {why}")


def events_of(draft: Draft, rule: Rule) -> list[tuple[str, Mark, Item]]:
    """The earlier events a rule speaks of: (the verb, where the event stands, the event)."""
    found = []
    if rule.before is not None:
        found.append(("require_before", draft.at("rules", rule.id, "require_before"), rule.before.item))
    several: Sequence[tuple[str, Sequence[Item]]] = (
        ("forbid_after", rule.after.items if rule.after is not None else ()),
        ("exclusive", rule.exclusive.items if rule.exclusive is not None else ()),
    )
    for verb, items in several:
        found += [(verb, draft.at("rules", rule.id, verb, str(number)), item) for number, item in enumerate(items)]
    return found


def _events_happen(draft: Draft, rule: Rule, allowed: set[str]) -> None:
    """Some intent must be able to make each event happen that a rule looks back for."""
    for verb, at, item in events_of(draft, rule):
        what = f"rule `{rule.id}`: `{verb}`"
        for path, constraint in item.args.items():
            if why := constraint.never_matches:
                draft.report.error("never-matches", at, f"{what}: `{path}`: {why}")
        if item.label is not None or draft.blind or draft.vague or (draft.pack and not item.tool):
            continue  # a pack speaks of effects whether or not this desk has them
        tools = {tool.name for tool in draft.about(When(item.tool, item.effect))}
        if not tools:
            effects = ", ".join(f"`{effect}`" for effect in sorted(item.effect))
            draft.report.error("never-matches", at, f"{what} speaks of calls that cannot be: no such tool has effect {effects}")
        elif draft.intents and not tools & allowed:
            names = ", ".join(f"`{name}`" for name in sorted(tools))
            draft.report.error("never-matches", at, f"{what} speaks of {names}, which no intent allows")


def _sum_has_floor(draft: Draft, rule: Rule) -> None:
    """Each intent that allows a summed tool must prove that no amount is negative: a negative one would make room under the sum."""
    if rule.limit is None or rule.limit.sum is None:
        return
    path = rule.limit.sum
    if _floor(rule.when.args.get(path)):
        return
    for tool in draft.about(rule.when):
        for intent in draft.intents.values():
            permission = intent.allow.get(tool.name)
            if permission is None or (rule.when.intents and intent.name not in rule.when.intents) or _floor(permission.args.get(path)):
                continue
            text = f"rule `{rule.id}` sums `{path}` of `{tool.name}`, but intent `{intent.name}` does not keep it at or above 0"
            hint = f'write `{path}: {{range: {{min: "0"}}}}` there'
            draft.report.error("unproven-sum", draft.at("rules", rule.id, "sum"), text, hint)


def _floor(constraint: Constraint | None) -> bool:
    if constraint is None:
        return False
    low = constraint.lower_bound()
    return low is not None and low >= Decimal(0)


# --- rules that another makes pointless


@frozen
class _Reach:
    """A rule with what it is about, worked out once: `tools` are names, in a pack read alone the written names and effects."""

    rule: Rule
    number: int
    tools: frozenset[str]
    everything: bool
    args: Mapping[str, object]
    verb: object

    def covers(self, other: _Reach) -> bool:
        """Whether every call `other` is about, this is about too. Predicates are compared as they are written."""
        mine, theirs = self.rule.when, other.rule.when
        reach = self.everything or (bool(other.tools) and not other.everything and other.tools <= self.tools)
        intents = not mine.intents or (bool(theirs.intents) and theirs.intents <= mine.intents)
        excused = self.rule.unless is None or _excuse(self.rule) == _excuse(other.rule)
        return (
            mine.end == theirs.end and reach and intents and excused and all(other.args.get(path) == raw for path, raw in self.args.items())
        )


def _reach(draft: Draft, rule: Rule, number: int) -> _Reach:
    when = rule.when
    everything = not when.tools and not when.effects
    if draft.blind:  # effects are alternatives; tools and effects together are compared as one name
        parts = {f"{tool}&{effect}" for tool in when.tools or {""} for effect in when.effects or {""}}
    else:
        parts = {tool.name for tool in draft.about(rule.when)}
    return _Reach(rule, number, frozenset(parts), everything, _raw(when.args), _verb(rule))


def _verb(rule: Rule) -> object:
    """What two rules must have in common to be compared; equal where they ask for the same."""
    if rule.limit is not None:
        return "limit", rule.limit.sum, rule.limit.per, rule.limit.denied
    if rule.require is not None or rule.signals:
        return "require", repr(_raw(rule.require or {})), repr(_raw(rule.signals)), rule.within
    if rule.after is not None:
        return (
            "after",
            rule.after.in_order,
            tuple(sorted(map(_said, rule.after.items))) if not rule.after.in_order else tuple(map(_said, rule.after.items)),
        )
    if rule.before is not None:
        before = rule.before
        return "before", _said(before.item), before.distinct, before.within, before.consume
    if rule.exclusive is not None:
        return "exclusive", tuple(sorted(map(_said, rule.exclusive.items))), rule.exclusive.by, rule.exclusive.per
    if rule.any_facts:
        return "facts", repr(rule.any_facts)
    return ("check", rule.check) if rule.check is not None else "none"


def _said(item: Item) -> str:
    return repr((sorted(item.tool), sorted(item.effect), item.label, _raw(item.args), sorted(item.match.items())))


def _excuse(rule: Rule) -> object:
    one = rule.unless
    return None if one is None else (one.flow, repr(_raw(one.args)), one.intents)


def _shadowing(draft: Draft) -> None:
    """Rules that say what another says, or that another always speaks before. Only rules with the same verb, or none, can do that."""
    reaches = [_reach(draft, rule, number) for number, rule in enumerate(draft.rules)]
    known = _Known(reaches)
    compared = 0
    for one in reaches:
        for other in known.candidates(one):
            compared += 1
            if other is not one and other.covers(one) and (how := _how(draft, other, one)):
                text = f"rule `{one.rule.id}` {how.format(other.rule.id)}"
                draft.report.error("shadowed", draft.at("rules", one.rule.id), text, "remove one of them")
                break
        if compared > _MOST_COMPARED:
            draft.report.warn(
                "shadowed", draft.at("rules", one.rule.id), "too many rules on the same tools: those from here on were not compared"
            )
            return


class _Known:
    """Rules by verb and tool: what covers a rule is about everything, or about each of its tools, so about its first one."""

    def __init__(self, reaches: Sequence[_Reach]) -> None:
        self.by: dict[tuple[object, str], list[_Reach]] = {}
        for one in reaches:
            if not one.rule.monitor and one.rule.then != "alert":
                for tool in {_EVERYTHING} if one.everything else one.tools:
                    self.by.setdefault((one.verb, tool), []).append(one)

    def candidates(self, one: _Reach) -> Iterator[_Reach]:
        tools = [_EVERYTHING] if one.everything or not one.tools else [_EVERYTHING, min(one.tools)]
        for verb in dict.fromkeys(("none", one.verb)):
            for tool in tools:
                yield from self.by.get((verb, tool), ())


def _how(draft: Draft, other: _Reach, one: _Reach) -> str | None:
    first, rule = other.rule, one.rule
    if first.then == rule.then == "ask" and _answered(draft, other) != _answered(draft, one):
        return None  # the one is answered by other persons than the other: both must say yes
    alike = one.covers(other) and first.then == rule.then and not rule.monitor and other.verb == one.verb
    if alike and first.limit == rule.limit:
        return "says the same as rule `{}`, which stands before it" if other.number < one.number else None
    stronger = first.then in ("deny", "suspend") and rule.then != "suspend"
    if first.then != rule.then and not stronger:
        return None
    if other.verb == "none":
        return "is shadowed by rule `{}`, which always speaks first"
    mine, theirs = rule.limit, first.limit
    if mine is None or theirs is None:
        return None
    longer = theirs.window is None or (mine.window is not None and theirs.window >= mine.window)
    return "is shadowed by rule `{}`, which always speaks first" if longer and theirs.max <= mine.max else None


def _answered(draft: Draft, one: _Reach) -> object:
    """Who answers an ask of the rule, as far as this file says; what its code is follows from its verb."""
    by_code = any(key == "rule" or key.startswith("rule.") for key in draft.asks)
    return draft.asks.get(one.rule.id), one.verb if by_code else None


def _raw(args: Mapping[str, Constraint]) -> dict[str, object]:
    return {path: constraint.raw for path, constraint in args.items()}
