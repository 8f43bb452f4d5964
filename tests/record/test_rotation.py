"""A file that is full: the chain goes on in the next one, and what somebody does to the set of them shows."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guard.record import AuditFile, verify_log
from guard.record.chain import continued, writers
from tests.record.making import decision, outcome, records_in

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 8 << 10  # about eight records


def write(folder: Path, calls: int, limit: int = LIMIT) -> list[str]:
    """So many decisions with their outcomes; the decisions' ids."""
    sink = AuditFile(folder, limit=limit)
    made = [decision(step=step) for step in range(1, calls + 1)]
    for each in made:
        sink.decision(each)
        sink.outcome(outcome(each))
    sink.close()
    return [each.id for each in made]


def in_order(folder: Path) -> list[Path]:
    """The files of one lineage, from the first."""
    return [folder / each.file for each in writers(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rotated") / "log"
    write(folder, 40)
    return folder


@pytest.fixture
def full(made: Path, folder: Path) -> Path:
    """A copy of a whole log of several files."""
    shutil.copytree(made, folder)
    return folder


def test_a_log_in_several_files_is_one_log(folder: Path) -> None:
    ids = write(folder, 40)
    files = in_order(folder)
    assert files[0].name == "audit.jsonl"
    assert len(files) > 4
    assert all(LIMIT <= path.stat().st_size < LIMIT + 2048 for path in files[:-1])
    assert [json.loads(line)["id"] for path in files for line in path.read_bytes().splitlines() if b'"kind":"decision"' in line] == ids
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records, found.writers) == (True, False, 80, len(files)), found.text
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_the_chain_goes_on(full: Path) -> None:
    """The first line of a file follows from its registration, and that from the last line before."""
    for before, after in zip(in_order(full), in_order(full)[1:], strict=False):
        entry = next(each for each in writers(full) if each.file == after.name)
        last, first = json.loads(before.read_bytes().splitlines()[-1]), json.loads(after.read_bytes().splitlines()[0])
        assert entry.after == (last["writer"], last["seq"], last["hash"])
        assert (first["prev"], first["seq"]) == (entry.genesis, 1)


def test_the_newest_is_continued_and_no_full_one(folder: Path) -> None:
    write(folder, 10)
    known = len(writers(folder))
    write(folder, 1)
    assert len(writers(folder)) == known
    assert set(continued(writers(folder))) == {each.writer for each in writers(folder)[:-1]}
    assert verify_log(folder).text.startswith("whole log ok (22 records")


def test_the_smallest_limit_counts_and_the_usual_one_is_large(folder: Path) -> None:
    large, small = AuditFile(folder), AuditFile(folder, limit=1)
    for _ in range(3):
        large.decision(decision())
    large.close()
    small.close()
    assert [len(path.read_bytes().splitlines()) for path in in_order(folder)] == [1, 1, 1]
    with pytest.raises(ValueError, match="limit"):
        AuditFile(folder, limit=0)
    write(folder.with_name("other"), 100, limit=64 << 20)
    assert len(writers(folder.with_name("other"))) == 1


def test_checkpoints_speak_of_those_who_still_write(full: Path) -> None:
    """What a checkpoint costs does not grow with the number of full files."""
    newest = json.loads((full / f"checkpoints-{writers(full)[-1].writer}.jsonl").read_bytes().splitlines()[-1])
    assert newest["heads"] == {}


@pytest.mark.parametrize("sync", ["os", "group", "each"])
def test_many_threads(folder: Path, sync: str) -> None:
    import threading

    sink = AuditFile(folder, limit=LIMIT)
    sink._log.patience = 10.0
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for step in range(60):
                sink.decision(decision(step=step, sync=sync))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sink.close()
    assert failed == []
    assert len(records_in(folder)) == 240
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 240), found.text


def test_two_lineages(folder: Path) -> None:
    """Another process has a file of its own, and its own next one."""
    from guard.record.lines import decision_body
    from guard.record.log import Log

    first = AuditFile(folder, limit=LIMIT)
    first.decision(decision())
    second = Log(folder, folder, 1.0, LIMIT)
    for _ in range(30):
        second.append(decision_body(decision()), "os", look=True)
        first.decision(decision())
    second.close()
    first.close()
    full = continued(writers(folder))
    assert len([each for each in writers(folder) if each.after is None]) == 2
    assert len([each for each in writers(folder) if each.writer not in full]) == 2
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 61), found.text


# -- what somebody does ---------------------------------------------------------------------------------------------------------


