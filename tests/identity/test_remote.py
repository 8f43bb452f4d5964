"""Keys over HTTP, through a guard: from a server that behaves, and from one that does everything else. Whatever it does, nothing counts that
did not count before, and nobody who was verified waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from guard import Denied, Guard, Issuer, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, GuardError, KeysWanted, TokenRefused
from guard.identity import TrustedIssuers, remote
from guard.record import ListSink
from guard.tokens import IssuerRules
from guard.tokens.rules import by_typ
from tests.identity.keyserver import BAD, JWKS, METADATA, SLOW, KeyServer, key_server
from tests.tokens.forge import AUD, ED, KEY, OTHER, RSA, claims, jwk, keys, token

POLICY = Policy.from_text(
    """
guardtrail: 1
name: shop
tools: {look: {effect: read, control: {order: id}}}
flow: {read: {allow: [any]}}
scopes: {"invoices.read": [look]}
""",
    file="policy.yaml",
)
K1, K2 = jwk(KEY, "k1"), jwk(OTHER, "k2")


class Shifted:
    """The steady clock, and seconds that have passed besides."""

    def __init__(self) -> None:
        self.by = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.by


class World:
    """A guard over one issuer whose keys come from `server`."""

    def __init__(self, server: KeyServer, *, deadline: float = 10.0, **options: Any) -> None:
        self.server = server
        self.issuer = Issuer(server.url, audience=AUD, **options)
        self.clock = Shifted()
        assert self.issuer._remote is not None
        self.remote = self.issuer._remote
        self.remote._clock = self.clock
        self.guard = Guard(POLICY, trust=self.issuer, sinks=[ListSink()], deadline=timedelta(seconds=deadline))
        self._txn = 0

    def token(self, key: Any = KEY, kid: str = "k1", **header: Any) -> str:
        now = int(time.time())
        self._txn += 1
        named = {"iss": self.server.url, "iat": now - 10, "exp": now + 600, "txn": f"t{self._txn}", "jti": f"j{self._txn}"}
        return token(claims(**named), key=key, kid=kid, **header)

    def opens(self, text: str) -> str:
        """Open a task and call: `allow`, or the code."""
        try:
            with self.guard.task(text):
                return self.calls()
        except Denied as denied:
            return str(denied.code)

    def calls(self) -> str:
        try:
            self.guard.call(ToolCall("look", {"order": "A-17"}), lambda order: order)
        except Denied as denied:
            return str(denied.code)
        return "allow"

    def rest(self) -> None:
        """Until nobody is fetching."""
        flight = self.remote._flight
        if flight is not None:
            flight.result(timeout=30)

    def passes(self, seconds: float) -> None:
        self.clock.by += seconds

    @property
    def fetched(self) -> int:
        return self.server.asked[JWKS]


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server(K1) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch may take a second here, not ten."""
    monkeypatch.setattr(remote, "SECONDS", 1.0)


# -- a server that behaves -----------------------------------------------------------------------------------------------------------


def test_the_first_token_fetches_what_it_needs(server: KeyServer) -> None:
    world = World(server)
    assert server.asked == {}, "nothing is asked before it is needed"
    assert [world.opens(world.token()) for _ in range(5)] == ["allow"] * 5
    assert server.asked == {METADATA: 1, JWKS: 1}


@pytest.mark.parametrize(
    ("key", "alg"), [(KEY, "ES256"), (RSA, "RS256"), (ED, "EdDSA"), (ED, "Ed25519")], ids=["ES256", "RS256", "EdDSA", "Ed25519"]
)
def test_every_algorithm(key: Any, alg: str, server: KeyServer) -> None:
    server.keys = [jwk(key, "k1", alg=alg)]
    assert World(server).opens(World(server).token(key, alg=alg)) == "allow"


def test_a_key_set_by_its_address(server: KeyServer) -> None:
    server.metadata = {}
    world = World(server, keys=server.url + JWKS)
    assert world.opens(world.token()) == "allow"
    assert server.asked == {JWKS: 1}


def test_for_a_coroutine(server: KeyServer) -> None:
    world = World(server)

    async def run() -> str:
        async def look(order: str) -> str:
            return order

        async with world.guard.task(world.token()):
            return await world.guard.acall(ToolCall("look", {"order": "A-17"}), look)

    assert asyncio.run(run()) == "A-17"


def test_keys_before_the_first_call(server: KeyServer) -> None:
    world = World(server)
    world.issuer.fetch()
    world.issuer.fetch()
    assert world.fetched == 1
    server.close()
    down = Issuer(server.url, audience=AUD)
    with pytest.raises(GuardError, match="could not be reached") as caught:
        down.fetch(seconds=5)
    assert caught.value.code == "keys.unavailable"


