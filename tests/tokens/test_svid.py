"""JWT-SVIDs and bundles: the 33 published cases by number, what we are stricter about, and laws."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import TokenRefused
from guard.tokens import KeysRefused, verify
from guard.tokens.svid import Bundle, SpiffeId, verify_svid
from tests.tokens.forge import ED, ISSUERS, NOW, OTHER, RSA, jwk, token

KEY1, KEY2 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
WORKLOAD = "spiffe://trustdomain/host"
HEAD: dict[str, Any] = {"alg": "ES256", "typ": "JWT", "kid": "key1"}


def bundle(*entries: dict[str, Any]) -> Bundle:
    return Bundle.read(json.dumps({"keys": list(entries)}))


def jwt(key: Any, kid: str, **more: object) -> dict[str, Any]:
    return {**jwk(key, kid), "use": "jwt-svid", **more}


BUNDLES = {"trustdomain": bundle(jwt(KEY1, "key1"), jwt(KEY2, "key2")), "other.example": bundle(jwt(OTHER, "key1"))}


def svid(key: Any = KEY1, header: Mapping[str, object] = HEAD, **over: object) -> str:
    made = {"sub": WORKLOAD, "aud": ["audience"], "exp": NOW + 300, **over}
    return token({name: value for name, value in made.items() if value is not ...}, key=key, header=header)


def verdict(text: Any, *, audience: str = "audience", bundles: Mapping[str, Bundle] = BUNDLES, now: Any = NOW) -> str:
    try:
        found = verify_svid(text, bundles, audience=audience, now=now)
    except TokenRefused as refused:
        assert "trustdomain" not in str(refused), "a refusal quotes nothing of the token"
        assert refused.__cause__ is None
        assert refused.__context__ is None, "no exception that holds the token's text hangs on it"
        return str(refused.code)
    assert found.live(now)
    return found.id


def head(**over: object) -> dict[str, object]:
    made = {**HEAD, **over}
    return {name: value for name, value in made.items() if value is not ...}


def hs256() -> str:
    """A token that says HS256, "signed" with something of the right length."""
    return token({"sub": WORKLOAD, "aud": ["audience"], "exp": NOW + 300}, key=KEY1, header=head(alg="HS256"))


SVIDS: dict[str, tuple[Callable[[], str], dict[str, Any], str]] = {
    "S01": (svid, {}, WORKLOAD),
    "S02": (lambda: "invalid token", {}, "token.malformed"),
    "S03": (hs256, {}, "token.signature"),
    "S04": (lambda: svid(sub=...), {}, "token.claims"),
    "S05": (lambda: svid(exp=...), {}, "token.claims"),
    "S06": (lambda: svid(exp=NOW - 60), {}, "token.expired"),
    "S07": (svid, {"audience": "another"}, "token.audience"),
    "S08": (lambda: svid(sub="invalid subject"), {}, "token.claims"),
    "S09": (lambda: svid(header=head(kid=...)), {}, "token.header"),
    "S10": (lambda: svid(sub="spiffe://another.domain/host"), {}, "token.issuer"),
    "S11": (lambda: svid(header=head(kid="noKey")), {}, "token.signature"),
    "S12": (lambda: svid(KEY2), {}, "token.signature"),
    "S13": (lambda: svid(header=head(typ="invalid")), {}, "token.type"),
    # Reading claims without the signature: there is no such path here. The same inputs go through the one that verifies.
    "S14": (svid, {}, WORKLOAD),
    "S15": (lambda: "invalid token", {}, "token.malformed"),
    "S16": (hs256, {}, "token.signature"),
    "S17": (lambda: svid(sub=...), {}, "token.claims"),
    "S18": (lambda: svid(exp=...), {}, "token.claims"),
    "S19": (lambda: svid(exp=NOW - 60), {}, "token.expired"),
    "S20": (svid, {"audience": "another"}, "token.audience"),
    "S21": (lambda: svid(sub="invalid subject"), {}, "token.claims"),
    "S22": (lambda: svid(header=head(typ="invalid")), {}, "token.type"),
}
# Number of keys for JWT-SVIDs, sequence, refresh hint; a word of the refusal where it is one.
SETS: dict[str, tuple[int, int | None, int | None] | str] = {
    "S23": (1, None, None),
    "S24": (2, None, None),
    "S25": "`kid`",
    "S26": "strict JSON",
    "S27": "missing file",
    "S28": (1, None, None),
    "S29": (6, 1, 60),
    "S30": (2, 1, 60),
    "S31": "`kid`",
    "S32": "list `keys`",
    "S33": "exactly one certificate",
}


def cases(corpora: Path) -> dict[str, dict[str, Any]]:
    lines = (corpora / "delegation/spiffe/cases.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_every_published_case_has_a_test(corpora: Path) -> None:
    assert cases(corpora).keys() == SVIDS.keys() | SETS.keys()
    assert len(SVIDS) + len(SETS) == 33


@pytest.mark.parametrize("case", SVIDS)
def test_published_svid(corpora: Path, case: str) -> None:
    build, how, says = SVIDS[case]
    assert verdict(build(), **how) == says
    assert (says == WORKLOAD) == (cases(corpora)[case]["expected"] == "accept")


@pytest.mark.parametrize("case", SETS)
def test_published_bundle(corpora: Path, case: str) -> None:
    row, says = cases(corpora)[case], SETS[case]
    folder = corpora / "delegation/spiffe" / ("jwtbundle" if row["group"] == "jwt_bundle" else "spiffebundle")
    assert isinstance(says, tuple) == (row["expected"] == "accept")
    if case == "S27":
        with pytest.raises(OSError):  # what becomes of it: tests/identity/test_workload.py
            (folder / "no_such_file.json").read_bytes()
    elif isinstance(says, str):
        with pytest.raises(KeysRefused, match=says):
            Bundle.read(b"" if case == "S26" else (folder / row["name"]).read_bytes())
    else:
        found = Bundle.read((folder / row["name"]).read_bytes())
        assert (len(found.keys), found.sequence, found.refresh) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(lambda: svid(header=head(typ=...)), WORKLOAD, id="typ may be missing"),
        pytest.param(lambda: svid(header=head(typ="JOSE")), WORKLOAD, id="typ JOSE"),
        pytest.param(lambda: svid(header=head(typ="jwt")), "token.type", id="typ is case-sensitive"),
        pytest.param(lambda: svid(header=head(typ=None)), "token.type", id="typ null is not a missing typ"),
        pytest.param(lambda: svid(header=head(typ="at+jwt")), "token.type", id="an access token is no evidence"),
        pytest.param(lambda: svid(header=head(typ="wit+jwt")), "token.type", id="a WIT without its proof is no evidence"),
        pytest.param(lambda: svid(header=head(jwk=jwk(OTHER, "key1"))), "token.header", id="the key comes along"),
        pytest.param(lambda: svid(header=head(x5t="abc")), "token.header", id="any other header member"),
        pytest.param(lambda: svid(header=head(crit=["exp"])), "token.header", id="crit"),
        pytest.param(lambda: svid(ED, head(alg="EdDSA")), "token.signature", id="EdDSA"),
        pytest.param(lambda: svid(header=head(alg="none")), "token.signature", id="none"),
        pytest.param(lambda: svid(header=head(alg="ES384")), "token.signature", id="not the algorithm of the key"),
        pytest.param(lambda: svid(aud="audience"), WORKLOAD, id="aud as one word"),
        pytest.param(lambda: svid(aud=["audience", "another"]), "token.audience", id="good at two places"),
        pytest.param(lambda: svid(aud=[]), "token.audience", id="aud empty"),
        pytest.param(lambda: svid(aud=...), "token.audience", id="aud missing"),
        pytest.param(lambda: svid(exp=str(NOW + 300)), "token.claims", id="exp as text"),
        pytest.param(lambda: svid(exp=True), "token.claims", id="exp true"),
        pytest.param(lambda: svid(exp=NOW + 3606), "token.lifetime", id="lives too long, without iat"),
        pytest.param(lambda: svid(exp=NOW + 3605), WORKLOAD, id="just short enough"),
        pytest.param(lambda: svid(iat=NOW - 3500), "token.lifetime", id="lived too long, by iat"),
        pytest.param(lambda: svid(iat=NOW + 6), "token.not_yet", id="iat in the future"),
        pytest.param(lambda: svid(nbf=NOW + 6), "token.not_yet", id="nbf in the future"),
        pytest.param(lambda: svid(exp=NOW - 5), "token.expired", id="expired at the edge of the skew"),
        pytest.param(lambda: svid(exp=NOW - 4), WORKLOAD, id="within the skew"),
        pytest.param(lambda: svid(sub="spiffe://trustdomain"), "token.claims", id="a trust domain is no workload"),
        pytest.param(lambda: svid(OTHER), "token.signature", id="another domain's authority signs our id"),
        pytest.param(lambda: svid(OTHER, iss="spiffe://other.example"), "token.signature", id="and says so in iss"),
        pytest.param(lambda: svid(OTHER, iss="other.example"), "token.signature", id="by its name"),
        pytest.param(lambda: svid(iss="https://unknown.example"), WORKLOAD, id="iss is not looked at"),
        pytest.param(lambda: svid(OTHER, sub="spiffe://other.example/x"), "spiffe://other.example/x", id="the same kid in another domain"),
        pytest.param(lambda: 5, "token.missing", id="no text"),
        pytest.param(lambda: svid() + "\n", "token.malformed", id="a newline after it"),
        pytest.param(lambda: "x" * 20_000, "token.too_large", id="too large"),
    ],
)
def test_row(text: Callable[[], Any], says: str) -> None:
    assert verdict(text()) == says


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf"), None, "1800000000"])
def test_a_clock_that_says_no_time_lets_nothing_through(now: Any) -> None:
    assert verdict(svid(), now=now) in {"token.expired", "token.lifetime", "guard.error"}


def test_it_is_never_a_delegation() -> None:
    with pytest.raises(TokenRefused) as refused:
        verify(svid(), ISSUERS, now=NOW)
    assert refused.value.code == "token.type"


@pytest.mark.parametrize(
    ("text", "domain", "path"),
    [
        ("spiffe://a.example/x", "a.example", "/x"),
        ("spiffe://a_b-c.1/X/y.z/_-9", "a_b-c.1", "/X/y.z/_-9"),
        ("spiffe://a.example", "a.example", ""),
        ("spiffe://a.example/...", "a.example", "/..."),
        ("spiffe://" + "a" * 255, "a" * 255, ""),
    ],
)
def test_an_id(text: str, domain: str, path: str) -> None:
    assert SpiffeId.read(text) == SpiffeId(domain, path)


@pytest.mark.parametrize(
    "text",
    [
        "", "spiffe://", "spiffe:///x", "SPIFFE://a/x", "spiffe:/a/x", "https://a/x", "spiffe://A.example/x", "spiffe://a.example:80/x",
        "spiffe://u@a.example/x", "spiffe://a.example/", "spiffe://a.example/x/", "spiffe://a.example//x", "spiffe://a.example/./x",
        "spiffe://a.example/../x", "spiffe://a.example/x/..", "spiffe://a.example/x?y", "spiffe://a.example/x#y", "spiffe://a.example/%2e",
        "spiffe://a.example/x y", "spiffe://a.example/x\n", "spiffe://a.example/é", "spiffe://é.example/x", " spiffe://a.example/x",
        "spiffe://a.example\\x", "spiffe://" + "a" * 256, "spiffe://a/" + "x" * 2040, None, 5, b"spiffe://a/x", ["spiffe://a/x"],
    ],
)  # fmt: skip
def test_not_an_id(text: Any) -> None:
    assert SpiffeId.read(text) is None


SPELLED = st.one_of(
    st.text(st.sampled_from("spiffe:/aA.%-_@?#\\\n é"), max_size=40),
    st.builds("spiffe://{}{}".format, st.text(st.sampled_from("ab.-_A:"), max_size=6), st.text(st.sampled_from("/ab.%-_A"), max_size=12)),
)


@given(SPELLED)
def test_law_an_id_has_one_spelling(text: str) -> None:
    """What is read is written the same: no two texts are one id, so a registry entry cannot be reached by another spelling."""
    found = SpiffeId.read(text)
    assert found is None or str(found) == text


WRONG = ("x509-svid", "wit-svid", "sig", "enc", "", "JWT-SVID", None, 5)


@pytest.mark.parametrize("use", WRONG)
def test_keys_for_something_else_sign_nothing(use: object) -> None:
    """Attack: the holder of a WIT or X.509 authority's key makes JWT-SVIDs. Such a key is left out, and its tokens are refused."""
    other = {**jwk(KEY2, "key2"), "use": use, **({"x5c": ["AA"]} if use == "x509-svid" else {})}
    held = {"trustdomain": bundle(jwt(KEY1, "key1"), other)}
    assert verdict(svid(), bundles=held) == WORKLOAD
    assert verdict(svid(KEY2, head(kid="key2")), bundles=held) == "token.signature"


