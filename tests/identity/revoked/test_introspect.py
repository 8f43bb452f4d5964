"""Introspection on a real loopback server: A110 (the window), A111 (what is no yes), one question at a time; and RFC 7009."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from guard import Guard, Issuer, Policy, ToolCall
from guard.errors import ConfigError, Denied, GuardError, TokenRefused
from guard.identity import TrustedIssuers
from guard.identity.revoked import Introspection, basic, take_back
from guard.record import ListSink
from tests.identity.revoked.test_inbox import jwks
from tests.identity.revoked.test_store import POLICY, Steady
from tests.identity.revoked.web import Asked, Web, post, serving
from tests.tokens.forge import AUD, ISS, NOW, claims, token

YES = {"active": True, "iss": ISS, "sub": "alice", "jti": "t-1", "exp": NOW + 600}
CLIENT = basic("guard", "secret of the guard:%")


def answer(told: Any, status: int = 200) -> Any:
    raw = told if isinstance(told, bytes) else json.dumps(told).encode()
    return lambda asked: (status, raw)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(answer(YES)) as found:
        yield found


def asking(web: Web, folder: Path, **more: Any) -> Any:
    """A verifier that really verifies, and asks."""
    made = {"issuer": ISS, "post": post, "client": CLIENT, **more}
    return Introspection(f"{web.url}/introspect", **made).over(TrustedIssuers(Issuer(ISS, audience=AUD, keys=jwks(folder / "jwks.json"))))


def code(verifier: Any, text: str | None = None, now: int = NOW) -> str:
    try:
        verifier.verify(text or token(), now=now)
    except TokenRefused as refused:
        assert "secret" not in str(refused)
        assert refused.__cause__ is None
        return str(refused.code)
    return "allow"


def test_a_yes_is_asked_for_as_the_standard_says(web: Web, tmp_path: Path) -> None:
    text = token()
    assert code(asking(web, tmp_path), text) == "allow"
    (asked,) = web.asked
    assert parse_qs(asked.body.decode()) == {"token": [text], "token_type_hint": ["access_token"]}
    assert asked.path == "/introspect", "no token in an address"
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"guard:secret+of+the+guard%3A%25"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({**YES, "active": "true"}, "revocation.unavailable"),
        ({**YES, "active": 1}, "revocation.unavailable"),
        ({**YES, "active": [True]}, "revocation.unavailable"),
        ({"iss": ISS}, "revocation.unavailable"),
        ([True], "revocation.unavailable"),
        (b"<html>active: true</html>", "revocation.unavailable"),
        (b'{"active":false,"active":true}', "revocation.unavailable"),
        (b"\xef\xbb\xbf" + json.dumps(YES).encode(), "revocation.unavailable"),
        (b"", "revocation.unavailable"),
        ({**YES, "x": "y" * 70_000}, "revocation.unavailable"),
        ({**YES, "iss": "https://evil.example"}, "revocation.unavailable"),
        ({**YES, "iss": None}, "revocation.unavailable"),
        ({**YES, "jti": "t-2"}, "revocation.unavailable"),
        ({**YES, "sub": "bob"}, "revocation.unavailable"),
        ({"active": False}, "token.revoked"),
        ({"active": True}, "allow"),
        (YES, "allow"),
    ],
)
def test_a111_what_is_a_yes(told: Any, said: str, web: Web, tmp_path: Path) -> None:
    web.answer = answer(told)
    assert code(asking(web, tmp_path)) == said


@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 404, 429, 500, 503])
def test_a111_another_status_is_no_answer(status: int, web: Web, tmp_path: Path) -> None:
    web.answer = answer(YES, status)
    assert code(asking(web, tmp_path)) == "revocation.unavailable"


def test_a111_a_timeout_is_no_answer_and_is_not_kept(web: Web, tmp_path: Path) -> None:
    patience, late = [0.3], threading.Event()

    def brief(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        return post(url, body, headers, seconds=patience[0])

    def slow(asked: Asked) -> tuple[int, bytes]:
        late.wait(60)
        return 200, json.dumps(YES).encode()

    verifier = asking(web, tmp_path, post=brief)
    web.answer = slow
    assert code(verifier) == "revocation.unavailable", "while the server had not answered"
    late.set()
    web.answer, patience[0] = answer(YES), 30.0
    assert code(verifier) == "allow", "the next call asks again"


def test_a111_nobody_there(tmp_path: Path) -> None:
    with serving(answer(YES)) as gone:
        pass
    assert code(asking(gone, tmp_path)) == "revocation.unavailable"


def test_a110_a_token_taken_back_lives_for_fifteen_seconds_at_most(web: Web, tmp_path: Path) -> None:
    """Measured: the last second at which a kept yes still counts."""
    steady = Steady()
    verifier, text = asking(web, tmp_path, steady=steady), token()
    assert code(verifier, text) == "allow"
    web.answer = answer({"active": False})
    lived = [second for second in range(40) if _at(steady, second) and code(verifier, text) == "allow"]
    assert max(lived) == 14
    assert code(verifier, text) == "token.revoked"
    web.answer = answer(YES)
    steady.at = 39.9
    assert code(verifier, text) == "token.revoked", "a no is kept for five seconds"
    steady.at = 40.0
    assert code(verifier, text) == "allow"


def _at(steady: Steady, second: float) -> bool:
    steady.at = second
    return True


def test_a_yes_is_as_old_as_its_question_and_no_older_than_the_token(web: Web, tmp_path: Path) -> None:
    steady = Steady()

    def slow(asked: Asked) -> tuple[int, bytes]:
        steady.at += 10  # the answer was ten seconds on its way
        return 200, json.dumps(YES).encode()

    web.answer = slow
    verifier = asking(web, tmp_path, steady=steady)
    assert code(verifier) == "allow"
    text = token()
    assert code(verifier, text) == "allow"
    asked = len(web.asked)
    steady.at += 4.9
    code(verifier, text)
    assert len(web.asked) == asked
    steady.at += 0.2
    code(verifier, text)
    assert len(web.asked) == asked + 1
    for ends in (NOW + 3, "soon", NOW - 1):
        fresh, text = Steady(), token()
        web.answer = answer({**YES, "exp": ends})
        verifier = asking(web, tmp_path, steady=fresh)
        code(verifier, text)
        fresh.at = 3.0
        asked = len(web.asked)
        code(verifier, text)
        assert len(web.asked) == asked + 1, ends


def test_one_question_at_a_time(web: Web, tmp_path: Path) -> None:
    def slow(asked: Asked) -> tuple[int, bytes]:
        time.sleep(0.1)
        return 200, json.dumps(YES).encode()

    web.answer = slow
    verifier, text, said = asking(web, tmp_path), token(), []
    threads = [threading.Thread(target=lambda: said.append(code(verifier, text))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["allow"] * 16
    assert len(web.asked) == 1


def test_tokens_of_others_are_not_shown(web: Web, tmp_path: Path) -> None:
    assert code(asking(web, tmp_path, issuer="https://other.example")) == "allow"
    assert web.asked == []
    verifier = asking(web, tmp_path)
    assert code(verifier, token(claims(aud="other"))) == "token.audience"
    assert web.asked == [], "what does not verify is not carried around"


def test_it_cannot_be_made_weaker(web: Web) -> None:
    with pytest.raises(ConfigError):
        Introspection(web.url, issuer=ISS, post=post, client=CLIENT, seconds=16)
    assert "secret" not in repr(Introspection(web.url, issuer=ISS, post=post, client=CLIENT))


def test_in_a_guard(web: Web, tmp_path: Path) -> None:
    at = int(time.time())
    asked = Introspection(web.url, issuer=ISS, post=post, client=CLIENT, seconds=0)
    guard = Guard(
        Policy.from_text(POLICY),
        trust=Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "jwks.json")),
        sinks=[ListSink()],
        revocations=[asked],
    )
    details = [{"type": "agent_task", "intent": "see", "params": {}}]
    call = ToolCall("look", {"order": "A-17"})
    web.answer = answer({"active": True})
    with guard.task(token(claims(iat=at, exp=at + 600, authorization_details=details, scope=...))):
        assert guard.call(call, lambda order: order) == "A-17"
        web.answer = answer({}, 500)
        with pytest.raises(Denied, match="revocation.unavailable"):
            guard.call(call, lambda order: order)
        web.answer = answer({"active": False})
        with pytest.raises(Denied, match=r"the issuer says that the token is not active \[token.revoked\]"):
            guard.call(call, lambda order: order)


def test_by_the_one_file_that_speaks_http(web: Web, tmp_path: Path) -> None:
    """What is used where nobody gives another `post`: no redirect is followed, no megabytes are read."""
    issuer = Issuer(ISS, audience=AUD, keys=jwks(tmp_path / "jwks.json"))
    verifier = Introspection(f"{web.url}/introspect", issuer=ISS, client=CLIENT, seconds=0).over(TrustedIssuers(issuer))
    text = token()
    assert code(verifier, text) == "allow"
    assert parse_qs(web.asked[0].body.decode())["token"] == [text]
    assert web.asked[0].headers["content-type"] == "application/x-www-form-urlencoded"
    for told in (answer({"active": "true"}), answer(YES, 302), answer(YES, 500), answer(b"x" * (1 << 20))):
        web.answer = told
        assert code(verifier, text) == "revocation.unavailable"
    web.answer = answer(b"")
    take_back(f"{web.url}/revoke", "the-token", client=CLIENT)
    with pytest.raises(GuardError, match="did not answer"):
        take_back("http://iam.acme.example/revoke", "the-token", client=CLIENT)


def test_taking_back_at_the_issuer(web: Web) -> None:
    web.answer = answer(b"")
    take_back(f"{web.url}/revoke", "the-token", post=post, client=CLIENT)
    assert parse_qs(web.asked[0].body.decode()) == {"token": ["the-token"], "token_type_hint": ["access_token"]}
    for status in (204, 400, 401, 500, 503):
        web.answer = answer(b"", status)
        with pytest.raises(GuardError, match=f"answered {status}") as caught:
            take_back(f"{web.url}/revoke", "the-token", post=post, client=CLIENT)
        assert "the-token" not in str(caught.value)
    with pytest.raises(GuardError, match="did not answer"):
        take_back("http://127.0.0.1:1/revoke", "the-token", post=post, client=CLIENT)
