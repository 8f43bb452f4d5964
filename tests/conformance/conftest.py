"""Where the suite leaves what it found: `GUARDTRAIL_RESULTS` names a JSON file (set by `tools/adapters.py`)."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

RESULTS = os.environ.get("GUARDTRAIL_RESULTS", "")
_holds: dict[str, str] = {}
"""Behaviour -> the modes in which it holds."""
_gaps: dict[str, str] = {}
"""`behaviour/mode` -> why not."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" or "test_behaviour[" not in report.nodeid:
        return
    _, behaviour, mode = report.nodeid.rpartition("[")[2].rstrip("]").rsplit("-", 2)
    if report.passed:
        _holds[behaviour] = f"{_holds.get(behaviour, '')} {mode}".strip()
    elif report.skipped and hasattr(report, "wasxfail"):
        _gaps[f"{behaviour}/{mode}"] = report.wasxfail.removeprefix("reason: ")


def pytest_sessionfinish(session: Any) -> None:
    if RESULTS and (_holds or _gaps):
        driver = import_module(f"tests.conformance.drivers.{os.environ['GUARDTRAIL_ADAPTER']}").DRIVER
        Path(RESULTS).write_text(json.dumps({"holds": _holds, "gaps": _gaps, "pause": driver.gaps.get("pause", "")}), "utf-8")
