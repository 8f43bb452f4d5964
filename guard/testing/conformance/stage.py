"""Where a behaviour is played: one driver, one mode, one world. And the few ways of looking at what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guard.testing.conformance.driver import Driver, Mode
from guard.testing.conformance.script import Answer, Trace
from guard.testing.conformance.world import SECRET, World

__all__ = ["BEHAVIOURS", "MODES", "Behaviour", "Stage", "behaviour", "holds", "nothing_leaks", "one_each", "refused", "same", "stopped"]

MODES: tuple[Mode, ...] = ("sync", "async", "stream")


@dataclass(slots=True)
class Stage:
    """`app`: the agent, once it is built."""

    driver: Driver
    mode: Mode
    world: World
    app: Any = None

    def play(self, *script: Any) -> Trace:
        """Build an agent whose model says these turns, then "done", and run it to where it ends or waits. What it raises stands in `Trace.error`."""
        self.app = self.driver.build(self.world, (*script, "done"))
        if self.mode == "stream":
            return _tried(lambda: asyncio.run(self.driver.astream(self.app)))
        return _tried(lambda: self.driver.run(self.app) if self.mode == "sync" else asyncio.run(self.driver.arun(self.app)))

    def resume(self, yes: bool) -> Trace:
        """Everything that waits is answered so by the framework's own means."""
        return _tried(lambda: self.driver.resume(self.app, yes) if self.mode == "sync" else asyncio.run(self.driver.aresume(self.app, yes)))


def _tried(play: Callable[[], Trace]) -> Trace:
    try:
        return play()
    except NotImplementedError:
        raise  # of the driver
    except Exception as error:
        return Trace(error=error)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`why`: what a user may rely on. `modes`: in which it is played. `play`: raises AssertionError where it does not hold. `deadline`: of the guard, seconds."""

    name: str
    why: str
    play: Callable[[Stage], None]
    modes: tuple[Mode, ...]
    deadline: float


BEHAVIOURS: dict[str, Behaviour] = {}
"""In the order of the support matrix. Filled by `calls`, `chain` and `pauses`."""

Play = Callable[[Stage], None]


def behaviour(why: str, *, modes: tuple[Mode, ...] = MODES, deadline: float = 60.0) -> Callable[[Play], Play]:
    """The function below is a behaviour, under its own name."""

    def add(play: Play) -> Play:
        BEHAVIOURS[play.__name__] = Behaviour(play.__name__, why, play, modes, deadline)
        return play

    return add


def same(found: object, expected: object, what: str = "") -> None:
    if found != expected:
        raise AssertionError(f"{what or 'what came of it'}: expected {expected!r}, found {found!r}")


def holds(what: str, yes: bool, *more: object) -> None:
    if not yes:
        raise AssertionError(": ".join([what, *map(repr, more)]))


def refused(trace: Trace, id: str, *words: str) -> Answer:
    """The model read a refusal of this call, marked as an error where the framework has a mark, and the run went on."""
    holds("the run came to its end", trace.error is None, trace.error)
    holds(f"the model was answered call {id}", id in trace.answers, trace.answers)
    answer = trace.answers[id]
    holds("a refusal is marked as an error", answer.failed is not False, answer)
    for word in words:
        holds(f"the model reads {word!r}", word in answer.text, answer.text)
    return answer


def one_each(world: World) -> None:
    """Every body that ran has exactly one allowing decision record and one outcome; every call has one span, a refused one besides `authorize`."""
    allowed = [record for record in world.decisions if record.verdict == "allow"]
    same(
        sorted(ran.tool for ran in world.ran), sorted(record.tool for record in allowed), "bodies that ran and decisions that allowed them"
    )
    same(
        sorted(outcome.decision for outcome in world.outcomes), sorted(record.id for record in allowed), "an outcome for every allowed call"
    )
    names = [f"execute_tool {r.tool}" for r in world.decisions] + [f"authorize {r.tool}" for r in world.decisions if r.verdict != "allow"]
    same(sorted(span.name for span in world.spans()), sorted(names), "one span for every call, and one more for every refusal")


def stopped(trace: Trace, id: str) -> None:
    """Either the model reads that it did not run, or the run itself ended with an exception."""
    if trace.error is None:
        holds(f"the model hears that {id} did not run", id in trace.answers and trace.answers[id].failed is not False, trace)


def nothing_leaks(world: World) -> None:
    left = [repr(record) for record in world.sink.records] + [span.to_json() for span in world.traced.finished()]
    for text in left:
        holds("no value in records and spans", SECRET not in text and world.token not in text, text[:400])
