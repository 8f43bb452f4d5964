"""What the model of a test says, and what came of it: plain data, the same for every framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "Call", "Delegate", "Script", "Trace", "Turn"]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of the model. A framework without call ids drops `id`; its answers then come in the order of the calls."""

    id: str
    tool: str
    args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delegate:
    """The model hands over to the sub-agent `agent` (as a tool, a hand-off, a managed agent: what the framework has), whose own model then says `script`."""

    id: str
    agent: str
    script: tuple[Turn, ...]


Turn = tuple[Call | Delegate, ...] | str
"""Calls of one turn run in parallel where the framework does that; a text is the model's last word."""
Script = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model read as the result of one call. `failed`: by the framework's own mark of an error; None where it has no such mark."""

    text: str
    failed: bool | None


@dataclass(slots=True)
class Trace:
    """What came of a run.

    `answers`: by call id (those of sub-agents too, where they can be seen). `shown`: names of the tools the model was offered, per turn. `pending`: ids of the
    calls for which the framework's own pause waits for a person. `requests`: what the pause shows the person (`ApprovalRequired.request`), by call id.
    `final`: the model's last word, None where the run did not come to it. `error`: the exception the run ended with.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    shown: list[tuple[str, ...]] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    requests: dict[str, Mapping[str, object]] = field(default_factory=dict)
    final: str | None = None
    error: BaseException | None = None
