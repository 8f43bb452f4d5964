"""The receiver's endpoints as HTTP sees them: the app through a real ASGI transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.errors import ConfigError
from guard.identity.signals import SignalFeed, Source
from guard.model import Signal
from guard.server import events_app
from tests.identity.revoked.test_inbox import inbox
from tests.identity.revoked.test_store import DELEGATION, Breaking
from tests.tokens.forge import ISS, NOW
from tests.tokens.sets import payload, signed

SET = {"content-type": "application/secevent+jwt", "accept": "application/json"}
EDR, MDM = "the token of the edr, long", "the token of the mdm, long"


class World:
    def __init__(self, folder: Path, *, store: Any = None, **more: Any) -> None:
        self.store = store or Breaking()
        self.inbox, self.revoked = inbox(folder, self.store)
        known = frozenset({ISS})
        self.feed = SignalFeed(self.store, sources=[Source("edr", known), Source("mdm", known)], clock=lambda: NOW)
        self.app = events_app(self.inbox, feed=self.feed, sources={"edr": EDR, "mdm": MDM}, **more)

    def send(self, path: str, content: Any, headers: dict[str, str], method: str = "POST") -> httpx.Response:
        async def go() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://us") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(go())

    def push(self, text: str, **headers: str) -> httpx.Response:
        return self.send("/events", text.encode(), {**SET, **headers})

    def tell(self, lines: str, token: str = EDR) -> httpx.Response:
        return self.send("/signals", lines.encode(), {"authorization": f"Bearer {token}"})


def test_an_event_that_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    text = signed(payload(jti="e-1"))
    assert DELEGATION.session == "s-1"
    for _ in range(2):
        found = world.push(text)
        assert (found.status_code, found.content) == (202, b""), "again is no error: its sender may not have had our answer"
    assert world.revoked.find(DELEGATION, now=NOW) == "session\tCAEP session-revoked, event jti e-1"
    assert len(world.revoked.entries()) == 1
    unknown = signed(payload(events={"https://acme.example/lunch": {}}))
    assert world.push(unknown).status_code == 202


@pytest.mark.parametrize(
    ("text", "err"),
    [
        (signed(payload(sub="alice")), "invalid_request"),
        (signed(payload(iss="https://evil.example")), "invalid_issuer"),
        (signed(payload(aud="other")), "invalid_audience"),
        (signed(kid="r2"), "invalid_key"),
        (signed(payload({"format": "iss_sub", "iss": "https://victim.example", "sub": "alice"})), "access_denied"),
        ("x" * 20_000, "invalid_request"),
        ("", "invalid_request"),
        ("ä", "invalid_request"),
    ],
    ids=lambda value: value if len(value) < 30 else "",  # the same names in every process: the keys are not
)
def test_an_event_that_is_refused(text: str, err: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    found = world.push(text)
    assert found.status_code == 400
    assert found.headers["content-type"] == "application/json"
    assert found.json().keys() == {"err", "description"}
    assert found.json()["err"] == err
    assert "alice" not in found.text
    assert world.revoked.entries() == []


def test_only_events_by_post(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.push(signed(), **{"content-type": "application/jwt"}).status_code == 400
    assert world.send("/events", b"", {}, "GET").status_code == 405
    assert world.send("/", b"", {}).status_code == 404
    assert world.revoked.entries() == []


def test_without_a_store_it_must_come_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.off = True
    found = world.push(signed())
    assert (found.status_code, found.headers["retry-after"]) == (503, "5")
    world.store.off = False
    assert world.push(signed()).status_code == 202


def test_a_sender_may_have_to_bring_a_header_too(tmp_path: Path) -> None:
    world = World(tmp_path, authorization="Bearer of the sender")
    assert world.push(signed()).status_code == 401
    assert world.push(signed(), authorization="Bearer of the sende").status_code == 401
    assert world.revoked.entries() == []
    assert world.push(signed(), authorization="Bearer of the sender").status_code == 202


def signal(**over: object) -> str:
    told = {"source": "edr", "issuer": ISS, "session": "s-1", "signal": "device.compliant", "value": True, "at": NOW - 5, **over}
    return json.dumps(told)


def test_telemetry(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = world.tell(signal() + "\n\n" + signal(value=False, at=NOW - 1) + "\n")
    assert (found.status_code, found.json()) == (202, {"taken": 2, "refused": []})
    assert world.feed.get(DELEGATION, ("device.compliant",), now=NOW) == {"device.compliant": Signal(False, NOW - 1)}
    found = world.tell(signal(at=NOW + 1) + "\n{}\n" + signal(source="mdm"))
    assert found.status_code == 400
    assert found.json()["taken"] == 1
    assert [one["line"] for one in found.json()["refused"]] == [2, 3]
    assert "s-1" not in found.text


def test_a_source_proves_who_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    for header in ("", "Bearer", "Bearer x", EDR, f"Basic {EDR}", f"Bearer {EDR}x", f"Bearer  {EDR}"):
        assert world.send("/signals", signal().encode(), {"authorization": header}).status_code == 401, header
    assert world.tell(signal(), MDM).status_code == 400, "a source speaks for itself only"
    assert world.feed.get(DELEGATION, ("device.compliant",), now=NOW) == {}
    assert world.tell(signal()).status_code == 202


def test_too_much_at_once_is_not_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 4096

    assert world.send("/events", endless(), SET).status_code == 400
    assert world.send("/signals", endless(), {"authorization": f"Bearer {EDR}"}).status_code == 413
    assert read < 100
    assert world.tell("{}\n" * 1001).status_code == 413


def test_telemetry_without_a_store_must_come_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.off = True
    assert world.tell(signal()).status_code == 503


def test_misuse_is_said_when_the_app_is_made(tmp_path: Path) -> None:
    world = World(tmp_path)
    for wrong in ({}, {"edr": "short"}, {"edr": EDR, "mdm": EDR}):
        with pytest.raises(ConfigError):
            events_app(world.inbox, feed=world.feed, sources=wrong)
    assert events_app(world.inbox).routes[0].path == "/events"  # type: ignore[attr-defined]
    assert len(events_app(world.inbox).routes) == 1


@pytest.mark.parametrize("path", ["/events", "/signals"])
def test_a_drip_ends_and_may_come_again(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a few hundred senders that never end keep every revocation out. An honest one that was slow must not drop its event."""
    monkeypatch.setattr("guard.server.bodies._SECONDS", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(200):
            await asyncio.sleep(0.05)
            yield b"x"

    assert World(tmp_path).send(path, drip(), {**SET, "authorization": f"Bearer {EDR}"}).status_code == 503
