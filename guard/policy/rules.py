"""Tree -> data: rules. A rule that uses a part not built yet, or has any problem, is reported and not made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from guard.constraints import Constraint
from guard.policy.data import Limit, Rule, Tool, When
from guard.policy.draft import Draft
from guard.policy.facts import read_facts
from guard.policy.fields import Word, check_name, take
from guard.policy.past import read_after, read_before, read_exclusive, read_unless
from guard.policy.predicates import ARGS, argument_kinds, constraint, predicate, unprefixed
from guard.policy.problems import Mark, Report
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_rules"]

_TAKEN: Final = frozenset({"allow", "deny", "ask", "default-deny", "permit", "end", "default", "most"})
_VERBS: Final = ("limit", "require", "require_any", "check", "forbid_after", "require_before", "exclusive")
_AT_END: Final = frozenset({"forbid_after", "require_before", "require_any"})
_SIGNALS: Final = "signals."


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
    written = node if isinstance(node, Map) else Map({}, node.at)
    unread = "when" in written.entries and "when" not in got
    tools = [] if unread or when.end else draft.about(when)
    _verbs(report, written, at, what, when)
    limit = _limit(draft, what, name, got["limit"], tools) if "limit" in got else None
    require, signals = _require(draft, what, name, got["require"], tools) if "require" in got else (None, {})
    after = read_after(draft, what, name, got["forbid_after"], got, tools) if "forbid_after" in got else None
    before = read_before(draft, what, name, got["require_before"], tools) if "require_before" in got else None
    exclusive = read_exclusive(draft, what, name, got["exclusive"], got, written, when) if "exclusive" in got else None
    facts = read_facts(draft, what, got["require_any"], tools, end=when.end) if "require_any" in got else ()
    unless = read_unless(draft, what, name, got["unless"], tools) if "unless" in got else None
    monitor, owner = _monitor(draft, node, got, at, what)
    then: Literal["deny", "ask", "alert", "suspend"] = got["then"].text if "then" in got else "deny"
    _together(draft, what, written, then, limit, when, old_signals="within" in got and not signals)
    check = got["check"].text if "check" in got else None
    if "check" in got:
        draft.places["rules", name, "check"] = got["check"].at
    return Rule(
        name, when, then, limit, require or None, monitor, got.get("until"), owner,
        got["description"].text if "description" in got else "", got["severity"].text if "severity" in got else "medium",
        tuple(word.text for word in got.get("controls", ())), report.where(at),
        unless, after, before, exclusive, signals, facts, check, got.get("within"),
    )  # fmt: skip


def _together(draft: Draft, what: str, node: Map, then: str, limit: Limit | None, when: When, *, old_signals: bool) -> None:
    """What each key says well and together cannot be enforced."""
    report, has = draft.report, node.entries
    if limit is not None and limit.denied and then == "ask":
        text = f"{what} counts denials and then asks: an answer would not take one back"
        report.error("unenforceable", has["then"].key, text, "`then: suspend` stops the task, `alert` tells somebody")
    if then == "alert" and "require_before" in has:
        before = has["require_before"].node
        if isinstance(before, Map) and "consume" in before.entries:
            text = f"{what} uses an event up, but alerts only"
            report.error("unenforceable", before.entries["consume"].key, text, "leave `consume` out, or let it deny or ask")
    if old_signals:
        report.error("unenforceable", has["within"].key, f"{what}: `within` is how old a signal may be, and it requires none")
    if when.end:
        _at_end(report, what, node, then)


def _at_end(report: Report, what: str, node: Map, then: str) -> None:
    """At the end of a task there is no call: nothing to count, to compare or to excuse."""
    has = node.entries
    excuse = has["unless"].node if "unless" in has else None
    for key in ("flow", "args", "asked"):
        if isinstance(excuse, Map) and key in excuse.entries:
            text = f"{what}: the end of a task has no values that could excuse it"
            report.error("unenforceable", excuse.entries[key].key, text, "`unless: {intent: ...}` can")
    if then == "suspend":
        report.error("unenforceable", has["then"].key, f"{what}: a task that ends cannot be suspended", "leave `then` out: it denies")
    for verb in ("forbid_after", "require_before"):
        below = has[verb].node if verb in has else None
        for item in below.items if isinstance(below, Seq) else (below,):
            if isinstance(item, Map) and "match" in item.entries:
                report.error("unenforceable", item.entries["match"].key, f"{what}: the end of a task has no arguments to match")


def _called(node: Node) -> str | None:
    entry = node.entries.get("id") if isinstance(node, Map) else None
    return (
        f"rule `{entry.node.value}`" if entry is not None and isinstance(entry.node, Leaf) and isinstance(entry.node.value, str) else None
    )


def _place(node: Node) -> Mark:
    return next(iter(node.entries.values())).key if isinstance(node, Map) and node.entries else node.at


def _identify(draft: Draft, word: Word) -> None:
    if word.text in _TAKEN:
        why = "it is a verdict's name" if word.text not in ("default", "most") else "the word has its own meaning in `asks`"
        draft.report.error("name", word.at, f"a rule cannot be called `{word.text}`: {why}")
    elif word.text in draft.rule_ids:
        draft.report.error("duplicate-id", word.at, f"rule `{word.text}` is there twice, first in line {draft.rule_ids[word.text].line}")
    draft.rule_ids.setdefault(word.text, word.at)


def _when(draft: Draft, what: str, name: str, node: Map | Word) -> When:
    if isinstance(node, Word):
        return When(end=True)
    got = take(draft.report, node, "when", f"`when` of {what}")
    if not node.entries:
        draft.report.error("value", node.at, f"`when` of {what} is empty", "leave it out: the rule is then about every call")
    for word in _words(got, "tool"):
        draft.unknown_tool(word, what)
        draft.places["rules", name, "tool", word.text] = word.at
    for word in _words(got, "intent"):
        draft.unknown_intent(word, what)
    for word in _words(got, "effect"):
        draft.places["rules", name, "effect", word.text] = word.at
    named, effects, intents = (frozenset(word.text for word in _words(got, key)) for key in ("tool", "effect", "intent"))
    end = got.get("end", False)
    for key in ("tool", "effect", "args") if end else ():
        if key in node.entries:
            draft.report.error(
                "unenforceable", node.entries[key].key, f"{what} is about the end of a task, which is no call", "make two rules"
            )
    if "end" in node.entries and got.get("end") is False:
        draft.report.error("value", node.entries["end"].key, f"{what}: `end: false` says nothing", "leave it out")
    matched = draft.about(When(named, effects, intents))
    args: dict[str, Constraint] = {}
    for path, entry in got["args"].entries.items() if "args" in got and not end else ():
        read = predicate(draft, what, Word(path, entry.key), entry.node, matched, every=False)
        draft.places["rules", name, "when", path] = entry.key
        if read is not None:
            args[path] = read
    return When(named, effects, intents, args, end)


def _words(got: Mapping[str, Any], key: str) -> Sequence[Word]:
    words: Sequence[Word] = got.get(key, ())
    return words


def _verbs(report: Report, node: Map, at: Mark, what: str, when: When) -> None:
    verbs = [verb for verb in _VERBS if verb in node.entries]
    if len(verbs) > 1:
        text = f"{what} has two verbs, `{verbs[0]}` and `{verbs[1]}`"
        report.error("unenforceable", node.entries[verbs[1]].key, text, "make two rules")
    elif node.entries and not verbs and "when" not in node.entries:
        report.error(
            "empty", at, f"{what} says neither which calls it is about nor what they must keep", "write `when`, or a verb as `limit`"
        )
    if when.end and not verbs:
        report.error(
            "empty", at, f"{what} would refuse the end of every task", f"write {' or '.join(f'`{verb}`' for verb in sorted(_AT_END))}"
        )
    for verb in verbs:
        if when.end and verb not in _AT_END:
            text = f"{what}: `{verb}` cannot be judged at the end of a task, which is no call"
            report.error("unenforceable", node.entries[verb].key, text, f"there, {', '.join(f'`{one}`' for one in sorted(_AT_END))} can")


def _require(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> tuple[dict[str, Constraint], dict[str, Constraint]]:
    """(argument path -> constraint, signal -> constraint)"""
    report = draft.report
    args: dict[str, Constraint] = {}
    signals: dict[str, Constraint] = {}
    if not node.entries:
        report.error("value", node.at, f"`require` of {what} is empty")
    for key, entry in node.entries.items():
        if key.startswith(ARGS):
            path = unprefixed(Word(key, entry.key))
            read = predicate(draft, what, path, entry.node, tools, every=True)
            draft.places["rules", name, "require", path.text] = path.at
            if read is not None:
                args[path.text] = read
        elif key.startswith(_SIGNALS):
            word = Word(key.removeprefix(_SIGNALS), entry.key)
            draft.places["rules", name, "require", key] = entry.key
            if report.lacks("signals", entry.key, f"require: {key}") or not check_name(report, word, "signal", f"{what}: signal"):
                continue
            if (read := constraint(report, entry.node, word, None, frozenset(), "signal")) is not None:
                signals[word.text] = read
        else:
            known = any(key in tool.types for tool in tools)
            text = f"{what}: `require` takes `args.<path>` and `signals.<name>`, not `{key}`"
            report.error("name", entry.key, text, f"did you mean `args.{key}`?" if known else None)
    return args, signals


def _limit(draft: Draft, what: str, name: str, node: Map, tools: Sequence[Tool]) -> Limit | None:
    report = draft.report
    got = take(report, node, "limit", f"`limit` of {what}")
    per = tuple(word.text for word in _words(got, "per"))
    for word in _words(got, "per"):
        if word.text.startswith(ARGS):
            argument_kinds(draft, what, Word(word.text.removeprefix(ARGS), word.at), tools, every=False)
    has = node.entries
    if "denied" in has:
        for key in ("calls", "sum", "max", "per"):
            if key in has:
                text = f"{what}: denials are counted in their task, and `denied` says how many"
                report.error("unenforceable", has[key].key, text, f"leave `{key}` out")
        return Limit(Decimal(got["denied"]), None, got.get("within"), (), True) if "denied" in got else None
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
    else:
        report.error("missing", node.at, f"`limit` of {what} needs `calls`, `sum` or `denied`")
    return None


def _sum(draft: Draft, what: str, name: str, got: Mapping[str, Any], tools: Sequence[Tool], per: tuple[str, ...]) -> Limit:
    path = Word(got["sum"].text.removeprefix(ARGS), got["sum"].at)
    draft.places["rules", name, "sum"] = path.at
    for kind in sorted(argument_kinds(draft, what, path, tools, every=True) - {"int", "decimal"}):
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
