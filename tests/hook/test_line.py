"""The installed line, run by `/bin/sh` with the real `curl` against the real daemon: every agent, and all that may be wrong."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.hook.line import SCRIPT, line, start_command
from guard.hook.tables import AGENTS
from tests.hook.conftest import Place, needs_curl, until

pytestmark = needs_curl
Impostor = Callable[[Callable[[socket.socket], None]], None]
GATES = [(agent.name, event) for agent in AGENTS.values() for event, kind in agent.events.items() if kind == "gate"]

# What each agent sends before a call, by the names of its documentation; and what may not run.
CALLS: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    ("claude-code", "PreToolUse"): (
        {"tool_name": "Bash", "tool_input": {"command": "git status", "description": "look", "timeout": 1000}, "tool_use_id": "toolu_1", "permission_mode": "default"},
        {"tool_name": "Bash", "tool_input": {"command": "rm -rf canary-7391"}, "tool_use_id": "toolu_2"},
    ),
    ("codex", "PreToolUse"): (
        {"tool_name": "Bash", "tool_input": {"command": "git status"}, "tool_use_id": "call_1", "turn_id": "t", "model": "m", "permission_mode": "default"},
        {"tool_name": "apply_patch", "tool_input": {"command": "*** Begin Patch\n*** Add File: ../canary-7391\n+x\n*** End Patch"}, "tool_use_id": "call_2", "turn_id": "t"},
    ),
    ("gemini-cli", "BeforeTool"): (
        {"tool_name": "run_shell_command", "tool_input": {"command": "git status", "description": "look"}, "timestamp": "2026-11-28T00:00:00Z"},
        {"tool_name": "read_file", "tool_input": {"file_path": "/etc/canary-7391"}},
    ),
    ("cursor", "preToolUse"): (
        {"tool_name": "Shell", "tool_input": {"command": "git status", "working_directory": ""}, "tool_use_id": "u1"},
        {"tool_name": "Read", "tool_input": {"file_path": "/etc/canary-7391"}, "tool_use_id": "u2"},
    ),
    ("cursor", "beforeShellExecution"): ({"command": "git status", "cwd": ""}, {"command": "rm -rf canary-7391", "cwd": ""}),
    ("cursor", "beforeMCPExecution"): (
        {}, {"tool_name": "canary", "tool_input": json.dumps({"query": "canary-7391"}), "command": "server"},
    ),
    ("cursor", "beforeReadFile"): ({"file_path": "PROJECT/a.py", "content": "x", "attachments": []}, {"file_path": "/etc/canary-7391", "content": "x"}),
}  # fmt: skip


def told(place: Place, body: dict[str, Any]) -> dict[str, Any]:
    return {name: value.replace("PROJECT", str(place.project)) if isinstance(value, str) else value for name, value in body.items()}


@pytest.mark.parametrize(("agent", "event"), GATES)
def test_allow(shared: Place, agent: str, event: str) -> None:
    """The agent's own prompts stay: no allow where nothing can be said."""
    body = told(shared, CALLS[agent, event][0])
    if not body:
        pytest.skip("the pack allows no MCP tool")
    said = shared.hook(agent, event, body)
    assert (said.code, said.err) == (0, "")
    assert said.out == {"codex": "", "cursor": '{"permission": "allow"}'}.get(agent, "{}")


@pytest.mark.parametrize(("agent", "event"), GATES)
def test_deny(shared: Place, agent: str, event: str) -> None:
    """In the agent's own form, no member more, and without a word of the call."""
    said = shared.hook(agent, event, told(shared, CALLS[agent, event][1]))
    reason = {
        "claude-code": lambda body: body["hookSpecificOutput"]["permissionDecisionReason"],
        "codex": lambda body: body["hookSpecificOutput"]["permissionDecisionReason"],
        "gemini-cli": lambda body: body["reason"],
        "cursor": lambda body: body["agent_message"],
    }[agent](said.body)
    if agent in ("claude-code", "codex"):
        assert said.body == {
            "hookSpecificOutput": {"hookEventName": event, "permissionDecision": "deny", "permissionDecisionReason": reason}
        }
    elif agent == "gemini-cli":
        assert said.body == {"decision": "deny", "reason": reason}
    else:
        assert said.body == {"permission": "deny", "user_message": reason, "agent_message": reason}
    assert said.code == (2 if agent in ("codex", "gemini-cli") else 0)
    assert said.err == (f"{reason}\n" if said.code == 2 else "")
    assert "denied" in reason and "canary-7391" not in said.out + said.err


