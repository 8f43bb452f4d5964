"""The folder of keys: who signs when, what is published how long, what is on the disk."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError, GuardError
from guard.identity.signing import KEPT, LEAD, Ring, make_key, read_keys, retire_key, signed, signing, txn_key
from guard.tokens import KeySet
from guard.tokens.verify import verify_signature

T0 = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(T0)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> Path:
    make_key(tmp_path / "keys", clock=clock)
    return tmp_path / "keys"


def kids(ring: Ring) -> list[str]:
    found: Any = ring.jwks()["keys"]
    return [one["kid"] for one in found]


def test_files_are_private_from_the_first_byte(tmp_path: Path, clock: Clock) -> None:
    old = os.umask(0)
    try:
        key = make_key(tmp_path / "keys", clock=clock)
        retire_key(tmp_path / "keys", key.kid, stolen=True, clock=clock)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [f"{key.kid}.json", "txn.key"], "no drafts are left"


def test_the_first_signs_at_once_and_the_next_when_everybody_has_it(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock, every=0)
    first = ring.signing()
    clock.now += 100
    second = make_key(folder, clock=clock)
    assert kids(ring) == [first.kid, second.kid], "published before it signs"
    assert ring.signing().kid == first.kid
    clock.now += LEAD - 1
    assert ring.signing().kid == first.kid
    clock.now += 1
    assert ring.signing().kid == second.kid
    assert first.state(clock.now, ring.signing()) == "older"
    clock.now -= 60
    assert ring.signing().kid == first.kid, "a clock that is set back"


def test_a_retired_key_stays_until_its_last_token_is_over(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock, every=0)
    first = ring.signing()
    token = signed(first, b'{"a":1}')
    make_key(folder, lead=0, clock=clock)
    retire_key(folder, first.kid, clock=clock)
    assert ring.signing().kid != first.kid
    assert verify_signature(token, KeySet.from_jwks(json.dumps(ring.jwks())))[0]["kid"] == first.kid
    assert '"d"' not in (folder / f"{first.kid}.json").read_text(), "nobody can sign with it any more"
    assert retire_key(folder, first.kid, clock=clock).retired == T0, "again is the same"
    clock.now += KEPT - 1
    assert first.kid in kids(ring)
    clock.now += 1
    assert first.kid not in kids(ring)
    assert {key.state(clock.now, ring.signing()) for key in read_keys(folder)} == {"over", "signing"}


def test_a_stolen_key_is_gone_at_once(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock, every=0)
    first = ring.signing()
    retire_key(folder, first.kid, stolen=True, clock=clock)
    assert ring.jwks() == {"keys": []}
    with pytest.raises(GuardError, match="no key of the token service can sign") as caught:
        ring.signing()
    assert caught.value.code == "keys.unavailable"
    assert make_key(folder, clock=clock).signs_from == T0, "where none can sign, the new one does at once"
    other = make_key(folder, lead=0, clock=clock)
    retire_key(folder, other.kid, clock=clock)
    assert other.kid in kids(ring)
    retire_key(folder, other.kid, stolen=True, clock=clock)
    assert other.kid not in kids(ring), "found out later"


def test_the_only_one_is_not_retired(folder: Path, clock: Clock) -> None:
    (key,) = read_keys(folder)
    with pytest.raises(ConfigError, match="only one that can sign now"):
        retire_key(folder, key.kid, clock=clock)
    make_key(folder, clock=clock)
    with pytest.raises(ConfigError, match="only one that can sign now"):
        retire_key(folder, key.kid, clock=clock)
    for kid in ("nothing", "../x", ""):
        with pytest.raises(ConfigError, match=r"keys: (there is no key|that is no)"):
            retire_key(folder, kid, clock=clock)


@pytest.mark.parametrize("alg", ["ES256", "Ed25519"])
def test_both_algorithms(alg: str, tmp_path: Path, clock: Clock) -> None:
    make_key(tmp_path / "k", alg=alg, clock=clock)
    ring = Ring(tmp_path / "k", clock=clock)
    header, payload = verify_signature(signed(ring.signing(), b'{"a":1}'), KeySet.from_jwks(json.dumps(ring.jwks())))
    assert (header["alg"], header["typ"], payload) == (alg, "txntoken+jwt", b'{"a":1}')


def test_what_names_tasks_is_never_made_anew(folder: Path, clock: Clock) -> None:
    before = txn_key(folder)
    make_key(folder, clock=clock)
    assert txn_key(folder) == before
    (folder / "txn.key").rename(folder / "away")
    for ask in (lambda: make_key(folder, clock=clock), lambda: Ring(folder, clock=clock)):
        with pytest.raises(ConfigError, match="put it back from a copy"):
            ask()
    for wrong in (b"", b"00" * 31, b"zz" * 32, b"00" * 33):
        (folder / "txn.key").write_bytes(wrong)
        (folder / "txn.key").chmod(0o600)
        with pytest.raises(ConfigError, match="32 bytes"):
            txn_key(folder)
    with pytest.raises(ConfigError, match="guardtrail tts keys new"):
        Ring(folder / "nowhere", clock=clock)


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    (folder / ".txn.key.0badcafe").write_bytes(b"00")
    make_key(folder, clock=clock)
    (folder / ".x.json.0badcafe").write_bytes(b"{")
    assert len(kids(Ring(folder, clock=clock))) == 1


@pytest.mark.parametrize("stolen", [False, True])
def test_what_was_left_by_who_was_killed_goes_with_the_key(stolen: bool, folder: Path, clock: Clock) -> None:
    """Killed between the two names of a new key: the draft's is that of its private half."""
    key = make_key(folder, lead=0, clock=clock)
    (folder / f".{key.kid}.json.0badcafe").hardlink_to(folder / f"{key.kid}.json")
    make_key(folder, lead=0, clock=clock)
    private = json.loads((folder / f"{key.kid}.json").read_text())["key"]["d"]
    for _ in range(2):  # the second time: it was killed again
        retire_key(folder, key.kid, stolen=stolen, clock=clock)
        assert not any(private in path.read_text() for path in folder.iterdir())
        (folder / f".{key.kid}.json.0badcafe").write_text(private)


