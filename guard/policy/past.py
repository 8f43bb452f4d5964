"""Tree -> data: the verbs that look back, `forbid_after`, `require_before`, `exclusive`, and `unless`.

| part of an event     | may say                                                               | else                                            |
|----------------------|-----------------------------------------------------------------------|-------------------------------------------------|
| `tool`, `effect`     | which calls                                                           | -                                               |
| `label`              | a label of the task; alone, in `forbid_after` only                    | `unenforceable`                                 |
| `args`               | constraints on that call, in every tool of the event                  | relating it to this call: `undecidable`         |
| `match`              | that argument equals one of this call, both of one exact type         | lists, text, any, another type: `undecidable`   |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from guard.constraints import Constraint
from guard.policy.data import After, Before, Exclusive, Item, Tool, Unless, When
from guard.policy.draft import Draft
from guard.policy.fields import Word, check_name, take
from guard.policy.predicates import ARGS, argument_kinds, leaf_nodes, predicate, unprefixed
from guard.policy.problems import one_of
from guard.policy.table import SECTIONS
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_after", "read_before", "read_exclusive", "read_unless"]

_LOOSE: Final = frozenset({"text", "any"})
_LINES: Final = frozenset({"id", "name", "secret"})


def read_after(draft: Draft, what: str, name: str, node: Seq, got: Mapping[str, Any], tools: Sequence[Tool]) -> After | None:
    """`tools`: those the rule is about."""
    in_order = bool(got.get("in_order", False))
    items = _items(draft, what, name, node, "forbid_after", tools)
    if not node.items:
        draft.report.error("value", node.at, f"`forbid_after` of {what} is empty", "without a verb a rule fires on every call it matches")
    if in_order:
        if len(node.items) == 1:
            draft.report.error("value", node.at, f"{what}: one event has no order", "leave `in_order` out")
        for item, below in zip(items, node.items, strict=False):
            if item is not None and item.match and isinstance(below, Map):
                at = below.entries["match"].key
                draft.report.error("undecidable", at, f"{what}: `match` cannot be told along a sequence", "leave out `match` or `in_order`")
    whole = [item for item in items if item is not None]
    return After(tuple(whole), in_order) if len(whole) == len(node.items) else None


def _items(draft: Draft, what: str, name: str, node: Seq, key: str, tools: Sequence[Tool]) -> list[Item | None]:
    items = []
    for number, below in enumerate(node.items):
        of = f"`{key}` of {what}"
        got = take(draft.report, below, "item", of)
        draft.places["rules", name, key, str(number)] = below.at
        items.append(_item(draft, of, below, got, tools, label=key == "forbid_after", match=key == "forbid_after"))
    return items


def _item(draft: Draft, what: str, node: Node, got: Mapping[str, Any], tools: Sequence[Tool], *, label: bool, match: bool) -> Item | None:
    report, before = draft.report, draft.report.errors
    has = node.entries if isinstance(node, Map) else {}
    section = "item" if label or not match else "before"
    if isinstance(node, Map) and not {"tool", "effect", "label"} & set(has) and set(has) <= SECTIONS[section].keys():
        report.error("missing", node.at, f"{what} needs {'`tool`, `effect` or `label`' if label else '`tool` or `effect`'}")
    if "label" in has and section == "before":
        pass  # no key of it: reported
    elif "label" in has and not label:
        report.error("unenforceable", has["label"].key, f"{what}: a label is no call", "labels stand in `forbid_after`")
    elif "label" in has and len(has) > 1:
        report.error("unenforceable", has["label"].key, f"{what}: a label stands alone", "make two entries")
    for word in got.get("tool", ()):
        draft.unknown_tool(word, what)
    names = frozenset(word.text for word in got.get("tool", ()))
    effects = frozenset(word.text for word in got.get("effect", ()))
    events = draft.about(When(names, effects))
    args = _args(draft, what, got["args"], events) if "args" in got else {}
    matched: Mapping[str, str] = {}
    if "match" in has and not match:
        report.error("unenforceable", has["match"].key, f"{what}: `match` has no call to match with", "use `per`")
    elif "match" in got:
        matched = _match(draft, what, got["match"], events, tools)
    if report.errors != before or not isinstance(node, Map):
        return None
    return Item(names, effects, got["label"].text if "label" in got else None, args, matched)


def _args(draft: Draft, what: str, node: Map, events: Sequence[Tool]) -> dict[str, Constraint]:
    found: dict[str, Constraint] = {}
    for path, entry in node.entries.items():
        word = Word(path, entry.key)
        relating = [leaf for leaf in leaf_nodes(entry.node) if isinstance(leaf.value, str) and leaf.value.startswith((ARGS, f"${ARGS}"))]
        if relating:
            text = f"{what}: `{path}` of that call is compared with this call's, which only equality can be"
            draft.report.error(
                "undecidable", relating[0].at, text, f"write `match: {{{path}: {str(relating[0].value).removeprefix('$')}}}`"
            )
            continue
        read = predicate(draft, what, word, entry.node, events, every=True, otherwise="of a call without it, nothing could be told")
        if read is not None:
            found[path] = read
    return found


def _match(draft: Draft, what: str, node: Map, events: Sequence[Tool], tools: Sequence[Tool]) -> dict[str, str]:
    report = draft.report
    found: dict[str, str] = {}
    if not node.entries:
        report.error("value", node.at, f"`match` of {what} is empty")
    for path, entry in node.entries.items():
        leaf = entry.node
        if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str):
            report.error("type", leaf.at, f"`{path}` must be `args.<path>` of this call")
            continue
        theirs, mine = Word(path, entry.key), Word(leaf.value, leaf.at)
        if not check_name(report, theirs, "path", f"{what}: argument") or not check_name(report, mine, "argument", f"`{path}`:"):
            continue
        mine = unprefixed(mine)
        kinds = _exact(draft, what, theirs, events, "it could never match") | set()
        own = _exact(draft, what, mine, tools, "it could never match")
        found[path] = mine.text
        if kinds and own and not _alike(kinds | own):
            text = f"{what}: `{path}` is of type {_said(kinds)} and `{mine.text}` of type {_said(own)}: they are never equal"
            report.error("never-matches", mine.at, text, "give them one type")
    return found


def _exact(draft: Draft, what: str, path: Word, tools: Sequence[Tool], otherwise: str) -> set[str]:
    """The types of an argument that is compared by its hash: one value of an exact type. Empty where that was reported."""
    kinds = argument_kinds(draft, what, path, tools, every=True, otherwise=otherwise)
    many = [tool.name for tool in tools if f"{path.text}[]" in tool.types and path.text not in tool.types]
    if many or "[]" in path.text:
        draft.report.error("undecidable", path.at, f"{what}: `{path.text}` is a list, of which only single values could be compared")
        return set()
    if loose := sorted(kinds & _LOOSE):
        text = f"{what}: `{path.text}` is of type {loose[0]}, which is not compared as a whole"
        draft.report.error("undecidable", path.at, text, "give it an exact type, as id or name")
        return set()
    return kinds


def _alike(kinds: set[str]) -> bool:
    return len(kinds) == 1 or kinds <= _LINES


def _said(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds))


def read_before(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> Before | None:
    of = f"`require_before` of {what}"
    got = take(draft.report, node, "before", of)
    draft.places["rules", name, "require_before"] = node.at
    item = _item(draft, of, node, got, tools, label=False, match=True)
    consume = got.get("consume", False)
    if consume and "match" not in node.entries:
        at = node.entries["consume"].key
        draft.report.error(
            "unenforceable", at, f"{of}: `consume` needs `match`: what is used up must be known", "say what the two calls share"
        )
    distinct = got["distinct"].text if "distinct" in got else None
    return Before(item, "ok", distinct, got.get("within"), consume) if item is not None else None


def read_exclusive(draft: Draft, what: str, name: str, node: Seq, got: Mapping[str, Any], written: Map, about: When) -> Exclusive | None:
    """`written`: the rule's mapping. `about`: its `when`, which narrows the calls."""
    report, of = draft.report, f"`exclusive` of {what}"
    items = _items(draft, what, name, node, "exclusive", ())
    if "by" not in written.entries:
        report.error("missing", node.at, f"{of} needs `by`", one_of(("person", "actor", "origin")))
    if len(node.items) < 2:
        report.error("unenforceable", node.at, f"{of} needs two or more entries: one excludes nothing")
    whole = [item for item in items if item is not None]
    tools = [draft.about(When(item.tool, item.effect)) for item in whole]
    if not draft.blind:
        _overlap(draft, of, node, whole, tools)
    among = {tool.name for tool in draft.about(about)}
    reached = [tool for group in tools for tool in group if tool.name in among]
    per: list[str] = []
    for word in got.get("per", ()):
        path = unprefixed(word)
        kinds = _exact(draft, of, path, reached, "all of its calls need it")
        if len(kinds) > 1 and not _alike(kinds):
            report.error(
                "never-matches", path.at, f"{of}: `{path.text}` is of type {_said(kinds)}: they are never equal", "give it one type"
            )
        per.append(path.text)
    if "by" not in got or len(whole) != len(node.items):
        return None
    return Exclusive(tuple(whole), got["by"].text, tuple(per))


