"""What a reader saw: one event of a recorded run, in the same words whatever the format.

| kind      | means                                                    | needs                                     |
|-----------|----------------------------------------------------------|-------------------------------------------|
| `call`    | a tool call was decided, or (foreign) made               | `tool`; `args` or `atoms`, else neither   |
| `outcome` | a call came to its end                                   | `id` of the call, `status`                |
| `task`    | the task ended, or was not let                           | `verdict`, where a guard recorded it      |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from guard.model import Finding

__all__ = ["Found", "Seen", "Status"]

Status = Literal["not_executed", "ok", "error", "unknown", ""]


@dataclass(slots=True)
class Seen:
    """One event. `at`: epoch microseconds. `step`: as recorded, else counted within the task; 0: not known.

    `args` None: their values were not captured. `atoms`: what was asked of them, as our own records hold it. `status` of a call: how it
    ended where that is known at once (`not_executed`: the guard did not let it). `judged`, `settled`: see `guard.events`. `findings`,
    `verdict`, `code`, `policy`: what a guard said then. `order`, `state`: see `guard.events`. `trust`: `proven` for a record of a guard, `recorded` for any other trace.
    """

    kind: Literal["call", "outcome", "task"]
    task: tuple[str, str, str]
    at: int
    order: int = 0
    step: int = 0
    id: str = ""
    tool: str = ""
    args: Mapping[str, object] | None = None
    atoms: Mapping[str, object] | None = None
    status: Status = ""
    result: object = None
    known_result: bool = False
    actors: tuple[str, ...] = ()
    origin: str = ""
    person: str | None = None
    proven: str | None = None
    """The registry name of the actor, where it has proven to be one."""
    intent: str | None = None
    params: Mapping[str, object] | None = None
    prompt: str | None = None
    policy: str = ""
    tools: str = ""
    verdict: str = ""
    code: str = ""
    findings: tuple[Finding, ...] = ()
    judged: tuple[int, int] | None = None
    state: str = ""
    settled: int = 0
    span: str = ""
    file: str = ""
    line: int = 0
    trust: Literal["proven", "recorded"] = "recorded"
    over: tuple[str, ...] = ()
    """Tasks of foreign traces, by name, of which nothing more comes."""


@dataclass(slots=True)
class Found:
    """What reading came to. `broken`: lines and files that are no record, per file; never fatal."""

    files: int = 0
    events: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files nothing could be read from, and why."""
    formats: dict[str, str] = field(default_factory=dict)
