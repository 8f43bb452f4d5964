"""What others say of devices, persons and sessions: whom it counts for, who may say it, and what is missing satisfies no rule."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import Guard, Policy, ToolCall
from guard.errors import ConfigError, Denied, StateUnavailable
from guard.identity import LocalIssuer
from guard.identity.revoked import Inbox, StoreRevocations, Transmitter
from guard.identity.signals import KEEP, SignalFeed, SignalRefused, Source
from guard.identity.telemetry import SignalFile, SignalFiles
from guard.model import Signal
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from guard.testing.clock import FrozenClock
from guard.tokens import verify
from tests.identity.revoked.test_store import Breaking, Steady
from tests.tokens.forge import ISS, ISSUERS, NOW, claims, token
from tests.tokens.sets import payload

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).with_name("signals.yaml")).read_text("utf-8"))
DELEGATION = verify(token(claims(sid="s-1", person="p-1")), ISSUERS, now=NOW)
EDR = Source("edr", frozenset({ISS}), frozenset({"device.*", "risk.level"}))


def feed(store: Any = None, now: int = 1000) -> SignalFeed:
    return SignalFeed(MemoryState() if store is None else store, sources=[EDR], clock=lambda: now)


def line(**over: object) -> str:
    told = {"source": "edr", "issuer": ISS, "session": "s-1", "signal": "device.compliant", "value": True, "at": 900, **over}
    return json.dumps({name: value for name, value in told.items() if value is not ...})


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_what_a_delegation_is_told(case: dict[str, Any], tmp_path: Path) -> None:
    name = case.get("asks", "device.compliant")
    for store in (MemoryState(), SqliteState(tmp_path / "state.db")):
        for said in case["said"]:
            feed(store).take(line(**{"session": ..., **said}))
        found = feed(store).get(DELEGATION, (name, "device.other"), now=1000)
        assert found == ({} if case["found"] is None else {name: Signal(*case["found"])})


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "mdm"},
        {"source": ["edr"]},
        {"issuer": "https://other.example"},
        {"issuer": ...},
        {"signal": "assurance.level"},
        {"signal": "device"},
        {"signal": "devices.compliant"},
        {"signal": "device.|x"},
        {"signal": "device.@"},
        {"session": ...},
        {"session": ""},
        {"session": 7},
        {"session": "s-1\u202e"},
        {"value": {}},
        {"value": 1.5},
        {"value": "x" * 257},
        {"at": 1061},
        {"at": -1},
        {"at": True},
        {"at": "900"},
        {"expires": 900},
        {"expires": 900 + KEEP + 1},
        {"expires": None},
        {"more": 1},
    ],
)
def test_what_is_no_signal_is_not_taken(wrong: dict[str, Any]) -> None:
    one = feed()
    with pytest.raises(SignalRefused) as caught:
        one.take(line(**wrong))
    assert "s-1" not in str(caught.value)
    assert one.get(DELEGATION, ("device.compliant", "assurance.level"), now=1000) == {}
    one.take(line())
    assert one.get(DELEGATION, ("device.compliant",), now=1000), "without it every row would pass for nothing"


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"source":"edr","source":"edr"}', "\ufeff{}", "{}" + " " * 9000, b"\xff"])
def test_what_is_no_line_is_not_taken(text: Any) -> None:
    with pytest.raises(SignalRefused):
        feed().take(text)


def test_a_source_is_who_it_has_proven_to_be() -> None:
    with pytest.raises(SignalRefused):
        feed().take(line(), source="mdm")
    assert feed().take(line(), source="edr").value is True


def test_names_of_sources_are_checked() -> None:
    for wrong in (Source("", frozenset({ISS})), Source("edr", frozenset({ISS}), frozenset({"*"}))):
        with pytest.raises(ConfigError):
            SignalFeed(MemoryState(), sources=[wrong])


def test_a_store_that_does_not_answer_says_nothing() -> None:
    store = Breaking()
    one = feed(store)
    one.take(line())
    store.off = True
    with pytest.raises(StateUnavailable):
        one.get(DELEGATION, ("device.compliant",), now=1000)
    with pytest.raises(StateUnavailable):
        one.take(line())


def test_writers_of_one_signal_leave_the_latest(tmp_path: Path) -> None:
    from threading import Thread

    stores = [SqliteState(tmp_path / "state.db", timeout=20) for _ in range(3)]

    def write(n: int) -> None:
        for at in range(n, 300, 3):
            feed(stores[n]).take(line(value=at, at=at))

    threads = [Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert feed(stores[0]).get(DELEGATION, ("device.compliant",), now=1000) == {"device.compliant": Signal(299, 299)}


class Overtaken(Breaking):
    """Between what a writer has seen and what it writes, somebody else writes."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[str] = []

    def apply(self, ops: Any, *, now: Any, commit: bool = True) -> Any:
        if commit and self.meanwhile:
            feed(self.store).take(self.meanwhile.pop())
        return super().apply(ops, now=now, commit=commit)


@pytest.mark.parametrize("first", [None, 800])
def test_who_was_overtaken_looks_again(first: int | None) -> None:
    store = Overtaken()
    if first is not None:
        feed(store).take(line(at=first))
    store.meanwhile = [line(at=950, value=False)]
    feed(store).take(line(at=900))
    assert feed(store).get(DELEGATION, ("device.compliant",), now=1000) == {"device.compliant": Signal(False, 950)}


