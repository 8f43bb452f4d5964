"""Files that change under us: every change is seen, nothing that is no plain file is read, and a list is never half a list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guard.errors import ConfigError, GuardError, TokenRefused
from guard.identity import Issuer, LocalIssuer, RevocationList, TrustedIssuers, _files
from guard.identity._files import WatchedFile
from guard.tokens import verify
from tests.tokens.forge import AUD, ISS, ISSUERS, KEY, NOW, OTHER, claims, jwk, token, verdict

ONE, TWO = (json.dumps({"keys": [jwk(key, "k1")]}) for key in (KEY, OTHER))
FOUND = verify(token(), ISSUERS, now=NOW)


def past(path: Path, seconds: float = 60) -> None:
    """As if it had been written a minute ago (its change time stays: nobody can set that)."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def later(path: Path) -> None:
    """Until a change of the file bears another time than its last one: the clock of a file system has steps of some milliseconds."""
    other, until = path.with_name("clock"), time.monotonic() + 20
    while time.monotonic() < until:
        other.write_text("")
        if other.stat().st_ctime_ns > path.stat().st_ctime_ns:
            return
        time.sleep(0.001)


def in_place(path: Path) -> None:
    with path.open("r+") as file:
        file.write("two")


def with_its_time_put_back(path: Path) -> None:
    about = path.stat()
    in_place(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def appended(path: Path) -> None:
    with path.open("a") as file:
        file.write("+")


def renamed_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("two")
    other.replace(path)


def by_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("two")
    path.unlink()
    path.symlink_to(target)


CHANGES: list[tuple[str, Callable[[Path], object], bytes]] = [
    ("longer", lambda path: path.write_text("longer"), b"longer"),
    ("shorter", lambda path: path.write_text("x"), b"x"),
    ("empty", lambda path: path.write_text(""), b""),
    ("appended", appended, b"one+"),
    ("same size, in place", in_place, b"two"),
    ("same size, in place, its time put back", with_its_time_put_back, b"two"),
    ("same size, another file renamed over it", renamed_over, b"two"),
    ("a link to another file", by_link, b"two"),
]


@pytest.mark.parametrize("row", [pytest.param(row[1:], id=row[0]) for row in CHANGES])
@pytest.mark.parametrize("settled", [True, False], ids=["after a while", "at once"])
def test_every_change_is_seen(row: tuple[Callable[[Path], object], bytes], settled: bool, tmp_path: Path) -> None:
    change, content = row
    path = tmp_path / "file"
    path.write_text("one")
    file = WatchedFile(path, most=100, every=0.0)
    assert file.changed()
    if settled:
        later(path)
        file._stamp = file._look()  # as it would be kept some seconds later
        assert not file.changed()
    change(path)
    assert file.changed()
    assert file.read() == content


def test_a_file_that_lies_still_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    written = path.stat().st_mtime
    monkeypatch.setattr(_files, "time", lambda: written + 1)
    file = WatchedFile(path, most=100, every=0.0)
    assert file.changed()
    assert file.changed(), "written a moment ago: a rewrite might bear the same time"
    monkeypatch.setattr(_files, "time", lambda: written + 2.1)
    assert file.changed()
    assert not file.changed()
    file.forget()
    assert file.changed()


def test_it_is_looked_at_once_in_a_while(tmp_path: Path) -> None:
    file = WatchedFile(tmp_path / "none", most=100, every=60.0)
    assert file.changed()
    assert not file.changed(), "the next look is in a minute"
    assert file.changed(now=True)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


NO_FILES: list[tuple[str, Callable[[Path], object]]] = [
    ("missing", lambda path: None),
    ("a folder", lambda path: path.mkdir()),
    ("a pipe nobody writes to", fifo),
    ("a device", lambda path: path.symlink_to("/dev/zero")),
    ("a link to nothing", lambda path: path.symlink_to(path.with_name("nothing"))),
    ("a link to itself", loop),
    ("too large", lambda path: path.write_bytes(b" " * (1 << 20))),
    ("larger than it says", lambda path: path.symlink_to("/proc/self/maps")),
    ("a name in a file", lambda path: path.with_name("x").write_text("") and None),
]


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and /proc")
@pytest.mark.parametrize("row", [pytest.param(row[1:], id=row[0]) for row in NO_FILES])
def test_what_is_no_plain_file(row: tuple[Callable[[Path], object]], tmp_path: Path) -> None:
    """Keys: every token is refused with `keys.unavailable`. The list: `find` raises. Neither waits, neither reads for ever."""
    path = tmp_path / "file"
    row[0](path)
    issuer = Issuer(ISS, audience=AUD, keys=path)
    with pytest.raises(TokenRefused) as refused:
        TrustedIssuers(issuer).verify(token(), now=NOW)
    assert refused.value.code == "keys.unavailable"
    with pytest.raises(GuardError) as caught:
        RevocationList(path).find(FOUND, now=NOW)
    assert caught.value.code == "revocation.unavailable"


@pytest.mark.parametrize("name", ["a\0b", "x" * 300], ids=["NUL", "too long"])
def test_a_path_that_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(TokenRefused) as refused:
        Issuer(ISS, audience=AUD, keys=tmp_path / name).rules()
    assert refused.value.code == "keys.unavailable"
    with pytest.raises(GuardError):
        RevocationList(tmp_path / name).find(FOUND, now=NOW)
    with pytest.raises(ConfigError, match="cannot write"):
        LocalIssuer("dev").save(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot read"):
        LocalIssuer.load(tmp_path / name)


# -- keys ------------------------------------------------------------------------------------------------------------------------------


def test_a_key_file_rewritten_at_once(tmp_path: Path) -> None:
    """Same size, same second, same file: the old key counts no longer at the next look."""
    path = tmp_path / "jwks.json"
    assert len(ONE) == len(TWO)
    for _ in range(20):
        path.write_text(ONE)
        issuer = Issuer(ISS, audience=AUD, keys=path)
        assert verdict(token(), issuers={ISS: issuer.rules()}) == "allow"
        with path.open("r+") as file:
            file.write(TWO)
        assert verdict(token(), issuers={ISS: issuer.rules(refresh=True)}) == "token.signature"


def test_the_generation_changes_with_the_keys_and_only_with_them(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    issuer = Issuer(ISS, audience=AUD, keys=path)

    def generation() -> int:
        with_ = issuer.generation
        try:
            issuer.rules(refresh=True)
        except TokenRefused:
            pass
        assert with_ <= issuer.generation
        return issuer.generation

    first = generation()
    assert generation() == first, "no keys, and again none"
    path.write_text(ONE)
    second = generation()
    assert second > first
    path.write_text(ONE)
    os.utime(path)
    assert generation() == second, "written again, the same"
    path.write_text("{")
    third = generation()
    assert third > second, "what was verified before counts no longer"
    path.write_text("[")
    assert generation() == third
    path.write_text(ONE)
    assert generation() > third


def test_one_broken_key_file_does_not_stop_the_other_issuers(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(ONE)
    other = Issuer("https://b.example", audience=AUD, keys=tmp_path / "missing.json")
    trust = TrustedIssuers([Issuer(ISS, audience=AUD, keys=path), other])
    kept = trust.verify(token(), now=NOW)
    with pytest.raises(TokenRefused) as refused:
        trust.verify(token(claims(iss="https://b.example")), now=NOW)
    assert refused.value.code == "keys.unavailable"
    assert refused.value.__context__ is None
    assert trust.verify(token(), now=NOW) == kept
    with pytest.raises(TokenRefused) as refused:
        trust.verify(token(claims(iss="https://c.example")), now=NOW)
    assert refused.value.code == "token.issuer"


def test_first_calls_at_the_same_time_wait_for_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(ONE)
    text = token()
    codes: list[str] = []
    for _ in range(20):
        trust, start = TrustedIssuers(Issuer(ISS, audience=AUD, keys=path)), threading.Barrier(6)

        def first(trust: TrustedIssuers = trust, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                trust.verify(text, now=NOW)
            except TokenRefused as refused:
                codes.append(refused.code)

        threads = [threading.Thread(target=first) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == []


# -- the list ----------------------------------------------------------------------------------------------------------------------------


def test_a_list_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A list that was lost stops everything; the next entry must not bring it back without the others."""
    path = tmp_path / "revoked.jsonl"
    revoked = RevocationList(path, check_every=0.0)
    with pytest.raises(GuardError, match="there is no such file.*touch") as caught:
        revoked.revoke("task", "other")
    assert caught.value.code == "revocation.unavailable"
    assert not path.exists()
    with pytest.raises(GuardError):
        revoked.find(FOUND, now=NOW)
    assert len(revoked) == 0, "what is not in the file was not revoked"


def test_an_entry_does_not_become_the_end_of_a_torn_line(tmp_path: Path) -> None:
    """The list stays unusable until somebody takes the torn line out; the entry made meanwhile is whole then."""
    path = tmp_path / "revoked.jsonl"
    path.write_text('{"kind": "task", "value": "x"}\n{"kind": "ta')
    revoked = RevocationList(path, check_every=0.0)
    revoked.revoke("task", "task-1")
    with pytest.raises(GuardError):
        revoked.find(FOUND, now=NOW)
    lines = path.read_text().splitlines()
    assert lines[1] == '{"kind": "ta'
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert RevocationList(path).find(FOUND, now=NOW) == "task"
    assert revoked.find(FOUND, now=NOW) == "task"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "revoked.jsonl").symlink_to("/dev/full")
    with pytest.raises(GuardError, match="nothing was revoked there") as caught:
        RevocationList(tmp_path / "revoked.jsonl").revoke("task", "task-1")
    assert caught.value.code == "revocation.unavailable"


def test_a_broken_list_works_again_when_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.write_text("garbage\n")
    revoked = RevocationList(path, check_every=0.0)
    for _ in range(2):
        with pytest.raises(GuardError):
            revoked.find(FOUND, now=NOW)
    path.write_text('\n{"value": "task-1", "kind": "task"}\n  \n')
    assert revoked.find(FOUND, now=NOW) == "task"
    path.write_text("")
    assert revoked.find(FOUND, now=NOW) is None, "taken out by hand: it counts again"


def test_several_processes_write_one_list(tmp_path: Path) -> None:
    """Nobody's entry is lost, no reader ever sees half a line."""
    path = tmp_path / "revoked.jsonl"
    path.touch()
    code = (
        "import sys; from guard.identity import RevocationList; revoked = RevocationList(sys.argv[1])\n"
        "for n in range(50): revoked.revoke('credential', f'{sys.argv[2]}-{n}-' + 'x' * 200)"
    )
    reader = RevocationList(path, check_every=0.0)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b", "c")]
    seen = [0]
    while any(writer.poll() is None for writer in writers):
        assert reader.find(FOUND, now=NOW) is None
        seen.append(len(reader))
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen == sorted(seen), "it only grows"
    reader.find(FOUND, now=NOW)
    assert len(reader) == 150


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line crosses a page, a reader sees it in two steps; that must not stop every call for a second."""
    path = tmp_path / "revoked.jsonl"
    path.touch()
    revoked = RevocationList(path, check_every=0.0)
    waited: list[float] = []
    for n in range(4):

        def rest(seconds: float, n: int = n) -> None:
            """Whoever writes goes on while the reader waits: after its first, second, ... look."""
            waited.append(seconds)
            if len(waited) > n:
                with path.open("ab", buffering=0) as file:
                    file.write(f'ue": "t-{n}"}}\n'.encode())

        monkeypatch.setattr("guard.identity.revocation.time", SimpleNamespace(sleep=rest))  # of this reader alone
        with path.open("ab", buffering=0) as file:
            file.write(b'{"kind": "task", "val')
        waited.clear()
        assert revoked.find(FOUND, now=NOW) is None
        assert len(waited) == n + 1 and len(revoked) == n + 1
    assert sum(waited) > 0.02


def test_the_newest_of_two_entries_counts(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.touch()
    for revoked in (RevocationList(), RevocationList(path, check_every=0.0)):
        revoked.revoke("origin", "alice", at=NOW - 9)
        revoked.revoke("origin", "alice", at=NOW - 500)
        assert revoked.find(FOUND, now=NOW) == "origin"
        assert len(revoked) == 1
        revoked.revoke("origin", "bob", issuer=ISS)
        revoked.revoke("origin", "bob", issuer="https://b.example")
        assert len(revoked) == 3


def test_a_misspelt_kind_is_told() -> None:
    kinds: Any = RevocationList()
    with pytest.raises(ConfigError, match="did you mean `session`"):
        kinds.revoke("sesion", "s-1")


def test_many_entries_are_made_in_no_time() -> None:
    revoked = RevocationList()
    began = time.thread_time()  # what it costs, and not how long the machine was busy with others
    for n in range(20_000):
        revoked.revoke("credential", f"j-{n}")
    assert time.thread_time() - began < 5
    assert len(revoked) == 20_000
    assert revoked.find(FOUND, now=NOW) is None
