"""The project's list of token attacks: each row of the groups format, header_keys and claims, built with our own keys.

Every row yields one or more tokens; each must come to the row's verdict, with a code of ours and no other exception.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guard.identity import Issuer
from guard.tokens import IssuerRules, KeySet, KeysRefused
from guard.tokens.jose import b64url_encode
from tests.tokens.forge import AUD, ED, HEADER, ISS, ISSUERS, KEY, NOW, OTHER, P384, RSA, claims, jwk, keys, sign, token, verdict

GOOD = token()
HEAD, BODY, SIG = GOOD.split(".")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
Tokens = Callable[[], Iterator[Any]]
ROWS: dict[str, Tokens] = {}


def row(name: str) -> Callable[[Tokens], Tokens]:
    def add(made: Tokens) -> Tokens:
        ROWS[name] = made
        return made

    return add


def listed(name: str, *tokens: Any) -> None:
    ROWS[name] = lambda: iter(tokens)


def over(*changes: dict[str, Any]) -> tuple[str, ...]:
    """Well signed tokens with these claims changed."""
    return tuple(token(claims(**change)) for change in changes)


def raw(text: bytes) -> str:
    return token(text)


def body(**extra: str) -> bytes:
    """The ordinary claims as text, with members written as they are given."""
    made = json.dumps(claims())[1:-1]
    return ("{" + ", ".join([made, *(f'"{name}": {text}' for name, text in extra.items())]) + "}").encode()


def segments(header: str, payload: str) -> str:
    signed = f"{header}.{payload}"
    return f"{signed}.{b64url_encode(sign(KEY, signed.encode()))}"


# -- format ----------------------------------------------------------------------------------------------------------------------

listed("A001", " " + GOOD, GOOD + "\n", GOOD + " ", "\t" + GOOD)
listed("A002", f"{HEAD}.{BODY}.{SIG[:20]}\n{SIG[20:]}")
listed("A003", GOOD + "=", GOOD + "==")
listed("A004", f"{HEAD}.{BODY}=.{SIG}", segments(HEAD, BODY + "="))
listed("A005", f"{HEAD}.{BODY}.{SIG[:-4]}+/{SIG[-2:]}", segments(HEAD, BODY[:-3] + "+/x"), GOOD.replace("-", "+").replace("_", "/") + "+")
listed("A008", f"{HEAD}.{BODY}", GOOD + ".x", "", ".", "..", "...", HEAD)
listed(
    "A009",
    json.dumps({"protected": HEAD, "payload": BODY, "signature": SIG}),
    json.dumps({"payload": BODY, "signatures": []}),
    {"payload": BODY},
)
listed(
    "A010",
    f"{HEAD}..AAAA.{BODY}.{SIG}",
    ".".join([b64url_encode(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}'), "", "AAAA", "A" * 9000, "AA"]),
)
listed(
    "A011",
    raw(json.dumps(claims()).encode("utf-16")),
    raw(json.dumps(claims()).encode("utf-16-le")),
    raw(json.dumps(claims()).encode("utf-32")),
)
listed("A012", raw(b"\xef\xbb\xbf" + json.dumps(claims()).encode()))
listed("A013", raw(body(x='"\xff"').replace("\xff".encode(), b"\xff")), raw(body()[:-1] + b"\xc0\xaf}"))
listed("A014", raw(body(x='"\\ud800"')), raw(body(x='"\\udfff\\ud800"')), raw(body(**{"\\ud800": "1"})))
listed("A015", raw(body(sub='"admin"')))
listed("A016", raw(b'{"exp": 1, ' + body()[1:]))
listed("A017", raw(body(scope='"none"')))
listed("A018", token(header=b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"k1"}'))
listed("A019", raw(b"[]"), raw(b'"text"'), raw(b"null"), raw(b"1"), raw(b""))
listed("A020", raw(body() + b"x"), raw(body() + b"{}"), raw(body() + b"\x00"))
listed("A021", raw(body(y='{"sub":' * 100_000)), raw(b'{"act":' * 100_000 + b"1" + b"}" * 100_000))
listed(
    "A022", raw(body(y='{"a":' * 900 + "1" + "}" * 900)), *over({"act": json.loads('{"sub":"a","act":' * 900 + '{"sub":"b"}' + "}" * 900)})
)
listed("A023", token(header=b'{"a":' * 100_000 + b"1" + b"}" * 100_000), token(header=b"[" * 5000 + b"]" * 5000))
listed("A024", *over({"note": "x" * 8_000_000}))
listed("A025", raw(body(n="9" * 5000)))
listed("A026", raw(b'{"exp": ' + b"9" * 4000 + b", " + json.dumps(claims(exp=...))[1:].encode()))
listed("A028", *over(*({"sub": f"al{odd}ice"} for odd in ("\x00", "\u202e", "\u200b", "\u2066", "\x1b", "\ufeff"))),
       *over(*({"authorization_details": [{"type": "agent_tool", "tool": f"re{odd}fund"}]} for odd in ("\x00", "\u202e", "\u200b"))))  # fmt: skip


@row("A006")
def _() -> Iterator[str]:
    """Every other text that decodes to the same signature bytes."""
    plain = base64.urlsafe_b64decode(SIG + "==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in alphabet:
        if last != SIG[-1] and base64.urlsafe_b64decode(SIG[:-1] + last + "==") == plain:
            yield f"{HEAD}.{BODY}.{SIG[:-1]}{last}"


@row("A007")
def _() -> Iterator[str]:
    wide = GOOD.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    yield wide
    yield GOOD.replace(".", "\uff0e")
    yield GOOD[:-1] + chr(ord(GOOD[-1]) + 0xFEE0)


# -- header and keys -------------------------------------------------------------------------------------------------------------

listed(
    "A029", *(token(alg=alg) for alg in ("none", "nOnE", "", ..., None, ["ES256"], 5, {"a": 1})), token(alg="none").rsplit(".", 1)[0] + "."
)
listed(
    "A035",
    *(
        token(typ=typ)
        for typ in ("JWT", "jwt", "dpop+jwt", "secevent+jwt", "oauth-id-jag+jwt", "AT+JWT", "at+jwt ", ..., None, 5, ["at+jwt"])
    ),
)
listed("A036", *(token(crit=crit) for crit in (["x"], [], "exp", ["b64"], None)), token(b64=False), token(b64=False, crit=["b64"]))
listed("A037", token(b64=True))
listed("A038", token(key=OTHER, jwk=jwk(OTHER, "k1")), token(jwk=jwk(OTHER, "k1")))
listed(
    "A039",
    *(token(**{name: url}) for name in ("jku", "x5u") for url in ("http://169.254.169.254/", "file:///etc/passwd", "http://127.0.0.1/")),
)
listed("A040", *(token(kid=kid) for kid in ("../../dev/null", "' OR 1=1--", "|cmd", "k" * 100_000, "k1\n", "", "k 1")))
listed("A041", token(kid=1), token(kid=None), token(kid=["k1"]))
listed("A046")


@row("A030")
def _() -> Iterator[Any]:
    import hmac

    public = RSA.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk(RSA, "r1")).encode(),
    ]
    issuers = {ISS: IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(RSA, "r1")))}
    assert verdict(token(key=RSA, alg="RS256", kid="r1"), issuers=issuers) == "allow"
    for secret in secrets:
        signed = f"{b64url_encode(json.dumps({**HEADER, 'alg': 'HS256', 'kid': 'r1'}).encode())}.{BODY}"
        yield f"{signed}.{b64url_encode(hmac.digest(secret, signed.encode(), 'sha256'))}", issuers


@row("A034")
def _() -> Iterator[Any]:
    import hmac

    signed = f"{b64url_encode(json.dumps({**HEADER, 'alg': 'HS256'}).encode())}.{BODY}"
    yield f"{signed}.{b64url_encode(hmac.digest(b'8 bytes!', signed.encode(), 'sha256'))}"
    with pytest.raises(KeysRefused):
        keys({"kty": "oct", "kid": "s", "k": b64url_encode(b"8 bytes!")})


@row("A031")
def _() -> Iterator[Any]:
    yield token(key=ED, alg="EdDSA")
    yield token(key=ED, alg="Ed25519")
    assert verdict(token(key=ED, alg="EdDSA", kid="e"), issuers={ISS: IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(ED, "e")))}) == "allow"


@row("A032")
def _() -> Iterator[Any]:
    both = {ISS: IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(KEY, "k1"), jwk(P384, "k2")))}
    assert verdict(token(key=P384, alg="ES384", kid="k2"), issuers=both) == "allow"
    yield token(key=P384, kid="k2"), both
    yield token(alg="ES384"), both
    yield token(key=P384, alg="ES384"), both


@row("A033")
def _() -> Iterator[Any]:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - the attack
    with pytest.raises(KeysRefused):
        keys(jwk(weak, "w"), jwk(KEY, "k1"))
    yield token(key=weak, alg="RS256", kid="w")


@row("A042")
def _() -> Iterator[Any]:
    b = IssuerRules("https://b.example", "b", AUD, 3600, keys(jwk(OTHER, "kb")))
    issuers = {**ISSUERS, b.url: b}
    assert verdict(token(claims(iss=b.url), key=OTHER, kid="kb"), issuers=issuers) == "allow"
    yield token(key=OTHER, kid="kb"), issuers
    yield token(claims(iss=b.url)), issuers


@row("A043")
def _() -> Iterator[Any]:
    for second in ({"kty": "oct", "kid": "k1", "k": "AAAA"}, jwk(OTHER, "k1"), {"kty": "oct", "kid": "k9", "k": "AAAA"}):
        with pytest.raises(KeysRefused):
            keys(jwk(KEY, "k1"), second)
    yield token(key=OTHER)


@row("A044")
def _() -> Iterator[Any]:
    with pytest.raises(KeysRefused):
        keys(jwk(KEY, "k1", use="enc"))  # nothing left
    for bad in ({"alg": "ES384"}, {"d": "AAAA"}):
        with pytest.raises(KeysRefused):
            keys(jwk(KEY, "k1", **bad))
    issuers = {
        ISS: IssuerRules(ISS, "acme", AUD, 3600, keys(jwk(KEY, "k1", use="enc"), jwk(OTHER, "k2", key_ops=["sign"]), jwk(P384, "k3")))
    }
    yield token(), issuers
    yield token(key=OTHER, kid="k2"), issuers
    yield token(key=P384, alg="ES256", kid="k3"), issuers


@row("A045")
def _() -> Iterator[Any]:
    for r, s in ((0, 0), (P256_ORDER, P256_ORDER), (0, 1), (1, 0)):
        yield f"{HEAD}.{BODY}.{b64url_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@row("A047")
def _() -> Iterator[Any]:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    der = KEY.sign(f"{HEAD}.{BODY}".encode(), ec.ECDSA(SHA256()))
    yield f"{HEAD}.{BODY}.{b64url_encode(der)}"
    yield f"{HEAD}.{BODY}.{b64url_encode(base64.urlsafe_b64decode(SIG + '==')[:63])}"
    yield f"{HEAD}.{BODY}."


@row("A048")
def _() -> Iterator[Any]:
    yield from (token(kid=f"unknown-{n}") for n in range(1000))


@row("A049")
def _() -> Iterator[Any]:
    """Whatever a file or a server gives (what a server does besides: tests/identity/test_http.py, test_remote_hostile.py)."""
    yield from ()
    for text in (
        "<html>",
        "",
        "{}",
        '{"keys": []}',
        '{"keys": {}}',
        "[]",
        '{"keys": [1]}',
        '{"keys": []',
        "x" * (1 << 20),
        "\ufeff" + '{"keys": []}',
    ):
        with pytest.raises(KeysRefused):
            KeySet.from_jwks(text)


# -- claims ----------------------------------------------------------------------------------------------------------------------

listed("A052", *over({"exp": str(NOW + 600)}, {"iat": str(NOW)}, {"nbf": str(NOW)}))
listed("A053", *over({"exp": NOW + 600.0}, {"exp": 1e308}, {"iat": NOW - 1.5}))
listed(
    "A054",
    *(
        raw(b'{"exp": ' + odd + b", " + json.dumps(claims(exp=...))[1:].encode())
        for odd in (b"1e400", b"NaN", b"Infinity", b"-Infinity", b"[1]", b"{}")
    ),
)
listed("A055", *over({"exp": True}, {"iat": True}))
listed("A056", *over({"exp": ...}, {"exp": None}, {"exp": -1}, {"iat": ...}, {"iat": -1}))
listed("A057", *over({"exp": 4_102_444_800, "iat": 1}, {"exp": NOW + 3601, "iat": NOW}, {"exp": NOW - 1, "iat": NOW + 1}))
listed("A058", *over({"nbf": NOW + 60}, {"iat": NOW + 3600, "exp": NOW + 3700}, {"iat": NOW + 6}, {"nbf": NOW + 6}))
listed("A060", *over({"aud": [AUD, "other"]}))
listed(
    "A061",
    *over(
        {"aud": [f"a{n}" for n in range(999)] + [AUD]},
        {"aud": [1, AUD]},
        {"aud": []},
        {"aud": {"a": AUD}},
        {"aud": AUD[:-1]},
        {"aud": ...},
        {"aud": AUD + "/"},
        {"aud": AUD.upper()},
        {"aud": None},
    ),
)
listed(
    "A062", *over({"iss": ISS + "/"}, {"iss": ISS.replace("iam", "IAM")}, {"iss": [ISS]}, {"iss": ISS[:-1]}, {"iss": ...}, {"iss": None})
)
listed("A063", *over({"iss": ISS.replace("a", "\u0430", 1)}, {"iss": ISS.replace("iam", "%69am")}, {"iss": ISS.replace("https", "HTTPS")}))
listed("A064", *over({"sub": 1}, {"sub": ""}, {"sub": ...}, {"sub": None}, {"sub": ["alice"]}, {"sub": " alice"}))
listed("A065", *over({"jti": ...}, {"jti": 1}, {"jti": ""}))
listed("A066", *over({"client_id": "alice", "act": ...}, {"client_id": "alice"}))
listed("A067", *over({"scope": ["invoices.read"]}, {"scope": "a  b"}, {"scope": "a\tb"}, {"scope": ""}, {"scope": " a"}, {"scope": 1}))

# -- delegation and proof: what one token can show ----------------------------------------------------------------------------------

listed("A068", *over({"act": {"sub": "a", "act": {"sub": "b", "act": {"sub": "a"}}}}, {"act": {"sub": "a", "act": {"sub": "alice"}}}))
listed("A069", *over({"act": json.loads("".join(f'{{"sub": "a{n}", "act": ' for n in range(8)) + '{"sub": "last"}' + "}" * 8)}))
listed("A070", *over({"act": {}}, {"act": {"client_id": "a"}}, {"act": {"sub": "a", "act": {"iss": ISS}}}))
listed("A071", *over({"act": ["a"]}, {"act": "a"}, {"act": None}, {"act": 1}, {"act": {"sub": "a", "act": [{"sub": "b"}]}}))
listed("A088", *over(*({"authorization_details": [{"type": "agent_tool", "tool": "pay", "args": {"n": odd}}]}
                       for odd in ({"regex": ".*"}, {"not": {"eq": 1}}, {"eq": 1, "cel": "true"}, {}, None, "any", []))))  # fmt: skip
listed("A089", *over({"authorization_details": [{"type": "agent_tool", "tool": "pay", "args": {"n": {"regex": "^a"}}}]}))
listed("A094", *over({"authorization_details": []}, {"authorization_details": [], "scope": ...}, {"scope": ...}))
# What an operator sees: every token of a row has one of these codes, and each of them occurs.
_FORM, _SIGNED, _HEADER = {"token.malformed"}, {"token.signature"}, {"token.header"}
CODES: dict[str, set[str]] = {
    **{f"A{n:03}": _FORM for n in (*range(1, 8), *range(10, 21), 25, 26)},
    "A008": {"token.malformed", "token.missing"},
    "A009": {"token.malformed", "token.missing"},
    "A021": {"token.too_large"},
    "A022": {"token.malformed", "token.too_large"},
    "A023": {"token.header", "token.too_large"},
    "A024": {"token.too_large"},
    "A028": {"token.claims", "token.details"},
    "A029": {"token.header", "token.signature"},
    **{f"A{n:03}": _SIGNED for n in (30, 31, 32, 33, 34, 42, 43, 44, 45, 47, 48)},
    "A035": {"token.type"},
    **{f"A{n:03}": _HEADER for n in (36, 37, 38, 39, 41)},
    "A040": {"token.header", "token.signature", "token.too_large"},
    "A049": set(),  # the file is refused, there is no token
    **{f"A{n:03}": {"token.claims"} for n in (52, 53, 55, 56, 64, 65, 66, 67)},
    "A054": {"token.claims", "token.malformed"},
    "A057": {"token.lifetime"},
    "A058": {"token.not_yet"},
    "A060": {"token.audience"},
    "A061": {"token.audience"},
    "A062": {"token.issuer"},
    "A063": {"token.issuer"},
    **{f"A{n:03}": {"token.actors"} for n in (68, 69, 70, 71)},
    "A088": {"token.details"},
    "A089": {"token.details"},
    "A094": {"token.no_grant"},
}

ELSEWHERE = {
    "A027": "test_claims_that_look_like_authority_grant_nothing",
    "A046": "test_the_twin_of_a_signature_is_the_same_credential",
    "A050": "test_a_key_rotated_out_is_refused_at_the_next_look",
    "A051": "test_no_keys_yet",
    "A059": "test_the_edge_of_the_clock_skew",
}


def test_the_ordinary_token_is_taken() -> None:
    """Without it every row would pass for nothing."""
    assert verdict(GOOD) == "allow"
    assert verdict(token(typ="application/at+jwt")) == "allow"


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(ELSEWHERE)))
def test_row(name: str) -> None:
    seen = set()
    for made in ROWS[name]():
        text, issuers = made if isinstance(made, tuple) else (made, ISSUERS)
        code = verdict(text, issuers=issuers)
        assert code in CODES[name], f"{code}: {str(text)[:120]}"
        seen.add(code)
    assert seen == CODES[name]
    assert "allow" not in seen


def test_a_scope_in_another_case_maps_to_nothing() -> None:
    """A067: the verifier passes the word on as it is; the policy's `scopes:` knows only the exact one."""
    from guard.tokens import verify

    assert verify(token(claims(scope="Invoices.Read")), ISSUERS, now=NOW).scopes == frozenset({"Invoices.Read"})


