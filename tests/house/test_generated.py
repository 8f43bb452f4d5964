"""The generated pages are those the code would write now."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = runpy.run_path(str(ROOT / "tools" / "generate_docs.py"))["PAGES"]


@pytest.mark.parametrize("page", PAGES)
def test_no_drift(page: str) -> None:
    assert (ROOT / page).read_text("utf-8") == PAGES[page](), "run `make generate`"
