"""Two drivers for one flow. The flow (a generator) yields what it needs from outside and is sent the answer; whether the caller
is synchronous or not is known here and nowhere else.

Every answer arrives as a value. What a port raises, returns too late, or is interrupted by comes back as a `Failure`, so that the
flow has one place to turn it into a denial; an interrupt (Ctrl-C, cancellation) is raised again once the flow has recorded it.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar, copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from guard.model import Outcome

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "BEGUN",
    "INTERRUPTS",
    "Failure",
    "Flow",
    "Lease",
    "Need",
    "Run",
    "adrive",
    "current_lease",
    "drive",
    "enter_lease",
    "leased",
    "leave_lease",
]

T = TypeVar("T")
_outcome: Any = Outcome.__new__


class Need(NamedTuple):
    """One question to one port. `port.inline` True: answered in the caller's thread; else on a helper thread under the deadline. `port`
    `BEGUN`: `ask` begins something, at once, and answers with its `Future`; waiting for it takes no helper thread away from others.

    `seconds`: how long it is waited for, instead of what is left of the deadline, which begins anew after it. Whoever is cancelled meanwhile waits no
    longer (`Failure.pending`): what it brings is taken back when it comes."""

    port: object
    ask: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object] = {}
    seconds: float = 0.0


BEGUN: Final = object()


class Run(NamedTuple):
    """Execute the body once, under a lease. Answered with an `Outcome`; never a `Failure`. `lease` None: nothing that is sealed may run in it."""

    execute: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    lease: Lease | None


class Failure(NamedTuple):
    """No answer. `late`: the deadline passed. `answer`: what came all the same, too late. `pending`: it may still come."""

    error: BaseException | None
    late: bool = False
    interrupted: bool = False
    answer: object = None
    pending: Future[object] | None = None


Flow = Generator[Need | Run, object, T]


class Lease:
    """The right to run one body once. A sealed body runs only inside the lease that the guard opened for this very call."""

    __slots__ = ("_left", "tool")

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self._left = [True]

    def take(self, tool: str) -> bool:
        """True once, for the tool it was opened for."""
        if self.tool != tool:
            return False
        try:
            return self._left.pop()  # atomic: of two threads one gets it
        except IndexError:
            return False

    def close(self) -> None:
        """The body has ended: what it left behind, in a thread or a task that has its context, may run nothing."""
        self._left.clear()


_lease: ContextVar[Lease | None] = ContextVar("guardtrail_lease", default=None)


current_lease = _lease.get
enter_lease, leave_lease = _lease.set, _lease.reset
"""For bodies that run step by step."""


def leased(tool: str) -> bool:
    """May the body of `tool` run here and now? Asking uses the lease up."""
    lease = _lease.get()
    return lease is not None and lease.take(tool)


# Ports that may block run here. Bounded: a store that hangs for ever takes its threads with it and every later call is denied at
# the deadline, which is what "slow denies" means. Threads are made on first use.
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _helpers() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="guardtrail-port")
        return _pool


def _forked() -> None:
    """Threads do not come along into the child of a fork: what is given to such a pool is never done."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

INTERRUPTS = (KeyboardInterrupt, SystemExit, GeneratorExit)


def _inline(need: Need, deadline: float) -> object:
    try:
        answer = need.ask(*need.args, **need.kwargs) if need.kwargs else need.ask(*need.args)
    except INTERRUPTS as error:
        return Failure(error, interrupted=True)
    except BaseException as error:  # a panic of a native library is not an Exception and must not pass (fail-open row F12)
        return Failure(error)
    if monotonic() > deadline:
        return Failure(None, late=True, answer=answer)
    return answer


def drive(flow: Flow[T], seconds: float) -> T:
    """Run `flow` to its end without an event loop; every decision within `seconds`."""
    interrupt: BaseException | None = None
    answer: object = None
    try:
        step = next(flow)
        deadline = monotonic() + seconds
        while True:
            if type(step) is Need:
                if getattr(step.port, "inline", False) is True:
                    answer = _inline(step, deadline)
                elif step.seconds:
                    answer = _wait(step, monotonic() + step.seconds)
                    deadline = monotonic() + seconds
                else:
                    answer = _wait(step, deadline)
                if type(answer) is Failure and answer.interrupted:
                    interrupt = interrupt or answer.error
            else:
                answer = _run(step)  # type: ignore[arg-type]
                deadline = monotonic() + seconds
            step = flow.send(answer)
    except StopIteration as stop:
        if interrupt is not None:
            raise interrupt from None
        result: T = stop.value
        return result