def canned(text: str, head: str = "HTTP/1.0 200 OK\r\n") -> Callable[[socket.socket], None]:
    return lambda peer: peer.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())


BROKEN: dict[str, Callable[[socket.socket], None]] = {
    "closes at once": lambda peer: None,
    "no HTTP": lambda peer: peer.sendall(b"{}\n"),
    "another program's page": canned("<html>hello</html>"),
    "an empty object": canned("{}"),
    "a bare allow": canned('{"permission": "allow"}'),
    "nothing": canned(""),
    "the allow of another protocol": canned("guardtrail/2 0|{}"),
    "a word before it": canned("x guardtrail/1 0|{}"),
    "a denial without its parts": canned("guardtrail/1 2"),
    "a denial without JSON": canned("guardtrail/1 2|no"),
    "an allow that ends too early": lambda peer: peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nguardtrail/1 0|{}"),
    "an allow that is an error": canned("guardtrail/1 0|{}", "HTTP/1.0 500 No\r\n"),
    "not found": canned("", "HTTP/1.0 404 No\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_whatever_else_answers_is_no(place: Place, impostor: Impostor, what: str) -> None:
    impostor(BROKEN[what])
    for agent in ("claude-code", "codex"):
        said = place.hook(agent, "PreToolUse", CALLS[agent, "PreToolUse"][0])
        assert said.code == 2 and not said.out.startswith("{}")
        assert said.err.strip(), "Codex lets a call run when a hook ends with 2 and says nothing"


def test_one_that_hangs_is_no(place: Place, impostor: Impostor) -> None:
    impostor(lambda peer: time.sleep(30))
    began = time.monotonic()
    said = place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][0])
    assert said.code == 2 and "did not answer" in said.err
    assert time.monotonic() - began < 20, "before the agent's own time-out"


@pytest.mark.parametrize(("agent", "event"), GATES)
def test_nobody_there_is_no(place: Place, agent: str, event: str) -> None:
    said = place.hook(agent, event, {})
    assert (said.code, said.out) == (2, "") and "did not answer" in said.err


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b'"x"',
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"session_id": 1}',
        b"{}" + b" " * (9 << 20),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_event_is_no(shared: Place, body: bytes) -> None:
    for agent, event in (("claude-code", "PreToolUse"), ("codex", "PreToolUse"), ("cursor", "preToolUse")):
        said = shared.hook(agent, event, body)
        assert said.code == 2 or "deny" in said.out


def test_after_events_never_stop_anything(place: Place) -> None:
    """Nothing can be stopped there any more: 1 is a notice in all four, 2 would hide the result from the model in one."""
    for agent in AGENTS.values():
        for event, kind in agent.events.items():
            if kind != "gate":
                assert place.hook(agent.name, event, {}).code == 1


def test_a_daemon_that_was_killed_is_no_and_the_next_call_finds_one(place: Place) -> None:
    """Its socket lies there still: this call is denied, and a new daemon is started for the next."""
    place.cli("hook", "install", "--agent", "claude-code")
    place.serve()
    call = CALLS["claude-code", "PreToolUse"][0]
    assert place.hook("claude-code", "PreToolUse", call).code == 0
    place.kill()
    assert place.socket.exists()
    try:
        said = place.hook("claude-code", "PreToolUse", call | {"tool_use_id": "toolu_8"})
        assert said.code == 2
        until(lambda: json.loads(place.cli("hook", "status", "--json", check=False).out)["daemon"] is not None)
        assert place.hook("claude-code", "PreToolUse", call | {"tool_use_id": "toolu_9"}).out == "{}"
    finally:
        stop(place)


def test_the_first_hook_starts_the_daemon(place: Place) -> None:
    place.cli("hook", "install", "--agent", "codex")
    try:
        assert place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][0]) == (0, "", "")
        assert place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][1]).code == 2
    finally:
        stop(place)


