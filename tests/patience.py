"""What a loaded machine must not change: it stands still for longer than a guard, its log and its store wait by default, and then a verdict would be its.

`tests/conftest.py` sets this for the suite and servers that tests start say `patient()` first. A program that is to stay as its readers see it finds it on its path:
`env={"PYTHONPATH": PYTHONPATH}`. What deadlines and patience do is tested with ones of the tests' own.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from tests.patient.sitecustomize import WAITS, wait

__all__ = ["PYTHONPATH", "patient"]

_HERE = Path(__file__).resolve().parent
PYTHONPATH = f"{_HERE / 'patient'}{os.pathsep}{_HERE.parent}"


def patient() -> None:
    """From here on, in this process."""
    for name in WAITS:
        wait(import_module(name))
