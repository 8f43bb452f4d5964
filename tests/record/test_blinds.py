"""Pseudonyms and keys: stable while the key exists, unlinkable once it is gone, unambiguous whatever the names are."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.record import AuditFile, Blinds, blinds

WORDS = st.text(alphabet=st.characters(exclude_categories=()), max_size=6)
_memory = Blinds(None)


@pytest.mark.parametrize("kept", [True, False])
def test_stable_and_distinct(tmp_path: Path, kept: bool) -> None:
    b = Blinds(tmp_path / "log" if kept else None)
    alice = b.origin("acme", "alice")
    assert re.fullmatch(r"p-[0-9a-f]{24}", alice)
    assert b.origin("acme", "alice") == alice
    assert len({alice, b.origin("acme", "bob"), b.origin("other", "alice"), b.origin("acm", "ealice")}) == 4
    key = b.task_key("acme", "https://iam", "t-1")
    assert len(key) == 32
    assert b.task_key("acme", "https://iam", "t-1") == key
    assert len({key, b.task_key("acme", "https://iam", "t-2"), b.task_key("other", "https://iam", "t-1")}) == 3
    again = Blinds(tmp_path / "log" if kept else None)
    assert (again.origin("acme", "alice") == alice) == kept
    assert (again.task_key("acme", "https://iam", "t-1") == key) == kept


@given(st.tuples(WORDS, WORDS), st.tuples(WORDS, WORDS))
def test_no_two_names_read_the_same(a: tuple[str, str], b: tuple[str, str]) -> None:
    assert (_memory.origin(*a) == _memory.origin(*b)) == (a == b)
    assert (_memory.task_key("", *a) == _memory.task_key("", *b)) == (a == b)


@pytest.mark.parametrize("kept", [True, False])
def test_erasure(tmp_path: Path, kept: bool) -> None:
    b = Blinds(tmp_path / "log" if kept else None)
    before, bob = b.origin("acme", "alice"), b.origin("acme", "bob")
    assert b.erase("acme", "alice")
    assert b.who(before) is None
    assert b.origin("acme", "alice") != before
    assert b.origin("acme", "bob") == bob


def test_erasure_by_another_process_counts_at_once(tmp_path: Path) -> None:
    here, there = Blinds(tmp_path / "log"), Blinds(tmp_path / "log")
    before = here.origin("acme", "alice")
    assert there.erase("acme", "alice")
    assert not there.erase("acme", "alice")
    assert here.origin("acme", "alice") != before
    assert here.origin("acme", "alice") == there.origin("acme", "alice")


def test_the_lookup_is_apart_and_private(tmp_path: Path) -> None:
    b = Blinds(tmp_path / "log")
    alice = b.origin("acme", "../../alice")
    assert b.who(alice) == ("acme", "../../alice")
    assert b.who("p-0") is None
    (file,) = (tmp_path / "log" / "keys" / "persons").iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}\.json", file.name)
    for path in (tmp_path / "log").rglob("*"):
        if path.name != ".gitignore":
            assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_is_made_before_first_use(tmp_path: Path) -> None:
    Blinds(tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blinds, "_HELD", 4)
    b = Blinds(tmp_path / "log")
    first = [b.origin("acme", str(i)) for i in range(8)]
    assert len(b._persons) == 4
    assert [b.origin("acme", str(i)) for i in range(8)] == first


def test_threads_agree(tmp_path: Path) -> None:
    b = [Blinds(tmp_path / "log") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda each: each.origin("acme", "alice"), b))) == 1
        assert len(set(pool.map(lambda each: each.task_key("a", "b", "c"), b))) == 1


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "records.key").write_bytes(content)
    with pytest.raises(ValueError, match=r"records\.key"):
        Blinds(tmp_path).origin("acme", "alice")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Blinds(tmp_path / "file" / "log").origin("acme", "alice")


def test_the_keys_lie_beside_the_log_also_where_it_is_given(tmp_path: Path) -> None:
    """A pseudonym, and the hash an approval names, are the same after a restart and in a sibling."""
    policy = Policy.from_text(
        "guardtrail: 1\nname: p\nowner: tests@acme.example\ntools: {look: {effect: read, control: {x: id}, returns: none}}\n"
        "intents: {work: {description: Looks., allow: {look: {args: {x: {len: {max: 9}}}}}}}\n"
    )
    iam = LocalIssuer("a")
    token = iam.mint(origin="alice", actor="agent", intent="work")
    seen = []
    for _ in range(2):
        guard = Guard(policy, trust=iam, sinks=[AuditFile(tmp_path)])
        with guard.task(token) as task:
            seen.append((guard.check(ToolCall("look", {"x": "a"})).args_hmac, task.state.origin))
    assert seen[0] == seen[1]