def test_without_curl(shared: Place) -> None:
    """The client of the standard library, by an absolute interpreter, in a folder that would poison any other."""
    (shared.project / "socket.py").write_text("raise SystemExit(0)")
    try:
        for agent, event in GATES:
            written = line(AGENTS[agent], event, shared.socket, curl=None, start=[])
            allowed, denied = (told(shared, body) for body in CALLS[agent, event])
            if allowed:
                allowed["tool_use_id"] = f"without-{event}"
                assert shared.hook(agent, event, allowed, written=written).code == 0
            said = shared.hook(agent, event, denied, written=written)
            assert "deny" in said.out and said.code == AGENTS[agent].deny_exit
    finally:
        (shared.project / "socket.py").unlink()


@pytest.mark.parametrize("what", ["closes at once", "an allow that ends too early", "an allow that is an error", "nothing", "no HTTP"])
def test_without_curl_whatever_else_answers_is_no(place: Place, impostor: Impostor, what: str) -> None:
    impostor(BROKEN[what])
    written = line(AGENTS["codex"], "PreToolUse", place.socket, curl=None, start=[])
    said = place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][0], written=written)
    assert said.code == 2 and said.err.strip()


@pytest.mark.parametrize("shell", ["/bin/sh", "bash", "zsh", "fish", "dash"])
def test_in_any_shell_with_any_path(top: Path, shell: str) -> None:
    """The user's own shell runs the line; paths hold what paths may."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here")
    place = Place(top, home='it\'s "a" $(h) `x` !é', project="p q;r")
    place.install("codex")
    place.serve()
    try:
        assert place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][0], shell=found) == (0, "", "")
        assert place.hook("codex", "PreToolUse", CALLS["codex", "PreToolUse"][1], shell=found).code == 2
    finally:
        place.kill(15)


def test_a_curlrc_and_a_proxy_change_nothing(shared: Place) -> None:
    (shared.home / ".curlrc").write_text('output = "/dev/null"\nfail = false\n')
    env = shared.env | {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "CURL_HOME": str(shared.home)}
    try:
        for number, expected in ((0, 0), (1, 2)):
            body = json.dumps(shared.common("codex", "PreToolUse") | CALLS["codex", "PreToolUse"][number] | {"tool_use_id": f"rc{number}"})
            done = subprocess.run(
                ["/bin/sh", "-c", shared.line("codex", "PreToolUse")], env=env, input=body, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == expected
    finally:
        (shared.home / ".curlrc").unlink()


def test_the_script_can_be_quoted_anywhere() -> None:
    assert not set("'\\!\n") & set(SCRIPT)


def test_the_verb_answers_like_the_line(shared: Place) -> None:
    for (agent, event), (allowed, denied) in CALLS.items():
        for body in (allowed, denied):
            if body:
                sent = shared.common(agent, event) | told(shared, body) | {"tool_use_id": f"verb-{event}-{body is allowed}"}
                said = shared.cli("hook", "--agent", agent, "--no-start", stdin=json.dumps(sent), check=False)
                assert said.code == (0 if body is allowed else AGENTS[agent].deny_exit)
                assert ("deny" in said.out) == (body is denied)


@pytest.mark.parametrize("words", [["--agent", "copilot"], [], ["--agent", "codex", "--no-start", "--socket", "/nowhere/s"]])
def test_the_verb_ends_with_2_whatever_is_wrong(place: Place, words: list[str]) -> None:
    said = place.cli("hook", *words, stdin="{}", check=False)
    assert said.code == 2 and said.err.startswith("guardtrail: ") and not said.out


def stop(place: Place) -> None:
    about = json.loads(place.cli("hook", "status", "--json", check=False).out)["daemon"]
    if about is not None:
        subprocess.run(["kill", str(about["pid"])], check=False)
        end = time.monotonic() + 20
        while place.socket.exists() and time.monotonic() < end:
            time.sleep(0.05)


def test_what_starts_a_daemon_is_absolute() -> None:
    assert start_command([])[0].startswith("/")
