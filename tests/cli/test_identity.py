"""`guardtrail identity`: what it lists, what it objects to, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., Any]
DAY = (datetime.now(UTC) - timedelta(days=100)).date().isoformat()
GOOD = "registry: 1\nidentities:\n  - {id: mailer, kind: agent, owner: mail, environment: production}\n"
BAD = GOOD + (
    f'  - {{id: payer, kind: agent, rotated: "{DAY}", rotate_every: 90d}}\n'
    "  - {id: old, kind: service_account, owner: payments, status: retired, issuer: https://idp.example}\n"
)


def test_a_registry_in_order(cli: Run, desk: Path) -> None:
    (desk / "r.yaml").write_text(GOOD)
    said = cli("identity", "check", "r.yaml")
    assert (said.code, said.out) == (0, "1 identity, 0 findings\n")
    assert cli("identity", "check", "r.yaml", "--json").json == {"ok": True, "identities": 1, "findings": []}


def test_what_is_found(cli: Run, desk: Path) -> None:
    (desk / "r.yaml").write_text(BAD)
    said = cli("identity", "check", "r.yaml")
    assert said.code == 1
    assert said.lines == [
        "found  identity.unowned  agent payer: nobody owns it",
        f"found  identity.overdue  agent payer: rotated {DAY}, every 90 days",
        "found  identity.suspended  service_account old: retired",
        "3 identities, 3 findings",
    ]
    found = cli("identity", "check", "r.yaml", "--json").json["findings"]
    assert [(one["id"], one["code"]) for one in found] == [
        ("payer", "identity.unowned"),
        ("payer", "identity.overdue"),
        ("old", "identity.suspended"),
    ]
    assert cli("identity", "check", "r.yaml", "--issuer", "https://other.example").lines[-1] == "2 identities, 2 findings"


def test_who_is_listed(cli: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.fromisoformat(f"{DAY}T12:00:00+00:00").timestamp() + 100 * 86400  # and not the machine's: midnight may be near
    monkeypatch.setattr("guard.cli.identity.time", SimpleNamespace(time=lambda: now))
    (desk / "r.yaml").write_text(BAD)
    said = cli("identity", "list", "r.yaml")
    assert said.code == 0
    assert [line.split() for line in said.lines] == [
        ["kind", "id", "owner", "environment", "age", "to", "do"],
        ["agent", "mailer", "mail", "production", "-"],
        ["agent", "payer", "-", "-", "100d", "no", "owner,", "overdue"],
        ["service_account", "old", "payments", "-", "-", "retired"],
    ]
    rows = cli("identity", "list", "r.yaml", "--json").json["identities"]
    assert [(row["id"], row["age_days"], row["overdue"]) for row in rows] == [
        ("mailer", None, False),
        ("payer", 100, True),
        ("old", None, False),
    ]


@pytest.mark.parametrize("verb", ["list", "check"])
def test_what_is_wrong_could_not_be_answered(cli: Run, desk: Path, verb: str) -> None:
    (desk / "r.yaml").write_text(GOOD.replace("owner", "ownr"))
    said = cli("identity", verb, "r.yaml")
    assert said.code == 3
    assert said.lines[0].startswith("r.yaml:3:31: error [lint.unknown-key] `ownr` is not a member of an identity")
    assert "did you mean `owner`?" in said.lines[2]
    assert cli("identity", verb, "r.yaml", "--json").json["problems"][0]["line"] == 3
    (desk / "s.json").write_text(json.dumps({"Resources": []}))
    for name in ("missing.yaml", ".", "s.json"):
        said = cli("identity", verb, name)
        assert (said.code, said.out) == (3, "")
        assert said.err.startswith("error: ")
