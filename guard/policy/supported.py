"""Parts of the policy language that are not built yet. A policy that uses one does not load; nothing of it is ignored.

When a part is built, its line here goes, its key enters `table.py`, and the tests that pin this table say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from guard.policy.problems import Mark, Report
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["CODES", "EVENTS", "KEYS", "REQUIRED", "WORDS", "later", "later_constraints"]

_SOURCES: Final = "sources of values"
_LABELS: Final = "labels"
_ASK: Final = "approvals"
_RULES: Final = "the workflow rules"
_CEL: Final = "CEL checks"
_SIGNALS: Final = "signals and facts"

KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "policy": {"flow": _RULES, "asked": _SOURCES, "asks": _ASK},
    "tool": {"returns": _SOURCES, "carries": _SOURCES, "once": _RULES, "remember": _SIGNALS, "variants": _LABELS, "labels": _LABELS},
    "permission": {"check": _CEL, "flow": _SOURCES},
    "rule": {
        "forbid_after": _RULES,
        "in_order": _RULES,
        "require_before": _RULES,
        "require_any": _SIGNALS,
        "exclusive": _RULES,
        "by": _RULES,
        "same": _RULES,
        "unless": _SOURCES,
        "check": _CEL,
    },
    "when": {"label": _LABELS, "fact": _SIGNALS, "signal": _SIGNALS, "check": _CEL},
    "limit": {"denied": _RULES},
    "desk": {},
}
"""Section -> key -> what it comes with."""

TOGETHER: Final[Mapping[str, Mapping[str, str]]] = {"rule": {"per": "exclusive"}}
"""Keys that belong to another key which is not supported yet."""

WORDS: Final[Mapping[str, Mapping[str, str]]] = {"then": {"suspend": _RULES}}
"""Closed set -> word -> what it comes with."""

CONSTRAINTS: Final[Mapping[str, str]] = {"from": _SOURCES, "age": _SIGNALS}
CONSTRAINTS_WITH: Final = frozenset({"where"})
REQUIRED: Final[Mapping[str, str]] = {"signals": _SIGNALS, "facts": _SIGNALS, "fact": _SIGNALS, "labels": _LABELS}
EVENTS: Final[Mapping[str, str]] = {"approve": _ASK, "signal": _SIGNALS, "user_says": _SOURCES}
CODES: Final[Mapping[str, str]] = {"flow": _RULES, "asked": _SOURCES}
TASK_END: Final = _RULES


def later(report: Report, at: Mark, name: str, comes_with: str) -> None:
    report.error("not-supported-yet", at, f"`{name}` is not supported yet: it comes with {comes_with}")


def later_constraints(report: Report, node: Node) -> bool:
    """Report each part of a constraint that is not built yet, in its own place; True if there was one."""
    found = False
    for name, at in _later_in(node):
        later(report, at, name, "sources of values" if name == "$me" else CONSTRAINTS[name])
        found = True
    return found


def _later_in(node: Node) -> Iterator[tuple[str, Mark]]:
    if isinstance(node, Leaf):
        if node.value == "$me" or (isinstance(node.value, str) and node.value.startswith("$me.")):
            yield "$me", node.at
    elif isinstance(node, Seq):
        for item in node.items:
            yield from _later_in(item)
    else:
        yield from _later_in_map(node)


def _later_in_map(node: Map) -> Iterator[tuple[str, Mark]]:
    for key, entry in node.entries.items():
        if key in CONSTRAINTS:
            yield key, entry.key
        elif not (key in CONSTRAINTS_WITH and "from" in node.entries):
            yield from _later_in(entry.node)
