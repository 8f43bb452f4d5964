"""One task per session: who acts, what is remembered, calls without an id, two hooks of one call, asks that a person answers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from guard import LocalIssuer
from tests.hook.conftest import Place, needs_curl
from tests.hook.test_daemon import bash, begin
from tests.hook.test_line import stop

pytestmark = needs_curl
GATE = ("claude-code", "PreToolUse")


def read(place: Place, name: str, id: str, **more: Any) -> dict[str, Any]:
    return {"tool_name": "Read", "tool_input": {"file_path": str(place.project / name)}, "tool_use_id": id, **more}


def test_who_acts_stands_in_every_record(place: Place) -> None:
    """Origin is the user of the machine, the actor the agent; a sub-agent acts for it, one deeper, in the same task."""
    place.serve()
    begin(place, "claude-code")
    place.hook(*GATE, read(place, "a", "c-1"))
    place.hook(*GATE, read(place, "a", "c-2", agent_id="a-7", agent_type="Explore"))
    first, second = place.decisions()
    assert first["issuer"] == second["issuer"] == "local" and first["task"] == second["task"]
    assert first["actors"] == ["claude-code"] and second["actors"] == ["claude-code", "claude-code/Explore"]
    assert first["call"] == "c-1" and second["verdict"] == "allow"


def test_an_outcome_reaches_its_call(place: Place) -> None:
    place.serve()
    begin(place, "claude-code")
    for id, event, more in (
        ("c-1", "PostToolUse", {"tool_response": {"stdout": "x"}}),
        ("c-2", "PostToolUseFailure", {"error": "no"}),
        ("c-3", "", {}),
    ):
        place.hook(*GATE, bash("ls", id))
        if event:
            assert place.hook("claude-code", event, bash("ls", id) | more).out == "{}"
    assert place.hook("claude-code", "SessionEnd", {"reason": "exit"}).code == 0
    calls = {each["id"]: each["call"] for each in place.decisions()}
    assert {calls[each["decision"]]: each["status"] for each in place.records() if each["kind"] == "outcome"} == {
        "c-1": "ok", "c-2": "error", "c-3": "unknown",
    }  # fmt: skip


def test_a_session_that_goes_on_after_its_end_is_another_task(place: Place) -> None:
    """And begins with what may be in its conversation still. The same after a restart of the daemon, which has forgotten it."""
    place.serve()
    begin(place, "claude-code")
    place.hook(*GATE, read(place, "a", "c-1"))
    place.hook("claude-code", "SessionEnd", {"reason": "exit"})
    place.hook("claude-code", "SessionStart", {"source": "resume"})
    assert place.hook(*GATE, read(place, "a", "c-2")).out == "{}"
    tools = [(each["task"], each["tool"]) for each in place.decisions()]
    assert len({task for task, _ in tools}) == 2 and [tool for _, tool in tools] == ["read_file", "resume", "read_file"]
    assert "egress-by-command" in place.hook(*GATE, bash("git push origin agent/x", "c-3")).out
    place.kill()
    place.serve()
    assert place.hook(*GATE, read(place, "a", "c-4")).out == "{}"
    assert len({each["task"] for each in place.decisions()}) == 2


def test_a_session_whose_beginning_nobody_saw(place: Place) -> None:
    place.serve()
    assert place.hook(*GATE, read(place, "a", "c-1")).out == "{}"
    assert [each["tool"] for each in place.decisions()] == ["resume", "read_file"]


def test_the_users_words(place: Place) -> None:
    """Short, long, before and after the first call: they stop nothing."""
    place.serve()
    begin(place, "claude-code")
    for number, prompt in enumerate(["fix it", "x" * 3_000_000, "and \u202e this", ""]):
        assert place.hook("claude-code", "UserPromptSubmit", {"prompt": prompt}).code == 0
        assert place.hook(*GATE, read(place, "a", f"c-{number}")).out == "{}"
    place.hook("claude-code", "SessionStart", {"source": "startup", "session_id": "long"})
    place.hook("claude-code", "UserPromptSubmit", {"prompt": "y" * 3_000_000, "session_id": "long"})
    assert place.hook(*GATE, read(place, "a", "c-9") | {"session_id": "long"}).out == "{}"


def test_the_folder_is_that_of_the_beginning(place: Place) -> None:
    """Attack: the agent goes to another folder, and calls it its own."""
    place.serve()
    begin(place, "claude-code")
    assert place.hook(*GATE, read(place, "a", "c-1")).out == "{}"
    for cwd in ("/", "/etc"):
        assert "deny" in place.hook(*GATE, bash("ls", f"b-{cwd}") | {"cwd": cwd}).out
        assert "deny" in place.hook(*GATE, {"tool_name": "Grep", "tool_input": {"pattern": "x"}, "tool_use_id": f"g-{cwd}", "cwd": cwd}).out


def test_a_link_out_of_the_folder_is_outside(place: Place) -> None:
    place.serve()
    begin(place, "claude-code")
    (place.project / "link").symlink_to("/etc")
    (place.project / "near").symlink_to(place.project / "src")
    assert "args.constraint" in place.hook(*GATE, read(place, "link/passwd", "c-1")).out
    write = {"tool_name": "Write", "tool_input": {"file_path": str(place.project / "link" / "x"), "content": "x"}, "tool_use_id": "c-2"}
    assert "args.constraint" in place.hook(*GATE, write).out
    assert place.hook(*GATE, read(place, "near/a", "c-3")).out == "{}"


def test_a_projects_environment_moves_nothing(place: Place) -> None:
    """Attack: the settings of a project set GUARDTRAIL_DIR for the agent, and so for what its hooks start."""
    place.cli("hook", "install", "--agent", "claude-code")
    place.env["GUARDTRAIL_DIR"] = str(place.project / "mine")
    try:
        begin(place, "claude-code")
        assert place.hook(*GATE, read(place, "a", "c-1")).out == "{}"
        assert not (place.project / "mine").exists() and len(place.decisions()) == 1
    finally:
        place.env["GUARDTRAIL_DIR"] = str(place.folder)
        stop(place)


@pytest.mark.parametrize("folder", ["/", "HOME", "ABOVE"])
def test_a_folder_that_holds_a_home_is_none(place: Place, folder: str) -> None:
    place.serve()
    where = {"HOME": str(place.home), "ABOVE": str(place.home.parent)}.get(folder, folder)
    place.hook("claude-code", "SessionStart", {"source": "startup", "cwd": where})
    said = place.hook(*GATE, {"tool_name": "Read", "tool_input": {"file_path": f"{where}/x"}, "tool_use_id": "c", "cwd": where})
    assert "start the agent in a project" in said.out


def test_a_call_id_is_one_call(place: Place) -> None:
    place.serve()
    begin(place, "claude-code")
    assert place.hook(*GATE, bash("ls", "c-1")).out == "{}"
    assert place.hook(*GATE, bash("ls", "c-1")).out == "{}"  # installed twice: one call, one decision
    assert "another call" in place.hook(*GATE, bash("ls -l", "c-1")).out
    place.hook("claude-code", "PostToolUse", bash("ls", "c-1") | {"tool_response": "x"})
    assert "decided before" in place.hook(*GATE, bash("ls", "c-1")).out
    assert "another call" in place.hook(*GATE, bash("ls -a", "c-1")).out
    assert len(place.decisions()) == 1


def test_calls_without_an_id(place: Place) -> None:
    """Gemini CLI: the same call twice at once is two calls, and each outcome closes one."""
    place.serve()
    begin(place, "gemini-cli")
    call = {"tool_name": "run_shell_command", "tool_input": {"command": "git status"}}
    for _ in range(2):
        assert place.hook("gemini-cli", "BeforeTool", call) == (0, "{}", "")
    for _ in range(3):
        assert place.hook("gemini-cli", "AfterTool", call | {"tool_response": {"llmContent": "x"}}).code == 0
    assert len({each["call"] for each in place.decisions()}) == 2
    assert [each["status"] for each in place.records() if each["kind"] == "outcome"] == ["ok", "ok"]
    place.kill()
    place.serve()
    assert place.hook("gemini-cli", "BeforeTool", call) == (0, "{}", ""), "the next daemon counts anew"
    place.hook("gemini-cli", "AfterTool", call | {"tool_response": {"llmContent": "x", "error": {"message": "no"}}})
    assert place.records()[-1]["status"] == "error"


def test_cursor_speaks_twice_of_one_call(place: Place) -> None:
    place.serve()
    begin_cursor = place.hook("cursor", "sessionStart", {})
    assert begin_cursor.code == 0
    allow = '{"permission": "allow"}'
    body = {"tool_name": "Shell", "tool_input": {"command": "git status", "working_directory": str(place.project)}, "tool_use_id": "u-1"}
    assert place.hook("cursor", "preToolUse", body).out == allow
    assert place.hook("cursor", "beforeShellExecution", {"command": "git status", "cwd": ""}).out == allow
    assert len(place.decisions()) == 1
    assert place.hook("cursor", "beforeShellExecution", {"command": "git status", "cwd": ""}).out == allow
    assert len(place.decisions()) == 2, "only once: the next one is a call of its own"
    assert "deny" in place.hook("cursor", "beforeShellExecution", {"command": "rm -rf x", "cwd": ""}).out


def test_an_ask_is_answered_by_the_guards_approvals_alone(place: Place) -> None:
    place.serve()
    begin(place, "claude-code")
    asked = place.hook(*GATE, bash("npm publish", "c-1"))
    reason = asked.body["hookSpecificOutput"]["permissionDecisionReason"]
    assert asked.body["hookSpecificOutput"]["permissionDecision"] == "deny"
    found = re.search(r"guardtrail approve ([0-9A-Z]{26})", reason)
    assert found is not None
    for mode in ("default", "acceptEdits", "bypassPermissions"):  # the agent's own yes is nobody's
        assert "deny" in place.hook(*GATE, bash("npm publish", f"m-{mode}") | {"permission_mode": mode, "approved": True}).out
    import getpass

    token = place.cli("token", "login", "--issuer", "coding-agent", "--person", getpass.getuser()).out.strip()
    place.cli("approve", found[1], "--token", token, "--yes")
    assert place.hook(*GATE, bash("npm publish", "c-2")).out == "{}"
    assert "deny" in place.hook(*GATE, bash("npm publish", "c-3")).out, "one approval, one call"


def test_a_token_in_a_file(place: Place) -> None:
    """Who, what for and which task, the token says; it is read again when it changes."""
    issuers = place.folder / "issuers"
    for folder in (place.folder, issuers):
        folder.mkdir(mode=0o700)
    iam = LocalIssuer("acme-dev")
    iam.save(issuers / "acme-dev.json")
    file = place.home / "task.jwt"

    def write(**more: Any) -> None:
        params = {"workspace": str(place.project)}
        file.write_text(iam.mint(**{"origin": "alice", "actor": "builder", "intent": "coding", "params": params, **more}) + "\n")

    write()
    place.serve("--token", f"@{file}")
    write()  # of a token that is older than the state nobody knows what was done under it: that asks
    begin(place, "claude-code")
    assert place.hook(*GATE, read(place, "a", "c-1")).out == "{}"
    write(actor="reviewer")
    assert place.hook(*GATE, read(place, "a", "c-2")).out == "{}"
    for turn in range(2):  # the end of a session does not end the token's task
        assert place.hook("claude-code", "SessionEnd", {"reason": "exit"}).code == 0
        begin(place, "claude-code")
        assert place.hook(*GATE, bash("ls", f"b-{turn}") | {"session_id": "other"}).out == "{}"
        assert place.hook("claude-code", "SessionEnd", {"reason": "exit", "session_id": "other"}).code == 0
    file.write_text("x.y.z")
    assert "token" in place.hook(*GATE, read(place, "a", "c-3")).out
    file.unlink()
    assert "token file cannot be read" in place.hook(*GATE, read(place, "a", "c-4")).out
    assert [each["actors"] for each in place.decisions() if each["tool"] == "read_file"] == [["builder"], ["reviewer"]]


def test_no_value_leaves(place: Place) -> None:
    """Neither in answers nor in records nor in what the daemon prints."""
    place.serve()
    begin(place, "claude-code")
    canary = "canary-5182"
    for number, body in enumerate([
        bash(f"rm -rf {canary}", "1"), bash(f"git commit -m {canary}", "2"), {"tool_name": canary, "tool_input": {canary: canary}, "tool_use_id": "3"},
        read(place, canary, "4"), {"tool_name": "Read", "tool_input": {"file_path": f"~/{canary}"}, "tool_use_id": "5"}, {"tool_name": "Bash", "tool_input": {canary: 1}, "tool_use_id": "6"},
    ]):  # fmt: skip
        said = place.hook(*GATE, body)
        assert canary not in said.out.replace(canary, "", 1 if number == 5 else 0), said.out  # the name of an unknown argument is named
    assert place.process is not None and place.process.stderr is not None
    process = place.process
    process.terminate()
    printed = process.communicate(timeout=30)[1]
    place.process = None
    assert canary not in printed
    assert canary not in "".join(json.dumps(each) for each in place.records() if each.get("code") != "args.unknown")