def test_a_crowd_is_one_request(server: KeyServer) -> None:
    server.does = "hang"
    world = World(server)
    tokens = [world.token() for _ in range(40)]
    with ThreadPoolExecutor(40) as crowd:
        waiting = [crowd.submit(world.opens, text) for text in tokens]
        while not world.fetched:
            time.sleep(0.01)
        time.sleep(0.1)
        server.gate.set()
        assert {each.result() for each in waiting} == {"allow"}
    assert server.asked == {METADATA: 1, JWKS: 1}


def test_a_new_key_is_found_when_its_first_token_comes(server: KeyServer) -> None:
    world = World(server)
    assert world.opens(world.token()) == "allow"
    server.keys = [K1, K2]
    assert world.opens(world.token(OTHER, "k2")) == "token.signature", "asked a moment ago"
    world.passes(31)
    assert world.opens(world.token(OTHER, "k2")) == "allow"
    assert world.opens(world.token()) == "allow"
    assert world.fetched == 2


def test_a_crowd_with_a_new_key_waits_for_one_request(server: KeyServer) -> None:
    """After a rotation they come together; none is turned away because another asked first."""
    world = World(server)
    assert world.opens(world.token()) == "allow"
    world.passes(31)
    server.keys, server.does = [K1, K2], "hang"
    tokens = [world.token(OTHER, "k2") for _ in range(20)]
    with ThreadPoolExecutor(20) as crowd:
        waiting = [crowd.submit(world.opens, text) for text in tokens]
        while world.fetched < 2:
            time.sleep(0.01)
        server.gate.set()
        assert {each.result() for each in waiting} == {"allow"}
    assert world.fetched == 2


def test_a_key_rotated_out_takes_its_tokens_along(server: KeyServer) -> None:
    """A050: from the first refresh after the rotation, in the middle of a task, although it was verified before."""
    world = World(server)
    with world.guard.task(world.token()):
        assert world.calls() == "allow"
        server.keys = [K2]
        assert world.calls() == "allow"
        world.passes(remote.TTL + 1)
        world.calls()  # begins the refresh and does not wait for it
        world.rest()
        assert world.calls() == "token.signature"
    assert world.opens(world.token(OTHER, "k2")) == "allow"


def test_a_refresh_that_brings_the_same_changes_nothing(server: KeyServer) -> None:
    world = World(server)
    text = world.token()
    trust = TrustedIssuers(world.issuer)
    world.issuer.fetch()
    found, generation = trust.verify(text, now=int(time.time())), trust.generation
    for _ in range(3):
        world.passes(remote.TTL + 1)
        assert trust.verify(text, now=int(time.time())) is found
        world.rest()
    assert trust.generation == generation
    assert world.fetched == 4


def test_keys_that_move(server: KeyServer) -> None:
    """The address is believed for an hour, and for as long as it answers."""
    world = World(server)
    world.issuer.fetch()
    server.metadata["jwks_uri"] = server.url + "/gone"
    world.passes(remote.TTL + 1)
    world.issuer.rules()
    world.rest()
    assert (server.asked[METADATA], server.asked[JWKS], server.asked["/gone"]) == (1, 2, 0)
    server.does = "500"
    for _ in range(2):
        world.passes(remote.TTL + 1)
        world.issuer.rules()
        world.rest()
    assert (server.asked[METADATA], server.asked["/gone"]) == (2, 1)


# -- a server that does not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", sorted(BAD))
def test_without_keys_nothing_counts(does: str, server: KeyServer) -> None:
    """A049, A051: at the start. One reason; the process goes on, and has its keys when the server has."""
    server.does = does
    world = World(server)
    texts = [world.token(), world.token(OTHER), world.token(OTHER, "s"), world.token(kid="k0")]
    assert {world.opens(text) for text in texts} == {"keys.unavailable"}
    world.rest()
    server.does = "well"
    world.passes(31)
    assert world.opens(world.token()) == "allow"


