"""Other people's signed chains and gateway vectors: their verdicts, and the real guard where they speak of a gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.events import DecisionRecord
from guard.identity import RevocationList
from guard.record import AuditFile, ListSink
from guard.testing import FakeApprovals, FrozenClock
from tests.delegation.signed import envelope_holds, hashed, read, receipt_holds, verdict

CHAINS = {
    "drift-explicit-flag": "invalid",
    "happy-path": "valid",
    "revocation-mid-chain": "deny",
    "shared-card-crossorg": "valid",
    "trust-level-ascending": "valid",
    "trust-level-descending": "valid",
}


@pytest.fixture
def folder(corpora: Path) -> Path:
    return corpora / "delegation/signed_chains"


@pytest.fixture
def known(folder: Path) -> dict[str, str]:
    return {one["did"]: one["pubkey"] for one in read(folder / "a2a-trust-header/_keys.json")["keys"].values()}


def test_every_file_is_read_here(folder: Path) -> None:
    """35 files: 6 chains and their keys, 4 vectors with 17 files and 2 of keys, 4 inputs with what is expected, a schema and 1 list."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert len(files) == 35
    assert {Path(one).stem for one in files if one.startswith("a2a")} == {*CHAINS, "_keys"}
    assert {one.split("/")[1] for one in files if one.startswith("aps")} == {
        "1-fail-closed", "2-external-verification", "3-state-drift", "4-portability", "_keys",
    }  # fmt: skip
    assert sum(one.startswith("fixtures") for one in files) == 4


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain(name: str, folder: Path, known: dict[str, str]) -> None:
    fixture = read(folder / f"a2a-trust-header/{name}.json")
    assert fixture["expected_verifier_output"] == CHAINS[name]
    assert verdict(fixture, known) == CHAINS[name]


@pytest.mark.parametrize("name", [name for name, says in CHAINS.items() if says != "invalid"])
def test_a_changed_chain_is_invalid(name: str, folder: Path, known: dict[str, str]) -> None:
    """Every leaf of the header, changed: without this a verifier that looks at nothing would pass."""
    fixture = read(folder / f"a2a-trust-header/{name}.json")
    header, changed = fixture["header_value"], 0
    for place in _places(header):
        if place[-1] in ("trust_header_version", "subject_agent", "canonicalization") or place[:2] in (
            ("agent_card", "name"),
            ("agent_card", "agent_id"),
            ("agent_card", "pubkey"),
        ):
            continue  # signed by nobody
        twin = deepcopy(fixture)
        at: Any = twin["header_value"]
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = at[place[-1]][:-1] + ("0" if at[place[-1]][-1] != "0" else "1")
        assert verdict(twin, known) == "invalid", place
        changed += 1
    assert changed > 10
    assert header == fixture["header_value"]


def _places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [place for name, one in value.items() for place in _places(one, (*at, name))]
    if isinstance(value, list):
        return [place for n, one in enumerate(value) for place in _places(one, (*at, n))]
    return [at] if isinstance(value, str) else []


# -- gateway vectors -------------------------------------------------------------------------------------------------------------------

POLICY = """
guardtrail: 1
name: autoresearch-safe
owner: o@acme.example
tools:
  http.get: {effect: fetch, control: {url: url}}
  http.post: {effect: send, control: {url: url}, data: {body: any}}
rules:
  - {id: posts, when: {tool: http.post}, then: ask}
asks: {default: {by: origin, within: 15m}}
"""


class Gateway:
    """A guard at the time of the vectors, and the delegation they are about."""

    def __init__(self, vector: Path, **options: Any) -> None:
        self.vector = vector
        self.input, self.expected = read(vector / "input.json"), read(vector / "expected-output.json")
        self.clock = FrozenClock(datetime(2026, 4, 18, 12, 2, tzinfo=UTC))
        self.iam = LocalIssuer("aps", clock=lambda: self.clock.now().timestamp())
        self.revoked = RevocationList(clock=lambda: self.clock.now().timestamp())
        self.sink = ListSink()
        options.setdefault("sinks", [self.sink])
        self.approvals = FakeApprovals(self.clock)
        policy = options.pop("policy", POLICY)
        self.guard = Guard(
            Policy.from_text(policy), trust=self.iam, clock=self.clock, revocations=self.revoked, approvals=self.approvals, **options
        )
        self.token = self.iam.mint(
            origin="operator-prime", actor=self.input["agent_id"], intent=None, tools=["http.get", "http.post"], txn=self.input["delegation_id"], ttl="4h"
        )  # fmt: skip
        self.ran: list[str] = []

    def call(self) -> ToolCall:
        return ToolCall(self.input["tool"], self.input["params"], self.input["request_id"])

    def body(self, **args: Any) -> None:
        self.ran.append("ran")

    def vanish(self) -> None:
        self.revoked.revoke("task", self.input["delegation_id"])


