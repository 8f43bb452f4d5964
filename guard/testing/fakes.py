"""Persons, devices, proofs and credentials for tests: what a guard hears from outside, said by the test.

    approvals = FakeApprovals()
    guard = Guard("policy.yaml", trust=iam, approvals=approvals)
    ...
    approvals.approve(required.decision, by="bob", groups=["treasury"])      # the very call that was asked about

They stand at the guard's ports, as the real ones do; what counts is judged by the guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from secrets import token_urlsafe

from guard.errors import ConfigError, GuardError, TokenRefused
from guard.model import Approval, CredentialRequest, Decision, Delegation, Issued, Rejection, Signal
from guard.ports import Clock
from guard.reasons import ReasonCode
from guard.tokens.evidence import Workload
from guard.tokens.lent import ACCESS_TOKEN

__all__ = ["FakeApprovals", "FakeCredentials", "FakeProofs", "FakeSignals"]


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
    """Which actors have proven to be one: those in `names` (actor -> its registry name). `workloads`: the actors whose program shows good
    evidence, for `proof: {pay: workload}`; None: every one.
    """

    inline = True

    def __init__(self, names: Mapping[str, str] | None = None, workloads: Iterable[str] | None = None) -> None:
        self.names = dict(names or {})
        self.workloads = None if workloads is None else frozenset(workloads)

    def behind(self, delegation: Delegation, *, now: int) -> Workload:
        """The program of who acts now. Raises `TokenRefused`."""
        if self.workloads is not None and delegation.actor not in self.workloads:
            raise TokenRefused(ReasonCode.TOKEN_MISSING)
        return Workload("oidc", delegation.actor, "tests", "tests", now + 60)

    def actor(self, delegation: Delegation) -> str | None:
        """The registry name of who acts now."""
        return self.names.get(delegation.actor)


class FakeCredentials:
    """An issuer of downstream credentials in memory: opaque tokens, each for one call. `alive(token)` is what an API would ask.

    `refuse`, `fail`: from now on it says no, or does not answer; `keeps`: it does not take anything back. `asked`: what was asked for.
    """

    def __init__(self) -> None:
        self.asked: list[CredentialRequest] = []
        self.issued: list[Issued] = []
        self.taken_back: list[Issued] = []
        self.refuse = self.fail = self.keeps = False

    def obtain(self, request: CredentialRequest) -> Issued:
        """A new token for exactly what was asked for."""
        self.asked.append(request)
        if self.refuse:
            raise GuardError("it answered 400 invalid_target", code=ReasonCode.CREDENTIAL_REFUSED)
        if self.fail:
            raise GuardError("it did not answer", code=ReasonCode.CREDENTIAL_UNAVAILABLE)
        made = Issued(token_urlsafe(24), ACCESS_TOKEN, "Bearer", request.seconds, request.scopes)
        self.issued.append(made)
        return made

    def take_back(self, issued: Issued) -> None:
        """It counts no more."""
        if self.keeps:
            raise GuardError("it did not answer", code=ReasonCode.CREDENTIAL_UNAVAILABLE)
        self.taken_back.append(issued)

    def alive(self, token: str) -> bool:
        """Was it given out, and not taken back?"""
        return any(each.token == token for each in self.issued) and all(each.token != token for each in self.taken_back)
