"""Tree -> data: tools, intents, scopes. Every problem is collected; what could be read is kept, so that one mistake does not hide another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from guard.constraints import Constraint, ConstraintError, parse
from guard.policy.data import IRREVERSIBLE, Intent, Limit, Permission, PolicyData, Rule, Tool, When
from guard.policy.fields import Word, check_name, entries, take, word_of
from guard.policy.problems import Mark, Report, suggest
from guard.policy.supported import later_constraints
from guard.policy.yamltext import Leaf, Map, Node, Seq, plain

__all__ = ["Draft", "constraint", "known_argument", "read_intents", "read_scopes", "read_tools"]

_PARAMETER: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED_PARAMS: Final = frozenset({"me"})


@dataclass(slots=True)
class Draft:
    """A policy being read. `pack`: it has neither tools nor intents, its rules are judged over another layer's (`base`).

    `doubtful`, `vague`: tools whose arguments, whose effects could not be read; what depends on them is not reported a second time.
    `places`: where things stand. `written`: (intent, tool) -> argument paths it speaks of, readable or not.
    """

    report: Report
    pack: bool = False
    base: PolicyData | None = None
    owner: str = ""
    tools: dict[str, Tool] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    vague: set[str] = field(default_factory=set)
    intents: dict[str, Intent] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    rule_ids: dict[str, Mark] = field(default_factory=dict)
    scopes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[tuple[str, ...], Mark] = field(default_factory=dict)
    written: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    @property
    def blind(self) -> bool:
        """A pack read alone: its tools are not known yet."""
        return self.pack and self.base is None

    def about(self, when: When) -> list[Tool]:
        """The tools a rule with this `when` is about."""
        named = [self.tools[name] for name in sorted(when.tools) if name in self.tools] if when.tools else self.tools.values()
        return [tool for tool in named if not when.effects or when.effects.intersection(tool.effects)]

    def unknown_tool(self, word: Word, what: str) -> bool:
        """Report `word` unless it is a declared tool."""
        if self.blind or word.text in self.tools:
            return False
        self.report.error(
            "unknown-tool", word.at, f"{what} names `{word.text}`, which is not a tool of this policy", suggest(word.text, self.tools)
        )
        return True


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
    return Tool(name.text, effects, types, frozenset(control), reversible, got.get("errors_have_no_effect", False), report.where(name.at))


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
    at: dict[str, str] = {}
    declared = draft.tools.get(tool.text)
    for path, below in entries(report, got["args"], "path", f"{what}: argument") if "args" in got else ():
        draft.places["intents", intent, "allow", tool.text, path.text] = path.at
        draft.written.setdefault((intent, tool.text), set()).add(path.text)
        kind = known_argument(draft, declared, path) if declared is not None else None
        read = constraint(report, below, path, kind, frozenset(params))
        if read is not None:
            _comparable(report, below, path, kind, params)
            args[path.text] = read
            at[path.text] = report.where(_first_key(below))
    limit = None
    if "limit" in got:
        calls = take(report, got["limit"], "calls", f"`limit` of {what}")
        limit = Limit(Decimal(calls["calls"])) if "calls" in calls else None
    return Permission(tool.text, args, limit, report.where(tool.at), at)


def _first_key(node: Node) -> Mark:
    return next(iter(node.entries.values())).key if isinstance(node, Map) and node.entries else node.at


def known_argument(draft: Draft, tool: Tool, path: Word) -> str | None:
    """The type of the tool's argument at `path`; reports an argument it does not have. None also for a list as a whole."""
    if path.text in tool.types:
        return tool.types[path.text]
    if f"{path.text}[]" in tool.types:
        return None  # `to` where `to[]` is declared: the list itself
    if tool.name not in draft.doubtful:
        hint = suggest(path.text, tool.types) or (None if tool.types else f"`{tool.name}` declares no arguments")
        draft.report.error("unknown-argument", path.at, f"tool `{tool.name}` has no argument `{path.text}`", hint)
    return None


def constraint(report: Report, node: Node, path: Word, kind: str | None, params: frozenset[str]) -> Constraint | None:
    """The constraint at `node` for the argument `path`; None where it has problems, which then are reported in their own places."""
    if later_constraints(report, node) or _undeclared(report, node, params):
        return None
    try:
        read = parse(plain(node), origin="policy", params=params)
        return read.typed(kind, item=path.text.endswith("[]")) if kind is not None else read
    except ConstraintError as error:
        at = _locate(node, error.path)
        if error.unsupported:
            report.error("not-supported-yet", at, str(error), error.suggestion)
        else:
            report.error("constraint", at, f"argument `{path.text}`: {error}", error.suggestion)
    return None


def _comparable(report: Report, node: Node, path: Word, kind: str | None, params: Mapping[str, str]) -> None:
    """A parameter must be of a kind of value that the argument can equal or be measured by (fail_open F17)."""
    for name, entry in node.entries.items() if isinstance(node, Map) else ():
        if name in ("eq", "one_of", "range") and kind is not None:
            for leaf in _leaves(entry.node):
                param = params.get(str(leaf.value)[1:]) if str(leaf.value).startswith("$") else None
                if param is not None and _sort(param) != _sort(kind) and "any" not in (param, kind):
                    text = f"argument `{path.text}` is of type {kind} and `{leaf.value}` of type {param}: they are never equal"
                    report.error("never-matches", leaf.at, text, "declare the parameter with the argument's type")


def _sort(kind: str) -> str:
    return {"int": "number", "decimal": "number", "bool": "bool"}.get(kind, "text")


def _leaves(node: Node) -> list[Leaf]:
    if isinstance(node, Leaf):
        return [node]
    below = node.items if isinstance(node, Seq) else [entry.node for entry in node.entries.values()]
    return [leaf for one in below for leaf in _leaves(one)]


def _undeclared(report: Report, node: Node, params: frozenset[str]) -> bool:
    """Report each `$x` that is not a parameter of the intent; True if there was one."""
    if isinstance(node, Leaf):
        text = node.value if isinstance(node.value, str) else ""
        if not _PARAMETER.fullmatch(text) or text[1:] in params:
            return False
        hint = suggest(text, {f"${name}" for name in params}) or (None if params else "none is declared here")
        report.error("unknown-param", node.at, f"`{text}` is not a declared parameter", hint)
        return True
    below = node.items if isinstance(node, Seq) else [entry.node for entry in node.entries.values()]
    found = [_undeclared(report, one, params) for one in below]  # all of them are reported
    return any(found)


def _locate(node: Node, path: object) -> Mark:
    """The place of what a constraint error names: as far along its path as the tree goes."""
    steps = path if isinstance(path, (tuple, list)) else str(path or "").replace("[", ".").replace("]", "").split(".")
    at = _first_key(node)
    for step in steps:
        if isinstance(node, Map) and str(step) in node.entries:
            at, node = node.entries[str(step)]
        elif isinstance(node, Seq) and str(step).isdigit() and int(str(step)) < len(node.items):
            node = node.items[int(str(step))]
            at = node.at
        elif step != "":
            break
    return at


def read_scopes(draft: Draft, node: Map) -> None:
    for scope, below in entries(draft.report, node, "scope", "scope"):
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
