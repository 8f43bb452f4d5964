"""The flow judge: does every control value of this call come from where the table lets its effect take it from?

Several values, several effects, several layers: the worst cell counts (`workflow/cells.py` says which one a value has). No control value:
permit. What the call writes is marked when it is reserved, so that the task's own words never come back as somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from guard.frozen import frozen
from guard.model import Finding, Says
from guard.ops import Add, Know, Lookup, Mark, Op, parse_map
from guard.policy.data import SOURCES, FlowRow, Tool
from guard.reasons import ReasonCode
from guard.workflow.asked import AskedState, asked_key
from guard.workflow.atoms import Told, Values
from guard.workflow.cells import Cell, Value, lookup, merge, worse
from guard.workflow.ledger import NO_FORM, NOTHING, Ledger, Masks, best, letters_of, rank
from guard.workflow.origin import Origin, Watched, refuse
from guard.workflow.reach import reach
from guard.workflow.sites import (
    MAX_CARRIED,
    MAX_READ,
    MAX_VALUES,
    MAX_WRITTEN,
    UNRECORDED,
    Test,
    carried,
    control,
    downloads,
    hashes_of,
    hosts,
    scanner,
    written,
)

__all__ = ["Keys", "SourcePlan", "Sourced"]

_MADE_HERE: Final = frozenset({"write", "delete"})
_READS: Final = frozenset({"read", "fetch"})
_OBJECTS: Final = frozenset({"id", "name", "text", "path", "url", "any"})


MAX_LINKS: Final = 8
"""Calls that are named as the origin of an allowed call's values."""


class Keys(Protocol):
    """What the ledger's keys are made of: a part of `workflow.limits.Context`."""

    @property
    def task(self) -> str: ...
    @property
    def task_key(self) -> bytes: ...


class Sourced(NamedTuple):
    """What the sources say of one call. `masks` goes to the settling; `marks` are applied when the call is reserved, and never refuse."""

    findings: list[Finding]
    masks: Masks
    marks: list[Op]


class _Part(NamedTuple):
    """One question to the ledger: the site of its hashes, and a place in the list of answers for each."""

    site: str
    items: list[list[str]]


