"""What a hook sent, read strictly: bytes -> `Said`. Pure; whatever is not as documented raises `NotUnderstood`, and a gate then denies.

| refused                                               | the attack, or the accident                                        |
|-------------------------------------------------------|--------------------------------------------------------------------|
| not UTF-8, not one JSON object, a member twice, NaN   | two readers, two meanings                                          |
| an event other than the line was installed for        | a gate that is answered as if it were none                         |
| a tool that is not in the table                       | a new tool of a new release, which nobody has looked at            |
| a path that begins with `~`, a pattern with `..`      | we read a name below the folder, the agent expands it              |
| one argument under two names                          | the one is judged, the other used                                  |
| a patch with a heading that is not known              | a file that is changed and not named                               |

Texts name members, never values: they end up in the conversation.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from guard.frozen import frozen
from guard.hook.tables import Agent, Kind, Tool
from guard.model import ToolCall

__all__ = ["MAX_BODY", "NotUnderstood", "Said", "event_of", "read"]

MAX_BODY: Final = 8 << 20
_HEADING: Final = re.compile(r"(?:Add File|Update File|Delete File|Move to): *(\S(?:.*\S)?)")
_HEREDOC: Final = re.compile(r"apply_patch <<(['\"])(\w{1,40})\1\n(.*)\n\2\n?", re.DOTALL)
_MARKS: Final = ("Begin Patch", "End Patch", "End of File")
_SESSION: Final = ("session_id", "conversation_id")


class NotUnderstood(ValueError):
    """What was sent is not what the agent's documentation says. Carries no value of it."""


@frozen
class Said:
    """One event of one session. `folder`: where it is. `call`: of a gate, and of what comes after it; its `id` is the agent's, "" where it gives none."""

    kind: Kind
    session: str
    folder: str
    call: ToolCall | None = None
    actor: str = ""
    """The sub-agent that acts; "": the agent itself."""
    result: object = None
    prompt: str = ""
    resumed: bool = False
    follows: bool = False
    """It may speak of a call that a more general event has spoken of."""


def read(agent: Agent, event: str, raw: bytes) -> Said:
    """Raises NotUnderstood."""
    kind = agent.events.get(event)
    if kind is None:
        raise NotUnderstood("this event is not known here")
    body = _object(raw)
    if body.get("hook_event_name") != event:
        raise NotUnderstood("`hook_event_name` is not the event this hook was installed for")
    session = next((body[name] for name in _SESSION if name in body), None)
    if not isinstance(session, str) or not 0 < len(session) <= 256 or not session.isprintable():
        raise NotUnderstood("there is no session id")
    folder = _folder(body)
    if kind == "prompt":
        prompt = body.get("prompt")
        return Said(kind, session, folder, prompt=prompt if isinstance(prompt, str) else "")
    if kind in ("start", "end"):
        return Said(kind, session, folder, resumed=body.get("source") == "resume")
    actor = body.get("agent_type") or body.get("agent_id") or ""
    if not isinstance(actor, str):
        raise NotUnderstood("`agent_type` is no text")
    call = _call(agent, event, body, folder)
    result = next((body[name] for name in ("tool_response", "tool_output", "result_json", "output", "error") if name in body), None)
    failed = kind == "after" and isinstance(result, dict) and result.get("error") not in (None, "")
    return Said(
        "failed" if failed else kind,
        session,
        folder,
        call,
        actor[:128],
        result,
        follows=event in agent.single or event == "beforeMCPExecution",
    )


