"""Every behaviour in every mode on the adapters of this environment.

An adapter whose framework is not installed here is left out: `tools/adapters.py` runs this file in an environment of its own for each. A gap is an expected
failure with its reason; one that passes all the same fails (strict).
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

from guard.testing.conformance import Driver, cases, gap, run
from tests.conformance.adapters import ADAPTERS, installed

CHOSEN = os.environ.get("GUARDTRAIL_ADAPTER", "")
NAMES = [name for name, one in ADAPTERS.items() if one.suite and (name == CHOSEN if CHOSEN else installed(name))]


def _cases() -> list[Any]:
    made = []
    for name in NAMES:
        driver = _driver(name)
        for behaviour, mode in cases():
            why = gap(driver, behaviour, mode)
            marks = [pytest.mark.xfail(reason=why, strict=True)] if why is not None else []
            made.append(pytest.param(driver, behaviour, mode, id=f"{name}-{behaviour}-{mode}", marks=marks))
    return made


def _driver(name: str) -> type[Driver]:
    return import_module(f"tests.conformance.drivers.{name}").DRIVER  # type: ignore[no-any-return]


@pytest.mark.parametrize(("driver", "behaviour", "mode"), _cases())
def test_behaviour(driver: type[Driver], behaviour: str, mode: Any) -> None:
    run(driver(), behaviour, mode)
