"""What a call leaves behind for the rules that look back: counters and labels at its commit, ends where it went well.

| left at           | what                                                        | taken back: not run | error without effect |
|-------------------|-------------------------------------------------------------|---------------------|----------------------|
| commit, once      | `x|t|TOOL`, `x|e|EFFECT`, labels no rule names              | yes, labels stay    | yes, labels stay     |
| commit, each call | labels some rule names                                      | no                  | no                   |
| commit, each call | `x|i|SHAPE` of each item it meets, both counters of `exclusive` | yes             | yes                  |
| commit            | the position of a sequence, if the one before was read as reached | no (strict)   | no (strict)          |
| commit            | `once`                                                      | yes                 | yes                  |
| good end          | `k|t|TOOL`, `k|e|EFFECT`: once, or each time a rule looks at when; `k|SHAPE` per person | - | - |

*Once*: a counter that can no longer return to zero need not grow. Which that is, the task's own process knows (`TaskState.ran`).
Stored by tool, effect and label whatever the rules say, so that a new rule sees the past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from guard.constraints import compile_args
from guard.frozen import frozen
from guard.ops import Know, Mark, Op, Sum, Take
from guard.workflow import marks
from guard.workflow.atoms import Values
from guard.workflow.exclusive import exclusive_keys, exclusive_shape
from guard.workflow.limits import Context
from guard.workflow.past import before_shape
from guard.workflow.reach import reach
from guard.workflow.verb import Hold

if TYPE_CHECKING:
    from guard.policy.data import Before, Exclusive, Item, PolicyData, Rule, Tool

__all__ = ["NOTHING", "SOURCES", "Events", "Left", "compile_events", "ended_well", "labels_of", "left_behind", "look", "shapes_in"]

UNDECLARED = ("untrusted",)
"""What a result is labelled of which the policy says nothing."""


SOURCES = "sources"
"""Among the shapes: since when results are looked at for where values come from."""


class Place(NamedTuple):
    """Position `at` of the sequence `key`, for calls of one tool."""

    key: str
    at: int
    item: Item
    shape: str


class Ended(NamedTuple):
    """A map of good ends this tool writes. `ttl`: as long as any rule looks back."""

    before: Before
    shape: str
    ttl: int | None


@frozen
class Events:
    """For one tool. `light`: it leaves nothing but `counters`."""

    counters: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shaped: tuple[tuple[Item, str], ...] = ()
    apart: tuple[tuple[Exclusive, Item], ...] = ()
    places: tuple[Place, ...] = ()
    ends: tuple[str, ...] = ()
    every: bool = False
    ended: tuple[Ended, ...] = ()
    skippable: bool = True
    light: bool = True


NOTHING = Events()


def compile_events(layers: Sequence[PolicyData], tool: Tool, context: Context) -> Events:
    """Everything a call of `tool` is to leave behind under the rules of `layers`."""
    rules = [rule for layer in layers for rule in layer.rules]
    afters = [rule.after for rule in rules if rule.after is not None]
    named = {item.label for after in afters for item in after.items if item.label is not None}
    labels = _possible(tool)
    each = tuple(label for label in labels if label in named)
    counters = [f"{context.task}|x|t|{tool.name}", *(f"{context.task}|x|e|{effect}" for effect in tool.effects)]
    if tool.returns is None or not tool.returns.variants:
        counters += [marks.label_key(context.task, label) for label in labels if label not in named]
    else:
        each = labels  # which of them, only the call says
    items = [item for after in afters if not after.in_order for item in after.items if marks.about(item, tool)]
    shaped = {marks.shape_of(item): item for item in items if marks.plain_keys(item, layers[0].tools, context.task) is None}
    apart = {
        exclusive_shape(rule.exclusive, item): (rule.exclusive, item)
        for rule in rules
        if rule.exclusive is not None
        for item in rule.exclusive.items
        if marks.about(item, tool)
    }
    places = _places(rules, tool, labels, context)
    ends, every, ended = _ends(rules, tool, layers[0], context)
    return Events(
        tuple(counters), each, tuple((item, shape) for shape, item in shaped.items()), tuple(apart.values()), places, ends, every, ended,
        not tool.errors_have_no_effect, not (each or shaped or apart or places or ended or tool.once or tool.remember),
    )  # fmt: skip


def _places(rules: Sequence[Rule], tool: Tool, labels: Sequence[str], context: Context) -> tuple[Place, ...]:
    found: dict[tuple[str, int], Place] = {}
    for rule in rules:
        if rule.after is not None and rule.after.in_order:
            key = f"{context.task}|q|{marks.shape_of(rule.after.items)}"
            for at, item in enumerate(rule.after.items):
                if item.label in labels if item.label is not None else marks.about(item, tool):
                    found[key, at] = Place(key, at, item, marks.shape_of(item))
    return tuple(found.values())


def _ends(rules: Sequence[Rule], tool: Tool, base: PolicyData, context: Context) -> tuple[tuple[str, ...], bool, tuple[Ended, ...]]:
    own = (f"{context.task}|k|t|{tool.name}", *(f"{context.task}|k|e|{effect}" for effect in tool.effects))
    every, ended = False, dict[str, Ended]()
    for rule in rules:
        before = rule.before
        if before is None or not marks.about(before.item, tool):
            continue
        if before.distinct is None and marks.ok_keys(before.item, base.tools, context.task) is not None:
            every = every or before.within is not None or before.consume
            continue
        shape = before_shape(before)
        known = ended.get(shape)
        ttl = before.within if known is None or (known.ttl is not None and before.within is not None) else None
        if known is not None and known.ttl is not None and ttl is not None:
            ttl = max(ttl, known.ttl)
        ended[shape] = Ended(before, shape, ttl)
    return own, every, tuple(ended.values())


def shapes_in(layer: PolicyData) -> dict[str, frozenset[str]]:
    """Rule id -> shapes that are counted only while a policy names them, of the verbs for which missing is not the strict side."""
    found: dict[str, frozenset[str]] = {}
    for rule in layer.rules:
        shapes: set[str] = set()
        if rule.after is not None and rule.after.in_order:
            shapes.add(marks.shape_of(rule.after.items))
        elif rule.after is not None:
            shapes |= {marks.shape_of(item) for item in rule.after.items if marks.plain_keys(item, {}, "") is None}
        if rule.exclusive is not None:
            shapes |= {exclusive_shape(rule.exclusive, item) for item in rule.exclusive.items}
        if rule.limit is not None and not rule.limit.denied:
            shapes.add(f"r|{layer.name}|{rule.id}")
        if shapes:
            found[rule.id] = frozenset(shapes)
    return found


# -- labels --------------------------------------------------------------------------------------------------------------------


def _possible(tool: Tool) -> tuple[str, ...]:
    returns = tool.returns
    if returns is None:
        return UNDECLARED
    if returns.none:
        return ()
    return tuple(dict.fromkeys([*returns.labels, *(label for variant in returns.variants for label in variant.labels)]))


def labels_of(tool: Tool, values: Values) -> tuple[str, ...]:
    """The labels that latch with this call. Of variants, the first that holds; one that cannot be evaluated latches as well."""
    returns = tool.returns
    if returns is None or not returns.variants:
        return _possible(tool)
    variants, own = returns.variants, returns.labels

    def choose(args: Mapping[str, object]) -> list[str]:
        found: list[str] = []
        for variant in variants:
            if any(not reach(path, args) for path in variant.when):
                found += variant.labels
            elif compile_args(variant.when, closed=False)(args) is None:
                return [*found, *variant.labels]
        return [*found, *own]

    answer = values.ask("labels", choose)
    return tuple(dict.fromkeys(str(label) for label in answer)) if isinstance(answer, (list, tuple)) else ()


# -- one call ------------------------------------------------------------------------------------------------------------------


class Left(NamedTuple):
    """`marks` and `holds` of the commit; `unmark`, `forget`: see `plan.Weighed`."""

    holds: list[Hold]
    marks: list[Op]
    unmark: list[Op]
    forget: list[Op]
    labels: tuple[str, ...]


def look(events: Events, tool: Tool, values: Values) -> tuple[Op, ...]:
    """What must be read before: the position before each that this call would reach."""
    return tuple(Sum(f"{place.key}|{place.at - 1}") for place in _reached(events, tool, values) if place.at > 0)


def _reached(events: Events, tool: Tool, values: Values) -> list[Place]:
    if not events.places:
        return []
    labels = labels_of(tool, values)
    return [
        place
        for place in events.places
        if (place.item.label in labels if place.item.label is not None else marks.met(place.item, place.shape, values, strict=True))
    ]


def left_behind(
    events: Events, tool: Tool, values: Values, context: Context, decision: str, answers: Sequence[object], *, seen: bool
) -> Left:
    """`seen`: the counters of this tool stand already. `answers`: of `look`."""
    counted = [] if seen else list(events.counters)
    latched: list[str] = []
    labels: tuple[str, ...] = ()
    if events.labels:
        labels = labels_of(tool, values)
        latched = [marks.label_key(context.task, label) for label in labels if label in events.labels]
    for item, shape in events.shaped:
        if marks.met(item, shape, values, strict=True):
            wide = bool(item.match)
            counted.append(str(marks.item_key("x|i", shape, marks.theirs(item), f"{shape}.match", values, context, tenant_wide=wide)))
    for exclusive, item in events.apart:
        if marks.met(item, exclusive_shape(exclusive, item), values, strict=True):
            counted += exclusive_keys(exclusive, item, values, context)
    label_keys = {key for key in counted if "|x|l|" in key and key.startswith(f"{context.task}|x|l|")}
    done: list[Op] = [marks.add(key, decision) for key in (*counted, *latched)]
    # A label stays, also if the body does not run: one taken back after somebody declassified it would hide the next one.
    unmark: list[Op] = [marks.back(key, decision) for key in counted if key not in label_keys]
    forget: list[Op] = [marks.back(key, decision) for key in counted if key not in label_keys]
    holds: list[Hold] = []
    at = 0
    for place in _reached(events, tool, values):
        if place.at > 0:
            answer = answers[at]
            at += 1
            if type(answer) is not tuple or type(answer[0]) is not int:
                raise TypeError("not the answer of a Sum")
            if answer[0] == 0:
                holds.append(Hold(Sum(f"{place.key}|{place.at - 1}", None, 0)))
                continue
        done.append(marks.add(f"{place.key}|{place.at}", decision))
    if tool.once is not None:
        key = marks.once_key(tool, values, context)
        done.append(Mark(key, decision, tool.once.within, decision))
        unmark.append(Take(key, need=False))
        forget.append(Take(key, need=False))
    ended_well(events, values, context, decision, 0, seen=True)  # asked now: what a good end will write stands in the decision's record
    return Left(holds, done, unmark, forget, labels)


def ended_well(events: Events, values: Values, context: Context, decision: str, now: int, *, seen: bool) -> list[Op]:
    """What a call that ended well writes. `seen`: its plain ends stand already, and no rule looks at when they were."""
    value = f"{now}:{decision}"
    ops: list[Op] = []
    if events.every or not seen:
        ops += [Know(key, "last", value, "last", decision) for key in events.ends]
    for before, shape, ttl in events.ended:
        item = before.item
        if marks.met(item, shape, values, strict=False):
            wide = bool(item.match)
            site = f"{shape}.match"
            key = marks.item_key("k", shape, marks.theirs(item), site, values, context, tenant_wide=wide, whole=True)
            if key is not None:
                who = marks.person_of(context, before.distinct)
                word = "-" if who is None else marks.hashed(marks.scope(context, wide)[1], who)
                ops.append(Know(key, word, value, "last", decision, most=8, ttl=ttl))
    return ops
