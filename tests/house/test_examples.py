"""Every example runs, and prints what it says it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
APPS = sorted((ROOT / "examples").glob("*/app.py"))


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.parent.name)
def test_example(app: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH}  # a machine that stands still for a quarter second changes nothing that is printed
    done = subprocess.run([sys.executable, str(app)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = app.with_name("expected.txt")
    assert expected.exists(), f"{app.parent.name} needs an expected.txt; it printed:\n{done.stdout}"
    assert done.stdout == expected.read_text("utf-8")


def test_the_examples_page_names_each() -> None:
    page = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert [app.parent.name for app in APPS if f"`{app.parent.name}`" not in page] == []
