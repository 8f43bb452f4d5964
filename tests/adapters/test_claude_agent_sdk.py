"""What is particular to the Claude Agent SDK: hooks that fail, calls in another process, sub-agents by id. The behaviours are in tests/conformance."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("claude_agent_sdk")

from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions, CLIConnectionError, HookMatcher, query

from guard.adapters.claude_agent_sdk import coverage, guard_hooks
from guard.testing.conformance import Call, World
from tests.conformance.drivers.claude_agent_sdk import App, ClaudeCode, prompts
from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
LOOK = (Call("c1", "look", {"order": "A-1"}),)
PRE = {"session_id": "s", "transcript_path": "", "cwd": "/", "hook_event_name": "PreToolUse"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, asynchronous=True)
    with made.open():
        yield made


def play(world: World, script: Any, *, hooks: Any = None, **code: Any) -> ClaudeCode:
    app = App(world, (*script, "done"))
    if hooks is not None:
        app.options.hooks = hooks
    transport = ClaudeCode(app.script, app.bodies, **code)

    async def run() -> None:
        async for _ in query(prompt=prompts(), options=app.options, transport=transport):
            pass

    asyncio.run(run())
    return transport


def hook(world: World, event: str, data: Any, **how: Any) -> Any:
    """One hook, called as the SDK calls it."""
    return asyncio.run(guard_hooks(world.guard, **how)[event][0].hooks[0]({**PRE, **data}, "c1", {"signal": None}))


def said(answer: Any) -> Any:
    return answer["hookSpecificOutput"]


def test_f56_every_hook_blocks_where_it_fails(world: World) -> None:
    hooks = guard_hooks(world.guard)
    assert set(hooks) == {"PreToolUse", "PostToolUse", "PostToolUseFailure"}
    for matcher in (matcher for matchers in hooks.values() for matcher in matchers):
        assert matcher.on_failure == "block" and matcher.matcher is None
    world.crash()
    code = play(world, [LOOK])
    assert code.answers["c1"].text == "a hook failed" and world.ran == []


def test_f56_a_claude_code_that_would_go_on_is_refused(world: World) -> None:
    with pytest.raises(CLIConnectionError, match="does not honor on_failure"):
        play(world, [LOOK], on_failure=False)
    assert world.ran == []


def test_f58_coverage_of_a_session(world: World) -> None:
    """There is one place for all sub-agents; what may be wrong with it is said."""
    hooks = guard_hooks(world.guard)
    agents = {"helper": AgentDefinition(description="Helps.", prompt="Help.")}
    assert [(s.path, s.covered) for s in coverage(ClaudeAgentOptions(hooks=hooks, agents=agents))] == [
        ("session", True),
        ("session > helper", True),
    ]
    loose = {**hooks, "PreToolUse": [HookMatcher(matcher="Bash", hooks=hooks["PreToolUse"][0].hooks, on_failure="block")]}
    open_ = {**hooks, "PreToolUse": [HookMatcher(hooks=hooks["PreToolUse"][0].hooks)]}
    for wrong in (None, {}, loose, open_, {"PreToolUse": hooks["PreToolUse"]}):
        assert [seen.covered for seen in coverage(ClaudeAgentOptions(hooks=wrong))] == [False]
    assert coverage(None) == coverage(world) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tool_name": "look"},
        {"tool_name": "look", "tool_input": {"order": "A-1"}},
        {"tool_name": None, "tool_input": {}, "tool_use_id": "c1"},
        {"tool_name": "look", "tool_input": "A-1", "tool_use_id": "c1"},
        {"tool_name": "look", "tool_input": {"order": "A-1"}, "tool_use_id": ""},
        {"tool_name": "look", "tool_input": {"order": "A-1"}, "tool_use_id": 7},
    ],
)
def test_what_nobody_expects_is_no_permission(world: World, data: Any) -> None:
    """An exception is one: the hook is set to block."""
    try:
        answer = hook(world, "PreToolUse", data, permit=True)
    except Exception:
        return
    assert said(answer)["permissionDecision"] == "deny"


def test_what_is_allowed_still_needs_claude_codes_permission(world: World) -> None:
    data = {"tool_name": "look", "tool_input": {"order": "A-1"}, "tool_use_id": "c1"}
    assert hook(world, "PreToolUse", data) == {}
    assert said(hook(world, "PreToolUse", {**data, "tool_use_id": "c2"}, permit=True))["permissionDecision"] == "allow"


def test_resolved_arguments_go_along_and_somebody_else_decides_too(world: World) -> None:
    notes = world.folder / "notes"
    notes.mkdir()
    (notes / "way").symlink_to(notes / "real")
    args = {"file": f"{notes}/way/x.txt", "text": "a"}
    answer = said(hook(world, "PreToolUse", {"tool_name": "save", "tool_input": args, "tool_use_id": "c1"}))
    assert (
        answer["updatedInput"] == {"file": str(notes.resolve() / "real" / "x.txt"), "text": "a"} and answer["permissionDecision"] == "ask"
    )
    answer = said(hook(world, "PreToolUse", {"tool_name": "save", "tool_input": args, "tool_use_id": "c2"}, permit=True))
    assert answer["permissionDecision"] == "allow"


def test_arguments_that_somebody_changed_afterwards_end_the_session(world: World) -> None:
    """Another hook or `can_use_tool` may still change them: it cannot be undone, and the model reads nothing of it."""
    code = play(world, [LOOK, (Call("c2", "look", {"order": "A-2"}),)], rewrites={"order": "A-9"})
    assert [args["order"] for args in world.runs("look")] == ["A-9"] and "c2" not in code.answers
    assert "other arguments" in code.stopped and "A-9" not in code.answers["c1"].text


def test_a_call_the_guard_was_not_asked_about_ends_the_session(world: World) -> None:
    hooks = {event: matchers for event, matchers in guard_hooks(world.guard, own=["desk"]).items() if event != "PreToolUse"}
    code = play(world, [LOOK], hooks=hooks)
    assert "was not asked" in code.stopped


def test_the_same_call_twice_runs_once(world: World) -> None:
    code = play(world, [LOOK, LOOK])
    assert len(world.ran) == 1 and "call.replayed" in code.answers["c1"].text


def test_an_interrupted_call_is_unknown(world: World) -> None:
    async def run() -> None:
        hooks = guard_hooks(world.guard)
        data = {**PRE, "tool_name": "look", "tool_input": {"order": "A-1"}, "tool_use_id": "c1"}
        await hooks["PreToolUse"][0].hooks[0](data, "c1", {"signal": None})
        await hooks["PostToolUseFailure"][0].hooks[0]({**data, "error": "stopped", "is_interrupt": True}, "c1", {"signal": None})

    asyncio.run(run())
    assert [record.status for record in world.outcomes] == ["unknown"]


def test_a_call_nobody_says_anything_more_about_is_closed_with_its_task(tmp_path: Path) -> None:
    alone = World(tmp_path)
    with alone.open():
        hook(alone, "PreToolUse", {"tool_name": "look", "tool_input": {"order": "A-1"}, "tool_use_id": "c1"})
        assert alone.outcomes == []
    assert [record.status for record in alone.outcomes] == ["unknown"]


@pytest.mark.parametrize(
    ("tool", "own", "named"),
    [("mcp__desk__look", ["desk"], "look"), ("mcp__desk__look", [], "desk/look"), ("mcp__x", ["x"], "mcp__x"), ("Bash", [], "Bash")],
)
def test_the_name_a_policy_knows_a_tool_by(world: World, tool: str, own: Any, named: str) -> None:
    hook(world, "PreToolUse", {"tool_name": tool, "tool_input": {}, "tool_use_id": "c1"}, own=own)
    assert [record.tool for record in world.decisions] == [named]


def test_a_store_that_blocks_does_not_stop_the_loop(world: World) -> None:
    plain, ticked = world.state.apply, threading.Event()

    def blocks(*args: Any, **how: Any) -> Any:
        assert ticked.wait(30), "the loop stands still"
        return plain(*args, **how)

    world.state.apply = blocks  # type: ignore[method-assign]

    async def run() -> None:
        async def tick() -> None:
            for _ in range(3):
                await asyncio.sleep(0.01)
            ticked.set()

        ticking = asyncio.ensure_future(tick())
        data = {**PRE, "tool_name": "refund", "tool_input": {"order": "A-1", "amount": "5"}, "tool_use_id": "c1"}
        assert await guard_hooks(world.guard)["PreToolUse"][0].hooks[0](data, "c1", {"signal": None}) == {}
        await ticking

    asyncio.run(run())


def test_the_example() -> None:
    command = [sys.executable, str(ROOT / "examples/adapters/claude_agent_sdk_agent.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == OUTPUT


OUTPUT = """\
c1: shop/refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
c2: Bash denied: refund-order does not use Bash [intent.tool]
c3: refunded 20.00 on A-17
"""