def test_vector_1_a_receipt_that_cannot_be_signed(folder: Path, tmp_path: Path) -> None:
    """The policy allows; the keys of the log cannot be loaded: the tool does not run. When they are back, the call is made anew, and runs."""
    log = tmp_path / "log"
    log.mkdir()
    (log / "keys").write_text("not a folder of keys")
    gate = Gateway(folder / "aps-gateway-enforcement/1-fail-closed", sinks=[AuditFile(log)])
    assert gate.expected["side_effects"]["tool_invoked"] is False
    assert gate.expected["policy_decision"] == "allow"
    with pytest.raises(Denied) as caught:
        with gate.guard.task(gate.token):
            gate.guard.call(gate.call(), gate.body)
    assert caught.value.code == "record.unavailable"
    assert gate.ran == []


def test_vector_1_the_sink_itself_says_so_and_the_call_may_be_made_anew(folder: Path) -> None:
    class Unsigned(ListSink):
        key = False

        def decision(self, record: DecisionRecord) -> None:
            if not self.key and record.verdict == "allow":
                raise OSError("signing_key_unavailable")
            super().decision(record)

    gate = Gateway(folder / "aps-gateway-enforcement/1-fail-closed", sinks=[sink := Unsigned(), besides := ListSink()])
    with gate.guard.task(gate.token):
        with pytest.raises(Denied) as caught:
            gate.guard.call(gate.call(), gate.body)
        assert (caught.value.code, gate.ran) == ("record.unavailable", [])
        assert [one.verdict for one in besides.decisions] == ["deny"], "an entry says that it was not let"
        assert gate.expected["side_effects"]["audit_log_entry_written"] is True
        sink.key = True
        gate.guard.call(gate.call(), gate.body)
    assert gate.ran == ["ran"]


def test_vector_2_a_receipt_by_plain_ed25519(folder: Path) -> None:
    vector = folder / "aps-gateway-enforcement/2-external-verification"
    receipt, expected, jwks = read(vector / "receipt.json"), read(vector / "expected-output.json"), read(vector / "jwks.json")
    body = {name: value for name, value in receipt.items() if name != "signature"}
    assert hashed(body) == "sha256:" + expected["receipt_canonical_sha256"]
    import rfc8785

    assert rfc8785.dumps(body).decode() == (vector / "canonical.txt").read_text("utf-8").rstrip("\n")
    assert receipt_holds(receipt, jwks) is expected["receipt_signature_valid"] is True
    assert hashed(read(vector / "input.json")["params"]) == receipt["payload"]["params_hash"]
    assert not receipt_holds({**receipt, "payload": {**receipt["payload"], "decision": "deny"}}, jwks)
    assert not receipt_holds({**receipt, "kid": "other"}, jwks)


def test_vector_3_what_was_signed_and_what_it_is_now(folder: Path) -> None:
    vector = folder / "aps-gateway-enforcement/3-state-drift"
    expected, receipt = read(vector / "expected-output.json"), read(vector / "receipt.json")
    assert (
        hashed(read(vector / "state-at-signing.json")) == expected["state_hash_at_signing"] == receipt["payload"]["state_hash_at_signing"]
    )
    assert hashed(read(vector / "state-at-execution.json")) == expected["state_hash_at_execution"]
    assert receipt_holds(receipt, read(folder / "aps-gateway-enforcement/_keys/jwks.json")) is expected["receipt_signature_valid"]


def _looked(gate: Gateway) -> Callable[[], object]:
    assert gate.guard.check(gate.call()).verdict == "ask"
    return lambda: gate.guard.call(gate.call(), gate.body)


def _approved(gate: Gateway) -> Callable[[], object]:
    with pytest.raises(ApprovalRequired) as caught:
        gate.guard.call(gate.call(), gate.body)
    gate.approvals.approve(caught.value.decision, by="operator-prime")
    return lambda: gate.guard.call(gate.call(), gate.body)


@pytest.mark.parametrize("sign", [_looked, _approved])
def test_vector_3_revoked_between_a_decision_and_its_execution(sign: Callable[[Gateway], Callable[[], object]], folder: Path) -> None:
    """12:02:00 signed, 12:02:01 revoked, 12:02:03 executed. What was found, or approved, before is judged again: aborted."""
    for revoked in (False, True):
        gate = Gateway(folder / "aps-gateway-enforcement/3-state-drift")
        with gate.guard.task(gate.token):
            execute = sign(gate)
            gate.clock.advance(1)
            if revoked:
                gate.vanish()
            gate.clock.advance(2)
            if sign is _approved and not revoked:
                execute()
                assert gate.ran == ["ran"], "without the revocation it runs"
                continue
            with pytest.raises(Denied) as caught:
                execute()
            assert gate.ran == []
            if revoked:
                assert caught.value.code == "token.revoked"
                assert gate.expected["side_effects"]["audit_log_entry_written"] is True
                assert (gate.sink.decisions[-1].verdict, gate.sink.decisions[-1].code) == ("deny", "token.revoked")


