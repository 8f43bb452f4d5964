"""The adapters of `make test` whose framework is not in this environment, each in its own (`tools/adapters.py`), with the newest and the oldest release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.adapters import ADAPTERS, installed

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = [(name, age) for name, one in ADAPTERS.items() if one.usual and not installed(name) for age in ("newest", "oldest")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "age"), ELSEWHERE)
def test_adapter(name: str, age: str) -> None:
    """The suite, the adapter's own tests and its page, and the results on file."""
    command = [sys.executable, str(ROOT / "tools" / "adapters.py"), name, "--age", age]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
