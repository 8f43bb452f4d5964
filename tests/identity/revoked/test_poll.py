"""Polling (RFC 8936) against a real loopback server that keeps events until they are acknowledged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.errors import GuardError
from guard.identity.revoked import Poller
from tests.identity.revoked.test_inbox import inbox
from tests.identity.revoked.test_store import Breaking
from tests.identity.revoked.web import Asked, Web, post, serving
from tests.tokens.sets import payload, signed


class Sender:
    """Hands out what it holds until it is acknowledged or refused."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.refused: dict[str, Any] = {}

    def __call__(self, asked: Asked) -> tuple[int, bytes]:
        told = json.loads(asked.body)
        assert told.keys() <= {"maxEvents", "returnImmediately", "ack", "setErrs"}
        assert type(told["returnImmediately"]) is bool
        for jti in told.get("ack", []):
            self.held.pop(jti, None)
        for jti, why in told.get("setErrs", {}).items():
            self.refused[jti] = why
            self.held.pop(jti, None)
        sets = dict(list(self.held.items())[: told["maxEvents"]])
        return 200, json.dumps({"sets": sets, "moreAvailable": len(self.held) > len(sets)}).encode()


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def web(sender: Sender) -> Iterator[Web]:
    with serving(sender) as found:
        yield found


def events(n: int) -> dict[str, str]:
    about = [{"format": "complex", "session": {"format": "opaque", "id": f"s-{i}"}} for i in range(n)]
    return {f"p-{i}": signed(payload(one, jti=f"p-{i}")) for i, one in enumerate(about)}


def test_everything_is_taken_and_acknowledged(sender: Sender, web: Web, tmp_path: Path) -> None:
    store = Breaking()
    box, revoked = inbox(tmp_path, store)
    sender.held = events(5) | {"p-x": "no event", "p-y": signed(payload(jti="p-y", aud="other")), "p-z": 7}
    poller = Poller(f"{web.url}/poll", box, post=post, client=lambda: {"Authorization": "Bearer of the receiver"})
    (polled,) = poller.drain()
    assert [receipt.jti for receipt in polled.receipts] == [f"p-{i}" for i in range(5)]
    assert polled.refused == {"p-x": "invalid_request", "p-y": "invalid_audience", "p-z": "invalid_request"}
    assert sender.held == {}
    assert sender.refused.keys() == {"p-x", "p-y", "p-z"}
    assert sender.refused["p-y"] == {"err": "invalid_audience", "description": "meant for somebody else"}
    assert {entry.value for entry in revoked.entries()} == {f"s-{i}" for i in range(5)}
    assert all(asked.headers["authorization"] == "Bearer of the receiver" for asked in web.asked)
    assert json.loads(web.asked[-1].body)["maxEvents"] == 0


def test_more_than_one_answer_holds(sender: Sender, web: Web, tmp_path: Path) -> None:
    box, revoked = inbox(tmp_path, Breaking())
    sender.held = events(230)
    polled = Poller(web.url, box, post=post).drain()
    assert [len(one.receipts) for one in polled] == [100, 100, 30]
    assert sender.held == {}
    assert len(revoked.entries()) == 230


def test_what_cannot_be_written_comes_again(sender: Sender, web: Web, tmp_path: Path) -> None:
    store = Breaking()
    box, revoked = inbox(tmp_path, store)
    sender.held = events(3)
    poller = Poller(web.url, box, post=post)
    store.off = True
    assert poller.poll()[2] == 3
    assert sender.held.keys() == {"p-0", "p-1", "p-2"}, "neither acknowledged nor refused"
    store.off = False
    poller.drain()
    assert sender.held == {}
    assert len(revoked.entries()) == 3


def test_an_acknowledgement_that_was_lost_is_said_again(sender: Sender, web: Web, tmp_path: Path) -> None:
    box, revoked = inbox(tmp_path, Breaking())
    sender.held = events(2)
    poller = Poller(web.url, box, post=post)
    poller.poll()
    web.answer = lambda asked: (503, b"")
    with pytest.raises(GuardError, match="gave no usable answer"):
        poller.poll()
    web.answer = sender
    again = Poller(web.url, box, post=post).poll()  # the receiver was started anew, and knows nothing of what it owes
    assert [receipt.repeated for receipt in again.receipts] == [True, True]
    poller.poll(most=0)
    assert sender.held == {}
    assert len(revoked.entries()) == 2


@pytest.mark.parametrize(
    "answer",
    [(200, b""), (200, b"[]"), (200, b"<html>"), (200, b'{"sets":[]}'), (200, b'{"sets":{},"sets":{}}'), (200, b'{"sets":{},"moreAvailable":1}'), (500, b"{}"),
     (200, json.dumps({"sets": {str(i): "" for i in range(101)}}).encode()), (200, b'{"sets":{"a\\nb":""}}')],
)  # fmt: skip
def test_what_is_no_answer(answer: tuple[int, bytes], web: Web, tmp_path: Path) -> None:
    web.answer = lambda asked: answer
    with pytest.raises(GuardError) as caught:
        Poller(web.url, inbox(tmp_path, Breaking())[0], post=post).poll()
    assert caught.value.code == "revocation.unavailable"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="did not answer"):
        Poller("http://127.0.0.1:1/", inbox(tmp_path, Breaking())[0], post=post).poll()
