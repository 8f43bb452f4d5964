"""Reading decisions back from the audit files of a directory. Says nothing about whether they were changed: `audit verify` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard.cli.output import CannotAnswer

__all__ = ["Found", "audit_files", "find", "steps_of"]

Row = Mapping[str, Any]
_LINE = 1 << 24


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


def rows(path: Path, found: Found | None = None) -> Iterator[Row]:
    """The records of one file, in order; what is none is counted and passed over."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LINE):
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
    return row if isinstance(row, dict) and isinstance(row.get("kind"), str) else None


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


def steps_of(folder: Path, decision: Row) -> list[dict[str, Any]]:
    """The chain of a decision's task: its decisions with their outcomes, in the order of their steps."""
    task = [decision.get(name) for name in ("tenant", "issuer", "task")]
    chain: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, str] = {}
    for path in audit_files(folder):
        for row in rows(path):
            if row["kind"] == "decision" and [row.get(name) for name in ("tenant", "issuer", "task")] == task:
                chain[str(row.get("id"))] = dict(row)
            elif row["kind"] == "outcome" and row.get("task") == decision.get("task"):
                outcomes[str(row.get("decision"))] = str(row.get("status"))
    for known, row in chain.items():
        row["outcome"] = outcomes.get(known, "not_executed" if row.get("verdict") != "allow" else "unknown")
    return sorted(chain.values(), key=lambda row: (row.get("step") or 0, row.get("at") or 0))
