"""`from: tool.path` with `where`: the value must have come back in one record with these siblings.

The join is a key of its own, `T|f|hash(tool, place, value, siblings)`, set when the record was returned, asked for by the hash of the
argument. So one record's account never passes for another record's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Final, NamedTuple

from guard.frozen import frozen
from guard.model import Finding
from guard.ops import Know
from guard.policy.data import From, PolicyData
from guard.reasons import ReasonCode
from guard.workflow.forms import Form, leaf_forms, one_form
from guard.workflow.ledger import Ledger, Masks, lowered, rank
from guard.workflow.shapes import Observed

__all__ = ["MAX_JOINS", "Origin", "Watched", "compile_origins", "join_ops", "refuse", "watched"]

MAX_JOINS: Final = 5_000
_MOST_WAYS: Final = 16


@frozen
class Origin:
    """One argument's `from`, with the parameters of the task. `where`: place -> form, None where a parameter has none: never met."""

    path: str
    type: str
    tool: str
    place: str
    where: Mapping[str, Form | None]
    says: str
    at: str | None

    def keys(self, ledger: Ledger, hashes: Sequence[str]) -> list[str]:
        """The joins that would do for a value with these hashes."""
        siblings: list[tuple[str, str]] = []
        for place, form in self.where.items():
            if form is None:
                return []
            siblings.append((place, ledger.hash(form)))
        return [ledger.join(self.tool, self.place, hashed, siblings) for hashed in hashes]


class Watched(NamedTuple):
    """What some intent may ask of results of a tool: a place and the siblings that are named with it."""

    place: str
    where: tuple[str, ...]


def compile_origins(
    origins: Mapping[str, From], types: Mapping[str, str], params: Mapping[str, object], at: Mapping[str, str], where: str | None = None
) -> tuple[Origin, ...]:
    """An intent's `from`s on one tool, parameters bound."""
    made: list[Origin] = []
    for path, origin in origins.items():
        bound: dict[str, Form | None] = {}
        said = []
        for place, literal in origin.where.items():
            name = place.rpartition(".")[2]
            if isinstance(literal, str) and literal.startswith("$"):
                bound[place] = one_form(params.get(literal[1:]))
                said.append(f"{name} is {literal}")
            else:
                bound[place] = one_form(literal)
                said.append(f"{name} is as the policy says")
        says = f"{origin.tool}.{origin.path}" + (f" where {' and '.join(said)}" if said else "")
        made.append(Origin(path, types.get(path, "any"), origin.tool, origin.path, bound, says, at.get(path, where)))
    return tuple(made)


def watched(policy: PolicyData, tool: str) -> tuple[Watched, ...]:
    """Every shape of `from` that any intent has on `tool`: results are indexed for all of them, whoever reads them."""
    found = {
        Watched(origin.path, tuple(sorted(origin.where)))
        for intent in policy.intents.values()
        for permission in intent.allow.values()
        for origin in permission.origins.values()
        if origin.tool == tool
    }
    return tuple(sorted(found))


def refuse(origin: Origin) -> Finding:
    text = f"argument {origin.path} does not come from {origin.says}"
    return Finding("intent", "forbid", ReasonCode.ARGS_FROM, None, origin.at, text, fix=f"call {origin.tool} and use what it returns")


def join_ops(ledger: Ledger, tool: str, places: Sequence[Watched], observed: Observed, masks: Masks, by: str) -> Iterator[Know]:
    """The joins of a result. None of a degraded or `keyvalue` one, of one that this task wrote, or of a record whose place is only text."""
    if not places or observed.weak or observed.degraded is not None or any(rank(cap) > rank("d") for cap in masks.cap):
        return
    values: dict[tuple[int, str], list[object]] = {}
    for seen in observed.items:
        if seen.path and not seen.key:
            values.setdefault((seen.record, seen.path), []).append(seen.value)
    for seen in observed.items:
        if seen.key or not seen.path:
            continue
        for place, siblings in places:
            if seen.path != place or not _counts(seen.source, siblings, masks):
                continue
            near = [_near(values, observed.above, seen.record, sibling) for sibling in siblings]
            if any(not one for one in near):
                continue
            made = {(hashed, ways) for hashed in ledger.hashes(leaf_forms(seen.value, declared=True)) for ways in _ways(ledger, near)}
            for hashed, ways in sorted(made):
                yield Know(
                    ledger.join(tool, place, hashed, list(zip(siblings, ways, strict=True))),
                    "1",
                    by or "0",
                    "first",
                    by,
                    ledger.value(hashed),
                )


def _counts(source: str, siblings: tuple[str, ...], masks: Masks) -> bool:
    """With siblings the record is pinned by them; without, it is only as good as the key it was looked up by."""
    letter = {"directory": "d", "structured": "s"}.get(source)
    return letter is not None and (bool(siblings) or lowered(letter, masks) in ("d", "s"))


def _near(values: Mapping[tuple[int, str], list[object]], above: Mapping[int, int], record: int, path: str) -> list[object]:
    while True:
        found = values.get((record, path))
        if found or record == 0:
            return found or []
        record = above.get(record, 0)


def _ways(ledger: Ledger, near: Sequence[Sequence[object]]) -> Iterator[tuple[str, ...]]:
    forms = [[form for value in values[:_MOST_WAYS] if (form := one_form(value)) is not None] for values in near]
    for ways in islice(product(*forms), _MOST_WAYS):
        yield tuple(ledger.hash(form) for form in ways)
