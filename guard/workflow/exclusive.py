"""`exclusive`: one `by` does only one of the items; and the counters an event of an item adds to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guard.model import Finding
from guard.ops import Op, Refused, Sum
from guard.reasons import ReasonCode
from guard.workflow import marks
from guard.workflow.atoms import Values
from guard.workflow.limits import Context
from guard.workflow.verb import Answer, Fired, Hold, Verb, finding, hard, listed, summed

if TYPE_CHECKING:
    from guard.policy.data import Exclusive, Item, Rule, Tool

__all__ = ["apart", "exclusive_keys", "exclusive_shape"]


class _Exclusive(Verb):
    """One `by` does only one of the items. This call is one of `mine`; none of `others` may count for the same `by`.

    | this one is | an other item counts by | fires |
    |-------------|-------------------------|-------|
    | proven      | the same                | yes   |
    | proven      | somebody unproven       | yes   |
    | proven      | another                 | no    |
    | unproven    | anybody                 | yes   |
    """

    code = ReasonCode.RULE_EXCLUSIVE

    def __init__(self, rule: Rule, exclusive: Exclusive, mine: tuple[int, ...]) -> None:
        self._rule, self._exclusive, self._mine = rule, exclusive, mine
        self._shapes = tuple(exclusive_shape(exclusive, item) for item in exclusive.items)
        self._hard = hard(rule)

    def _others(self, values: Values, context: Context) -> list[str]:
        exclusive, found = self._exclusive, []
        if not any(marks.met(exclusive.items[i], self._shapes[i], values, strict=True) for i in self._mine):
            return []
        who = marks.person_of(context, exclusive.by)
        for i, shape in enumerate(self._shapes):
            if i in self._mine and marks.met(exclusive.items[i], shape, values, strict=True):
                continue
            head = exclusive_head(exclusive, shape, values, context)
            found += [f"{head}|any"] if who is None else [f"{head}|{_hashed(exclusive, who, context)}", f"{head}|-"]
        return found

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return () if self._hard else tuple(Sum(key) for key in self._others(values, context))

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        keys = self._others(values, context)
        if self._hard:
            return tuple(Hold(Sum(key, None, 0), self._said) for key in keys)
        witnesses = [by for total, by in map(summed, answers) if total > 0]
        return self._fired(tuple(by for by in witnesses if by)) if witnesses else tuple(Hold(Sum(key, None, 0)) for key in keys)

    def _said(self, refused: Refused) -> Finding:
        return finding(self._rule, self.code, self._fired((refused.by,) if refused.by else ()), "enforce")

    def _fired(self, witnesses: tuple[str, ...]) -> Fired:
        others = listed(tuple(item for i, item in enumerate(self._exclusive.items) if i not in self._mine))
        same = f" for the same {' and '.join(self._exclusive.per)}" if self._exclusive.per else ""
        return Fired(f"the same {self._exclusive.by} has done {others}{same}", f"another {self._exclusive.by}", witnesses)


def exclusive_shape(exclusive: Exclusive, item: Item) -> str:
    return marks.shape_of(item, exclusive.by, exclusive.per)


def exclusive_head(exclusive: Exclusive, shape: str, values: Values, context: Context) -> str:
    return str(marks.item_key("e", shape, exclusive.per, f"{shape}.per", values, context, tenant_wide=bool(exclusive.per)))


def _hashed(exclusive: Exclusive, who: str, context: Context) -> str:
    return marks.hashed(marks.scope(context, bool(exclusive.per))[1], who)


def exclusive_keys(exclusive: Exclusive, item: Item, values: Values, context: Context) -> tuple[str, str]:
    """The counters an event of `item` adds to: anybody's, and this one's or that of everybody unproven."""
    head = exclusive_head(exclusive, exclusive_shape(exclusive, item), values, context)
    who = marks.person_of(context, exclusive.by)
    return f"{head}|any", f"{head}|{'-' if who is None else _hashed(exclusive, who, context)}"


def apart(rule: Rule, exclusive: Exclusive, tool: Tool) -> Verb | None:
    mine = tuple(i for i, item in enumerate(exclusive.items) if marks.about(item, tool))
    return _Exclusive(rule, exclusive, mine) if mine else None
