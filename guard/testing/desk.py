"""The fixture `guardtrail`: a program's own guard, for one test on state, clock, issuer and records of the test's.

    def test_only_the_order_of_the_task(guardtrail):
        with guardtrail.task(guard, origin="alice", intent="refund-order", params={"order": "A-17", "ceiling": "50"}):
            assert refund.check("A-17", Decimal("20")).verdict == "allow"
        assert guardtrail.records == []

| of the guard                    | under the fixture                                                                        |
|---------------------------------|------------------------------------------------------------------------------------------|
| policy, tools, path resolution  | its own: they are what is tested                                                         |
| trust                           | the test's issuer and no other: a token from outside does not verify                     |
| state, revocations              | in memory, empty                                                                         |
| clock                           | `clock`: 2026-01-01T00:00Z until `clock.advance(...)`                                     |
| sinks, spans                    | lists: `records`, `notes`; nothing is written, exported or logged                        |
| approvals, signals, proofs      | what `approve(...)` and `signal(...)` said, and `proofs.names`                           |
| deadline                        | a minute: a loaded machine must not change a verdict                                     |
| current task                    | none, until one is opened                                                                |

The guard changes at the first `task(...)` for it and has everything back when the test ends, however it ends. That is for the whole process:
another thread that calls this guard meanwhile meets the test's trust, which knows none of its tokens, and is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from guard.errors import ApprovalRequired, ConfigError
from guard.events import ApprovalRecord, DecisionRecord, OutcomeRecord, PivotRecord, Record, TaskRecord
from guard.house import House
from guard.identity import LocalIssuer, RevocationList, TrustedIssuers
from guard.identity.holder import HolderKey
from guard.model import Decision
from guard.record import Blinds, ListSink
from guard.runtime import Guard, Task
from guard.state import open_state
from guard.testing.clock import FrozenClock
from guard.testing.fakes import FakeApprovals, FakeCredentials, FakeProofs, FakeSignals

__all__ = ["Desk"]

_OWN = ("layers", "policy", "resolve", "binders", "fitted")
"""What a house under test has from the guard's own. Everything else is the test's, or stands at its default: a port that a house is given
later is not the production's by oversight."""
_SECONDS = 60.0


class Desk:
    """What a test has: see the module. A context manager; leaving it puts every guard back."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.issuer = LocalIssuer("tests", clock=lambda: self.clock.now().timestamp())
        self.revocations = RevocationList()
        self.approvals = FakeApprovals(self.clock)
        self.proofs = FakeProofs()
        self.credentials = FakeCredentials()
        self._signals = FakeSignals(self.clock)
        self._sink = ListSink()
        self._undo: dict[int, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._undo:
            self._undo.popitem()[1]()

    def task(
        self,
        guard: Guard,
        *,
        origin: str,
        intent: str | None,
        params: Mapping[str, object] = {},
        actor: str | Sequence[str] = "tester",
        prompt: str | None = None,
        ttl: str = "1h",
        **more: Any,
    ) -> Task:
        """A task of `guard`, to be opened by `with` or `async with`. `actor`: a name, or the chain with the opener first.

        `more`: what else `LocalIssuer.mint` takes: `workload`, `tools`, `limits`, `scope`, `txn` (the same one: the same task), `person`.
        """
        if not isinstance(guard, Guard):
            raise ConfigError(
                "guardtrail.task: the first argument is the guard whose tools are tested: `guardtrail.task(guard, origin=...)`"
            )
        key = HolderKey.generate(clock=lambda: self.clock.now().timestamp()) if any(one.proof for one in guard._house.layers) else None
        if key is not None:  # the policy demands a proof somewhere: whoever acts in the test has one
            more = {"key": key.public, **more}
        token = self.issuer.mint(origin=origin, actor=actor, intent=intent, params=params, ttl=ttl, **more)
        self._take(guard)
        return guard.task(token, prompt=prompt, key=key)

    @property
    def records(self) -> list[DecisionRecord | OutcomeRecord]:
        """The decisions and outcomes of calls so far, in order. A check is not a call; opening and ending a task is none either: `notes`."""
        return [record for record in self._sink.records if isinstance(record, DecisionRecord | OutcomeRecord)]

    @property
    def notes(self) -> list[ApprovalRecord | PivotRecord | TaskRecord]:
        """Ends of tasks, pivots, approvals, in order."""
        return [record for record in self._sink.records if not isinstance(record, DecisionRecord | OutcomeRecord)]

    @property
    def everything(self) -> list[Record]:
        """`records` and `notes` as they were written."""
        return list(self._sink.records)

    def signal(self, name: str, value: object) -> None:
        """From now on this is said, of everybody."""
        self._signals.say(name, value)

    def approve(self, asked: Decision | ApprovalRequired, *asks: str, by: str, groups: Iterable[str] = ()) -> None:
        """A person answers what a call asked for, all of it or the named asks: the same call may run once now, if they may answer it."""
        self.approvals.approve(asked.decision if isinstance(asked, ApprovalRequired) else asked, *asks, by=by, groups=groups)

    def reject(self, asked: Decision | ApprovalRequired, *asks: str, by: str, groups: Iterable[str] = ()) -> None:
        """A person says no: the same call is denied from now on, if they may answer it."""
        self.approvals.reject(asked.decision if isinstance(asked, ApprovalRequired) else asked, *asks, by=by, groups=groups)

    def _take(self, guard: Guard) -> None:
        """The test's house for `guard`, and how to put its own back."""
        if id(guard) in self._undo:
            return
        own = guard._house
        before = (own, guard._current, guard._opened, guard._openers)

        def undo() -> None:
            # After a reload within the test the list is another one; functions decorated since then are known by their place in it.
            for tool, shape, binder in guard._house.fitted[len(own.fitted) :]:
                spec = own.layers[0].tools.get(tool)
                own.fitted.append((tool, shape, binder.under(spec.types if spec is not None else {})))
            guard._house, guard._current, guard._opened, guard._openers = before

        self._undo[id(guard)] = undo
        guard._house = self._house(own)
        guard._current = ContextVar("guardtrail_task", default=None)
        guard._opened, guard._openers = {}, set()

    def _house(self, own: House) -> House:
        made = House(
            **{name: getattr(own, name) for name in _OWN},
            verifier=TrustedIssuers(self.issuer),
            revocations=self.revocations,
            store=open_state("memory:"),
            sinks=(self._sink,),
            clock=self.clock,
            blinds=Blinds(None),
            spans=None,
            seconds=_SECONDS,
            approvals=self.approvals,
            signals=self._signals,
            proofs=self.proofs,
            credentials=self.credentials,
        )
        made.wall0, made.steady0 = self.clock.now().timestamp(), self.clock.monotonic()
        return made
