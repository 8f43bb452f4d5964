"""Rules that look back: what each reads, when it fires, and what must still be so when the call is committed.

| verb                       | reads                        | fires when                               | holds, where it does not fire            |
|----------------------------|------------------------------|------------------------------------------|------------------------------------------|
| `forbid_after`             | a sum per item               | every item happened                      | the first missing item is still missing  |
| the same, one plain item, hard | -                        | refused                                  | it did not happen: refusal is a finding  |
| `forbid_after`, `in_order` | the last position            | it was reached                           | still not reached                        |
| `require_before`           | the map of ends              | no entry is recent and by somebody else  | `consume`: takes the entry; `within`: it still stands |
| `limit: {denied}`          | the count of denials         | it is at its maximum                     | still below                              |
| `exclusive`, hard          | -                            | refused                                  | this one did none of the other items     |
| `exclusive`, else          | a sum per other item         | this one did another item                | still none                               |
| `require_any`              | the fact                     | no alternative holds                     | -                                        |

*Hard*: a deny that enforces from the first day, with nothing that excuses. Every other form reads, so that its record says what was
true, and holds what it relied on: a call that is committed was judged on the state it is committed to (attack: two calls in flight,
each judged before the other counts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from guard.constraints import compile_when
from guard.frozen import frozen
from guard.model import Finding, Mode
from guard.ops import Drop, Know, Lookup, Op, Refused, Require, Sum, parse_map
from guard.reasons import ReasonCode
from guard.workflow import facts, marks
from guard.workflow.atoms import Values
from guard.workflow.exclusive import apart
from guard.workflow.limits import Context, describe
from guard.workflow.verb import Answer, Fired, Hold, Verb, finding, hard, listed, named, summed

if TYPE_CHECKING:
    from guard.policy.data import Before, Item, PolicyData, Rule, Tool

__all__ = ["PastRule", "before_shape", "compile_past", "compile_verb"]


@frozen
class PastRule:
    """A rule with a verb that looks back, over one tool. `when`: asked where the rule has predicates. `until`: as `CompiledRule`."""

    rule: Rule
    verb: Verb
    when: Callable[[Mapping[str, object]], bool] | None
    until: int | None

    def matches(self, values: Values) -> bool:
        return self.when is None or values.ask(f"{self.rule.id}.when", self.when) is True

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return self.verb.reads(values, context) if self.matches(values) else ()

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> tuple[Finding | None, tuple[Hold, ...]]:
        """A finding where the rule fires, else the holds. `unless` is asked by the caller, of a rule that fires."""
        if not self.matches(values):
            return None, ()
        answer = self.verb.judge(values, context, answers, now)
        if not isinstance(answer, Fired):
            return None, answer
        mode: Mode = "monitor" if self.until is not None and now < self.until else "enforce"
        return finding(self.rule, self.verb.code, answer, mode), ()


def compile_past(rule: Rule, tool: Tool, base: PolicyData, until: int | None, context: Context) -> PastRule | None:
    """The rule for calls of `tool`, None where it has no verb that looks back or is not about the tool."""
    verb = compile_verb(rule, tool, base, context)
    return None if verb is None else PastRule(rule, verb, compile_when(rule.when.args) if rule.when.args else None, until)


def compile_verb(rule: Rule, tool: Tool | None, base: PolicyData, context: Context) -> Verb | None:
    if rule.after is not None:
        return _ordered(rule, base, context) if rule.after.in_order else _After(rule, base, context)
    if rule.before is not None:
        return _Before(rule, rule.before, base, context)
    if rule.limit is not None and rule.limit.denied:
        return _Denied(rule, context)
    if rule.exclusive is not None and tool is not None:
        return apart(rule, rule.exclusive, tool)
    if rule.any_facts:
        return _Facts(rule)
    return None


# -- forbid_after --------------------------------------------------------------------------------------------------------------


class _After(Verb):
    """All of the items, in any order. An item is one key or several; it happened if any of them counts."""

    code = ReasonCode.RULE_FORBID_AFTER

    def __init__(self, rule: Rule, base: PolicyData, context: Context) -> None:
        self._rule = rule
        self._items = rule.after.items if rule.after is not None else ()
        self._plain = tuple(marks.plain_keys(item, base.tools, context.task) for item in self._items)
        self._shapes = tuple(marks.shape_of(item) for item in self._items)
        self._one = hard(rule) and not rule.when.end and len(self._items) == 1 and self._items[0].label is None

    def _keys(self, values: Values, context: Context) -> list[tuple[str, ...]]:
        found = []
        for item, keys, shape in zip(self._items, self._plain, self._shapes, strict=True):
            if keys is None:
                site = f"{shape}.this"
                key = marks.item_key("x|i", shape, marks.ours(item), site, values, context, tenant_wide=bool(item.match))
                keys = (str(key),)
            found.append(keys)
        return found

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return () if self._one else tuple(Sum(key) for keys in self._keys(values, context) for key in keys)

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        items = self._keys(values, context)
        if self._one:
            return tuple(Hold(Sum(key, None, 0), self._said) for key in items[0])
        at, witnesses = 0, []
        for keys in items:
            happened = [by for total, by in map(summed, answers[at : at + len(keys)]) if total > 0]
            at += len(keys)
            if not happened:
                return tuple(Hold(Sum(key, None, 0)) for key in keys)
            witnesses += happened
        return self._fired(tuple(by for by in witnesses if by))

    def _said(self, refused: Refused) -> Finding:
        return finding(self._rule, self.code, self._fired((refused.by,) if refused.by else ()), "enforce")

    def _fired(self, witnesses: tuple[str, ...]) -> Fired:
        return Fired(f"not after {listed(self._items)}", "a new task" if not any(i.match for i in self._items) else None, witnesses)


class _Ordered(Verb):
    """All of the items, one after the other: the last position was reached. Positions never go back."""

    code = ReasonCode.RULE_FORBID_AFTER

    def __init__(self, items: tuple[Item, ...], key: str) -> None:
        self._items, self._key = items, key

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return (Sum(self._key),)

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        total, by = summed(answers[0])
        if total == 0:
            return (Hold(Sum(self._key, None, 0)),)
        return Fired(f"not after {', then '.join(map(named, self._items))}", "a new task", (by,) if by else ())


def _ordered(rule: Rule, base: PolicyData, context: Context) -> Verb:
    items = rule.after.items if rule.after is not None else ()
    return _Ordered(items, f"{context.task}|q|{marks.shape_of(items)}|{len(items) - 1}")


# -- require_before ------------------------------------------------------------------------------------------------------------


class _Before(Verb):
    """The latest end that is recent enough, and by somebody else where `distinct` says so; `consume` takes it."""

    code = ReasonCode.RULE_REQUIRE_BEFORE

    def __init__(self, rule: Rule, before: Before, base: PolicyData, context: Context) -> None:
        self._rule, self._before = rule, before
        self._plain = marks.ok_keys(before.item, base.tools, context.task) if before.distinct is None else None
        self._shape = before_shape(before)
        self._secret = marks.scope(context, bool(before.item.match))[1]

    def _keys(self, values: Values, context: Context) -> tuple[str, ...]:
        if self._plain is not None:
            return self._plain
        item, site = self._before.item, f"{self._shape}.this"
        key = marks.item_key("k", self._shape, marks.ours(item), site, values, context, tenant_wide=bool(item.match), whole=True)
        return (key,) if key is not None else ()

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return tuple(Lookup(key) for key in self._keys(values, context))

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        best: tuple[int, str, str, str] | None = None  # second, key, word, value
        for key, answer in zip(self._keys(values, context), answers, strict=True):
            for word, value in parse_map(answer).items():
                second = _second(value)
                if self._fits(word, second, context, now) and (best is None or second >= best[0]):
                    best = second, key, word, value
        if best is None:
            return Fired(self._text(), self._fix())
        _, key, word, value = best
        before = self._before
        if before.consume:
            return (Hold(Drop(key, word), None, Know(key, word, value, "first", most=8, ttl=before.within)),)
        return (Hold(Require(key)),) if before.within is not None or before.distinct is not None or before.item.match else ()

    def _fits(self, word: str, second: int, context: Context, now: int) -> bool:
        before = self._before
        if before.within is not None and not second > now - before.within:
            return False
        if before.distinct is None:
            return True
        # Attack: the one who pays approves, as somebody unproven. Nobody proven is different from nobody.
        mine = marks.person_of(context, before.distinct)
        return mine is not None and word != "-" and word != marks.hashed(self._secret, mine)

    def _text(self) -> str:
        before = self._before
        text = f"needs {named(before.item)} that ended well before"
        if before.distinct is not None:
            text += f", by another {before.distinct}"
        if before.within is not None:
            text += f", within {describe(before.within)}"
        return text

    def _fix(self) -> str:
        item = self._before.item
        names = sorted(item.tool) or sorted(item.effect)
        fix = f"{' or '.join(names)} first"
        if item.match:
            fix += f" with the same {' and '.join(sorted(item.match))}"
        return fix + (f", by another {self._before.distinct}" if self._before.distinct is not None else "")


def before_shape(before: Before) -> str:
    """One map per item and kind of who: `within` and `consume` are the reader's."""
    return marks.shape_of(before.item, before.distinct)


