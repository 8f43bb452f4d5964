"""Atoms: every question put to an argument value has a name, and its answer is written down.

| values | `ask(site, test)`                                                                      | used                   |
|--------|----------------------------------------------------------------------------------------|------------------------|
| `Live` | asks the test once per site, keeps the answer in `told`                                | inline                 |
| `Told` | reads the answer back; a site nobody was asked about raises `NotJudged`, never guesses | replay, without values |

An answer is true or false, the first failing path, an integer, labels, or 24 hex digits of a keyed hash. Never a value: what is told
goes into records, and a record must not give away what an argument was (docs/design/0002-workflow.md, P4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from guard.model import Finding

__all__ = ["Live", "NotJudged", "Told", "Values", "told_of"]

_MISSING: Final = object()


class NotJudged(Exception):
    """Nothing is known of this site: the record was made under a policy that did not ask there."""

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site


class Live:
    """The values of a call. `told`: what was asked so far; also of a call judged again, whose values are the same."""

    __slots__ = ("told", "values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values
        self.told: dict[str, object] = {}

    def ask(self, site: str, test: Callable[[Mapping[str, object]], object]) -> object:
        """The answer of `test`, asked once."""
        found = self.told.get(site, _MISSING)
        if found is _MISSING:
            found = self.told[site] = test(self.values)
        return found


class Told:
    """What a record says of a call's values."""

    __slots__ = ("told",)

    def __init__(self, atoms: Mapping[str, object]) -> None:
        self.told: dict[str, object] = dict(atoms)

    def ask(self, site: str, test: Callable[[Mapping[str, object]], object]) -> object:
        """What was answered then; the test is not asked."""
        found = self.told.get(site, _MISSING)
        if found is _MISSING:
            raise NotJudged(site)
        return found


Values = Live | Told


def told_of(atoms: Mapping[str, object], findings: Iterable[Finding]) -> Told:
    """What a record says of a call's values: its atoms, and that grants and intent permitted, which stands among the findings only."""
    permitted: dict[str, object] = {
        finding.judge: 0 for finding in findings if finding.judge in ("grants", "intent") and finding.says == "permit"
    }
    return Told({**permitted, **atoms})