class Slow(ListSink):
    """A disk that takes its time over a record, and tells when it has begun."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def decision(self, record: DecisionRecord) -> None:
        self.begun.set()
        self.go.wait(10)
        super().decision(record)


@pytest.mark.parametrize("revoked", [False, True])
def test_vector_3_revoked_while_the_record_is_written(revoked: bool, folder: Path) -> None:
    """The one place where our own guard has a time between decision and body: it looks once more."""
    gate = Gateway(folder / "aps-gateway-enforcement/3-state-drift", sinks=[sink := Slow()], policy=POLICY.replace("then: ask", "then: alert"), deadline=timedelta(seconds=20))  # fmt: skip

    def meanwhile() -> None:
        sink.begun.wait(10)
        if revoked:
            gate.vanish()
        sink.go.set()

    thread = threading.Thread(target=meanwhile)
    with gate.guard.task(gate.token):
        thread.start()
        if revoked:
            with pytest.raises(Denied) as caught:
                gate.guard.call(gate.call(), gate.body)
            assert caught.value.code == "token.revoked"
        else:
            gate.guard.call(gate.call(), gate.body)
    thread.join()
    assert gate.ran == ([] if revoked else ["ran"])
    assert [one.verdict for one in sink.decisions if one.tool == "http.post"] == (["allow", "deny"] if revoked else ["allow"])
    assert {one.id for one in sink.decisions if one.tool == "http.post"} == {sink.decisions[0].id}


def test_vector_4_one_receipt_three_readers(folder: Path) -> None:
    vector = folder / "aps-gateway-enforcement/4-portability"
    receipt, envelope, jwks = read(vector / "receipt.json"), read(vector / "intoto-envelope.json"), read(vector / "jwks.json")
    assert set(read(vector / "expected-output.json")["verifiers"].values()) == {"VALID"}
    import base64

    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert receipt_holds(receipt, jwks)
    assert envelope_holds(envelope, jwks)
    assert statement == read(vector / "in-toto-statement.json")
    assert statement["predicate"] == receipt
    assert receipt_holds(statement["predicate"], jwks)
    assert statement["subject"][0]["digest"]["sha256"] == hashed(read(vector / "input.json")["params"]).removeprefix("sha256:")
    assert not envelope_holds({**envelope, "payload": base64.b64encode(b"{}").decode()}, jwks)


# -- the four inputs -------------------------------------------------------------------------------------------------------------------

SAFE = """
guardtrail: 1
name: autoresearch-safe
owner: o@acme.example
tools:
  Read: {effect: read, control: {file_path: path}}
  Bash: {effect: execute, control: {command: command}}
  Write: {effect: write, control: {file_path: path}, data: {content: text}}
intents:
  research:
    description: Look at a checkout and write notes beside it.
    params: {root: path}
    ttl: 1h
    allow:
      Read: {args: {file_path: {under: $root}}}
      Bash: {args: {command: {command: {program: git}}}}
      Write: {args: {file_path: {under: $root}}}
"""


def test_the_four_inputs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    iam, sink = LocalIssuer("aps"), ListSink()
    guard = Guard(Policy.from_text(SAFE), trust=iam, sinks=[sink])
    inputs = [read(path) for path in sorted((folder / "fixtures/inputs").glob("*.json"))]
    expected = [json.loads(line) for line in (folder / "expected/chain.jsonl").read_text("utf-8").splitlines() if line.strip()]
    ran: list[str] = []
    said = []
    with guard.task(iam.mint(origin="alice", actor="research-bot", intent="research", params={"root": str(tmp_path)})):
        for one in inputs:
            try:
                guard.call(ToolCall(one["tool_name"], one["tool_input"]), lambda **_: ran.append("ran"))
                said.append("allow")
            except Denied:
                said.append("deny")
    assert (
        said == [one["expected_decision"] for one in inputs] == [one["decision"] for one in expected] == ["allow", "allow", "deny", "allow"]
    )
    assert len(ran) == 3
    assert [(one.tool, one.verdict) for one in sink.decisions if one.tool in ("Read", "Bash", "Write")] == [
        (one["tool_name"], one["decision"]) for one in expected
    ]
