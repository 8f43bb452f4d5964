"""Authorization for the tool calls of AI agents: `Guard`, `@guard.tool`, `guard.task(token)`."""

from typing import TYPE_CHECKING, Any

from guard.errors import ApprovalRequired, ConfigError, Denied, GuardError
from guard.identity import Issuer, LocalIssuer
from guard.model import Decision, Delegation, Finding, Outcome, ToolCall
from guard.ports import Sink, StateStore
from guard.reasons import ReasonCode
from guard.runtime import Guard, Task

if TYPE_CHECKING:
    from guard.policy import Policy

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


def __getattr__(name: str) -> Any:
    if name == "Policy":  # loaded when it is used: reading policies takes a YAML parser and a linter
        from guard.policy import Policy

        return Policy
    if name in ("tool", "task"):
        raise ConfigError(f'`guard.{name}`: `guard` is the package here; make one first: `guard = Guard("policy.yaml", trust=...)`')
    raise AttributeError(f"module 'guard' has no attribute {name!r}")
