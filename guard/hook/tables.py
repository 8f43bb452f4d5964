"""The table of coding agents: their events, their tools and what those are called in a policy, how they are answered.

One vocabulary for all: `shell`, `read_file`, `list_files`, `search_files`, `write_file`, `edit_file`, `edit_files`, `delete_file`, `fetch`,
`search_web`, `subagent`, `skill`, `plan`, `shell_output`, `shell_stop`; a tool of an MCP server is `server/tool`. What is not here is denied.

Names of events, tools and members are those of the agents' own documentation (November 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

from guard.frozen import frozen

__all__ = ["AGENTS", "PROTOCOL", "Agent", "Kind", "Tool"]

PROTOCOL: Final = "guardtrail/1"
"""What each sentence of the daemon begins with."""

Kind = Literal["gate", "after", "failed", "prompt", "start", "end"]


@frozen
class Tool:
    """One tool of an agent. `args`: our argument -> what it may be called there. `drop`: members without a bearing on what is done.

    `rest`: the argument that takes all other members; "": they keep their names, and a policy that does not know them denies.
    """

    name: str
    args: Mapping[str, tuple[str, ...]]
    drop: frozenset[str] = frozenset()
    rest: str = ""
    here: str = ""
    """The argument that is the working folder where it is not given."""
    all: bool = False
    """Drop every other member."""


@frozen
class Agent:
    """One coding agent. `deny_exit`: what the hook ends with beside the JSON of a denial. `seconds`: of one second, in its settings' unit."""

    name: str
    events: Mapping[str, Kind]
    tools: Mapping[str, Tool]
    deny_exit: int
    allow: str
    folder: str
    file: str
    seconds: int
    mcp: tuple[str, str] = ("mcp__", "__")
    """How a tool of an MCP server begins, and what stands between server and tool."""
    patches: bool = False
    """Its shell takes `apply_patch <<'EOF'` for its own tool, and so do we."""
    single: Mapping[str, str] = field(default_factory=dict)
    """Events that are about one tool and do not name it -> the tool's name."""


_PATH: Final = ("file_path", "path", "target_file", "absolute_path", "notebook_path")
_DIR: Final = ("path", "dir_path", "target_directory", "directory")
_LOOK: Final = frozenset({"offset", "limit", "start_line", "end_line", "pages", "should_read_entire_file"})
_SAID: Final = frozenset({"description", "explanation", "timeout", "timeout_ms", "justification"})

_SHELL: Final = Tool(
    "shell",
    {"command": ("command",), "cwd": ("cwd", "working_directory", "dir_path", "directory", "workdir"), "background": ("run_in_background", "is_background")},
    _SAID,
    here="cwd",
)  # fmt: skip
_READ: Final = Tool("read_file", {"path": _PATH}, _LOOK)
_WRITE: Final = Tool("write_file", {"path": _PATH, "content": ("content", "contents", "file_text")})
_EDIT: Final = Tool("edit_file", {"path": _PATH}, frozenset({"instruction", "instructions"}), rest="change")
_DELETE: Final = Tool("delete_file", {"path": _PATH}, _SAID)
_LIST: Final = Tool("list_files", {"path": _DIR, "pattern": ("pattern", "glob_pattern", "glob")}, here="path", all=True)
_SEARCH: Final = Tool("search_files", {"path": _DIR, "pattern": ("pattern", "query"), "files": ("glob", "include", "include_pattern")}, here="path", all=True)  # fmt: skip
_FETCH: Final = Tool("fetch", {"url": ("url",), "prompt": ("prompt",)}, _SAID)
_WEB: Final = Tool("search_web", {"query": ("query", "search_term")}, all=True)
_SUB: Final = Tool("subagent", {"name": ("subagent_type", "agent_name", "name"), "prompt": ("prompt", "objective")}, all=True)
_PLAN: Final = Tool("plan", {}, all=True)
_OUTPUT: Final = Tool("shell_output", {"id": ("bash_id", "task_id", "shell_id")}, all=True)
_STOP: Final = Tool("shell_stop", {"id": ("shell_id", "task_id", "bash_id")}, all=True)
_SKILL: Final = Tool("skill", {"name": ("skill", "name", "command")}, all=True)
_PATCH: Final = Tool("edit_files", {"patch": ("command", "input", "patch")}, _SAID)

