"""The machine over everything delegated (`machine.py`): 200 runs of 50 steps here, 20,000 in the campaign."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.delegation.machine import Delegating

STEPS = 50


def run(examples: int) -> None:
    Delegating.seen.clear()
    run_state_machine_as_test(
        Delegating,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
    print(dict(Delegating.seen.most_common()))
    assert Delegating.seen["ran"] >= examples, "a guard that lets nothing through shows nothing"
    assert Delegating.seen["exchange"] >= examples / 20


@pytest.mark.timeout(900)  # a run that fails is made small
def test_whatever_happens_to_delegations() -> None:
    run(200)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(40))
def test_whatever_happens_to_delegations_for_long(part: int) -> None:
    run(500)
