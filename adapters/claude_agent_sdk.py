"""Claude Agent SDK: every tool call of a session, its sub-agents' too, passes the guard.

    from guard.adapters.claude_agent_sdk import guard_hooks

    options = ClaudeAgentOptions(hooks=guard_hooks(guard))
    async with guard.task(token):
        async for message in query(prompt="Refund order A-17", options=options):
            ...

Three hooks: `PreToolUse` decides, `PostToolUse` and `PostToolUseFailure` say what came of it. The body runs in Claude Code's own process or through it, so the
guard cannot wrap it. Open the task before the session connects: hooks run in the context of that moment.

Each hook is set to block where it fails (fail-open row F56: the default is to continue); a Claude Code too old for that is refused by the SDK. An ask is a
refusal: the SDK's `defer` is ignored where a turn has several calls, and then they run. Once somebody has approved, the model makes the call again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from ._core import Decision, Guard, Outcome, Seen, missing, tool_call

try:
    from claude_agent_sdk import ClaudeAgentOptions, HookMatcher

    HookMatcher(on_failure="block")
except (ImportError, TypeError) as error:
    raise missing("claude_agent_sdk", "claude-agent-sdk", "0.2.177") from error

__all__ = ["coverage", "guard_hooks"]

# Handing over to a sub-agent is no call of a tool: the sub-agent's calls come through the same hooks, each for itself.
_HOPS = ("Agent", "Task")
Hook = Callable[[Any, "str | None", Any], Awaitable[dict[str, Any]]]


def guard_hooks(guard: Guard, *, own: Collection[str] = (), permit: bool = False, seconds: float = 60.0) -> dict[Any, list[Any]]:
    """For `ClaudeAgentOptions(hooks=...)`.

    `own`: MCP servers whose tools the policy names as they are; those of any other are `server/tool` there. `permit`: what the guard allows needs no permission
    of Claude Code besides; else its own permissions (`allowed_tools`, `can_use_tool`, ...) decide too, and of a call whose arguments the guard has resolved it
    asks them in any case. `seconds`: after which Claude Code takes a hook for failed, and blocks.
    """
    hooks = _Hooks(guard, frozenset(own), permit)
    return {
        "PreToolUse": [_matcher(hooks.before, seconds)],
        "PostToolUse": [_matcher(hooks.after, seconds)],
        "PostToolUseFailure": [_matcher(hooks.failed, seconds)],
    }


def _matcher(hook: Hook, seconds: float) -> Any:
    return HookMatcher(matcher=None, hooks=[hook], timeout=seconds, on_failure="block")


class _Hooks:
    def __init__(self, guard: Guard, own: frozenset[str], permit: bool) -> None:
        self._guard = guard
        self._own = own
        self._permit = permit
        self._open: dict[str, tuple[Decision, dict[str, object]]] = {}
        """Calls that run: by id, the decision and the arguments they were allowed with."""

    async def before(self, data: Any, _: str | None, __: Any) -> dict[str, Any]:
        tool, args, call_id = data["tool_name"], data["tool_input"], data["tool_use_id"]
        if tool in _HOPS:
            return {}
        if not isinstance(call_id, str) or not call_id or call_id in self._open:
            return _specific("deny", f"{tool} denied: its call has no id of its own")
        decision = await self._guard.abefore(self._call(tool, args, call_id))
        if decision.blocks:
            return _specific("deny", decision.for_model())
        bound = dict(self._guard.arguments(decision))
        self._open[call_id] = (decision, bound)
        if bound == args:
            return _specific("allow", "guardtrail") if self._permit else {}
        # No `updatedInput` without a decision: Claude Code would not take it over. "ask" leaves it to the session's own permissions.
        return _specific("allow" if self._permit else "ask", "guardtrail resolved the arguments", updatedInput=bound)

    async def after(self, data: Any, _: str | None, __: Any) -> dict[str, Any]:
        return await self._ended(data, Outcome("ok", _plain(data["tool_response"])))

    async def failed(self, data: Any, _: str | None, __: Any) -> dict[str, Any]:
        interrupted = data.get("is_interrupt", False) is not False
        return await self._ended(data, Outcome("unknown") if interrupted else Outcome("error", None, ToolFailed("the tool failed")))

    async def _ended(self, data: Any, outcome: Outcome) -> dict[str, Any]:
        if data["tool_name"] in _HOPS:
            return {}
        decision, bound = self._open.pop(data["tool_use_id"], (None, None))
        if decision is None:  # no hook of ours stood before it
            return _stop(f"{data['tool_name']} ran, and the guard was not asked")
        await self._guard.aafter(decision, outcome)
        if data["tool_input"] != bound:  # another hook, or `can_use_tool`, changed what was allowed
            return _stop(f"{data['tool_name']} ran with other arguments than the guard allowed")
        return {}

    def _call(self, tool: str, args: Mapping[str, object], call_id: str) -> Any:
        server, parted, name = tool.removeprefix("mcp__").partition("__") if tool.startswith("mcp__") else ("", "", tool)
        if not parted:
            return tool_call(tool, args, call_id)
        return tool_call(name, args, call_id, server=None if server in self._own else server)


class ToolFailed(Exception):
    """The tool says that it failed; its words stay in the conversation."""


def _specific(decision: str, reason: str, **more: Any) -> dict[str, Any]:
    said = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}
    return {"hookSpecificOutput": {**said, **more}}


def _stop(reason: str) -> dict[str, Any]:
    """It cannot be undone; the session ends here, and the model does not read what came of it."""
    return {"continue_": False, "stopReason": f"guardtrail: {reason}", "decision": "block", "reason": f"guardtrail: {reason}"}


def _plain(response: Any) -> Any:
    """What a policy about results can look at: of an MCP tool's content its texts."""
    content = response.get("content") if isinstance(response, Mapping) else response
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        return response
    plain = [block.get("text", block) for block in content]
    return plain[0] if len(plain) == 1 else plain


def coverage(options: Any) -> list[Seen]:
    """One line for a session's options: all its tools and sub-agents come through the same hooks, and none where there is no hook."""
    if not isinstance(options, ClaudeAgentOptions):
        return []
    hooks = options.hooks or {}
    for event in ("PreToolUse", "PostToolUse", "PostToolUseFailure"):
        ours = [
            matcher
            for matcher in hooks.get(event, ())
            if any(isinstance(getattr(hook, "__self__", None), _Hooks) for hook in matcher.hooks)
        ]
        if not any(matcher.on_failure == "block" and matcher.matcher is None for matcher in ours):
            return [Seen("session", False, f"no {event} hook of the guard, for every tool and set to block: hooks=guard_hooks(guard)")]
    names = ["session", *(options.mcp_servers if isinstance(options.mcp_servers, Mapping) else ()), *(options.agents or ())]
    return [Seen(name if name == "session" else f"session > {name}", True) for name in names]
