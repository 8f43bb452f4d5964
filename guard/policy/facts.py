"""Tree -> data: what a tool does once (`once`), what is kept of its result (`remember`), and rules over it (`require_any`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from guard.constraints import Constraint
from guard.policy.data import Age, FactTest, Once, Remember, Tool
from guard.policy.draft import Draft
from guard.policy.fields import Word, check_name, entries, take, word_of
from guard.policy.predicates import ARGS, argument_kinds, constraint, known_argument, unprefixed
from guard.policy.problems import suggest
from guard.policy.times import seconds
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_facts", "read_once", "read_remember"]

_ORDERED: Final = frozenset({"int", "decimal"})


def read_once(draft: Draft, tool: Tool, node: Map) -> Once | None:
    report, what = draft.report, f"`once` of tool `{tool.name}`"
    got = take(report, node, "once", what)
    for word in got.get("key", ()):
        if word.text not in tool.types and f"{word.text}[]" not in tool.types and tool.name not in draft.doubtful:
            report.error("once", word.at, f"{what}: the tool has no argument `{word.text}`", suggest(word.text, tool.types))
    if "within" not in node.entries:
        report.warn("once", node.at, f"{what} has no `within`: a repetition is denied for ever", "write `within: 24h`")
    return Once(tuple(word.text for word in got["key"]), got.get("within")) if "key" in got else None


def read_remember(draft: Draft, tool: Tool, node: Map) -> tuple[Remember, ...]:
    found = []
    report = draft.report
    if not node.entries:
        report.error("value", node.at, f"`remember` of tool `{tool.name}` is empty")
    elif tool.returns is not None and tool.returns.none:
        report.error("never-matches", node.at, f"tool `{tool.name}` returns nothing that could be remembered")
    for name, below in entries(report, node, "id", "fact"):
        what = f"fact `{name.text}` of tool `{tool.name}`"
        got = take(report, below, "remember", what)
        fields: dict[str, str] = {}
        for field, entry in got["fields"].entries.items() if "fields" in got else ():
            if not isinstance(entry.node, Leaf) or not isinstance(entry.node.value, str):
                report.error("type", entry.node.at, f"`{field}` must name a path in the result")
            elif check_name(report, Word(field, entry.key), "id", f"{what}: field") and check_name(
                report, Word(entry.node.value, entry.node.at), "result", f"`{field}`:"
            ):
                fields[field] = entry.node.value
        if "fields" in got and not got["fields"].entries:
            report.error("value", got["fields"].at, f"{what} keeps no fields")
        if "key" in got:
            key = unprefixed(got["key"])
            known_argument(draft, tool, key)
            if key.text.endswith("[]") or f"{key.text}[]" in tool.types:
                report.error("undecidable", key.at, f"{what}: its key is a list", "a fact is kept under one value")
            found.append(Remember(name.text, key.text, fields))
    return tuple(found)


def read_facts(draft: Draft, what: str, node: Seq, tools: Sequence[Tool], *, end: bool) -> tuple[FactTest, ...]:
    """The alternatives of `require_any`. `tools`: those the rule is about."""
    if not node.items:
        draft.report.error("value", node.at, f"`require_any` of {what} is empty")
    return tuple(test for below in node.items if (test := _fact(draft, what, below, tools, end=end)) is not None)


def _fact(draft: Draft, what: str, node: Node, tools: Sequence[Tool], *, end: bool) -> FactTest | None:
    report = draft.report
    got = take(report, node, "fact", f"`require_any` of {what}")
    known = _known(draft, what, got["fact"]) if "fact" in got else None
    where: dict[str, Constraint | Age] = {}
    for field, entry in got["where"].entries.items() if "where" in got else ():
        _field(draft, what, Word(field, entry.key), known)
        test = _age(draft, entry.node) or constraint(report, entry.node, Word(field, entry.key), None, frozenset(), "field")
        if test is not None:
            where[field] = test
    bounds = _bounds(draft, what, got["bounds"], tools, known, end=end) if "bounds" in got else {}
    if "key" not in got or "fact" not in got:
        return None
    if not got["key"].text.startswith(ARGS):
        return FactTest(got["fact"].text, None, where, bounds, got["key"].text)
    key = unprefixed(got["key"])
    if end:
        report.error("unenforceable", got["key"].at, f"{what}: the end of a task has no arguments", "write the value itself as `key`")
    elif check_name(report, got["key"], "argument", "`key`:"):
        argument_kinds(draft, what, key, tools, every=True)
    return FactTest(got["fact"].text, key.text, where, bounds)


def _known(draft: Draft, what: str, fact: Word) -> set[str] | None:
    """The fields that are remembered of the fact; None where that is not known."""
    made = [kept for tool in draft.tools.values() for kept in tool.remember if kept.fact == fact.text]
    if made:
        return {field for kept in made for field in kept.fields}
    if not draft.blind:
        names = {kept.fact for tool in draft.tools.values() for kept in tool.remember}
        hint = suggest(fact.text, names) or "`remember` on a tool keeps one"
        draft.report.error("unknown-fact", fact.at, f"{what}: no tool remembers a fact `{fact.text}`", hint)
    return None


def _field(draft: Draft, what: str, field: Word, known: set[str] | None) -> None:
    if known is not None and field.text not in known:
        draft.report.error("unknown-fact", field.at, f"{what}: the fact has no field `{field.text}`", suggest(field.text, known))


def _age(draft: Draft, node: Node) -> Age | None:
    if not isinstance(node, Map) or set(node.entries) != {"age"}:
        return None
    spec, found = node.entries["age"].node, dict[str, int]()
    if not isinstance(spec, Map) or not spec.entries or not set(spec.entries) <= {"min", "max"}:
        draft.report.error("constraint", spec.at, "`age` takes `min` and `max`", "as in `age: {max: 24h}`")
        return Age()
    for name, entry in spec.entries.items():
        value = entry.node.value if isinstance(entry.node, Leaf) else None
        total = seconds(value) if isinstance(value, str) else None
        if total is None:
            draft.report.error(
                "value", entry.node.at, f"`{name}` must be a time of at most ten years", "write it as `30s`, `10m`, `24h` or `7d`"
            )
        else:
            found[name] = total
    age = Age(found.get("min"), found.get("max"))
    if age.min is not None and age.max is not None and age.min > age.max:
        draft.report.error("never-matches", node.entries["age"].key, "the least `age` is above the largest")
    return age


def _bounds(
    draft: Draft, what: str, node: Map, tools: Sequence[Tool], known: set[str] | None, *, end: bool
) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {}
    if end:
        draft.report.error("unenforceable", node.at, f"{what}: the end of a task has no arguments to bound")
        return found
    for path, entry in node.entries.items():
        word = Word(path, entry.key)
        if not check_name(draft.report, word, "argument", f"{what}: `bounds`"):
            continue
        mine = unprefixed(word)
        for kind in sorted(argument_kinds(draft, what, mine, tools, every=True) - _ORDERED):
            draft.report.error(
                "unenforceable", word.at, f"{what} bounds `{mine.text}`, which is of type {kind}", "only int and decimal have bounds"
            )
        for bound, below in entry.node.entries.items() if isinstance(entry.node, Map) else ():
            if not word_of(draft.report, Word(bound, below.key), "bound", f"`{path}`"):
                continue
            if isinstance(below.node, Leaf) and isinstance(below.node.value, str):
                _field(draft, what, Word(below.node.value, below.node.at), known)
                found.setdefault(mine.text, {})[bound] = below.node.value
            else:
                draft.report.error("type", below.node.at, f"`{bound}` must name a field of the fact")
        if not isinstance(entry.node, Map) or not entry.node.entries:
            draft.report.error("type", entry.node.at, f"`{path}` must be a mapping", "as in `{max: price}`")
    return found
