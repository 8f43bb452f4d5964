"""The audit file as a sink: what it promises to threads, forks, other processes, and on bad days."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from guard.events import PivotRecord, TaskRecord
from guard.record import AuditFile, Unavailable, default_sinks, directory, keeper, verify_log
from guard.record import log as log_module
from tests.record.making import checkpoint, decision, outcome, records_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_what_stands_in_a_line(folder: Path) -> None:
    sink = AuditFile(folder)
    made = decision()
    sink.decision(made)
    sink.outcome(outcome(made))
    sink.note(PivotRecord(1, "t-1", ("actor",), "a/1", "a/2", ("worker",), None, "p-00"))
    sink.note(TaskRecord(1, "t-1", "deny", "state.unavailable", 3))
    on_file = records_in(folder)
    assert [record["kind"] for record in on_file] == ["decision", "outcome", "pivot", "task"]
    assert [record["seq"] for record in on_file] == [1, 2, 3, 4]
    first = {name: value for name, value in on_file[0].items() if name not in ("writer", "seq", "prev", "hash")}
    assert first == json.loads(json.dumps(made.to_dict()))
    sink.close()
    assert verify_log(folder).text == "whole log ok (4 records, 1 checkpoint)"


def test_private_to_its_user_and_out_of_the_repository(folder: Path) -> None:
    sink = AuditFile(folder)
    sink.decision(decision())
    sink.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    for path in (folder / "audit.jsonl", folder / "checkpoints.jsonl", folder / "writers.jsonl", folder / "keys" / "audit.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_is_made_before_the_first_record(folder: Path) -> None:
    sink = AuditFile(folder)
    sink.close()
    assert not folder.exists()


def test_guards_of_one_process_share_a_chain(folder: Path) -> None:
    first, second = AuditFile(folder), AuditFile(str(folder))
    first.decision(decision())
    second.decision(decision())
    first.close()
    second.decision(decision())
    del first
    gc.collect()
    second.decision(decision())
    second.close()
    assert [path.name for path in folder.glob("audit*.jsonl")] == ["audit.jsonl"]
    assert verify_log(folder).text.startswith("whole log ok (4 records")


def test_the_last_sink_to_go_closes(folder: Path) -> None:
    sink = AuditFile(folder)
    sink.decision(decision())
    del sink
    gc.collect()
    assert checkpoint(folder)["closed"]
    assert verify_log(folder).text == "whole log ok (1 record, 1 checkpoint)"


def test_the_end_of_the_process_closes(folder: Path) -> None:
    code = "import sys; from guard.record import AuditFile; from tests.record.making import decision; a = AuditFile(sys.argv[1]); a.decision(decision())"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT, timeout=60)
    assert verify_log(folder).text == "whole log ok (2 records, 3 checkpoints)"  # closed, opened again, closed


# -- who else writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["os", "group", "each"])
def test_many_threads(folder: Path, sync: str) -> None:
    sink = AuditFile(folder, patience=timedelta(seconds=20))
    each = 200 if sync == "os" else 10

    def work(_: int) -> None:
        for _ in range(each):
            made = decision(sync=sync)
            sink.decision(made)
            sink.outcome(outcome(made))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    sink.close()
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records) == (True, False, 16 * each)


def test_a_long_log_gets_its_checkpoints(folder: Path) -> None:
    sink = AuditFile(folder, patience=timedelta(seconds=10))
    for _ in range(3 * keeper.MOST_UNCOVERED):
        sink.decision(decision())
    sink.close()
    found = verify_log(folder)
    assert found.text.startswith("whole log ok (6,000 records")
    assert found.checkpoints >= 3


def test_a_checkpoint_comes_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SECONDS", 0.05)
    sink = AuditFile(folder)
    sink.decision(decision())
    written = folder / "checkpoints.jsonl"  # made first, and then written
    assert eventually(lambda: written.exists() and written.stat().st_size > 0 and checkpoint(folder)["seq"] == 1)
    sink.decision(decision())
    assert eventually(lambda: checkpoint(folder)["seq"] == 2)
    assert not checkpoint(folder)["closed"]


def test_two_processes_at_once(folder: Path) -> None:
    code = (
        "import sys, os, time; from guard.record import AuditFile; from tests.record.making import decision, outcome\n"
        "sink = AuditFile(sys.argv[1])\n"
        "for i in range(500):\n    made = decision(); sink.decision(made); sink.outcome(outcome(made))\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(2)
        ]
        assert [each.stdout.readline() for each in running if each.stdout is not None] == [b"written\n"] * 2
        found = verify_log(folder)
        assert (found.ok, found.incomplete, found.running) == (True, False, True), found.text
    found = verify_log(folder)
    assert (found.ok, found.incomplete, found.records, found.writers) == (True, False, 2000, 2), found.text
    assert len(list(folder.glob("audit-*.jsonl"))) == 1

    sink = AuditFile(folder)  # both are free now: the main file is continued
    sink.decision(decision())
    assert sink.path.name == "audit.jsonl"


def test_fork(folder: Path) -> None:
    sink = AuditFile(folder)
    sink.decision(decision(id="parent 1"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sink.decision(decision(id="child"))
            sink.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    sink.decision(decision(id="parent 2"))
    sink.close()
    files = {path.name: [json.loads(line)["id"] for line in path.read_bytes().splitlines()] for path in folder.glob("audit*.jsonl")}
    assert files.pop("audit.jsonl") == ["parent 1", "parent 2"]
    assert list(files.values()) == [["child"]]
    assert verify_log(folder).text.startswith("whole log ok (3 records")


def test_a_fork_under_load(folder: Path) -> None:
    """Other threads hold the lock, and write, at the instant of the fork: the child is not stuck with it."""
    sink, stop = AuditFile(folder, patience=timedelta(seconds=10)), threading.Event()

    def work() -> None:
        while not stop.is_set():
            sink.decision(decision())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    sink.decision(decision(id="child"))
                    sink.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for each in threads:
            each.join()
    sink.close()
    found = verify_log(folder)
    assert (found.ok, found.incomplete) == (True, False), found.text
    assert sum(record.get("id") == "child" for record in records_in(folder)) == 5


# -- bad days ------------------------------------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = AuditFile(tmp_path / "file" / "log")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            sink.decision(decision())
        assert caught.value.code == "record.unavailable"
        assert str(caught.value).endswith("audit.jsonl is not writable; no tool runs unrecorded")


def test_an_unwritable_directory(folder: Path) -> None:
    """In a child that is not root, for whom nothing is unwritable."""
    folder.mkdir(mode=0o500)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            AuditFile(folder).decision(decision())
        except Unavailable as error:
            code = 0 if str(error).endswith("log/audit.jsonl is not writable; no tool runs unrecorded") else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert not list(folder.iterdir())


def test_the_text_names_the_directory_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".guardtrail").touch()
    with pytest.raises(Unavailable, match=r"^audit log \.guardtrail/audit\.jsonl is not writable; no tool runs unrecorded$"):
        AuditFile(".guardtrail").decision(decision())


def test_an_unwritable_directory_that_is_repaired(folder: Path) -> None:
    folder.touch()
    sink = AuditFile(folder)
    with pytest.raises(Unavailable):
        sink.decision(decision())
    folder.unlink()
    sink.decision(decision())
    assert verify_log(folder).ok


@pytest.mark.parametrize("how", ["deleted", "cut", "written", "emptied"])
def test_a_file_that_others_touch(folder: Path, how: str) -> None:
    """Refused once, on record in a checkpoint, and then a file of its own: no call is lost, and nothing is covered up."""
    sink = AuditFile(folder)
    log = folder / "audit.jsonl"
    for _ in range(3):
        sink.decision(decision())
    if how == "deleted":
        log.unlink()
    elif how == "cut":
        os.truncate(log, len(log.read_bytes()) - 300)
    elif how == "emptied":
        os.truncate(log, 0)
    else:
        with log.open("ab") as file:
            file.write(b"{}\n")
    time.sleep(2 * log_module._LOOK)
    with pytest.raises(Unavailable, match="was deleted or changed by somebody else; no tool runs unrecorded"):
        sink.decision(decision())
    sink.decision(decision(id="after"))
    sink.close()
    assert sink.path.name == "audit.jsonl"
    (other,) = folder.glob("audit-*.jsonl")
    assert json.loads(other.read_bytes())["id"] == "after"
    assert not verify_log(folder).ok


def test_a_whole_directory_that_is_deleted(folder: Path) -> None:
    import shutil

    sink = AuditFile(folder)
    sink.decision(decision())
    shutil.rmtree(folder)
    time.sleep(2 * log_module._LOOK)
    with pytest.raises(Unavailable):
        sink.decision(decision())
    sink.decision(decision())


def test_a_damaged_file_is_left_as_evidence(folder: Path) -> None:
    sink = AuditFile(folder)
    for _ in range(3):
        sink.decision(decision())
    sink.close()
    log = folder / "audit.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    left = log.read_bytes()
    sink.decision(decision())
    sink.close()
    assert log.read_bytes() == left
    assert verify_log(folder).text == "found: record 3 is missing at the end: a checkpoint counts them"


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (tmp_path / "victim").touch()
    (folder / "audit.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(Unavailable):
        AuditFile(folder).decision(decision())
    assert (tmp_path / "victim").read_bytes() == b""


def test_a_write_that_is_cut_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = AuditFile(folder)
    sink.decision(decision(id="1"))
    whole = os.write
    monkeypatch.setattr(log_module, "_write", lambda fd, line: whole(fd, line[:100]))
    with pytest.raises(Unavailable, match="is not writable; no tool"):
        sink.decision(decision(id="2"))
    monkeypatch.undo()
    sink.decision(decision(id="3"))
    sink.close()
    assert [record["id"] for record in records_in(folder)] == ["1", "3"]
    assert verify_log(folder).text.startswith("whole log ok")


@pytest.mark.parametrize("written", [True, False])
def test_an_interrupt_in_the_middle(folder: Path, monkeypatch: pytest.MonkeyPatch, written: bool) -> None:
    """Ctrl-C between the write and its book-keeping: number and hash come from the file, not from what was believed."""
    sink = AuditFile(folder)
    sink.decision(decision(id="1"))
    whole = os.write

    def interrupted(fd: int, line: bytes) -> int:
        if written:
            whole(fd, line)
        raise KeyboardInterrupt

    monkeypatch.setattr(log_module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sink.decision(decision(id="2"))
    monkeypatch.undo()
    sink.decision(decision(id="3"))
    sink.close()
    assert [record["id"] for record in records_in(folder)] == (["1", "2", "3"] if written else ["1", "3"])
    assert verify_log(folder).text.startswith("whole log ok")


def test_checkpoints_that_cannot_be_written_stop_the_writer(folder: Path) -> None:
    """Or a log could grow for ever with nothing to prove its end."""
    sink = AuditFile(folder, patience=timedelta(milliseconds=50))
    sink.decision(decision())
    (folder / "checkpoints.jsonl").mkdir()
    with pytest.raises(Unavailable, match="too many records under no checkpoint"):
        for _ in range(keeper.MOST_UNCOVERED + 1):
            sink.decision(decision())
    (folder / "checkpoints.jsonl").rmdir()
    sink._log.patience = 20.0  # no longer: now this machine's own disk must be in time
    assert eventually(lambda: taken(sink))
    sink.close()
    assert verify_log(folder).text.startswith("whole log ok")


# -- the disk itself -----------------------------------------------------------------------------------------------------------


class Disk:
    """Counts and holds up what reaches the disk. `gave_up`: nobody let it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.flushes, self.error, self.gave_up = 0, error, False
        self.hold = threading.Event()
        self.hold.set()
        real = keeper.flush

        def flush(fd: int) -> None:
            self.flushes += 1
            self.gave_up |= not self.hold.wait(30)
            if self.error is not None:
                raise self.error
            real(fd)

        monkeypatch.setattr(keeper, "flush", flush)