def drop(folder: Path, at: int, *, listed: bool = False) -> str:
    """Take away a file with its checkpoints, and, with `listed`, its line in the list of writers."""
    entry = writers(folder)[at]
    (folder / entry.file).unlink()
    (folder / ("checkpoints.jsonl" if entry.file == "audit.jsonl" else f"checkpoints-{entry.writer}.jsonl")).unlink(missing_ok=True)
    if listed:
        lines = (folder / "writers.jsonl").read_bytes().splitlines(keepends=True)
        del lines[at]
        (folder / "writers.jsonl").write_bytes(b"".join(lines))
    return entry.file


@pytest.mark.parametrize("at", [0, 2, -1])
def test_a_file_is_taken_away(full: Path, at: int) -> None:
    name = drop(full, at)
    found = verify_log(full)
    assert not found.ok
    assert f"{name} is missing" in " ".join(map(str, found.problems))


@pytest.mark.parametrize("at", [0, 2])
def test_an_older_file_is_taken_away_with_all_that_names_it(full: Path, at: int) -> None:
    writer = writers(full)[at].writer
    drop(full, at, listed=True)
    said = " ".join(map(str, verify_log(full).problems))
    assert f"writer {writer}, whom the list of writers knows, is not in the list of writers any more" in said


def test_the_newest_is_taken_away_with_all_that_names_it(full: Path) -> None:
    """The file before it was closed properly; what it said last is signed."""
    name = drop(full, -1, listed=True)
    for _ in range(2):
        found = verify_log(full)
        assert not found.ok
        assert f"who went on from here in {name}, is not in the list of writers any more" in found.text
        write(full, 1)  # who writes next must not bury it


def test_the_list_no_longer_says_what_went_before(full: Path) -> None:
    lines = (full / "writers.jsonl").read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[2])
    del entry["after"]
    lines[2] = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    (full / "writers.jsonl").write_bytes(b"".join(lines))
    drop(full, 1, listed=True)
    assert not verify_log(full).ok


def test_records_are_added_to_a_full_file(full: Path) -> None:
    """Chained as they should be, by somebody who knows the format."""
    from tests.record.making import chained

    path = in_order(full)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    path.write_bytes(b"".join([*lines, chained(decision().to_dict(), last["writer"], last["seq"] + 1, last["hash"])]))
    found = verify_log(full)
    assert not found.ok
    assert f"record {last['seq'] + 1} was added after the file was full" in " ".join(map(str, found.problems))


def test_the_end_of_a_full_file_is_cut(full: Path) -> None:
    """Also where its checkpoints went with it: the next file is chained to what it was."""
    entry = writers(full)[1]
    path = full / entry.file
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    (full / f"checkpoints-{entry.writer}.jsonl").unlink()
    assert "the end is missing: the list of writers counts" in " ".join(map(str, verify_log(full).problems))


# -- what goes wrong ------------------------------------------------------------------------------------------------------------


def broken_begin(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_next_file_that_cannot_be_begun_refuses_no_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record import log

    sink = AuditFile(folder, limit=LIMIT)
    with monkeypatch.context() as patch:
        patch.setattr(log, "begin", broken_begin)
        for _ in range(20):
            sink.decision(decision())
        assert len(writers(folder)) == 1
        assert verify_log(folder).ok
    sink._log._try_again = 0.0
    sink.decision(decision())
    sink.close()
    assert len(writers(folder)) == 2
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 21), found.text


