"""Rules, compiled: which calls a rule is about, what it requires of the call itself, what it claims from the shared state.

| the rule                | says                                                                  |
|-------------------------|-----------------------------------------------------------------------|
| no verb                 | its `then` on every call it matches                                   |
| `require`               | its `then` where the call does not fulfil it                          |
| `limit`                 | its `then` where the claim does not fit any more                      |
| `then: alert`           | a permit with an alert                                                |
| `mode: monitor`         | the same, recorded with mode monitor and without a vote, until `until`|

A predicate in `when` that cannot be evaluated (its argument is absent) matches: a caller must not escape a rule by leaving an
argument out. Over a list, `when` matches if any item does, `require` holds only if every item does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from guard.constraints import compile_args, compile_when
from guard.model import Finding, Mode
from guard.policy.judge import ArgsCheck
from guard.reasons import ReasonCode
from guard.workflow.limits import LimitSource

if TYPE_CHECKING:
    from guard.policy.data import Rule, Tool

__all__ = ["CompiledRule", "compile_rule"]

_SAYS = {"deny": "forbid", "ask": "ask", "alert": "permit"}


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule over one tool under one intent. `limit` None: judged on the call alone."""

    rule: Rule
    always: bool
    """It is about every call of the tool, whatever the arguments."""
    matches: Callable[[Mapping[str, object]], bool]
    require: ArgsCheck | None
    limit: LimitSource | None
    until: int | None

    def judge(self, values: Mapping[str, object], now: int) -> Finding | None:
        """The finding of a rule without state; None where it has nothing to say. Only for rules that match."""
        rule = self.rule
        mode: Mode = "monitor" if self.until is not None and now < self.until else "enforce"
        says = _SAYS.get(rule.then, "forbid")
        if self.require is None:
            text = f"rule {rule.id} fires on this call"
            return Finding("rules", says, ReasonCode.RULE_MATCH, rule.id, rule.where, text, mode)  # type: ignore[arg-type]
        failed = self.require(values)
        if failed is None:
            return None
        path, constraint = failed
        text = f"rule {rule.id}: argument {path} {constraint.text if constraint else 'is required'}"
        fix = f"a call whose {path} {constraint.text}" if constraint else None
        return Finding("rules", says, ReasonCode.RULE_REQUIRE, rule.id, rule.where, text, mode, fix)  # type: ignore[arg-type]


def compile_rule(rule: Rule, tool: Tool, intent: str | None, layer: str) -> CompiledRule | None:
    """The rule for one tool under one intent, or None where it is not about them."""
    when = rule.when
    if when.end or (when.tools and tool.name not in when.tools) or (when.effects and not when.effects & set(tool.effects)):
        return None
    if when.intents and (intent is None or intent not in when.intents):
        return None
    until = _epoch(rule) if rule.monitor else None
    limit = None
    if rule.limit is not None:
        name = f"r|{layer}|{rule.id}"
        limit = LimitSource(
            rule.limit, name, "rules", ReasonCode.RULE_LIMIT, _SAYS.get(rule.then, "forbid"), rule.id, rule.where, _unit(rule), until
        )
    require = compile_args(rule.require, closed=False) if rule.require is not None else None
    return CompiledRule(rule, not when.args, compile_when(when.args), require, limit, until)


def _unit(rule: Rule) -> str:
    """What a limit rule counts, in words: the effect or tool it is about, else calls."""
    if len(rule.when.effects) == 1:
        return f"{next(iter(rule.when.effects))}s"
    if "read" in rule.when.effects and rule.when.effects <= {"read", "fetch"}:
        return "reads"
    return "calls"


def _epoch(rule: Rule) -> int:
    """The first second on which a monitored rule enforces: midnight UTC of its day. Lint demands a day; without one it enforces."""
    return int(datetime.combine(rule.until, time(), UTC).timestamp()) if rule.until is not None else 0