def _wait(need: Need, deadline: float) -> object:
    future = _begin(need)
    try:
        answer = future.result(timeout=max(0.0, deadline - monotonic()))
    except TimeoutError as error:
        if future.done():  # the port itself raised a time-out; or it has answered since, and what it brings is to be taken back
            raised = future.cancelled() or future.exception() is not None
            return Failure(error) if raised else Failure(None, late=True, answer=future.result())
        future.cancel()
        return Failure(None, late=True, pending=future)
    except INTERRUPTS as error:
        return Failure(error, interrupted=True, pending=future)
    except BaseException as error:
        return Failure(error)
    return answer


def _begin(need: Need) -> Future[object]:
    if need.port is BEGUN:
        from concurrent.futures import Future

        failed: Future[object] = Future()
        try:
            begun = need.ask(*need.args, **need.kwargs)
            if isinstance(begun, Future):
                return begun
            failed.set_exception(TypeError("not a Future"))
        except BaseException as error:  # said where the answer would be
            failed.set_exception(error)
        return failed
    return _helpers().submit(copy_context().run, _call, need)


def _call(need: Need) -> object:
    return need.ask(*need.args, **need.kwargs)


def _run(run: Run) -> Outcome:
    lease = run.lease
    token = _lease.set(lease) if _lease.get() is not lease else None
    try:
        made: Outcome = _outcome(Outcome, "ok", run.execute(*run.args, **run.kwargs))
        return made
    except Exception as error:
        return Outcome("error", None, error)
    except BaseException as error:  # interrupted midway: it may have had its effect
        return Outcome("unknown", None, error)
    finally:
        if token is not None:
            _lease.reset(token)
        if lease is not None:
            lease.close()


async def adrive(flow: Flow[T], seconds: float) -> T:
    """The same for a coroutine: blocking ports are awaited on helper threads, the body is awaited."""
    import asyncio

    deadline = monotonic() + seconds
    interrupt: BaseException | None = None
    answer: object = None
    try:
        step = next(flow)
        while True:
            if type(step) is Need:
                if getattr(step.port, "inline", False) is True:
                    answer = _inline(step, deadline)
                else:
                    answer, cancelled = await _await(step, monotonic() + step.seconds if step.seconds else deadline, asyncio)
                    interrupt = interrupt or cancelled
                    if step.seconds:
                        deadline = monotonic() + seconds
                if type(answer) is Failure and answer.interrupted:
                    interrupt = interrupt or answer.error
            else:
                answer = await _arun(step)  # type: ignore[arg-type]
                deadline = monotonic() + seconds
            step = flow.send(answer)
    except StopIteration as stop:
        if interrupt is not None:
            raise interrupt from None
        result: T = stop.value
        return result


async def _await(need: Need, deadline: float, asyncio: Any) -> tuple[object, BaseException | None]:
    """The answer, and the cancellation that arrived while waiting. A cancelled caller still waits for the answer (up to the
    deadline): what a store has applied must be known, or it could not be taken back."""
    future = _begin(need)
    waiting = asyncio.wrap_future(future)
    cancelled: BaseException | None = None
    while not waiting.done():  # anyio cancels again in every round of the loop: under that, `asyncio.wait` alone would never see it done
        try:
            await asyncio.wait({waiting}, timeout=max(0.0, deadline - monotonic()))
            break
        except asyncio.CancelledError as error:
            cancelled = error
            if need.seconds:
                waiting.cancel()  # not begun yet: then it never does
                return Failure(error, interrupted=True, pending=future), cancelled
            if monotonic() >= deadline:
                break
    if not waiting.done():
        future.cancel()
        return Failure(None, late=True, interrupted=False, pending=future), cancelled
    failed = future.exception()
    if failed is not None:
        return Failure(failed), cancelled
    answer = future.result()
    return (Failure(cancelled, interrupted=True, answer=answer) if cancelled is not None else answer), cancelled


async def _arun(run: Run) -> Outcome:
    lease = run.lease
    token = _lease.set(lease) if _lease.get() is not lease else None
    try:
        value = run.execute(*run.args, **run.kwargs)
        if inspect.isawaitable(value):
            waiting: Awaitable[object] = value
            value = await waiting
        made: Outcome = _outcome(Outcome, "ok", value)
        return made
    except Exception as error:
        return Outcome("error", None, error)
    except BaseException as error:  # cancelled midway: it may have had its effect
        return Outcome("unknown", None, error)
    finally:
        if token is not None:
            _lease.reset(token)
        if lease is not None:
            lease.close()