def test_a_registration_that_may_or_may_not_be_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands there, so nothing may be written after the end it names: one record is refused, and the next goes on in the new file."""
    from guard.errors import GuardError
    from guard.record import claim

    sink = AuditFile(folder, limit=1)
    sink.decision(decision())
    with monkeypatch.context() as patch:
        patch.setattr(claim, "sync_folder", broken_begin)
        with pytest.raises(GuardError, match="the disk is full"):
            sink.decision(decision())
    sink._log.limit = LIMIT
    sink.decision(decision())
    sink.close()
    assert len(writers(folder)) == 2
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 2), found.text


def test_a_last_checkpoint_that_cannot_be_written_is_owed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record.checkpoints import Signer

    sink = AuditFile(folder, limit=1)
    sink.decision(decision())
    with monkeypatch.context() as patch:
        patch.setattr(Signer, "write", broken_begin)
        sink.decision(decision())
    assert len(writers(folder)) == 2
    sink.close()
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 2), found.text


def test_what_is_owed_is_not_paid_for_another_end(folder: Path) -> None:
    """Killed before the last checkpoint, and the file was cut before the next writer came: nobody signs that."""
    program = PROGRAM.format(root=str(ROOT), stop=STOPS["before the last checkpoint"], folder=str(folder), limit=LIMIT)
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    log = folder / "audit.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    write(folder, 1)
    found = verify_log(folder)
    assert not found.ok
    assert "the end is missing: the list of writers counts" in found.text


def test_what_several_killed_writers_owe_is_paid(folder: Path) -> None:
    for _ in range(3):
        # The first of them dies at the end of its file, the next ones at the end of theirs, before they could make good for it.
        stop = STOPS["before the last checkpoint"] + "; import guard.record.checkpoints as c; c.Owed.pay = lambda s: die()"
        program = PROGRAM.format(root=str(ROOT), stop=stop, folder=str(folder), limit=1)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(writers(folder)) > 2
    write(folder, 1)
    found = verify_log(folder)
    assert (found.ok, found.incomplete) == (True, False), found.text


def test_the_end_is_on_the_disk_before_anybody_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure takes records that the list of writers counts, and the log looks cut."""
    from guard.record import claim, keeper

    told: list[str] = []
    flush, register = keeper.flush, claim.register
    sink = AuditFile(folder, limit=1)
    sink.decision(decision())
    monkeypatch.setattr(keeper, "flush", lambda fd: (told.append("flush"), flush(fd))[1])
    monkeypatch.setattr(claim, "register", lambda *a: (told.append("register"), register(*a))[1])
    sink.decision(decision())
    assert told[:2] == ["flush", "register"]


def test_who_waits_for_the_disk_while_another_begins_the_next_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record.lines import decision_body
    from guard.record.log import Log

    sink, own, late = AuditFile(folder), Log._durable, [True]

    def durable(log: Log, chain: object, seq: int) -> None:
        if late.pop():
            log.limit = 1
            log.append(decision_body(decision()), "os", look=False)
        own(log, chain, seq)  # type: ignore[arg-type]

    for _ in range(3):
        sink.decision(decision())
    monkeypatch.setattr(Log, "_durable", durable)
    sink.decision(decision(sync="group"))
    assert len(writers(folder)) == 2


def test_an_unregistered_file_does_not_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guard.record import claim

    sink = AuditFile(folder, limit=1)
    sink.decision(decision())
    monkeypatch.setattr(claim, "register", broken_begin)
    for _ in range(3):
        sink._log._try_again = 0.0
        sink.decision(decision())
    sink.close()
    assert [path.name for path in folder.glob("audit*.jsonl")] == ["audit.jsonl"]
    assert verify_log(folder).ok


STOPS = {
    "before the last checkpoint": (
        "from guard.record.log import Log; own = Log._sign; Log._sign = lambda s, c, **k: die() if k.get('next') else own(s, c, **k)"
    ),
    "before the next file": "import guard.record.log as log; log.begin = lambda *a, **k: die()",
    "before it is registered": (
        "import guard.record.claim as claim; own = claim.register; claim.register = lambda *a: die() if a[4:] and a[4] else own(*a)"
    ),
    "after it is registered": (
        "import guard.record.claim as claim; own = claim.register\n"
        "def register(*a):\n    made = own(*a)\n    return die() if made.after else made\n"
        "claim.register = register"
    ),
    "before its first record": (
        "from guard.record.log import Log; own = Log._keep; Log._keep = lambda s, c: own(s, c) if c.file == 'audit.jsonl' else die()"
    ),
}
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})
def die(): os.kill(os.getpid(), signal.SIGKILL)
{stop}
from guard.record import AuditFile
from tests.record.making import decision
sink = AuditFile({folder!r}, limit={limit})
for n in range(40):
    sink.decision(decision(id=str(n)))
    os.write(1, b"%d\\n" % n)
