"""The agents' settings: our hooks are put in and taken out, and nothing else changes.

| what may be there                              | what then                                                                            |
|------------------------------------------------|--------------------------------------------------------------------------------------|
| comments, trailing commas, unknown members     | stay byte for byte (`jsonc`)                                                         |
| our hooks, the same                            | nothing is written                                                                   |
| our hooks, of another version or environment   | taken out and put in anew                                                            |
| what does not parse, a `hooks` that is no map  | refused: a settings file is not guessed                                              |
| a link                                         | what it leads to is written                                                          |
| another that writes at the same time           | installs wait for each other; a file that changes meanwhile is read again            |
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.hook.door import home, private
from guard.hook.jsonc import Node, NotJson, insert, remove, scan, unit_of
from guard.hook.line import MARK, SECONDS
from guard.hook.tables import Agent

__all__ = ["Change", "change", "installed", "with_hooks"]

_TRIES = 5
_AGENT_WAITS = SECONDS + 10
"""Seconds: longer than the line itself takes, so that it is the line that says no, and not the agent that goes on."""


@frozen
class Change:
    """What has come of one file."""

    agent: str
    file: Path
    state: str
    backup: Path | None
    diff: tuple[str, ...]


# -- as text -----------------------------------------------------------------------------------------------------------------------


def with_hooks(agent: Agent, text: str, lines: Mapping[str, str]) -> str:
    """`text` with exactly these of our hooks. Raises NotJson."""
    wanted = {event: _entry(agent, event, command) for event, command in lines.items()}
    text = text if text.strip() else "{}\n"
    if _ours(_root(text).data) == {event: [entry] for event, entry in wanted.items()}:
        return text
    before = _without(_root(text).data)
    while (spot := _next_of_ours(_root(text))) is not None:
        text = remove(text, *spot)
    if wanted:
        text = _added(agent, text, wanted)
    if _without(_root(text).data) != before | ({"version": 1} if agent.name == "cursor" and wanted and "version" not in before else {}):
        raise NotJson("it would be changed in other places, too")  # a mistake of ours is not written into somebody's settings
    return text


def _added(agent: Agent, text: str, wanted: Mapping[str, Any]) -> str:
    unit = unit_of(text)
    if agent.name == "cursor" and _root(text).member("version") is None:
        text = insert(text, _root(text), '"version": 1', unit=unit)
    if _root(text).member("hooks") is None:
        text = insert(text, _root(text), '"hooks": {}', unit=unit)
    for event, entry in wanted.items():
        hooks = _hooks(_root(text))
        assert hooks is not None
        if hooks.member(event) is None:
            text = insert(text, hooks, f"{json.dumps(event)}: []", unit=unit)
            hooks = _hooks(_root(text))
        listed = hooks.member(event) if hooks is not None else None
        if listed is None or listed.kind != "[":
            raise NotJson(f"`hooks.{event}` is no list")
        shown = json.dumps(entry, indent=unit, ensure_ascii=False).replace("\n", "\n" + unit * (listed.depth + 1))
        text = insert(text, listed, shown, unit=unit)
    return text


def _entry(agent: Agent, event: str, command: str) -> dict[str, Any]:
    gate = agent.events[event] == "gate"
    waits = 3 if agent.name == "codex" and agent.events[event] == "end" else _AGENT_WAITS  # more it does not give to an end
    handler: dict[str, Any] = {"type": "command", "command": command, "timeout": waits * agent.seconds}
    if agent.name == "cursor":
        return {"command": command, "timeout": _AGENT_WAITS} | ({"failClosed": True} if gate else {})
    if agent.name == "claude-code" and gate:
        handler["onFailure"] = "block"
    if agent.name == "gemini-cli":
        handler = {"name": "guardtrail", **handler}
    return {"hooks": [handler]}


def _root(text: str) -> Node:
    root = scan(text)
    if root.kind != "{":
        raise NotJson("it is no JSON object")
    return root


def _hooks(root: Node) -> Node | None:
    hooks = root.member("hooks")
    if hooks is not None and hooks.kind != "{":
        raise NotJson("`hooks` is no map")
    return hooks


def _is_ours(handler: Any) -> bool:
    command = handler.get("command") if isinstance(handler, dict) else None
    return isinstance(command, str) and f"' {MARK} " in command


def _next_of_ours(root: Node) -> tuple[Node, int] | None:
    """One of our hooks, or what would be left of it empty: the list it stands in, and its number."""
    hooks = _hooks(root)
    for number, event in enumerate(hooks.items if hooks is not None else []):
        assert hooks is not None
        groups = event.value
        if groups.kind != "[":
            continue
        if groups.items and all(_all_ours(one.data) for one in (item.value for item in groups.items)):
            return (root, [item.key for item in root.items].index("hooks")) if len(hooks.items) == 1 else (hooks, number)
        for place, item in enumerate(groups.items):
            if _all_ours(item.value.data):
                return groups, place
            inner = item.value.member("hooks")
            for at, handler in enumerate(inner.items if inner is not None and inner.kind == "[" else []):
                if _is_ours(handler.value.data):
                    assert inner is not None
                    return inner, at
    return None


def _all_ours(group: Any) -> bool:
    inner = group.get("hooks") if isinstance(group, dict) else None
    return _is_ours(group) or (isinstance(inner, list) and bool(inner) and all(map(_is_ours, inner)))


def _groups(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    hooks = data.get("hooks")
    for event, groups in hooks.items() if isinstance(hooks, dict) else ():
        for group in groups if isinstance(groups, list) else ():
            yield event, group


def _ours(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event, group in _groups(data):
        inner = group.get("hooks") if isinstance(group, dict) else None
        if _is_ours(group) or (isinstance(inner, list) and any(map(_is_ours, inner))):
            found.setdefault(event, []).append(group)
    return found


def _without(data: Mapping[str, Any]) -> dict[str, Any]:
    """All that is not ours; empty lists and maps of hooks are as good as none."""
    left: dict[str, list[Any]] = {}
    for event, group in _groups(data):
        if _all_ours(group):
            continue
        inner = group.get("hooks") if isinstance(group, dict) else None
        left.setdefault(event, []).append(
            {**group, "hooks": [one for one in inner if not _is_ours(one)]} if isinstance(inner, list) else group
        )
    hooks = data.get("hooks")
    others = {event: value for event, value in hooks.items() if not isinstance(value, list)} if isinstance(hooks, dict) else {}
    rest = {key: value for key, value in data.items() if key != "hooks"}
    return {**rest, **({"hooks": {**others, **left}} if others or left else {})}


# -- as files ----------------------------------------------------------------------------------------------------------------------


def file_of(agent: Agent, *, user: bool) -> Path:
    return (Path.home() if user else Path.cwd()) / agent.folder / agent.file


def change(agent: Agent, *, user: bool, edit: Callable[[str], str], dry: bool) -> Change:
    """Raises ConfigError."""
    file = file_of(agent, user=user)
    try:
        with _alone():
            for _ in range(_TRIES):
                if (done := _changed(agent, file, edit, dry=dry)) is not None:
                    return done
    except NotJson as error:
        raise ConfigError(f"{file} is not changed: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "it cannot" if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file} is not changed: {why.lower()}") from None
    raise ConfigError(f"{file} is not changed: something else writes it all the time")


def _changed(agent: Agent, file: Path, edit: Callable[[str], str], *, dry: bool) -> Change | None:
    target = Path(os.path.realpath(file))
    before = target.read_bytes() if target.exists() else None
    old = "" if before is None else before.decode("utf-8")
    new = edit(old)
    if new == old or (before is None and new == "{}\n"):
        return Change(agent.name, file, "unchanged", None, ())
    diff = tuple(difflib.unified_diff(old.splitlines(), new.splitlines(), str(file), str(file), lineterm="", n=2))
    if dry:
        return Change(agent.name, file, "would change", None, diff)
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = target.stat().st_mode & 0o777 if before is not None else 0o644
    backup = None
    if before is not None:
        backup = target.with_name(f"{target.name}.guardtrail-backup")
        _write(backup, before, mode)
    if (target.read_bytes() if target.exists() else None) != before:
        return None
    _write(target, new.encode("utf-8"), mode)
    return Change(agent.name, file, "changed", backup, diff)


def _write(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all."""
    draft = file.with_name(f".{file.name}.{token_hex(6)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def _alone() -> Iterator[None]:
    private(home())
    fd = os.open(home() / "install.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def installed(agent: Agent) -> list[tuple[Path, str]]:
    """Where its hooks stand: of the folder, of the user. The two may be one."""
    found: list[tuple[Path, str]] = []
    for file in dict.fromkeys((file_of(agent, user=False), file_of(agent, user=True))):
        try:
            data = _root(file.read_text("utf-8")).data if file.exists() else {}
        except (OSError, ValueError):
            found.append((file, "not readable"))
            continue
        ours = _ours(data)
        if ours and data.get("disableAllHooks") is True:  # Claude Code's switch
            found.append((file, "switched off"))
            continue
        found.append((file, "installed" if ours.keys() >= agent.events.keys() else "in part" if ours else "not installed"))
    return found
