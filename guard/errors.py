"""The one error tree. `code` is stable; texts are not. Texts carry names, never argument or parameter values: exception
texts end up in spans, logs and conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guard.frozen import frozen
from guard.reasons import REASONS, ReasonCode

if TYPE_CHECKING:
    from guard.model import Decision

__all__ = ["ApprovalRequired", "ConfigError", "Denied", "GuardError", "PolicyError", "Problem", "StateUnavailable", "TokenRefused"]


class GuardError(Exception):
    """Everything guardtrail raises. `code` is a `ReasonCode` or a `config.*` / `lint.*` word."""

    code: str = "guard.error"

    def __init__(self, text: str, *, code: str | None = None) -> None:
        super().__init__(text)
        if code is not None:
            self.code = code


class ConfigError(GuardError):
    """The library or its configuration is misused. Raised at import or when the guard is made, never at a call."""

    code = "config.error"


@frozen
class Problem:
    """One finding of the policy linter. `line` and `column` count from 1; `excerpt` is the source line."""

    file: str
    line: int
    column: int
    level: str  # "error" | "warning"
    code: str  # lint.*
    text: str
    suggestion: str | None = None
    excerpt: str | None = None
    width: int = 1

    def __str__(self) -> str:
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{self.file}:{self.line}:{self.column}: {self.level} [{self.code}] {self.text}{hint}"


class PolicyError(ConfigError):
    """The policy does not load; `.problems` has file, line, column, code and suggestion of each, errors first found first."""

    code = "policy.error"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        errors = [p for p in self.problems if p.level == "error"]
        super().__init__(
            "the policy does not load:\n"
            + "\n".join(str(p) for p in errors[:20])
            + (f"\n(+{len(errors) - 20} more)" if len(errors) > 20 else "")
        )


class TokenRefused(GuardError):
    """A token did not verify. Inside the house only: at the doors it becomes `Denied` with the same code."""

    def __init__(self, code: ReasonCode, text: str | None = None) -> None:
        super().__init__(text or REASONS[code].meaning, code=code)
        self.reason = code


class KeysWanted(TokenRefused):
    """A token whose keys are not here and may be fetched. Inside the house only: who can wait asks `Verifier.fetch` and verifies again,
    for everybody else it is a refusal. `issuer`: whose; `kid`: which, where only that one is missing."""

    def __init__(self, issuer: str, text: str | None = None, *, kid: str | None = None) -> None:
        super().__init__(ReasonCode.KEYS_UNAVAILABLE, text)
        self.issuer = issuer
        self.kid = kid


class StateUnavailable(GuardError):
    """A store cannot answer. The only exception a `StateStore` may raise; every call it meets is denied."""

    code = ReasonCode.STATE_UNAVAILABLE


class Denied(GuardError):
    """The body did not run. `.decision` says why; `.for_model()` is one sentence that is safe to put into a conversation."""

    def __init__(self, decision: Decision, text: str | None = None) -> None:
        super().__init__(text or decision.text(), code=decision.code)
        self.decision = decision

    def for_model(self) -> str:
        """One sentence a model can act on: what was refused, why, and the smallest change that would allow it. No values."""
        return self.decision.for_model()


class ApprovalRequired(Denied):
    """Not yet: a person must answer first. A `Denied`, so code that knows only denial stays closed.

    `.request` names what a person is asked: its `id`, task, tool, keyed hash of the arguments, the rules that ask. Plain data, without a value: it may
    be kept, sent and read back; the request itself lies with the guard's `Approvals` and survives the process.
    """

    @property
    def request(self) -> dict[str, object]:
        """The unabridged request: every unmet ask of the call at once, none of its values."""
        return self.decision.request()