def test_claims_that_look_like_authority_grant_nothing() -> None:
    from guard.tokens import verify

    odd = {"__proto__": {"is_admin": True}, "permissions": ["*"], "roles": ["admin"], "is_admin": True}
    assert verify(token(claims(**odd)), ISSUERS, now=NOW) == verify(GOOD, ISSUERS, now=NOW)


def test_the_twin_of_a_signature_is_the_same_credential() -> None:
    from guard.tokens import verify

    plain = base64.urlsafe_b64decode(SIG + "==")
    r, s = int.from_bytes(plain[:32], "big"), int.from_bytes(plain[32:], "big")
    twin = f"{HEAD}.{BODY}.{b64url_encode(r.to_bytes(32, 'big') + (P256_ORDER - s).to_bytes(32, 'big'))}"
    assert twin != GOOD
    assert verify(twin, ISSUERS, now=NOW).credential == verify(GOOD, ISSUERS, now=NOW).credential


@pytest.mark.parametrize(("exp", "code"), [(0, "allow"), (-4, "allow"), (-5, "token.expired"), (-6, "token.expired")])
def test_the_edge_of_the_clock_skew(exp: int, code: str) -> None:
    assert verdict(token(claims(iat=NOW - 100, exp=NOW + exp))) == code


def _issuer(path: Path) -> Issuer:
    return Issuer(ISS, audience=AUD, keys=path)


