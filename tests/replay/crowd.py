"""Several guards that race on the state of one tenant: on one SQLite file, each with tasks and an audit file of its own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied
from guard.model import Approval, Decision, Outcome
from guard.ports import Clock
from guard.record import AuditFile
from guard.state import SqliteState
from guard.testing import FrozenClock
from tests.workflow.chains import Proofs

POLICY = """
guardtrail: 1
name: crowd
owner: tests@acme.example
tools:
  look: {effect: read, control: {x: id}, returns: {format: json, labels: [private]}}
  page: {effect: fetch, control: {x: id}, returns: {format: json, labels: []}}
  pay: {effect: pay, control: {x: id}, data: {n: int}, returns: none}
  check: {effect: approve, control: {x: id}, data: {n: int}, returns: none}
  note: {effect: write, control: {x: id}, errors_have_no_effect: true, once: {key: [x], within: 24h}, returns: none}
intents:
  work:
    description: Everything.
    allow: {look: {}, page: {}, pay: {args: {n: {range: {min: 0}}}}, check: {args: {n: {range: {min: 0}}}}, note: {}}
rules:
  - {id: cap, when: {tool: pay}, limit: {sum: args.n, max: "5", per: [args.x]}}
  - {id: pages, when: {tool: page}, limit: {calls: 4, per: [origin]}}
  - {id: daily, when: {tool: pay}, limit: {calls: 4, within: 24h, per: [origin]}, then: ask}
  - id: four-eyes
    when: {tool: pay, args: {n: {range: {above: 1}}}}
    require_before: {tool: check, outcome: ok, match: {x: args.x, n: args.n}, distinct: person, within: 1h, consume: true}
    then: ask
  - {id: not-after, when: {tool: page}, forbid_after: [{tool: note, match: {x: args.x}}]}
  - {id: maker, exclusive: [{tool: note}, {tool: look}], by: person, per: [args.x]}
  - {id: seen, when: {tool: check}, forbid_after: [{tool: pay, match: {x: args.x}}], then: alert}
"""
TASKS = (("t1", "alice", "worker"), ("t2", "alice", "helper"), ("t3", "bob", "ghost"))
TOOLS = ("look", "page", "pay", "pay", "check", "check", "note", "note")


class Drawer:
    """Of every fourth call both persons have approved what it may ask, each time anew."""

    inline = True

    def __init__(self) -> None:
        self._ids = count()

    def find(self, task: str, tool: str, args_hmac: str, *, now: int) -> Sequence[Approval]:
        if int(args_hmac[-1], 16) % 4:
            return ()
        asks = ("four-eyes", "daily")
        return [Approval(f"{id(self)}-{next(self._ids)}", task, tool, args_hmac, asks, by, frozenset(), now, "") for by in ("alice", "bob")]


class Worker:
    """One guard and its tasks; what it does depends on nothing but `seed` and what the others have done."""

    def __init__(self, at: int, seed: int, policy: Policy, folder: Path, log: Path, iam: LocalIssuer, clock: Clock | None) -> None:
        self.r = Random(f"{seed} {at}")
        self.guard = Guard(
            policy, trust=iam, state=SqliteState(folder / "state.db", timeout=60), sinks=[AuditFile(log, patience=timedelta(seconds=60))], clock=clock,
            deadline=timedelta(seconds=60), proofs=Proofs(), approvals=Drawer(),
        )  # fmt: skip
        self.iam, self.at = iam, at
        self.tasks: list[Any] = []
        self.flying: list[tuple[Any, Decision]] = []

    def open(self, names: Sequence[tuple[str, str, str]]) -> None:
        """(name, origin, actor) of its tasks."""
        for name, origin, actor in names:
            self.guard._current.set(None)
            task = self.guard.task(self.iam.mint(origin=origin, actor=["planner", actor], intent="work", ttl="10h", txn=name))
            self.tasks.append(task.__enter__())

    def step(self) -> None:
        r = self.r
        if self.flying and r.random() < 0.45:
            task, decision = self.flying.pop(r.randrange(len(self.flying)))
            status = r.choice(("ok", "ok", "ok", "error", "unknown"))
            with task:
                self.guard.after(decision, Outcome(status, None, RuntimeError("no") if status == "error" else None))  # type: ignore[arg-type]
            return
        task, tool = r.choice(self.tasks), r.choice(TOOLS)
        args: dict[str, object] = {"x": r.choice("aabcdefg")} | ({"n": r.choice((1, 3))} if tool in ("pay", "check") else {})
        self.guard._current.set(None)
        with task:
            decision = self.guard.before(ToolCall(tool, args))
        if not decision.blocks:
            self.flying.append((task, decision))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            try:
                self.step()
            except Denied:  # the task was suspended
                continue


@contextmanager
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def race(policy: Policy, seed: int, folder: Path, *, workers: int = 3, steps: int = 30, shared: bool = False) -> list[Path]:
    """A run of several threads; where the logs are. `shared`: they work on the same tasks, else each on its own."""
    folder.mkdir()
    for at in range(workers):  # a log of its own for each, where one process would share one; persons have the same names in all
        (folder / f"log{at}").mkdir()
        (folder / f"log{at}" / "keys").symlink_to(folder / "keys")
    (folder / "keys").mkdir(mode=0o700)
    SqliteState(folder / "state.db").close()
    clock = FrozenClock(datetime.now(UTC) + timedelta(seconds=5))  # after the store began: else it does not know what was before
    iam = LocalIssuer("crowd", clock=lambda: clock.now().timestamp())
    crowd = [Worker(at, seed, policy, folder, folder / f"log{at}", iam, clock) for at in range(workers)]
    for worker in crowd:
        of = "" if shared else f"{worker.at}-"
        worker.open([(f"{of}{name}", origin, actor) for name, origin, actor in TASKS])
    start = threading.Barrier(workers)

    def run(worker: Worker) -> None:
        start.wait()
        worker.run(steps)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in crowd]
    with switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [folder / f"log{at}" for at in range(workers)]


def alone(folder: Path, at: int, workers: int, steps: int) -> None:
    """One process of several: waits until all are there, and then works. It keeps its log until all are done: who comes to write its first record when
    another has left goes on in that one's file, and then there is one file less."""
    worker = Worker(at, 1, Policy.from_text(POLICY), folder, folder / "log", LocalIssuer("crowd"), None)
    worker.open([(f"{at}-{name}", origin, actor) for name, origin, actor in TASKS])
    _all(folder, "ready", at, workers)
    worker.run(steps)
    _all(folder, "done", at, workers)


def _all(folder: Path, what: str, at: int, workers: int) -> None:
    (folder / f"{what}{at}").touch()
    end = time.monotonic() + 100
    while len(list(folder.glob(f"{what}*"))) < workers:
        assert time.monotonic() < end, f"not all are {what}"
        time.sleep(0.001)


if __name__ == "__main__":
    alone(Path(sys.argv[1]), *map(int, sys.argv[2:]))
