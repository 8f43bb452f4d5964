"""What somebody with an editor can do to a log, and what `verify_log` says."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.record import AuditFile, Verified, verify_log
from guard.record.keeper import MOST_UNCOVERED
from tests.record.making import chained, checkpoint, decision, log_of, outcome, rechained

CALLS = 20
RECORDS = 2 * CALLS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of 40 records with several checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "log"
    sink = AuditFile(folder)
    for step in range(1, CALLS + 1):
        made = decision(step=step)
        sink.decision(made)
        sink.outcome(outcome(made))
        if step % 5 == 0:
            sink.checkpoint()
    sink.close()
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "log")
    return tmp_path / "log"


def lines_of(folder: Path, name: str = "audit.jsonl") -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


def write(folder: Path, lines: list[bytes], name: str = "audit.jsonl") -> None:
    (folder / name).write_bytes(b"".join(lines))


def test_a_whole_log(whole: Path) -> None:
    found = verify_log(whole)
    assert (found.ok, found.incomplete, found.running, found.problems) == (True, False, False, ())
    assert found.text == "whole log ok (40 records, 5 checkpoints)"
    assert verify_log(whole / "audit.jsonl") == found


# -- 1,000 edits ---------------------------------------------------------------------------------------------------------------


def edited_byte(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    line = bytearray(lines[at])
    line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
    lines[at] = bytes(line)


def edited_member(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    lines[at] = _changed(lines[at], rng)


def edited_and_hashed(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    """The edited line gets the hash that fits it; the lines after it stay."""
    at = rng.randrange(len(lines) - 1)
    record = json.loads(_changed(lines[at], rng))
    lines[at] = chained(record, record["writer"], record["seq"], record["prev"])


def edited_and_all_hashed(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    """Every hash up to the end is written anew: only the signed checkpoint is in the way."""
    at = rng.randrange(len(lines))
    lines[at] = _changed(lines[at], rng)
    lines[:] = rechained(lines, at, checkpoint(folder)["writer"], json.loads(lines[0])["prev"], numbers=True)


def deleted(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    del lines[at : at + rng.randint(1, 3)]


def deleted_and_all_hashed(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    first = json.loads(lines[0])["prev"]
    del lines[at]
    lines[:] = rechained(lines, at, checkpoint(folder)["writer"], first, numbers=True)


def swapped(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    a, b = rng.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]


def swapped_and_all_hashed(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    first = json.loads(lines[0])["prev"]
    swapped(lines, folder, rng)
    lines[:] = rechained(lines, 0, checkpoint(folder)["writer"], first, numbers=True)


def inserted(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    at = rng.randrange(1, len(lines))
    before = json.loads(lines[at - 1])
    lines.insert(at, chained(decision().to_dict(), before["writer"], before["seq"] + 1, before["hash"]))


def inserted_and_all_hashed(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    first = json.loads(lines[0])["prev"]
    inserted(lines, folder, rng)
    lines[:] = rechained(lines, 0, checkpoint(folder)["writer"], first, numbers=True)


def cut_below_the_checkpoint(lines: list[bytes], folder: Path, rng: random.Random) -> None:
    del lines[rng.randrange(len(lines)) :]


def _changed(line: bytes, rng: random.Random) -> bytes:
    record: dict[str, Any] = json.loads(line)
    name = rng.choice([each for each in record if each not in ("hash", "v")])
    value = record[name]
    if isinstance(value, bool | int):
        record[name] = value + rng.randint(1, 5)
    elif isinstance(value, str):
        record[name] = {"allow": "deny", "ok": "error"}.get(value, value[:-1] + ("0" if value[-1:] != "0" else "1"))
    else:
        record[name] = "x"
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


EDITS = [
    edited_byte, edited_member, edited_and_hashed, edited_and_all_hashed, deleted, deleted_and_all_hashed, swapped, swapped_and_all_hashed, inserted,
    inserted_and_all_hashed, cut_below_the_checkpoint,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_every_edit_up_to_the_last_checkpoint_is_found(edit: Callable[[list[bytes], Path, random.Random], None], copy: Path) -> None:
    """100 of each, more than 1,000 in all: every single one."""
    rng = random.Random(f"{edit.__name__} 7")
    kept, tried = lines_of(copy), 0
    while tried < 100:
        lines = list(kept)
        edit(lines, copy, rng)
        if lines == kept:
            continue
        tried += 1
        write(copy, lines)
        found = verify_log(copy)
        assert not found.ok, (tried, edit)
        assert found.text.startswith("found: ")


def test_an_edit_below_a_later_checkpoint_is_found_although_the_newest_ones_are_gone(copy: Path) -> None:
    lines = lines_of(copy)
    lines[2] = _changed(lines[2], random.Random(1))
    write(copy, rechained(lines, 2, checkpoint(copy)["writer"], "", numbers=True))
    write(copy, lines_of(copy, "checkpoints.jsonl")[:1], "checkpoints.jsonl")
    assert not verify_log(copy).ok


# -- what is said --------------------------------------------------------------------------------------------------------------


def _replace(at: int, old: bytes, new: bytes) -> Callable[[list[bytes]], None]:
    def edit(lines: list[bytes]) -> None:
        assert old in lines[at - 1]
        lines[at - 1] = lines[at - 1].replace(old, new)

    return edit


def _drop(first: int, last: int) -> Callable[[list[bytes]], None]:
    def edit(lines: list[bytes]) -> None:
        del lines[first - 1 : last]

    return edit


def _swap(lines: list[bytes]) -> None:
    lines[5], lines[6] = lines[6], lines[5]


def _twice(lines: list[bytes]) -> None:
    lines.insert(6, lines[5])


WORDS: list[tuple[str, Callable[[list[bytes]], None], str]] = [
    ("edited", _replace(6, b'"ok"', b'"error"'), "found: record 6 was changed after it was written"),
    ("one deleted", _drop(6, 6), "found: record 6 is missing"),
    ("several deleted", _drop(6, 9), "found: records 6 to 9 are missing"),
    ("the end", _drop(38, 40), "found: records 38 to 40 are missing at the end: a checkpoint counts them"),
    ("moved", _swap, "found: record 6 was moved to line 7"),
    ("twice", _twice, "found: line 7 was inserted: there is a record 6 before it"),
    ("not a record", _replace(6, b'"hash"', b'"hush"'), "found: line 6 is not a record"),
]


@pytest.mark.parametrize(("edit", "says"), [case[1:] for case in WORDS], ids=[case[0] for case in WORDS])
def test_it_says_what_was_done(copy: Path, edit: Callable[[list[bytes]], None], says: str) -> None:
    lines = lines_of(copy)
    edit(lines)
    write(copy, lines)
    found = verify_log(copy)
    assert found.text == says
    assert len(found.problems) == 1


def test_a_rewritten_span_names_it(copy: Path) -> None:
    lines = lines_of(copy)
    lines[11] = lines[11].replace(b'"ok"', b'"error"')
    write(copy, rechained(lines, 11, checkpoint(copy)["writer"], "", numbers=True))
    assert verify_log(copy).text.startswith("found: records 11 to 20 rewritten: the checkpoint has another hash")


# -- the tail ------------------------------------------------------------------------------------------------------------------


def test_a_tail_after_the_last_checkpoint_is_incomplete(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 5, tail=3)
    found = verify_log(tmp_path / "log")
    assert (found.ok, found.incomplete, found.records, found.uncovered) == (True, True, 13, 3)
    assert found.text == "incomplete (13 records, 1 checkpoint): the last 3 are under no checkpoint; whether more followed cannot be told"


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_cut_tail_is_incomplete(tmp_path: Path, left: int) -> None:
    """A second session's records are cut off, all or some: its opening checkpoint says that the log was open."""
    log = log_of(tmp_path / "log", 5)
    again = AuditFile(tmp_path / "log")
    for step in range(3):
        again.decision(decision(step=step))
    crash(again)
    write(tmp_path / "log", lines_of(tmp_path / "log")[: 10 + left])
    found = verify_log(log)
    assert (found.ok, found.incomplete, found.records) == (True, True, 10 + left)
    assert found.text.startswith("incomplete (")


