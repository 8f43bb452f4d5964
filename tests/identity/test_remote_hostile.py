"""Keys over HTTP, through a guard, from a server that does everything else. Whatever it does, nothing counts that did not count before, and
nobody who was verified waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest

from guard import Denied, Guard, Issuer, LocalIssuer, ToolCall
from guard.errors import KeysWanted, TokenRefused
from guard.identity import TrustedIssuers, remote
from guard.record import ListSink
from tests.identity.keyserver import BAD, SLOW, KeyServer, key_server
from tests.identity.keyworld import K1, K2, PATIENT, POLICY, World, patience, server
from tests.tokens.forge import AUD, OTHER, token

__all__ = ["patience", "server"]


@pytest.mark.parametrize("does", sorted(BAD))
def test_without_keys_nothing_counts(does: str, server: KeyServer, patience: Callable[[float], None]) -> None:
    """A049, A051: at the start. One reason; the process goes on, and has its keys when the server has."""
    server.does = does
    world = World(server)
    if does in SLOW:
        patience(1.0)
    texts = [world.token(), world.token(OTHER), world.token(OTHER, "s"), world.token(kid="k0")]
    assert {world.opens(text) for text in texts} == {"keys.unavailable"}
    world.rest()
    patience(PATIENT)
    server.does = "well"
    world.passes(31)
    assert world.opens(world.token()) == "allow"


@pytest.mark.parametrize("does", sorted(BAD))
def test_a_good_set_stays_until_its_end(does: str, server: KeyServer, patience: Callable[[float], None]) -> None:
    """A049: whoever was verified is, at the usual speed; new keys are not; after an hour without a good answer nobody is."""
    world = World(server)
    with world.guard.task(world.token()):
        assert world.calls() == "allow"
        server.does, server.keys = does, [K1, K2]
        world.passes(remote.TTL + 1)
        if does in SLOW:  # for as long as it is waited for, calls run
            flight = None
            for _ in range(50):
                assert world.calls() == "allow"
                flight = flight or world.remote._flight
                assert flight is not None and not flight.done(), "it was waited for"
            assert world.comes_to(2) == 2
            world.lets_go()
            patience(1.0)
        else:
            assert {world.calls() for _ in range(50)} == {"allow"}
            world.rest()
        assert world.fetched == 2
        assert world.opens(world.token(OTHER, "k2")) in ("token.signature", "keys.unavailable")
        assert world.opens(world.token(OTHER)) == "token.signature"
        assert world.opens(world.token()) == "allow", "the good set verifies new tokens too"
        world.passes(remote.STALE - remote.TTL - 60)
        assert world.calls() == "allow"
        world.rest()
        world.passes(120)
        assert world.calls() == "keys.unavailable"


@pytest.mark.parametrize(
    "over",
    [
        {"issuer": "https://iam.acme.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://iam.acme.example/jwks"},
        {"jwks_uri": "file:///dev/zero"},
        {"token_endpoint": "javascript:alert(1)"},
    ],
)
def test_metadata_that_does_not_count_gives_no_keys(over: dict[str, Any], server: KeyServer) -> None:
    """Attack: who can write a file to another place of the host, or another tenant there, says where the keys are."""
    server.metadata |= over
    world = World(server)
    assert world.opens(world.token()) == "keys.unavailable"
    assert world.fetched == 0


def test_an_hour_is_counted_from_the_last_good_answer(server: KeyServer) -> None:
    world = World(server)
    world.issuer.fetch()
    for _ in range(30):
        world.passes(remote.TTL + 1)
        world.issuer.rules()
        world.rest()
        assert world.opens(world.token()) == "allow"
    assert world.clock.by > 2 * remote.STALE


@pytest.mark.parametrize("does", sorted(SLOW))
def test_a_slow_server_denies_at_the_deadline_and_its_answer_is_kept(does: str, server: KeyServer) -> None:
    server.does = does
    world = World(server, deadline=0.25)
    began = time.monotonic()
    assert world.opens(world.token()) == "keys.unavailable"
    assert time.monotonic() - began > 0.2
    flight = world.remote._flight
    assert flight is not None and not flight.done(), "denied, and the server is still waited for"
    if does == "hang":
        server.gate.set()
        world.rest()
        world.patient()
        assert world.opens(world.token()) == "allow", "the fetch went on"
        assert world.fetched == 1


def test_a_thousand_unknown_kids(server: KeyServer) -> None:
    """A048: one request in thirty seconds, whatever the server does with it; and the verified are as quick as ever."""
    world = World(server)
    good = world.token()
    world.issuer.fetch()
    with world.guard.task(good):
        world.calls()
        server.does = "hang"
        strangers = [world.token(OTHER, f"unknown-{n}") for n in range(1000)]
        seen: set[str] = set()
        world.passes(31)
        trust = TrustedIssuers(world.issuer)

        def flood(texts: list[str]) -> None:
            for text in texts:
                try:
                    trust.verify(text, now=int(time.time()))
                except TokenRefused as refused:
                    seen.add(str(refused.code))
                time.sleep(0)  # a flood from outside: threads that never let go of the interpreter are another attack

        waiting = Guard(POLICY, trust=world.issuer, sinks=[ListSink()], deadline=timedelta(seconds=0.8))

        def waits() -> None:
            """Who waits for the server waits so long, and is denied then."""
            with pytest.raises(Denied) as denied:
                waiting.task(world.token(OTHER, "unknown")).__enter__()
            seen.add(str(denied.value.code))

        threads = [threading.Thread(target=flood, args=(strangers[n::4],)) for n in range(4)]
        first = threading.Thread(target=waits)
        first.start()
        assert world.comes_to(2) == 2
        flight = world.remote._flight
        assert flight is not None
        for each in threads:
            each.start()
        while any(each.is_alive() for each in (first, *threads)):
            assert world.calls() == "allow"
            assert not flight.done(), "nobody who was verified waits for the server"
        assert seen == {"keys.unavailable"}, "each would wait for the one that is under way"
        assert world.fetched == 2
        server.gate.set()
        world.rest()
        seen.clear()
        flood(strangers)
        assert seen == {"token.signature"}
        assert world.fetched == 2


def test_a_flood_over_an_hour(server: KeyServer) -> None:
    """By the clock of the guard: unknown kids every second, and a request every thirty. What is remembered of them is bounded."""
    world = World(server)
    world.issuer.fetch()
    trust = TrustedIssuers(world.issuer)
    for second in range(600):
        world.passes(1)
        for n in range(3):
            with pytest.raises(TokenRefused) as caught:
                trust.verify(world.token(OTHER, f"u-{second}-{n}"), now=int(time.time()))
            if type(caught.value).__name__ == "KeysWanted":
                trust.fetch(caught.value).result(timeout=10)  # type: ignore[arg-type]
    assert 2 <= world.fetched <= 1 + 600 / remote.APART
    assert len(world.remote._missing) <= remote.MOST_MISSING


def test_one_unknown_kid_is_asked_about_once_a_minute(server: KeyServer) -> None:
    world = World(server)
    world.issuer.fetch()
    asked = []
    for _ in range(12):
        world.passes(10)
        assert world.opens(world.token(OTHER, "k9")) == "token.signature"
        asked.append(world.fetched)
    assert asked == [1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    for n in range(3 * remote.MOST_MISSING):
        world.remote.fetch(f"m-{n}")
    assert len(world.remote._missing) == remote.MOST_MISSING


def test_a_bad_signature_under_a_known_kid_fetches_nothing(server: KeyServer) -> None:
    world = World(server)
    world.issuer.fetch()
    world.passes(31)
    assert {world.opens(world.token(OTHER)) for _ in range(20)} == {"token.signature"}
    assert world.opens(world.token(kid=...)) == "token.header"  # type: ignore[arg-type]
    assert world.fetched == 1


def test_a_server_that_comes_later_is_not_asked_all_the_time(server: KeyServer) -> None:
    """Without any keys: one second, two, four, up to thirty."""
    server.does = "500"
    world = World(server)
    asked = []
    for _ in range(40):
        assert world.opens(world.token()) == "keys.unavailable"
        world.rest()
        asked.append(world.fetched)
        world.passes(1)
    assert asked[:8] == [1, 2, 2, 3, 3, 3, 3, 4]
    assert asked[-1] == 6
    server.does = "well"
    world.passes(30)
    assert world.opens(world.token()) == "allow"


def test_a_fetch_that_never_returns_is_given_up(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, patience: Callable[[float], None]
) -> None:
    """A process that was forked in the middle of it: nobody is at it any more."""
    world = World(server, deadline=0.25)
    patience(1.0)
    begun = []
    with monkeypatch.context() as patched:
        patched.setattr(remote.RemoteKeys, "_fly", lambda self, flight: begun.append(flight))
        for _ in range(6):
            assert world.opens(world.token()) == "keys.unavailable"
            world.passes(9)
    assert len(begun) == 2, "at 0 and after 30 seconds, not as soon as the first was given up"
    patience(PATIENT)
    world.patient()
    world.passes(30)
    assert world.opens(world.token()) == "allow"


def test_a_kid_is_asked_for_again_where_there_was_no_answer(server: KeyServer) -> None:
    """After thirty seconds, not after the minute of one that the server was asked for and did not have."""
    world = World(server)
    world.issuer.fetch()
    world.passes(31)
    server.does = "500"
    assert world.opens(world.token(OTHER, "k2")) == "token.signature"
    server.does, server.keys = "well", [K1, K2]
    world.passes(31)
    assert world.opens(world.token(OTHER, "k2")) == "allow"


def test_what_comes_late_does_not_replace_what_is_newer(server: KeyServer) -> None:
    """Attack: an answer held back for long brings back a key that was taken out."""
    world = World(server)
    old = world.remote
    server.does = "hang"
    slow = old.fetch()
    world.comes_to(1)
    world.passes(40)  # given up
    server.does, server.keys = "well", [K2]
    assert old.fetch().result(timeout=10) is True
    with pytest.raises(TimeoutError):
        slow.result(timeout=0)
    server.keys = [K1]
    server.gate.set()
    slow.result(timeout=10)
    assert [key.kid for key in world.issuer.rules().keys] == ["k2"]


def test_one_issuers_server_is_not_the_others_matter(server: KeyServer) -> None:
    iam = LocalIssuer("acme-dev", audience=AUD)
    with key_server(K2) as other:
        server.does = "hang"
        issuers = [Issuer(server.url, audience=AUD), Issuer(other.url, audience=AUD), iam]
        guard = Guard(POLICY, trust=issuers, sinks=[ListSink()], deadline=timedelta(seconds=30))
        world = World(other)
        with guard.task(world.token(OTHER, "k2")):
            guard.call(ToolCall("look", {"order": "A-17"}), lambda order: order)
        assert server.asked == {}


def test_nothing_of_a_token_is_in_the_refusal(server: KeyServer) -> None:
    server.does = "html"
    world = World(server)
    text = world.token()
    with pytest.raises(Denied) as caught:
        world.guard.task(text).__enter__()
    said = str(caught.value) + repr(caught.value.decision)
    assert "another kind of content" in said
    assert not [part for part in text.split(".") if part in said]
    assert "<html>" not in said


class Broken:
    """A verifier that wants keys and has no good way to get them."""

    inline = True
    generation = 0

    def __init__(self, fetch: Any) -> None:
        self.fetch = fetch

    def verify(self, token: str, *, now: int) -> Any:
        raise KeysWanted("https://iam.acme.example")


def raises(error: BaseException) -> Any:
    def fetch(wanted: KeysWanted) -> object:
        raise error

    return fetch


@pytest.mark.parametrize(
    "fetch",
    [
        raises(ValueError("x")),
        raises(KeyError("x")),
        raises(MemoryError()),
        lambda wanted: None,
        lambda wanted: True,
        lambda wanted: Future(),
        lambda wanted, more: None,
        None,
    ],
)
def test_a_verifier_that_cannot_fetch_denies(fetch: Any) -> None:
    """Synchronous and not: a refusal, and no exception of somebody else's."""
    guard = Guard(POLICY, trust=LocalIssuer("acme-dev"), sinks=[ListSink()], deadline=timedelta(seconds=0.2))
    guard._house.verifier = Broken(fetch)

    async def opened() -> None:
        async with guard.task(token()):
            pass

    for attempt in (lambda: guard.task(token()).__enter__(), lambda: asyncio.run(opened())):
        with pytest.raises(Denied) as caught:
            attempt()
        assert caught.value.code == "keys.unavailable"


