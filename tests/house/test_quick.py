"""What `quick` makes is what the class itself makes: equal, of that class, frozen."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields
from typing import Any

import pytest

from guard.constraints.constraint import Constraint
from guard.events import DecisionRecord, OutcomeRecord
from guard.model import Bound, Decision, Outcome, ToolCall, quick


@pytest.mark.parametrize("cls", [Bound, Constraint, Decision, DecisionRecord, Outcome, OutcomeRecord, ToolCall])
def test_the_same_fields_defaults_and_frozen(cls: Any) -> None:
    make = quick(cls)
    taken = [f.name for f in fields(cls) if f.init]
    needed = [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]
    for given in (needed, taken):
        values = [f"v{i}" for i in range(len(given))]
        for one in (make(*values), make(**dict(zip(given, values, strict=True)))):
            plain = cls(*values)
            assert type(one) is cls
            assert all(getattr(one, f.name) == getattr(plain, f.name) for f in fields(cls))
            with pytest.raises(FrozenInstanceError):
                setattr(one, taken[0], "other")
    if needed:
        with pytest.raises(TypeError, match=needed[-1]):
            make(*values[: len(needed) - 1])


def test_a_default_is_made_anew_each_time() -> None:
    make = quick(ToolCall)
    assert make("a").args == {}
    assert make("a").args is not make("b").args
