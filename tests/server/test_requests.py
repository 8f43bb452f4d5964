"""Tasks that stay open from one request of their token to the next: which one a request finds, how many there are, when one is closed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from guard import Denied, ToolCall
from guard.server import requests
from guard.server.requests import Keeper, RequestTask, request_task
from tests.runtime.conftest import World, make_world

LOOK = ToolCall("look", {"order": "A-17"})
MOST = 2


async def _look(**_: object) -> str:
    return "order A-17"


def test_the_next_request_finds_the_same_task_and_is_judged_anew() -> None:
    world = make_world()
    token = world.mint()

    async def play() -> None:
        async with request_task(world.guard, token) as first:
            await world.guard.acall(LOOK, _look)
        async with request_task(world.guard, token) as second:
            assert second is first
            world.clock.advance(3600)
            with pytest.raises(Denied, match="token.expired"):
                await world.guard.acall(LOOK, _look)
        with pytest.raises(Denied, match="token.expired"):
            async with request_task(world.guard, token):
                pass

    asyncio.run(play())


def test_what_a_request_left_behind_is_over_when_its_task_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: a call of a request that has ended, by something it left running, long after."""
    world = make_world()
    now = [1000.0]
    monkeypatch.setattr(requests, "monotonic", lambda: now[0])
    token = world.mint()
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        await world.guard.acall(LOOK, _look)

    async def play() -> None:
        async with request_task(world.guard, token) as first:
            left = asyncio.create_task(later())
            await asyncio.sleep(0)
        now[0] += 16
        async with request_task(world.guard, token) as second:
            assert second is not first
            go.set()
            with pytest.raises(Denied, match="task"):
                await left

    asyncio.run(play())


def test_it_is_over_too_where_nobody_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setattr(requests, "_FRESH", 0.1)

    async def play() -> None:
        go = asyncio.Event()
        async with request_task(world.guard, world.mint()) as task:
            left = asyncio.create_task(_later(world, go))
            await asyncio.sleep(0.2)
            assert not task.state.closed, "somebody is inside"
        async with asyncio.timeout(30):
            while not task.state.closed:
                await asyncio.sleep(0.01)
        go.set()
        with pytest.raises(Denied, match="task"):
            await left
        assert not world.guard._keeper._tasks  # type: ignore[union-attr]

    asyncio.run(play())


async def _later(world: World, go: asyncio.Event) -> None:
    await go.wait()
    await world.guard.acall(LOOK, _look)


class Keeping(RuleBasedStateMachine):
    """Requests of four tokens come and go while time passes; two tasks are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.world = make_world()
        self.tokens = [self.world.mint() for _ in range(4)]
        self.keeper = Keeper(MOST)
        self.inside: list[RequestTask] = []
        self.seen: list[RequestTask] = []
        self.now = 1000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(requests, "monotonic", lambda: self.now)

    def teardown(self) -> None:
        self.patch.undo()

    @rule(which=st.integers(0, 3))
    def a_request_comes(self, which: int) -> None:
        token = self.tokens[which]
        task = self.keeper.task(token) or RequestTask(self.world.guard, token, keeper=self.keeper)
        asyncio.run(task.__aenter__())
        assert task.token == token
        self.inside.append(task)
        self.seen.append(task)

    @rule(which=st.integers(0, 9))
    def a_request_is_over(self, which: int) -> None:
        if self.inside:
            asyncio.run(self.inside.pop(which % len(self.inside)).leave())

    @rule(which=st.integers(0, 3))
    def a_token_is_forgotten(self, which: int) -> None:
        self.keeper.forget(self.tokens[which])
        assert self.keeper.task(self.tokens[which]) is None

    @rule(seconds=st.sampled_from([1, 14, 16]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def few_are_kept(self) -> None:
        assert len(self.keeper._tasks) <= MOST

    @invariant()
    def open_where_somebody_is_inside_or_it_is_kept_and_nowhere_else(self) -> None:
        kept = list(self.keeper._tasks.values())
        for task in self.seen:
            assert task.state.closed == (task not in self.inside and task not in kept)


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(stateful_step_count=25, deadline=None)