@pytest.mark.parametrize("does", sorted(BAD))
def test_a_good_set_stays_until_its_end(does: str, server: KeyServer) -> None:
    """A049: whoever was verified is, at the usual speed; new keys are not; after an hour without a good answer nobody is."""
    world = World(server)
    with world.guard.task(world.token()):
        assert world.calls() == "allow"
        server.does, server.keys = does, [K1, K2]
        world.passes(remote.TTL + 1)
        slowest = 0.0
        for _ in range(50):
            began = time.monotonic()
            assert world.calls() == "allow"
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.9, "a fetch takes a second to be given up"
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
def test_a_slow_server_denies_at_the_deadline_and_its_answer_is_kept(does: str, server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SECONDS", 5.0)
    server.does = does
    world = World(server, deadline=0.25)
    began = time.monotonic()
    assert world.opens(world.token()) == "keys.unavailable"
    assert 0.2 < time.monotonic() - began < 3
    if does == "hang":
        server.gate.set()
        world.rest()
        assert world.opens(world.token()) == "allow", "the fetch went on"
        assert world.fetched == 1


def test_a_thousand_unknown_kids(server: KeyServer) -> None:
    """A048: one request in thirty seconds, whatever the server does with it; and the verified are as quick as ever."""
    world = World(server, deadline=0.25)
    good = world.token()
    world.issuer.fetch()
    with world.guard.task(good):
        world.calls()
        server.does = "hang"
        strangers = [world.token(OTHER, f"unknown-{n}") for n in range(1000)]
        times: list[float] = []
        seen: set[str] = set()
        world.passes(31)
        trust = TrustedIssuers(world.issuer)

        def flood(texts: list[str]) -> None:
            for text in texts:
                try:
                    trust.verify(text, now=int(time.time()))
                except TokenRefused as refused:
                    seen.add(str(refused.code))

        threads = [threading.Thread(target=flood, args=(strangers[n::4],)) for n in range(4)]
        first = threading.Thread(target=lambda: seen.add(world.opens(world.token(OTHER, "unknown"))))
        for each in (first, *threads):
            each.start()
        while any(each.is_alive() for each in (first, *threads)):
            began = time.monotonic()
            assert world.calls() == "allow"
            times.append(time.monotonic() - began)
        assert seen == {"keys.unavailable"}, "each would wait for the one that is under way"
        assert world.fetched == 2
        server.gate.set()
        world.rest()
        seen.clear()
        flood(strangers)
        assert seen == {"token.signature"}
        assert world.fetched == 2
    times.sort()
    assert times[int(len(times) * 0.95)] < 0.2


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


def test_a_fetch_that_never_returns_is_given_up(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was forked in the middle of it: nobody is at it any more."""
    world = World(server, deadline=0.25)
    begun = []
    with monkeypatch.context() as patched:
        patched.setattr(remote.RemoteKeys, "_fly", lambda self, flight: begun.append(flight))
        for _ in range(6):
            assert world.opens(world.token()) == "keys.unavailable"
            world.passes(9)
    assert len(begun) == 2, "at 0 and after 30 seconds, not as soon as the first was given up"
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
    while not world.fetched:
        time.sleep(0.01)
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
        guard = Guard(POLICY, trust=issuers, sinks=[ListSink()], deadline=timedelta(seconds=5))
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
    with guard.task(text) as task:
        assert task.delegation.origin == "alice"


def test_an_interrupt_while_keys_are_waited_for() -> None:
    guard = Guard(POLICY, trust=LocalIssuer("acme-dev"), sinks=[ListSink()])
    guard._house.verifier = Broken(raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        guard.task(token()).__enter__()


# -- narrowing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithms", "says"),
    [
        (None, ["allow", "allow", "allow"]),
        (["ES256"], ["allow", "token.signature", "token.signature"]),
        (["RS256", "EdDSA"], ["token.signature", "allow", "allow"]),
        ({"at+jwt": ["Ed25519", "ES256"]}, ["allow", "token.signature", "allow"]),
        ({"txntoken+jwt": ["ES256", "RS256", "EdDSA"]}, ["token.signature"] * 3),
        ({"secevent+jwt": ["RS256"], "at+jwt": ["ES256"]}, ["allow", "token.signature", "token.signature"]),
    ],
)
def test_only_these_algorithms(algorithms: Any, says: list[str], server: KeyServer) -> None:
    """A list of the issuer besides that of the house; a kind of token that a mapping leaves out does not count at all."""
    server.keys = [K1, jwk(RSA, "r1"), jwk(ED, "e1")]
    world = World(server, algorithms=algorithms)
    texts = [world.token(), world.token(RSA, "r1", alg="RS256"), world.token(ED, "e1", alg="Ed25519")]
    assert [world.opens(text) for text in texts] == says


def test_a_narrowing_by_kind_of_token() -> None:
    rules = IssuerRules(
        "https://iam.acme.example", "acme", AUD, 60, keys(K1), algorithms=by_typ({"secevent+jwt": ["RS256"], "at+jwt": ["EdDSA"]})
    )
    admitted = [
        (typ, alg)
        for typ in ("at+jwt", "secevent+jwt", "txntoken+jwt", "")
        for alg in ("RS256", "Ed25519", "EdDSA")
        if rules.admits(typ, alg)
    ]
    assert admitted == [("at+jwt", "Ed25519"), ("at+jwt", "EdDSA"), ("secevent+jwt", "RS256")]


def test_keys_in_a_file_are_not_fetched(tmp_path: Any) -> None:
    import json

    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [K1]}))
    issuer = Issuer("https://iam.acme.example", audience=AUD, keys=path)
    assert not issuer.remote
    assert not issuer.wants("k2")
    with pytest.raises(ConfigError, match="in a file"):
        issuer.fetching()
    issuer.fetch()
