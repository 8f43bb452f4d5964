"""Persons, devices and proofs for tests: what a guard hears from outside, said by the test.

    approvals = FakeApprovals()
    guard = Guard("policy.yaml", trust=iam, approvals=approvals)
    ...
    approvals.approve(required.decision, by="bob", groups=["treasury"])      # the very call that was asked about

They stand at the guard's ports, as the real ones do; what counts is judged by the guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from guard.errors import ConfigError
from guard.model import Approval, Decision, Delegation, Rejection, Signal
from guard.ports import Clock

__all__ = ["FakeApprovals", "FakeProofs", "FakeSignals"]


class FakeApprovals:
    """A drawer of answers. `clock`: dates them; None: they are dated by `at`."""

    inline = True

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._numbers = count(1)
        self.given: list[Approval] = []
        self.refused: list[Rejection] = []

    def approve(self, decision: Decision, *asks: str, by: str, groups: Iterable[str] = (), at: int | None = None) -> Approval:
        """`by` answers the asks of `decision` (all of them, or those named). Raises ConfigError where it does not ask for one."""
        made = self._said(decision, asks, by, groups, at)
        self.given.append(made)
        return made

    def reject(self, decision: Decision, *asks: str, by: str, groups: Iterable[str] = (), at: int | None = None) -> Rejection:
        """`by` says no: the very call is denied from now on, if they may answer."""
        made = Rejection(self._said(decision, asks, by, groups, at))
        self.refused.append(made)
        return made

    def _said(self, decision: Decision, asks: tuple[str, ...], by: str, groups: Iterable[str], at: int | None) -> Approval:
        wanted = [str(one) for one in decision.request()["asks"]]  # type: ignore[attr-defined]
        for ask in asks or wanted[:1] or ("",):
            if ask not in wanted:
                raise ConfigError(f"the decision does not ask for `{ask}`; it asks for {', '.join(wanted) or 'nothing'}")
        now = at if at is not None else int(self._clock.now().timestamp()) if self._clock is not None else 0
        return Approval(
            f"approval-{next(self._numbers)}", decision.task, decision.tool, decision.args_hmac, asks or tuple(wanted), by, frozenset(groups), now,
            decision.id,
        )  # fmt: skip

    def find(self, task: str, tool: str, args_hmac: str, *, now: int) -> Sequence[Approval | Rejection]:
        """Everything that was answered about this call."""
        this = (task, tool, args_hmac)
        said_no = [one for one in self.refused if (one.said.task, one.said.tool, one.said.args_hmac) == this]
        return [*(one for one in self.given if (one.task, one.tool, one.args_hmac) == this), *said_no]


class FakeSignals:
    """What is said of devices and sessions; the latest of each name counts, for everybody. `clock`: dates what is said."""

    inline = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.said: dict[str, Signal] = {}

    def say(self, name: str, value: object, *, at: int | None = None) -> None:
        """From now on."""
        self.said[name] = Signal(value, at if at is not None else int(self._clock.now().timestamp()))

    def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> Mapping[str, Signal]:
        """The latest of each name."""
        return {name: self.said[name] for name in names if name in self.said}


class FakeProofs:
    """Which actors have proven to be one: those in `names` (actor -> its registry name)."""

    inline = True

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})

    def actor(self, delegation: Delegation) -> str | None:
        """The registry name of who acts now."""
        return self.names.get(delegation.actor)
