"""The strict shell: what is refused before anybody looks at a claim, with its bounds from both sides.

`test_attacks.py` has the published list; here are the edges: the last size, depth and number that are taken, the first that are not.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from guard.errors import TokenRefused
from guard.tokens import split, token_json
from guard.tokens.jose import MAX_DEPTH, MAX_INT, MAX_MEMBERS, MAX_TOKEN, b64url_decode, b64url_encode
from tests.tokens.forge import ISSUERS, KEY, NOW, OTHER, RSA, claims, jwk, keys, sign, token, verdict

GOOD = token()
HEAD, BODY, SIG = GOOD.split(".")
PLAIN = b64url_decode(SIG.encode())


class Text(str):
    """Text that could compare and slice as it likes."""

    __slots__ = ()


def padded(length: int) -> str:
    """The shortest well signed token of at least this many characters."""
    fill = (length - len(token(claims(note="")))) * 3 // 4 - 4
    while len(text := token(claims(note="x" * fill))) < length:
        fill += 1
    return text


def rows(*table: tuple[Any, ...]) -> Any:
    """The first column is the name of the test: keys are made anew in each process, so no token may be part of a name."""
    return pytest.mark.parametrize("row", [pytest.param(row[1:], id=row[0]) for row in table])


@rows(
    ("empty", "", "token.missing"),
    ("None", None, "token.missing"),
    ("False", False, "token.missing"),
    ("bytes", GOOD.encode(), "token.missing"),
    ("a list", [GOOD], "token.missing"),
    ("a text of another class", Text(GOOD), "token.missing"),
    ("one dot", ".", "token.malformed"),
    ("two dots", "..", "token.malformed"),
    ("three dots", "...", "token.malformed"),
    ("no header", f".{BODY}.{SIG}", "token.malformed"),
    ("no payload", f"{HEAD}..{SIG}", "token.malformed"),
    ("no signature", f"{HEAD}.{BODY}.", "token.signature"),
    ("a dot too much", f"{GOOD}.", "token.malformed"),
    ("a dot before", f".{GOOD}", "token.malformed"),
    ("Bearer before", f"Bearer {GOOD}", "token.malformed"),
    ("quotes around", f'"{GOOD}"', "token.malformed"),
    ("two tokens", f"{GOOD},{GOOD}", "token.malformed"),
    ("NUL behind", f"{GOOD}\0", "token.malformed"),
    ("tilde behind (SD-JWT)", f"{GOOD}~", "token.malformed"),
    ("no-break space", f"{GOOD}\u00a0", "token.malformed"),
    ("byte order mark", f"\ufeff{GOOD}", "token.malformed"),
    ("lone surrogate", f"{GOOD}\udc80", "token.malformed"),
    ("a dot that is none", GOOD.replace(".", "\u2024"), "token.malformed"),
    ("percent", GOOD.replace(".", "%2E"), "token.malformed"),
    ("a length no base64 has", f"{HEAD}.{'A' * 5}.{SIG}", "token.malformed"),
    ("a signature of one character", f"{HEAD}.{BODY}.A", "token.malformed"),
    ("a signature too short", f"{HEAD}.{BODY}.{b64url_encode(PLAIN[:63])}", "token.signature"),
    ("a signature too long", f"{HEAD}.{BODY}.{b64url_encode(PLAIN + bytes(1))}", "token.signature"),
    ("a signature with zeros before", f"{HEAD}.{BODY}.{b64url_encode(bytes(1) + PLAIN)}", "token.signature"),
    ("a megabyte", "a" * 1_000_000, "token.too_large"),
    ("ten megabytes and well signed", token(claims(note="x" * 8_000_000)), "token.too_large"),
    ("ten megabytes beyond ASCII", "\u20ac" * 10_000_000, "token.too_large"),
)
def test_text(row: tuple[Any, str]) -> None:
    text, code = row
    assert verdict(text) == code


def test_the_largest_token_and_one_character_more() -> None:
    largest = padded(MAX_TOKEN)
    assert (len(largest), verdict(largest)) == (MAX_TOKEN, "allow")
    larger = padded(MAX_TOKEN + 1)
    assert verdict(larger) == "token.too_large"


@pytest.mark.parametrize(
    ("segment", "taken"),
    [
        ("", True),
        ("AA", True),
        ("AB", False),  # the same byte, written otherwise
        ("AAA", True),
        ("AAB", False),
        ("AAAA", True),
        ("A", False),
        ("AAAAA", False),
        ("_-_-", True),
        ("AA==", False),
        ("AAA=", False),
        ("AA=A", False),
        ("AA\n", False),
        ("A A", False),
        ("\xff\xff", False),
    ],
)
def test_base64url_has_one_spelling(segment: str, taken: bool) -> None:
    token_ = f"{HEAD}.{segment}.{SIG}"
    try:
        payload = split(token_).payload
    except TokenRefused as refused:
        assert refused.code == "token.malformed"
        payload = None
    assert (payload is not None) is taken
    if payload is not None:
        assert b64url_encode(payload) == segment
        assert payload == base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) == b64url_decode(segment.encode())


def nested(opening: str, inner: str, closing: str, depth: int) -> str:
    return '{"a":' + opening * (depth - 1) + inner + closing * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("{}", True),
        (' \t\r\n{"a" : 1 }\n', True),
        ("", False),
        (" ", False),
        ("{", False),
        ("{}}", False),
        ("{} {}", False),
        ("[]", False),
        ("1", False),
        ("null", False),
        ('"{}"', False),
        ("{'a': 1}", False),
        ('{"a": 1,}', False),
        ('{"a": 1 /* why */}', False),
        ("{a: 1}", False),
        ('{"a": 01}', False),
        ('{"a": .5}', False),
        ('{"a": 0x10}', False),
        ('{"a": 1_000}', False),
        ('{"a": True}', False),
        ('{"a": undefined}', False),
        ('{"a": NaN}', False),
        ('{"a": -Infinity}', False),
        ('{"a": 1e308}', True),
        ('{"a": 1e309}', False),
        ('{"a": -1e309}', False),
        ('{"a": 1e-400}', True),
        (f'{{"a": {MAX_INT}}}', True),
        (f'{{"a": {MAX_INT + 1}}}', False),
        (f'{{"a": {-MAX_INT}}}', True),
        (f'{{"a": {-MAX_INT - 1}}}', False),
        ('{"a": ' + "9" * 10_000 + "}", False),
        ('{"a": 0.' + "3" * 5_000 + "}", True),
        ('{"a": 1, "a": 1}', False),
        ('{"a": 1, "\\u0061": 2}', False),  # the same name, written otherwise
        ('{"a": 1, "A": 2}', True),
        ('{"e\u0301": 1, "\u00e9": 2}', True),  # two names; neither is one we read
        ('{"b": {"a": 1, "a": 2}}', False),
        ('{"b": [{"a": 1, "a": 2}]}', False),
        ('{"": 1}', True),
        ('{"a": "\\ud83d\\ude00"}', True),
        ('{"a": "\\ud83d"}', False),
        ('{"a": "\\ude00\\ud83d"}', False),
        ('{"a": "\\uD83D\\uD83D\\uDE00"}', False),
        ('{"\\udc80": 1}', False),
        ('{"a": "\\\\ud800"}', True),  # a backslash and five letters
        ('{"a": "\\x41"}', False),
        ('{"a": "\t"}', False),  # a bare control character
        ('{"a": "\\u0000"}', True),  # JSON; no name may have it
        (nested("[", "1", "]", MAX_DEPTH), True),
        (nested("[", "1", "]", MAX_DEPTH + 1), False),
        (nested('{"a":', "1", "}", MAX_DEPTH), True),
        (nested('{"a":', "1", "}", MAX_DEPTH + 1), False),
        (nested("[", "[]", "]", MAX_DEPTH), False),
        ('{"a":' + "[" * 100_000, False),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", False),
        ('{"a": "' + "[{" * 1_000 + '"}', True),  # brackets within a text are text
        ('{"a": "' + '\\"[' * 1_000 + '"}', True),
        ('{"a": "\\\\", "b": ' + "[" * 20 + "]" * 20 + "}", False),
        ('{"a": "' + "x:" * 1_000 + '"}', True),
        ("{" + ",".join(f'"{n}":1' for n in range(MAX_MEMBERS)) + "}", True),
        ("{" + ",".join(f'"{n}":1' for n in range(MAX_MEMBERS + 1)) + "}", False),
        ('{"a": [' + ",".join(['{"b":1}'] * MAX_MEMBERS) + "]}", False),
        ('{"a": [' + ",".join(["1"] * 5_000) + "]}", True),
    ],
    ids=lambda given: None if isinstance(given, bool) else repr(given[:40]),
)
def test_json(text: str, taken: bool) -> None:
    try:
        found: dict[str, object] | None = token_json(text.encode("utf-8", "surrogatepass"))
    except TokenRefused as refused:
        assert refused.code == "token.malformed"
        assert refused.__context__ is None
        found = None
    assert (found is not None) is taken
    if taken:
        assert found == json.loads(text)


@rows(
    ("byte order mark", b"\xef\xbb\xbf{}"),
    ("UTF-16 with mark", "{}".encode("utf-16")),
    ("UTF-16 without", "{}".encode("utf-16-le")),
    ("UTF-16 the other way", "{}".encode("utf-16-be")),
    ("UTF-32", "{}".encode("utf-32")),
    ("Latin-1", b'{"a": "\xe9"}'),
    ("overlong", b'{"a": "\xc0\xaf"}'),
    ("surrogate in UTF-8", b'{"a": "\xed\xa0\x80"}'),
    ("beyond Unicode", b'{"a": "\xf4\x90\x80\x80"}'),
    ("cut in a character", b'{"a": "\xe2\x82"}'),
    ("NUL behind", b"{}\x00"),
    ("NUL before", b"\x00{}"),
    ("form feed", b"\x0c{}"),
    ("no-break space", b"\xc2\xa0{}"),
    ("vertical tab within", b'{\x0b"a": 1}'),
)
def test_bytes_that_are_no_utf8_json(row: tuple[bytes]) -> None:
    (raw,) = row
    with pytest.raises(TokenRefused) as caught:
        token_json(raw)
    assert caught.value.code == "token.malformed"
    assert verdict(token(raw)) == "token.malformed", "as a payload, well signed"
    assert verdict(token(header=raw)) == "token.malformed", "as a header"


@rows(
    ("the ordinary one", {}, "allow"),
    ("its long typ", {"typ": "application/at+jwt"}, "allow"),
    ("a longer typ", {"typ": "application/at+jwt; v=1"}, "token.type"),
    ("a typ of our own making", {"typ": "application/application/at+jwt"}, "token.type"),
    ("typ JWT", {"typ": "JWT"}, "token.type"),
    ("no typ", {"typ": ...}, "token.type"),
    ("typ of a proof", {"typ": "dpop+jwt"}, "token.type"),
    ("typ of a workload", {"typ": "wit+jwt"}, "token.type"),
    ("cty", {"cty": "JWT"}, "token.header"),
    ("crit", {"crit": ["exp"], "exp": 1}, "token.header"),
    ("crit of what is there", {"crit": ["kid"]}, "token.header"),
    ("b64 true", {"b64": True}, "token.header"),
    ("b64 false", {"b64": False, "crit": ["b64"]}, "token.header"),
    ("zip", {"zip": "DEF"}, "token.header"),
    ("enc", {"enc": "A256GCM"}, "token.header"),
    ("p2c", {"p2c": 2**31}, "token.header"),
    ("jwk", {"jwk": jwk(KEY, "k1")}, "token.header"),
    ("jku", {"jku": "https://iam.acme.example/keys"}, "token.header"),
    ("x5u", {"x5u": "https://iam.acme.example/cert"}, "token.header"),
    ("x5c", {"x5c": ["MIIB"]}, "token.header"),
    ("x5t", {"x5t#S256": "x"}, "token.header"),
    ("a replicated claim", {"iss": "https://iam.acme.example"}, "token.header"),
    ("kid unknown", {"kid": "k2"}, "token.signature"),
    ("kid in another case", {"kid": "K1"}, "token.signature"),
    ("kid absent", {"kid": ...}, "token.header"),
    ("kid empty", {"kid": ""}, "token.header"),
    ("kid with a blank", {"kid": "k1 "}, "token.header"),
    ("kid with a line end", {"kid": "k1\n"}, "token.header"),
    ("kid with a quote", {"kid": "k1'--"}, "token.header"),
    ("kid beyond ASCII", {"kid": "k\u0661"}, "token.header"),
    ("kid of 128", {"kid": "k" * 128}, "token.signature"),
    ("kid of 129", {"kid": "k" * 129}, "token.header"),
    ("kid a number", {"kid": 1}, "token.header"),
    ("kid null", {"kid": None}, "token.header"),
    ("alg none", {"alg": "none"}, "token.signature"),
    ("alg None", {"alg": "None"}, "token.signature"),
    ("alg in another case", {"alg": "es256"}, "token.signature"),
    ("alg of a MAC", {"alg": "HS256"}, "token.signature"),
    ("alg of another curve", {"alg": "ES384"}, "token.signature"),
    ("alg of a curve we do not take", {"alg": "ES256K"}, "token.signature"),
    ("alg of RSA", {"alg": "RS256"}, "token.signature"),
    ("alg of Ed25519", {"alg": "Ed25519"}, "token.signature"),
    ("alg absent", {"alg": ...}, "token.header"),
    ("alg null", {"alg": None}, "token.header"),
    ("alg a list", {"alg": ["ES256"]}, "token.header"),
    ("a header of more than a kilobyte", {"kid": "k" * 1100}, "token.header"),
)
def test_header(row: tuple[dict[str, Any], str]) -> None:
    header, code = row
    assert verdict(token(**header)) == code


def test_a_header_that_repeats_a_member_is_refused_however_it_is_written() -> None:
    for header in (
        b'{"alg":"ES256","typ":"at+jwt","kid":"k1","kid":"k1"}',
        b'{"alg":"none","\\u0061lg":"ES256","typ":"at+jwt","kid":"k1"}',
    ):
        assert verdict(token(header=header)) == "token.malformed"


def test_the_same_header_with_blanks_is_the_same_header() -> None:
    assert verdict(token(header=b' { "kid" : "k1", "typ":"at+jwt",\n"alg":"ES256" } ')) == "allow"


def test_a_refused_header_is_refused_again() -> None:
    """Headers that passed are kept; one that did not is looked at anew each time, and never kept as passed."""
    for _ in range(3):
        assert verdict(token(crit=["x"])) == "token.header"
        assert verdict(token()) == "allow"


@rows(
    ("size before form", "\n" * 20_000, "token.too_large"),
    ("header before typ", token(typ="JWT", crit=["x"]), "token.header"),
    ("typ before issuer", token(claims(iss="https://other.example"), typ="JWT"), "token.type"),
    ("issuer before signature", token(claims(iss="https://other.example"), key=OTHER), "token.issuer"),
    ("signature before claims", token(claims(exp=1, aud="x"), key=OTHER), "token.signature"),
    ("lifetime before expiry", token(claims(iat=1, exp=90_000)), "token.lifetime"),
    ("expiry before audience", token(claims(exp=NOW - 9, aud="x")), "token.expired"),
    ("audience before names", token(claims(aud="x", sub=1)), "token.audience"),
    ("names before act", token(claims(sub=1, act=1)), "token.claims"),
    ("act before proof", token(claims(act=1, cnf={})), "token.actors"),
    ("proof before task", token(claims(cnf={}, txn=...)), "token.proof"),
    ("task before details", token(claims(txn=..., authorization_details=1)), "token.no_task"),
)
def test_the_order_of_the_checks(row: tuple[str, str]) -> None:
    """One code per token, the first of its faults: what an operator sees does not depend on chance."""
    text, code = row
    assert verdict(text) == code


def test_a_key_signs_with_its_own_algorithm_only() -> None:
    """RS256 and PS256 are two: who fixed one for the key takes no token of the other, although the signature is good."""
    from dataclasses import replace

    from jwt.algorithms import RSAPSSAlgorithm

    pss = RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256)
    signed = f"{b64url_encode(json.dumps({'alg': 'PS256', 'typ': 'at+jwt', 'kid': 'r1'}).encode())}.{BODY}"
    by_pss = f"{signed}.{b64url_encode(pss.sign(signed.encode(), RSA))}"
    by_rs = token(key=RSA, alg="RS256", kid="r1")
    (issuer,) = ISSUERS
    for alg, text, code in (
        ("PS256", by_pss, "allow"),
        ("PS256", by_rs, "token.signature"),
        ("RS256", by_rs, "allow"),
        ("RS256", by_pss, "token.signature"),
        (None, by_rs, "allow"),  # a key that says nothing does RS256
        (None, by_pss, "token.signature"),
    ):
        published = jwk(RSA, "r1") if alg is None else jwk(RSA, "r1", alg=alg)
        assert verdict(text, issuers={issuer: replace(ISSUERS[issuer], keys=keys(published))}) == code


def test_a_relabelled_signature_is_none() -> None:
    """The header is signed: the same signature under another header is no signature."""
    header = b64url_encode(json.dumps({"alg": "ES256", "typ": "txntoken+jwt", "kid": "k1"}).encode())
    assert verdict(f"{header}.{BODY}.{SIG}") == "token.signature"
    assert verdict(f"{header}.{BODY}.{b64url_encode(sign(KEY, f'{header}.{BODY}'.encode()))}") == "token.claims"
