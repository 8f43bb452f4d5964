"""What was taken back is dead at the next call: by credential, session, origin, actor, key and task; in memory and over a shared file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, Denied, GuardError
from guard.identity import RevocationList
from guard.record import ListSink
from guard.tokens import verify
from tests.tokens.forge import ISS, ISSUERS, NOW, claims, token

DELEGATION = verify(token(claims(sid="s-1", person="p-1", act={"sub": "payer", "act": {"sub": "orchestrator"}})), ISSUERS, now=NOW)


@pytest.mark.parametrize(
    ("kind", "value", "more", "found"),
    [
        ("credential", "t-1", {}, "credential"),
        ("credential", "t-2", {}, None),
        ("credential", "t-1", {"issuer": ISS}, "credential"),
        ("credential", "t-1", {"issuer": "https://other.example"}, None),
        ("session", "s-1", {}, "session"),
        ("origin", "alice", {"at": NOW}, "origin"),
        ("origin", "p-1", {"at": NOW}, "origin"),
        ("origin", "alice", {"at": NOW - 10}, None),
        ("origin", "alice", {"at": NOW - 9}, "origin"),
        ("actor", "payer", {}, "actor payer"),
        ("actor", "orchestrator", {}, "actor orchestrator"),
        ("actor", "alice", {}, None),
        ("key", "k1", {}, "key"),
        ("task", "task-1", {}, "task"),
        ("task", "Task-1", {}, None),
    ],
)
def test_what_dies(kind: Any, value: str, more: dict[str, Any], found: str | None, tmp_path: Path) -> None:
    (tmp_path / "revoked.jsonl").touch()
    for revoked in (RevocationList(), RevocationList(tmp_path / "revoked.jsonl")):
        before = revoked.generation
        revoked.revoke(kind, value, **more)
        assert revoked.generation > before
        assert revoked.find(DELEGATION, now=NOW) == found


def test_an_origin_may_log_in_again() -> None:
    revoked = RevocationList(clock=lambda: NOW)
    revoked.revoke("origin", "alice")
    assert revoked.find(DELEGATION, now=NOW) == "origin"
    later = verify(token(claims(iat=NOW + 1, exp=NOW + 100)), ISSUERS, now=NOW + 1)
    assert revoked.find(later, now=NOW + 1) is None


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (("everything", "x"), {}),
        (("task", ""), {}),
        (("task", 5), {}),
        (("task", "x"), {"issuer": ""}),
        (("task", "x"), {"at": "now"}),
        (("task", "x"), {"at": float("nan")}),
    ],
)
def test_misuse_is_told(args: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RevocationList().revoke(*args, **more)


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.touch()
    mine = RevocationList(path, check_every=0.0)
    assert mine.find(DELEGATION, now=NOW) is None
    code = f"from guard.identity import RevocationList; RevocationList({str(path)!r}).revoke('task', 'task-1')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert mine.find(DELEGATION, now=NOW) == "task"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"kind": "task", "value": "x-1"}', "line 2, the last one, has no end"),
        (b'\r\n\n{"kind": "task", "value": "x-1"}', "line 4, the last one, has no end"),
        (b'{"kind": "task", "val', "line 2 is no entry"),  # torn, and last
        (b'{"kind": "task", "val\n{"kind": "key", "value": "x-1"}\n', "line 2 is no entry"),  # torn, and written on after it
        (b'{"kind": "key", "value": "x-1"}\n\n{"kind": "task", "val{"kind": "key", "value": "x-1"}\n', "line 4 is no entry"),
        (b"garbage x-1\n", "line 2 is no entry"),
        (b'{"kind": "task"}\n', "line 2 is no entry"),
        (b'{"kind": "everything", "value": "x-1"}\n', "line 2 is no entry"),
        (b'{"kind": "origin", "value": "alice"}\n', "line 2 is no entry"),
        (b'{"kind": "task", "value": "x-1", "more": 1}\n', "line 2 is no entry"),
        (b'{"kind": "task", "value": "x-1", "kind": "key"}\n', "line 2 is no entry"),
        (b"\xff\n", "line 2 is no entry"),
    ],
)
def test_half_a_list_is_not_a_list_and_the_line_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.write_bytes(b'{"kind": "task", "value": "other"}\n' + content)
    revoked = RevocationList(path, check_every=0.0)
    for _ in range(2):
        with pytest.raises(GuardError) as caught:
            revoked.find(DELEGATION, now=NOW)
        assert caught.value.code == "revocation.unavailable"
        assert str(caught.value) == f"the revocation list {path} cannot be relied on: {said}; repair it"
    path.write_bytes(b'{"kind": "task", "value": "task-1"}\n')
    assert revoked.find(DELEGATION, now=NOW) == "task"


def test_a_denial_names_the_line_and_nothing_of_it(tmp_path: Path) -> None:
    """At the opening of a task and at a call."""
    path = tmp_path / "revoked.jsonl"
    path.touch()
    iam, sink = LocalIssuer("x"), ListSink()
    text = "guardtrail: 1\nname: t\nowner: o\ntools: {look: {effect: read}}\nintents: {work: {description: d, allow: {look: {}}}}\n"
    guard = Guard(Policy.from_text(text), trust=iam, sinks=[sink], revocations=RevocationList(path, check_every=0.0))
    said = f"the revocation list {path} cannot be relied on: line 1 is no entry; repair it [revocation.unavailable]"
    with guard.task(iam.mint(origin="alice", actor="a", intent="work")):
        path.write_text('{"kind": "task", "value": "secret-task"\n')
        with pytest.raises(Denied) as caught:
            guard.call(ToolCall("look", {}), lambda: None)
        assert str(caught.value) == f"look denied: {said}"
    with pytest.raises(Denied) as caught, guard.task(iam.mint(origin="alice", actor="a", intent="work")):
        pass
    assert str(caught.value).endswith(said)
    assert "secret-task" not in repr([record.findings for record in sink.decisions])


def test_a_list_that_is_gone_stops_everything_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    revoked = RevocationList(path, check_every=0.0)
    with pytest.raises(GuardError, match="revoked.jsonl cannot be read: No such file"):
        revoked.find(DELEGATION, now=NOW)
    path.write_text("")
    assert revoked.find(DELEGATION, now=NOW) is None
    path.unlink()
    with pytest.raises(GuardError):
        revoked.find(DELEGATION, now=NOW)


def test_what_this_process_revoked_stays_revoked_when_the_file_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.touch()
    revoked = RevocationList(path, check_every=0.0)
    revoked.revoke("task", "task-1")
    path.write_text("")
    assert revoked.find(DELEGATION, now=NOW) == "task"


def test_kill_9_while_it_is_written(tmp_path: Path) -> None:
    """What `revoke` has returned for is in the file, whole, whenever the process dies."""
    path = tmp_path / "revoked.jsonl"
    path.touch()
    code = textwrap.dedent(
        f"""
        from guard.identity import RevocationList
        revoked = RevocationList({str(path)!r})
        n = 0
        while True:
            revoked.revoke("task", f"t-{{n}}")
            print(n, flush=True)
            n += 1
        """
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last = 0
            for _ in range(20):
                last = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
        last = int(rest[-1]) if rest else last
        lines = path.read_text().splitlines()
        assert len(lines) >= last + 1
        path.write_text("")
