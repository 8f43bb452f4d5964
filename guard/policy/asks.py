"""Tree -> data: `asks`, who may answer an ask. A key is a rule, a reason code, the part of a code before its dot, or `default`."""

from __future__ import annotations

from typing import Final

from guard.policy.codes import CODES, ROOMS
from guard.policy.data import AskRule, Who
from guard.policy.draft import Draft
from guard.policy.fields import Word, take
from guard.policy.problems import suggest
from guard.policy.yamltext import Leaf, Map, Node

__all__ = ["read_asks"]

_MOST: Final = "most"
_WITHIN: Final = 900


def read_asks(draft: Draft, node: Map) -> None:
    """The rules are read already: their names may stand here."""
    report = draft.report
    for name, entry in node.entries.items():
        if name == _MOST:
            value = entry.node.value if isinstance(entry.node, Leaf) else None
            if type(value) is int and 0 < value <= 1000:
                draft.most_asks = value
            else:
                report.error("value", entry.node.at, "`most` must be a whole number from 1 to 1000", "so many asks a task may make")
            continue
        if name != "default" and name not in draft.rule_ids and name not in CODES and name not in ROOMS:
            hint = suggest(name, {*draft.rule_ids, *CODES, "default"})
            text = f"`asks` names `{name[:60]}`, which is neither a rule of this policy nor a reason code nor `default`"
            report.error("unknown-ask", entry.key, text, hint)
        rule = _rule(draft, f"`{name}` in `asks`", entry.node)
        if rule is not None:
            draft.asks[name] = rule


def _rule(draft: Draft, what: str, node: Node) -> AskRule | None:
    got = take(draft.report, node, "ask", what)
    if "by" not in got:
        return None
    count, within = got.get("count", 1), got.get("within", _WITHIN)
    if isinstance(got["by"], Word):
        if count > 1:
            draft.report.error("never-matches", got["by"].at, f"{what} needs {count} persons, and the origin is one")
        return AskRule("origin", count, within)
    who = _who(draft, what, got["by"])
    if who.persons and who.group is None and count > len(who.persons):
        text = f"{what} needs {count} persons and names {len(who.persons)}"
        draft.report.error("never-matches", got["by"].at, text, "no ask could ever be answered")
    return AskRule(who, count, within)


def _who(draft: Draft, what: str, node: Map) -> Who:
    got = take(draft.report, node, "who", f"`by` of {what}")
    if not {"group", "persons"} & set(node.entries):
        draft.report.error("missing", node.at, f"`by` of {what} needs `group` or `persons`", "`by: origin` is whom the task is for")
    group = got["group"].text if "group" in got else None
    persons = tuple(word.text for word in got.get("persons", ()))
    return Who(group, persons, frozenset(word.text for word in got.get("not", ())))
