"""The task of one request: for servers whose callers bring the token each time (HTTP, MCP, A2A)."""

from __future__ import annotations

from types import TracebackType

from guard.drive import Flow
from guard.house import House, TaskState
from guard.model import Decision
from guard.ports import Prover
from guard.runtime import Guard
from guard.shown import Shown
from guard.taskflow import open_flow
from guard.tasks import Task

__all__ = ["RequestTask"]


class RequestTask(Task):
    """`async with RequestTask(guard, token):` the token is verified and its task is current for this request.

    It never counts as the one that first opened the task: whoever leaves a request closes its delegation and does not end what others go on with.
    `shown`: how it was shown where that proves something (DPoP, a certificate); None: nothing came with it, and a bound token is proven with each call.
    `key`: of the holder, where calls are proven here. `kept`: what it has verified serves the next request too. Raises Denied on entry.
    """

    def __init__(self, guard: Guard, token: str, shown: Shown | None = None, key: Prover | None = None) -> None:
        super().__init__(guard, token, None, key)
        self._shown = shown
        self.kept = False

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
