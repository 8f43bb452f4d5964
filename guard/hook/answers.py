"""What a hook is answered: one sentence of the daemon, which the installed line takes apart with what `sh` has built in.

    guardtrail/1 0|{json}              print the JSON, exit 0
    guardtrail/1 2|reason|{json}       print the JSON, the reason on standard error, exit 2

The JSON is exactly what the agent's documentation has, no member more: Codex lets a call run whose answer has an unknown one. Reasons
name no value of the call.
"""

from __future__ import annotations

import json
import unicodedata

from guard.hook.tables import PROTOCOL, Agent
from guard.model import Decision

__all__ = ["allowed", "denied", "noted", "reason_of"]

_MOST = 800


def allowed(agent: Agent) -> str:
    """Where the agent can be told nothing, it is told nothing: its own permission prompts stay."""
    return f"{PROTOCOL} 0|{agent.allow}"


def noted() -> str:
    """To an event that is no gate."""
    return f"{PROTOCOL} 0|{{}}"


def denied(agent: Agent, event: str, reason: str) -> str:
    """`reason` may be anything: what could part the sentence or steer a terminal is taken out."""
    said = plain(f"guardtrail: {reason}")
    body: dict[str, object]
    if agent.name in ("claude-code", "codex"):
        specific = {"hookEventName": event, "permissionDecision": "deny", "permissionDecisionReason": said}
        body = {"hookSpecificOutput": specific}
    elif agent.name == "gemini-cli":
        body = {"decision": "deny", "reason": said}
    else:
        body = {"permission": "deny", "user_message": said, "agent_message": said}
    text = json.dumps(body)
    return f"{PROTOCOL} 2|{said}|{text}" if agent.deny_exit == 2 else f"{PROTOCOL} 0|{text}"


def plain(text: str) -> str:
    """One line of visible letters, without the mark that parts a sentence."""
    shown = "".join(char if char.isprintable() and unicodedata.category(char) != "Cf" else " " for char in text.replace("|", "/"))
    said = " ".join(shown.split())
    return said if len(said) <= _MOST else said[: _MOST - 3] + "..."


def reason_of(decision: Decision, *, asks: bool) -> str:
    """For the model: what was refused and why; of an ask, how a person answers it, where one can. The agent's own yes answers nothing."""
    text = decision.for_model()
    if decision.verdict != "ask" or not asks:
        return text
    return f"{text}; a person answers with `guardtrail approve {decision.id}`, and then the same call may be made again"