def test_keys_without_use() -> None:
    """Counted where the whole set is a plain JWK Set, left out of a bundle that says `use` elsewhere."""
    plain = {"trustdomain": bundle(jwk(KEY1, "key1"), jwk(KEY2, "key2"))}
    assert verdict(svid(), bundles=plain) == WORKLOAD
    mixed = {"trustdomain": bundle(jwk(KEY1, "key1"), jwt(KEY2, "key2"))}
    assert verdict(svid(), bundles=mixed) == "token.signature"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([jwt(KEY1, "key1"), jwt(KEY2, "key1")], "another key has too"),
        ([jwt(KEY1, "key1", d="AA")], "private members"),
        ([jwt(KEY1, "key1"), {**jwk(KEY2, "key2"), "use": "wit-svid", "d": "AA"}], "private members"),
        ([jwt(KEY1, "key1"), {"kty": "oct", "kid": "s", "use": "wit-svid", "k": "AA"}], "symmetric"),
        ([jwt(ED, "key1")], "no key of an algorithm"),
        ([{**jwk(KEY1, "key1"), "use": "wit-svid"}], "no key for JWT-SVIDs"),
        ([jwt(KEY1, "key1"), "x"], "not an object"),
        ([{**jwt(KEY1, "key1"), "kid": 5}], "`kid`"),
        ([], "list `keys`"),
    ],
)
def test_a_bundle_that_is_refused(entries: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(KeysRefused, match=says):
        bundle(*entries)


@pytest.mark.parametrize("value", [-1, "1", 1.5, True, []])
@pytest.mark.parametrize("name", ["spiffe_sequence", "spiffe_refresh_hint"])
def test_numbers_of_a_bundle(name: str, value: object) -> None:
    with pytest.raises(KeysRefused, match=name):
        Bundle.read(json.dumps({"keys": [jwt(KEY1, "key1")], name: value}))


def test_ed25519_is_left_out_beside_another_key() -> None:
    held = bundle(jwt(ED, "e"), jwt(KEY1, "key1"), jwt(RSA, "r"), jwt(KEY2, "key2"))
    assert sorted(str(key.kid) for key in held.keys) == ["key1", "key2", "r"]


@given(st.data())
def test_law_no_changed_token_is_accepted(data: st.DataObject) -> None:
    """One character of a good token becomes another: refused, and by nothing but `TokenRefused`."""
    text = svid()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("ABab01-_.=+/\n").filter(lambda character: character != text[at]))
    assert verdict(text[:at] + new + text[at + 1 :]) != WORKLOAD
