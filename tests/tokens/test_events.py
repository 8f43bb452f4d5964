"""Security events: who may say what, what it means; the published examples, their negative twins, and A112, A113 of the attack list."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import TokenRefused
from guard.tokens import verify
from guard.tokens.effects import ALWAYS, TABLE, effects
from guard.tokens.events import EventRefused, Sender, read_events
from tests.tokens.forge import ED, ISS, ISSUERS, KEY, NOW, OTHER, RSA, claims, jwk, keys, token
from tests.tokens.sets import HEADER, KEYS, SENDER, SENDERS, US, payload, signed

HERE = Path(__file__).resolve().parent
CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "events.yaml").read_text("utf-8"))


def err(text: Any, *, senders: Any = SENDERS, now: int = NOW) -> str:
    """`taken`, or the word of RFC 8935. Any other exception is the test's failure."""
    try:
        read_events(text, senders, now=now)
    except EventRefused as refused:
        assert refused.__cause__ is None
        assert refused.__context__ is None, "no exception that holds the event's text hangs on it"
        assert not any(word in str(refused) for word in ("alice", "s-1", "e-"))
        return refused.err
    return "taken"


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_what_it_means(case: dict[str, Any]) -> None:
    events = {
        name: {**told, **({"event_timestamp": NOW} if told.get("event_timestamp") == 0 else {})} for name, told in case["event"].items()
    }
    found = effects(read_events(signed(payload(case["subject"], events)), SENDERS, now=NOW), now=NOW)
    said = [
        f"{'account ' if one.channel else ''}{one.kind} {one.value} {'always' if one.at == ALWAYS else int(one.at - NOW)}"
        for one in found.revokes
    ] + [
        f"signal {one.about.kind} {one.about.value} {one.name}={one.value}{f' on {one.device}' if one.device else ''}" for one in found.says
    ]
    assert said == case["effects"]
    assert all(one.issuer == ISS for one in found.revokes), "nobody else's tokens"
    assert all(one.about.issuer == ISS for one in found.says)
    assert bool(found.idle) == (not case["effects"]), "what had no effect is said"


def test_every_row_of_the_table_has_a_case() -> None:
    from tests.tokens.sets import uri

    assert TABLE.keys() <= {uri(name) for case in CASES for name in case["event"]}


def test_an_opaque_subject_is_one_of_the_issuers_the_sender_speaks_for() -> None:
    other = "https://login.acme.example"
    told = read_events(
        signed(payload({"format": "email", "email": "a@acme.example"})), {ISS: replace(SENDER, owns=frozenset({other}))}, now=NOW
    )
    assert [one.issuer for one in effects(told, now=NOW).revokes] == [other]


# -- the published examples -----------------------------------------------------------------------------------------------------


def published(corpora: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpora / "ssf/sets.jsonl").read_text("utf-8").splitlines() if line.strip()]


def sender_of(content: dict[str, Any]) -> dict[str, Sender]:
    """The sender an example assumes: it speaks for whomever the example names (two speak for another issuer than themselves)."""
    audience = content["aud"][0] if isinstance(content["aud"], list) else content["aud"]
    named = set(_issuers(content["sub_id"])) | {content["iss"]}
    return {content["iss"]: Sender(content["iss"], audience, KEYS, frozenset(named))}


def _issuers(raw: Any) -> list[str]:
    if not isinstance(raw, dict):
        return []
    own = [value for name, value in raw.items() if name in ("iss", "issuer") and isinstance(value, str)]
    return own + [found for value in raw.values() for found in _issuers(value)]


REVOKES = {"set-01": 2, "set-02": 1, "set-03": 1, "set-04": 1, "set-05": 1, "set-15": 1, "set-16": 1, "set-17": 1, "set-18": 1, "set-19": 1}
SAYS = {"set-08", "set-09", "set-10", "set-13"}
FOREIGN = {"set-13", "set-18"}  # the subject is of another issuer than the sender's own `iss`
NAMED_BY_ISSUER = {"set-02", "set-03", "set-04", "set-05", "set-06", "set-07", "set-08", "set-09", "set-10", "set-13", "set-18", "set-23"}