def test_os_does_not_wait_for_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    sink = AuditFile(folder)
    for _ in range(100):
        sink.decision(decision(sync="os"))
    assert disk.flushes == 0


def test_group_shares_and_each_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    sink = AuditFile(folder, patience=timedelta(seconds=60))
    sink.decision(decision())
    chain = sink._log.chain
    assert chain is not None
    for turn in range(1, 6):
        disk.hold.clear()
        flushes = disk.flushes
        with ThreadPoolExecutor(16) as pool:
            running = [pool.submit(sink.decision, decision(sync="group")) for _ in range(16)]
            assert eventually(lambda lines=1 + 16 * turn: chain.tip[0] == lines)  # type: ignore[misc]
            disk.hold.set()
            for each in running:
                each.result()
        assert 1 <= disk.flushes - flushes <= 2, "who came while one ran waited for the next, all for the same"
    before = disk.flushes
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sink.decision(decision(sync="each")), range(20)))
    assert disk.flushes - before == 20


def test_a_record_alone_does_not_wait_for_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    sink = AuditFile(folder, patience=timedelta(seconds=60))
    sink.decision(decision())
    start = time.monotonic()
    for _ in range(5):
        sink.decision(decision(sync="group"))
    assert disk.flushes == 5
    assert time.monotonic() - start < 30


