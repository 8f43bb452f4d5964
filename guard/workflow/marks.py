"""Keys of what is remembered, all of them, and which call an item of a rule is about.

`T` is the task's key, `N` the tenant. A rule with `match` or `per` looks over the tenant, any other over its task; so `S` below is
`N` or `T`. Values stand in keys only as `h`, a hash under a key that never leaves the store.

| key                                  | kind    | means                                                                 |
|--------------------------------------|---------|-----------------------------------------------------------------------|
| `T|life`                             | pin     | the policies in force, or `ended:...`, `suspended:RULE`               |
| `T|x|t|TOOL`, `T|x|e|EFFECT`         | counter | calls that may have run: in flight, ok, error, unknown                |
| `T|x|l|LABEL`                        | counter | calls that have set the label                                         |
| `S|x|i|SHAPE[|h(match)]`             | counter | calls that met an item with `args` or `match`                         |
| `T|q|SHAPE|I`                        | counter | a sequence has come to its position I                                 |
| `T|k|t|TOOL`, `T|k|e|EFFECT`         | map     | the last one that ended well: `last=SECOND:DECISION`                  |
| `S|k|SHAPE[|h(match)]`               | map     | the same per person or actor: `h(who)=...`, `-` where nobody is proven |
| `S|e|SHAPE[|h(per)]|any`, `|h(who)`, `|-` | counters | `exclusive`: anybody, this one, somebody unproven                |
| `N|o|TOOL|h(key)`                    | mark    | `once`: the decision that used it                                     |
| `T|denied`                           | counter | enforced denials; also over each window a rule names                  |
| `T|F|FACT|h(key)`                    | mark    | a remembered fact, JSON                                               |
| `N|n`                                | counter | commits of calls whose plan looks over the tenant (`Plan.wide`)       |

A shape is named by what it says, not by its rule: the same item in two rules is one key, and a renamed rule keeps its past.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from guard.constraints import canonical, compile_args, compile_when
from guard.ops import Add
from guard.workflow.atoms import Values
from guard.workflow.limits import Context
from guard.workflow.reach import reach

if TYPE_CHECKING:
    from guard.policy.data import Item, Tool

__all__ = [
    "about", "add", "back", "commits", "denied", "fact", "hashed", "item_key", "label_key", "life", "met", "numbering", "ok_keys", "once_key", "ours", "person_of",
    "plain_keys", "scope", "shape_of", "theirs", "values_at",
]  # fmt: skip

Found = Callable[[Mapping[str, object]], object]
_MOST_SHAPES = 1024
_shapes: dict[tuple[int, ...], tuple[tuple[object, ...], str]] = {}
"""Of parts by their address: rules are asked on every call and never change. The parts are kept, so no address is given anew."""


def life(task: str) -> str:
    return f"{task}|life"


def denied(task: str) -> str:
    return f"{task}|denied"


def commits(context: Context) -> str:
    """Counts what changes, or may change, what the tenant's rules see: in the same transaction, so its numbers are the order of commits."""
    return f"{context.tenant}|n"


def numbering(context: Context) -> str:
    """Names the count of `commits` in a record. Numbers of two states (a file that was lost, two processes with `memory:`) are two orders."""
    return hmac.digest(context.tenant_key, b"commits", "sha256").hex()[:8]


def fact(context: Context, name: str, key: str) -> str:
    return f"{context.task}|F|{name}|{key}"


def label_key(task: str, label: str) -> str:
    return f"{task}|x|l|{label}"


def add(key: str, by: str) -> Add:
    return Add(key, 1, None, None, by)


def back(key: str, by: str) -> Add:
    """What takes `add` back: counted, not removed, so that other calls in flight stay counted."""
    return Add(key, -1, None, None, by)


# -- hashes of values ----------------------------------------------------------------------------------------------------------


def hashed(key: bytes, value: object) -> str:
    """24 hex digits. Keyed: whoever reads the store must not find out by trial which account was paid."""
    return hmac.digest(key, canonical(value), "sha256").hex()[:24]


def values_at(paths: Iterable[str], values: Mapping[str, object]) -> list[list[object]]:
    """The values at each path, as they are compared: bound, so typed and normalised. Numbers by their value, not by their spelling."""
    return [reach(path, values) for path in paths]