def test_all_published_examples_are_taken(corpora: Path) -> None:
    rows = published(corpora)
    assert len(rows) == 25
    for at, row in enumerate(rows):
        content = {**row["set"], "iat": NOW, "jti": f"fresh-{at}"}
        told = read_events(signed(content), sender_of(content), now=NOW)
        found = effects(told, now=NOW)
        assert len(found.revokes) >= REVOKES.get(row["id"], 0), row["id"]
        assert bool(found.revokes) == (row["id"] in REVOKES), row["id"]
        assert bool(found.says) == (row["id"] in SAYS), row["id"]
        assert bool(found.idle) == (row["id"] not in REVOKES and row["id"] not in SAYS), row["id"]


def test_the_example_of_the_year_2451(corpora: Path) -> None:
    (row,) = [row for row in published(corpora) if row["id"] == "set-20"]
    assert err(signed(row["set"]), senders=sender_of(row["set"])) == "invalid_request"


def test_negative_twins_of_every_example(corpora: Path) -> None:
    for row in published(corpora):
        content = {**row["set"], "iat": NOW}
        senders = sender_of(content)
        (sender,) = senders.values()
        assert err(signed(content), senders=senders) == "taken"
        for wrong, word in (
            ({**content, "aud": "https://other.example"}, "invalid_audience"),
            ({**content, "aud": []}, "invalid_audience"),
            ({**content, "sub": "alice"}, "invalid_request"),
            ({**content, "exp": NOW + 600}, "invalid_request"),
            ({**content, "iss": "https://evil.example"}, "invalid_issuer"),
            ({**content, "iat": NOW + 61}, "invalid_request"),
            ({**content, "iat": NOW - 8 * 86400}, "invalid_request"),
            ({**content, "jti": ""}, "invalid_request"),
            ({**content, "events": {}}, "invalid_request"),
        ):
            assert err(signed(wrong), senders=senders) == word, (row["id"], word)
        assert err(signed(content, typ="JWT"), senders=senders) == "invalid_request"
        assert err(signed(content, key=KEY, alg="ES256"), senders=senders) == "invalid_key"
        mine = {sender.issuer: replace(sender, owns=frozenset({sender.issuer}))}
        assert err(signed(content), senders=mine) == ("access_denied" if row["id"] in FOREIGN else "taken")
        nobody = {sender.issuer: replace(sender, owns=frozenset({"https://nobody.example"}))}
        assert err(signed(content), senders=nobody) == ("access_denied" if row["id"] in NAMED_BY_ISSUER else "taken")


# -- A112 -----------------------------------------------------------------------------------------------------------------------

_EVIL = {"format": "iss_sub", "iss": "https://victim.example", "sub": "alice"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (signed(payload(sub="alice")), "invalid_request"),
        (signed(payload(exp=NOW + 600)), "invalid_request"),
        (signed(typ="at+jwt"), "invalid_request"),
        (signed(typ="application/secevent+jwt"), "invalid_request"),
        (signed(typ="SECEVENT+JWT"), "invalid_request"),
        (signed(typ=...), "invalid_request"),
        (signed(crit=["typ"]), "invalid_request"),
        (signed(jku="https://evil.example/keys"), "invalid_request"),
        (signed(payload(aud="https://other.example")), "invalid_audience"),
        (signed(payload(aud=...)), "invalid_audience"),
        (signed(payload(aud=[US, 1])), "invalid_audience"),
        (signed(payload(aud={US: 1})), "invalid_audience"),
        (signed(payload(iss=...)), "invalid_issuer"),
        (signed(payload(iss=[ISS])), "invalid_issuer"),
        (signed(payload(iss=ISS + "/")), "invalid_issuer"),
        (signed(kid="r2"), "invalid_key"),
        (signed(kid=...), "invalid_key"),
        (signed(alg="PS256"), "invalid_key"),
        (signed(alg="none"), "invalid_key"),
        (signed(key=OTHER, alg="ES256"), "invalid_key"),
        (signed()[:-4] + "AAAA", "invalid_key"),
        (signed(payload(_EVIL)), "access_denied"),
        (signed(payload({"format": "complex", "session": {"format": "opaque", "id": "s-1"}, "user": _EVIL})), "access_denied"),
        (signed(payload({"format": "aliases", "identifiers": [_EVIL]})), "access_denied"),
        (signed(payload({"format": "jwt_id", "iss": "https://victim.example", "jti": "t-1"})), "access_denied"),
        (signed(payload({"format": "of_their_own", "iss": "https://victim.example"})), "access_denied"),
        (signed(payload(sub_id=...)), "invalid_request"),
        (signed(payload(sub_id="alice")), "invalid_request"),
        (signed(payload({"format": "iss_sub", "sub": "alice"})), "invalid_request"),
        (signed(payload({"format": "email", "email": "a\u202e@acme.example"})), "invalid_request"),
        (signed(payload({"format": "complex"})), "invalid_request"),
        (signed(payload({"format": "complex", "user": {"format": "complex", "user": {"format": "opaque", "id": "x"}}})), "invalid_request"),
        (signed(payload(jti=7)), "invalid_request"),
        (signed(payload(iat=float(NOW))), "invalid_request"),
        (signed(payload(iat=True)), "invalid_request"),
        (signed(payload(toe="soon")), "invalid_request"),
        (signed(payload(events={"https://x.example/e": []})), "invalid_request"),
        (signed(payload(events={"no uri": {}})), "invalid_request"),
        (signed(payload(events={f"https://x.example/{n}": {} for n in range(9)})), "invalid_request"),
        (token(), "invalid_request"),
        ("", "invalid_request"),
        (None, "invalid_request"),
        (signed() + " ", "invalid_request"),
        (signed() + "." + signed(), "invalid_request"),
    ],
    ids=lambda value: value if value and len(value) < 30 else "",  # the same names in every process: the keys are not
)
def test_a112_what_is_no_event_for_us(text: Any, word: str) -> None:
    assert err(signed()) == "taken", "without it every row would pass for nothing"
    assert err(text) == word


