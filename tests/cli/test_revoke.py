"""`guardtrail revoke`, `guardtrail revoked`: the kill switch, from the command line to a running guard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied
from guard.identity import RevocationList
from guard.record import ListSink
from guard.state import SqliteState
from tests.identity.revoked.test_store import POLICY

Run = Callable[..., Any]
STATE = "sqlite:state.db"


@pytest.fixture
def state(desk: Path) -> str:
    SqliteState("state.db").close()
    return STATE


def test_a_running_task_is_stopped_by_another_process(process: Run, desk: Path) -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], state=STATE)
    call = ToolCall("look", {"order": "A-17"})
    with guard.task(iam.mint(origin="alice", actor="payer", intent="see")) as task:
        assert guard.call(call, lambda order: order) == "A-17"
        said = process("revoke", "--task", task.id, "--state", STATE)
        assert (said.code, said.out) == (0, f"revoked task {task.id}: of any issuer, for good\n")
        assert said.err == "in sqlite:state.db; guards that look there deny from their next look on, within a second\n"
        time.sleep(1.0)
        with pytest.raises(Denied, match="token.revoked"):
            guard.call(call, lambda order: order)
    with pytest.raises(Denied, match="token.revoked"), guard.task(task.token):
        pass


@pytest.mark.parametrize("kind", ["task", "actor", "credential", "key", "session"])
def test_every_kind(kind: str, cli: Run, state: str) -> None:
    Path("revoked.jsonl").touch()
    for where in (("--state", state), ("--file", "revoked.jsonl")):
        said = cli("revoke", f"--{kind}", "x-1", "--issuer", "https://iam.acme.example", *where, "--json")
        entry = {"kind": kind, "value": "x-1", "issuer": "https://iam.acme.example", "before": None}
        assert (said.code, said.json) == (0, {"ok": True, "revoked": [entry], "where": where[1]})
        assert cli("revoked", *where, "--json").json == {"entries": [{**entry, "by": None}], "where": where[1]}


def test_an_origin_up_to_now(cli: Run, state: str) -> None:
    began = time.time()
    said = cli("revoke", "--origin", "alice", "--state", state, "--json")
    assert began <= said.json["revoked"][0]["before"] <= time.time()
    assert cli("revoke", "--origin", "alice", "--before", "1800", "--state", state).out == (
        "revoked origin alice: of any issuer, issued before 1970-01-01 00:30:00 UTC\n"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("now", 0), ("10m ago", 600), ("2h ago", 7200), ("1d ago", 86400), ("2026-01-01T00:00:00Z", None), ("2026-01-01T01:00:00+01:00", None), ("1767225600", None)],
)  # fmt: skip
def test_times(text: str, seconds: int | None, cli: Run, state: str) -> None:
    began = time.time()
    said = cli("revoke", "--task", "x", "--before", text, "--state", state, "--json")
    assert said.code == 0, said.err
    before = said.json["revoked"][0]["before"]
    assert before == 1767225600 if seconds is None else began - 1 <= before + seconds <= time.time()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "say what: --task, --actor, --origin, --credential, --key or --session"),
        (("--task", "x"), "say where, and only once"),
        (("--task", "x", "--file", "a", "--state", STATE), "say where, and only once"),
        (("--task", "x", "--state", "memory:"), "`--state` is `sqlite:PATH`"),
        (("--task", "x", "--state", "state.db"), "`--state` is `sqlite:PATH`"),
        (("--task", "", "--state", STATE), "names as they stand in tokens"),
        (("--task", "x\ty", "--state", STATE), "names as they stand in tokens"),
        (("--task", "x", "--before", "yesterday", "--state", STATE), "is no time"),
        (("--task", "x", "--before", "2026-01-01T00:00:00", "--state", STATE), "is no time"),
        (("--task", "x", "--before", "2999-01-01T00:00:00Z", "--state", STATE), "is in the future"),
        (("--task", "x", "--before", "1800000000000", "--state", STATE), "is no time"),
    ],
)
def test_wrong_usage_writes_nothing(words: tuple[str, ...], text: str, cli: Run, state: str) -> None:
    said = cli("revoke", *words)
    assert said.code == 2
    assert text in said.err
    if words[-1:] == (STATE,):
        assert cli("revoked", "--state", state, "--json").json["entries"] == []


def test_a_store_that_is_not_there_is_not_made(cli: Run, desk: Path) -> None:
    """A slip in the path must not look like success."""
    for words in (("revoke", "--task", "x"), ("revoked",)):
        said = cli(*words, "--state", "sqlite:sate.db")
        assert said.code == 3
        assert said.err == "error: there is no store sate.db; a guard makes it when it starts\n"
        said = cli(*words, "--file", "revoked.jsonl", "--json")
        assert said.code == 3
        assert said.json["error"]["code"] == "revocation.unavailable"
    assert not Path("sate.db").exists()
    assert not Path("revoked.jsonl").exists()


def test_several_at_once(cli: Run, state: str) -> None:
    said = cli("revoke", "--actor", "mailer", "--actor", "payer", "--task", "5d2e", "--state", state)
    assert said.out == (
        "revoked task 5d2e: of any issuer, for good\nrevoked actor mailer: of any issuer, for good\nrevoked actor payer: of any issuer, for good\n"
    )
    shown = cli("revoked", "--state", state)
    assert [line.split()[:2] for line in shown.lines] == [["kind", "value"], ["actor", "mailer"], ["actor", "payer"], ["task", "5d2e"]]
    assert shown.err == "3 entries in sqlite:state.db\n"


def test_a_file_that_cannot_be_relied_on_is_said(cli: Run, desk: Path) -> None:
    Path("revoked.jsonl").write_text("x\n")
    said = cli("revoked", "--file", "revoked.jsonl")
    assert said.code == 3
    assert "line 1 is no entry; repair it" in said.err
    Path("revoked.jsonl").write_text(json.dumps({"kind": "task", "value": "t"}) + "\n")
    assert cli("revoke", "--actor", "a", "--file", "revoked.jsonl").code == 0
    assert len(RevocationList("revoked.jsonl")) == 2


def test_help_says_how(cli: Run, desk: Path) -> None:
    for verb in ("revoke", "revoked"):
        said = cli(verb, "--help")
        assert said.code == 0
        assert f"guardtrail {verb} --" in said.out
        assert "--json: {" in said.out
        assert "Exit 0: " in said.out
