"""`Task`: one open task of a guard, as a context manager. Which one is current in a context, and which `with` is the last to leave."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from guard.drive import Flow, adrive, drive
from guard.errors import ApprovalRequired, ConfigError, Denied
from guard.flow import finish_flow
from guard.house import House, TaskState, Ticket
from guard.model import Decision, Delegation, Outcome
from guard.ports import Prover
from guard.taskflow import end_flow, open_flow, says_flow

if TYPE_CHECKING:
    from guard.runtime import Guard

PATIENCE = 10.0
"""Seconds that a delegation may take: an issuer is asked over the network, and nobody's call waits for it."""

__all__ = ["Frame", "Task", "denied"]


class Frame(NamedTuple):
    """Which task is current in this context, and which one was before."""

    task: Task
    state: TaskState
    before: Frame | None


def denied(decision: Decision) -> Denied:
    """The exception of a decision that blocks."""
    return ApprovalRequired(decision) if decision.verdict == "ask" else Denied(decision)


def _heard(refused: Decision | None) -> None:
    if refused is not None:
        raise denied(refused)


def _vouched(decision: Decision) -> Decision:
    if decision.blocks:
        raise denied(decision)
    return decision


def _endorsing(house: House, state: TaskState, tool: str, argument: str, value: object) -> Flow[Decision]:
    from guard.vouch import endorsed, vouch_flow

    return vouch_flow(house, state, endorsed(house, tool, argument, value))


def _declassifying(house: House, state: TaskState, label: str) -> Flow[Decision]:
    from guard.vouch import declassified, vouch_flow

    return vouch_flow(house, state, declassified(house, label))


_counting = threading.RLock()
"""Held while it is counted who has a task open. Of two threads that enter or leave at once neither may be forgotten: the task would end while one is in it,
or never."""


