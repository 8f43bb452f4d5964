"""The task of one request: for servers whose callers bring the token each time (HTTP, MCP, A2A)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import TracebackType
from typing import Final
from weakref import WeakKeyDictionary

from guard.drive import Flow
from guard.house import House, Plans, TaskState
from guard.model import Decision, Delegation
from guard.ports import Prover
from guard.runtime import Guard
from guard.shown import Shown
from guard.taskflow import open_flow
from guard.tasks import Task

__all__ = ["RequestTask"]

_MOST: Final = 1024


class _Warm:
    """The plans of tasks that have sent a request before: what the policies and one verified delegation say about a tool is the same in the next request.

    Found by the delegation itself, not by its token or what it says: the verifier gives out the same one for as long as keys, registry and revocations have not
    changed. With them goes what one open task knows of its counters in the store (`ran`, `settled`): two requests are as two calls of one open task. Everything
    that may differ from call to call is judged on every call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[int, tuple[Delegation, object, Plans, dict[str, list[bool]], set[str]]] = OrderedDict()

    def put_into(self, state: TaskState) -> None:
        key, plans = id(state.delegation), state.plans
        with self._lock:
            found = self._held.get(key)
            if found is not None and found[0] is state.delegation and found[1] == state.context and _alike(found[2], plans):
                self._held.move_to_end(key)
                state.plans, state.ran, state.settled = found[2:]
                return
            self._held[key] = (state.delegation, state.context, plans, state.ran, state.settled)
            while len(self._held) > _MOST:
                self._held.popitem(last=False)


def _alike(one: Plans, other: Plans) -> bool:
    """Of the same load of the policies, counting from the same moments."""
    return one.load == other.load and (one.since is other.since or one.since == other.since)


_warm: WeakKeyDictionary[Guard, _Warm] = WeakKeyDictionary()


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
            (_warm.get(self._guard) or _warm.setdefault(self._guard, _Warm())).put_into(answer)
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