def scope(context: Context, tenant_wide: bool) -> tuple[str, bytes]:
    """The prefix of a rule's keys and the key of its hashes."""
    return (context.tenant, context.tenant_key) if tenant_wide else (context.task, context.task_key)


def person_of(context: Context, by: str | None) -> str | None:
    """Who acts, as `by` or `distinct` sees it; None where nobody is proven, and nobody equals everybody."""
    if by == "origin":
        return context.origin
    return context.person if by == "person" else context.actor_proven if by == "actor" else None


# -- items ---------------------------------------------------------------------------------------------------------------------


def shape_of(*parts: object) -> str:
    """16 hex digits of what an item says. Parts: items, texts, numbers, tuples of them."""
    key = tuple(map(id, parts))
    held = _shapes.get(key)
    if held is None:
        if len(_shapes) >= _MOST_SHAPES:
            _shapes.clear()
        held = _shapes[key] = parts, sha256(canonical([_written(part) for part in parts])).hexdigest()[:16]
    return held[1]


def _written(part: object) -> Any:
    from guard.policy.data import Item  # loaded long since, by whoever read the policy

    if isinstance(part, Item):
        args = {path: repr(constraint.raw) for path, constraint in part.args.items()}
        return [sorted(part.tool), sorted(part.effect), part.label, args, dict(part.match)]
    return [_written(one) for one in part] if isinstance(part, tuple) else part


def about(item: Item, tool: Tool) -> bool:
    """Is the item about calls of this tool, whatever their arguments?"""
    if item.label is not None:
        return False
    return (not item.tool or tool.name in item.tool) and (not item.effect or bool(item.effect & set(tool.effects)))


def plain_keys(item: Item, tools: Mapping[str, Tool], task: str) -> tuple[str, ...] | None:
    """The counters that say whether the item happened, where tool, effect or label say it alone; None: it has a shape of its own."""
    if item.label is not None:
        return (label_key(task, item.label),)
    if item.args or item.match or not (item.tool or item.effect):
        return None
    if item.tool:
        return tuple(f"{task}|x|t|{name}" for name in sorted(item.tool) if name not in tools or about(item, tools[name]))
    return tuple(f"{task}|x|e|{name}" for name in sorted(item.effect))


def ok_keys(item: Item, tools: Mapping[str, Tool], task: str) -> tuple[str, ...] | None:
    """The same for calls that ended well."""
    keys = plain_keys(item, tools, task) if item.label is None else None
    return None if keys is None else tuple(f"{task}|k|{key[len(task) + 3 :]}" for key in keys)


def met(item: Item, shape: str, values: Values, *, strict: bool) -> bool:
    """Does this call meet the item's `args`? `strict`: what cannot be evaluated meets them (for events that forbid), else it does not."""
    if not item.args:
        return True
    if strict:
        return values.ask(f"{shape}.when", lambda found: compile_when(item.args)(found)) is True
    return values.ask(f"{shape}.args", lambda found: _path(compile_args(item.args, closed=False)(found))) is None


def _path(failed: tuple[str, object] | None) -> str | None:
    return None if failed is None else failed[0]


def theirs(item: Item) -> tuple[str, ...]:
    """The paths of the event that `match` compares, in one order."""
    return tuple(sorted(item.match))


def ours(item: Item) -> tuple[str, ...]:
    """The paths of this call they are compared with, in the same order."""
    return tuple(item.match[path] for path in sorted(item.match))


def item_key(
    kind: str, shape: str, paths: tuple[str, ...], site: str, values: Values, context: Context, *, tenant_wide: bool, whole: bool = False
) -> str | None:
    """The key of a shape for this call, joined by the values at `paths`. An absent value is a value of its own, so that leaving it out
    buys nothing; `whole`: then there is no key (None), since what is absent satisfies nothing.
    """
    prefix, secret = scope(context, tenant_wide)
    if not paths:
        return f"{prefix}|{kind}|{shape}"

    def join(found: Mapping[str, object]) -> str:
        parts = values_at(paths, found)
        return "" if whole and not all(parts) else hashed(secret, parts)

    joined = values.ask(site, join)
    return f"{prefix}|{kind}|{shape}|{joined}" if joined else None


def once_key(tool: Tool, values: Values, context: Context) -> str:
    paths = tool.once.key if tool.once is not None else ()
    joined = values.ask("once", lambda found: hashed(context.tenant_key, values_at(paths, found)))
    return f"{context.tenant}|o|{tool.name}|{joined}"
