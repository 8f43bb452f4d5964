"""Laws: no change of a token survives, nothing but `TokenRefused` comes out, and another library never knows better than we do.

joserfc is the oracle: what we take it takes too, on 500 mutants whose seed is fixed and on what hypothesis finds. Where it takes what we
refuse, we are the stricter one, and the reason is our code.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from joserfc import jwk as oracle_keys
from joserfc import jwt as oracle
from joserfc.errors import JoseError

from guard.errors import TokenRefused
from guard.tokens import KeySet, KeysRefused, verify, verify_signature
from guard.tokens.jose import NotStrict, b64url_encode, strict_json
from guard.tokens.text import is_name
from tests.tokens.forge import AUD, ED, HEADER, ISS, ISSUERS, KEY, NOW, RSA, claims, jwk, keys, sign, token, verdict

DETAILS = [
    {"type": "agent_task", "intent": "refund", "params": {"order": "A-17"}},
    {"type": "agent_tool", "tool": "refund", "args": {"order": {"eq": "A-17"}}, "limit": {"calls": 1}},
]
GOOD = token(claims(authorization_details=DETAILS))
HEAD, BODY, SIG = GOOD.split(".")
FOUND = verify(GOOD, ISSUERS, now=NOW)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["agent_tool", "agent_task", "eq", "range", "alice", ISS, AUD, NOW, "", "\0", "\ud800", 2**53, -1]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["sub", "act", "type"]), inner, max_size=4)
    ),
    max_leaves=12,
)
CLAIMS = [*claims(), "nbf", "sid", "person", "owner", "cnf", "req_wl", "authorization_details"]


# -- mutants -------------------------------------------------------------------------------------------------------------------------


@given(at=st.integers(0, len(GOOD) - 1), to=st.characters(codec="utf-8"))
@example(at=len(GOOD) - 1, to="A")
def test_no_token_with_another_character_verifies(at: int, to: str) -> None:
    assume(GOOD[at] != to)
    assert verdict(GOOD[:at] + to + GOOD[at + 1 :]).startswith("token.")


def test_no_token_with_another_last_character_verifies() -> None:
    """Each place where unused bits hide: the last character of every segment, all 64 of the alphabet."""
    for end in (len(HEAD), len(HEAD) + 1 + len(BODY), len(GOOD)):
        for to in string.ascii_letters + string.digits + "-_":
            text = GOOD[: end - 1] + to + GOOD[end:]
            assert (verdict(text) == "allow") is (text == GOOD)


@given(data=st.data())
def test_no_cut_doubled_or_swapped_token_verifies(data: st.DataObject) -> None:
    begin, end = sorted(data.draw(st.tuples(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))))
    piece = GOOD[begin:end]
    text = data.draw(
        st.sampled_from([GOOD[:begin] + GOOD[end:], GOOD[:end] + piece + GOOD[end:], piece, GOOD[:begin] + piece[::-1] + GOOD[end:]])
    )
    assume(text != GOOD)
    assert verdict(text).startswith("token.")


@given(which=st.integers(0, 2), at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_token_with_a_flipped_byte_verifies(which: int, at: int, flip: int) -> None:
    """Within the decoded header, payload or signature, so that every mutant is canonical base64url."""
    import base64

    parts = [base64.urlsafe_b64decode(part + "==") for part in (HEAD, BODY, SIG)]
    at %= len(parts[which])
    parts[which] = parts[which][:at] + bytes([parts[which][at] ^ flip]) + parts[which][at + 1 :]
    assert verdict(".".join(map(b64url_encode, parts))).startswith("token.")


@given(st.text() | st.text(alphabet=string.ascii_letters + string.digits + "-_.", max_size=400) | st.binary() | st.integers() | st.none())
def test_whatever_is_given_only_a_refusal_comes_out(given_: Any) -> None:
    assert verdict(given_).startswith("token.")


@given(header=st.binary(max_size=200), payload=st.binary(max_size=200))
@example(header=b'{"alg":"ES256","typ":"at+jwt","kid":"k1"}', payload=b"{}")
@example(header=b"\xff", payload=b"")
def test_well_signed_rubbish_is_refused(header: bytes, payload: bytes) -> None:
    signed = f"{b64url_encode(header)}.{b64url_encode(payload)}"
    assert verdict(f"{signed}.{b64url_encode(sign(KEY, signed.encode()))}").startswith("token.")


# -- well signed tokens with any claim -------------------------------------------------------------------------------------------------


def signed_json(value: Any) -> str:
    """Whatever Python can write down, lone surrogates and NaN too."""
    return token(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(name=st.sampled_from(CLAIMS), value=json_values)
def test_any_value_of_a_claim_is_taken_or_refused_by_a_code(name: str, value: Any) -> None:
    """A well signed token with an odd claim: never `guard.error`, which would be a mistake of ours."""
    code = verdict(signed_json(claims() | {name: value}))
    assert code == "allow" or code.startswith("token.")
    if code == "allow" and name in ("sub", "jti", "txn", "client_id"):
        assert is_name(value)


@given(value=json_values)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_details_are_taken_or_refused_by_a_code(value: Any) -> None:
    for details in (value, [value], [{"type": "agent_tool", "tool": "t", "args": value}], [{"type": "agent_tool", "tool": "t", "args": {"a": value}}],
                    [{"type": "agent_task", "intent": "i", "params": value}], [{"type": "agent_tool", "tool": "t", "limit": value}]):  # fmt: skip
        code = verdict(signed_json(claims(authorization_details=details)))
        assert code in {"allow", "token.details", "token.no_grant", "token.malformed", "token.too_large"}


KINDS = ["any", "eq", "one_of", "range", "prefix", "suffix", "glob", "under", "url", "email", "cidr", "command", "each", "len", "subset",
         "any_of", "optional", "from", "age", "min", "max", "domain", "scheme", "host", "program", "flags"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KINDS), json_values | st.dictionaries(st.sampled_from(KINDS), json_values, max_size=3), max_size=3))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_constraint_of_a_token_is_taken_or_refused_by_a_code(constraint: Any) -> None:
    code = verdict(signed_json(claims(authorization_details=[{"type": "agent_tool", "tool": "t", "args": {"a": constraint}}])))
    assert code in {"allow", "token.details", "token.malformed", "token.too_large"}


@given(st.dictionaries(st.text(max_size=6) | st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), json_values, max_size=4))
def test_any_header_is_refused_by_a_code(header: dict[str, Any]) -> None:
    assume(header != HEADER)
    text = token(header=json.dumps(header).encode("utf-8", "surrogatepass"))
    assert verdict(text).startswith("token.")
    with pytest.raises(TokenRefused):
        verify_signature(text + "A", ISSUERS[ISS].keys)


# -- the parser beneath ------------------------------------------------------------------------------------------------------------------


@given(json_values)
def test_strict_json_reads_what_json_reads_or_nothing(value: Any) -> None:
    text = json.dumps({"a": value}).encode("utf-8", "surrogatepass")
    try:
        found = strict_json(text)
    except NotStrict:
        return
    assert json.dumps(found) == json.dumps(json.loads(text))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0123d8 ntfe-.E+a', max_size=60).map(str.encode))
def test_strict_json_never_raises_anything_else(raw: bytes) -> None:
    try:
        found = strict_json(raw)
    except NotStrict:
        return
    assert found == json.loads(raw)


@given(
    json_values
    | st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("kty", "crv", "kid", "alg", "use", "key_ops", "x", "y", "n", "e"), json_values))
    )
)
def test_a_key_file_of_anything_is_refused(value: Any) -> None:
    for text in (json.dumps({"keys": value}), json.dumps(value)):
        with pytest.raises(KeysRefused):
            KeySet.from_jwks(text)


@given(name=st.sampled_from(["kty", "crv", "kid", "alg", "use", "key_ops", "x", "y", "n", "e"]), which=st.integers(0, 2), value=json_values)
def test_any_member_of_a_key_is_taken_or_refused(name: str, which: int, value: Any) -> None:
    entry = jwk((KEY, RSA, ED)[which], "k1") | {name: value}
    try:
        loaded = keys(entry)
    except KeysRefused:
        return
    assert len(loaded) == 1


# Unicode 16, DerivedCoreProperties.txt: Default_Ignorable_Code_Point, what a renderer shows as nothing.
IGNORABLE = [0xAD, 0x34F, 0x61C, (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F),
             0x3164, (0xFE00, 0xFE0F), 0xFEFF, 0xFFA0, (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)]  # fmt: skip


def test_no_name_holds_what_cannot_be_seen() -> None:
    for given_ in IGNORABLE:
        first, last = given_ if isinstance(given_, tuple) else (given_, given_)
        for code in range(first, last + 1):
            assert not is_name(f"al{chr(code)}ice"), hex(code)
    for code in [
        *range(0x20),
        *range(0x7F, 0xA1),
        0x1680,
        *range(0x2000, 0x2010),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x2800,
        0x3000,
        0xD800,
        0xDFFF,
    ]:
        assert not is_name(f"al{chr(code)}ice"), hex(code)


@given(st.text(max_size=300))
def test_a_name_is_its_own_only_form(text: str) -> None:
    import unicodedata

    if is_name(text):
        assert text == text.strip() == unicodedata.normalize("NFC", text)
        assert 0 < len(text) <= 256
        assert text.isprintable()


# -- the oracle ------------------------------------------------------------------------------------------------------------------------------


def mutants(n: int) -> list[str]:
    """Well signed and badly signed, by the character, by the byte, and by the claim."""
    random = Random(20_261_125)
    made: list[str] = []
    odd: list[Any] = [None, True, "", "x", 0, -1, 1.5, [], {}, [AUD], {"sub": "a"}, NOW, str(NOW), "\u00e9", "a b"]
    while len(made) < n:
        kind = random.randrange(4)
        if kind == 0:
            at = random.randrange(len(GOOD))
            made.append(GOOD[:at] + random.choice(string.ascii_letters + string.digits + "-_.= \n") + GOOD[at + 1 :])
        elif kind == 1:
            made.append(token(claims() | {random.choice(CLAIMS): random.choice(odd)}))
        elif kind == 2:
            made.append(token(**{random.choice(["alg", "typ", "kid", "crit", "b64", "x"]): random.choice([*odd, "ES256", "at+jwt", "k1"])}))
        else:
            text = bytearray(json.dumps(claims()).encode())
            text[random.randrange(len(text))] = random.randrange(256)
            made.append(token(bytes(text)))
    return made


ORACLE_KEY = oracle_keys.ECKey.import_key(jwk(KEY, "k1"))
REGISTRY = oracle.JWTClaimsRegistry(
    now=NOW,
    leeway=5,
    iss={"essential": True, "value": ISS},
    aud={"essential": True, "value": AUD},
    exp={"essential": True},
    sub={"essential": True},
)


def known(text: str) -> bool:
    """What joserfc says, told everything it can be told."""
    try:
        decoded = oracle.decode(text, ORACLE_KEY, algorithms=["ES256"])
        REGISTRY.validate(decoded.claims)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return False
    return bool(decoded.header.get("typ") in {"at+jwt", "application/at+jwt"})


TAKEN_BY_US_ALONE: dict[str, str] = {}
"""Mutants we take and joserfc refuses, with the reason. None."""


def test_nothing_is_taken_that_another_library_refuses() -> None:
    assert known(GOOD)
    verdicts: Counter[str] = Counter()
    alone: list[str] = []
    for text in mutants(500):
        ours, theirs = verdict(text) == "allow", known(text)
        verdicts[f"ours {'takes' if ours else 'refuses'}, joserfc {'takes' if theirs else 'refuses'}"] += 1
        if ours and not theirs and text not in TAKEN_BY_US_ALONE:
            alone.append(text)
    print(dict(verdicts))
    assert alone == []
    assert sum(verdicts.values()) == 500
    assert verdicts["ours takes, joserfc takes"] > 10, "a comparison of refusals alone says nothing"


@given(name=st.sampled_from(CLAIMS), value=json_values)
def test_no_claim_is_taken_that_another_library_refuses(name: str, value: Any) -> None:
    text = signed_json(claims() | {name: value})
    if verdict(text) == "allow":
        assert known(text)
