"""The daemon as a process: many at once, one alone, killed, ended, with bad clients; and what its records say."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError
from guard.hook.door import PATIENCE, Door, private
from tests.hook.conftest import CLI, Place, Said, needs_curl, until

CODEX = ("codex", "PreToolUse")


def bash(command: str, id: str) -> dict[str, Any]:
    return {"tool_name": "Bash", "tool_input": {"command": command}, "tool_use_id": id}


def begin(place: Place, agent: str = "codex") -> None:
    assert place.hook(agent, "SessionStart", {"source": "startup"}).code == 0


@needs_curl
def test_two_hundred_at_once(place: Place) -> None:
    """Sixteen at a time, 200 calls in 20 sessions: each answered as it is alone, each recorded once, before it runs."""
    place.serve()

    def one(number: int) -> tuple[int, Said]:
        body = bash("git status" if number % 2 else "git push origin main", f"call-{number}") | {"session_id": f"s-{number % 20}"}
        return number, place.hook(*CODEX, body)

    with ThreadPoolExecutor(16) as pool:
        for number, said in pool.map(one, range(200)):
            assert said.code == (0 if number % 2 else 2), said
    decisions = [each for each in place.decisions() if each["tool"] == "shell"]
    assert sorted(each["call"] for each in decisions) == sorted(f"call-{number}" for number in range(200))
    assert sum(each["verdict"] == "allow" for each in decisions) == 100
    place.kill(signal.SIGTERM)
    assert place.cli("audit", "verify").code == 0


@needs_curl
def test_killed_between_before_and_after(place: Place) -> None:
    """Labels and the record are there; the outcome that comes later belongs to nobody; the session goes on as the same task."""
    place.serve()
    begin(place)
    assert place.hook(*CODEX, bash("ls", "c-0")).code == 0
    body = {"tool_name": "read_file", "tool_input": {"path": "a.py"}, "tool_use_id": "c-1"}
    assert place.hook(*CODEX, body).code == 0
    place.kill()
    place.serve()
    assert place.hook("codex", "PostToolUse", body | {"tool_response": "x"}).code == 0
    assert place.hook(*CODEX, body).code == 2, "the same call does not run again"
    assert place.hook(*CODEX, bash("ls", "c-2")).code == 0
    tasks = {each["task"] for each in place.decisions()}
    assert len(tasks) == 1
    outcomes = {each["decision"] for each in place.records() if each["kind"] == "outcome"}
    assert not any(each["id"] in outcomes for each in place.decisions() if each["call"] == "c-1")
    place.kill(signal.SIGTERM)
    assert place.cli("audit", "verify").code == 0


@needs_curl
def test_labels_outlive_a_killed_daemon(place: Place) -> None:
    place.serve()
    begin(place, "claude-code")
    gate = ("claude-code", "PreToolUse")
    assert (
        place.hook(
            *gate, {"tool_name": "WebFetch", "tool_input": {"url": "https://evil.example/", "prompt": "x"}, "tool_use_id": "f-1"}
        ).out
        == "{}"
    )
    assert (
        place.hook(*gate, {"tool_name": "Read", "tool_input": {"file_path": str(place.project / "a.py")}, "tool_use_id": "r-1"}).out == "{}"
    )
    place.kill()
    place.serve()
    said = place.hook(*gate, bash("git push origin agent/x", "b-1"))
    assert "guardtrail approve" in said.out and "egress-by-command" in said.out


@needs_curl
def test_an_end_by_term_is_graceful(place: Place) -> None:
    """What has no outcome is closed as unknown, the socket goes, the task stays open."""
    place.serve()
    begin(place)
    assert place.hook(*CODEX, bash("ls", "c-1")).code == 0
    place.kill(signal.SIGTERM)
    assert not place.socket.exists()
    (outcome,) = [each for each in place.records() if each["kind"] == "outcome" and each["tool"] == "shell"]
    assert outcome["status"] == "unknown"
    place.serve()
    assert place.hook(*CODEX, bash("ls", "c-2")).code == 0
    assert len({each["task"] for each in place.decisions()}) == 1


def test_one_daemon(place: Place) -> None:
    place.serve()
    again = place.cli("hook", "serve", check=False)
    assert again.code == 3 and "a daemon is there already" in again.err
    assert place.cli("hook", "status").code == 0
    assert stat.S_IMODE(place.socket.stat().st_mode) == 0o600 and stat.S_IMODE(place.socket.parent.stat().st_mode) == 0o700


def test_of_ten_that_start_at_once_one_serves(place: Place) -> None:
    started = [subprocess.Popen([*CLI, "hook", "serve"], env=place.env, cwd=place.project, stderr=subprocess.PIPE) for _ in range(4)]
    try:
        until(lambda: sum(one.poll() is None for one in started) == 1, 60)
        until(lambda: place.cli("hook", "status", check=False).code == 0)  # who has the lock may not listen yet
    finally:
        for one in started:
            if one.poll() is None:
                one.terminate()
            one.communicate(timeout=30)


@needs_curl
def test_bad_clients_block_nobody(place: Place) -> None:
    """Fifty that say nothing, half a request, or too much; a hook beside them is answered."""
    place.serve()
    peers = []
    for number in range(50):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(place.socket))
        if number % 2:
            peer.sendall(b"POST /v1/codex/PreToolUse HTTP/1.0\r\nContent-Length: 999999\r\n\r\n{")
        peers.append(peer)
    began = time.monotonic()
    assert place.hook(*CODEX, bash("ls", "c-1")).code == 0
    assert time.monotonic() - began < PATIENCE, "before the daemon has given up any of them"
    for peer in peers:
        peer.close()


REQUESTS = {
    "no length": (b"POST /v1/codex/PreToolUse HTTP/1.0\r\n\r\n", b"411"),
    "a length of no number": (b"POST /v1/codex/PreToolUse HTTP/1.0\r\nContent-Length: -1\r\n\r\n", b"411"),
    "in pieces": (b"POST /v1/codex/PreToolUse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", b"411"),
    "too long": (b"POST /v1/codex/PreToolUse HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n", b"413"),
    "an agent nobody knows": (b"POST /v1/copilot/PreToolUse HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"404"),
    "another version": (b"POST /v2/codex/PreToolUse HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"404"),
    "more of a path": (b"POST /v1/codex/PreToolUse/x HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"404"),
    "another method": (b"PUT /v1/codex/PreToolUse HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"501"),
    "a page": (b"GET / HTTP/1.0\r\n\r\n", b"404"),
    "an event nobody knows": (
        b"POST /v1/codex/PreToolUsed HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
        b"guardtrail/1 2|guardtrail: not understood",
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_requests(shared: Place, what: str) -> None:
    sent, expected = REQUESTS[what]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(shared.socket))
        peer.sendall(sent)
        got = b""
        while piece := peer.recv(65536):
            got += piece
    assert expected in got


def test_folders_of_others_are_refused(top: Path) -> None:
    for mode in (0o755, 0o770, 0o707):
        folder = top / f"f{mode}"
        folder.mkdir()
        folder.chmod(mode)
        with pytest.raises(ConfigError, match="nobody else may enter"):
            private(folder)
    (top / "mine").mkdir(mode=0o700)
    (top / "link").symlink_to(top / "mine")
    with pytest.raises(ConfigError, match="nobody else may enter"):
        private(top / "link")
    (top / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        private(top / "file")


def test_a_path_that_is_too_long(top: Path) -> None:
    with pytest.raises(ConfigError, match="too long for a socket"):
        Door(top / ("x" * 100) / "s", None, {})  # type: ignore[arg-type]


def test_another_user_is_turned_away(monkeypatch: pytest.MonkeyPatch, shared: Place, top: Path) -> None:
    """The kernel says who is there; here the daemon is told that it is somebody else's."""
    from guard.hook import door as module

    folder = top / "d"
    one = Door(folder / "s", None, {})  # type: ignore[arg-type]
    try:
        here, there = socket.socketpair(socket.AF_UNIX)
        assert module._uid(here) in (os.getuid(), None)
        assert one.verify_request(here, "")
        monkeypatch.setattr(module, "_uid", lambda peer: os.getuid() + 1)
        assert not one.verify_request(here, "")
        here.close()
        there.close()
    finally:
        one.server_close()
        os.close(one._lock)