@frozen
class SourcePlan:
    """What the sources ask of one tool under one intent. `rows`: (effect, its row), None: the table has none for it.

    `origins`: the intent's `from`s. `watch`: the `from`s of any intent on results of this tool. `learns`: its results are indexed.
    `delegates`: some cell depends on whether the prompt hands over.
    """

    tool: Tool
    rows: tuple[tuple[str, FlowRow | None], ...]
    has_flow: bool
    origins: tuple[Origin, ...]
    watch: tuple[Watched, ...]
    control: tuple[str, ...]
    data: tuple[str, ...]
    pinned: frozenset[str]
    advice: str
    learns: bool
    writes: bool
    hosts: bool
    endorsable: bool
    delegates: bool = False
    downloads: tuple[str, ...] = ()
    young: bool = False
    """The task has seen things before anybody looked: what is unknown may be one of them."""
    unrecorded: frozenset[str] = UNRECORDED
    """Sites whose answers a record leaves out."""

    @property
    def particular(self) -> bool:
        """Does it matter where a value comes from? Not where every source may reach every effect of the tool."""
        free = all(row is not None and all(row.cells.get(source) == "allow" for source in SOURCES) for _, row in self.rows)
        return bool(self.origins) or (bool(self.control) and not free)

    # --- the questions

    def _parts(self, values: Values, ledger: Ledger, raw: Mapping[str, object]) -> Iterator[_Part]:
        scan = scanner()
        for path in self.control:
            kind = self.tool.types.get(path, "any")
            said = reach(path, raw) if kind == "path" and raw else []
            yield self._ask(values, f"flow.{path}", control(ledger, path, kind, said))
        if self.hosts:
            for path in self.control:
                if self.tool.types.get(path) == "url":
                    yield self._ask(values, f"host.{path}", hosts(ledger, path))
        if self.tool.carries and self.has_flow:
            yield self._ask(values, "carries", carried(ledger, self.data, self.tool.carries, scan))
        if self.writes:
            yield self._ask(values, "written", written(ledger, self.data, self.tool.types, scan))
        for origin in self.origins:
            yield self._ask(values, f"from.{origin.path}", control(ledger, origin.path, origin.type, []))
        if self.downloads:
            yield self._ask(values, "download", downloads(ledger, self.downloads))

    @staticmethod
    def _ask(values: Values, site: str, test: Test) -> _Part:
        if site in UNRECORDED and isinstance(values, Told):
            return _Part(site, [])
        return _Part(site, hashes_of(values.ask(site, test)))

    def _keys(self, ledger: Ledger, part: _Part) -> list[list[str]]:
        """The keys to look up for each item of a part."""
        if part.site == "download":
            return []
        if part.site.startswith("from."):
            origin = next(one for one in self.origins if part.site == f"from.{one.path}")
            return [origin.keys(ledger, hashes) for hashes in part.items[:MAX_VALUES]]
        if part.site == "written":
            return [[ledger.value(hashed) for hashed in hashes] for hashes in part.items[:MAX_READ]]
        if not part.site.startswith("flow."):
            return [[ledger.value(hashed) for hashed in hashes] for hashes in part.items[:MAX_CARRIED]]
        path = part.site.removeprefix("flow.")
        made = []
        for hashes in part.items[:MAX_VALUES]:
            keys = [ledger.value(hashed) for hashed in hashes]
            if self.endorsable:
                keys += [ledger.endorsed(self.tool.name, path, hashed) for hashed in hashes]
            if self.learns:
                keys += [ledger.object(hashed) for hashed in hashes]
            made.append(keys)
        return made

    def reads(self, values: Values, context: Keys, raw: Mapping[str, object] | None = None) -> tuple[Op, ...]:
        """What must be looked up before `judge`. `raw`: the arguments as the caller wrote them (paths not resolved)."""
        ledger = Ledger(context.task_key, context.task)
        keys = [key for part in self._parts(values, ledger, raw or {}) for one in self._keys(ledger, part) for key in one]
        handed = (Lookup(asked_key(context.task)),) if self.delegates else ()
        return (*map(Lookup, keys), *handed, Lookup(ledger.wide)) if self.has_flow or keys else ()

    def endorsements(self, values: Values, context: Keys, by: str) -> list[Op]:
        """What a consumed approval leaves of a call whose flow asks it cleared: its control values, for this tool and these arguments."""
        ledger = Ledger(context.task_key, context.task)
        found = [(part.site.removeprefix("flow."), part.items) for part in self._parts(values, ledger, {}) if part.site.startswith("flow.")]
        return [
            Mark(ledger.endorsed(self.tool.name, path, hashed), by, None, "1") for path, items in found for one in items for hashed in one
        ]

    # --- the answers

    def judge(
        self, values: Values, answers: Sequence[object], context: Keys, decision: str, raw: Mapping[str, object] | None = None
    ) -> Sourced:
        """`answers`: one per operation of `reads`; what is missing counts as not there. The answers are told to the atoms as well."""
        ledger = Ledger(context.task_key, context.task)
        left = iter(answers)
        parts: dict[str, _Part] = {}
        found: dict[str, list[list[object]]] = {}
        for part in self._parts(values, ledger, raw or {}):
            parts[part.site] = part
            found[part.site] = [[next(left, None) for _ in one] for one in self._keys(ledger, part)]
        handed = self.delegates and _got(values, "handed", AskedState.read(next(left, None)).hands_over) is True
        wide = self.has_flow and _got(values, "wide", next(left, None) is not None or self.young) is True
        findings = self._origin_findings(values, parts, found)
        known: dict[str, list[Value]] = {}
        caps: set[str] = set()
        for path in self.control:
            known[path] = self._values(values, path, parts, found, caps)
        cap = str(_got(values, "cap", "".join(sorted(caps)))) if self.learns and self.control else ""
        masks = Masks({path: tuple(one.letters for one in items) for path, items in known.items()}, cap)
        if self.has_flow:
            findings += self._flow(known, wide, handed)
            if self.tool.carries:
                findings += self._carries(values, parts["carries"], found["carries"], wide)
        marks: list[Op] = []
        if self.writes:
            over, marks = self._marks(ledger, parts, found, masks, decision)
            if _got(values, "over", over) is True:
                text = f"writes more than {MAX_WRITTEN} different values; what it writes could not be told from what was found"
                findings.append(Finding("flow", "ask", ReasonCode.STATE_INCOMPLETE, text=text))
        for hashes in parts["download"].items if self.downloads else ():
            marks += [Know(ledger.object(hashed), "t", decision or "0", "first", decision) for hashed in hashes]
        return Sourced(findings, masks, marks)

    def _values(
        self, values: Values, path: str, parts: Mapping[str, _Part], found: Mapping[str, list[list[object]]], caps: set[str]
    ) -> list[Value]:
        site = f"flow.{path}"
        part, answers = parts[site], found[site]
        near = found.get(f"host.{path}", [])
        made: list[str] = []
        for at, hashes in enumerate(part.items):
            got, size = answers[at] if at < len(answers) else [], len(hashes)
            letters: dict[str, str] = {}
            for answer in got[:size]:
                merge(letters, letters_of(answer))
            after = size
            if self.endorsable:
                if "1" in got[after : after + size]:
                    letters["e"] = "0"
                after += size
            for answer in got[after : after + size]:
                caps.update(word for word in parse_map(answer) if len(word) == 1)
            if at < len(near):
                for answer in near[at]:
                    merge(letters, letters_of(answer))
            if path in self.pinned:  # by the intent, to a parameter of the token or a value of its own
                letters.setdefault("a", "0")
            made.append(NO_FORM if not (hashes or letters) else " ".join(f"{letter}={by}" for letter, by in sorted(letters.items())))
        told = _got(values, path, made)
        return [Value.read(text) for text in told] if isinstance(told, (list, tuple)) else []

    def _origin_findings(self, values: Values, parts: Mapping[str, _Part], found: Mapping[str, list[list[object]]]) -> list[Finding]:
        refused = []
        for origin in self.origins:
            site = f"from.{origin.path}"
            part, answers = parts[site], found[site]
            holds = [
                any("1" in parse_map(answer) for answer in (answers[at] if at < len(answers) else ())) for at in range(len(part.items))
            ]
            if _got(values, site, all(holds)) is not True:
                refused.append(refuse(origin))
        return refused

    def _flow(self, known: Mapping[str, list[Value]], wide: bool, handed: bool) -> list[Finding]:
        found: dict[tuple[str, str], Finding] = {}
        passed: dict[str, str] = {}
        brought: dict[str, None] = {}  # the calls whose values flow into this one: its span links to theirs
        for path, items in known.items():
            for value in items:
                cell = self._cell(value, wide, path in self.pinned, handed)
                if cell.verdict == "allow":
                    passed.setdefault(path, cell.source)
                    if cell.by and len(brought) < MAX_LINKS:
                        brought[cell.by] = None
                elif (old := found.get((path, cell.code))) is None or (old.says == "ask" and cell.verdict == "deny"):
                    found[path, cell.code] = self._fault(path, cell)
        if found:
            return list(found.values())
        text = "; ".join(f"{path} from {source}" for path, source in passed.items()) or "no control value"
        return [Finding("flow", "permit", ReasonCode.PERMIT, text=text, witnesses=tuple(brought))]

    def _cell(self, value: Value, wide: bool, pinned: bool, handed: bool) -> Cell:
        """The worst of the effects' cells for one value."""
        worst: Cell | None = None
        for effect, row in self.rows:
            if row is None and pinned:
                continue  # the intent names the value itself
            if row is None:
                cell = lookup({}, value, made_here=False, wide=wide)
            else:
                cells = row.handed if handed and row.handed else row.cells
                cell = lookup(cells, value, made_here=effect in _MADE_HERE, wide=wide, also=row.also)
            if worse(cell, worst):
                worst = cell
        return worst or Cell("allow", "the intent", "", "")

    def _fault(self, path: str, cell: Cell) -> Finding:
        words = {
            "unknown": "comes from nowhere this task has seen",
            "text": "comes from text",
            "author": "comes from whoever wrote the record",
        }
        text = f"argument {path} {words.get(cell.source, f'comes from {cell.source}')}"
        if cell.code == "state.incomplete":
            known = "is unknown" if cell.source == "unknown" else f"comes from {cell.source}"
            text = f"argument {path} {known}, and this task has seen more than could be kept"
        return _finding(self.tool, cell, ReasonCode(cell.code), text, self.advice)

    def _carries(self, values: Values, part: _Part, answers: list[list[object]], wide: bool) -> list[Finding]:
        made: list[str] = []
        for at, _ in enumerate(part.items):
            letters: dict[str, str] = {}
            for answer in answers[at] if at < len(answers) else ():
                merge(letters, letters_of(answer))
            made.append(" ".join(f"{letter}={by}" for letter, by in sorted(letters.items())))
        told = _got(values, "carries", made)
        worst: Cell | None = None
        for text in told if isinstance(told, (list, tuple)) else ():
            value = Value.read(text)
            for _, row in self.rows:
                cell = lookup(row.carries if row is not None else {}, value, made_here=False, wide=wide)
                if cell.verdict != "allow" and worse(cell, worst):
                    worst = cell
        if worst is None:
            return []
        what = " or ".join(sorted(self.tool.carries))
        text = f"what it carries holds a value ({what}) that comes from {'nowhere this task has seen' if worst.source == 'unknown' else worst.source}"
        return [_finding(self.tool, worst, ReasonCode.FLOW_CARRIES, text, f"leave every {what} out that the task did not name")]

    def _marks(
        self, ledger: Ledger, parts: Mapping[str, _Part], found: Mapping[str, list[list[object]]], masks: Masks, decision: str
    ) -> tuple[bool, list[Op]]:
        """What the task writes with this call: values that will learn nothing new, and how good its data is."""
        marked: dict[str, None] = {}
        for path in self.control:
            for at, hashes in enumerate(parts[f"flow.{path}"].items):
                letters = masks.letters.get(path, ())
                if rank(best(letters[at] if at < len(letters) else "")) > rank("d"):
                    marked.update(dict.fromkeys(hashes))
        worst = ""
        items, answers = parts["written"].items, found["written"]
        for at, hashes in enumerate(items):
            got = "".join("".join(letters_of(answer)) for answer in answers[at]) if at < len(answers) else ""
            letter = best(got).lower() or NOTHING
            worst = max(worst or letter, letter, key=rank)
            if rank(letter) > rank("d"):
                marked.update(dict.fromkeys(hashes))
        over = len(items) > MAX_WRITTEN or [] in items
        marks: list[Op] = [ledger.wrote(hashed, decision) for hashed in marked]
        if worst and "write" in self.tool.effects:
            for path in self.control:
                if self.tool.types.get(path, "any") in _OBJECTS:
                    for hashes in parts[f"flow.{path}"].items[:MAX_VALUES]:
                        marks += [Know(ledger.object(hashed), worst, decision or "0", "first", decision) for hashed in hashes]
        if marks:
            marks.append(Add(ledger.stored, len(marks), None, None, decision))
        return over, marks


def _finding(tool: Tool, cell: Cell, code: ReasonCode, text: str, fix: str) -> Finding:
    says: Says = "forbid" if cell.verdict == "deny" else "ask"
    return Finding("flow", says, code, None, tool.where or None, text, "enforce", fix, (cell.by,) if cell.by else ())


def _got(values: Values, site: str, answer: object) -> object:
    """What the ledger answered, as it goes on record: a replay has no ledger and reads it there. Judged again, the newer answer counts."""
    if isinstance(values, Told):
        return values.ask(f"got.{site}", lambda _: answer)
    values.told[f"got.{site}"] = answer
    return answer