def _second(value: str) -> int:
    head = value.partition(":")[0]
    return int(head) if head.isascii() and head.isdigit() else -1


# -- limit: {denied} -----------------------------------------------------------------------------------------------------------


class _Denied(Verb):
    """A task that keeps trying. Denials are counted where they are decided; the next call finds out."""

    code = ReasonCode.RULE_LIMIT

    def __init__(self, rule: Rule, context: Context) -> None:
        limit = rule.limit
        self._max = int(limit.max) if limit is not None else 0
        self._op = Sum(marks.denied(context.task), limit.window if limit is not None else None)

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return (self._op,)

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        total, by = summed(answers[0])
        if total >= self._max:
            return Fired(f"{total} calls of this task were denied, of at most {self._max}", "a new task", (by,) if by else ())
        return (Hold(Sum(self._op.key, self._op.window, self._max - 1)),)


# -- require_any ---------------------------------------------------------------------------------------------------------------


class _Facts(Verb):
    """One of the alternatives holds of what was remembered."""

    code = ReasonCode.RULE_REQUIRE

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def reads(self, values: Values, context: Context) -> tuple[Op, ...]:
        return tuple(
            Lookup(facts.key_of(test, f"{self._rule.id}.fact.{i}", values, context)) for i, test in enumerate(self._rule.any_facts)
        )

    def judge(self, values: Values, context: Context, answers: Sequence[object], now: int) -> Answer:
        for i, (test, answer) in enumerate(zip(self._rule.any_facts, answers, strict=True)):
            if facts.holds(test, f"{self._rule.id}.fact.{i}", answer, values, now):
                return ()
        names = sorted({test.fact for test in self._rule.any_facts})
        return Fired(f"no remembered {' or '.join(names)} is as it must be", None)
