"""Keys over HTTP, through a guard, from a server that behaves: fetched when needed, once for all who wait, followed when they change."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from guard import Issuer, ToolCall
from guard.errors import ConfigError, GuardError
from guard.identity import TrustedIssuers, remote
from guard.tokens import IssuerRules
from guard.tokens.rules import by_typ
from tests.identity.keyserver import JWKS, METADATA, KeyServer
from tests.identity.keyworld import K1, K2, World, patience, server
from tests.tokens.forge import AUD, ED, KEY, OTHER, RSA, jwk, keys

__all__ = ["patience", "server"]


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
        world.comes_to(1)
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
        world.comes_to(2)
        server.gate.set()
        assert {each.result() for each in waiting} == {"allow"}
    assert world.fetched == 2


def test_keys_that_come_while_a_token_is_looked_at(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused for a key that is there by now, and nobody has to be asked for."""
    world = World(server)
    trust = TrustedIssuers(world.issuer)
    world.issuer.fetch()
    world.passes(31)
    server.keys = [K1, K2]
    looks = trust._unknown

    def late(token: str) -> Any:
        assert world.remote.fetch("k2").result(timeout=30)
        return looks(token)

    monkeypatch.setattr(trust, "_unknown", late)
    assert trust.verify(world.token(OTHER, "k2"), now=int(time.time())).origin == "alice"


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
