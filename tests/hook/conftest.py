"""A real daemon and the lines that `guardtrail hook install` writes, run by a real shell with the real `curl`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guard.hook.line import line
from guard.hook.tables import AGENTS

CLI = [sys.executable, "-I", "-c", "from guard.cli import main; main()"]
# The daemon's store waits for long, whoever else has the machine; see tests/patience.py.
SERVE = [*CLI[:-1], f"from guard.state import SqliteState; SqliteState.__init__.__kwdefaults__['timeout'] = 20.0; {CLI[-1]}"]
CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="no curl here")


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def body(self) -> Any:
        return json.loads(self.out)


class Place:
    """A home, a project, a daemon. Paths are short: a socket's may have 100 bytes."""

    def __init__(self, top: Path, home: str = "h", project: str = "p") -> None:
        self.home, self.project = top / home, top / project
        self.folder = self.home / ".guardtrail"
        self.socket = self.folder / "run" / "hook.sock"
        for each in (self.home, self.project):
            each.mkdir(parents=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "GUARDTRAIL_DIR": str(self.folder), "LANG": "C.UTF-8"}
        self.process: subprocess.Popen[str] | None = None

    def cli(self, *words: str, stdin: str = "", check: bool = True) -> Said:
        done = subprocess.run([*CLI, *words], cwd=self.project, env=self.env, input=stdin, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def install(self, agent: str, *options: str) -> None:
        self.cli("hook", "install", "--agent", agent, "--no-start", *options)

    def direct(self, agent: str, event: str, *, curl: str | None = CURL) -> str:
        """The line as it would be installed; `test_settings` says that it is."""
        return line(AGENTS[agent], event, self.socket, curl=curl, start=[])

    def serve(self, *options: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [*SERVE, "hook", "serve", "--json", *options], cwd=self.project, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        while not line.strip().endswith("}"):
            line += (more := self.process.stdout.readline())
            assert more, self.process.stderr.read()
        self.policy = json.loads(line)["policy"]
        return self.process

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process = None

    def line(self, agent: str, event: str, *, user: bool = False) -> str:
        settings = json.loads(((self.home if user else self.project) / AGENTS[agent].folder / AGENTS[agent].file).read_text())
        entry = settings["hooks"][event][0]
        found: str = (entry["hooks"][0] if "hooks" in entry else entry)["command"]
        return found

    def hook(self, agent: str, event: str, body: dict[str, Any] | bytes, *, shell: str = "/bin/sh", written: str | None = None) -> Said:
        """The installed line, as the agent runs it; where none is installed, as it would be."""
        settings = self.project / AGENTS[agent].folder / AGENTS[agent].file
        written = written or (self.line(agent, event) if settings.exists() else self.direct(agent, event))
        sent = body if isinstance(body, bytes) else json.dumps(self.common(agent, event) | body).encode()
        done = subprocess.run([shell, "-c", written], cwd=self.project, env=self.env, input=sent, capture_output=True, timeout=60)
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def common(self, agent: str, event: str) -> dict[str, Any]:
        if agent == "cursor":
            return {
                "conversation_id": "c-1",
                "generation_id": "g-1",
                "hook_event_name": event,
                "workspace_roots": [str(self.project)],
                "cursor_version": "2",
            }
        return {"session_id": "s-1", "transcript_path": None, "cwd": str(self.project), "hook_event_name": event}

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def decisions(self) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["kind"] == "decision"]


@pytest.fixture
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gt-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def place(top: Path) -> Iterator[Place]:
    one = Place(top)
    yield one
    if one.process is not None:
        one.kill(signal.SIGTERM)


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    """One daemon for tests that leave it as it is, with the lines of all four agents."""
    with tempfile.TemporaryDirectory(prefix="gt-") as folder:
        one = Place(Path(folder).resolve())
        for agent in ("claude-code", "codex", "gemini-cli", "cursor"):
            one.install(agent)
        one.serve()
        yield one
        one.kill(signal.SIGTERM)


@pytest.fixture
def impostor(place: Place) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Something else on the daemon's socket."""
    listeners: list[socket.socket] = []

    def listen(behave: Callable[[socket.socket], None]) -> None:
        for folder in (place.folder, place.socket.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place.socket))
        listener.listen(8)
        listeners.append(listener)

        def run() -> None:
            try:
                while True:
                    peer, _ = listener.accept()
                    threading.Thread(target=talk, args=(peer,), daemon=True).start()
            except OSError:
                return

        def talk(peer: socket.socket) -> None:
            with peer:
                peer.settimeout(20)
                try:
                    peer.recv(65536)
                    behave(peer)
                except OSError:
                    return

        threading.Thread(target=run, daemon=True).start()

    yield listen
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
