"""The task of one request: for servers whose callers bring the token each time (HTTP, MCP, A2A)."""

from __future__ import annotations

import asyncio
from time import monotonic
from types import TracebackType
from typing import Final, Self

from guard.drive import Flow
from guard.house import House, TaskState
from guard.model import Decision
from guard.ports import Prover
from guard.runtime import Guard
from guard.shown import Shown
from guard.taskflow import open_flow
from guard.tasks import Task

__all__ = ["Keeper", "RequestTask", "request_task"]

_FRESH: Final = 15.0
_MOST: Final = 512


class RequestTask(Task):
    """`async with RequestTask(guard, token):` the token is verified and its task is current for this request.

    It never counts as the one that first opened the task: whoever leaves a request closes its delegation and does not end what others go on with.
    `shown`: how it was shown where that proves something (DPoP, a certificate); None: nothing came with it, and a bound token is proven with each call.
    `key`: of the holder, where calls are proven here. `keeper`: it stays open for the next request of its token, unless that is bound to a key. Raises Denied on
    entry.
    """

    def __init__(
        self, guard: Guard, token: str, shown: Shown | None = None, key: Prover | None = None, *, keeper: Keeper | None = None
    ) -> None:
        super().__init__(guard, token, None, key)
        self._shown, self._keeper = shown, keeper
        self.kept = 0.0
        """Since when it stays open from one request to the next; 0: it does not."""

    def fresh(self) -> bool:
        """May it be entered again? Every call asks for revocation and expiry; what is no call, a list, must not be shown much longer than those allow."""
        now = self._guard._house.clock.now().timestamp()
        return monotonic() - self.kept < _FRESH and self.delegation.expires_at > now and not self.state.closed

    def _opening(self, house: House) -> Flow[TaskState | Decision]:
        return open_flow(house, self._token, None, self._shown)

    def _entered(self, answer: TaskState | Decision) -> None:
        if isinstance(answer, TaskState):
            answer.first = False
        super()._entered(answer)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self._keeper is not None and not self.delegation.bound:
            self._keeper.put(self._token, self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._over()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._over()

    def let_go(self) -> None:
        """It is kept no more: closed now, or by whoever is the last in it."""
        self.kept = 0.0
        self._over()

    def _over(self) -> None:
        if self._inside == 0 and not self.kept:
            self.state.closed = True  # Attack: one proof, one request, and what it has begun calls for as long as the token lives

    async def leave(self, error: BaseException | None = None) -> None:
        """Leave it, with what was raised inside."""
        await self.__aexit__(None if error is None else type(error), error, None)


class Keeper:
    """Tasks that stay open from one request of their token to the next, since opening one is most of what a request costs. Every call asks anew for expiry,
    revocation and whether the task has ended. `most`: so many; then the one that was not used for longest is closed. After some seconds each is, whether or not
    its token comes again. Attack: what a request left running calls for as long as the token lives."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: dict[str, RequestTask] = {}
        self._sweeping: asyncio.AbstractEventLoop | None = None

    def task(self, token: str) -> RequestTask | None:
        """The one of this token, to be entered again; None: there is none that may be."""
        task = self._tasks.get(token)
        if task is not None and not task.fresh():
            self.forget(token)
            return None
        return task

    def put(self, token: str, task: RequestTask) -> None:
        task.kept = task.kept or monotonic()
        tasks = self._tasks
        before = tasks.pop(token, None)
        if before is not None and before is not task:
            before.let_go()
        tasks[token] = task  # the last one used is the last one forgotten
        while len(tasks) > self._most:
            tasks.pop(next(iter(tasks))).let_go()
        loop = asyncio.get_running_loop()
        if self._sweeping is not loop:  # one that has ended sweeps no more
            self._sweeping = loop
            loop.call_later(_FRESH, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        for token, task in list(self._tasks.items()):
            if monotonic() - task.kept >= _FRESH:
                self.forget(token)
        if self._sweeping is loop:
            self._sweeping = loop if self._tasks else None
            if self._tasks:
                loop.call_later(_FRESH / 4, self._sweep, loop)

    def forget(self, token: str) -> None:
        task = self._tasks.pop(token, None)
        if task is not None:
            task.let_go()


def request_task(guard: Guard, token: str) -> RequestTask:
    """`async with request_task(guard, token) as task:` a `RequestTask` that stays open for the next requests of its token, as those of `Door` do. Requests of one
    token share it: a decision of `before` that none of them closes is closed as unknown when the last one leaves."""
    keeper = guard._keeper
    if keeper is None:
        keeper = guard._keeper = Keeper(_MOST)
    return keeper.task(token) or RequestTask(guard, token, keeper=keeper)
