"""Constraints as they are written in a policy: every problem in its own place, and the argument they speak of must exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from guard.constraints import Constraint, ConstraintError, parse
from guard.policy.data import Tool
from guard.policy.draft import Draft
from guard.policy.fields import Word, check_name
from guard.policy.problems import Mark, Report, one_of, suggest
from guard.policy.yamltext import Leaf, Map, Node, Seq, plain

__all__ = ["ARGS", "argument_kinds", "comparable", "constraint", "first_key", "known_argument", "leaf_nodes", "predicate", "unprefixed"]

ARGS: Final = "args."
_ME: Final = "$me"
_FIRES: Final = "it would fire on every call"
_PARAMETER: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "from": ("from", "`from` stands at an argument of an intent, beside the other kinds"),
    "where": ("from", "`where` joins on the record of `from`, which is not here"),
    "age": ("require_any", "`age` is of a remembered date: it stands alone at a field, in `where` of `require_any`"),
}


def first_key(node: Node) -> Mark:
    return next(iter(node.entries.values())).key if isinstance(node, Map) and node.entries else node.at


def leaf_nodes(node: Node) -> list[Leaf]:
    """All scalars below `node`."""
    if isinstance(node, Leaf):
        return [node]
    return [leaf for one in _below(node) for leaf in leaf_nodes(one)]


def _below(node: Seq | Map) -> Sequence[Node]:
    return node.items if isinstance(node, Seq) else [entry.node for entry in node.entries.values()]


# --- arguments


def unprefixed(word: Word) -> Word:
    """`args.amount` -> `amount`, in its own place."""
    shift = len(ARGS)
    return Word(word.text.removeprefix(ARGS), Mark(word.at.line, word.at.column + shift, max(1, word.at.width - shift)))


def known_argument(draft: Draft, tool: Tool, path: Word) -> str | None:
    """The type of the tool's argument at `path`; reports an argument it does not have. None also for a list as a whole."""
    if path.text in tool.types:
        return tool.types[path.text]
    if _is_list(tool, path.text):
        return None
    if tool.name not in draft.doubtful:
        hint = suggest(path.text, tool.types) or (None if tool.types else f"`{tool.name}` declares no arguments")
        draft.report.error("unknown-argument", path.at, f"tool `{tool.name}` has no argument `{path.text}`", hint)
    return None


def _is_list(tool: Tool, path: str) -> bool:
    """Whether it is a list as a whole: `to` where `to[]` is declared, `legs` or `legs[]` where the fields of its objects are (`legs[].number`)."""
    return f"{path}[]" in tool.types or any(known.startswith(f"{path.removesuffix('[]')}[].") for known in tool.types)


def argument_kinds(draft: Draft, what: str, path: Word, tools: Sequence[Tool], *, every: bool, otherwise: str = _FIRES) -> set[str]:
    """The types of the argument at `path` in `tools`. One of them must have it; with `every`, each of them (`otherwise`: or what)."""
    having = [tool for tool in tools if path.text in tool.types or _is_list(tool, path.text)]
    lacking = [tool for tool in tools if tool not in having and tool.name not in draft.doubtful]
    if lacking and not having:
        if len(lacking) == 1:
            known_argument(draft, lacking[0], path)
        else:
            hint = suggest(path.text, {known for tool in lacking for known in tool.types})
            draft.report.error("unknown-argument", path.at, f"{what}: none of its tools has an argument `{path.text}`", hint)
    elif lacking and every:
        names = one_of(tool.name for tool in lacking).removeprefix("one of ")
        text = f"{what} needs argument `{path.text}`, which {names} {'has' if len(lacking) == 1 else 'have'} not: {otherwise}"
        hint = "narrow `when` to tools that have it" if otherwise == _FIRES else "name tools that have it only"
        draft.report.error("unenforceable", path.at, text, hint)
    return {tool.types[path.text] for tool in having if path.text in tool.types}


def predicate(
    draft: Draft, what: str, path: Word, node: Node, tools: Sequence[Tool], *, every: bool, otherwise: str = _FIRES
) -> Constraint | None:
    """A predicate of a rule. The argument must exist: in one of the rule's tools, with `every` in each of them."""
    if not check_name(draft.report, path, "path", f"{what}: argument"):
        return None
    kinds = argument_kinds(draft, what, path, tools, every=every, otherwise=otherwise)
    return constraint(draft.report, node, path, kinds.pop() if len(kinds) == 1 else None, frozenset())


# --- constraints


