"""Tree -> data: tools, intents, scopes. Every problem is collected; what could be read is kept, so that one mistake does not hide another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from guard.constraints import Constraint
from guard.model import NO_SCOPE
from guard.policy.credential import read_credential
from guard.policy.data import IRREVERSIBLE, From, Intent, Limit, Permission, Tool
from guard.policy.draft import Draft
from guard.policy.facts import read_once, read_remember
from guard.policy.fields import Word, check_name, entries, take, word_of
from guard.policy.judge import CHECK
from guard.policy.origins import split_origin
from guard.policy.predicates import comparable, constraint, first_key, known_argument
from guard.policy.problems import Report, suggest
from guard.policy.returns import read_returns
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_intents", "read_scopes", "read_tools"]

_RESERVED_PARAMS: Final = frozenset({"me"})
_ME: Final[Mapping[str, str]] = {"me": "text"}


def read_tools(draft: Draft, node: Map) -> None:
    folded: dict[str, str] = {}
    for name, below in entries(draft.report, node, "tool", "tool"):
        other = folded.setdefault(name.text.casefold(), name.text)
        if other != name.text:
            draft.report.warn("lookalike", name.at, f"tool `{name.text}` and tool `{other}` differ in case only")
        draft.places["tools", name.text] = name.at
        draft.tools[name.text] = _tool(draft, name, below)


def _tool(draft: Draft, name: Word, node: Node) -> Tool:
    report, what = draft.report, f"tool `{name.text}`"
    got = take(report, node, "tool", what)
    types: dict[str, str] = {}
    control: set[str] = set()
    whole = _readable(node, ("control", "data"), got)
    for part in ("control", "data"):
        for path, word in _types(report, got.get(part), "path", f"{what}: argument"):
            if path.text in types:
                report.error("duplicate-key", path.at, f"{what} has `{path.text}` as control and as data", "an argument is one of them")
            types[path.text] = word
            draft.places["tools", name.text, path.text] = path.at
            if part == "control":
                control.add(path.text)
        whole = whole and (part not in got or all(path in types for path in got[part].entries))
    if not whole:
        draft.doubtful.add(name.text)
    effects = tuple(word.text for word in got.get("effect", ()))
    if not effects:
        draft.vague.add(name.text)
    reversible = got.get("reversible", not IRREVERSIBLE.intersection(effects))
    tool = Tool(name.text, effects, types, frozenset(control), reversible, got.get("errors_have_no_effect", False), report.where(name.at))
    return _results(draft, tool, node, got)


def _results(draft: Draft, tool: Tool, node: Node, got: Mapping[str, Any]) -> Tool:
    """The same tool with what it returns, carries and remembers."""
    if isinstance(node, Map):
        for key in ("returns", "carries", "once", "remember", "credential"):
            if key in node.entries:
                draft.places["tools", tool.name, key] = node.entries[key].key
                if key == "returns" and key not in got:
                    draft.shapeless.add(tool.name)
    if "returns" in got:
        tool = replace(tool, returns=read_returns(draft, tool, got["returns"]))
    return replace(
        tool,
        carries=frozenset(word.text for word in got.get("carries", ())),
        once=read_once(draft, tool, got["once"]) if "once" in got else None,
        remember=read_remember(draft, tool, got["remember"]) if "remember" in got else (),
        credential=read_credential(draft.report, got["credential"], f"`credential` of tool `{tool.name}`") if "credential" in got else None,
    )


def _readable(node: Node, keys: tuple[str, ...], got: Mapping[str, Any]) -> bool:
    return isinstance(node, Map) and all(key in got for key in keys if key in node.entries)


def _types(report: Report, node: Map | None, pattern: str, what: str) -> list[tuple[Word, str]]:
    """name -> type word, of those that are proper."""
    found = []
    for name, entry in node.entries.items() if node is not None else ():
        word = Word(name, entry.key)
        proper = check_name(report, word, pattern, what)
        kind = entry.node
        if not isinstance(kind, Leaf) or not isinstance(kind.value, str):
            report.error("type", kind.at, f"`{name}` must name a type")
        elif word_of(report, Word(kind.value, kind.at), "type", f"`{name}`") and proper:
            found.append((word, kind.value))
    return found


def read_intents(draft: Draft, node: Map) -> None:
    for name, below in entries(draft.report, node, "id", "intent"):
        draft.places["intents", name.text] = name.at
        draft.intents[name.text] = _intent(draft, name, below)


def _intent(draft: Draft, name: Word, node: Node) -> Intent:
    report, what = draft.report, f"intent `{name.text}`"
    got = take(report, node, "intent", what)
    params = {}
    for word, kind in _types(report, got.get("params"), "param", f"{what}: parameter"):
        if word.text in _RESERVED_PARAMS:
            report.error("name", word.at, f"`${word.text}` is the origin's own identifier and cannot be a parameter")
        draft.places["intents", name.text, "params", word.text] = word.at
        params[word.text] = kind
    declared = {**dict.fromkeys(got["params"].entries, "any"), **params} if "params" in got else {}
    allow = {}
    for tool, below in entries(report, got["allow"], "tool", f"{what}: tool") if "allow" in got else ():
        draft.places["intents", name.text, "allow", tool.text] = tool.at
        draft.unknown_tool(tool, what)
        allow[tool.text] = _permission(draft, name.text, tool, below, declared)
    order = tuple(got.get("order", ()))
    for word in order:
        if "allow" in got and word.text not in allow:
            report.error("order", word.at, f"{what}: `order` names `{word.text}`, which it does not allow", suggest(word.text, allow))
    if len(order) == 1:
        report.error("order", order[0].at, f"{what}: an `order` of one tool says nothing", "leave it out")
    about = got["description"].text if "description" in got else ""
    return Intent(name.text, about, params, got.get("ttl"), allow, tuple(word.text for word in order), report.where(name.at))


def _permission(draft: Draft, intent: str, tool: Word, node: Node, params: Mapping[str, str]) -> Permission:
    report, what = draft.report, f"tool `{tool.text}` in intent `{intent}`"
    got = take(report, node, "permission", what)
    args: dict[str, Constraint] = {}
    origins: dict[str, From] = {}
    at: dict[str, str] = {}
    known = {**params, **_ME}
    declared = draft.tools.get(tool.text)
    for path, below in entries(report, got["args"], "path", f"{what}: argument") if "args" in got else ():
        draft.places["intents", intent, "allow", tool.text, path.text] = path.at
        draft.written.setdefault((intent, tool.text), set()).add(path.text)
        kind = known_argument(draft, declared, path) if declared is not None else None
        origin, rest = split_origin(draft, f"{what}: argument `{path.text}`", below, frozenset(params))
        if origin is not None:
            origins[path.text] = origin
            draft.places["intents", intent, "allow", tool.text, path.text, "from"] = first_key(below)
        read = constraint(report, rest, path, kind, frozenset(known))
        if read is not None:
            comparable(report, rest, path, kind, known)
            args[path.text] = read
            at[path.text] = report.where(first_key(below))
    limit = None
    if "limit" in got:
        calls = take(report, got["limit"], "calls", f"`limit` of {what}")
        limit = Limit(Decimal(calls["calls"])) if "calls" in calls else None
    if "check" in got:
        draft.places["intents", intent, "allow", tool.text, "", "check"] = got["check"].at
        at[CHECK] = report.where(got["check"].at)
    check = got["check"].text if "check" in got else None
    return Permission(tool.text, args, limit, report.where(tool.at), at, origins, check)


def read_proof(draft: Draft, node: Map) -> None:
    """Effect class -> what its calls must prove."""
    report = draft.report
    if not node.entries:
        report.error("value", node.at, "`proof` is empty", "leave it out")
    for effect, entry in node.entries.items():
        known = word_of(report, Word(effect, entry.key), "effect", "proof")
        draft.places["proof", effect] = entry.key
        leaf = entry.node
        if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str):
            report.error("type", leaf.at, f"`{effect}` must be `key` or `workload`")
        elif word_of(report, Word(leaf.value, leaf.at), "proof", f"`{effect}`") and known:
            draft.proof[effect] = leaf.value


def read_scopes(draft: Draft, node: Map) -> None:
    for scope, below in entries(draft.report, node, "scope", "scope"):
        if (
            scope.text == NO_SCOPE
        ):  # attack: a token of few grants, exchanged for one that says this, would have the tools it maps to besides
            text = f"scope `{NO_SCOPE}` is what a token service writes where there is none: it grants nothing"
            draft.report.error("reserved-scope", scope.at, text, "another name")
        items = below.items if isinstance(below, Seq) else (below,)
        tools = []
        for item in items:
            if not isinstance(item, Leaf) or not isinstance(item.value, str):
                draft.report.error("type", item.at, f"scope `{scope.text}` must be a list of tools")
            elif draft.blind:
                draft.report.error(
                    "unknown-tool",
                    item.at,
                    f"scope `{scope.text}` names `{item.value}`, but this layer has no tools",
                    "map scopes where the tools are",
                )
            elif not draft.unknown_tool(Word(item.value, item.at), f"scope `{scope.text}`"):
                tools.append(item.value)
        if not items:
            draft.report.error("value", below.at, f"scope `{scope.text}` maps to no tool", "leave it out: an unmapped scope grants nothing")
        draft.scopes[scope.text] = tuple(tools)
