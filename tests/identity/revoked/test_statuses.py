"""Token status lists: the published example, A114 of the attack list, and a real loopback server."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Issuer
from guard.errors import ConfigError, TokenRefused
from guard.identity import TrustedIssuers
from guard.identity.revoked import StatusLists
from guard.tokens.jose import b64url_encode
from guard.tokens.statuslist import MAX_INFLATED, place, read_list
from tests.identity.revoked.test_inbox import jwks
from tests.identity.revoked.test_introspect import code
from tests.identity.revoked.test_store import Steady
from tests.identity.revoked.web import Web, get, serving
from tests.tokens.forge import AUD, ISS, NOW, OTHER, RSA, claims, jwk, token
from tests.tokens.sets import KEYS

URI = "https://iam.acme.example/statuslists/1"


def packed(statuses: bytes) -> str:
    return b64url_encode(zlib.compress(statuses, 9))


def listed(told: Any = ..., *, key: Any = RSA, header: dict[str, Any] | None = None, **over: object) -> str:
    made = {"sub": URI, "iat": NOW - 5, "ttl": 60, "status_list": {"bits": 1, "lst": packed(b"\xb9\xa3")} if told is ... else told, **over}
    content = {name: value for name, value in made.items() if value is not ...}
    return token(json.dumps(content).encode(), key=key, header={"alg": "RS256", "typ": "statuslist+jwt", "kid": "r1", **(header or {})})


def read(text: str, *, uri: str = URI, now: int = NOW) -> Any:
    return read_list(text, uri=uri, keys=KEYS, algorithms=["RS256"], now=now)


def test_the_examples_of_the_draft() -> None:
    """Section 4.1: one bit and two bits a token, the first in the lowest bits of the first byte."""
    one = read(listed())
    assert [one.status(i) for i in range(16)] == [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]
    two = read(listed({"bits": 2, "lst": packed(b"\xc9\x44\xf9")}))
    assert [two.status(i) for i in range(12)] == [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]
    assert read(listed({"bits": 1, "lst": "eNrbuRgAAhcBXQ"})).status(0) == 1, "the compressed text of the draft"


@given(st.sampled_from([1, 2, 4, 8]), st.data())
def test_every_status_is_where_it_was_put(bits: int, data: st.DataObject) -> None:
    per = 8 // bits
    statuses = data.draw(
        st.lists(st.integers(0, (1 << bits) - 1), min_size=per, max_size=per * 6).map(lambda some: some[: len(some) // per * per])
    )
    raw = bytes(sum(one << (i * bits) for i, one in enumerate(statuses[at : at + per])) for at in range(0, len(statuses), per))
    found = read(listed({"bits": bits, "lst": packed(raw)}))
    assert [found.status(i) for i in range(len(statuses))] == statuses
    for index in (-1, len(statuses), True):
        with pytest.raises(TokenRefused):
            found.status(index)


_BOMB = zlib.compressobj(9)
BOMB = b64url_encode(b"".join(_BOMB.compress(bytes(1 << 20)) for _ in range(300)) + _BOMB.flush())
"""300 MB in as many kilobytes; ten gigabytes would be the same, and take the test a minute to make."""


@pytest.mark.parametrize(
    "text",
    [
        listed({"bits": 3, "lst": packed(b"x")}),
        listed({"bits": 0, "lst": packed(b"x")}),
        listed({"bits": True, "lst": packed(b"x")}),
        listed({"bits": "1", "lst": packed(b"x")}),
        listed({"bits": 1}),
        listed({"bits": 1, "lst": "a b"}),
        listed({"bits": 1, "lst": "AAAA"}),
        listed({"bits": 1, "lst": packed(b"")}),
        listed({"bits": 1, "lst": packed(b"x") + "AA"}),
        listed({"bits": 1, "lst": b64url_encode(zlib.compress(b"x" * 100)[:-5])}),
        listed({"bits": 1, "lst": b64url_encode(zlib.compress(bytes(MAX_INFLATED + 1)))}),
        listed({"bits": 1, "lst": BOMB}),
        listed([]),
        listed(...) + "x",
        listed(sub="https://iam.acme.example/statuslists/2"),
        listed(sub=...),
        listed(iat=...),
        listed(iat=NOW + 6),
        listed(iat=NOW - 60),
        listed(iat=NOW - 301, ttl=...),
        listed(exp=NOW),
        listed(exp="later"),
        listed(ttl=0),
        listed(ttl=1.5),
        listed(header={"typ": "JWT"}),
        listed(header={"typ": "at+jwt"}),
        listed(header={"jwk": jwk(RSA, "r1")}),
        listed(header={"alg": "PS256"}),
        listed(header={"kid": "k1"}),
        listed(key=OTHER, header={"alg": "ES256"}),
        "",
        "x" * 2_000_000,
    ],
    ids=range(32),
)
def test_a114_what_is_no_list(text: str) -> None:
    import tracemalloc

    assert read(listed()).status(0) == 1, "without it every row would pass for nothing"
    tracemalloc.start()
    with pytest.raises(TokenRefused) as caught:
        read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "revocation.unavailable"
    assert caught.value.__context__ is None
    assert peak < 4 * MAX_INFLATED, "a bomb is not let off"


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (..., None),
        ({"status_list": {"idx": 4, "uri": URI}}, (URI, 4)),
        ({"status_list": {"idx": -1, "uri": URI}}, "no"),
        ({"status_list": {"idx": True, "uri": URI}}, "no"),
        ({"status_list": {"idx": "4", "uri": URI}}, "no"),
        ({"status_list": {"idx": 4}}, "no"),
        ({"status_list": {"idx": 4, "uri": "x" * 257}}, "no"),
        ({"status_list": None}, "no"),
        ({"other_mechanism": {}}, "no"),
        ({}, "no"),
        (None, "no"),
    ],
)
def test_where_a_status_stands(status: Any, found: Any) -> None:
    told = claims(status=status)
    if found == "no":
        with pytest.raises(TokenRefused):
            place(told)
    else:
        assert place(told) == found


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(lambda asked: (200, b"")) as found:
        yield found


def looking(web: Web, folder: Path, steady: Any = None, uris: Any = None) -> Any:
    issuer = Issuer(ISS, audience=AUD, keys=jwks(folder / "jwks.json"))
    more = {} if steady is None else {"steady": steady}
    return StatusLists(issuer, uris=uris or [f"{web.url}/lists/"], get=get, **more).over(TrustedIssuers(issuer))


def of(uri: str, index: int, **over: object) -> str:
    return token(claims(status={"status_list": {"idx": index, "uri": uri}}, **over))


def test_a_status_is_looked_up(web: Web, tmp_path: Path) -> None:
    uri = f"{web.url}/lists/1"
    web.answer = lambda asked: (200, listed(sub=uri).encode())
    verifier = looking(web, tmp_path)
    assert [code(verifier, of(uri, index)) for index in (0, 1, 2, 3)] == ["token.revoked", "allow", "allow", "token.revoked"]
    assert len(web.asked) == 1, "one list serves them all"
    assert code(verifier, of(uri, 16)) == "revocation.unavailable", "A114: no place of the list"
    assert code(verifier, token()) == "allow", "a token without a status has none"
    web.answer = lambda asked: (200, listed({"bits": 2, "lst": packed(b"\x02")}, sub=uri + "b").encode())
    assert code(verifier, of(uri + "b", 0)) == "token.revoked", "suspended"


def test_by_the_one_file_that_speaks_http(web: Web, tmp_path: Path) -> None:
    uri = f"{web.url}/lists/1"
    web.answer = lambda asked: (200, listed(sub=uri).encode())
    issuer = Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "jwks.json"))
    verifier = StatusLists(issuer, uris=[uri]).over(TrustedIssuers(issuer))
    assert [code(verifier, of(uri, index)) for index in (0, 1)] == ["token.revoked", "allow"]
    assert web.asked[0].headers["accept"] == "application/statuslist+jwt"


@pytest.mark.parametrize(
    "uri",
    ["http://169.254.169.254/lists/1", "http://127.0.0.1:22/lists/1", "https://evil.example/lists/1", "file:///etc/passwd", "{web}/lists/../admin", "{web}/lists/%2e%2e/admin",
     "{web}/listsx", "{web}/lists/1?x=1", "{web}/lists/1#x", "{web}@evil.example/lists/1", "{web}/lists/1\\..\\x", "{WEB}/lists/1", "{web}/lists/./1"],
)  # fmt: skip
def test_a114_nothing_is_fetched_from_elsewhere(uri: str, web: Web, tmp_path: Path) -> None:
    uri = uri.replace("{web}", web.url).replace("{WEB}", web.url.upper())
    web.answer = lambda asked: (200, listed({"bits": 1, "lst": packed(b"\0")}, sub=uri).encode())
    assert code(looking(web, tmp_path), of(uri, 0)) == "revocation.unavailable"
    assert web.asked == []


def test_a114_a_list_beyond_its_time_denies(web: Web, tmp_path: Path) -> None:
    uri, steady = f"{web.url}/lists/1", Steady()
    web.answer = lambda asked: (200, listed({"bits": 1, "lst": packed(b"\0")}, sub=uri, ttl=60, exp=NOW + 90).encode())
    verifier = looking(web, tmp_path, steady)
    text = of(uri, 0)
    assert code(verifier, text) == "allow"
    web.answer = lambda asked: (500, b"")
    steady.at = 59.0
    assert code(verifier, text, NOW + 59) == "allow"
    steady.at = 60.0
    assert code(verifier, text, NOW + 60) == "revocation.unavailable", "not to be had anew"
    web.answer = lambda asked: (200, listed({"bits": 1, "lst": packed(b"\0")}, sub=uri, ttl=60, exp=NOW + 90).encode())
    assert code(verifier, text, NOW + 60) == "allow"
    assert code(verifier, text, NOW + 90) == "revocation.unavailable", "it has expired, be the kept one young"


@pytest.mark.parametrize("answer", [(404, b""), (200, b""), (200, b"<html>"), (200, b"\xff"), (302, b""), (200, b"x" * (1 << 21))])
def test_what_is_no_answer_denies(answer: tuple[int, bytes], web: Web, tmp_path: Path) -> None:
    uri = f"{web.url}/lists/1"
    web.answer = lambda asked: answer
    assert code(looking(web, tmp_path), of(uri, 0)) == "revocation.unavailable"


@pytest.mark.parametrize(
    "uris", [[], ["http://iam.example/"], ["https://iam.example/a/../"], ["https://u@iam.example/"], [""], ["https://iam.example/?"]]
)
def test_places_are_plain(uris: list[str], web: Web, tmp_path: Path) -> None:
    issuer = Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "jwks.json"))
    with pytest.raises(ConfigError):
        StatusLists(issuer, uris=uris, get=get)
