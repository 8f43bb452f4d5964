"""End to end on a real authorization server: alice's agent asks, bob of treasury logs in and answers in another process, the call runs once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Guard, Issuer, Policy, ToolCall
from guard.approvals import AnswerRefused, Approvals
from guard.record import AuditFile
from tests.patience import PYTHONPATH
from tests.servers.authorization import OTHER, TOOLS, AuthorizationServer

ROOT = Path(__file__).resolve().parents[2]
POLICY = Policy.from_text(
    """
guardtrail: 1
name: accounts-payable
tools:
  pay: {effect: pay, reversible: false, control: {iban: iban}, data: {amount: decimal}, once: {key: [iban], within: 24h}, returns: none}
flow: {pay: {allow: [params]}}
intents:
  pay-invoice:
    description: Pay one invoice.
    params: {iban: iban, ceiling: decimal}
    ttl: 10m
    allow: {pay: {args: {iban: {eq: $iban}, amount: {range: {min: "0.01", max: $ceiling}}}}}
rules:
  - {id: four-eyes, when: {tool: pay, args: {amount: {range: {above: "1000"}}}}, then: ask}
asks:
  four-eyes: {by: {group: treasury, not: [origin, actors]}, count: 1, within: 1h}
""",
    file="policy.yaml",
)
TASK = {"type": "agent_task", "intent": "pay-invoice", "params": {"iban": "DE89370400440532013000", "ceiling": "9000"}}
PAY = ToolCall("pay", {"iban": "DE89370400440532013000", "amount": "4000"}, id="call-1")


def command(folder: Path, *words: str, token: str = "") -> tuple[int, str]:
    code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH, "GUARDTRAIL_DIR": str(folder / "g")}, input=token or None, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_bob_approves_what_alices_agent_asks(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    server = authorization_server
    home = tmp_path / "g"
    desk = Approvals(trust=Issuer(server.issuer, audience=OTHER), folder=home)
    guard = Guard(
        POLICY, trust=Issuer(server.issuer, audience=TOOLS), state=f"sqlite:{home / 'state.db'}", sinks=[AuditFile(home)], approvals=desk,
        deadline=timedelta(seconds=10),
    )  # fmt: skip
    ran: list[Any] = []
    root = server.login("alice", details=[TASK])["access_token"]
    agent = server.exchange(root, "orchestrator").json()["access_token"]
    alice, bob, carol = (server.login(each, resource=OTHER, scope="tools:read")["access_token"] for each in ("alice", "bob", "carol"))
    with guard.task(agent):
        with pytest.raises(ApprovalRequired) as required:
            guard.call(PAY, lambda iban, amount: ran.append(amount))
        id = str(required.value.request["id"])
        assert f"{id}  open" in command(tmp_path, "approvals", "list")[1]
        # Herself, somebody without the group, the agent, its token and the token alice gave it: nobody of them.
        for token, why in (
            (alice, "approval.person"), (carol, "approval.person"), (agent, "token.audience"), (root, "token.audience"),
            (server.exchange(alice, "orchestrator").json().get("access_token", ""), "token."),
            (server.client_credentials("worker", resource=OTHER, scope="tools:read"), "token.claims"), (bob[:-6] + "AAAAAA", "token.signature"),
        ):  # fmt: skip
            code, said = command(tmp_path, "approve", id, "--token", "-", "--json", token=token)
            assert (code, json.loads(said[: said.rindex("}") + 1])["error"]["code"].startswith(why)) == (1, True), (why, said)
        with pytest.raises(ApprovalRequired):
            guard.call(PAY, lambda iban, amount: ran.append(amount))
        code, said = command(tmp_path, "approve", id, "--token", "-", token=bob)
        assert code == 0 and "approved by bob: four-eyes" in said and 'iban = "DE89370400440532013000"' in said, said
        for _ in range(2):
            guard.call(PAY, lambda iban, amount: ran.append(amount))
        code, said = command(tmp_path, "approve", id, "--token", "-", token=bob)
        assert code == 1 and "approval.closed" in said
    assert len(ran) == 1
    code, said = command(tmp_path, "explain", "last", "--all")
    person = guard._house.blinds.origin(desk._trust.tenant(server.issuer), "bob")  # type: ignore[union-attr,arg-type]
    assert code == 0 and f"approved four-eyes by {person}" in said and "approved: four-eyes by " + person in said, said
    text = "".join(path.read_text() for path in home.glob("audit*"))
    for each in (root, agent, alice, bob, carol):
        assert each not in text and each.rpartition(".")[2] not in text
    assert "bob" not in text and "DE89370400440532013000" not in text


@pytest.mark.slow
def test_keys_that_were_rotated_are_fetched(start_authorization_server: Any, tmp_path: Path) -> None:
    server: AuthorizationServer = start_authorization_server()
    issuer = Issuer(server.issuer, audience=OTHER)
    desk = Approvals("memory:", trust=issuer)
    guard = Guard(
        POLICY, trust=Issuer(server.issuer, audience=TOOLS), sinks=[AuditFile(tmp_path)], approvals=desk, deadline=timedelta(seconds=10)
    )
    agent = server.exchange(server.login("alice", details=[TASK])["access_token"], "orchestrator").json()["access_token"]
    with guard.task(agent), pytest.raises(ApprovalRequired) as required:
        guard._openers.clear()
        guard.call(PAY, lambda iban, amount: None)
    id = str(required.value.request["id"])
    with pytest.raises(AnswerRefused) as refused:
        desk.approve(id, server.login("carol", resource=OTHER, scope="tools:read")["access_token"])
    assert refused.value.code == "approval.person"
    server.restart("b,a")
    remote: Any = issuer._remote
    steady = remote._clock
    remote._clock = lambda: steady() + 31  # later than keys are asked for again
    assert desk.approve(id, server.login("bob", resource=OTHER, scope="tools:read")["access_token"]).state == "approved"
    server.stop()
    with pytest.raises(AnswerRefused) as refused:  # an issuer that is not there, and keys that never were
        without_keys(server.issuer, desk, id)
    assert refused.value.code == "keys.unavailable"


def without_keys(url: str, desk: Approvals, id: str) -> None:
    from guard.approvals.trust import Trust

    desk._trust = Trust(Issuer(url, audience=OTHER))
    desk.reject(id, "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImEifQ." + _b64({"iss": url}) + ".AAAA")


def _b64(claims: dict[str, str]) -> str:
    from guard.tokens.jose import b64url_encode

    return b64url_encode(json.dumps(claims).encode())