def test_a112_an_unknown_event_is_taken_and_does_nothing() -> None:
    told = read_events(signed(payload(events={"https://acme.example/events/lunch": {"x": 1}})), SENDERS, now=NOW)
    assert effects(told, now=NOW) == ((), (), ("lunch",))


def test_an_event_is_no_access_token_and_an_access_token_no_event() -> None:
    issuers = {ISS: replace(ISSUERS[ISS], keys=KEYS, audience=US)}
    for text in (signed(), signed(payload(**{**claims(), "aud": US}))):
        with pytest.raises(TokenRefused) as caught:
            verify(text, issuers, now=NOW)
        assert caught.value.code == "token.type"


def test_the_algorithms_are_the_senders() -> None:
    for key, alg in ((KEY, "ES256"), (ED, "Ed25519"), (RSA, "RS256")):
        of = keys(jwk(key, "r1", alg=alg))
        text = signed(key=key, alg=alg)
        only = replace(SENDER, keys=of, algorithms=frozenset({alg}))
        assert err(text, senders={ISS: only}) == "taken"
        others = replace(only, algorithms=frozenset({"PS512"}))
        assert err(text, senders={ISS: others}) == "invalid_key"
    assert "Ed25519" not in SENDER.algorithms


# -- A113 -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iat", "dead"), [(NOW - 100, True), (NOW - 1, True), (NOW, True), (NOW + 1, False), (NOW + 100, False)])
def test_a113_before_and_after_the_event(iat: int, dead: bool) -> None:
    from guard.identity.revoked.index import Index

    late = NOW + 200
    told = read_events(
        signed(payload({"format": "iss_sub", "iss": ISS, "sub": "alice"}, iat=late, toe=NOW, events={"caep/session-revoked": {}})),
        SENDERS,
        now=late,
    )
    index = Index()
    for entry in effects(told, now=late).revokes:
        index.put(entry)
    found = index.find(verify(token(claims(iat=iat, exp=iat + 600)), ISSUERS, now=max(iat, NOW)))
    assert (found is not None) == dead


# -- laws -----------------------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([ISS, US, "alice", "complex", "iss_sub", "opaque"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["format", "iss", "sub", "id", "user"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["iss", "aud", "iat", "jti", "sub_id", "events", "toe", "txn", "sub", "exp"]), _JSON, max_size=4))
def test_whatever_is_signed_is_taken_or_refused_in_our_words(over: dict[str, Any]) -> None:
    text = token(json.dumps({**payload(), **over}).encode(), key=RSA, header=HEADER)
    try:
        told = read_events(text, SENDERS, now=NOW)
    except EventRefused:
        return
    assert not {"sub", "exp"} & over.keys()
    found = effects(told, now=NOW)
    assert all(one.issuer == ISS and (one.at == ALWAYS or one.at <= NOW + 1) for one in found.revokes)


@given(st.integers(0, 10_000), st.sampled_from("ABCabc019-_."))
def test_a_changed_character_is_never_taken(at: int, char: str) -> None:
    text = signed(payload(jti="e-0"))
    at %= len(text)
    if text[at] != char:
        assert err(text[:at] + char + text[at + 1 :]) != "taken"