def constraint(
    report: Report, node: Node, path: Word, kind: str | None, params: frozenset[str], what: str = "argument"
) -> Constraint | None:
    """The constraint at `node` for `path`; None where it has problems, which then are reported in their own places.

    `params`: what `$names` may stand for; `me` among them for the origin's own identifiers.
    """
    if _misplaced(report, node, params, "") or _undeclared(report, node, params):
        return None
    try:
        read = parse(_several(plain(node)), origin="policy", params=params)
        return read.typed(kind, item=path.text.endswith("[]")) if kind is not None else read
    except ConstraintError as error:
        report.error("constraint", _locate(node, error.path), f"{what} `{path.text}`: {error}", error.suggestion)
    return None


def _several(raw: object) -> object:
    """`eq: $me` as `one_of: $me`: the origin may have several identifiers."""
    if isinstance(raw, list):
        return [_several(one) for one in raw]
    if isinstance(raw, dict):
        return {"one_of" if key == "eq" and value == _ME and "one_of" not in raw else key: _several(value) for key, value in raw.items()}
    return raw


def _misplaced(report: Report, node: Node, params: frozenset[str], under: str) -> bool:
    """Report each part of a constraint that cannot stand here, in its own place; True if there was one."""
    found = False
    if isinstance(node, Leaf):
        return _me(report, node, params, under)
    if isinstance(node, Seq):
        several = [_misplaced(report, one, params, "") for one in node.items]
        return any(several)
    for key, entry in node.entries.items():
        if key in _ELSEWHERE and not (key == "where" and "from" in node.entries):
            part, text = _ELSEWHERE[key]
            if not report.lacks(part, entry.key, key):
                report.error("constraint", entry.key, text)
            found = True
        elif key != "where" or "from" not in node.entries:
            found = _misplaced(report, entry.node, params, key) or found
    return found


def _me(report: Report, leaf: Leaf, params: frozenset[str], under: str) -> bool:
    if not isinstance(leaf.value, str) or not (leaf.value == _ME or leaf.value.startswith(f"{_ME}.")):
        return False
    if report.lacks(_ME, leaf.at, _ME):
        return True
    if leaf.value != _ME:
        report.error("unknown-param", leaf.at, "the origin's own identifiers are written `$me`, whole")
    elif "me" not in params:
        report.error("unknown-param", leaf.at, "`$me` is known in intents and in results only")
    elif under not in ("eq", "one_of", "subset"):
        report.error("constraint", leaf.at, "`$me` may be several identifiers: it stands alone, in `eq: $me` or `subset: $me`")
    else:
        return False
    return True


def comparable(report: Report, node: Node, path: Word, kind: str | None, params: Mapping[str, str]) -> None:
    """A parameter must be of a kind of value that the argument can equal or be measured by (fail_open F17)."""
    for name, entry in node.entries.items() if isinstance(node, Map) else ():
        if name in ("eq", "one_of", "range") and kind is not None:
            for leaf in leaf_nodes(entry.node):
                param = params.get(str(leaf.value)[1:]) if str(leaf.value).startswith("$") else None
                if param is not None and _sort(param) != _sort(kind) and "any" not in (param, kind):
                    text = f"argument `{path.text}` is of type {kind} and `{leaf.value}` of type {param}: they are never equal"
                    report.error("never-matches", leaf.at, text, "declare the parameter with the argument's type")


def _sort(kind: str) -> str:
    return {"int": "number", "decimal": "number", "bool": "bool"}.get(kind, "text")


def _undeclared(report: Report, node: Node, params: frozenset[str]) -> bool:
    """Report each `$x` that is not a parameter of the intent; True if there was one."""
    if isinstance(node, Leaf):
        text = node.value if isinstance(node.value, str) else ""
        if not _PARAMETER.fullmatch(text) or text[1:] in params:
            return False
        named = params - {"me"}
        hint = suggest(text, {f"${name}" for name in named}) or (None if named else "none is declared here")
        report.error("unknown-param", node.at, f"`{text}` is not a declared parameter", hint)
        return True
    found = [_undeclared(report, one, params) for one in _below(node)]  # all of them are reported
    return any(found)


def _locate(node: Node, path: object) -> Mark:
    """The place of what a constraint error names: as far along its path as the tree goes."""
    steps = path if isinstance(path, (tuple, list)) else str(path or "").replace("[", ".").replace("]", "").split(".")
    at = first_key(node)
    for step in steps:
        if isinstance(node, Map) and str(step) in node.entries:
            at, node = node.entries[str(step)]
        elif isinstance(node, Seq) and str(step).isdigit() and int(str(step)) < len(node.items):
            node = node.items[int(str(step))]
            at = node.at
        elif step != "":
            break
    return at
