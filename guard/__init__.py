"""Authorization for the tool calls of AI agents: `Guard`, `@guard.tool`, `guard.task(token)`."""

from typing import NoReturn

from guard.errors import ApprovalRequired, ConfigError, Denied, GuardError
from guard.identity import Issuer, LocalIssuer
from guard.model import Decision, Delegation, Finding, Outcome, ToolCall
from guard.policy import Policy
from guard.ports import Sink, StateStore
from guard.reasons import ReasonCode
from guard.runtime import Guard, Task

__all__ = [
    "ApprovalRequired",
    "Decision",
    "Delegation",
    "Denied",
    "Finding",
    "Guard",
    "GuardError",
    "Issuer",
    "LocalIssuer",
    "Outcome",
    "Policy",
    "ReasonCode",
    "Sink",
    "StateStore",
    "Task",
    "ToolCall",
]


def __getattr__(name: str) -> NoReturn:
    if name in ("tool", "task"):
        raise ConfigError(f'`guard.{name}`: `guard` is the package here; make one first: `guard = Guard("policy.yaml", trust=...)`')
    raise AttributeError(f"module 'guard' has no attribute {name!r}")