def test_keys_that_come_after_the_deadline_are_for_the_next_call() -> None:
    """The whole decision has its deadline; an answer that is there a moment later does not count for it."""
    iam = LocalIssuer("acme-dev")
    trust = TrustedIssuers(iam)
    guard = Guard(POLICY, trust=iam, sinks=[ListSink()], deadline=timedelta(seconds=0.1))
    slow = Broken(lambda wanted: Future())
    guard._house.verifier = slow
    text = iam.mint(origin="alice", actor="a", intent="i")
    asked: list[str] = []

    def verify(given: str, *, now: int) -> Any:
        asked.append(given)
        if len(asked) == 1:
            raise KeysWanted("https://iam.acme.example")
        return trust.verify(given, now=now)

    slow.verify = verify  # type: ignore[method-assign]
    with pytest.raises(Denied) as caught:
        guard.task(text).__enter__()
    assert caught.value.code == "keys.unavailable"
    assert "deadline" in str(caught.value)
    guard._house.seconds = 30.0  # now it is about what was said, and not about when
    with guard.task(text) as task:
        assert task.delegation.origin == "alice"


def test_an_interrupt_while_keys_are_waited_for() -> None:
    guard = Guard(POLICY, trust=LocalIssuer("acme-dev"), sinks=[ListSink()])
    guard._house.verifier = Broken(raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        guard.task(token()).__enter__()