def test_many_who_are_first_at_once_name_tasks_alike(tmp_path: Path, clock: Clock) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: make_key(tmp_path / "keys", clock=clock) and txn_key(tmp_path / "keys"), range(8)))
    assert len(set(found)) == 1
    assert len(read_keys(tmp_path / "keys")) == 8


def test_a_folder_of_which_a_part_cannot_be_read_signs_nothing(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock, every=0)
    (path,) = folder.glob("*.json")
    good = json.loads(path.read_text())
    odd: list[Any] = [
        {}, {**good, "v": 2}, {**good, "kid": "other"}, {**good, "alg": "Ed25519"}, {**good, "made": "1"}, {**good, "signs_from": True},
        {**good, "signs_from": None}, {**good, "key": {}}, {**good, "key": {**good["key"], "x": "AAAA"}}, {**good, "key": {**good["key"], "d": "x"}},
        {**good, "key": {**good["key"], "d": good["key"]["x"]}}, {**good, "stolen": 1}, {**good, "alg": "HS256"}, [],
    ]  # fmt: skip
    for members in odd:
        path.write_text(json.dumps(members))
        with pytest.raises(GuardError) as caught:
            ring.signing()
        assert caught.value.code == "keys.unavailable" and good["key"]["d"] not in str(caught.value), members
        with pytest.raises(GuardError):
            ring.jwks()
        with pytest.raises(ConfigError):
            read_keys(folder)
    path.write_text(json.dumps(good))
    assert ring.signing().kid == good["kid"]
    path.chmod(0o640)
    with pytest.raises(GuardError, match="chmod 600"):
        ring.signing()


def test_a_running_service_looks_once_a_second(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock, every=3600)
    make_key(folder, lead=0, clock=clock)
    assert len(kids(ring)) == 1
    ring._next = 0.0
    assert len(kids(ring)) == 2


def test_nothing_secret_is_shown(folder: Path, clock: Clock) -> None:
    ring = Ring(folder, clock=clock)
    (path,) = folder.glob("*.json")
    secret = json.loads(path.read_text())["key"]["d"]
    for text in (repr(ring), json.dumps(ring.jwks()), repr(ring.signing())):
        assert secret not in text
    assert signing([], T0) is None