def test_a_disk_that_hangs_refuses_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    sink = AuditFile(folder, patience=timedelta(milliseconds=100))
    sink.decision(decision())
    disk.hold.clear()
    for sync in ("group", "each"):
        with pytest.raises(Unavailable, match="did not reach the disk in time"):
            sink.decision(decision(sync=sync))
    sink.decision(decision(sync="os"))  # the operating system still takes lines
    assert not disk.gave_up
    sink._log.patience = 20.0  # that was the disk of the test; this machine's own may be slow too
    disk.hold.set()
    assert eventually(lambda: taken(sink, "group"))
    sink.close()
    assert verify_log(folder).text.startswith("whole log ok")


def test_an_fsync_that_fails_is_not_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the kernel forgets what it could not write, and the next one says yes: the file is not trusted any more."""
    disk = Disk(monkeypatch, error=OSError(5, "input/output error"))
    sink = AuditFile(folder, patience=timedelta(seconds=5))
    with pytest.raises(Unavailable, match="could not be brought to the disk"):
        sink.decision(decision(sync="group"))
    disk.error = None
    sink.decision(decision(sync="group"))
    assert sink.path.name.startswith("audit-")


def test_another_thread_that_hangs_in_a_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, whole = AuditFile(folder, patience=timedelta(milliseconds=100)), os.write
    inside, hold = threading.Event(), threading.Event()
    sink.decision(decision())

    def hanging(fd: int, line: bytes) -> int:
        inside.set()
        hold.wait(30)
        return whole(fd, line)

    monkeypatch.setattr(log_module, "_write", hanging)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sink.decision, decision())
        assert inside.wait(30)
        with pytest.raises(Unavailable, match="does not answer in time"):
            sink.decision(decision())
        hold.set()
        first.result()
    assert not sink.inline  # from now on the guard waits for this disk under its deadline


def test_inline(folder: Path) -> None:
    sink = AuditFile(folder, patience=timedelta(minutes=10))  # after a write of half of it the disk would count as slow
    assert not sink.inline  # opening the file takes an fsync or two
    sink.decision(decision())
    assert sink.inline

    async def in_a_loop() -> bool:
        return sink.inline

    assert asyncio.run(in_a_loop())
    sink.decision(decision(sync="group"))
    assert sink.inline
    assert not asyncio.run(in_a_loop())  # an event loop does not wait for an fsync


# -- the house -----------------------------------------------------------------------------------------------------------------


def test_default_sinks() -> None:
    sinks = default_sinks()
    assert [type(sink).__name__ for sink in sinks] == ["AuditFile", "Spans", "LogSink"]
    assert [sink.required for sink in sinks] == [True, False, False]
    assert not directory().exists()


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, guard.record; print([m for m in ('httpx', 'structlog', 'sqlite3', 'redis', 'typer', 'rich', 'asyncio', 'opentelemetry', 'cryptography') if m in sys.modules])"
    light = "import sys, types; p = types.ModuleType('guard'); p.__path__ = ['guard']; sys.modules['guard'] = p; " + code
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def taken(sink: AuditFile, sync: str = "os") -> bool:
    try:
        sink.decision(decision(sync=sync))
    except Unavailable:
        return False
    return True
