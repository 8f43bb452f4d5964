"""Fail closed: {keys, clock, state, policy, audit, revocation} x {raises, BaseException, times out, garbage, truthy, cancelled}.

In every cell the body does not run and one decision record exists, or the cell is listed in IMPOSSIBLE with its reason.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import anyio
import pytest

from guard import Denied, ToolCall
from guard.ops import Add
from guard.record import ListSink
from tests.runtime.conftest import World, make_world, only_ports_take_time

PARTS = ("keys", "clock", "state", "policy", "audit", "revocation")
FAULTS = ("raises", "base_exception", "times_out", "garbage", "truthy", "cancelled")

IMPOSSIBLE = {
    ("policy", "times_out"): "a loaded policy is frozen data in the process: nothing of it waits",
    ("policy", "cancelled"): "the same: there is no point at which it could be cancelled",
    ("audit", "garbage"): "a sink answers nothing: whatever it returns has no meaning, only an exception or silence does",
    ("audit", "truthy"): "the same",
}

CODES = {
    "keys": {"keys.unavailable", "call.cancelled"},
    "clock": {"clock.unavailable", "call.cancelled"},
    "state": {"state.unavailable", "call.cancelled"},
    "policy": {"guard.error"},
    "audit": {"record.unavailable", "call.cancelled"},
    "revocation": {"revocation.unavailable", "token.revoked", "call.cancelled"},
}


class Panic(BaseException):
    """What a native library throws: not an Exception."""


class Broken:
    """A part that fails in one way, whatever is asked of it. Not inline, so it may hang without hanging the caller."""

    inline = False
    required = True
    generation = 0

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.asked = threading.Event()
        self.release = threading.Event()
        self.back = threading.Event()

    def _fail(self, *_: object, **__: object) -> Any:
        self.asked.set()
        if self.fault == "raises":
            raise ValueError("secret-canary-value")
        if self.fault == "base_exception":
            raise Panic("secret-canary-value")
        if self.fault in ("times_out", "cancelled"):
            self.release.wait(30)
            self.back.set()
            return None
        return object() if self.fault == "garbage" else "yes"

    def __getattr__(self, name: str) -> Any:
        return self._fail


def _break(world: World, part: str, fault: str) -> tuple[Broken, ListSink]:
    broken = Broken(fault)
    house, spare = world.guard._house, ListSink()
    spare.required = False
    if part == "keys":
        house.verifier = broken
    elif part == "clock":
        house.clock = broken
    elif part == "state":
        house.store = broken
    elif part == "policy":
        house.layers = (broken,)  # type: ignore[assignment]
    elif part == "revocation":
        house.revocations = broken
    elif part == "audit":
        house.sinks = (broken, spare)
        return broken, spare
    return broken, world.sink


CELLS = [(p, f) for p in PARTS for f in FAULTS if (p, f) not in IMPOSSIBLE]


def _deadline(fault: str) -> timedelta:
    """Short only where it is to pass: elsewhere a machine that stands still would be the fault."""
    return timedelta(milliseconds=60) if fault == "times_out" else timedelta(seconds=30)


@pytest.mark.parametrize(("part", "fault"), [c for c in CELLS if c[1] != "cancelled"])
def test_cell(part: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_ports_take_time(monkeypatch)
    world = make_world(deadline=_deadline(fault))
    with world.guard.task(world.mint()):
        broken, sink = _break(world, part, fault)
        with pytest.raises(Denied) as caught:
            world.call("refund", order="A-17", amount="20")
        assert not broken.back.is_set(), "denied at the deadline, not when the part came back"
        broken.release.set()
        assert world.ran == []
        assert caught.value.code in CODES[part]
        assert "secret-canary" not in str(caught.value) + caught.value.for_model() + caught.value.decision.model_dump_json()
        assert [r.verdict for r in sink.decisions] == ["deny"]
        assert sink.decisions[0].code == caught.value.code
        _mend(world)


def _mend(world: World) -> None:
    """A whole house again, so that leaving the task works."""
    whole = make_world()
    for name in ("layers", "verifier", "store", "clock", "revocations", "sinks"):
        setattr(world.guard._house, name, getattr(whole.guard._house, name))


@pytest.mark.timeout(60, method="thread")
@pytest.mark.parametrize("again", [False, True], ids=["once", "in every round"])
@pytest.mark.parametrize(("part", "fault"), [c for c in CELLS if c[1] == "cancelled"])
def test_cancelled_cell(part: str, fault: str, again: bool) -> None:
    """`in every round`: a scope of anyio cancels until who is in it has left."""
    world = make_world(deadline=timedelta(seconds=20))

    async def run() -> None:
        async with world.guard.task(world.mint()):
            broken, sink = _break(world, part, fault)

            async def body(**_: object) -> None:
                world.ran.append("ran")

            scope = anyio.CancelScope()

            async def scoped() -> None:
                with scope:
                    await world.guard.acall(ToolCall("refund", {"order": "A-17", "amount": "20"}), body)

            call = asyncio.create_task(scoped())
            assert await asyncio.to_thread(broken.asked.wait, 20)
            (scope if again else call).cancel()
            await asyncio.sleep(0.01)
            broken.release.set()
            if again:
                await call  # the scope keeps its own cancellation
            else:
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert world.ran == []
            assert [r.verdict for r in sink.decisions] == ["deny"]
            assert sink.decisions[0].code in CODES[part]
            _mend(world)

    asyncio.run(run())


@pytest.mark.parametrize("part", [p for p in PARTS if p not in ("policy", "audit")])
@pytest.mark.parametrize("fault", ["raises", "base_exception", "times_out", "garbage", "truthy"])
def test_opening(part: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same when the task is opened: no task, one record."""
    only_ports_take_time(monkeypatch)
    world = make_world(deadline=_deadline(fault))
    broken, sink = _break(world, part, fault)
    with pytest.raises(Denied) as caught, world.guard.task(world.mint()):
        world.ran.append("opened")
    assert not broken.back.is_set()
    broken.release.set()
    assert world.ran == []
    assert caught.value.code in CODES[part]
    assert [r.verdict for r in sink.decisions] == ["deny"]


