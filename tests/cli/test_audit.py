"""`guardtrail audit verify`: what it says, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.record.making import log_of

Run = Callable[..., Any]
LOG = Path(".guardtrail")
NOTE = "note: checked with the key that lies beside the log; --key and --witness take what was kept elsewhere\n"


def edit(at: int, old: str, new: str) -> None:
    lines = (LOG / "audit.jsonl").read_text().splitlines(keepends=True)
    assert old in lines[at - 1]
    lines[at - 1] = lines[at - 1].replace(old, new)
    (LOG / "audit.jsonl").write_text("".join(lines))


def test_a_whole_log(cli: Run, desk: Path) -> None:
    log_of(LOG, 5)
    for words in ((), (".guardtrail",), (".guardtrail/audit.jsonl",), ("--dir", str(desk / ".guardtrail"))):
        said = cli("audit", "verify", *words)
        assert (said.code, said.out, said.err) == (0, "whole log ok (10 records, 1 checkpoint)\n", NOTE)


def test_a_changed_log(cli: Run, desk: Path) -> None:
    log_of(LOG, 5)
    edit(6, '"ok"', '"error"')
    said = cli("audit", "verify")
    assert (said.code, said.out) == (1, "found: record 6 was changed after it was written\n")
    said = cli("audit", "verify", "--json")
    assert said.code == 1
    assert said.json == {
        "ok": False, "incomplete": False, "running": False, "records": 10, "checkpoints": 1, "writers": 1, "uncovered": 0,
        "problems": [{"file": "audit.jsonl", "record": 6, "text": "record 6 was changed after it was written"}], "more": 0,
        "text": "found: record 6 was changed after it was written",
    }  # fmt: skip


def test_many_problems_are_shown_up_to_a_number(cli: Run, desk: Path) -> None:
    log_of(LOG, 30)
    log = LOG / "audit.jsonl"
    log.write_text(log.read_text().replace('"v":1', '"v":2'))
    said = cli("audit", "verify")
    assert said.code == 1
    assert len(said.lines) == 21
    assert said.lines[-1] == "and 40 more"


def test_an_incomplete_log(cli: Run, desk: Path) -> None:
    log_of(LOG, 5, tail=3)
    said = cli("audit", "verify")
    assert said.code == 3
    assert said.out == "incomplete (13 records, 1 checkpoint): the last 3 are under no checkpoint; whether more followed cannot be told\n"
    said = cli("audit", "verify", "--json")
    assert (said.code, said.json["ok"], said.json["incomplete"], said.json["uncovered"]) == (3, True, True, 3)


def test_what_was_kept_elsewhere(cli: Run, desk: Path) -> None:
    log_of(LOG, 5)
    shutil.copy(LOG / "keys" / "audit.pub", "kept.pub")
    shutil.copy(LOG / "checkpoints.jsonl", "kept.jsonl")
    said = cli("audit", "verify", "--key", "kept.pub", "--witness", "kept.jsonl")
    assert (said.code, said.out, said.err) == (0, "whole log ok (10 records, 1 checkpoint)\n", "")
    shutil.rmtree(LOG)
    log_of(LOG, 5)
    assert cli("audit", "verify").code == 0
    assert cli("audit", "verify", "--key", "kept.pub").code == 1
    assert cli("audit", "verify", "--witness", "kept.jsonl").code == 1


@pytest.mark.parametrize("words", [("nowhere",), ("--dir", "nowhere"), (".",), ()])
def test_nothing_to_check_is_no_yes(cli: Run, desk: Path, words: tuple[str, ...]) -> None:
    said = cli("audit", "verify", *words)
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith("error: nothing is recorded in ")
    assert "GUARDTRAIL_DIR" in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(("option", "says"), [("--key", "not a public key"), ("--witness", "no such file")])
def test_a_file_that_is_none(cli: Run, desk: Path, option: str, says: str) -> None:
    log_of(LOG, 1)
    given = "policy.yaml" if option == "--key" else "nowhere"
    said = cli("audit", "verify", option, given)
    assert said.code == 3
    assert said.err.startswith(f"error: {given}: ")
    assert says in said.err


def test_wrong_usage(cli: Run, desk: Path) -> None:
    said = cli("audit", "verify", ".guardtrail", "--dir", ".guardtrail")
    assert (said.code, said.err) == (2, "error: `--dir` and a path exclude each other\n")


def test_in_a_process_of_its_own(process: Run, desk: Path) -> None:
    log_of(LOG, 2)
    said = process("audit", "verify")
    assert (said.code, said.out, said.err) == (0, "whole log ok (4 records, 1 checkpoint)\n", NOTE)
