"""The daemon: HTTP on a Unix socket of one user, one thread per connection.

    POST /v1/AGENT/EVENT     what the agent's hook got on standard input -> one sentence (`guard/hook/answers.py`), always 200
    GET  /v1/status          {"pid", "version", "policy", "sessions", "token"}

| what may happen                              | what then                                                                     |
|----------------------------------------------|-------------------------------------------------------------------------------|
| another user connects                        | closed (the folder is 0700, the socket 0600, and the kernel is asked)          |
| a client says nothing, or half               | its thread alone waits, `PATIENCE` seconds; others go on                       |
| more than `MOST` at once                     | closed: the line denies                                                        |
| a body without a length, or a longer one     | 411, 413: the line denies                                                      |
| anything wrong in here                       | a denial for a gate; else 500                                                  |
| two daemons                                  | the second one ends: the first holds a lock, which goes with its process       |
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

from guard.errors import ConfigError
from guard.hook.answers import allowed, denied, noted
from guard.hook.reading import MAX_BODY, NotUnderstood, read
from guard.hook.sessions import Sessions
from guard.hook.tables import AGENTS, Agent

__all__ = ["LONGEST", "Door", "home", "private", "socket_path"]

PATIENCE: Final = 10.0
MOST: Final = 256
LONGEST: Final = 100
"""Bytes of a socket's path: the kernel takes 108, or 104."""


def home() -> Path:
    """Records, state and keys of the daemon: `$GUARDTRAIL_DIR`, else `.guardtrail` of the user. Not of the working folder, which is the agent's."""
    given = os.environ.get("GUARDTRAIL_DIR")
    return Path(given).absolute() if given else Path.home() / ".guardtrail"


def socket_path() -> Path:
    """`$XDG_RUNTIME_DIR/guardtrail/hook.sock`, else beside the records."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) / "guardtrail" if runtime and runtime.startswith("/") else home() / "run") / "hook.sock"


def private(folder: Path) -> None:
    """Make `folder`, or see that it is ours alone. Attack: a folder that others made, and put their socket into."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {(error.strerror or 'it cannot').lower()}") from None
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{folder} must be a folder of yours that nobody else may enter (chmod 700)")


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens from when it is made. `serve_forever` until `shutdown`; then `leave`."""

    request_queue_size = 512
    daemon_threads = False
    block_on_close = True

    def __init__(self, path: Path, sessions: Sessions, about: dict[str, object], *, note: Callable[[str], None] | None = None) -> None:
        """Raises ConfigError: the folder is not private, the path too long, or another daemon is there."""
        if len(os.fsencode(path)) > LONGEST:
            raise ConfigError(f"{path} is too long for a socket ({LONGEST} bytes at most); set GUARDTRAIL_DIR, or give `--socket`")
        private(path.parent)
        self.path, self.sessions, self.about = path, sessions, about
        self.note = note or _note
        self._places = threading.BoundedSemaphore(MOST)
        self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(f"a daemon is there already, on {path}") from None
        path.unlink(missing_ok=True)  # of one that was killed: who holds the lock is alone
        before = os.umask(0o177)
        try:
            super().__init__(str(path), Listener)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(f"cannot listen on {path}: {(error.strerror or 'no such place').lower()}") from None
        finally:
            os.umask(before)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return _uid(request) in (None, os.getuid()) and self._places.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        kind = sys.exc_info()[0]
        self.note(f"a connection ended early: {kind.__name__ if kind is not None else 'nobody knows why'}")

    def leave(self) -> None:
        """Calls without an outcome are closed as unknown; the socket goes, then the lock."""
        self.server_close()
        self.sessions.close()
        self.path.unlink(missing_ok=True)
        os.close(self._lock)

    def answer(self, agent: Agent, event: str, raw: bytes) -> str:
        """One sentence. Whatever goes wrong: a gate denies, anything else is said on standard error."""
        gate = agent.events.get(event) in (None, "gate")  # an event nobody knows may be a gate
        try:
            said = read(agent, event, raw)
            if said.kind == "gate":
                reason = self.sessions.gate(agent.name, said)
                return allowed(agent) if reason is None else denied(agent, event, reason)
            {
                "after": self.sessions.after,
                "failed": self.sessions.after,
                "prompt": self.sessions.prompt,
                "start": self.sessions.start,
                "end": self.sessions.end,
            }[said.kind](agent.name, said)
            return noted()
        except NotUnderstood as error:
            why = f"not understood: {error}"
        except Exception as error:
            why = f"an unexpected {type(error).__name__}"
        self.note(f"{agent.name} {event if event in agent.events else 'unknown event'}: {why}")
        return denied(agent, event, why) if gate else noted()


class Listener(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: Door
    timeout = PATIENCE
    server_version, sys_version = "guardtrail", ""

    def do_POST(self) -> None:
        _, version, name, event, *more = [*self.path.split("/"), "", "", ""]
        agent = AGENTS.get(name)
        if version != "v1" or agent is None or any(more) or not event.isalnum():
            return self.send_error(404)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            return self.send_error(411)
        if int(length) > MAX_BODY:
            return self.send_error(413)
        raw = self.rfile.read(int(length))
        if len(raw) != int(length):
            return self.send_error(400)
        return self._say(self.server.answer(agent, event, raw), "text/plain; charset=utf-8")

    def do_GET(self) -> None:
        if self.path != "/v1/status":
            return self.send_error(404)
        about = {**self.server.about, "pid": os.getpid(), "sessions": len(self.server.sessions)}
        return self._say(json.dumps(about), "application/json")

    def _say(self, text: str, kind: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing that was sent ends up in a log."""


def _uid(peer: socket.socket) -> int | None:
    """Who is at the other end, by the kernel; None where it cannot be asked (the folder is private all the same)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))[1])


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
