"""The task of one request: for servers whose callers bring the token each time (HTTP, MCP, A2A)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Final

from guard.drive import Flow
from guard.house import House, TaskState
from guard.model import Decision
from guard.ports import Prover
from guard.runtime import Guard
from guard.shown import Shown
from guard.taskflow import open_flow
from guard.tasks import Task

__all__ = ["RequestTask", "request_task"]


_FRESH = 15.0
_MOST: Final = 512


class RequestTask(Task):
    """`async with RequestTask(guard, token):` the token is verified and its task is current for this request.

    It never counts as the one that first opened the task: whoever leaves a request closes its delegation and does not end what others go on with.
    `shown`: how it was shown where that proves something (DPoP, a certificate); None: nothing came with it, and a bound token is proven with each call.
    `key`: of the holder, where calls are proven here. Raises Denied on entry.
    """

    def __init__(self, guard: Guard, token: str, shown: Shown | None = None, key: Prover | None = None) -> None:
        super().__init__(guard, token, None, key)
        self._shown = shown
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

    def _over(self) -> None:
        if self._inside == 0 and not self.kept:
            self.state.closed = True  # Attack: one proof, one request, and what it has begun calls for as long as the token lives

    async def leave(self, error: BaseException | None = None) -> None:
        """Leave it, with what was raised inside."""
        await self.__aexit__(None if error is None else type(error), error, None)


@asynccontextmanager
async def request_task(guard: Guard, token: str) -> AsyncIterator[RequestTask]:
    """`async with request_task(guard, token) as task:` a `RequestTask` that stays open for the next requests of its token, as those of `Door` do: opening is most
    of what a request costs. Every call asks anew for expiry, revocation and whether the task has ended."""
    kept = guard._kept
    task = kept.get(token)
    if task is None or not task.fresh():
        if task is not None:
            task.kept = 0.0  # closed by whoever is the last in it
            kept.pop(token, None)
        task = RequestTask(guard, token)
    async with task:
        if not task.delegation.bound:
            task.kept = task.kept or monotonic()
            kept.pop(token, None)
            kept[token] = task  # the last one used is the last one forgotten
            while len(kept) > _MOST:
                kept.pop(next(iter(kept))).kept = 0.0
        yield task
