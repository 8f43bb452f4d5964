"""What a policy that reads well may still say wrong: rules that never fire, sums without a floor, tools left wide open.

Errors are what cannot be decided or cannot be meant; warnings are what an author should look at. Names, types and positions were
checked while reading; here things are looked at together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from guard.constraints import Constraint
from guard.policy.data import Intent, Rule, Tool
from guard.policy.problems import Mark
from guard.policy.read import Draft

__all__ = ["lint"]

_START = Mark(1, 1)


def lint(draft: Draft) -> None:
    present = {effect for tool in draft.tools.values() for effect in tool.effects}
    for rule in draft.rules:
        _reaches(draft, rule, present)
        _satisfiable(draft, rule)
        _sum_has_floor(draft, rule)
    _shadowing(draft)
    if not draft.pack:
        for intent in draft.intents.values():
            _intent(draft, intent)


def _at(draft: Draft, *path: str) -> Mark:
    return draft.places.get(path, _START)


# --- rules


def _reaches(draft: Draft, rule: Rule, present: set[str]) -> None:
    """Some call of some task must be able to match."""
    if draft.blind or draft.vague:
        return
    what, when = f"rule `{rule.id}`", rule.when
    tools = draft.about(rule.when)
    for effect in sorted(when.effects - present) if not draft.pack else ():
        draft.report.error(
            "never-matches", _at(draft, "rules", rule.id, "effect", effect), f"{what}: no tool of this policy has effect `{effect}`"
        )
    for name in sorted(when.tools - {tool.name for tool in tools}) if when.effects & present else ():
        if name in draft.tools:
            text = f"{what}: tool `{name}` has none of the effects it names"
            draft.report.error("never-matches", _at(draft, "rules", rule.id, "tool", name), text)
    if when.intents and tools and all(name in draft.intents for name in when.intents):
        allowed = {name for intent in when.intents for name in draft.intents[intent].allow}
        if not allowed.intersection(tool.name for tool in tools):
            draft.report.error("never-matches", _at(draft, "rules", rule.id), f"{what}: none of its intents allows any of its tools")


def _satisfiable(draft: Draft, rule: Rule) -> None:
    for path, predicate in rule.when.args.items():
        if why := _impossible(predicate):
            draft.report.error("never-matches", _at(draft, "rules", rule.id, "when", path), f"rule `{rule.id}`: {why}")
    for path, predicate in (rule.require or {}).items():
        if why := _impossible(predicate):
            draft.report.error("never-matches", _at(draft, "rules", rule.id, "require", path), f"rule `{rule.id}` can never be kept: {why}")


def _impossible(constraint: Constraint) -> str | None:
    """Why no value can meet the constraint, None where one may."""
    return constraint.never_matches


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
            draft.report.error("unproven-sum", _at(draft, "rules", rule.id, "sum"), text, hint)


def _floor(constraint: Constraint | None) -> bool:
    if constraint is None:
        return False
    low = constraint.lower_bound()
    return low is not None and low >= Decimal(0)


@dataclass(frozen=True, slots=True)
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
        return reach and intents and all(other.args.get(path) == raw for path, raw in self.args.items())


def _reach(draft: Draft, rule: Rule, number: int) -> _Reach:
    when = rule.when
    everything = not when.tools and not when.effects
    if draft.blind:  # effects are alternatives; tools and effects together are compared as one name
        parts = {f"{tool}&{effect}" for tool in when.tools or {""} for effect in when.effects or {""}}
    else:
        parts = {tool.name for tool in draft.about(rule.when)}
    limit = rule.limit
    verb = ("limit", limit.sum, limit.per) if limit else ("require", repr(_raw(rule.require))) if rule.require is not None else "none"
    return _Reach(rule, number, frozenset(parts), everything, _raw(when.args), verb)


def _shadowing(draft: Draft) -> None:
    """Rules that say what another says, or that another always speaks before. Only rules with the same verb, or none, can do that."""
    reaches = [_reach(draft, rule, number) for number, rule in enumerate(draft.rules)]
    by_verb: dict[object, list[_Reach]] = {}
    for one in reaches:
        if not one.rule.monitor and one.rule.then != "alert":
            by_verb.setdefault(one.verb, []).append(one)
    for one in reaches:
        bare = by_verb.get("none", []) if one.verb != "none" else []
        for other in (*bare, *by_verb.get(one.verb, [])):
            if other is not one and other.covers(one) and (how := _how(other, one)):
                text = f"rule `{one.rule.id}` {how.format(other.rule.id)}"
                draft.report.error("shadowed", _at(draft, "rules", one.rule.id), text, "remove one of them")
                break


def _how(other: _Reach, one: _Reach) -> str | None:
    first, rule = other.rule, one.rule
    alike = one.covers(other) and first.then == rule.then and not rule.monitor
    if alike and first.limit == rule.limit and (first.require is None) == (rule.require is None):
        return "says the same as rule `{}`, which stands before it" if other.number < one.number else None
    if first.then not in ("deny", rule.then):
        return None
    if first.limit is None and first.require is None:
        return "is shadowed by rule `{}`, which always speaks first"
    mine, theirs = rule.limit, first.limit
    if mine is None or theirs is None:
        return None
    longer = theirs.window is None or (mine.window is not None and theirs.window >= mine.window)
    return "is shadowed by rule `{}`, which always speaks first" if longer and theirs.max <= mine.max else None


def _raw(args: Mapping[str, Constraint]) -> dict[str, object]:
    return {path: constraint.raw for path, constraint in args.items()}


# --- intents


def _intent(draft: Draft, intent: Intent) -> None:
    used: set[str] = set()
    for name, permission in intent.allow.items():
        tool = draft.tools.get(name)
        for path, constraint in permission.args.items():
            used |= set(constraint.params)
            at = _at(draft, "intents", intent.name, "allow", name, path)
            if why := _impossible(constraint):
                draft.report.error("never-matches", at, f"intent `{intent.name}`, tool `{name}`, argument `{path}`: {why}")
            if tool is not None and tool.types.get(path) == "decimal" and _open_below(constraint):
                text = f"intent `{intent.name}`: the range of `{path}` of `{name}` has no lower bound; a negative amount fits"
                draft.report.warn("no-lower-bound", at, text, 'add `min: "0"`')
        if tool is not None:
            _unconstrained(draft, intent, tool)
    for param in sorted(set(intent.params) - used) if not draft.report.failed else ():
        text = f"intent `{intent.name}`: no constraint uses parameter `${param}`"
        draft.report.warn("unused", _at(draft, "intents", intent.name, "params", param), text)


def _open_below(constraint: Constraint) -> bool:
    raw = constraint.raw
    bounded = raw.get("range") if isinstance(raw, dict) else None
    return isinstance(bounded, dict) and constraint.lower_bound() is None and not {"min", "above"} & set(bounded)


def _unconstrained(draft: Draft, intent: Intent, tool: Tool) -> None:
    """A tool that does more than read, with a control argument the intent says nothing about."""
    effects = [effect for effect in tool.effects if effect != "read"]
    if not effects:
        return
    written = draft.written.get((intent.name, tool.name), ())
    free = [path for path in sorted(tool.control) if not any(_speaks_of(one, path) for one in written)]
    if free:
        names = ", ".join(f"`{path}`" for path in free)
        text = f"intent `{intent.name}` allows `{tool.name}` ({', '.join(effects)}) with no constraint on {names}"
        draft.report.warn("unconstrained", _at(draft, "intents", intent.name, "allow", tool.name), text)


def _speaks_of(written: str, path: str) -> bool:
    return written == path or path in _above(written) or written in _above(path)


def _above(path: str) -> Iterator[str]:
    """`to[].email` -> `to[]`, `to`"""
    while path:
        if path.endswith("[]"):
            path = path[:-2]
        elif "." in path:
            path = path.rpartition(".")[0]
        else:
            return
        yield path
