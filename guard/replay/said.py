"""What a replay says: of each call, and of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from guard.model import Finding
from guard.sources import Seen

__all__ = ["WITHOUT", "Judged", "Summary"]

WITHOUT = "without arguments"
"""In `not_judged`: what asks about arguments was left out, because they were not captured."""


@dataclass(slots=True)
class Judged:
    """What would be said of one call. `verdict` "" where nothing could be judged. `not_judged`: what was left out, by name."""

    seen: Seen
    verdict: str
    code: str
    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...] = ()
    assumed_order: bool = False

    @property
    def rule(self) -> str | None:
        """The rule that gave the verdict its code."""
        return next((f.rule for f in self.findings if str(f.code) == self.code and f.mode == "enforce"), None)

    @property
    def witnesses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(by for f in self.findings if str(f.code) == self.code for by in f.witnesses))


@dataclass(slots=True)
class Summary:
    """What a replay came to. `not_judged`: (what, file) -> calls. `orphans`: outcomes
    of calls that are not in the log. `differ`: calls whose verdict or code is another than was recorded. `assumed`: calls whose order is.

    Of rules that look over a tenant: `missing`: commits of the tenant that are not in the log (a record or a file that is not there, a call
    that was let and died before its record), so what they left is not known. `late`: events that were read long after their turn, and are
    judged in the order they were read. `unnumbered`: calls whose record has no number (recorded before there were numbers, or under
    policies that did not look over the tenant), the same.
    """

    tasks: int = 0
    calls: int = 0
    violations: int = 0
    violating: set[tuple[str, str, str]] = field(default_factory=set)
    not_judged: Counter[tuple[str, str]] = field(default_factory=Counter)
    orphans: int = 0
    assumed: int = 0
    differ: int = 0
    missing: int = 0
    late: int = 0
    unnumbered: int = 0
