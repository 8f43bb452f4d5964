"""What a coding agent waits for at each tool call: the installed line as the agent's shell runs it, against a bare `curl --version`.

Wall time, because the agent waits and most of the work is done by the kernel that starts processes. Rows: a read against `curl` and against 15 ms; a command, whose record is synced first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import Row
from guard.hook.line import find_curl, line
from guard.hook.tables import AGENTS

_MOST_SECONDS = 0.015


def hook_rows(rounds: int) -> Iterator[Row]:
    curl = find_curl()
    if curl is None:
        return
    with tempfile.TemporaryDirectory(prefix="gt-", ignore_cleanup_errors=True) as folder:
        home, project = Path(folder) / "h", Path(folder) / "p"
        home.mkdir(mode=0o700)
        project.mkdir()
        environ = {**os.environ, "GUARDTRAIL_DIR": str(home)}
        socket = home / "run" / "hook.sock"
        serve = [sys.executable, "-c", "from guard.cli import main; main()", "hook", "serve", "--socket", str(socket)]
        daemon = subprocess.Popen(serve, env=environ, stderr=subprocess.PIPE, text=True)
        try:
            assert daemon.stderr is not None
            assert daemon.stderr.readline().startswith("listening")
            yield from _rows(curl, socket, project, max(15, rounds * 3))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=30)


def _rows(curl: str, socket: Path, project: Path, rounds: int) -> Iterator[Row]:
    agent = AGENTS["claude-code"]
    lines = {event: line(agent, event, socket, curl=curl, start=[]) for event in ("SessionStart", "PreToolUse")}

    def event(name: str, **more: object) -> float:
        body = json.dumps({"session_id": "bench", "cwd": str(project), "hook_event_name": name, **more})
        return _took(["/bin/sh", "-c", lines[name]], body, "{}")

    event("SessionStart", source="startup")
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        read = {"tool_name": "Read", "tool_input": {"file_path": f"{project}/app.py"}, "tool_use_id": f"c-{number}"}
        if number % 2:
            ours.append(event("PreToolUse", **read))
            bare.append(_took([curl, "--version"], "", None))
        else:
            bare.append(_took([curl, "--version"], "", None))
            ours.append(event("PreToolUse", **read))
    ratio = median(one / other for one, other in zip(ours, bare, strict=True))
    wall = median(ours)
    shell = [
        event("PreToolUse", tool_name="Bash", tool_input={"command": "git status"}, tool_use_id=f"s-{number}")
        / _took([curl, "--version"], "", None)
        for number in range(rounds)
    ]
    yield Row("hook.daemon", round(wall * 1e6, 1), "curl --version (wall)", round(ratio, 3), 1.5)
    # A command cannot be taken back, so its record is on the disk before it runs.
    yield Row("hook.daemon_shell", round(median(shell) * median(bare) * 1e6, 1), "curl --version (wall)", round(median(shell), 3))
    yield Row("hook.daemon_wall", round(wall * 1e6, 1), "15 ms (wall)", round(wall / _MOST_SECONDS, 3), 1.0)


def _took(command: list[str], body: str, expected: str | None) -> float:
    began = perf_counter()
    done = subprocess.run(command, input=body, capture_output=True, text=True)
    took = perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert expected in (None, done.stdout), done.stdout
    return took
