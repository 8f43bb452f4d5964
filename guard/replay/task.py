"""What a replay knows of a task: its tables, its plans, and the calls that have not ended yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from guard.replay.order import Waiting
from guard.replay.state import OWN, Tables
from guard.replay.turns import Count, Line
from guard.sources import Seen
from guard.steps import Taken
from guard.workflow.atoms import Values
from guard.workflow.ledger import Masks
from guard.workflow.limits import Context
from guard.workflow.plan import Plan

__all__ = ["KEY", "SECRET", "Ran", "Task"]

KEY: Final = f"{OWN}T"
"""Of every task: each has tables of its own."""
SECRET: Final = b"replay"
"""Of hashes: they stay in this process, and are the same in every replay."""


@dataclass(slots=True)
class Ran:
    """A call that ran and has not ended yet."""

    plan: Plan
    values: Values
    context: Context
    taken: Taken
    added: bool
    masks: Masks | None = None


@dataclass(slots=True)
class Task:
    name: tuple[str, str, str]
    opened: int
    waiting: Waiting
    tables: Tables
    line: Line
    decided: tuple[tuple[str, str, str], Count]
    """Its name, and what counts its commits."""
    key: str = KEY
    last: int = 0
    touched: int = 0
    plans: dict[tuple[object, ...], tuple[Plan, Context]] = field(default_factory=dict)
    contexts: dict[tuple[object, ...], Context] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    open: dict[str, Ran] = field(default_factory=dict)
    who: Seen | None = None
    ended: bool = False
    begun: bool = False
    prompted: bool = False
    heard: bool = False
    """Its prompt is known, and every result so far: where values come from can be told."""
