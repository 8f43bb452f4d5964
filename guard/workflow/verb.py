"""What every verb that looks back is made of: what it reads, why it fires, what it holds; and the words for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from guard.model import Finding, Mode
from guard.ops import Op, Refused
from guard.reasons import ReasonCode
from guard.workflow.atoms import Values
from guard.workflow.limits import Context

if TYPE_CHECKING:
    from guard.policy.data import Item, Rule

__all__ = ["Answer", "Fired", "Hold", "Verb", "finding", "fires", "hard", "listed", "named", "says", "summed"]

_SAYS = {"deny": "forbid", "ask": "ask", "alert": "permit", "suspend": "forbid"}


class Hold(NamedTuple):
    """What must be so when the call is committed. `said`: what a refusal means, None: the call is judged again. `undo`: takes it back."""

    op: Op
    said: Callable[[Refused], Finding] | None = None
    undo: Op | None = None


class Fired(NamedTuple):
    """Why a rule fires."""

    text: str
    fix: str | None = None
    witnesses: tuple[str, ...] = ()


Answer = Fired | tuple[Hold, ...]
"""What a verb says: it fires, or what it relies on."""


class Verb:
    """One verb of one rule for one tool (None: `task.end`)."""

    code: ReasonCode

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        raise NotImplementedError

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        """`answers`: of `reads`, one a piece."""
        raise NotImplementedError


def says(rule: Rule) -> str:
    return _SAYS.get(rule.then, "forbid")


def hard(rule: Rule) -> bool:
    """May a refusal of the store be the finding itself?"""
    return says(rule) == "forbid" and not rule.monitor and rule.unless is None


def finding(rule: Rule, code: ReasonCode, fired: Fired, mode: Mode) -> Finding:
    text = f"rule {rule.id}: {fired.text}"
    return Finding("rules", says(rule), code, rule.id, rule.where, text, mode, fired.fix, fired.witnesses)  # type: ignore[arg-type]


def fires(rule: Rule, text: str, now: int, until: int | None, code: ReasonCode = ReasonCode.RULE_MATCH) -> Finding:
    """A rule without a verb."""
    return finding(rule, code, Fired(text), "monitor" if until is not None and now < until else "enforce")


def summed(answer: object) -> tuple[int, str]:
    """The answer of a `Sum`. Anything else is no answer: the TypeError denies the call."""
    if type(answer) is tuple and len(answer) == 2 and type(answer[0]) is int and type(answer[1]) is str:
        return answer
    raise TypeError("not the answer of a Sum")


def named(item: Item) -> str:
    """An item in words: names of the policy, no values."""
    if item.label is not None:
        return f"label {item.label}"
    parts = [" or ".join(sorted(item.tool))] if item.tool else []
    parts += [f"a call of effect {' or '.join(sorted(item.effect))}"] if item.effect else []
    text = " that is ".join(parts) or "a call"
    return text + (f" with such {' and '.join(sorted(item.args))}" if item.args else "")


def listed(items: Sequence[Item]) -> str:
    return " and ".join(map(named, items))
