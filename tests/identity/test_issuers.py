"""Whose tokens count: issuers that are configured wrongly are refused at once, keys follow their file, what was verified is kept with care."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError, TokenRefused
from guard.identity import Issuer, LocalIssuer
from guard.identity.trusted import TrustedIssuers
from tests.tokens.forge import AUD, ISS, KEY, NOW, OTHER, claims, jwk, token


def key_file(folder: Path, *given: dict[str, Any]) -> Path:
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": list(given)}))
    return path


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"url": "http://iam.acme.example"}, "`url` must be the exact `iss`"),
        ({"url": "https://alice@iam.acme.example"}, "`url` must be"),
        ({"url": "https://iam.acme.example?x=1"}, "`url` must be"),
        ({"url": "https://iam.acme.example#x"}, "`url` must be"),
        ({"url": ""}, "`url` must be"),
        ({"url": None}, "`url` must be"),
        ({"audience": ""}, "`audience` must be"),
        ({"audience": ["a"]}, "`audience` must be"),
        ({"keys": "http://iam.acme.example/jwks"}, "`keys` is an https:// address"),
        ({"keys": "http://127.0.0.1:9/jwks"}, "http:// only where `url` is on loopback too"),
        ({"keys": "https://alice@iam.acme.example/jwks"}, "`keys` is an https:// address"),
        ({"keys": "ftp://iam.acme.example/jwks"}, "`keys` is an https:// address"),
        ({"keys": ""}, "not its content"),
        ({"algorithms": []}, "`algorithms` are some of"),
        ({"algorithms": {}}, "nothing would count"),
        ({"algorithms": "ES256"}, "`algorithms` are lists"),
        ({"algorithms": ["HS256"]}, "`algorithms` are some of"),
        ({"algorithms": ["none"]}, "`algorithms` are some of"),
        ({"algorithms": {"at+jwt": ["ES256", "ES256K"]}}, "`algorithms` are some of"),
        ({"algorithms": {"jwt": ["ES256"]}}, "`algorithms` is by `typ`"),
        ({"keys": '{"keys": []}'}, "not its content"),
        ({"max_ttl": timedelta(days=2)}, "`max_ttl`"),
        ({"max_ttl": 60}, "`max_ttl`"),
        ({"tenant": ""}, "`tenant`"),
        ({"task_claim": "jti"}, "`jti` cannot name the task"),
        ({"task_claim": "sub"}, "`sub` cannot name the task"),
    ],
)
def test_a_misconfigured_issuer(over: dict[str, Any], says: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"url": ISS, "audience": AUD, "keys": key_file(tmp_path, jwk(KEY, "k1")), **over}
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        Issuer(given.pop("url"), **given)


def test_http_is_for_loopback_only(tmp_path: Path) -> None:
    path = key_file(tmp_path, jwk(KEY, "k1"))
    for url in ("http://127.0.0.1:8080", "http://localhost:8080/realm", "http://[::1]"):
        assert Issuer(url, audience=AUD, keys=path).url == url


@pytest.mark.parametrize("given", [None, [], "https://iam.acme.example", [None], {}, [LocalIssuer("a"), LocalIssuer("a")]])
def test_trust_has_no_default_and_no_none(given: Any) -> None:
    with pytest.raises(ConfigError):
        TrustedIssuers(given)


def trusted(folder: Path, **more: Any) -> TrustedIssuers:
    return TrustedIssuers(Issuer(ISS, audience=AUD, keys=key_file(folder, jwk(KEY, "k1"))), **more)


def test_a_verified_token_is_kept_and_expires_all_the_same(tmp_path: Path) -> None:
    trust, text = trusted(tmp_path), token()
    first = trust.verify(text, now=NOW)
    assert trust.verify(text, now=NOW + 5) is first
    assert trust.verify("".join(list(text)), now=NOW + 6) is first, "another text object, the same token"
    with pytest.raises(TokenRefused):
        trust.verify(text, now=NOW + 605)
    assert trust.verify(text, now=NOW + 604) == first


def test_a_clock_set_back_verifies_anew(tmp_path: Path) -> None:
    trust, text = trusted(tmp_path), token(claims(nbf=NOW))
    trust.verify(text, now=NOW)
    with pytest.raises(TokenRefused):
        trust.verify(text, now=NOW - 100)


def test_a_changed_key_file_forgets_everything(tmp_path: Path) -> None:
    trust, text = trusted(tmp_path), token()
    trust.verify(text, now=NOW)
    issuer: Any = trust._issuers[ISS]
    key_file(tmp_path, jwk(OTHER, "k1"))
    issuer._file._next = 0.0  # the second has passed
    before = trust._seen
    assert trust.generation >= 1
    assert trust._seen != before
    with pytest.raises(TokenRefused) as caught:
        trust.verify(text, now=NOW)
    assert caught.value.code == "token.signature"
    (tmp_path / "jwks.json").write_text("<html>")
    issuer._file._next = 0.0
    with pytest.raises(TokenRefused) as caught:
        trust.verify(text, now=NOW)
    assert caught.value.code == "keys.unavailable"


def test_what_is_kept_is_bounded_and_refusals_are_not_kept(tmp_path: Path) -> None:
    trust = trusted(tmp_path, most=8)
    good = token()
    trust.verify(good, now=NOW)
    for n in range(30):
        with pytest.raises(TokenRefused):
            trust.verify(token(kid=f"x{n}"), now=NOW)
    assert len(trust._held) == 1
    for n in range(20):
        trust.verify(token(claims(jti=f"j{n}")), now=NOW)
    assert len(trust._held) == 8


@pytest.mark.parametrize("text", [None, 5, b"x", "", "\u20ac", ["x"], object()])
def test_what_is_no_text_is_refused(text: Any, tmp_path: Path) -> None:
    with pytest.raises(TokenRefused):
        trusted(tmp_path).verify(text, now=NOW)


def test_many_threads_one_cache(tmp_path: Path) -> None:
    trust, texts = trusted(tmp_path, most=4), [token(claims(jti=f"j{n}")) for n in range(12)]
    wrong: list[object] = []

    def work() -> None:
        for n in range(60):
            found = trust.verify(texts[n % 12], now=NOW)
            if found.credential.jti != f"j{n % 12}":
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- the development issuer --------------------------------------------------------------------------------------------------------

MINT: dict[str, Any] = {"origin": "alice", "actor": "payer", "intent": "pay-invoice"}


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"origin": ""}, "`origin` must be a visible name"),
        ({"origin": "al\u200bice"}, "`origin` must be a visible name"),
        ({"actor": []}, "`actor` is a visible name, or a list"),
        ({"actor": ["a"] * 9}, "`actor` is a visible name, or a list"),
        ({"actor": ["a", "b", "a"]}, "the same name stands twice"),
        ({"actor": "alice"}, "the same name stands twice"),
        ({"workload": "alice"}, "`origin` and `workload` are the same"),
        ({"intent": None}, "would grant nothing"),
        ({"intent": "", "tools": ["x"]}, "`intent` is the name"),
        ({"params": {"order": object()}}, "`order` holds a object"),
        ({"params": {"order": float("nan")}}, "`order` holds a float"),
        ({"params": {"n": 2**60}}, "`n` holds a int"),
        ({"ttl": "10"}, "`ttl` is written as"),
        ({"ttl": "25h"}, "`ttl` is written as"),
        ({"ttl": 600}, "`ttl` is written as"),
        ({"tools": {"refund": {"order": {"regex": "."}}}}, "no kind of constraint `regex`"),
        ({"tools": "refund"}, "`tools` is a list"),
        ({"limits": {"refund": 1}}, "`limits` belong to `tools`"),
        ({"tools": ["refund"], "limits": {"refund": 0}}, "`limits` maps names"),
        ({"scope": "a  b"}, "`scope` is one text"),
        ({"txn": ""}, "`txn` must be a visible name"),
    ],
)
def test_mint_says_what_is_wrong(over: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LocalIssuer("acme-dev").mint(**{**MINT, **over})
    assert says in str(caught.value)


def test_what_is_minted_says_who_works_for_whom() -> None:
    iam = LocalIssuer("acme-dev", clock=lambda: NOW)
    text = iam.mint(
        origin="alice", actor=["orchestrator", "payer"], intent="pay-invoice", params={"ceiling": Decimal("9.50"), "n": 3}, txn="t-1"
    )
    found = TrustedIssuers(iam).verify(text, now=NOW)
    assert (found.origin, found.actors, found.actor, found.depth) == ("alice", ("orchestrator", "payer"), "payer", 1)
    assert (found.workload, found.local, found.txn, found.intent) == ("local", True, "t-1", "pay-invoice")
    assert dict(found.params) == {"ceiling": "9.50", "n": 3}
    assert found.expires_at - found.issued_at == 600


def test_two_issuers_of_one_name_have_two_keys() -> None:
    one, two = LocalIssuer("acme-dev"), LocalIssuer("acme-dev")
    with pytest.raises(TokenRefused) as caught:
        TrustedIssuers(two).verify(one.mint(**MINT), now=int(one.clock()))
    assert caught.value.code == "token.signature"


def test_saved_and_loaded(tmp_path: Path) -> None:
    iam = LocalIssuer("acme-dev")
    path = tmp_path / "issuer.json"
    iam.save(path)
    assert path.stat().st_mode & 0o077 == 0
    again = LocalIssuer.load(path)
    assert TrustedIssuers(again).verify(iam.mint(**MINT), now=int(iam.clock())).origin == "alice"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        LocalIssuer.load(path)
    for text in ("", "{}", '{"name": "x", "audience": "y", "key": {}}', "\x00", "[" * 10_000):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="was not written by"):
            LocalIssuer.load(path)


def test_a_private_key_is_not_pickled_or_shown() -> None:
    import pickle

    iam = LocalIssuer("acme-dev")
    with pytest.raises(TypeError):
        pickle.dumps(iam)
    assert "d" not in json.loads(iam.jwks)["keys"][0]
    assert len(repr(iam)) < 80