POLICY = """\
guardtrail: 1
name: t
owner: o@acme.example
tools:
  look: {effect: read, control: {order: id}}
  pay: {effect: pay, control: {order: id}}
flow: {read: {allow: [any]}, pay: {allow: [any]}}
intents: {see: {description: See., params: {}, ttl: 1h, allow: {look: {}, pay: {}}}}
rules:
  - id: healthy-device
    when: {effect: pay}
    require: {signals.device.compliant: {eq: true}}
    within: 10m
"""


def test_a_rule_on_a_real_guard() -> None:
    """Missing, said, taken back, stale: by telemetry and by CAEP. What no rule mentions changes nothing."""
    clock = FrozenClock()
    store = MemoryState()
    seconds = lambda: clock.now().timestamp()  # noqa: E731
    iam = LocalIssuer("acme-dev", clock=seconds)
    idp = LocalIssuer("idp", audience="us", clock=seconds)
    mdm = Source("mdm", frozenset({"acme-dev"}))
    signals = SignalFeed(store, sources=[mdm], clock=seconds)
    box = Inbox([Transmitter(idp, owns=["acme-dev"])], StoreRevocations(store, clock=seconds), signals, clock=seconds)
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], state=store, clock=clock, signals=signals)

    def paid() -> bool:
        try:
            guard.call(ToolCall("pay", {"order": "A-17"}), lambda order: None)
        except Denied as denied:
            assert denied.decision.deciding is not None
            assert denied.decision.deciding.rule == "healthy-device"
            return False
        return True

    def told(**over: object) -> str:
        at = int(seconds())
        return json.dumps(
            {"source": "mdm", "issuer": "acme-dev", "device": "d-1", "signal": "device.compliant", "value": True, "at": at, **over}
        )

    with guard.task(iam.mint(origin="alice", actor="payer", intent="see", ttl="1h")):
        guard.call(ToolCall("look", {"order": "A-17"}), lambda order: None)
        assert not paid(), "missing"
        signals.take(told())
        assert not paid(), "of a device, but whose?"
        signals.take(told(origin="alice"))
        assert paid()
        clock.advance(60)
        about = {
            "format": "complex",
            "user": {"format": "iss_sub", "iss": "acme-dev", "sub": "alice"},
            "device": {"format": "opaque", "id": "d-1"},
        }
        event = {
            "caep/device-compliance-change": {
                "current_status": "not-compliant",
                "previous_status": "compliant",
                "event_timestamp": int(seconds()),
            }
        }
        header = {"alg": "ES256", "typ": "secevent+jwt", "kid": idp.kid}
        box.receive(token(payload(about, event, iss="idp", aud="us", iat=int(seconds())), key=idp._private, header=header))
        assert not paid(), "the identity provider said otherwise"
        clock.advance(60)
        signals.take(told())
        assert paid()
        clock.advance(599)
        assert paid()
        clock.advance(2)
        assert not paid(), "stale"
        guard.call(ToolCall("look", {"order": "A-17"}), lambda order: None)


# -- a file -----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_grows(tmp_path: Path) -> None:
    path, one = tmp_path / "edr.jsonl", feed()
    file = SignalFile(path, one)
    with pytest.raises(OSError, match="edr.jsonl"):
        file.read()
    path.write_text(line() + "\n\n{}\n" + line(value=False, at=950)[:20])
    assert file.read() == (1, ((3, "not one JSON object with the members of a signal"),))
    assert file.read() == (0, ())
    with path.open("a") as end:
        end.write(line(value=False, at=950)[20:] + "\n" + "x" * 10_000 + "\n")
    assert file.read() == (1, ((5, "longer than a signal is"),))
    assert one.get(DELEGATION, ("device.compliant",), now=1000) == {"device.compliant": Signal(False, 950)}
    path.write_text(line(at=960) + "\n")
    assert file.read().taken == 1, "cut, and begun anew"
    (tmp_path / "new").write_text(line(at=970, value=False) + "\n" + line(at=900) + "\n" * 500)
    (tmp_path / "new").replace(path)
    assert file.read().taken == 2
    assert one.get(DELEGATION, ("device.compliant",), now=1000) == {"device.compliant": Signal(False, 970)}


def test_a_file_is_read_again_where_the_store_was_away(tmp_path: Path) -> None:
    path, store = tmp_path / "edr.jsonl", Breaking()
    path.write_text("".join(line(at=at) + "\n" for at in range(900, 910)))
    file = SignalFile(path, feed(store))
    store.off = True
    with pytest.raises(StateUnavailable):
        file.read()
    store.off = False
    assert file.read().taken == 10


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        SignalFile(tmp_path / "pipe", feed()).read()


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    path, steady = tmp_path / "edr.jsonl", Steady()
    files = SignalFiles(feed(), [tmp_path / "missing", path], steady=steady)
    path.write_text(line() + "\n")
    names = ("device.compliant",)
    assert files.get(DELEGATION, names, now=1000) == {"device.compliant": Signal(True, 900)}
    with path.open("a") as end:
        end.write(line(value=False, at=950) + "\n")
    steady.at = 0.9
    assert files.get(DELEGATION, names, now=1000) == {"device.compliant": Signal(True, 900)}
    steady.at = 1.0
    assert files.get(DELEGATION, names, now=1000) == {"device.compliant": Signal(False, 950)}