"""


@pytest.mark.parametrize("when", STOPS)
def test_killed_in_the_middle_of_it(folder: Path, when: str) -> None:
    program = PROGRAM.format(root=str(ROOT), stop=STOPS[when], folder=str(folder), limit=LIMIT)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    acked = done.stdout.decode().split()
    assert len(acked) > 5
    assert {record["id"] for record in records_in(folder)} >= set(acked)
    found = verify_log(folder)
    assert found.ok, found.text
    assert found.incomplete
    write(folder, 20)  # who comes next goes on, and covers what was left open
    found = verify_log(folder)
    assert (found.ok, found.incomplete) == (True, False), found.text
    assert found.records >= len(acked) + 40
    assert len(continued(writers(folder))) >= 3


@pytest.mark.slow
def test_kill_9_at_any_time(folder: Path) -> None:
    rng = random.Random(19)
    acked: list[str] = []
    for _ in range(20):
        script = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os\n"
            "from guard.record import AuditFile\nfrom tests.record.making import decision\n"
            f"sink = AuditFile({str(folder)!r}, limit={LIMIT})\nn = 0\n"
            "while True:\n    n += 1\n    made = decision(id=f'{os.getpid()}-{n}')\n    sink.decision(made)\n    os.write(1, f'{made.id}\\n'.encode())\n"
        )
        # Not buffered: `communicate` reads the pipe itself, and what `readline` had taken ahead of it would be lost.
        writer = subprocess.Popen([sys.executable, "-c", script], bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert writer.stdout is not None
        first = b"".join(writer.stdout.readline() for _ in range(rng.randint(1, 30)))  # some files become full, however slow the machine is
        time.sleep(rng.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        rest, errors = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, errors.decode()
        acked += [line.decode() for line in (first + rest).split(b"\n")[:-1]]
    on_file = set()
    for path in folder.glob("audit*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            try:
                on_file.add(json.loads(line)["id"])
            except ValueError:
                continue
    assert set(acked) <= on_file
    assert len(writers(folder)) > 20
    found = verify_log(folder)
    assert found.ok, found.text
    write(folder, 1)
    found = verify_log(folder)
    assert (found.ok, found.incomplete) == (True, False), found.text


# -- spans ----------------------------------------------------------------------------------------------------------------------

SPANS = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from guard.record.otlp import FileExporter
from tests.record.test_spans import Desk, decided, state
desk = Desk()
exporter = FileExporter(Path(sys.argv[1]), limit=4096)
for n in range(100):
    desk.call(decided(id=sys.argv[2] + str(n)), state())
    exporter.export(desk.out)
    desk.exporter.clear()
"""


def test_spans_of_several_processes_in_several_files(tmp_path: Path) -> None:
    program = SPANS.format(root=str(ROOT))
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "spans.jsonl"), name], stderr=subprocess.PIPE) for name in "ab"
    ]
    for each in running:
        assert each.communicate(timeout=60)[1] == b""
    files = sorted(tmp_path.glob("spans*.jsonl"))
    assert [path.name for path in files[:2]] == ["spans-000001.jsonl", "spans-000002.jsonl"]
    assert files[-1].name == "spans.jsonl"
    assert all(4096 <= path.stat().st_size < 8192 for path in files[:-1])
    ids = []
    for path in files:
        for line in path.read_bytes().splitlines():
            (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
            ids.append(next(each["value"]["stringValue"] for each in span["attributes"] if each["key"] == "guardtrail.decision.id"))
    assert sorted(ids) == sorted(f"{name}{n}" for name in "ab" for n in range(100))
    for name in "ab":  # in their order
        assert [each for each in ids if each.startswith(name)] == [f"{name}{n}" for n in range(100)]


def test_a_span_file_that_another_moves_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look and our lock: what is ours goes into the new one."""
    from guard.record import otlp
    from tests.record.test_spans import Desk, decided, state

    desk, path = Desk(), tmp_path / "spans.jsonl"
    desk.call(decided(), state())
    exporter, lock, moved = otlp.FileExporter(path), otlp.fcntl.flock, [True]
    exporter.export(desk.out)
    size = path.stat().st_size

    def flock(fd: int, how: int) -> None:
        if moved and moved.pop():
            path.rename(tmp_path / "spans-000001.jsonl")
        lock(fd, how)

    monkeypatch.setattr(otlp.fcntl, "flock", flock)
    exporter.export(desk.out)
    assert ((tmp_path / "spans-000001.jsonl").stat().st_size, path.stat().st_size) == (size, size)


def test_replay_and_explain_read_the_set(folder: Path) -> None:
    from guard.cli.records import chain_of, find
    from guard.sources import read

    sink = AuditFile(folder, limit=LIMIT)
    made = [decision(step=step, at=1_700_000_000_000_000 + 10 * step) for step in range(1, 41)]
    for each in made:
        sink.decision(each)
        sink.outcome(outcome(each))
    sink.close()
    ids = [each.id for each in made]
    assert [seen.id for seen in read([folder]) if seen.kind == "call"] == ids
    found = find(folder, ids[3]).decisions[ids[3]]
    chain = chain_of(folder, found, around=None)
    assert [row["id"] for row in chain.steps] == ids
    assert {row["outcome"] for row in chain.steps} == {"ok"}
