"""What is asked of a call's arguments for their sources: at each site, keyed hashes of what the values are compared as.

| site             | one list of hashes for each                                                        |
|------------------|------------------------------------------------------------------------------------|
| `flow.<path>`    | control value                                                                      |
| `host.<path>`    | control URL: its host, where it has no query                                       |
| `from.<path>`    | value that an intent wants from somewhere                                          |
| `carries`        | entity of the tool's kinds in its data                                             |
| `written`        | data leaf, and entity in one, of a call that is not only read or fetch             |
| `download`       | path that a fetch writes to                                                        |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from guard.workflow.entities import Entity, entities
from guard.workflow.forms import entity_forms, forms, is_whole, leaf_forms, same_host
from guard.workflow.ledger import Ledger
from guard.workflow.reach import reach

__all__ = [
    "MAX_CARRIED",
    "MAX_READ",
    "MAX_VALUES",
    "MAX_WRITTEN",
    "UNRECORDED",
    "Test",
    "carried",
    "control",
    "downloads",
    "hashes_of",
    "hosts",
    "scanner",
    "written",
]

MAX_VALUES: Final = 256
"""Control values that are looked up; what comes after them is unknown."""
MAX_READ: Final = 64
MAX_WRITTEN: Final = 512
MAX_CARRIED: Final = 256
_TYPED: Final = frozenset({"email", "url", "host", "iban", "account", "path", "phone", "handle", "repo", "id"})

UNRECORDED: Final = frozenset({"carries", "download", "written"})
"""Sites that a record may leave out: many hashes, and a replay reads what the ledger answered instead."""

Test = Callable[[Mapping[str, object]], object]
Scan = Callable[[str], Sequence[Entity]]


def scanner() -> Scan:
    """The entities of texts, each text read once for all sites of a call."""
    known: dict[str, Sequence[Entity]] = {}

    def scan(text: str) -> Sequence[Entity]:
        found = known.get(text)
        if found is None:
            found = known[text] = entities(text, MAX_WRITTEN + 1)
        return found

    return scan


def hashes_of(told: object) -> list[list[str]]:
    """A site's answer as lists of hashes, whatever a record may hold there."""
    if not isinstance(told, (list, tuple)):
        return []
    return [[one for one in item if isinstance(one, str)] if isinstance(item, (list, tuple)) else [] for item in told]


def control(ledger: Ledger, path: str, kind: str, raw: Sequence[object]) -> Test:
    def test(values: Mapping[str, object]) -> object:
        found = reach(path, values)
        said = raw if len(raw) == len(found) else [None] * len(found)
        return [ledger.hashes(forms(kind, value, written=one)) for value, one in zip(found, said, strict=True)]

    return test


def hosts(ledger: Ledger, path: str) -> Test:
    def test(values: Mapping[str, object]) -> object:
        found = [same_host(value) for value in reach(path, values)]
        return [[ledger.hash(host)] if host is not None else [] for host in found]

    return test


def _texts(paths: Sequence[str], values: Mapping[str, object]) -> Iterator[str]:
    """Every text in the data arguments, inside lists and objects too."""
    for _, value in _data(paths, values):
        if isinstance(value, str):
            yield value


def _data(paths: Sequence[str], values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for path in paths:
        stack = reach(path, values)[::-1]
        while stack:
            value = stack.pop()
            if isinstance(value, Mapping):
                stack += list(value.values())[::-1]
            elif isinstance(value, (list, tuple)):
                stack += value[::-1]
            elif value is not None:
                yield path, value


def carried(ledger: Ledger, paths: Sequence[str], kinds: frozenset[str], scan: Scan) -> Test:
    def test(values: Mapping[str, object]) -> object:
        found: dict[tuple[str, ...], None] = {}
        for text in _texts(paths, values):
            inside = scan(text)
            if len(inside) > MAX_WRITTEN:
                found.setdefault(())  # more than is looked at: one more that nobody knows
            for entity in inside:
                if entity.kind in kinds or (entity.kind == "account" and "iban" in kinds):
                    found.setdefault(tuple(ledger.hashes(entity_forms(entity))))
        return [list(hashes) for hashes in found]

    return test


def written(ledger: Ledger, paths: Sequence[str], types: Mapping[str, str], scan: Scan) -> Test:
    """The values that the call writes: each data leaf, and what stands in its texts. One without hashes: there are more."""

    def test(values: Mapping[str, object]) -> object:
        found: dict[tuple[str, ...], None] = {}
        for path, value in _data(paths, values):
            own = forms(types.get(path, "any"), value) if types.get(path, "any") != "any" else leaf_forms(value)
            if own:
                found.setdefault(tuple(ledger.hashes(own)))
            inside = scan(value) if isinstance(value, str) and not is_whole(value, own) else ()
            if len(inside) > MAX_WRITTEN:
                found.setdefault(())
            for entity in inside:
                if entity.kind in _TYPED and (more := entity_forms(entity)):
                    found.setdefault(tuple(ledger.hashes(more)))
            if len(found) > MAX_WRITTEN:
                break
        return [list(hashes) for hashes in found]

    return test


def downloads(ledger: Ledger, paths: Sequence[str]) -> Test:
    return lambda values: [ledger.hashes(forms("path", value)) for path in paths for value in reach(path, values)]