def test_a_key_rotated_out_is_refused_at_the_next_look(tmp_path: Path) -> None:
    """A050, in a file. Over HTTP: tests/identity/test_remote.py, and by a real server: test_connected.py."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
    issuer = _issuer(file)
    assert verdict(GOOD, issuers={ISS: issuer.rules()}) == "allow"
    before = issuer.generation
    file.write_text(json.dumps({"keys": [jwk(OTHER, "k2")]}))
    assert verdict(GOOD, issuers={ISS: issuer.rules(refresh=True)}) == "token.signature"
    assert issuer.generation != before


def test_no_keys_yet(tmp_path: Path) -> None:
    """A051, in a file. Over HTTP: tests/identity/test_remote_hostile.py."""
    from guard.errors import TokenRefused

    issuer = _issuer(tmp_path / "nothing.json")
    for _ in range(2):
        with pytest.raises(TokenRefused) as caught:
            issuer.rules()
        assert caught.value.code == "keys.unavailable"


def test_a_flood_does_not_slow_the_others_down() -> None:
    """A048: a thousand unknown keys, and a good token beside them is taken at once. Over HTTP: tests/identity/test_remote_hostile.py."""
    flood = [token(kid=f"unknown-{n}") for n in range(300)]
    begun, answered, seen = threading.Event(), threading.Event(), list[str]()

    def floods() -> None:
        while not answered.is_set():  # it does not end before the good one is through: who waits for its end waits for ever
            for text in flood:
                seen.append(verdict(text))
                begun.set()

    thread = threading.Thread(target=floods)
    thread.start()
    assert begun.wait(30)
    try:
        assert verdict(GOOD) == "allow"
    finally:
        answered.set()
        thread.join()
    assert set(seen) == {"token.signature"}


def test_these_groups_are_whole(corpora: Path) -> None:
    """Where every row of the list is: tests/delegation/test_register.py."""
    rows = [json.loads(line) for line in (corpora / "delegation/attacks.jsonl").read_text("utf-8").splitlines() if line.strip()]
    assert {r["id"] for r in rows if r["group"] in ("format", "header_keys", "claims")} <= ROWS.keys() | ELSEWHERE.keys()
    assert CODES.keys() == ROWS.keys() - ELSEWHERE.keys()
    assert all(globals()[name] for name in ELSEWHERE.values())
    assert {r["id"] for r in rows if r["id"] in ROWS.keys() - ELSEWHERE.keys() and r["expected"] != "deny"} == set()
