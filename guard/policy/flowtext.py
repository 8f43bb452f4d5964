"""Tree -> data: `flow`, where control values may come from, and `asked`, the prompt's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guard.model import Verdict
from guard.policy.data import SOURCES, Asked, FlowRow
from guard.policy.draft import Draft
from guard.policy.fields import Word, take, word_of
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_asked", "read_flow"]

_VERDICTS: Final[tuple[Verdict, ...]] = ("allow", "ask", "deny")
_ASK: Final[Verdict] = "ask"
_DELEGATED: Final = "delegated"
_VERDICT: Final[Mapping[str, Verdict]] = {"allow": "allow", "ask": "ask", "deny": "deny", _DELEGATED: "deny"}
_OWN: Final = frozenset({"prompt", "params", "endorsed"})
"""What the user, the token or an approval has said: nothing else can make it worse, and no prompt leaves it to others."""


def read_flow(draft: Draft, node: Map) -> None:
    report = draft.report
    rows: dict[str, FlowRow] = {}
    draft.places["flow",] = node.at
    if not node.entries:
        report.error("value", node.at, "`flow` is empty", "leave it out, or write a row for each effect class")
    for effect, entry in node.entries.items():
        draft.places["flow", effect] = entry.key
        known = word_of(report, Word(effect, entry.key), "effect", "flow")
        what = f"flow row `{effect}`"
        got = take(report, entry.node, "flow_row", what)
        cells, delegated = _cells(draft, what, entry.node)
        handed: dict[str, Verdict] = {**cells, **dict.fromkeys(delegated, _ASK)} if delegated else {}
        also = _also(draft, what, cells, got["also"]) if "also" in got else {}
        carries = _cells(draft, f"`carries` of {what}", got["carries"], "cells")[0] if "carries" in got else {}
        if isinstance(entry.node, Map) and not entry.node.entries:
            report.error(
                "value", entry.node.at, f"{what} is empty: it would deny every control value", "write `{deny: [any]}` if that is meant"
            )
        if known:
            rows[effect] = FlowRow(cells, carries, got["match"].text if "match" in got else "exact", handed, also)
    draft.flow = rows


def _cells(draft: Draft, what: str, node: object, section: str = "") -> tuple[dict[str, Verdict], frozenset[str]]:
    """(source -> verdict, those that are `delegated`: denied here). A source has one cell; `any` is all that have none of their own."""
    if not isinstance(node, Map):
        return {}, frozenset()
    if section:
        take(draft.report, node, section, what)
    written: dict[str, str] = {}
    for word in (*_VERDICTS, _DELEGATED):
        below = node.entries[word].node if word in node.entries else None
        for leaf in below.items if isinstance(below, Seq) else (below,):
            if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str):
                continue  # reported already
            if written.setdefault(leaf.value, word) != word:
                text = f"{what}: `{leaf.value}` is `{written[leaf.value]}` already"
                draft.report.error("duplicate-key", leaf.at, text, "a source has one cell")
            if word == _DELEGATED and leaf.value in _OWN:
                text = f"{what}: `{leaf.value}` is the user's own, not something that a prompt leaves to others"
                draft.report.error("never-matches", leaf.at, text)
    delegated = frozenset(source for source, word in written.items() if word == _DELEGATED)
    rest = _VERDICT.get(written.pop("any", ""))
    cells: dict[str, Verdict] = {source: _VERDICT[word] for source, word in written.items()}
    return cells if rest is None else {source: cells.get(source, rest) for source in SOURCES}, delegated


def _also(draft: Draft, what: str, cells: Mapping[str, Verdict], node: Node) -> dict[str, Verdict]:
    floor, _ = _cells(draft, f"`also` of {what}", node, "floor")
    if isinstance(node, Map) and not node.entries:
        draft.report.error("value", node.at, f"`also` of {what} is empty", "leave it out")
    elif floor and not any(verdict != "deny" and source not in _OWN for source, verdict in cells.items()):
        text = f"`also` of {what} never counts: the row lets nothing through that is not the user's own"
        draft.report.error("never-matches", node.at, text, "leave it out")
    for source in floor:
        if source in _OWN or cells.get(source) == "allow":
            text = f"`also` of {what}: `{source}` is {'what the user has said' if source in _OWN else '`allow` in the row itself'}"
            draft.report.error("value", node.at, text, "it lists what makes a value worse that is allowed for another source")
    return floor


def read_asked(draft: Draft, node: Map) -> None:
    report = draft.report
    got = take(report, node, "asked", "`asked`")
    not_asked: dict[str, Verdict] = {}
    for effect, entry in got["not_asked"].entries.items() if "not_asked" in got else ():
        known = word_of(report, Word(effect, entry.key), "effect", "not_asked")
        leaf = entry.node
        if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str):
            report.error("type", leaf.at, f"`{effect}` must be `deny` or `ask`")
        elif word_of(report, Word(leaf.value, leaf.at), "answer", f"`{effect}`") and known:
            not_asked[effect] = "deny" if leaf.value == "deny" else "ask"
    if "not_asked" in got and not got["not_asked"].entries:
        report.error("value", got["not_asked"].at, "`not_asked` is empty", "leave `asked` out")
    delegated: Verdict | None = None
    if "delegated" in got:
        delegated = "deny" if got["delegated"].text == "deny" else "ask"
    words = _words(draft, got["words"], not_asked) if "words" in got else {}
    draft.asked = Asked(not_asked, delegated, words)


def _words(draft: Draft, node: Map, not_asked: dict[str, Verdict]) -> dict[str, tuple[str, ...]]:
    report = draft.report
    words: dict[str, tuple[str, ...]] = {}
    for effect, entry in node.entries.items():
        if word_of(report, Word(effect, entry.key), "effect", "words") and effect not in not_asked:
            report.warn("unused", entry.key, f"`words` has words for `{effect}`, which `not_asked` does not name")
        items = entry.node.items if isinstance(entry.node, Seq) else (entry.node,)
        listed = []
        for item in items:
            text = item.value if isinstance(item, Leaf) else None
            if not isinstance(text, str) or not text.strip() or len(text) > 64:
                report.error("type", item.at, f"the words for `{effect}` must be a list of words")
            else:
                listed.append(text)
        words[effect] = tuple(listed)
    return words
