"""Reading decisions back from the audit files of a directory. Says nothing about whether they were changed: `audit verify` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard.cli.output import CannotAnswer

__all__ = ["Chain", "Found", "audit_files", "chain_of", "find", "listed", "nearest", "witnesses_of"]

Row = Mapping[str, Any]
_LINE = 1 << 24
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("at", "count", "step"), (int, float)),
    **dict.fromkeys(("actors", "changed", "findings", "rules", "witnesses"), list),
    **dict.fromkeys(("id", "verdict", "decision", "task"), str),
}
_ALIKE = 4
_MOST_NOTES = 50
_MOST_KEPT = 1000


@dataclass(slots=True)
class Found:
    """Decisions whose id begins with what was asked for. `broken`: lines that are no record."""

    decisions: dict[str, Row] = field(default_factory=dict)
    broken: int = 0


def audit_files(folder: Path) -> list[Path]:
    """The audit files of a directory. Raises CannotAnswer where there are none."""
    files = sorted(folder.glob("audit*.jsonl"))
    if not files:
        why = "there are no audit files in it" if folder.is_dir() else "there is no such directory"
        raise CannotAnswer(f"nothing is recorded in {folder}: {why}; `--dir` or GUARDTRAIL_DIR names another")
    return files


def rows(path: Path, found: Found | None = None, *, having: bytes = b"") -> Iterator[Row]:
    """The records of one file, in order; what is none is counted and passed over. `having`: only lines with these bytes are looked at."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LINE):
                if having not in line:
                    continue
                row = _row(line)
                if row is not None:
                    yield row
                elif found is not None:
                    found.broken += 1
    except OSError as error:
        raise CannotAnswer(f"{path} cannot be read: {(error.strerror or type(error).__name__).lower()}") from None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    # The log may have been changed by anybody: what is not of the type we write is left out here, not met later.
    return {name: value for name, value in row.items() if isinstance(value, _TYPES.get(name, object))}


def find(folder: Path, prefix: str) -> Found:
    """Decisions by the beginning of their id; of `last`, the newest."""
    found = Found()
    newest: Row | None = None
    for path in audit_files(folder):
        for row in rows(path, found):
            if row["kind"] != "decision" or not isinstance(row.get("id"), str):
                continue
            if prefix == "last":
                newest = row if newest is None or (row.get("at") or 0) >= (newest.get("at") or 0) else newest
            elif row["id"].startswith(prefix):
                found.decisions[row["id"]] = row
    if newest is not None:
        found.decisions[newest["id"]] = newest
    return found


def nearest(folder: Path, prefix: str, most: int = 3) -> list[Row]:
    """Decisions whose id begins most like `prefix`, newest first: what was probably meant. None where not even the first four fit."""
    best: list[tuple[int, float, Row]] = []
    for path in audit_files(folder):
        for row in rows(path):
            if row["kind"] == "decision" and isinstance(known := row.get("id"), str):
                best.append((_same(known, prefix), row.get("at") or 0, row))
                if len(best) > 1000:
                    best = _ranked(best)[:most]
    return [row for same, _, row in _ranked(best)[:most] if same >= _ALIKE]


def _same(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _ranked(found: list[tuple[int, float, Row]]) -> list[tuple[int, float, Row]]:
    return sorted(found, key=lambda each: (-each[0], -each[1]))


@dataclass(slots=True)
class Chain:
    """A task as recorded. `steps`: chosen decisions, each with its `outcome`, what was found `late` and what its body was `lent`; `notes`: pivots, approvals, ends, in order of time.

    `decisions`: how many the task has.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)
    decisions: int = 0


def chain_of(folder: Path, decision: Row, *, around: int | None) -> Chain:
    """The chain of a decision's task, in the order of its steps, from all files of the log.

    `around` None: every step. Else what a person needs: the first and the last, the witnesses, what was asked, and as many steps before
    and after the decision. What is held does not grow with the task then.
    """
    chosen = _Chosen(decision, around)
    needle = json.dumps(decision.get("task")).encode("ascii")
    for path in audit_files(folder):
        for row in rows(path, having=needle):
            chosen.see(row)
    held = chosen.held()
    for path in audit_files(folder):  # again: the outcome may stand in a file that was read before the one of its decision
        for row in rows(path, having=needle):
            if row["kind"] == "outcome" and row.get("decision") in held:
                held[str(row["decision"])]["outcome"] = str(row.get("status"))
                for name in ("late", "credential"):
                    if isinstance(row.get(name), dict):
                        held[str(row["decision"])]["lent" if name == "credential" else name] = row[name]
    for row in held.values():
        row.setdefault("outcome", "not_executed" if row.get("verdict") != "allow" else "unknown")
    return Chain(sorted(held.values(), key=_place), sorted(chosen.notes, key=lambda row: _number(row.get("at"))), chosen.count)


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and value == value else 0.0


def _place(row: Row) -> tuple[float, float]:
    return _number(row.get("step")), _number(row.get("at"))


class _Chosen:
    """Which decisions of a task are kept while its log goes by."""

    def __init__(self, decision: Row, around: int | None) -> None:
        self._task = [decision.get(name) for name in ("tenant", "issuer", "task")]
        self._step = _number(decision.get("step"))
        self._around = around
        self._wanted = {str(decision.get("id")), *witnesses_of(decision)}
        self._kept: dict[str, dict[str, Any]] = {}
        self._ends: list[dict[str, Any]] = []
        self._asks = 0
        self.notes: list[Row] = []
        self.count = 0

    def see(self, row: Row) -> None:
        kind = row["kind"]
        if kind in ("pivot", "task", "approval") and row.get("task") == self._task[2]:
            if self._around is None or len(self.notes) < _MOST_NOTES:
                self.notes.append(row)
        elif kind == "decision" and [row.get(name) for name in ("tenant", "issuer", "task")] == self._task:
            self.count += not _second(row)
            if self._keeps(row):
                self._kept[str(row.get("id"))] = dict(row)
            ends = sorted([*self._ends, dict(row)], key=_place)
            self._ends = ends if len(ends) < 3 else [ends[0], ends[-1]]

    def _keeps(self, row: Row) -> bool:
        if self._around is None or row.get("id") in self._wanted:
            return True
        if row.get("verdict") == "ask" and self._asks < _MOST_NOTES:
            self._asks += 1
            return True
        # A refusal that the store could not number has step 0: those would be kept without end.
        step = _number(row.get("step"))
        return step > 0 and abs(step - self._step) <= self._around and len(self._kept) < _MOST_KEPT

    def held(self) -> dict[str, dict[str, Any]]:
        return {str(row.get("id")): row for row in (*self._ends, *self._kept.values())}


def _second(row: Row) -> bool:
    """The record that says why a call that was let got no credential: of the same decision."""
    return str(row.get("code")) in ("credential.refused", "credential.unavailable")


def witnesses_of(decision: Row) -> dict[str, list[str]]:
    """Earlier decision -> the rules or codes it is a witness of, in the order of the findings."""
    found: dict[str, list[str]] = {str(each): [] for each in listed(decision.get("witnesses"))}
    for finding in listed(decision.get("findings")):
        if isinstance(finding, dict):
            for each in listed(finding.get("witnesses")):
                named, said = found.setdefault(str(each), []), str(finding.get("rule") or finding.get("code"))
                if said not in named:
                    named.append(said)
    return found


def listed(value: object) -> list[Any]:
    """A member that is a list where we wrote it."""
    return value if isinstance(value, list) else []