def _overlap(draft: Draft, of: str, node: Seq, items: Sequence[Item], tools: Sequence[Sequence[Tool]]) -> None:
    if len(items) != len(node.items):
        return
    seen: dict[str, int] = {}
    for number, group in enumerate(tools):
        for tool in group:
            if seen.setdefault(tool.name, number) != number:
                text = f"{of}: `{tool.name}` belongs to two of its entries and would exclude itself"
                draft.report.error("unenforceable", node.items[number].at, text, "entries must have no tool in common")
                return


def read_unless(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> Unless | None:
    report, of = draft.report, f"`unless` of {what}"
    got = take(report, node, "unless", of)
    if not node.entries:
        report.error("value", node.at, f"{of} is empty", "leave it out")
        return None
    draft.places["rules", name, "unless"] = node.entries["flow"].key if "flow" in node.entries else node.at
    args: dict[str, Constraint] = {}
    for path, entry in got["args"].entries.items() if "args" in got else ():
        read = predicate(draft, of, Word(path, entry.key), entry.node, tools, every=False)
        draft.places["rules", name, "unless", path] = entry.key
        if read is not None:
            args[path] = read
    for word in got.get("intent", ()):
        draft.unknown_intent(word, what)
    if "flow" in got and report.lacks("flow", node.entries["flow"].key, "unless: flow"):
        return None
    flow = frozenset(word.text for word in got["flow"]) if "flow" in got else None
    if "asked" in node.entries:
        draft.places["rules", name, "unless", "asked"] = node.entries["asked"].key
    return Unless(flow, args, frozenset(word.text for word in got.get("intent", ())), "asked" in got)
