"""What tests of policies and of parts need: a frozen clock, records in a list, policy cases run through the real guard.

    from guard.testing import FrozenClock, ListSink, run_case

`run_case` runs one entry of a policy's `tests:`; `StateContract` is the suite every state store must pass. `Desk` is what the pytest
fixture `guardtrail` gives to a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guard.testing.clock import FrozenClock

if TYPE_CHECKING:
    from guard.record import ListSink
    from guard.testing.cases import CaseResult, Step, run_case
    from guard.testing.desk import Desk
    from guard.testing.state_contract import StateContract

__all__ = ["CaseResult", "Desk", "FrozenClock", "ListSink", "StateContract", "Step", "run_case"]

# Loaded when asked for: who needs a clock does not pay for a guard.
_HOMES = {
    "CaseResult": "guard.testing.cases",
    "Desk": "guard.testing.desk",
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
