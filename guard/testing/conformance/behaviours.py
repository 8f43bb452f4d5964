"""The table of behaviours, and how one of them is played.

A behaviour is a short play: build a world, let the model say something, look at what happened to bodies, model, records and spans. It knows no framework.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from guard.testing.conformance import calls, chain, pauses
from guard.testing.conformance.driver import Driver, Mode
from guard.testing.conformance.stage import BEHAVIOURS, Behaviour, Stage
from guard.testing.conformance.world import World

__all__ = ["BEHAVIOURS", "Behaviour", "cases", "gap", "run"]

_ = (calls, chain, pauses)  # each puts its behaviours into the table


def cases() -> list[tuple[str, Mode]]:
    """Every behaviour in every mode it is played in, for `pytest.mark.parametrize`. What a driver cannot do (`gap`) is a case as well."""
    return [(name, mode) for name, behaviour in BEHAVIOURS.items() for mode in behaviour.modes]


def gap(driver: Driver | type[Driver], behaviour: str, mode: str) -> str | None:
    """Why this case is expected to fail with this framework; None: it is not."""
    if mode not in driver.modes:
        return driver.gaps[mode]
    return next((driver.gaps[key] for key in (behaviour, f"{behaviour}/{mode}") if key in driver.gaps), None)


def run(driver: Driver, behaviour: str, mode: Mode) -> None:
    """Play one behaviour. Raises AssertionError where it does not hold."""
    chosen = BEHAVIOURS[behaviour]
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder).resolve(), asynchronous=mode != "sync")
        with world.open(driver.carries), world.hurried(chosen.deadline):
            chosen.play(Stage(driver, mode, world))
