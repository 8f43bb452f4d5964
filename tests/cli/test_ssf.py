"""`guardtrail ssf serve` as a process: an event that is pushed stops a running task."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from tests.cli.conftest import ROOT
from tests.identity.revoked.test_store import POLICY
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
    Path("idp.json").write_text(json.dumps({"keys": [jwk(RSA, "r1", alg="RS256")]}))
    Path("edr.token").write_text(TOKEN + "\n")
    code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
    words = ["ssf", "serve", *WORDS, "--source", "edr=edr.token", "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        found = re.fullmatch(r"(http://127\.0\.0\.1:[0-9]+)/events", told["events"])
        assert found is not None
        assert told["signals"] == f"{found[1]}/signals"
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert out == ""
    assert TOKEN not in err
    assert "alice" not in err


def test_an_event_reaches_a_running_task(receiver: str) -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], state=STATE)
    call = ToolCall("look", {"order": "A-17"})
    at = int(time.time())
    about = {"format": "iss_sub", "iss": "acme-dev", "sub": "alice"}
    event = signed(payload(about, {"caep/session-revoked": {"event_timestamp": at + 1}}, iat=at, jti="e-9"))
    headers = {"content-type": "application/secevent+jwt"}
    with guard.task(iam.mint(origin="alice", actor="payer", intent="see")), httpx.Client(trust_env=False, timeout=10) as client:
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
    iam, at = LocalIssuer("acme-dev"), int(time.time())
    line = {"source": "edr", "issuer": "acme-dev", "origin": "alice", "signal": "device.compliant", "value": True, "at": at}
    with httpx.Client(trust_env=False, timeout=10) as client:
        for token, status in (("x" * 30, 401), (TOKEN, 202)):
            assert client.post(f"{receiver}/signals", json=line, headers={"authorization": f"Bearer {token}"}).status_code == status
    found = verify(iam.mint(origin="alice", actor="payer", intent="see"), {"acme-dev": iam.rules()}, now=at)
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
        (["--issuer", "idp", *WORDS[2:]], 2, "`url` must be the exact `iss`"),
        ([*WORDS[:4], "--keys", "none.json", *WORDS[6:]], 3, "keys"),
        ([*WORDS, "--host", "203.0.113.1"], 3, "cannot listen on 203.0.113.1"),
    ],
    ids=range(9),
)
def test_what_cannot_run_is_said(words: list[str], code: int, text: str, cli: Run, desk: Path) -> None:
    SqliteState("state.db").close()
    Path("idp.json").write_text(json.dumps({"keys": [jwk(RSA, "r1", alg="RS256")]}))
    Path("short").write_text("short")
    said = cli("ssf", "serve", *words)
    assert (said.code, text in said.err) == (code, True), said.err
