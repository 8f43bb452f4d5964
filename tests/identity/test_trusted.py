"""What was verified already: kept by the text of a token, never longer than the token lives, never across a change of keys, and never
what revocation goes by."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from guard.errors import TokenRefused
from guard.identity import Issuer, LocalIssuer, RevocationList, TrustedIssuers
from guard.tokens.jose import b64url_decode, b64url_encode
from tests.tokens.forge import AUD, ISS, KEY, NOW, OTHER, claims, jwk, token

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
    return path


@pytest.fixture
def trust(keys: Path) -> TrustedIssuers:
    return TrustedIssuers(Issuer(ISS, audience=AUD, keys=keys), most=4)


def code(trust: TrustedIssuers, text: Any, now: int = NOW) -> str:
    try:
        trust.verify(text, now=now)
    except TokenRefused as refused:
        assert refused.__cause__ is refused.__context__ is None
        return str(refused.code)
    return "allow"


def twin(text: str) -> str:
    """The other signature of the same token: (r, n - s) verifies where (r, s) does."""
    signed, _, signature = text.rpartition(".")
    raw = b64url_decode(signature.encode())
    return f"{signed}.{b64url_encode(raw[:32] + (ORDER - int.from_bytes(raw[32:], 'big')).to_bytes(32, 'big'))}"


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (0, "allow"),
        (599, "allow"),
        (600, "allow"),
        (604, "allow"),
        (605, "token.expired"),
        (606, "token.expired"),
        (10**9, "token.expired"),
    ],
)
@pytest.mark.parametrize("same", [True, False], ids=["the same text object", "an equal text"])
def test_a_kept_token_dies_at_its_hour(trust: TrustedIssuers, after: int, says: str, same: bool) -> None:
    text = token()
    for _ in range(2):
        assert code(trust, text) == "allow"
    assert code(trust, text if same else "".join(text), NOW + after) == says
    if says != "allow":
        assert code(trust, text, NOW + after) == says, "and stays dead"


@pytest.mark.parametrize("back", [1, 5, 16, 100])
def test_a_clock_set_back_finds_nothing_kept(trust: TrustedIssuers, back: int) -> None:
    """Whether the token is good at that time is asked anew: iat is ten seconds ago, the skew is five."""
    text = token()
    assert code(trust, text) == "allow"
    assert code(trust, text, NOW - back) == ("allow" if back <= 15 else "token.not_yet")


def test_both_texts_of_one_credential_are_revoked_together(trust: TrustedIssuers) -> None:
    text = token()
    other = twin(text)
    assert other != text
    one, two = trust.verify(text, now=NOW), trust.verify(other, now=NOW)
    assert one == two
    assert one is not two, "kept by its text, each for itself"
    revoked = RevocationList()
    revoked.revoke("credential", one.credential.jti, issuer=ISS)
    for kept in (text, other, twin(other)):
        assert revoked.find(trust.verify(kept, now=NOW), now=NOW) == "credential"


def test_the_least_used_goes_first(trust: TrustedIssuers) -> None:
    texts = [token(claims(jti=f"j{n}")) for n in range(5)]
    kept = [trust.verify(text, now=NOW) for text in texts[:4]]
    assert trust.verify("".join(texts[0]), now=NOW) is kept[0]
    trust.verify(texts[4], now=NOW)
    assert trust.verify("".join(texts[0]), now=NOW) is kept[0], "used a moment ago"
    assert trust.verify("".join(texts[1]), now=NOW) is not kept[1], "it had to make room, and is verified anew"


def test_a_flood_of_forgeries_pushes_nothing_out(trust: TrustedIssuers) -> None:
    good = token()
    kept = trust.verify(good, now=NOW)
    for n in range(50):
        assert code(trust, token(claims(jti=f"j{n}"), key=OTHER)) == "token.signature"
    assert trust.verify("".join(good), now=NOW) is kept


def test_a_refused_token_is_refused_each_time_and_taken_when_its_time_comes(trust: TrustedIssuers) -> None:
    text = token(claims(nbf=NOW + 60))
    assert [code(trust, text), code(trust, text), code(trust, text, NOW + 55)] == ["token.not_yet", "token.not_yet", "allow"]


@pytest.mark.parametrize("text", [None, "", b"x", 5, True, [], "\u20ac", "\ud800", "a\0b", "x" * 20_000], ids=lambda text: repr(text)[:12])
def test_nothing_but_a_refusal_comes_out(trust: TrustedIssuers, text: Any) -> None:
    assert code(trust, text).startswith("token.")


def test_ten_megabytes_cost_nothing(trust: TrustedIssuers) -> None:
    large = "a" * 10_000_000
    began = time.thread_time()
    for _ in range(200):
        assert code(trust, large) == "token.too_large"
    assert time.thread_time() - began < 1, "not even hashed: that takes ten milliseconds"


def test_keys_of_one_issuer_count_for_it_alone(keys: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.json"
    second.write_text(json.dumps({"keys": [jwk(OTHER, "k1")]}))  # the same kid
    trust = TrustedIssuers([Issuer(ISS, audience=AUD, keys=keys), Issuer("https://b.example", audience=AUD, keys=second, tenant="b")])
    b = claims(iss="https://b.example")
    assert code(trust, token()) == "allow"
    assert code(trust, token(b, key=OTHER)) == "allow"
    assert code(trust, token(key=OTHER)) == "token.signature"
    assert code(trust, token(b)) == "token.signature"
    assert trust.verify(token(b, key=OTHER), now=NOW).task == ("b", "https://b.example", "task-1")


def test_a_development_issuer_beside_a_real_one(keys: Path) -> None:
    """Each has its own audience and keys; what the development issuer makes says so."""
    iam = LocalIssuer("acme-dev", audience=AUD, clock=lambda: NOW)
    trust = TrustedIssuers([Issuer(ISS, audience=AUD, keys=keys), iam])
    local = trust.verify(iam.mint(origin="alice", actor="payer", intent="pay"), now=NOW)
    assert (local.local, trust.verify(token(), now=NOW).local) == (True, False)
    forged = iam.sign(json.dumps(claims(req_wl="local")).encode())
    assert code(trust, forged) == "token.signature", "its key is not a key of the real one"


def test_a_rotation_counts_at_the_next_look(trust: TrustedIssuers, keys: Path) -> None:
    """The old key, the old and the new, the new one alone."""
    issuer: Any = trust._issuers[ISS]
    old, new = token(), token(key=OTHER, kid="k2")
    seen = []
    for published in ([jwk(KEY, "k1")], [jwk(KEY, "k1"), jwk(OTHER, "k2")], [jwk(OTHER, "k2")], []):
        keys.write_text(json.dumps({"keys": published}))
        issuer._file._next = 0.0  # the second has passed
        before = trust.generation
        seen.append((code(trust, old), code(trust, new), code(trust, old)))
        assert trust.generation == before, "asked again, the keys are the same"
    assert seen == [
        ("allow", "token.signature", "allow"),
        ("allow", "allow", "allow"),
        ("token.signature", "allow", "token.signature"),
        ("keys.unavailable",) * 3,
    ]


def test_nothing_shows_a_token(trust: TrustedIssuers) -> None:
    text = token()
    trust.verify(text, now=NOW)
    assert text not in repr(trust)
    assert text.rpartition(".")[2] not in repr(trust.verify(text, now=NOW))