_PLANS: Final = ("TodoWrite", "TodoRead", "ExitPlanMode", "EnterPlanMode", "AskUserQuestion", "TaskCreate", "TaskGet", "TaskUpdate", "TaskList", "ToolSearch")  # fmt: skip

AGENTS: Final[Mapping[str, Agent]] = {
    "claude-code": Agent(
        "claude-code",
        {
            "PreToolUse": "gate", "PostToolUse": "after", "PostToolUseFailure": "failed", "UserPromptSubmit": "prompt",
            "SessionStart": "start", "SessionEnd": "end",
        },
        {
            "Bash": _SHELL, "Read": _READ, "NotebookRead": _READ, "Write": _WRITE, "Edit": _EDIT, "MultiEdit": _EDIT, "NotebookEdit": _EDIT,
            "Glob": _LIST, "LS": _LIST, "Grep": _SEARCH, "WebFetch": _FETCH, "WebSearch": _WEB, "Task": _SUB, "Agent": _SUB,
            "Skill": _SKILL, "BashOutput": _OUTPUT, "TaskOutput": _OUTPUT, "KillShell": _STOP, "KillBash": _STOP, "TaskStop": _STOP,
            **dict.fromkeys(_PLANS, _PLAN),
        },
        0, "{}", ".claude", "settings.json", 1,
    ),
    "codex": Agent(
        "codex",
        {"PreToolUse": "gate", "PostToolUse": "after", "UserPromptSubmit": "prompt", "SessionStart": "start", "SessionEnd": "end"},
        {
            "Bash": _SHELL, "shell": _SHELL, "apply_patch": _PATCH, "update_plan": _PLAN, "view_image": _READ, "read_file": _READ,
            "list_dir": _LIST, "grep_files": _SEARCH, "spawn_agent": _SUB,
            "request_user_input": _PLAN, "get_goal": _PLAN, "create_goal": _PLAN, "update_goal": _PLAN,
        },
        2, "", ".codex", "hooks.json", 1, patches=True,
    ),
    "gemini-cli": Agent(
        "gemini-cli",
        {"BeforeTool": "gate", "AfterTool": "after", "BeforeAgent": "prompt", "SessionStart": "start", "SessionEnd": "end"},
        {
            "run_shell_command": _SHELL, "read_file": _READ, "write_file": _WRITE, "replace": _EDIT, "list_directory": _LIST, "glob": _LIST,
            "grep_search": _SEARCH, "search_file_content": _SEARCH, "web_fetch": _FETCH, "google_web_search": _WEB,
            "write_todos": _PLAN, "ask_user": _PLAN, "enter_plan_mode": _PLAN, "exit_plan_mode": _PLAN,
        },
        2, "{}", ".gemini", "settings.json", 1000,
    ),
    "cursor": Agent(
        "cursor",
        {
            "preToolUse": "gate", "beforeShellExecution": "gate", "beforeMCPExecution": "gate", "beforeReadFile": "gate",
            "postToolUse": "after", "postToolUseFailure": "failed", "beforeSubmitPrompt": "prompt", "sessionStart": "start", "sessionEnd": "end",
        },
        {
            "Shell": _SHELL, "Bash": _SHELL, "Read": _READ, "Write": _WRITE, "Edit": _EDIT, "StrReplace": _EDIT, "MultiEdit": _EDIT,
            "Delete": _DELETE, "Glob": _LIST, "LS": _LIST, "Grep": _SEARCH, "WebFetch": _FETCH, "WebSearch": _WEB, "Task": _SUB,
            "TodoWrite": _PLAN,
        },
        0, '{"permission": "allow"}', ".cursor", "hooks.json", 1, ("MCP:", ":"),
        single={"beforeShellExecution": "Shell", "beforeReadFile": "Read"},
    ),
}  # fmt: skip
