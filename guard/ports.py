"""The sockets: what the judges and the guard need from outside, as Protocols. Shells implement them; nothing here has effects.

`inline`: an implementation sets it True only if it never blocks on anything outside the process. Every other port is run on a
helper thread under the guard's deadline, so that a slow part denies instead of hanging the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from guard.events import ApprovalRecord, DecisionRecord, OutcomeRecord, PivotRecord, TaskRecord
from guard.model import Approval, Delegation, ExchangeRequest, Finding, Rejection, Signal
from guard.ops import Applied, Op, Refused

__all__ = [
    "Approvals",
    "Blinds",
    "Clock",
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
    """An issuer's token endpoint. What it answers is verified and compared by the guard: nothing it says can widen anything."""

    def exchange(self, request: ExchangeRequest) -> str:
        """The new token. Raises `guard.errors.GuardError` with `delegation.refused` (the issuer said no) or `delegation.unavailable`."""
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
    """Which actor has proven to be one. None: nobody has, and nobody unproven is different from anybody."""

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

    def proofs(self) -> Proofs: ...


class Paths(Protocol):
    """Local paths as the operating system sees them (symlinks resolved): the one place where a judge's input touches the disk."""

    def resolve(self, path: str) -> str: ...