def _forked() -> None:
    """In the child of a fork, where a thread that is not there may hold it."""
    global _counting
    _counting = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Task:
    """One open task: a context manager, never built by hand. Made by `Guard.task`; may be entered again, also in other threads."""

    def __init__(self, guard: Guard, token: str, prompt: str | None, key: Prover | None = None) -> None:
        self._guard = guard
        self._key = key
        self._token = token
        self._prompt = prompt
        self._state: TaskState | None = None
        self._inside = 0

    def __repr__(self) -> str:
        return f"Task({self._state.delegation.txn!r})" if self._state is not None else "Task(not open)"

    @property
    def state(self) -> TaskState:
        if self._state is None:
            raise ConfigError("this task is not open yet: enter it with `with guard.task(token) as task:`")
        return self._state

    @property
    def id(self) -> str:
        """The token's `txn`."""
        return self.state.delegation.txn

    @property
    def delegation(self) -> Delegation:
        """The verified content of the token."""
        return self.state.delegation

    @property
    def token(self) -> str:
        """The token itself, to hand on. Never log it."""
        return self._token

    def delegate(
        self, actor: str, *, tools: Sequence[str] | Mapping[str, Mapping[str, object]] | None = None, ttl: str | timedelta | None = None
    ) -> Task:
        """A narrower task of the same `txn` for `actor`: enter it with `with`, or hand its `token` on.

        By an exchange at the issuer (RFC 8693). Where it cannot be asked, or the token is a chain, and this task has its key, by a hop: then the new
        task has a key of its own.

        `tools` by name keeps the parent's constraints; a mapping adds constraints; None keeps all. `ttl`: `30s`, `10m`, a timedelta. Never
        wider: an answer that is not a subset of what was asked is Denied `delegation.widened`; an issuer that says no, or nothing, is Denied
        `delegation.refused`, `delegation.unavailable`. Limits are shared with the parent. Raises ConfigError where the issuer was given no client and
        this task no key.
        """
        return self._handed(drive(self._delegate(actor, tools, ttl), PATIENCE))

    async def adelegate(
        self, actor: str, *, tools: Sequence[str] | Mapping[str, Mapping[str, object]] | None = None, ttl: str | timedelta | None = None
    ) -> Task:
        """`delegate`, awaited."""
        return self._handed(await adrive(self._delegate(actor, tools, ttl), PATIENCE))

    def _delegate(self, actor: object, tools: object, ttl: object) -> Flow[tuple[str, Prover | None] | Decision]:
        from guard.delegating import delegate_flow, requested

        return delegate_flow(self._guard._house, self.state, *requested(actor, tools, ttl))

    def _handed(self, answer: tuple[str, Prover | None] | Decision) -> Task:
        if isinstance(answer, Decision):
            raise denied(answer)
        return Task(self._guard, answer[0], None, answer[1])

    def user_says(self, text: str, *, quoted: str = "") -> None:
        """More of the user's own words, after the prompt. `quoted`: the part of them that is somebody else's (a pasted mail): it is text.

        Pass nothing that a tool or a page returned. In a delegated task they are an agent's words, which are text. Raises Denied where the
        task has ended, or the store does not answer: then nothing was said.
        """
        house = self._guard._house
        _heard(drive(says_flow(house, self.state, text, quoted), house.seconds))

    async def auser_says(self, text: str, *, quoted: str = "") -> None:
        """`user_says`, awaited."""
        house = self._guard._house
        _heard(await adrive(says_flow(house, self.state, text, quoted), house.seconds))

    def endorse(self, tool: str, argument: str, value: object) -> Decision:
        """A person vouches that `argument` (a control argument) of `tool` may have `value` in this task, wherever it came from.

        Raises ApprovalRequired until an approval of this very request is there (`asks: {ask.endorse: ...}`), Denied where the task may do
        nothing any more, ConfigError for an unknown tool or argument. It satisfies the flow table (source `endorsed`), never a rule.
        """
        house = self._guard._house
        return _vouched(drive(_endorsing(house, self.state, tool, argument, value), house.seconds))

    async def aendorse(self, tool: str, argument: str, value: object) -> Decision:
        """`endorse`, awaited."""
        house = self._guard._house
        return _vouched(await adrive(_endorsing(house, self.state, tool, argument, value), house.seconds))

    def declassify(self, label: str) -> Decision:
        """A person vouches that `label` does not hold any more: rules on it count from now on.

        Raises as `endorse` does (`asks: {ask.declassify: ...}`), ConfigError for a label no rule asks for.
        """
        house = self._guard._house
        return _vouched(drive(_declassifying(house, self.state, label), house.seconds))

    async def adeclassify(self, label: str) -> Decision:
        """`declassify`, awaited."""
        house = self._guard._house
        return _vouched(await adrive(_declassifying(house, self.state, label), house.seconds))

    def end(self) -> Decision:
        """Judge `task.end` and end the task: its identifier is never used again.

        A refusal is recorded and raised as Denied; the task stays open then, so that what is missing can be done.
        """
        house = self._guard._house
        for ticket in self._left():
            drive(finish_flow(house, ticket, Outcome("unknown")), house.seconds)
        decision = drive(end_flow(house, self.state, final=False), house.seconds)
        if decision.blocks:
            raise denied(decision)
        return decision

    def __enter__(self) -> Self:
        house = self._guard._house
        if self._state is None or self._state.closed:
            self._entered(drive(self._opening(house), house.seconds))
        return self._push()

    async def __aenter__(self) -> Self:
        house = self._guard._house
        if self._state is None or self._state.closed:
            self._entered(await adrive(self._opening(house), house.seconds))
        return self._push()

    def _opening(self, house: House) -> Flow[TaskState | Decision]:
        return open_flow(house, self._token, self._prompt)

    def _entered(self, answer: TaskState | Decision) -> None:
        if isinstance(answer, Decision):
            raise denied(answer)
        if self._key is not None:
            found = answer.delegation
            if found.bound != "jkt" or found.credential.thumbprint != self._key.thumbprint:
                raise ConfigError("`key` is not the one this token names (`cnf`)")
            answer.holder = self._key
        self._state = answer
        if answer.first:
            self._guard._openers.add(answer.delegation.task)

    def _push(self) -> Self:
        guard, key = self._guard, self.state.delegation.task
        with _counting:
            guard._opened[key] = guard._opened.get(key, 0) + 1
            self._inside += 1
        guard._current.set(Frame(self, self.state, guard._current.get()))
        return self

    def _pop(self) -> tuple[bool, bool]:
        """Leave. Was this the last `with` of this object; and the outermost of the process that first opened the task: then the task ends."""
        guard, key = self._guard, self.state.delegation.task
        frame = guard._current.get()
        if frame is not None and frame.task is self:
            guard._current.set(frame.before)
        with _counting:
            self._inside -= 1
            last, left = self._inside == 0, guard._opened.get(key, 1) - 1
            if left > 0:
                guard._opened[key] = left
                return last, False
            guard._opened.pop(key, None)
            outermost = key in guard._openers
            guard._openers.discard(key)
        return last, outermost and not self.state.closed

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        answer: object = None
        stop: BaseException | None = None
        for flow in self._leaving():
            try:
                answer = drive(flow, self._guard._house.seconds)
            except BaseException as raised:  # interrupted: what is left is closed all the same
                stop = stop or raised
        _gone(answer, stop, error)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        answer: object = None
        stop: BaseException | None = None
        for flow in self._leaving():
            try:
                answer = await adrive(flow, self._guard._house.seconds)
            except BaseException as raised:
                stop = stop or raised
        _gone(answer, stop, error)

    def _leaving(self) -> list[Flow[Outcome | Decision]]:
        """What is to be done as a `with` is left, each under a deadline of its own: its calls without an outcome, and the end of the task."""
        house = self._guard._house
        last, ends = self._pop()
        tickets = self._left() if last else ()
        closing: list[Flow[Outcome | Decision]] = [finish_flow(house, ticket, Outcome("unknown")) for ticket in tickets]
        return [*closing, end_flow(house, self.state)] if ends else closing

    def _left(self) -> list[Ticket]:
        """Calls without an outcome, which end with the `with` they were begun in, whoever else has the task open: as unknown, they may have run."""
        left = list(self.state.tickets.values())
        self.state.tickets.clear()
        return left


def _gone(answer: object, stop: BaseException | None, error: BaseException | None) -> None:
    if stop is not None:
        raise stop
    if isinstance(answer, Decision) and answer.blocks and error is None:
        raise denied(answer)