def test_a_record_cut_short_is_incomplete(copy: Path) -> None:
    with (copy / "audit.jsonl").open("ab") as file:
        file.write(b'{"v":1,"kind":"dec')
    found = verify_log(copy)
    assert (found.ok, found.incomplete) == (True, True)
    assert "cut short" in found.text


def test_the_next_session_covers_what_a_crash_left(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 5, tail=3)
    with (tmp_path / "log" / "audit.jsonl").open("ab") as file:
        file.write(b'{"v":1,"kind":"dec')
    again = AuditFile(tmp_path / "log")
    again.decision(decision())
    again.close()
    assert verify_log(tmp_path / "log").text == "whole log ok (14 records, 3 checkpoints)"


def test_without_any_checkpoint_everything_is_tail(copy: Path) -> None:
    (copy / "checkpoints.jsonl").unlink()
    found = verify_log(copy)
    assert (found.ok, found.incomplete, found.uncovered) == (True, True, RECORDS)


def test_no_writer_leaves_so_many_uncovered(tmp_path: Path) -> None:
    log_of(tmp_path / "log", 1, tail=MOST_UNCOVERED + 1)
    assert "checkpoints were taken away" in verify_log(tmp_path / "log").text


def crash(sink: AuditFile) -> None:
    """What kill -9 does to a writer: no last checkpoint, the lock is free."""
    chain, keeper = sink._log.chain, sink._log._keeper
    assert chain is not None and keeper is not None
    keeper.stop(5)
    chain.close(5)
    sink._log.renew()


