"""Security events into the index: once each, all or nothing, seen by the next call. End to end: a session revoked in the middle of a task."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from guard import Guard, Issuer, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, Denied, GuardError
from guard.identity.revoked import Inbox, StoreRevocations, Transmitter
from guard.identity.signals import SignalFeed
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from guard.tokens.events import EventRefused
from tests.identity.revoked.test_store import DELEGATION, POLICY, Breaking
from tests.identity.revoked.web import serving
from tests.tokens.forge import AUD, ISS, KEY, NOW, RSA, claims, jwk, token
from tests.tokens.sets import US, payload, signed


def jwks(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": list(entries or (jwk(RSA, "r1", alg="RS256"), jwk(KEY, "k1")))}))
    return path


def transmitter(folder: Path, **more: Any) -> Transmitter:
    return Transmitter(Issuer(ISS, audience=US, keys=jwks(folder / "jwks.json")), **more)


def inbox(folder: Path, store: Any, *, feed: bool = True, now: float = NOW, **more: Any) -> tuple[Inbox, StoreRevocations]:
    revoked = StoreRevocations(store, clock=lambda: now, check_every=0)
    signals = SignalFeed(store, clock=lambda: now) if feed else None
    return Inbox([transmitter(folder, **more)], revoked, signals, clock=lambda: now), revoked


def test_an_event_is_taken_once(tmp_path: Path) -> None:
    """A112, replayed `jti`: the very same event again is acknowledged (RFC 8935: its sender may not have had our answer) and does nothing;
    another event under a `jti` that was used is refused."""
    box, revoked = inbox(tmp_path, MemoryState())
    text = signed(payload(jti="e-1"))
    assert box.receive(text)[:5] == (ISS, "e-1", False, 1, 0)
    before = revoked.entries()
    assert box.receive(text)[:5] == (ISS, "e-1", True, 0, 0)
    other = {"format": "iss_sub", "iss": ISS, "sub": "alice"}
    with pytest.raises(EventRefused, match="another event with this `jti`") as caught:
        box.receive(signed(payload(other, jti="e-1")))
    assert caught.value.err == "invalid_request"
    assert revoked.entries() == before
    assert [entry.value for entry in before] == ["s-1"]


def test_once_holds_over_processes_and_restarts(tmp_path: Path) -> None:
    text = signed(payload({"format": "iss_sub", "iss": ISS, "sub": "alice"}, jti="e-1"))
    receipts = []
    for _ in range(3):
        with SqliteState(tmp_path / "state.db") as store:
            box, revoked = inbox(tmp_path, store)
            receipts.append(box.receive(text).repeated)
            assert len(revoked.entries()) == 1
    assert receipts == [False, True, True]


def test_two_senders_may_use_the_same_jti(tmp_path: Path) -> None:
    other = LocalIssuer("acme-dev", audience=US)
    store = MemoryState()
    revoked = StoreRevocations(store, clock=lambda: NOW)
    box = Inbox([transmitter(tmp_path), Transmitter(other)], revoked, clock=lambda: NOW)
    box.receive(signed(payload(jti="e-1")))
    text = token(payload(iss="acme-dev", jti="e-1"), key=other._private, header={"alg": "ES256", "typ": "secevent+jwt", "kid": other.kid})
    assert not box.receive(text).repeated
    assert {(entry.issuer, entry.value) for entry in revoked.entries()} == {(ISS, "s-1"), ("acme-dev", "s-1")}


@pytest.mark.parametrize(
    "wrong", [{"sub": "alice"}, {"exp": NOW + 5}, {"aud": "other"}, {"iss": "https://evil.example"}, {"iat": NOW + 100}]
)
def test_a112_what_is_refused_has_no_effect(wrong: dict[str, Any], tmp_path: Path) -> None:
    box, revoked = inbox(tmp_path, MemoryState())
    with pytest.raises(EventRefused):
        box.receive(signed(payload(**wrong)))
    assert revoked.entries() == []
    assert revoked.find(DELEGATION, now=NOW) is None


def test_a112_a_foreign_sender_touches_nobody_elses_session(tmp_path: Path) -> None:
    """A sender that is trusted, but for other tokens: what it says of a session called s-1 is about its own."""
    mallory = LocalIssuer("mallory", audience=US)
    revoked = StoreRevocations(MemoryState(), clock=lambda: NOW, check_every=0)
    box = Inbox([Transmitter(mallory)], revoked, clock=lambda: NOW)
    header = {"alg": "ES256", "typ": "secevent+jwt", "kid": mallory.kid}
    assert box.receive(token(payload(iss="mallory"), key=mallory._private, header=header)).entries == 1
    assert revoked.find(DELEGATION, now=NOW) is None
    with pytest.raises(EventRefused, match="does not speak for"):
        box.receive(token(payload({"format": "iss_sub", "iss": ISS, "sub": "alice"}, iss="mallory"), key=mallory._private, header=header))
    assert revoked.find(DELEGATION, now=NOW) is None


def test_what_cannot_be_written_was_not_taken(tmp_path: Path) -> None:
    store = Breaking()
    box, revoked = inbox(tmp_path, store)
    text = signed(payload())
    store.off = True
    with pytest.raises(GuardError) as caught:
        box.receive(text)
    assert not isinstance(caught.value, EventRefused)
    store.off = False
    assert not box.receive(text).repeated, "it came again, and counts"
    assert revoked.find(DELEGATION, now=NOW) is not None


def test_without_keys_an_event_must_come_again(tmp_path: Path) -> None:
    missing = Inbox(
        [transmitter(tmp_path), Transmitter(LocalIssuer("acme-dev", audience=US))], StoreRevocations(MemoryState()), clock=lambda: NOW
    )
    (tmp_path / "jwks.json").unlink()
    with pytest.raises(GuardError) as caught:
        missing.receive(signed())
    assert caught.value.code == "keys.unavailable"


def test_an_account_closed_and_opened_again(tmp_path: Path) -> None:
    store = MemoryState()
    about = {"format": "iss_sub", "iss": ISS, "sub": "alice"}
    box, revoked = inbox(tmp_path, store)
    for name, at, dead in (
        ("disabled", NOW - 60, True),
        ("enabled", NOW - 40, False),
        ("disabled", NOW - 50, False),
        ("purged", NOW - 30, True),
    ):
        box.receive(signed(payload(about, {f"risc/account-{name}": {}}, toe=at)))
        assert (revoked.find(DELEGATION, now=NOW) is not None) == dead, name


def test_without_a_feed_signals_have_no_effect_and_the_receipt_says_so(tmp_path: Path) -> None:
    risk = {"caep/risk-level-change": {"principal": "USER", "current_level": "HIGH", "event_timestamp": NOW}}
    text = signed(payload({"format": "iss_sub", "iss": ISS, "sub": "alice"}, risk))
    assert inbox(tmp_path, MemoryState(), feed=False)[0].receive(text)[3:] == (0, 0, ("risk.level",))
    assert inbox(tmp_path, MemoryState())[0].receive(text)[3:] == (0, 1, ())


@pytest.mark.parametrize("wrong", [{"algorithms": []}, {"algorithms": ["HS256"]}, {"owns": []}, {"owns": [""]}, {"audience": ""}])
def test_a_transmitter_is_no_weaker_than_it_should_be(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        transmitter(tmp_path, **wrong)


def test_a_session_revoked_in_the_middle_of_a_task(tmp_path: Path) -> None:
    """The next call is denied within one second, with the event as its reason; two stores on one file stand for two processes."""
    store = SqliteState(tmp_path / "state.db")
    now = time.time()  # the token is younger than the store
    sink = ListSink()
    issuer = Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "iam.json"))
    guard = Guard(Policy.from_text(POLICY), trust=issuer, sinks=[sink], state=f"sqlite:{tmp_path / 'state.db'}")
    box, _ = inbox(tmp_path, store, now=now)
    call = ToolCall("look", {"order": "A-17"})
    at = int(now)

    def minted(session: str) -> str:
        details = [{"type": "agent_task", "intent": "see", "params": {}}]
        return token(claims(sid=session, txn=f"task-{session}", iat=at, exp=at + 600, authorization_details=details, scope=...))

    ran: list[str] = []
    with guard.task(minted("s-3")):
        guard.call(call, lambda order: ran.append(order))
        about = {"format": "complex", "session": {"format": "opaque", "id": "s-3"}}
        box.receive(signed(payload(about, {"caep/session-revoked": {"event_timestamp": at}}, iat=at, jti="24c63fb56e5a")))
        told = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                guard.call(call, lambda order: None)
            except Denied as denied:
                said = denied
                break
            assert began - told < 1.0, "a second had passed when it began"
            time.sleep(0.01)
    assert str(said) == "look denied: session was revoked by CAEP session-revoked, event jti 24c63fb56e5a [token.revoked]"
    assert "session-revoked, event jti 24c63fb56e5a" in json.dumps([record.to_dict() for record in sink.decisions])
    assert ran == ["A-17"]
    with pytest.raises(Denied, match="token.revoked"), guard.task(minted("s-3")):
        pass
    with guard.task(minted("s-4")):
        assert guard.call(call, lambda order: order) == "A-17", "another session goes on"


def test_a_new_login_works_again(tmp_path: Path) -> None:
    """A113, end to end: the person's tokens up to the event are dead, the next login's are not."""
    at = int(time.time())
    issuer = Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "iam.json"))
    guard = Guard(Policy.from_text(POLICY), trust=issuer, sinks=[ListSink()], state=f"sqlite:{tmp_path / 'state.db'}")
    box, _ = inbox(tmp_path, SqliteState(tmp_path / "state.db"), now=at)
    box.receive(
        signed(payload({"format": "iss_sub", "iss": ISS, "sub": "alice"}, {"caep/session-revoked": {"event_timestamp": at - 20}}, iat=at))
    )
    time.sleep(1.0)
    details = [{"type": "agent_task", "intent": "see", "params": {}}]
    for iat, dead in ((at - 30, True), (at - 20, True), (at - 19, False), (at - 10, False)):
        text = token(claims(txn=f"t{iat}", jti=f"j{iat}", iat=iat, exp=at + 600, authorization_details=details, scope=...))
        try:
            with guard.task(text):
                died = False
        except Denied as denied:
            died = str(denied.code) == "token.revoked"
        assert died == dead, iat - at


def test_keys_over_http_are_fetched_and_fetched_anew(tmp_path: Path) -> None:
    """A sender that changes its key is asked for its keys again; a key it does not have either is refused, and asked for once."""
    keys = [jwk(RSA, "r1", alg="RS256")]
    with serving(lambda asked: (200, json.dumps({"keys": keys}).encode())) as web:
        web.kind = "application/json"
        store = MemoryState()
        sender = Transmitter(Issuer(web.url, audience=US, keys=f"{web.url}/keys"))
        box = Inbox([sender], StoreRevocations(store, clock=lambda: NOW), clock=lambda: NOW)
        assert box.receive(signed(payload(iss=web.url))).entries == 1
        keys[:] = [jwk(KEY, "k2")]
        sender._issuer._remote._allowed = 0.0  # type: ignore[union-attr]  # half a minute later: fetches are that far apart
        found = box.receive(signed(payload(iss=web.url), key=KEY, alg="ES256", kid="k2"))
        assert found.entries == 1
        asked = len(web.asked)
        for n in range(20):
            with pytest.raises(EventRefused) as caught:
                box.receive(signed(payload(iss=web.url), key=KEY, alg="ES256", kid=f"x{n}"))
            assert caught.value.err == "invalid_key"
        assert len(web.asked) <= asked + 2, "who makes up names of keys does not make us ask"


def test_a_sender_whose_keys_cannot_be_had_must_send_again() -> None:
    with serving(lambda asked: (500, b"")) as web:
        sender = Transmitter(Issuer(web.url, audience=US, keys=f"{web.url}/keys"))
        box = Inbox([sender], StoreRevocations(MemoryState(), clock=lambda: NOW), clock=lambda: NOW)
        with pytest.raises(GuardError) as caught:
            box.receive(signed(payload(iss=web.url)))
        assert caught.value.code == "keys.unavailable"
