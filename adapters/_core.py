"""The one door of the adapters into guardtrail: public names only, so that an adapter reads like a user's code.

An adapter turns a framework's call into a `ToolCall` and a decision into the framework's own refusal. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guard import ApprovalRequired, Decision, Denied, Guard, Outcome, ToolCall
from guard.errors import ConfigError, GuardError
from guard.identity import HolderKey
from guard.server import RequestTask
from guard.server import request_task as kept_task
from guard.telemetry import META_APPROVAL, META_CALL, META_CODE, META_CREDENTIAL, META_DECISION, META_PROOF, META_TOKEN

if TYPE_CHECKING:
    from guard import Task

__all__ = [
    "META_APPROVAL", "META_CALL", "META_CODE", "META_CREDENTIAL", "META_DECISION", "META_PROOF", "META_TOKEN", "ApprovalRequired", "ConfigError", "Decision", "Denied",
    "Guard", "GuardError", "HolderKey", "Outcome", "Seen", "ToolCall", "about", "missing", "not_covered", "refusal", "request_task", "tool_call", "without_token",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """One tool or sub-agent that an adapter found while it walked an agent (`coverage(agent)`). `path`: from the agent down, `triage > helper > wipe`.
    `covered`: a guard stands before every call of it. `why`: if not, what to do about it."""

    path: str
    covered: bool
    why: str = ""


def not_covered(adapter: str, seen: Sequence[Seen]) -> ConfigError:
    """What an adapter raises instead of starting an agent with tools that no guard covers (fail-open rows F58, F61)."""
    lines = [f"  {each.path}: {each.why}" for each in seen if not each.covered]
    return ConfigError(f"guard.adapters.{adapter}: no guard stands before\n" + "\n".join(lines))


def request_task(guard: Guard, token: str, *, keep: bool = False) -> AbstractAsyncContextManager[Task]:
    """The task of one request that brought `token` along: leaving it closes this delegation and does not end the task.

    `keep`: it may stay open for the next request of its token, some seconds; only where nothing is done or shown but by calls, which ask anew for revocation and
    expiry each."""
    return kept_task(guard, token) if keep else RequestTask(guard, token)


def missing(adapter: str, package: str, least: str) -> ConfigError:
    """What to raise from the ImportError of an adapter's framework (absent, or older than the adapter can use)."""
    return ConfigError(f'guard.adapters.{adapter} needs {package} >= {least}: pip install "guardtrail[{adapter}]"')


def refusal(denied: Denied) -> str:
    """The sentence a model reads instead of a result. It names the reason and the smallest change; no values."""
    return denied.for_model()


def about(denied: Denied) -> dict[str, object]:
    """What a refusal says for programs, beside its sentence: names, ids and codes, no values. Plain data."""
    found: dict[str, object] = {META_DECISION: denied.decision.id, META_CODE: str(denied.decision.code)}
    return found | {META_APPROVAL: denied.request} if isinstance(denied, ApprovalRequired) else found


def tool_call(tool: str, args: Mapping[str, object] | None, id: str = "", *, server: str | None = None, proof: str = "") -> ToolCall:
    """The call as the policy names it: `server/tool` where the tool belongs to a named server."""
    return ToolCall(f"{server}/{tool}" if server else tool, {} if args is None else args, id, proof)


def without_token(data: Mapping[str, object], token: str) -> dict[str, object]:
    """`data` without every entry, at any depth, whose name or text holds `token` (also as "Bearer ...").

    The delegation token is for the guard. A backend that sees it could act as the agent everywhere the token is good.
    """
    return {key: _scrub(value, token) for key, value in data.items() if not _holds(key, token) and not _holds(value, token)}


def _holds(value: object, token: str) -> bool:
    return isinstance(value, str) and any(part in value for part in token.split("~"))  # of a chain, no hop either


def _scrub(value: object, token: str) -> object:
    if isinstance(value, Mapping):
        return without_token(value, token)
    if isinstance(value, (list, tuple)):
        return [_scrub(each, token) for each in value if not _holds(each, token)]
    return value
