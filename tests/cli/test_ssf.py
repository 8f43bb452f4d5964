"""`guardtrail ssf serve` as a process: an event that is pushed stops a running task."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied
from guard.identity.signals import SignalFeed
from guard.record import ListSink
from guard.state import SqliteState
from guard.tokens import verify
from tests.cli.conftest import told_by
from tests.identity.revoked.test_store import POLICY
from tests.identity.revoked.web import Asked, serving
from tests.patience import PYTHONPATH
from tests.tokens.forge import ISS, RSA, jwk
from tests.tokens.sets import US, payload, signed

Run = Callable[..., Any]
STATE = "sqlite:state.db"
WORDS = ["--issuer", ISS, "--audience", US, "--keys", "idp.json", "--owns", "acme-dev", "--state", STATE]
TOKEN = "the token of the edr, long enough"


@pytest.fixture
def receiver(desk: Path) -> Iterator[str]:
    """The address of a running receiver."""
    SqliteState("state.db").close()
    Path("edr.token").write_text(TOKEN + "\n")
    with receiving(desk, [*WORDS, "--source", "edr=edr.token"]) as events:
        yield events.removesuffix("/events")


@contextmanager
def receiving(folder: Path, words: list[str]) -> Iterator[str]:
    """`guardtrail ssf serve` with these words, run in `folder`: where it takes events."""
    (folder / "idp.json").write_text(json.dumps({"keys": [jwk(RSA, "r1", alg="RS256")]}))
    code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "ssf", "serve", *words, "--port", "0", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = told_by(process)
        found = re.fullmatch(r"(http://127\.0\.0\.1:[0-9]+)/events", told["events"])
        assert found is not None
        assert told["signals"] == (f"{found[1]}/signals" if "--source" in words else None)
        yield told["events"]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (out, process.returncode) == ("", 0)  # it was ended
    assert TOKEN not in err
    assert "alice" not in err


def test_an_event_reaches_a_running_task(receiver: str) -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], state=STATE)
    call = ToolCall("look", {"order": "A-17"})
    token = iam.mint(origin="alice", actor="payer", intent="see")
    at = int(time.time())  # after the token was made: what is said of that second is said of it
    about = {"format": "iss_sub", "iss": "acme-dev", "sub": "alice"}
    event = signed(payload(about, {"caep/session-revoked": {"event_timestamp": at + 1}}, iat=at, jti="e-9"))
    headers = {"content-type": "application/secevent+jwt"}
    with guard.task(token), httpx.Client(trust_env=False, timeout=30) as client:
        assert guard.call(call, lambda order: order) == "A-17"
        refused = client.post(f"{receiver}/events", content=event[:-4] + "AAAA", headers=headers)
        assert (refused.status_code, refused.json()["err"]) == (400, "invalid_key")
        assert "server" not in refused.headers
        told = client.post(f"{receiver}/events", content=event, headers=headers)
        assert told.status_code == 202, told.text
        time.sleep(1.0)
        with pytest.raises(Denied, match="origin was revoked by CAEP session-revoked, event jti e-9"):
            guard.call(call, lambda order: order)


def test_telemetry_reaches_the_feed(receiver: str) -> None:
    iam = LocalIssuer("acme-dev")
    token = iam.mint(origin="alice", actor="payer", intent="see")
    at = int(time.time())
    line = {"source": "edr", "issuer": "acme-dev", "origin": "alice", "signal": "device.compliant", "value": True, "at": at}
    with httpx.Client(trust_env=False, timeout=30) as client:
        for bearer, status in (("x" * 30, 401), (TOKEN, 202)):
            assert client.post(f"{receiver}/signals", json=line, headers={"authorization": f"Bearer {bearer}"}).status_code == status
    found = verify(token, {"acme-dev": iam.rules()}, now=at)
    assert SignalFeed(SqliteState("state.db")).get(found, ("device.compliant",), now=at)["device.compliant"].value is True


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([*WORDS[:-1], "memory:"], 2, "`--state` is `sqlite:PATH`"),
        ([*WORDS[:-1], "sqlite:sate.db"], 3, "there is no store sate.db"),
        ([*WORDS, "--algorithm", "HS256"], 2, "`algorithms` are among"),
        ([*WORDS, "--source", "edr"], 2, "`--source` is NAME=FILE"),
        ([*WORDS, "--source", "edr=nothing"], 3, "token file nothing cannot be read"),
        ([*WORDS, "--source", "edr=short"], 2, "bearer token of 24 characters or more"),
        ([*WORDS, "--source", "edr=short", "--source", "edr=other"], 2, "`--source` names edr twice"),
        (["--issuer", "idp", *WORDS[2:]], 2, "`url` must be the exact `iss`"),
        ([*WORDS[:4], "--keys", "none.json", *WORDS[6:]], 3, "keys"),
        ([*WORDS, "--host", "203.0.113.1"], 3, "cannot listen on 203.0.113.1"),
    ],
    ids=range(10),
)
def test_what_cannot_run_is_said(words: list[str], code: int, text: str, cli: Run, desk: Path) -> None:
    SqliteState("state.db").close()
    Path("idp.json").write_text(json.dumps({"keys": [jwk(RSA, "r1", alg="RS256")]}))
    Path("short").write_text("short")
    Path("other").write_text(TOKEN)
    said = cli("ssf", "serve", *words)
    assert (said.code, text in said.err) == (code, True), said.err


# -- asking, where no sender can reach us ----------------------------------------------------------------------------------------


class Held:
    """A sender that keeps events until they are acknowledged, and holds an answer until there is one (RFC 8936)."""

    def __init__(self) -> None:
        self.events: dict[str, str] = {}
        self.refused: dict[str, Any] = {}
        self.away = False
        self.known: set[str] = set()
        self.arrived = threading.Event()

    def __call__(self, asked: Asked) -> tuple[int, bytes]:
        told = json.loads(asked.body)
        self.known.add(asked.headers.get("authorization", ""))
        if self.away:
            return 503, b""
        for jti in [*told.get("ack", []), *told.get("setErrs", {})]:
            self.events.pop(jti, None)
        self.refused |= told.get("setErrs", {})
        if not told["returnImmediately"] and not self.events:
            self.arrived.wait(10)
        return 200, json.dumps({"sets": self.events if told["maxEvents"] else {}}).encode()

    def hold(self, **events: str) -> None:
        self.events |= events
        self.arrived.set()


@pytest.fixture
def sender() -> Iterator[tuple[Held, str]]:
    held = Held()
    with serving(held) as web:
        yield held, f"{web.url}/poll"


def about_alice(jti: str, at: int) -> str:
    return signed(
        payload(
            {"format": "iss_sub", "iss": "acme-dev", "sub": "alice"}, {"caep/session-revoked": {"event_timestamp": at}}, iat=at, jti=jti
        )
    )


def poll_words(url: str) -> list[str]:
    SqliteState("state.db").close()
    Path("idp.json").write_text(json.dumps({"keys": [jwk(RSA, "r1", alg="RS256")]}))
    Path("poll.token").write_text("the token of the receiver\n".replace(" ", "-"))
    return ["ssf", "poll", "--url", url, *WORDS, "--token", "poll.token"]


def test_what_is_there_is_taken_and_acknowledged(sender: tuple[Held, str], cli: Run, desk: Path) -> None:
    held, url = sender
    words, at = poll_words(url), int(time.time())
    held.hold(**{"e-1": about_alice("e-1", at), "e-2": "no event"})
    said = cli(*words, "--once")
    assert (said.code, said.lines) == (1, ["e-1  1 entry", "e-2  refused: invalid_request"]), said.err
    assert "1 event taken, 1 refused" in said.err
    assert (held.events, held.refused.keys(), held.known) == ({}, {"e-2"}, {"Bearer the-token-of-the-receiver"})
    assert (cli(*words, "--once").code, cli("revoked", "--state", STATE).code) == (0, 0)
    held.hold(**{"e-1": about_alice("e-1", at)})
    assert cli(*words, "--once", "--json").json == {
        "taken": [{"jti": "e-1", "entries": 0, "signals": 0, "repeated": True, "idle": []}],
        "refused": {},
        "left": 0,
    }
    held.away = True
    assert cli(*words, "--once").code == 3


def test_an_event_that_was_asked_for_reaches_a_running_task(sender: tuple[Held, str], desk: Path) -> None:
    held, url = sender
    words = poll_words(url)
    iam = LocalIssuer("acme-dev")
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], state=STATE)
    call = ToolCall("look", {"order": "A-17"})
    held.away = True  # it starts before its sender does
    code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--json"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        with guard.task(iam.mint(origin="alice", actor="payer", intent="see")):
            assert guard.call(call, lambda order: order) == "A-17"
            assert "asking" in process.stderr.readline()
            assert "again in 1 s" in process.stderr.readline()
            held.away = False
            held.hold(**{"e-9": about_alice("e-9", int(time.time()) + 1)})
            told = json.loads(process.stdout.readline())
            assert (told["jti"], told["entries"]) == ("e-9", 1)
            time.sleep(1.0)
            with pytest.raises(Denied, match="origin was revoked by CAEP session-revoked, event jti e-9"):
                guard.call(call, lambda order: order)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the-token" not in err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--url", "http://idp.acme.example/poll"], 2, "`--url` is an https URL"),
        (["--url", "https://user:x@idp.acme.example/poll"], 2, "`--url` is an https URL"),
        (["--token", "none"], 3, "token file none cannot be read"),
        (["--token", "two"], 3, "does not hold one bearer token"),
        (["--state", "sqlite:sate.db"], 3, "there is no store sate.db"),
        (["--algorithm", "HS256"], 2, "`algorithms` are among"),
    ],
    ids=range(6),
)
def test_what_cannot_ask_is_said(words: list[str], code: int, text: str, cli: Run, desk: Path) -> None:
    said_words = poll_words("http://127.0.0.1:9/poll")
    Path("two").write_text("one two")
    said = cli(*said_words, *words)
    assert (said.code, text in said.err) == (code, True), said.err
