"""Which parts of the policy language are judged. A policy that uses one that is not does not load; nothing of it is ignored.

Each part is read, linted and turned into data all the same: a reader that is given `parts=ALL` does it, which is how the judges are
built and tested. When a judge lands, the line of its part is switched here, `make generate` renews the editors' schema, and the tests
that pin this table say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["ALL", "BUILT", "PARTS", "Part"]

_SOURCES: Final = "sources of values"
_LABELS: Final = "labels"
_ASK: Final = "approvals"
_RULES: Final = "the workflow rules"
_CEL: Final = "CEL checks"
_WORKLOAD: Final = "workload identity"
_CREDENTIALS: Final = "just-in-time credentials"
_FACTS: Final = "signals and facts"


class Part(NamedTuple):
    """`built`: some judge judges it. `comes_with`: what a policy that is refused is told."""

    built: bool
    comes_with: str


PARTS: Final[Mapping[str, Part]] = {
    # rules
    "forbid_after": Part(True, _RULES),
    "in_order": Part(True, _RULES),
    "require_before": Part(True, _RULES),
    "exclusive": Part(True, _RULES),
    "denied": Part(True, _RULES),
    "suspend": Part(True, _RULES),
    "task.end": Part(True, _RULES),
    "once": Part(True, _RULES),
    "signals": Part(True, _FACTS),
    "require_any": Part(True, _FACTS),
    "remember": Part(True, _FACTS),
    "check": Part(True, _CEL),
    "unless": Part(True, _SOURCES),
    # results, labels, sources
    "returns": Part(True, _SOURCES),
    "variants": Part(True, _LABELS),
    "carries": Part(True, _SOURCES),
    "flow": Part(True, _SOURCES),
    "asked": Part(True, _SOURCES),
    "from": Part(True, _SOURCES),
    "$me": Part(True, _SOURCES),
    # approvals; what happens in tests
    "asks": Part(True, _ASK),
    "approve": Part(True, _ASK),
    "signal": Part(True, _FACTS),
    "user_says": Part(True, _SOURCES),
    "tasks": Part(True, _RULES),
    # identity
    "credential": Part(True, _CREDENTIALS),
    "proof by workload": Part(True, _WORKLOAD),
}

BUILT: Final = frozenset(name for name, part in PARTS.items() if part.built)
ALL: Final = frozenset(PARTS)
