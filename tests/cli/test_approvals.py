"""`guardtrail approve`, `reject`, `approvals`: what a person sees and says, from another process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, ToolCall
from guard.approvals import Approvals
from guard.cli.trust import development
from guard.identity import HolderKey
from guard.record import AuditFile
from tests.approvals.world import POLICY

Run = Callable[..., Any]


class Office:
    """A guard with its desk, in the working directory; and logins."""

    def __init__(self, cli: Run) -> None:
        self.cli = cli
        assert cli("token", "login", "--issuer", "acme-dev", "--person", "nobody").code == 0
        iam = development("acme-dev")
        assert isinstance(iam, LocalIssuer)
        self.iam, self.home = iam, Path(".guardtrail")
        self.desk = Approvals(trust=iam)
        self.guard = Guard(POLICY, trust=iam, state="sqlite:.guardtrail/state.db", sinks=[AuditFile(self.home)], approvals=self.desk)
        self.task = self.guard.task(iam.mint(origin="alice", actor="payer", intent="work", txn="t-1"))

    def ask(self, amount: str = "200", to: str = "bob") -> str:
        with self.task, pytest.raises(ApprovalRequired) as required:
            self.guard._openers.clear()
            self.guard.call(ToolCall("pay", {"to": to, "amount": amount}), lambda to, amount: "paid")
        return str(required.value.request["id"])

    def login(self, person: str, *groups: str, **more: Any) -> str:
        Path(f"{person}.jwt").write_text(self.iam.login(person, groups=groups, **more), "utf-8")
        return f"@{person}.jwt"


@pytest.fixture
def office(cli: Run) -> Office:
    return Office(cli)


def test_approved_in_another_process(office: Office, process: Run) -> None:
    id = office.ask("2000", "p\u0430ypal")
    listed = process("approvals", "list")
    assert listed.code == 0 and re.search(rf"{id}\s+open\s+pay\s+alice > payer\s+big, huge", listed.out), listed.out
    shown = process("approvals", "show", id)
    for line in (
        '  control  to = "p[U+0430]ypal"', '  data     amount = "2000"', "  look     to, character 2: U+0430 CYRILLIC SMALL LETTER A (mixed)",
        "           may answer: group treasury, not actors or origin; 2 persons", "           may answer: the origin",
    ):  # fmt: skip
        assert line in shown.lines, shown.out
    said = process("approve", id, "--token", office.login("alice"))
    assert said.code == 0 and said.lines[-1] == "approved by alice: big" and said.err.endswith("others must answer too\n")
    assert process("approve", id, "--token", office.login("eve", "sales")).lines[-1].startswith("not answered  approval.person")
    for person in ("tina", "theo"):
        said = process("approve", id, "--token", office.login(person, "treasury"), "--json")
        assert (said.code, said.json["ok"], said.json["by"], said.json["asks"]) == (0, True, person, ["huge"])
    assert said.json["state"] == "approved"
    with office.task:
        assert office.guard.call(ToolCall("pay", {"to": "p\u0430ypal", "amount": "2000"}), lambda to, amount: "paid") == "paid"
    told = process("explain", "last", "--all")
    assert told.out.count(f"request {id}") >= 7 and "approved huge by p-" in told.out and "alice" not in told.out
    assert process("approvals", "list").out == ""


def test_rejected(office: Office, cli: Run) -> None:
    id = office.ask()
    said = cli("reject", id, "--token", office.login("alice"))
    assert said.code == 0 and said.lines[-1] == "rejected by alice: big" and said.err.startswith("the call is denied in this task until ")
    with office.task, pytest.raises(Denied, match=r"ask\.rejected"):
        office.guard.call(ToolCall("pay", {"to": "bob", "amount": "200"}), lambda to, amount: "paid")
    again = cli("approve", id, "--token", office.login("alice"), "--json")
    assert (again.code, again.json["ok"], again.json["error"]["code"]) == (1, False, "approval.closed")
    assert [each["state"] for each in cli("approvals", "list", "--all", "--json").json["requests"]] == ["rejected"]


def test_a_bound_token_is_proven_with_its_key(office: Office, cli: Run) -> None:
    id = office.ask()
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    os.close(os.open("alice.pem", os.O_CREAT | os.O_WRONLY, 0o600))
    Path("alice.pem").write_bytes(pem)
    token = office.login("alice", key=HolderKey(private).public)
    assert cli("approve", id, "--token", token).lines[-1].startswith("not answered  token.proof")
    assert cli("approve", id, "--token", token, "--key", "alice.pem").code == 0
    (answer,) = office.desk.open(id).answers
    assert answer.said.credential is not None and answer.said.credential.bound == "jkt"


def test_revoked_as_the_guards_state_says(office: Office, cli: Run) -> None:
    id = office.ask()
    token = office.login("alice", sid="s-1")
    assert cli("revoke", "--session", "s-1", "--state", "sqlite:.guardtrail/state.db").code == 0
    said = cli("approve", id, "--token", token, "--state", "sqlite:.guardtrail/state.db")
    assert said.code == 1 and said.lines[-1].startswith("not answered  token.revoked")


def test_by_the_beginning_of_an_id(office: Office, cli: Run) -> None:
    first, second = office.ask("200"), office.ask("201")
    said = cli("approvals", "show", first[:4])
    assert said.code == 2 and first in said.err and second in said.err
    last = max(i for i in range(1, 27) if first[:i] == second[:i])
    assert cli("approvals", "show", f" {first[: last + 1].lower()} ").code == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("approve", "01ABC", "--token", "x"), 3, "there is no such request"),
        (("approvals", "show", "01ABC"), 3, "there is no such request"),
        (("approvals", "show", " "), 2, "an id is needed"),
        (("approvals", "list", "--store", "sqlite:nowhere.db"), 3, "there are no requests at nowhere.db"),
        (("approvals", "list", "--store", "memory:"), 2, "`--store` is `sqlite:PATH`"),
        (("approve", "01ABC"), 2, "Missing option"),
        (("approve", "01ABC", "--token", "@nowhere.jwt"), 3, "there is no such request"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], code: int, text: str, office: Office, cli: Run) -> None:
    said = cli(*words)
    assert (said.code, text in said.err + said.out) == (code, True), said


def test_without_the_key_nothing_is_shown(office: Office, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    office.ask()
    monkeypatch.setenv("GUARDTRAIL_DIR", "elsewhere")
    said = cli("approvals", "list", "--store", "sqlite:.guardtrail/approvals.db")
    assert said.code == 3 and "the key of the requests is not in elsewhere/keys" in said.err and not Path("elsewhere").exists()


def test_what_an_argument_holds_does_nothing_to_a_terminal(office: Office, cli: Run) -> None:
    id = office.ask("200", "bob")
    with office.task, pytest.raises(Denied) as refused:  # such characters do not even get so far
        office.guard.call(ToolCall("pay", {"to": "a\x1b[2Jb", "amount": "200"}), lambda to, amount: "paid")
    assert str(refused.value.code).startswith("args.")
    assert "\x1b" not in cli("approvals", "show", id).out


def test_a_login_is_for_persons_only(cli: Run) -> None:
    said = cli("token", "login", "--issuer", "acme-dev", "--person", "bob", "--group", "treasury", "--group", "board", "--json")
    assert said.code == 0
    shown = cli("token", "inspect", said.json["token"], "--json").json
    assert (shown["header"]["typ"], shown["claims"]["groups"], "act" in shown["claims"]) == ("at+jwt", ["treasury", "board"], False)
    assert shown["verified"] is False and shown["code"] == "token.audience", "it opens no task"
    assert cli("token", "login", "--issuer", "acme-dev", "--person", " ").code == 2
