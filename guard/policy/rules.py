"""Tree -> data: rules. A rule that uses a part not built yet, or has any problem, is reported and not made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from guard.constraints import Constraint
from guard.policy import supported
from guard.policy.data import Limit, Rule, Tool, When
from guard.policy.fields import Word, check_name, take
from guard.policy.problems import Mark, Report, one_of, suggest
from guard.policy.read import Draft, constraint, known_argument
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_rules"]

_TAKEN: Final = frozenset({"allow", "deny", "ask", "default-deny", "permit", "end"})
_ARGS: Final = "args."


def read_rules(draft: Draft, node: Seq) -> None:
    for number, below in enumerate(node.items, 1):
        before = draft.report.errors
        rule = _rule(draft, number, below)
        if rule is not None and draft.report.errors == before:
            draft.rules.append(rule)


def _rule(draft: Draft, number: int, node: Node) -> Rule | None:
    report = draft.report
    what = _called(node) or f"rule {number}"
    got = take(report, node, "rule", what)
    at = _place(node)
    name = got["id"].text if "id" in got else f"rule {number}"
    if "id" in got:
        _identify(draft, got["id"])
    draft.places["rules", name] = at
    when = _when(draft, what, name, got["when"]) if "when" in got else When()
    unread = isinstance(node, Map) and "when" in node.entries and "when" not in got
    tools = [] if unread else draft.about(when)
    _verbs(report, node, got, at, what)
    limit = _limit(draft, what, name, got["limit"], tools) if "limit" in got else None
    require = _require(draft, what, name, got["require"], tools) if "require" in got else None
    monitor, owner = _monitor(draft, node, got, at, what)
    return Rule(
        name, when, got["then"].text if "then" in got else "deny", limit, require, monitor, got.get("until"), owner,
        got["description"].text if "description" in got else "", got["severity"].text if "severity" in got else "medium",
        tuple(word.text for word in got.get("controls", ())), report.where(at),
    )  # fmt: skip


def _called(node: Node) -> str | None:
    entry = node.entries.get("id") if isinstance(node, Map) else None
    return (
        f"rule `{entry.node.value}`" if entry is not None and isinstance(entry.node, Leaf) and isinstance(entry.node.value, str) else None
    )


def _place(node: Node) -> Mark:
    return next(iter(node.entries.values())).key if isinstance(node, Map) and node.entries else node.at


def _identify(draft: Draft, word: Word) -> None:
    if word.text in _TAKEN:
        draft.report.error("name", word.at, f"a rule cannot be called `{word.text}`: it is a verdict's name")
    elif word.text in draft.rule_ids:
        draft.report.error("duplicate-id", word.at, f"rule `{word.text}` is there twice, first in line {draft.rule_ids[word.text].line}")
    draft.rule_ids.setdefault(word.text, word.at)


def _when(draft: Draft, what: str, name: str, node: Node) -> When:
    got = take(draft.report, node, "when", f"`when` of {what}")
    if isinstance(node, Map) and not node.entries:
        draft.report.error("value", node.at, f"`when` of {what} is empty", "leave it out: the rule is then about every call")
    tools = _words(got, "tool")
    for word in tools:
        draft.unknown_tool(word, what)
        draft.places["rules", name, "tool", word.text] = word.at
    for word in _words(got, "intent"):
        if not draft.blind and word.text not in draft.intents:
            draft.report.error(
                "unknown-intent",
                word.at,
                f"{what} names intent `{word.text}`, which this policy does not have",
                suggest(word.text, draft.intents),
            )
    for word in _words(got, "effect"):
        draft.places["rules", name, "effect", word.text] = word.at
    named, effects, intents = (frozenset(word.text for word in _words(got, key)) for key in ("tool", "effect", "intent"))
    when = When(named, effects, intents)
    matched = draft.about(when)
    args: dict[str, Constraint] = {}
    for path, entry in got["args"].entries.items() if "args" in got else ():
        word = Word(path, entry.key)
        if check_name(draft.report, word, "path", f"{what}: argument"):
            _predicate(draft, what, word, entry.node, matched, args, every=False)
            draft.places["rules", name, "when", path] = entry.key
    return When(named, effects, intents, args)


def _words(got: Mapping[str, Any], key: str) -> Sequence[Word]:
    words: Sequence[Word] = got.get(key, ())
    return words


def _predicate(draft: Draft, what: str, path: Word, node: Node, tools: Sequence[Tool], into: dict[str, Constraint], *, every: bool) -> None:
    """Read one predicate. The argument must exist: in one of the rule's tools, with `every` in each of them."""
    kinds = _kinds(draft, what, path, tools, every=every)
    read = constraint(draft.report, node, path, kinds.pop() if len(kinds) == 1 else None, frozenset())
    if read is not None:
        into[path.text] = read


def _kinds(draft: Draft, what: str, path: Word, tools: Sequence[Tool], *, every: bool) -> set[str]:
    """The types of the argument at `path` in the rule's tools."""
    having = [tool for tool in tools if path.text in tool.types or f"{path.text}[]" in tool.types]
    lacking = [tool for tool in tools if tool not in having and tool.name not in draft.doubtful]
    if lacking and not having:
        if len(lacking) == 1:
            known_argument(draft, lacking[0], path)
        else:
            hint = suggest(path.text, {known for tool in lacking for known in tool.types})
            draft.report.error("unknown-argument", path.at, f"{what}: none of its tools has an argument `{path.text}`", hint)
    elif lacking and every:
        names = one_of(tool.name for tool in lacking).removeprefix("one of ")
        text = (
            f"{what} needs argument `{path.text}`, which {names} {'has' if len(lacking) == 1 else 'have'} not: it would fire on every call"
        )
        draft.report.error("unenforceable", path.at, text, "narrow `when` to tools that have it")
    return {tool.types[path.text] for tool in having if path.text in tool.types}


