"""One cell of the flow table for one control value.

| the value                                  | its cell                                                                         |
|--------------------------------------------|----------------------------------------------------------------------------------|
| has letters                                | the most permissive cell of its sources                                          |
| has none, or no form to be compared by     | the cell of `unknown`                                                            |
| unknown, and the ledger could not hold all | the better of that and ask, code `state.incomplete`                              |
| only from `keyvalue` text                  | never better than ask                                                            |
| made by this task                          | a source for write and delete only                                               |
| seen in a source of `also` too             | never better than that says, unless prompt, params or an approval have it        |
| perhaps, as the ledger could not hold all  | the same, but not better than ask, code `state.incomplete`                       |

A cell that is not written is deny. Where the prompt leaves a value or its orders to something else, the cells are those of `handed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from guard.model import Verdict
from guard.ops import parse_map
from guard.workflow.ledger import NO_FORM, SOURCE_OF, is_weak, rank

__all__ = ["GRADE", "Cell", "Value", "lookup", "merge", "worse"]

GRADE: Final[Mapping[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}


class Value(NamedTuple):
    """One control value: its letters, and the decision that brought each."""

    letters: str
    by: Mapping[str, str]

    @classmethod
    def read(cls, text: object) -> Value:
        if text == NO_FORM:
            return cls(NO_FORM, {})
        by = parse_map(text)
        return cls("".join(by), by)


class Cell(NamedTuple):
    verdict: Verdict
    source: str
    code: str
    by: str


_OWN: Final = frozenset("pae")
_NONE: Final[Mapping[str, Verdict]] = {}


def lookup(cells: Mapping[str, Verdict], value: Value, *, made_here: bool, wide: bool, also: Mapping[str, Verdict] = _NONE) -> Cell:
    """The most permissive cell of the value's sources, and not better than `also` says of any of them."""
    found: Cell | None = None
    for letter in sorted(value.letters, key=lambda one: (rank(one), is_weak(one))):
        source = SOURCE_OF.get(letter.lower())
        if source is None or (source == "made_here" and not made_here):
            continue
        verdict = cells.get(source, cells.get("any", "deny"))
        if is_weak(letter) and verdict == "allow":
            verdict = "ask"
        if found is None or GRADE[verdict] < GRADE[found.verdict]:
            by = value.by.get(letter, "")
            found = Cell(verdict, source, f"flow.{source}", by if by not in ("0", "-") else "")
    if found is not None:
        return _floor(found, value, also, wide) if also and not _OWN & set(value.letters.lower()) else found
    verdict = cells.get("unknown", cells.get("any", "deny"))
    if wide and verdict == "deny":
        return Cell("ask", "unknown", "state.incomplete", "")
    return Cell(verdict, "unknown", "flow.unknown", "")


def _floor(cell: Cell, value: Value, also: Mapping[str, Verdict], wide: bool) -> Cell:
    """Attacks: the injected text picks one of the ids that a trusted list has: each is as good as the one the user means; and it is so
    long, or comes when the store is so late, that nobody knows what it picked.
    """
    for letter in value.letters:
        source = SOURCE_OF.get(letter.lower(), "")
        verdict = also.get(source)
        if verdict is not None and GRADE[verdict] > GRADE[cell.verdict]:
            by = value.by.get(letter, "")
            cell = Cell(verdict, source, f"flow.{source}", by if by not in ("0", "-") else "")
    return Cell("ask", cell.source, "state.incomplete", cell.by) if wide and cell.verdict == "allow" else cell


def merge(letters: dict[str, str], more: Mapping[str, str]) -> None:
    for letter, by in more.items():
        letters.setdefault(letter, by)


def worse(cell: Cell, than: Cell | None) -> bool:
    return than is None or GRADE[cell.verdict] > GRADE[than.verdict]
