"""Tree -> data: `flow`, where control values may come from, and `asked`, the prompt's own words."""

from __future__ import annotations

from typing import Final

from guard.model import Verdict
from guard.policy.data import SOURCES, Asked, FlowRow
from guard.policy.draft import Draft
from guard.policy.fields import Word, take, word_of
from guard.policy.yamltext import Leaf, Map, Seq

__all__ = ["read_asked", "read_flow"]

_VERDICTS: Final[tuple[Verdict, ...]] = ("allow", "ask", "deny")


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
        cells = _cells(draft, what, entry.node)
        carries = _cells(draft, f"`carries` of {what}", got["carries"], "cells") if "carries" in got else {}
        if isinstance(entry.node, Map) and not entry.node.entries:
            report.error(
                "value", entry.node.at, f"{what} is empty: it would deny every control value", "write `{deny: [any]}` if that is meant"
            )
        if known:
            rows[effect] = FlowRow(cells, carries, got["match"].text if "match" in got else "exact")
    draft.flow = rows


def _cells(draft: Draft, what: str, node: object, section: str = "") -> dict[str, Verdict]:
    """source -> verdict. A source has one cell; `any` is written out as all that have none of their own."""
    if not isinstance(node, Map):
        return {}
    if section:
        take(draft.report, node, section, what)
    cells: dict[str, Verdict] = {}
    for verdict in _VERDICTS:
        below = node.entries[verdict].node if verdict in node.entries else None
        for leaf in below.items if isinstance(below, Seq) else (below,):
            if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str):
                continue  # reported already
            if cells.setdefault(leaf.value, verdict) != verdict:
                text = f"{what}: `{leaf.value}` is `{cells[leaf.value]}` already"
                draft.report.error("duplicate-key", leaf.at, text, "a source has one cell")
    rest = cells.pop("any", None)
    return cells if rest is None else {source: cells.get(source, rest) for source in SOURCES}


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