# -- checkpoints, writers, witnesses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("edit", ["delete", "forge", "unsign", "swap"])
def test_checkpoints(copy: Path, at: int, edit: str) -> None:
    lines = lines_of(copy, "checkpoints.jsonl")
    if edit == "delete":
        del lines[at]
    elif edit == "forge":
        lines[at] = lines[at].replace(b'"closed":', b'"closed": ', 1)
    elif edit == "unsign":
        lines[at] = lines[at].split(b',"sig"')[0] + b"}\n"
    else:
        lines[at], lines[at - 1] = lines[at - 1], lines[at]
    write(copy, lines, "checkpoints.jsonl")
    found = verify_log(copy)
    if edit == "delete" and at == 4:  # the last one alone: as if it had not come to it
        assert (found.ok, found.incomplete) == (True, True)
    else:
        assert not found.ok
        assert found.problems[0].file == "checkpoints.jsonl" or "missing" in found.text


def test_a_checkpoint_signed_by_another_key(copy: Path, tmp_path: Path) -> None:
    """Everything rewritten and signed anew: found by the key that was kept elsewhere, by nothing else."""
    kept = (copy / "keys" / "audit.pub").read_bytes()
    log_of(tmp_path / "forged", CALLS)
    assert verify_log(tmp_path / "forged").ok
    (tmp_path / "kept.pub").write_bytes(kept)
    found = verify_log(tmp_path / "forged", key=tmp_path / "kept.pub")
    assert "changed or forged" in found.text
    assert not verify_log(tmp_path / "forged", key=bytes.fromhex(kept.decode())).ok


