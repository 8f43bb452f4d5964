"""The agents' settings: ours in, ours out, everything else byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.hook.jsonc import NotJson, insert, remove, scan
from guard.hook.line import find_curl, line
from guard.hook.settings import with_hooks
from guard.hook.tables import AGENTS
from tests.hook.conftest import CLI, Place

NAMES = sorted(AGENTS)


def lines(agent: str, socket: str = "/run/x/hook.sock") -> dict[str, str]:
    return {event: line(AGENTS[agent], event, Path(socket), curl="/usr/bin/curl", start=[]) for event in AGENTS[agent].events}


GATE = {"claude-code": "PreToolUse", "codex": "PreToolUse", "gemini-cli": "BeforeTool", "cursor": "preToolUse"}
MINE: dict[str, Any] = {"command": "mine.sh"}


def settings(agent: str) -> dict[str, str]:
    """Files as people have them."""
    own = json.dumps(MINE) if agent == "cursor" else json.dumps({"matcher": "Bash", "hooks": [{"type": "command", "command": "mine.sh"}]})
    gate = GATE[agent]
    return {
        "empty": "",
        "an empty object": "{}",
        "other things": '{\n    "model": "x",\n    "permissions": {"deny": ["Read(.env)"]}\n}\n',
        "comments": '// mine\n{\n  /* why */ "theme": "dark", // because\n  // the end\n}\n',
        "an empty map": '{"hooks": {}}',
        "their own hook": f'{{\n\t"hooks": {{\n\t\t"{gate}": [\n\t\t\t{own} // keep me\n\t\t]\n\t}},\n\t"x": 1\n}}\n',
        "another event": f'{{"hooks": {{"Stop": [{own}],}},}}',
        "in one line": f'{{"a":[1,2],"hooks":{{"{gate}":[{own}]}}}}',
    }


@pytest.mark.parametrize("agent", NAMES)
@pytest.mark.parametrize("what", list(settings("codex")))
def test_in_and_out_again(agent: str, what: str) -> None:
    before = settings(agent)[what]
    into = with_hooks(AGENTS[agent], before, lines(agent))
    data = scan(into).data
    for event, command in lines(agent).items():
        ours = [each for each in data["hooks"][event] if "guardtrail-hook" in json.dumps(each)]
        handler = ours[0] if agent == "cursor" else ours[0]["hooks"][0]
        assert len(ours) == 1 and handler["command"] == command
        if AGENTS[agent].events[event] == "gate":
            assert handler["timeout"] > (10_000 if agent == "gemini-cli" else 10), "longer than the line itself takes"
        if AGENTS[agent].events[event] == "gate":
            assert handler.get({"claude-code": "onFailure", "cursor": "failClosed"}.get(agent, "command")) in ("block", True, command)
    for comment in ("// mine", "/* why */", "// because", "// the end", "// keep me"):
        assert (comment in into) == (comment in before)
    assert with_hooks(AGENTS[agent], into, lines(agent)) == into, "a second time changes nothing"
    other = with_hooks(AGENTS[agent], into, lines(agent, "/run/y/hook.sock"))
    assert "/run/x/" not in other and other.count("guardtrail-hook") == len(lines(agent)), "of another environment: replaced"
    after = with_hooks(AGENTS[agent], other, {})
    assert "guardtrail" not in after
    left, had = scan(after).data, scan(before or "{}").data
    for one in (left, had):
        one.pop("version", None)
        one["hooks"] = {event: groups for event, groups in one.get("hooks", {}).items() if groups}
    assert left == had
    if agent != "cursor" and ("their own" in what or "comments" in what):  # `version` of Cursor's file stays
        assert [row for row in before.splitlines() if row.strip()] == [row for row in after.splitlines() if row.strip()]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1 "b": 2}', '{"hooks": []}', '{"hooks": {"PreToolUse": {}}}', '{"a": 1, "a": 2}', "{} {}", '{"hooks": 1}', "nul", "// only"])  # fmt: skip
def test_what_is_no_settings_file_is_not_guessed(text: str) -> None:
    with pytest.raises(NotJson):
        with_hooks(AGENTS["codex"], text, lines("codex"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 1, "\t"]), st.data())
def test_scan_reads_json_and_edits_are_one(value: Any, indent: Any, data: st.DataObject) -> None:
    """What `json.loads` reads, it reads alike; one member more is one member more, and without it all is as before."""
    text = json.dumps(value, indent=indent)
    root = scan(text)
    assert root.data == value
    if root.kind == "{":
        more = insert(text, root, '"@new": [1]', unit="  ")
        assert scan(more).data == {**value, "@new": [1]}
        assert scan(remove(more, scan(more), len(value))).data == value
        if value:
            number = data.draw(st.integers(0, len(value) - 1))
            gone = list(value)[number]
            assert scan(remove(text, root, number)).data == {key: one for key, one in value.items() if key != gone}
    if root.kind == "[":
        assert scan(insert(text, root, "7", unit=" ")).data == [*value, 7]


@given(st.text(alphabet='{}[]",:/*1a \n\\', max_size=24))
def test_scan_never_reads_what_json_does_not(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        if (
            "//" in text
            or "/*" in text
            or ",}" in text.replace(" ", "").replace("\n", "")
            or ",]" in text.replace(" ", "").replace("\n", "")
        ):
            return
        with pytest.raises(NotJson):
            scan(text)


# -- as files ----------------------------------------------------------------------------------------------------------------------


def test_the_verbs(place: Place) -> None:
    file = place.project / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text('{"model": "x" /* mine */}\n')
    file.chmod(0o640)
    shown = place.cli("hook", "install", "--agent", "claude-code", "--dry-run")
    assert "would change" in shown.out and "+" in shown.out and "guardtrail" not in file.read_text()
    done = json.loads(place.cli("hook", "install", "--agent", "claude-code", "--json").out)
    assert done["files"][0]["state"] == "changed" and done["curl"] == find_curl()
    assert Path(done["files"][0]["backup"]).read_text() == '{"model": "x" /* mine */}\n'
    assert "/* mine */" in file.read_text() and file.stat().st_mode & 0o777 == 0o640
    assert json.loads(place.cli("hook", "install", "--agent", "claude-code", "--json").out)["files"][0]["state"] == "unchanged"
    place.cli("hook", "install", "--agent", "claude-code", "--user")
    status = place.cli("hook", "status", "--json", check=False)
    assert status.code == 1
    hooks = {(each["agent"], each["file"]): each["state"] for each in json.loads(status.out)["hooks"]}
    assert hooks["claude-code", str(file)] == "installed" == hooks["claude-code", str(place.home / ".claude" / "settings.json")]
    assert "hooks twice" in place.cli("hook", "status", check=False).err
    user = place.home / ".claude" / "settings.json"
    user.write_text('{"disableAllHooks": true,' + user.read_text().lstrip()[1:])
    assert "switched off" in place.cli("hook", "status", check=False).out
    place.cli("hook", "uninstall", "--agent", "claude-code")
    assert scan(file.read_text()).data == {"model": "x"}
    assert place.cli("hook", "uninstall").code == 0


def test_codex_must_be_told_to_trust_them(place: Place) -> None:
    assert "/hooks" in place.cli("hook", "install", "--agent", "codex").err
    assert "/hooks" not in place.cli("hook", "install", "--agent", "cursor").err


def test_a_link_is_followed(place: Place) -> None:
    real = place.home / "dotfiles.json"
    real.write_text("{}")
    (place.project / ".codex").mkdir()
    (place.project / ".codex" / "hooks.json").symlink_to(real)
    place.install("codex")
    assert (place.project / ".codex" / "hooks.json").is_symlink() and "guardtrail-hook" in real.read_text()


def test_a_broken_file_is_left_alone(place: Place) -> None:
    file = place.project / ".gemini" / "settings.json"
    file.parent.mkdir()
    file.write_text('{"a": ')
    said = place.cli("hook", "install", "--agent", "gemini-cli", check=False)
    assert said.code == 3 and "is not changed: line 1 does not parse" in said.err and file.read_text() == '{"a": '
    assert sorted(each.name for each in file.parent.iterdir()) == ["settings.json"]


def test_two_installs_at_once(place: Place) -> None:
    """Eight of them, for all agents, into files that are there: each hook once, whole JSON, no draft left."""
    for agent in AGENTS.values():
        (place.project / agent.folder).mkdir()
        (place.project / agent.folder / agent.file).write_text('{"mine": 1}')
    running = [
        subprocess.Popen([*CLI, "hook", "install", "--no-start"], cwd=place.project, env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(8)
    ]  # fmt: skip
    for one in running:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    for agent in AGENTS.values():
        text = (place.project / agent.folder / agent.file).read_text()
        assert json.loads(text)["mine"] == 1 and text.count("guardtrail-hook") == len(agent.events)
        assert sorted(each.name for each in (place.project / agent.folder).iterdir()) == [agent.file, f"{agent.file}.guardtrail-backup"]


def test_a_path_that_cannot_stand_there(place: Place) -> None:
    said = place.cli("hook", "install", "--agent", "codex", "--socket", "/a\nb/s", check=False)
    assert said.code == 3 and "invisible letter" in said.err


@pytest.mark.parametrize("words", [["--agent", "copilot"], ["--token", "abc"], ["--issuer", "https://iam.example"]])
def test_wrong_usage(place: Place, words: list[str]) -> None:
    assert place.cli("hook", "install", *words, check=False).code == 2
    assert not any(os.scandir(place.project))
