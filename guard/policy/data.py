"""A policy as data: what the text means once it is read and linted. Frozen; nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal

from guard.constraints import Constraint
from guard.errors import Problem

__all__ = ["EFFECTS", "IRREVERSIBLE", "Case", "Event", "Intent", "Limit", "Permission", "PolicyData", "Rule", "RunAs", "Tool", "When"]

EFFECTS = ("read", "fetch", "write", "send", "share", "pay", "buy", "delete", "execute", "admin", "approve")
IRREVERSIBLE = frozenset({"send", "share", "pay", "buy", "delete", "execute", "admin"})


@dataclass(frozen=True, slots=True)
class Tool:
    """What a tool is. `types`: argument path -> type word, for control and data arguments alike; `control`: paths of control arguments.

    An argument path is a name, `name[]` for the items of a list, `name[].field` and `name.field` for what lies inside.
    """

    name: str
    effects: tuple[str, ...]
    types: Mapping[str, str]
    control: frozenset[str]
    reversible: bool
    errors_have_no_effect: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """`calls` or `sum` (an argument path) up to `max`. `window` seconds, None: for ever. `per`: key parts besides the task.

    `per` entries: `origin`, `actor`, `tool`, `args.<path>`. Without `per` the limit counts in its task; with it, in the tenant.
    """

    max: Decimal
    sum: str | None = None
    window: int | None = None
    per: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Permission:
    """One tool of an intent. `args`: argument path -> constraint (may use `$parameters`). `at`: argument path -> `policy.yaml:12:31`."""

    tool: str
    args: Mapping[str, Constraint]
    limit: Limit | None
    where: str
    at: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intent:
    """A kind of task. `params`: name -> type word. `ttl` seconds from the opening of the task. `order`: see POLICY."""

    name: str
    description: str
    params: Mapping[str, str]
    ttl: int | None
    allow: Mapping[str, Permission]
    order: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class When:
    """Which calls a rule is about: all members must hold; an empty member holds always. `end`: the rule is about `task.end`."""

    tools: frozenset[str] = frozenset()
    effects: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()
    args: Mapping[str, Constraint] = field(default_factory=dict)
    end: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One workflow rule. Exactly one of `limit`, `require` is set, or none (the rule fires on every call it matches).

    `require`: `args.<path>` (written without the prefix here) -> constraint. `until`: monitor ends on this day; from then on it enforces.
    """

    id: str
    when: When
    then: Literal["deny", "ask", "alert"]
    limit: Limit | None = None
    require: Mapping[str, Constraint] | None = None
    monitor: bool = False
    until: date | None = None
    owner: str = ""
    description: str = ""
    severity: str = "medium"
    controls: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True, slots=True)
class RunAs:
    """Whom a test case acts as."""

    origin: str
    actor: tuple[str, ...]
    intent: str
    params: Mapping[str, object] = field(default_factory=dict)
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace: a call with its outcome, at `after` seconds past the line before."""

    tool: str
    args: Mapping[str, object]
    status: Literal["ok", "error", "unknown"] = "ok"
    result: object = None
    error: str = ""
    actor: str | None = None
    task: str | None = None
    after: int = 0
    line: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One entry of `tests:`. `expect`: one per event, a verdict with an optional code prefix, or a rule id."""

    name: str
    run_as: RunAs
    trace: tuple[Event, ...]
    expect: tuple[str, ...]
    end: str | None
    where: str


@dataclass(frozen=True, slots=True)
class PolicyData:
    """A policy that loaded. `digest`: SHA-256 hex of its text. `warnings`: what lint said besides errors."""

    name: str
    owner: str
    digest: str
    file: str
    tools: Mapping[str, Tool]
    intents: Mapping[str, Intent]
    rules: tuple[Rule, ...]
    scopes: Mapping[str, tuple[str, ...]]
    tests: tuple[Case, ...]
    warnings: tuple[Problem, ...] = ()