def test_a_key_that_is_none(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.pub").write_text("no key")
    with pytest.raises(OSError, match="not a public key"):
        verify_log(copy, key=tmp_path / "kept.pub")


def test_without_its_public_key_no_checkpoint_counts(copy: Path) -> None:
    (copy / "keys" / "audit.pub").unlink()
    assert "keys/audit.pub is missing" in verify_log(copy).text


def resigned(folder: Path, upto: int) -> None:
    """Who can read the key cuts the log to `upto` records and signs a closing checkpoint for that."""
    lines = lines_of(folder)[:upto]
    write(folder, lines)
    last = json.loads(lines[-1])
    (folder / "checkpoints.jsonl").unlink()
    from guard.record.checkpoints import Signer

    Signer(folder, "audit.jsonl", last["writer"]).write(last["seq"], last["hash"], 1, closed=True)


def test_a_witness_finds_what_was_signed_anew(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "witness.jsonl").write_bytes(lines_of(copy, "checkpoints.jsonl")[-1])
    assert verify_log(copy, witness=tmp_path / "witness.jsonl").ok
    resigned(copy, 30)
    assert verify_log(copy).ok
    found = verify_log(copy, witness=tmp_path / "witness.jsonl")
    assert not found.ok
    assert "the witness" in " ".join(map(str, found.problems))


def test_a_witness_that_is_none(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "witness.jsonl").write_text("{}\n")
    assert "line 1 of the witness" in verify_log(copy, witness=tmp_path / "witness.jsonl").text
    with pytest.raises(FileNotFoundError):
        verify_log(copy, witness=tmp_path / "nowhere")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, str]:
    """A log of two writers, and the name of the second one's file. The first one's last checkpoint knows of the second's."""
    folder = tmp_path / "log"
    first = AuditFile(folder)
    first.decision(decision())
    from guard.record.log import Log

    second = Log(folder, folder, 1.0)  # as another process would have it: this one shares
    second.append('{"v":1}', "os", look=True)
    name = second.path.name
    second.close()
    first.decision(decision())
    first.close()
    assert name != "audit.jsonl"
    assert verify_log(folder).text == "whole log ok (3 records, 2 checkpoints)"
    return folder, name


def test_a_writers_file_is_missing(two: tuple[Path, str]) -> None:
    folder, name = two
    (folder / name).unlink()
    assert f"{name} is missing" in verify_log(folder).text


def test_a_writer_is_erased_from_the_list(two: tuple[Path, str]) -> None:
    """Its file, its checkpoints and its line in the list are gone: the other writer's checkpoint still knows it."""
    folder, name = two
    writer = name.removeprefix("audit-").removesuffix(".jsonl")
    (folder / name).unlink()
    (folder / f"checkpoints-{writer}.jsonl").unlink()
    write(folder, [line for line in lines_of(folder, "writers.jsonl") if writer.encode() not in line], "writers.jsonl")
    assert f"writer {writer}" in verify_log(folder).text


def test_the_list_of_writers_is_edited(copy: Path) -> None:
    write(copy, [lines_of(copy, "writers.jsonl")[0].replace(b'"pid":', b'"pid":1')], "writers.jsonl")
    assert not verify_log(copy).ok


@pytest.mark.parametrize("name", ["audit-0badcafe.jsonl", "checkpoints-0badcafe.jsonl"])
def test_a_foreign_file(copy: Path, name: str) -> None:
    shutil.copy(copy / name.replace("-0badcafe", ""), copy / name)
    assert verify_log(copy).text == f"found: {name} is of no writer in the list of writers ({name})"


def test_nothing_to_check_is_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_log(tmp_path)
    with pytest.raises(FileNotFoundError):
        verify_log(tmp_path / "nowhere")
    (tmp_path / "audit.jsonl").touch()
    assert not verify_log(tmp_path).ok


def test_many_problems_are_counted_not_held(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", 1)
    log.write_bytes(b"x\n" * 5000)
    found = verify_log(log)
    assert len(found.problems) == 1000
    assert found.more > 3000
    assert f"(+{999 + found.more} more)" in found.text


def test_a_log_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process it gets a checkpoint first; in another's hands (here: a copy of the files, the lock held) it is ok so far."""
    sink = AuditFile(tmp_path / "log")
    sink.decision(decision())
    found = verify_log(tmp_path / "log")
    assert found.text == "whole log ok (1 record, 1 checkpoint)"
    sink.decision(decision())
    before = (tmp_path / "log" / "checkpoints.jsonl").read_bytes()
    monkeypatch.setattr("guard.record.verify.writing", lambda folder: None)
    found = verify_log(tmp_path / "log")
    assert (found.ok, found.incomplete, found.running) == (True, False, True)
    assert found.text == "log ok so far (2 records, 1 checkpoint); the last 1 wait for a checkpoint of the running writer"
    assert before == (tmp_path / "log" / "checkpoints.jsonl").read_bytes()
    sink.close()


def test_the_result_is_frozen(whole: Path) -> None:
    found: Verified = verify_log(whole)
    with pytest.raises(AttributeError):
        found.ok = False  # type: ignore[misc]
