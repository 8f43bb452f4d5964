"""The world of one case: a small desk with a policy, tools that leave a trace, persons who answer, and a guard whose parts can be broken.

| tool  | what it is here                                                     |
|-------|---------------------------------------------------------------------|
| look  | allowed; `pages` has a default                                       |
| refund| allowed up to the task's ceiling, three times                        |
| save  | allowed below one folder; the body gets the path as it was resolved  |
| pay   | above 1000 a person of treasury is asked                             |
| wipe  | exists, and no intent of the task uses it                            |
| fail  | allowed; its body raises, with a secret in the text                  |
| slow  | allowed; its body waits until it is cancelled, or `slow_for` seconds |
| where | allowed; answers with the task its body finds in its context         |
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from guard.approvals import Approvals
from guard.errors import Denied
from guard.events import DecisionRecord, OutcomeRecord
from guard.identity import LocalIssuer
from guard.ops import Applied, Op, Refused
from guard.policy import Policy
from guard.record import ListSink, ListSpans
from guard.runtime import Guard, Task
from guard.state import open_state

__all__ = ["POLICY", "SECRET", "Breakable", "Ran", "World", "taskless"]

SECRET = "hunter2-9f1c"
"""Stands in argument values and in what bodies raise. It is never in what the guard says."""

POLICY = """
guardtrail: 1
name: desk
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}, data: {pages: int}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  save: {effect: write, control: {file: path}, data: {text: text}}
  pay: {effect: pay, control: {to: name}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
  fail: {effect: read, control: {order: id}}
  slow: {effect: read, control: {order: id}}
  where: {effect: read, control: {order: id}}
intents:
  desk:
    description: Serve one customer.
    params: {ceiling: decimal, folder: path}
    ttl: 10m
    allow:
      look: {args: {order: {glob: "A-*"}}}
      refund: {args: {order: {glob: "A-*"}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 3}}
      save: {args: {file: {under: $folder}}}
      pay: {args: {to: {any: true}, amount: {range: {min: "0.01"}}}}
      fail: {args: {order: {any: true}}}
      slow: {args: {order: {any: true}}}
      where: {args: {order: {any: true}}}
flow:
  read: {allow: [any]}
  write: {allow: [any]}
  pay: {allow: [any]}
  delete: {allow: [any]}
rules:
  - {id: large, when: {tool: pay, args: {amount: {range: {above: "1000"}}}}, then: ask}
asks:
  default: {by: {group: treasury}, within: 1h}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a body: its tool, what it was called with, and the task that its context has (None: none)."""

    tool: str
    args: Mapping[str, object]
    task: str | None


class Breakable:
    """A store in memory that can be broken: `error` is raised, or it answers after `seconds`."""

    inline = False

    def __init__(self) -> None:
        self._store = open_state("memory:")
        self.error: BaseException | None = None
        self.seconds = 0.0

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        if self.error is not None:
            raise self.error
        if self.seconds:
            time.sleep(self.seconds)
        return self._store.apply(ops, now=now, commit=commit)


class World:
    """What one case plays in. `folder`: a directory of the case's own; `tenant`: worlds with different ones share no issuer, task or person. `policy`: for an
    adapter's own tests, one with more tools."""

    def __init__(
        self, folder: Path, *, tenant: str = "acme", deadline: float = 60.0, asynchronous: bool = False, policy: str = POLICY
    ) -> None:
        self.folder = folder
        self.tenant = tenant
        self.asynchronous = asynchronous
        self.sealed = False
        """Are the bodies given out as `@guard.tool` makes them?"""
        self.iam = LocalIssuer(tenant)
        self.desk = Approvals("memory:", trust=self.iam, folder=folder / "approvals")
        self.sink = ListSink()
        self.traced = ListSpans()
        self.state = Breakable()
        self.guard = Guard(
            Policy.from_text(policy, file="desk.yaml"),
            trust=self.iam,
            state=self.state,
            sinks=[self.sink, self.traced],
            deadline=timedelta(seconds=deadline),
            approvals=self.desk,
        )
        self.ran: list[Ran] = []
        self.began = threading.Event()
        """Set when the body of `slow` has begun."""
        self.ended = threading.Event()
        """Set when it has come to its end."""
        self.enough = threading.Event()
        """To be set by whoever has seen enough of `slow` as a plain function: it ends at once."""
        self.slow_for = 30.0
        self._lock = threading.Lock()
        params = {"ceiling": "50", "folder": str(folder / "notes")}
        self.token = self.iam.mint(origin="alice", actor="desk-agent", intent="desk", params=params)
        self.id = ""

    # -- the task ------------------------------------------------------------------------------------------------------------------

    def task(self) -> Task:
        """The task of the case, to be entered."""
        return self.guard.task(self.token)

    @contextmanager
    def open(self, carries: bool = False) -> Iterator[None]:
        """The task is open inside, and current unless the framework brings its token with each request."""
        with self.task() as task:
            self.id = task.id
            with taskless(self.guard) if carries else nullcontext():
                try:
                    yield
                finally:
                    self.state.error, self.state.seconds = None, 0.0  # or the task could not end

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """The guard has so many seconds for each decision inside. What comes before and after it, the opening of a task and its end, is not hurried."""
        house = self.guard._house
        before, house.seconds = house.seconds, seconds
        try:
            yield
        finally:
            house.seconds = before

    # -- the tools -----------------------------------------------------------------------------------------------------------------

    def tools(self, *names: str) -> list[Callable[..., Any]]:
        """The bodies as plain functions with annotations and docstrings (coroutine functions where `asynchronous`), all or those named."""
        chosen = [body for body in _bodies(self) if not names or body.__name__ in names]
        if self.asynchronous:
            chosen = [_awaited(body, self.slow_for, self.ended) if body.__name__ == "slow" else _awaited(body, 0, None) for body in chosen]
        return [self.guard.tool(body) for body in chosen] if self.sealed else chosen

    def note(self, tool: str, **args: object) -> None:
        """A body ran."""
        try:
            task: str | None = self.guard.current().id
        except Denied:
            task = None
        with self._lock:
            self.ran.append(Ran(tool, args, task))

    def runs(self, tool: str) -> list[Mapping[str, object]]:
        """What the bodies of `tool` were called with, in order."""
        return [ran.args for ran in self.ran if ran.tool == tool]

    # -- who answers ---------------------------------------------------------------------------------------------------------------

    def approve(self, *ids: str, by: str = "bob") -> int:
        """A person of treasury says yes to everything that waits (or to the requests named). How many that were."""
        return self._answer(self.desk.approve, ids, by)

    def reject(self, *ids: str, by: str = "bob") -> int:
        """The same, no."""
        return self._answer(self.desk.reject, ids, by)

    def _answer(self, say: Callable[..., object], ids: Sequence[str], by: str) -> int:
        wait = [pending.request.id for pending in self.desk.pending()] if not ids else list(ids)
        for each in wait:
            say(each, self.iam.login(by, groups=["treasury"]))
        return len(wait)

    # -- what is left --------------------------------------------------------------------------------------------------------------

    @property
    def decisions(self) -> list[DecisionRecord]:
        return [record for record in self.sink.records if isinstance(record, DecisionRecord)]

    @property
    def outcomes(self) -> list[OutcomeRecord]:
        return [record for record in self.sink.records if isinstance(record, OutcomeRecord)]

    def spans(self) -> list[Any]:
        """The spans of calls; not those of the framework, nor of tasks."""
        return [span for span in self.traced.finished() if span.name.startswith(("execute_tool ", "authorize "))]

    # -- how it breaks -------------------------------------------------------------------------------------------------------------

    def crash(self, *doors: str) -> None:
        """From here on the guard itself raises what no adapter can expect, at the named doors; at all through which calls come, if none is named."""

        def boom(*_: object, **__: object) -> Any:
            raise RuntimeError(f"the guard crashed on {SECRET}")

        async def aboom(*_: object, **__: object) -> Any:
            raise RuntimeError(f"the guard crashed on {SECRET}")

        for door in doors or ("call", "before", "check", "run", "acall", "abefore", "acheck", "arun"):
            setattr(self.guard, door, aboom if door.startswith("a") else boom)


@contextmanager
def taskless(guard: Guard) -> Iterator[None]:
    """No task is current inside, as in a server that has not looked at a request yet."""
    before = guard._current.set(None)
    try:
        yield
    finally:
        guard._current.reset(before)


def _bodies(world: World) -> list[Callable[..., Any]]:
    def look(order: str, pages: int = 1) -> str:
        """Look up an order."""
        world.note("look", order=order, pages=pages)
        return f"order {order}, {pages} page(s)"

    def refund(order: str, amount: str) -> str:
        """Refund an amount on an order."""
        world.note("refund", order=order, amount=amount)
        return f"refunded {amount} on {order}"

    def save(file: str, text: str) -> str:
        """Save a note."""
        world.note("save", file=file, text=text)
        return "saved"

    def pay(to: str, amount: str) -> str:
        """Pay somebody."""
        world.note("pay", to=to, amount=amount)
        return f"paid {amount}"

    def wipe(order: str) -> str:
        """Wipe an order."""
        world.note("wipe", order=order)
        return "wiped"

    def fail(order: str) -> str:
        """Fail."""
        world.note("fail", order=order)
        raise ValueError(f"no order {order}")

    def slow(order: str) -> str:
        """Take long."""
        world.note("slow", order=order)
        world.began.set()
        if not world.asynchronous:
            world.enough.wait(world.slow_for)
            world.ended.set()
        return "done"

    def where(order: str) -> str:
        """Say in which task this runs."""
        world.note("where", order=order)
        return world.ran[-1].task or "none"

    return [look, refund, save, pay, wipe, fail, slow, where]


def _awaited(body: Callable[..., Any], pause: float, ended: threading.Event | None) -> Callable[..., Any]:
    """The same body as a coroutine function. `pause`: how long it waits, after the body has said what it says; `ended` is set then."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        said = body(*args, **kwargs)
        await asyncio.sleep(pause)
        if ended is not None:
            ended.set()
        return said

    functools.update_wrapper(run, body)
    del run.__wrapped__  # type: ignore[attr-defined]  # what frameworks follow would be a plain function
    run.__signature__ = inspect.signature(body, eval_str=True)  # type: ignore[attr-defined]
    return run
