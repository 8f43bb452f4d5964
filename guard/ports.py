"""The sockets: what the judges and the guard need from outside, as Protocols. Shells implement them; nothing here has effects.

`inline`: an implementation sets it True only if it never blocks on anything outside the process. Every other port is run on a
helper thread under the guard's deadline, so that a slow part denies instead of hanging the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from guard.events import ApprovalRecord, DecisionRecord, OutcomeRecord, PivotRecord, TaskRecord
from guard.model import Approval, CredentialRequest, Delegation, ExchangeRequest, Finding, Issued, Rejection, Signal
from guard.ops import Applied, Op, Refused

__all__ = [
    "Approvals",
    "Blinds",
    "Clock",
    "Credentials",
    "Exchanger",
    "Paths",
    "Proofs",
    "Prover",
    "Registrations",
    "Revocations",
    "Signals",
    "Sink",
    "StateStore",
    "Verifier",
]


@runtime_checkable
class StateStore(Protocol):
    """Keyed state shared by everyone who judges the same tasks. Must pass `guard.testing.state_contract`."""

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        """All of `ops` or none, atomically, across every process that shares the store.

        Refused names the first operation that failed. `commit=False`: the same answer, nothing changed (a trial). `now` never
        goes back: the store uses the latest time it has seen. Raises nothing but `guard.errors.StateUnavailable`.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """Where records go. A sink may also have `note(record)` (see `Notes`); without it records of tasks are not sent to it."""

    required: bool
    """True: if it fails, the call is denied with `record.unavailable`."""

    def decision(self, record: DecisionRecord) -> None:
        """Before the body. Durable on return, as `record.sync` says, if `required`."""
        ...

    def outcome(self, record: OutcomeRecord) -> None:
        """After it, joined by decision id."""
        ...


class Notes(Protocol):
    """The optional part of a sink: records that belong to a task, not to a call."""

    def note(self, record: ApprovalRecord | PivotRecord | TaskRecord) -> None: ...


class Clock(Protocol):
    """Wall time (aware, UTC) and monotonic seconds. The guard compares the two: see `clock.drift`."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class Verifier(Protocol):
    """Token text to verified delegation.

    `generation` changes whenever an answer given before might change (keys, registry): holders of an older one verify again.

    A verifier whose keys may have to be fetched also has `fetch(wanted) -> concurrent.futures.Future`: `verify` raises
    `guard.errors.KeysWanted`, the guard waits for the future under its deadline, and verifies once more.
    """

    @property
    def generation(self) -> int: ...

    def verify(self, token: str, *, now: int) -> Delegation:
        """Raises `guard.errors.TokenRefused` and nothing else."""
        ...


class Exchanger(Protocol):
    """An issuer's token endpoint. What it answers is verified and compared by the guard: nothing it says can widen anything.

    It may also have `holder(actor) -> Prover | None`: the key that a token for that actor is bound to. A bound parent has bound children only, so where
    there is none the holder of the parent's key hands on offline. Without `holder` it is asked, and nothing is known of the key.
    """

    def exchange(self, request: ExchangeRequest) -> str:
        """The new token. Raises `guard.errors.GuardError` with `delegation.refused` (the issuer said no) or `delegation.unavailable`."""
        ...


class Credentials(Protocol):
    """Where the credentials come from that tools need downstream (`credential:` of a policy). Asked at execution, on a thread of its own.

    What it answers is compared by the guard with what was asked. Both raise GuardError: `credential.refused` (it said no, and will again) or
    `credential.unavailable` (no answer: worth another try). The text of such an error is recorded: names, nothing secret; that of any other is not.
    """

    def obtain(self, request: CredentialRequest) -> Issued:
        """A new token for one call; never one that was handed out before."""
        ...

    def take_back(self, issued: Issued) -> None:
        """It counts no more, and nothing that came along with it."""
        ...


class Revocations(Protocol):
    """Asked on every call. The answer None, and only None, means: not revoked."""

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """What of the delegation is revoked (`credential`, `session`, `origin`, `actor NAME`, `key`, `task`), or None.

        After a tab may stand by what: `session<tab>CAEP session-revoked, event jti 24c6`. The denial says both.
        """
        ...


class Blinds(Protocol):
    """Keys that keep persons and values out of records."""

    def origin(self, tenant: str, subject: str) -> str:
        """The keyed pseudonym of a person; the same for the same (tenant, subject) while its key exists."""
        ...

    def task_key(self, tenant: str, issuer: str, txn: str) -> bytes:
        """The 32-byte key of one task, under which its argument values are HMACed."""
        ...


class Approvals(Protocol):
    """What persons have answered. Looked at only where the verdict is ask; whether one counts is judged from its content.

    A port that keeps requests too has, besides, what `guard/asking.py` asks of it: `guard.approvals.Approvals` does.
    """

    def find(self, task: str, tool: str, args_hmac: str, *, now: int) -> Sequence[Approval | Rejection]:
        """The verified approvals and rejections of this very call; a forged or expired one is left out."""
        ...


class Signals(Protocol):
    """What is said outside of a device, a person or a session. Missing does not satisfy a rule."""

    def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> Mapping[str, Signal]:
        """The latest of each name; a name of which nothing is known is left out."""
        ...


class Proofs(Protocol):
    """Which actor has proven to be one. None: nobody has, and nobody unproven is different from anybody.

    One that knows workloads also has `behind(delegation, *, now) -> guard.tokens.evidence.Workload`, which raises `TokenRefused`: without it, what
    a policy demands by `proof: workload` is denied.
    """

    def actor(self, delegation: Delegation) -> str | None: ...


class Prover(Protocol):
    """Who holds the key of a bound token in this process (`guard.identity.holder.HolderKey`)."""

    @property
    def thumbprint(self) -> str: ...

    def prove(self, presented: str, tool: str, args: bytes, *, audience: str | None = None) -> str:
        """A proof for one call; `args`: its canonical arguments."""
        ...


class Registrations(Protocol):
    """What is known of the identities that act. Asked when a plan is made, not at a call; a change of `generation` makes plans anew."""

    @property
    def generation(self) -> int: ...

    def findings(self, delegation: Delegation) -> tuple[Finding, ...]:
        """Of judge `token`. Never raises, never blocks."""
        ...

    def proofs(self, beside: Proofs | None = None) -> Proofs:
        """Which actors have proven to be one, by what is registered of their keys and workloads. `beside`: the guard's own, asked besides."""
        ...

    def owner(self, delegation: Delegation) -> str | None:
        """Who answers for who acts, for records; None: nobody, or it is not known. Never raises, never blocks."""
        ...


class Paths(Protocol):
    """Local paths as the operating system sees them (symlinks resolved): the one place where a judge's input touches the disk."""

    def resolve(self, path: str) -> str: ...
