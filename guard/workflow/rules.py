"""Rules, compiled: which calls a rule is about, what it requires of the call itself, what it claims from the shared state.

| the rule                | says                                                                  |
|-------------------------|-----------------------------------------------------------------------|
| no verb                 | its `then` on every call it matches                                   |
| `require`               | its `then` where the call does not fulfil it                          |
| `check`                 | its `then` where the expression is not true of the arguments          |
| `limit`                 | its `then` where the claim does not fit any more                      |
| `then: alert`           | a permit with an alert                                                |
| `mode: monitor`         | the same, recorded with mode monitor and without a vote, until `until`|

A predicate in `when` that cannot be evaluated (its argument is absent) matches: a caller must not escape a rule by leaving an
argument out. Over a list, `when` matches if any item does, `require` holds only if every item does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

from guard.constraints import Constraint, compile_args, compile_when
from guard.frozen import frozen
from guard.model import Finding, Mode, Signal
from guard.reasons import ReasonCode
from guard.workflow.atoms import Live, Values
from guard.workflow.limits import LimitSource
from guard.workflow.reach import reach
from guard.workflow.verb import says

if TYPE_CHECKING:
    from guard.policy.data import PolicyData, Rule, Tool
    from guard.policy.judge import ArgsCheck

__all__ = [
    "SOURCE_LETTERS",
    "CompiledRule",
    "compile_rule",
    "concerns",
    "excused",
    "looks_back",
    "looks_over",
    "monitored_until",
    "uses_sources",
]

SOURCE_LETTERS: Final[Mapping[str, str]] = {
    "prompt": "p", "params": "a", "endorsed": "e", "directory": "d", "structured": "s", "made_here": "m", "author": "u", "text": "t",
}  # fmt: skip
"""The letters sources have in the ledger's maps (docs/design/0002-workflow.md, 3.1)."""


class HasIntent(Protocol):
    @property
    def intent(self) -> str | None: ...


_SIGNAL_FRESH = 15 * 60
_AHEAD = 5  # seconds a signal's clock may run before ours


@frozen
class CompiledRule:
    """One rule over one tool under one intent. `limit` None: judged on the call alone. `rule` has the id "" for a limit of the intent."""

    rule: Rule
    always: bool
    """It is about every call of the tool, whatever the arguments."""
    when: Callable[[Mapping[str, object]], bool]
    require: ArgsCheck | None
    limit: LimitSource | None
    until: int | None
    check: Callable[[Mapping[str, object]], bool] | None = None

    @classmethod
    def of_limit(cls, source: LimitSource) -> CompiledRule:
        """A limit of the intent that depends on arguments: asked of every call."""
        from guard.policy.data import Rule, When  # loaded long since, by whoever read the policy

        return cls(Rule("", When(), "deny"), True, lambda _: True, None, source, None)

    def matches(self, values: Values) -> bool:
        return values.ask(f"{self.rule.id}.when", self.when) is True

    def judge(self, values: Values, now: int, signals: Mapping[str, Signal]) -> Finding | None:
        """The finding of a rule without state; None where it has nothing to say. Only for rules that match."""
        rule = self.rule
        mode: Mode = "monitor" if self.until is not None and now < self.until else "enforce"
        if self.check is not None:
            if values.ask(f"{rule.id}.check", self.check) is True:
                return None
            said = f"rule {rule.id}: `check` is not true of these arguments"
            return Finding("rules", says(rule), ReasonCode.RULE_REQUIRE, rule.id, rule.where, said, mode, "arguments of which it is true")  # type: ignore[arg-type]
        if self.require is None and not rule.signals:
            text = f"rule {rule.id} fires on this call"
            return Finding("rules", says(rule), ReasonCode.RULE_MATCH, rule.id, rule.where, text, mode)  # type: ignore[arg-type]
        text, fix = self._argument(values) or self._signal(values, now, signals) or ("", None)
        if not text:
            return None
        return Finding("rules", says(rule), ReasonCode.RULE_REQUIRE, rule.id, rule.where, f"rule {rule.id}: {text}", mode, fix)  # type: ignore[arg-type]

    def late(
        self, plan: HasIntent, values: Values, now: int, signals: Mapping[str, Signal], masks: Mapping[str, Sequence[str]] | None
    ) -> Finding | None:
        """The finding of a rule about a call that has ended. Only a signal that is known, fresh, and not as it must be, makes one."""
        rule = self.rule
        if (self.until is not None and now < self.until) or not (self.always or self.matches(values)):
            return None
        fresh = rule.within or _SIGNAL_FRESH
        for name, constraint in rule.signals.items():
            signal = signals.get(name)
            if _fresh(signal, now, fresh) and not _holds(constraint, signal, now, fresh):
                if rule.unless is not None and excused(rule, plan, values, masks):
                    return None
                text = f"rule {rule.id}: signal {name} {constraint.text}, and was no longer when the call had ended"
                fix = f"a new task, and a fresh signal {name}"
                return Finding("rules", says(rule), ReasonCode.RULE_REQUIRE, rule.id, rule.where, text, "enforce", fix)  # type: ignore[arg-type]
        return None

    def _argument(self, values: Values) -> tuple[str, str | None] | None:
        if self.require is None:
            return None
        test, constraints = self.require, self.rule.require or {}
        path = values.ask(f"{self.rule.id}.require", lambda found: _path(test(found)))
        if path is None:
            return None
        constraint = constraints.get(str(path))
        if constraint is None:
            return f"argument {path} is required", None
        return f"argument {path} {constraint.text}", f"a call whose {path} {constraint.text}"

    def _signal(self, values: Values, now: int, signals: Mapping[str, Signal]) -> tuple[str, str | None] | None:
        """Missing, stale, from the future or not as it must be: none of these satisfies."""
        for name, constraint in self.rule.signals.items():
            site = f"{self.rule.id}.signal.{name}"
            if type(values) is Live:
                values.told[site] = _holds(constraint, signals.get(name), now, self.rule.within or _SIGNAL_FRESH)
            if values.ask(site, lambda _: False) is not True:
                return f"signal {name} {constraint.text}, and is not, or is not known", f"a fresh signal {name}"
        return None


