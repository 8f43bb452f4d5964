"""Facts: what a result said is remembered under a name and a key of the call, and tested by `require_any`.

A fact is a mark of the task with the JSON of its fields; it lives in the state, never in a record. Missing, too large or of another
form: it does not satisfy. What a test came to is an atom, since in replay neither the fact nor the values are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from guard.constraints import Constraint
from guard.ops import Mark, Op
from guard.workflow import marks
from guard.workflow.atoms import Live, NotJudged, Values
from guard.workflow.limits import Context
from guard.workflow.reach import reach

if TYPE_CHECKING:
    from guard.policy.data import Age, FactTest, Remember, Tool

__all__ = ["LARGEST", "holds", "key_of", "remembered"]

LARGEST: Final = 1024
"""Bytes of a fact; a larger one is not remembered, which is the strict side."""
_LIFE: Final = 24 * 3600
_COMPARE: Final = {
    "min": lambda value, bound: value >= bound,
    "max": lambda value, bound: value <= bound,
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
}


def key_of(test: FactTest, site: str, values: Values, context: Context) -> str:
    """Where the fact of this call stands."""
    if test.key is None:
        return marks.fact(context, test.fact, marks.hashed(context.task_key, [[test.const]]))
    paths = (test.key.removeprefix("args."),)
    joined = values.ask(f"{site}.key", lambda found: marks.hashed(context.task_key, marks.values_at(paths, found)))
    return marks.fact(context, test.fact, str(joined))


def holds(test: FactTest, site: str, stored: object, values: Values, now: int) -> bool:
    """Does the remembered fact meet the test? The answer rests on the store as well, so it is written down anew each time it is judged."""
    if type(values) is not Live:
        found = values.told.get(site)
        if type(found) is not bool:
            raise NotJudged(site)
        return found
    values.told[site] = answer = _meets(test, stored, values.values, now)
    return answer


def _meets(test: FactTest, stored: object, args: Mapping[str, object], now: int) -> bool:
    try:
        fields = json.loads(stored) if type(stored) is str else None
        if type(fields) is not dict:
            return False
        if not all(_field(must, fields.get(name), now) for name, must in test.where.items()):
            return False
        return all(
            _COMPARE[word](_number(value), _number(fields[field]))
            for path, words in test.bounds.items()
            for word, field in words.items()
            for value in reach(path.removeprefix("args."), args) or [None]
        )
    except (ValueError, ArithmeticError, KeyError, TypeError):
        return False  # what cannot be compared does not satisfy


def _number(value: object) -> Decimal:
    """Attack: a price of Infinity in a result would bound nothing."""
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError("not a number")
    return number


def _field(must: Constraint | Age, value: object, now: int) -> bool:
    if value is None:
        return False
    if isinstance(must, Constraint):
        return must.test(value) is True
    second = _epoch(value)
    age = None if second is None else now - second
    return age is not None and age >= (must.min or 0) and (must.max is None or age <= must.max)


def _epoch(value: object) -> int | None:
    """Seconds of a remembered date or time; without a zone it is UTC."""
    if type(value) is not str:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())


def remembered(tool: Tool, values: Values, context: Context, result: object, decision: str) -> list[Op]:
    """What to keep of a result that came back well. A field that is not there, or not one plain value, is left out."""
    ops: list[Op] = []
    for each in tool.remember:
        fields = {name: found[0] for name, path in each.fields.items() if len(found := _result(path, result)) == 1 and _plain(found[0])}
        text = json.dumps(fields, separators=(",", ":"), default=str)
        if fields and len(text.encode()) <= LARGEST:
            ops.append(Mark(marks.fact(context, each.fact, _key(each, values, context)), decision, _LIFE, text))
    return ops


def _key(each: Remember, values: Values, context: Context) -> str:
    paths = (each.key.removeprefix("args."),)
    return str(values.ask(f"fact.{each.fact}.key", lambda found: marks.hashed(context.task_key, marks.values_at(paths, found))))


def _result(path: str, result: object) -> list[object]:
    return reach(path, result) if isinstance(result, Mapping) else []


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float, Decimal, date))