def _verbs(report: Report, node: Node, got: Mapping[str, Any], at: Mark, what: str) -> None:
    if not isinstance(node, Map):
        return
    if "limit" in node.entries and "require" in node.entries:
        report.error("unenforceable", node.entries["require"].key, f"{what} has two verbs, `limit` and `require`", "make two rules")
    later = any(key in supported.KEYS["rule"] for key in node.entries)
    if not later and not any(key in node.entries for key in ("when", "limit", "require")):
        report.error(
            "empty", at, f"{what} says neither which calls it is about nor what they must keep", "write `when`, `limit` or `require`"
        )


def _require(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> Mapping[str, Constraint]:
    found: dict[str, Constraint] = {}
    if not node.entries:
        draft.report.error("value", node.at, f"`require` of {what} is empty")
    for key, entry in node.entries.items():
        head = key.partition(".")[0]
        if key.startswith(_ARGS):
            width = max(1, entry.key.width - len(_ARGS))
            path = Word(key.removeprefix(_ARGS), Mark(entry.key.line, entry.key.column + len(_ARGS), width))
            if check_name(draft.report, path, "path", f"{what}: argument"):
                _predicate(draft, what, path, entry.node, tools, found, every=True)
                draft.places["rules", name, "require", path.text] = path.at
        elif head in supported.REQUIRED:
            supported.later(draft.report, entry.key, f"require: {key}", supported.REQUIRED[head])
        else:
            draft.report.error(
                "name",
                entry.key,
                f"{what}: `require` takes `args.<path>`, not `{key}`",
                f"did you mean `args.{key}`?" if _known(key, tools) else None,
            )
    return found


def _known(path: str, tools: Sequence[Tool]) -> bool:
    return any(path in tool.types for tool in tools)


def _limit(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> Limit | None:
    report = draft.report
    got = take(report, node, "limit", f"`limit` of {what}")
    per = tuple(word.text for word in _words(got, "per"))
    for word in _words(got, "per"):
        if word.text.startswith(_ARGS):
            _kinds(draft, what, Word(word.text.removeprefix(_ARGS), word.at), tools, every=False)
    has = node.entries
    if "calls" in has and "sum" in has:
        report.error("unenforceable", has["sum"].key, f"{what}: `calls` and `sum` are two limits", "make two rules")
    elif "calls" in has:
        if "max" in has:
            report.error("value", has["max"].key, f"{what}: `calls` says its own maximum", "leave `max` out")
        return Limit(Decimal(got["calls"]), None, got.get("within"), per) if "calls" in got else None
    elif "sum" in has:
        if "max" not in has:
            report.error("missing", has["sum"].key, f"`limit` of {what} needs `max`")
        if "sum" in got and "max" in got:
            return _sum(draft, what, name, got, tools, per)
    elif not any(key in supported.KEYS["limit"] for key in has):
        report.error("missing", node.at, f"`limit` of {what} needs `calls` or `sum`")
    return None


def _sum(draft: Draft, what: str, name: str, got: Mapping[str, Any], tools: Sequence[Tool], per: tuple[str, ...]) -> Limit:
    path = Word(got["sum"].text.removeprefix(_ARGS), got["sum"].at)
    draft.places["rules", name, "sum"] = path.at
    for kind in sorted(_kinds(draft, what, path, tools, every=True) - {"int", "decimal"}):
        draft.report.error(
            "unenforceable", path.at, f"{what} sums `{path.text}`, which is of type {kind}", "only int and decimal can be summed"
        )
    if any(path.text not in tool.types and f"{path.text}[]" in tool.types for tool in tools):
        draft.report.error("unenforceable", path.at, f"{what} sums `{path.text}`, which is a list", f"did you mean `args.{path.text}[]`?")
    return Limit(got["max"], path.text, got.get("within"), per)


def _monitor(draft: Draft, node: Node, got: Mapping[str, Any], at: Mark, what: str) -> tuple[bool, str]:
    """Whether the rule only monitors, and who owns it. A monitored rule needs an owner (the file's counts) and an end date."""
    owner = got["owner"].text if "owner" in got else draft.owner
    has = node.entries if isinstance(node, Map) else {}
    monitor = "mode" in got and got["mode"].text == "monitor"
    if monitor and not owner:
        draft.report.error(
            "monitor", has["mode"].key, f"{what} only monitors and has no owner", "write `owner` here or at the top of the file"
        )
    if monitor and "until" not in has:
        draft.report.error(
            "monitor", has["mode"].key, f"{what} only monitors and has no end", "write `until: 2027-03-01`, the day from which it enforces"
        )
    if "until" in has and not monitor:
        draft.report.error(
            "monitor", has["until"].key, f"{what} has `until` but enforces already", "write `mode: monitor`, or leave `until` out"
        )
    return monitor, owner
