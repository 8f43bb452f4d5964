"""What the hooks send, as a table: which call it is, or that nobody understands it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Policy
from guard.hook.answers import denied, plain
from guard.hook.reading import NotUnderstood, Said, read
from guard.hook.tables import AGENTS
from guard.packs import pack_path

GATE = {"claude-code": "PreToolUse", "codex": "PreToolUse", "gemini-cli": "BeforeTool", "cursor": "preToolUse"}


def said(agent: str, tool: Any, given: Any, event: str | None = None, **more: Any) -> Said:
    event = event or GATE[agent]
    body = {"session_id": "s", "cwd": "/srv/app", "hook_event_name": event, "tool_name": tool, "tool_input": given, **more}
    return read(AGENTS[agent], event, json.dumps(body).encode())


PATCH = "*** Begin Patch\n*** Update File: a.py\n*** Move to: lib/b.py\n@@\n-x\n+*** y\n*** Add File: /etc/x\n+1\n*** Delete File: c\n*** End Patch"
CALLS: list[tuple[str, str, Any, str, dict[str, Any]]] = [
    ("claude-code", "Bash", {"command": "ls", "description": "d", "timeout": 1, "run_in_background": True}, "shell", {"command": "ls", "cwd": "/srv/app", "background": True}),
    ("claude-code", "Bash", {"command": "ls", "dangerouslyDisableSandbox": True}, "shell", {"command": "ls", "cwd": "/srv/app", "dangerouslyDisableSandbox": True}),
    ("claude-code", "Read", {"file_path": "/srv/app/a", "offset": 1, "limit": 2}, "read_file", {"path": "/srv/app/a"}),
    ("claude-code", "Write", {"file_path": "/srv/app/a", "content": "x"}, "write_file", {"path": "/srv/app/a", "content": "x"}),
    ("claude-code", "Edit", {"file_path": "/a", "old_string": "x", "new_string": "y"}, "edit_file", {"path": "/a", "change": {"old_string": "x", "new_string": "y"}}),
    ("claude-code", "MultiEdit", {"file_path": "/a", "edits": [{}]}, "edit_file", {"path": "/a", "change": {"edits": [{}]}}),
    ("claude-code", "NotebookEdit", {"notebook_path": "/a", "new_source": "x"}, "edit_file", {"path": "/a", "change": {"new_source": "x"}}),
    ("claude-code", "Glob", {"pattern": "**/*.py"}, "list_files", {"path": "/srv/app", "pattern": "**/*.py"}),
    ("claude-code", "Grep", {"pattern": "/a", "path": "src", "-n": True, "glob": "*.py"}, "search_files", {"path": "/srv/app/src", "pattern": "/a", "files": "*.py"}),
    ("claude-code", "WebFetch", {"url": "https://a.example/", "prompt": "p"}, "fetch", {"url": "https://a.example/", "prompt": "p"}),
    ("claude-code", "WebSearch", {"query": "q", "allowed_domains": []}, "search_web", {"query": "q"}),
    ("claude-code", "Task", {"subagent_type": "x", "prompt": "p", "description": "d"}, "subagent", {"name": "x", "prompt": "p"}),
    ("claude-code", "TodoWrite", {"todos": []}, "plan", {}),
    ("claude-code", "mcp__github__create_issue", {"title": "x"}, "github/create_issue", {"title": "x"}),
    ("codex", "Bash", {"command": "ls"}, "shell", {"command": "ls", "cwd": "/srv/app"}),
    ("codex", "shell", {"command": ["bash", "-lc", "ls; rm x"], "workdir": "src"}, "shell", {"command": "ls; rm x", "cwd": "/srv/app/src"}),
    ("codex", "shell", {"command": ["ls", "-la"]}, "shell", {"command": ["ls", "-la"], "cwd": "/srv/app"}),
    ("codex", "apply_patch", {"command": PATCH}, "edit_files", {"patch": PATCH, "paths": ["/srv/app/a.py", "/srv/app/lib/b.py", "/etc/x", "/srv/app/c"]}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\n"}, "edit_files", {"patch": PATCH, "paths": ["/srv/app/a.py", "/srv/app/lib/b.py", "/etc/x", "/srv/app/c"]}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\n", "workdir": "/var/x"}, "edit_files", {"patch": PATCH, "paths": ["/var/x/a.py", "/var/x/lib/b.py", "/etc/x", "/var/x/c"]}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\n", "cwd": "../x"}, "edit_files", {"patch": PATCH, "paths": ["/srv/app/../x/a.py", "/srv/app/../x/lib/b.py", "/etc/x", "/srv/app/../x/c"]}),
    ("codex", "Bash", {"command": f"apply_patch <<EOF\n{PATCH}\nEOF"}, "shell", {"command": f"apply_patch <<EOF\n{PATCH}\nEOF", "cwd": "/srv/app"}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'; id\n{PATCH}\nEOF"}, "shell", {"command": f"apply_patch <<'EOF'; id\n{PATCH}\nEOF", "cwd": "/srv/app"}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\nid\nEOF"}, "shell", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\nid\nEOF", "cwd": "/srv/app"}),
    ("codex", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\nid"}, "shell", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF\nid", "cwd": "/srv/app"}),
    ("claude-code", "Bash", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF"}, "shell", {"command": f"apply_patch <<'EOF'\n{PATCH}\nEOF", "cwd": "/srv/app"}),
    ("claude-code", "Skill", {"skill": "x", "args": "y"}, "skill", {"name": "x"}),
    ("gemini-cli", "run_shell_command", {"command": "ls", "dir_path": "src"}, "shell", {"command": "ls", "cwd": "/srv/app/src"}),
    ("gemini-cli", "read_file", {"file_path": "a.py"}, "read_file", {"path": "/srv/app/a.py"}),
    ("gemini-cli", "replace", {"file_path": "a", "instruction": "i", "old_string": "x", "new_string": "y"}, "edit_file", {"path": "/srv/app/a", "change": {"old_string": "x", "new_string": "y"}}),
    ("gemini-cli", "web_fetch", {"prompt": "read https://a.example/x please"}, "fetch", {"url": "https://a.example/x", "prompt": "read https://a.example/x please"}),
    ("gemini-cli", "mcp__db__query", {"q": 1}, "db/query", {"q": 1}),
    ("cursor", "Shell", {"command": "ls", "working_directory": "/srv/app/x"}, "shell", {"command": "ls", "cwd": "/srv/app/x"}),
    ("cursor", "Delete", {"path": "a"}, "delete_file", {"path": "/srv/app/a"}),
    ("cursor", "MCP:github:create_issue", {"title": "x"}, "github/create_issue", {"title": "x"}),
    ("cursor", "MCP:query", '{"q": 1}', "mcp/query", {"q": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("agent", "tool", "given", "name", "args"), CALLS, ids=[f"{agent} {tool}" for agent, tool, *_ in CALLS])
def test_one_vocabulary(agent: str, tool: str, given: Any, name: str, args: dict[str, Any]) -> None:
    found = said(agent, tool, given, tool_use_id="c-1")
    assert found.call is not None
    assert (found.call.tool, found.call.args, found.call.id, found.session) == (name, args, "c-1", "s")


REFUSED: list[tuple[str, Any, Any, str]] = [
    ("claude-code", "Computer", {}, "this tool of the agent is not known"),
    ("claude-code", "bash", {"command": "ls"}, "not known"),
    ("claude-code", 7, {}, "`tool_name` is no text"),
    ("claude-code", "Bash", [], "`tool_input` is no object"),
    ("claude-code", "Bash", None, "`tool_input` is no object"),
    ("claude-code", "Bash", "ls", "it is not JSON"),
    ("claude-code", "Read", {"file_path": "~/.ssh/id_rsa"}, "begins with `~`"),
    ("claude-code", "Read", {"file_path": ["/a"]}, "a path is no text"),
    ("claude-code", "Read", {"file_path": "/a\0b"}, "a path is no text"),
    ("claude-code", "Read", {"file_path": "/a", "path": "/b"}, "say the same"),
    ("claude-code", "Bash", {"command": "ls", "cwd": "/a", "workdir": "/b"}, "say the same"),
    ("claude-code", "Glob", {"pattern": "/etc/*"}, "leaves its folder"),
    ("claude-code", "Glob", {"pattern": "../*"}, "leaves its folder"),
    ("claude-code", "Glob", {"pattern": "{a,../b}/*"}, "leaves its folder"),
    ("claude-code", "Grep", {"pattern": "x", "glob": "/etc/*"}, "leaves its folder"),
    ("claude-code", "mcp__a b__c", {}, "no plain name"),
    ("claude-code", "mcp__", {}, "no plain name"),
    ("codex", "apply_patch", {"command": "*** Begin Patch\n*** Rename File: a\n*** End Patch"}, "a heading that is not known"),
    ("codex", "apply_patch", {"command": "*** Begin Patch\n*** End Patch"}, "names no file"),
    ("codex", "apply_patch", {"command": ["x"]}, "the patch is no text"),
    ("codex", "apply_patch", {"command": "*** Begin Patch\n*** Add File: ~/x\n"}, "begins with `~`"),
    ("gemini-cli", "web_fetch", {"prompt": "https://a.example/ and https://b.example/"}, "exactly one address"),
    ("gemini-cli", "web_fetch", {"prompt": "nothing"}, "exactly one address"),
]  # fmt: skip


@pytest.mark.parametrize(("agent", "tool", "given", "text"), REFUSED, ids=[f"{agent} {tool} {text}" for agent, tool, _, text in REFUSED])
def test_refused(agent: str, tool: Any, given: Any, text: str) -> None:
    with pytest.raises(NotUnderstood, match=text):
        said(agent, tool, given)


def test_what_parts_a_line_for_python_only_stays_in_the_path() -> None:
    """Attack: `x<U+2028>/../../etc/y` is one path for the agent. The guard refuses the letter in a path."""
    for letter in ("\u2028", "\x0b", "\x85", "\r"):
        found = said("codex", "apply_patch", {"command": f"*** Begin Patch\n*** Add File: x{letter}/../../y\n+1\n*** End Patch"})
        assert found.call is not None and found.call.args["paths"] == [f"/srv/app/x{letter}/../../y"]


@pytest.mark.parametrize("change", [
    {"hook_event_name": "PostToolUse"}, {"hook_event_name": None}, {"session_id": ""}, {"session_id": 7}, {"session_id": "a\nb"}, {"session_id": "x" * 300},
    {"cwd": "relative"}, {"cwd": None}, {"cwd": 7}, {"tool_use_id": 7}, {"tool_use_id": "x" * 300}, {"agent_type": ["x"]},
])  # fmt: skip
def test_events_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood):
        said("claude-code", "Bash", {"command": "ls"}, **{"event": "PreToolUse", **change})


@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 2}', b'{"tool_input": {"command": "ls", "command": "rm"}}', b'{"a": Infinity}'])
def test_two_meanings_are_none(raw: bytes) -> None:
    with pytest.raises(NotUnderstood):
        read(AGENTS["codex"], "PreToolUse", raw)


@pytest.mark.parametrize(("agent", "more", "kind"), [
    ("claude-code", {"tool_response": "x"}, "after"), ("gemini-cli", {"tool_response": {"error": {"message": "no"}}}, "failed"), ("gemini-cli", {"tool_response": {"error": None}}, "after"),
])  # fmt: skip
def test_after(agent: str, more: dict[str, Any], kind: str) -> None:
    tool = "Bash" if agent == "claude-code" else "run_shell_command"
    assert said(agent, tool, {"command": "ls"}, "PostToolUse" if agent == "claude-code" else "AfterTool", **more).kind == kind


def test_every_tool_of_the_table_is_a_tool_of_the_pack() -> None:
    """With these arguments: what the table makes, the pack knows."""
    pack = Policy.from_text(pack_path("coding-agent").read_text("utf-8"), file="coding-agent.yaml")
    for agent in AGENTS.values():
        for tool in agent.tools.values():
            known = {path.partition("[")[0].partition(".")[0] for path in pack.tools[tool.name].types}
            assert {*tool.args, *([tool.rest] if tool.rest else [])} <= known, (agent.name, tool.name)
    assert "resume" in pack.tools


@given(st.text())
def test_a_sentence_cannot_be_broken(text: str) -> None:
    """Whatever a reason holds: one line, one reason, the JSON after it whole."""
    for agent in AGENTS.values():
        sentence = denied(agent, "PreToolUse", text)
        head, _, rest = sentence.partition("|")
        assert head == f"guardtrail/1 {agent.deny_exit}"
        reason, _, body = rest.partition("|") if agent.deny_exit == 2 else ("x", "", rest)
        assert json.loads(body) and reason and "\n" not in sentence
    assert plain(text).isprintable()