def _fresh(signal: object, now: int, fresh: int) -> TypeGuard[Signal]:
    if type(signal) is not Signal or type(signal.at) is not int or signal.value is None:
        return False
    return now - fresh < signal.at <= now + _AHEAD


def _holds(constraint: Constraint, signal: object, now: int, fresh: int) -> bool:
    try:
        return _fresh(signal, now, fresh) and constraint.test(signal.value) is True
    except Exception:  # what cannot be evaluated does not hold
        return False


def _path(failed: tuple[str, Constraint | None] | None) -> str | None:
    return None if failed is None else failed[0]


def excused(rule: Rule, plan: HasIntent, values: Values, masks: Mapping[str, Sequence[str]] | None) -> bool:
    """Does `unless` excuse a call the rule fires on? All its members must hold.

    | member   | holds                                                                                        |
    |----------|----------------------------------------------------------------------------------------------|
    | `intent` | the delegation's intent is one of them                                                       |
    | `args`   | every argument is present and as it must be                                                  |
    | `flow`   | there are control values, and each has one of the sources; not where sources are not known   |
    | `asked`  | the trusted prompt speaks of more than one; the asked judge has read it for this call        |
    """
    unless = rule.unless
    if unless is None or (unless.intents and plan.intent not in unless.intents):
        return False
    if unless.args:

        def holds(found: Mapping[str, object]) -> bool:
            return compile_args(unless.args, closed=False)(found) is None and all(reach(path, found) for path in unless.args)

        if values.ask(f"{rule.id}.unless", holds) is not True:
            return False
    if unless.several:
        from guard.workflow.asked import AskedState  # loaded already, by whoever read the prompt

        if not AskedState.read(values.ask("got.asked", lambda _: None)).several:
            return False
    if unless.flow is not None:
        letters = {SOURCE_LETTERS[source] for source in unless.flow if source in SOURCE_LETTERS}
        each = [mask for path in masks or {} for mask in (masks or {})[path]]
        return bool(each) and all(letters & set(mask) for mask in each)
    return bool(unless.intents or unless.args or unless.several)


def uses_sources(layers: Sequence[PolicyData]) -> bool:
    """Whether anything in these layers asks where a value comes from. Without it nothing is indexed."""
    return any(layer.flow is not None for layer in layers) or any(
        (rule.unless is not None and rule.unless.flow is not None) for layer in layers for rule in layer.rules
    ) or any(
        permission.origins for layer in layers for intent in layer.intents.values() for permission in intent.allow.values()
    )  # fmt: skip


def concerns(rule: Rule, tool: Tool, intent: str | None) -> bool:
    """Is the rule about calls of this tool under this intent, whatever their arguments?"""
    when = rule.when
    if when.end or (when.tools and tool.name not in when.tools) or (when.effects and not when.effects & set(tool.effects)):
        return False
    return not when.intents or (intent is not None and intent in when.intents)


def looks_back(rule: Rule) -> bool:
    """Has it a verb that needs the past? Such a rule is never judged as one without a verb, also where it has nothing to say of a tool."""
    denied = rule.limit is not None and rule.limit.denied
    return denied or rule.after is not None or rule.before is not None or rule.exclusive is not None or bool(rule.any_facts)


def looks_over(rule: Rule) -> bool:
    """Does it look over the tenant, and not only over its task?"""
    items = (*(rule.after.items if rule.after else ()), *((rule.before.item,) if rule.before else ()))
    per = (rule.limit is not None and rule.limit.per) or (rule.exclusive is not None and rule.exclusive.per)
    return bool(per) or any(item.match for item in items)


def compile_rule(rule: Rule, layer: str, tool: Tool) -> CompiledRule:
    """A rule that does not look back, for a tool it concerns."""
    until = monitored_until(rule)
    limit = None
    if rule.limit is not None:
        name = f"r|{layer}|{rule.id}"
        limit = LimitSource(rule.limit, name, "rules", ReasonCode.RULE_LIMIT, says(rule), rule.id, rule.where, _unit(rule), until)
    require = compile_args(rule.require, closed=False) if rule.require else None
    check = None
    if rule.check is not None:
        from guard.policy import cel

        check = cel.compile(rule.check, tool.types, tool.control)
    return CompiledRule(rule, not rule.when.args, compile_when(rule.when.args), require, limit, until, check)


def _unit(rule: Rule) -> str:
    """What a limit rule counts, in words: the effect or tool it is about, else calls."""
    if len(rule.when.effects) == 1:
        return f"{next(iter(rule.when.effects))}s"
    if "read" in rule.when.effects and rule.when.effects <= {"read", "fetch"}:
        return "reads"
    return "calls"


def monitored_until(rule: Rule) -> int | None:
    """The first second on which a monitored rule enforces: midnight UTC of its day. Lint demands a day; without one it enforces."""
    if not rule.monitor:
        return None
    return int(datetime.combine(rule.until, time(), UTC).timestamp()) if rule.until is not None else 0
