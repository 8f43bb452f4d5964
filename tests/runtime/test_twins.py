"""What a person says and vouches for, awaited: the same flow under the other driver, so the same answers, the same records, and a loop that goes on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import pytest

from guard import Task
from guard.errors import ApprovalRequired, ConfigError, Denied
from guard.state import MemoryState
from tests.runtime.test_approvals import VOUCH, World, _page, _send, vouching

TWINS = ["delegate", "user_says", "endorse", "declassify"]
ENDORSE = ("endorse", "send", "to[]", "x@a.example")
DECLASSIFY = ("declassify", "untrusted")


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_takes_and_gives_the_same(name: str) -> None:
    one, other = (inspect.signature(getattr(Task, each), eval_str=False) for each in (name, f"a{name}"))
    assert one == other
    assert inspect.iscoroutinefunction(getattr(Task, f"a{name}"))


def said(act: Callable[[], object]) -> object:
    """The answer in one word, and the request an approver sees."""
    try:
        answer = act()
    except ApprovalRequired as required:
        return "ask", required.decision
    except Denied as refused:
        return "deny", str(refused.decision.code)
    except ConfigError as error:
        return "config", str(error)
    return "done", getattr(answer, "verdict", answer)


def steps(world: World, act: Callable[..., object]) -> list[object]:
    """One story. `act(task, verb, *args, **kw)`: the verb, by whichever driver."""
    told: list[object] = []

    def then(*what: Any, by: str = "", groups: tuple[str, ...] = (), **more: Any) -> None:
        one = said(lambda: act(task, *what, **more))
        if by and isinstance(one, tuple) and one[0] == "ask":
            world.approvals.approve(one[1], by=by, groups=groups)
            one = said(lambda: act(task, *what, **more))
        told.append(one if isinstance(one, tuple) and one[0] != "ask" else ("ask", str(one[1].code)))  # type: ignore[index]

    with world.task() as task:
        then(*ENDORSE)
        then(*ENDORSE, by="alice")
        then("endorse", "sned", "to[]", "x")
        told.append(str(_send(world, "x@a.example").code))
        _page(world)
        then(*DECLASSIFY, by="alice")
        then(*DECLASSIFY, by="sam", groups=("security",))
        then("declassify", "untrsted")
        told.append(str(_send(world, "x@a.example").code))
        then("user_says", "mail y@a.example and not z@a.example", quoted="z@a.example")
        told += [str(_send(world, to).code) for to in ("y@a.example", "z@a.example")]
        then("user_says", 17)
    for closed in (ENDORSE, DECLASSIFY, ("user_says", "more")):
        then(*closed)
    return told


def plain(task: Task, verb: str, *args: object, **more: object) -> object:
    return getattr(task, verb)(*args, **more)


def awaited(task: Task, verb: str, *args: object, **more: object) -> object:
    return asyncio.run(getattr(task, f"a{verb}")(*args, **more))


class Elsewhere(MemoryState):
    """A store that may block."""

    inline = False


def shown(world: World) -> list[tuple[object, ...]]:
    return [
        (record.kind, *(getattr(record, name, "") for name in ("tool", "verdict", "code", "status", "what")))
        for record in world.sink.records
    ]


@pytest.mark.parametrize("store", [MemoryState, Elsewhere])
def test_the_same_answers_and_the_same_records(store: type[MemoryState]) -> None:
    one, other = vouching(store()), vouching(store())
    told = steps(one, plain)
    assert told == steps(other, awaited)
    assert shown(one) == shown(other)
    assert told[1] == ("done", "allow") and ("deny", "task.ended") in told and told[3] == "permit", told


class Slow(Elsewhere):
    """Answers once the loop has gone on; `stuck`: it did not, while it was asked."""

    slow = stuck = False
    ticks = 0

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        asked, end = self.ticks, monotonic() + 4
        while self.slow and not self.stuck and self.ticks < asked + 4:
            self.stuck = monotonic() > end
            sleep(0.001)
        return super().apply(*args, **kwargs)


@pytest.mark.parametrize("what", [ENDORSE, DECLASSIFY, ("user_says", "more")])
def test_the_loop_goes_on_while_the_store_is_asked(what: tuple[str, ...]) -> None:
    world = vouching(store := Slow())
    assert "untrusted" in VOUCH

    async def story() -> None:
        with world.task() as task:
            store.slow = True
            asked = asyncio.ensure_future(getattr(task, f"a{what[0]}")(*what[1:]))
            while not asked.done():
                store.ticks += 1
                await asyncio.sleep(0.002)
            store.slow = False
            assert asked.exception() is None or isinstance(asked.exception(), ApprovalRequired)

    asyncio.run(story())
    assert store.ticks > 3 and not store.stuck