def event_of(raw: bytes) -> str:
    """The event as it says of itself; a name nobody has, where it says none: a gate that denies."""
    try:
        name = _object(raw).get("hook_event_name")
    except NotUnderstood:
        return "none"
    return name if isinstance(name, str) and name.isascii() and name.isalnum() else "none"


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BODY:
        raise NotUnderstood("it is too long")
    try:
        body = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except NotUnderstood:
        raise
    except (ValueError, RecursionError):
        raise NotUnderstood("it is not JSON") from None
    if not isinstance(body, dict):
        raise NotUnderstood("it is not a JSON object")
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotUnderstood("a member stands twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise NotUnderstood("a number is none")


def _folder(body: Mapping[str, Any]) -> str:
    roots = body.get("workspace_roots")
    found = body.get("cwd") or (roots[0] if isinstance(roots, list) and roots else None)
    if not isinstance(found, str) or not found.startswith("/") or "\0" in found:
        raise NotUnderstood("there is no working folder")
    return found


# -- the call --------------------------------------------------------------------------------------------------------------------


def _call(agent: Agent, event: str, body: Mapping[str, Any], folder: str) -> ToolCall:
    own = body.get("tool_use_id", "")
    if not isinstance(own, str) or len(own) > 256:
        raise NotUnderstood("`tool_use_id` is no text")
    if event in agent.single:
        name: object = agent.single[event]
        given: object = {key: body[key] for key in ("command", "file_path") if key in body}
    else:
        name, given = body.get("tool_name"), body.get("tool_input", {})
    if isinstance(given, str):  # Cursor gives the arguments of an MCP tool as text
        given = _object(given.encode("utf-8", "surrogatepass"))
    if not isinstance(name, str) or not isinstance(given, dict):
        raise NotUnderstood("`tool_name` is no text, or `tool_input` is no object")
    start, between = agent.mcp
    if name.startswith(start) or event == "beforeMCPExecution":
        server, found, tool = name.removeprefix(start).partition(between)
        named = f"{server}/{tool}" if found else f"mcp/{server}"
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", named):
            raise NotUnderstood("the MCP tool has no plain name")
        return ToolCall(named, given, own)
    known = agent.tools.get(name)
    if known is None:
        raise NotUnderstood("this tool of the agent is not known here, so it is not allowed")
    patch = _heredoc(given) if agent.patches and known.name == "shell" else None
    if patch is not None:
        inside = _arguments(known, given, folder)["cwd"]  # the shell would take the patch's paths from there
        return ToolCall("edit_files", _arguments(agent.tools["apply_patch"], {"patch": patch}, inside), own)
    return ToolCall(known.name, _arguments(known, given, folder), own)


def _heredoc(given: Mapping[str, Any]) -> str | None:
    """The patch, where a command is nothing but `apply_patch <<'EOF'`: quoted, so that no shell reads in it, and ended once."""
    command = given.get("command")
    found = _HEREDOC.fullmatch(command) if isinstance(command, str) and set(given) <= {"command", "cwd", "workdir"} else None
    if found is None or found[2] in found[3].split("\n"):
        return None
    return found[3]


def _arguments(tool: Tool, given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    args: dict[str, Any] = {}
    used: set[str] = set()
    for ours, theirs in tool.args.items():
        names = [name for name in theirs if given.get(name) is not None]
        used.update(theirs)
        if len(names) > 1:
            raise NotUnderstood(f"`{names[0]}` and `{names[1]}` say the same")
        if names:
            args[ours] = given[names[0]]
    rest = {} if tool.all else {name: value for name, value in given.items() if name not in used and name not in tool.drop}
    if tool.rest:
        args[tool.rest] = rest
    elif clash := rest.keys() & args.keys():
        raise NotUnderstood(f"`{min(clash)}` is there twice")
    else:
        args |= rest
    return _settled(tool, args, folder)


def _settled(tool: Tool, args: dict[str, Any], folder: str) -> dict[str, Any]:
    """Paths as they are from the root on, and what one tool alone needs."""
    if tool.here:
        args[tool.here] = args.get(tool.here) or folder
    for name in ("path", "cwd"):
        if name in args:
            args[name] = _absolute(args[name], folder)
    for name in ("pattern", "files"):
        if tool.name == "list_files" or name == "files":
            _stays(args.get(name))
    if tool.name == "edit_files":
        args["paths"] = [_absolute(path, folder) for path in _patched(args.get("patch"))]
    if tool.name == "fetch" and "url" not in args:
        args["url"] = _address(args.get("prompt"))
    if tool.name == "shell" and isinstance(args.get("command"), list):  # argv of a shell that is said besides
        args["command"] = _script(args["command"])
    return args


def _absolute(path: object, folder: str) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise NotUnderstood("a path is no text")
    if path.startswith("~"):
        raise NotUnderstood("a path begins with `~`: say it from the root on")
    return posixpath.join(folder, path)


def _stays(pattern: object) -> None:
    """Attack: a pattern that leaves the folder it is searched in."""
    if isinstance(pattern, str) and (pattern.startswith(("/", "~")) or ".." in re.split(r"[/{},]", pattern)):
        raise NotUnderstood("a pattern leaves its folder: say the folder as `path`")


def _patched(patch: object) -> list[str]:
    """The files a patch names. Each line with three stars at its begin, after blanks, is a heading: it is one we know, or nobody knows what it does."""
    if not isinstance(patch, str):
        raise NotUnderstood("the patch is no text")
    paths: list[str] = []
    for line in patch.split("\n"):  # and at nothing else: what else parts lines for Python stays in the path, where it is refused
        heading = line.strip()
        if not heading.startswith("***"):
            continue
        text = heading.removeprefix("***").strip()
        found = _HEADING.fullmatch(text)
        if found is not None:
            paths.append(found[1])
        elif text not in _MARKS:
            raise NotUnderstood("the patch has a heading that is not known here")
    if not paths:
        raise NotUnderstood("the patch names no file")
    return paths


def _address(prompt: object) -> str:
    """Gemini CLI gives addresses inside a text."""
    found = [word for word in prompt.split() if "://" in word] if isinstance(prompt, str) else []
    if len(found) != 1:
        raise NotUnderstood("a fetch names exactly one address")
    return found[0]


def _script(argv: list[Any]) -> Any:
    """`[bash, -lc, script]` is the script; any other list is the words of one command."""
    if len(argv) == 3 and argv[0] in ("bash", "sh", "zsh", "/bin/bash", "/bin/sh", "/bin/zsh") and argv[1] in ("-c", "-lc"):
        return argv[2]
    return argv
