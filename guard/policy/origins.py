"""`from` and `where` of an intent's argument: where its value must come from. Split off before the rest is read as a constraint.

    iban: {from: "lookup_vendor.[].iban", where: {name: $vendor}}

The value must be one that `lookup_vendor` returned at `[].iban`, in a record whose `name` is the parameter's value.
"""

from __future__ import annotations

import re
from typing import Final

from guard.policy.data import From, Tool
from guard.policy.draft import Draft, leaves_of
from guard.policy.fields import Word
from guard.policy.problems import suggest
from guard.policy.yamltext import Entry, Leaf, Map, Node

__all__ = ["sibling", "split_origin"]

_PARAMETER: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def split_origin(draft: Draft, what: str, node: Node, params: frozenset[str]) -> tuple[From | None, Node]:
    """The `from` of an argument's constraint, and what is left of it; what is left of `from` alone is that there must be a value."""
    if not isinstance(node, Map) or "from" not in node.entries or draft.report.lacks("from", node.entries["from"].key, "from"):
        return None, _without(node)
    rest = _without(node)
    spec = node.entries["from"].node
    if not isinstance(spec, Leaf) or not isinstance(spec.value, str):
        draft.report.error("type", spec.at, "`from` must be text", 'write it as `"tool.path"`')
        return None, rest
    found = _source(draft, what, Word(spec.value, spec.at))
    where = node.entries.get("where")
    joined = _where(draft, what, found, where.node, params) if where is not None else {}
    return (From(found[0], found[1], joined) if found is not None else None), rest


def _without(node: Node) -> Node:
    if not isinstance(node, Map) or "from" not in node.entries:
        return node
    left = {key: entry for key, entry in node.entries.items() if key not in ("from", "where")}
    if not set(left) - {"optional"}:
        at = node.entries["from"].key
        left["any"] = Entry(at, Leaf(True, "true", at))
    return Map(left, node.at)


def _source(draft: Draft, what: str, word: Word) -> tuple[str, str] | None:
    """(tool, path in its result). Tool names may have dots: the longest one that fits counts."""
    text, report = word.text, draft.report
    named = [name for name in draft.tools if text.startswith(f"{name}.")]
    if not named:
        head = text.split(".", 1)[0]
        hint = suggest(head, draft.tools)
        if head in draft.tools:
            report.error("from", word.at, f"{what}: `from` names tool `{head}` and no path in its result", f"write `{head}.<path>`")
        else:
            report.error("from", word.at, f"{what}: `from` names `{head[:60]}`, which is not a tool of this policy", hint)
        return None
    name = max(named, key=len)
    path, tool = text[len(name) + 1 :], draft.tools[name]
    known = leaves_of(tool)
    if path in known or name in draft.shapeless:
        return name, path
    if tool.returns is None or not known:
        report.error(
            "from", word.at, f"{what}: the result of `{name}` has no declared shape", "declare the leaf under `returns: {shape: ...}`"
        )
    else:
        report.error("from", word.at, f"{what}: the result of `{name}` has no leaf `{path[:60]}`", suggest(path, known))
    return None


def sibling(path: str, name: str, tool: Tool) -> str | None:
    """The whole path of the leaf `name` in the same record as `path`; None where the shape has none."""
    known = leaves_of(tool)
    head, dot, _ = path.rpartition(".")
    for candidate in (f"{head}{dot}{name}", name):
        if candidate in known and candidate.rpartition(".")[0] == head:
            return candidate
    return None


def _where(draft: Draft, what: str, found: tuple[str, str] | None, node: Node, params: frozenset[str]) -> dict[str, object]:
    report = draft.report
    if not isinstance(node, Map) or not node.entries:
        report.error("type", node.at, "`where` must be a mapping", "leaf of the same record -> `$parameter` or a value")
        return {}
    joined: dict[str, object] = {}
    for name, entry in node.entries.items():
        leaf = entry.node
        if not isinstance(leaf, Leaf) or leaf.value is None or isinstance(leaf.value, float):
            report.error("type", leaf.at, f"{what}: `{name}` of `where` must be a `$parameter` or a value")
            continue
        if isinstance(leaf.value, str) and leaf.value.startswith("$me"):
            report.error("from", leaf.at, f"{what}: `$me` may be several identifiers and cannot join records", "use a parameter")
        elif isinstance(leaf.value, str) and _PARAMETER.fullmatch(leaf.value) and leaf.value[1:] not in params:
            hint = suggest(leaf.value, {f"${one}" for one in params})
            report.error("unknown-param", leaf.at, f"`{leaf.value}` is not a declared parameter", hint)
        if found is None or found[0] in draft.shapeless:
            continue
        tool = draft.tools[found[0]]
        whole = sibling(found[1], name, tool)
        if whole is None:
            head = found[1].rpartition(".")[0]
            near = {one.rpartition(".")[2] for one in leaves_of(tool) if one.rpartition(".")[0] == head and one != found[1]}
            text = f"{what}: `{found[1]}` of `{found[0]}` has no sibling `{name}`"
            report.error("from", entry.key, text, suggest(name, near))
        else:
            joined[whole] = leaf.value
    return joined