def test_matrix_is_whole() -> None:
    assert len(CELLS) + len(IMPOSSIBLE) == len(PARTS) * len(FAULTS)
    assert all(IMPOSSIBLE.values())


def test_interrupt_in_a_port_is_recorded_and_raised() -> None:
    """Ctrl-C while a port is asked: the body does not run, the refusal is recorded, the interrupt goes on."""
    world = make_world()
    with world.guard.task(world.mint()):

        class Interrupting:
            inline = True

            def find(self, *_: object, **__: object) -> None:
                raise KeyboardInterrupt

        world.guard._house.revocations = Interrupting()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            world.call("refund", order="A-17", amount="20")
        assert world.ran == []
        assert world.codes == ["deny call.cancelled"]
        _mend(world)


def test_a_late_reservation_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers after the deadline: the call is denied, and what the store did all the same is undone."""
    only_ports_take_time(monkeypatch)
    world = make_world(deadline=timedelta(milliseconds=50))
    store: Any = world.guard._house.store
    reserved, go, undone = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        inline = False
        born = None
        slow = True

        def apply(self, ops: Any, *, now: Any, commit: bool = True) -> Any:
            answer = store.apply(ops, now=now, commit=commit)
            if self.slow and len(ops) > 2:
                Slow.slow = False
                reserved.set()
                go.wait(30)
            if any(type(op) is Add and op.amount < 0 for op in ops):
                undone.set()
            return answer

    with world.guard.task(world.mint()):
        world.guard._house.store = Slow()
        while not reserved.is_set():  # where the machine stood still, what is asked before it was late already
            with pytest.raises(Denied, match="state.unavailable"):
                world.call("refund", order="A-17", amount="20")
        assert not undone.is_set()
        go.set()
        assert undone.wait(30)
        world.guard._house.store = store
        assert world.call("refund", order="A-17", amount="20") == "done", "the one refund of the task was not used up"


def test_required_sinks_only() -> None:
    """A sink that is not required may fail; the call goes on."""
    world = make_world()
    with world.guard.task(world.mint()):
        broken = Broken("raises")
        broken.required = False
        world.guard._house.sinks = (*world.guard._house.sinks, broken)  # type: ignore[assignment]
        assert world.call("refund", order="A-17", amount="20") == "done"
