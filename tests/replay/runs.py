"""Generated runs through the real guard, recorded to real audit files: what they come to in a replay must be what was decided."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from guard import Guard, LocalIssuer, ToolCall
from guard.errors import Denied
from guard.model import Decision, Outcome
from guard.record import AuditFile
from guard.replay import Judged, Replay
from guard.sources import read
from guard.state import MemoryState
from guard.testing import FrozenClock
from tests.workflow.chains import TASKS, TOOLS, Proofs, World, make_world

HOUR = 3600


class Run:
    """Guards over one store and one log. A restart leaves what was in flight; a task opened again is the same task."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.policy, self.folder = world, world.policy, folder
        self.clock = FrozenClock()
        self.iam = LocalIssuer("runs", clock=lambda: self.clock.now().timestamp())
        self.store = MemoryState()
        self.stack = ExitStack()
        self.flying: list[tuple[Guard, Any, Decision]] = []
        self.start()

    def start(self) -> None:
        self.guard = Guard(
            self.policy, trust=self.iam, state=self.store, sinks=[AuditFile(self.folder)], clock=self.clock, deadline=timedelta(seconds=60),
            proofs=Proofs(),
        )  # fmt: skip
        self.open: dict[tuple[str, str], Any] = {}

    def task(self, name: str, actor: str) -> Any:
        task = self.open.get((name, actor))
        if task is None:
            chain = ["worker"] if actor == "worker" else ["worker", actor]
            task = self.guard.task(self.iam.mint(origin=TASKS[name], actor=chain, intent="work", ttl="1h", txn=name))
            self.stack.enter_context(task)
            self.open[name, actor] = task
        return task

    def begin(self, name: str, actor: str, tool: str, args: dict[str, object]) -> None:
        try:
            task = self.task(name, actor)
        except Denied:
            return
        self.guard._current.set(None)
        with task:
            decision = self.guard.before(ToolCall(tool, args))
        if not decision.blocks:
            self.flying.append((self.guard, task, decision))

    def end(self, at: int, status: str) -> None:
        guard, task, decision = self.flying.pop(at)
        outcome = Outcome(status, None, RuntimeError("no") if status == "error" else None)  # type: ignore[arg-type]
        try:
            with task:
                guard.after(decision, outcome)
        except Denied:  # the task was ended by another process
            return

    def end_task(self, name: str) -> None:
        try:
            self.task(name, "worker").end()
        except Denied:
            return
        self.open = {key: one for key, one in self.open.items() if key[0] != name}

    def step(self, r: Random) -> None:
        dice = r.random()
        if dice < 0.62 or (dice < 0.9 and not self.flying):
            tool = r.choice(TOOLS)
            args: dict[str, object] = {"x": r.choice("aabc")}
            if tool in ("pay", "check"):
                args["n"] = r.choice((1, 3, 6))
            elif r.random() < 0.05:
                args["y"] = "not an argument"
            self.begin(r.choice(("t1", "t1", "t2", "t3")), r.choice(("worker", "worker", "helper", "ghost")), tool, args)
            if self.flying and self.flying[-1][2].tool == tool and r.random() < 0.6:
                self.end(len(self.flying) - 1, "ok")
        elif dice < 0.9:
            self.end(r.randrange(len(self.flying)), r.choice(("ok", "ok", "error", "unknown")))
        elif dice < 0.95:
            self.clock.advance(r.choice((1, 1, 5, 2 * HOUR)))
            self.open.clear()
        elif dice < 0.97:
            self.start()
        elif dice < 0.985:
            self.policy = r.choice((self.world.policy, self.world.other))
            self.guard.reload(self.policy)
        else:
            self.end_task(r.choice(tuple(TASKS)))


def recorded(seed: int, folder: Path, steps: int = 24) -> World:
    """Generated policies, and a run under them recorded in `folder`."""
    r = Random(seed)
    world = make_world(r)
    run = Run(world, folder)
    try:
        for _ in range(steps):
            run.step(r)
    finally:
        run.stack.pop_all()
    return world


def replayed(world: World, folder: Path) -> tuple[list[Judged], Replay]:
    run = Replay([world.policy], was=[[world.other]])
    found = [judged for seen in read([folder]) for judged in run.feed(seen)]
    return [*found, *run.close()], run
