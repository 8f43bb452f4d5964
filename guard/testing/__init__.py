"""What tests of policies and of parts need: a frozen clock, records in a list, policy cases run through the real guard.

    from guard.testing import FrozenClock, ListSink, run_case

`FakeApprovals`, `FakeSignals` and `FakeProofs` say what persons, devices and workloads have said; `FakeCredentials` lends what tools need downstream. `run_case` runs one entry of a policy's
`tests:`; `StateContract` is the suite every state store must pass. `Desk` is what the pytest fixture `guardtrail` gives to a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guard.testing.clock import FrozenClock

if TYPE_CHECKING:
    from guard.record import ListSink
    from guard.testing.cases import CaseResult, Step, run_case
    from guard.testing.desk import Desk
    from guard.testing.fakes import FakeApprovals, FakeCredentials, FakeProofs, FakeSignals
    from guard.testing.state_contract import StateContract

__all__ = [
    "CaseResult", "Desk", "FakeApprovals", "FakeCredentials", "FakeProofs", "FakeSignals", "FrozenClock", "ListSink", "StateContract", "Step", "run_case",
]  # fmt: skip

# Loaded when asked for: who needs a clock does not pay for a guard.
_HOMES = {
    "CaseResult": "guard.testing.cases",
    "Desk": "guard.testing.desk",
    "FakeApprovals": "guard.testing.fakes",
    "FakeCredentials": "guard.testing.fakes",
    "FakeProofs": "guard.testing.fakes",
    "FakeSignals": "guard.testing.fakes",
    "ListSink": "guard.record",
    "StateContract": "guard.testing.state_contract",
    "Step": "guard.testing.cases",
    "run_case": "guard.testing.cases",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'guard.testing' has no attribute {name!r}")
