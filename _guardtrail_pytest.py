"""What pytest loads at its start where guardtrail is installed: names and nothing else, until a project asks.

The plugin itself is `guard/testing/plugin.py`. It is not the entry point because importing anything of `guard` imports the library: every
project that merely has guardtrail among its dependencies would pay for that at each start of pytest, and measure its coverage wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from guard.testing.desk import Desk

INI = "guardtrail_policies"


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "policies whose `tests:` are test items: paths or globs, relative to this file (a `NAME.cases.yaml` beside one goes with it)"
    parser.addini(INI, text, type="paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    if config.getini(INI):
        from guard.testing.plugin import configure

        configure(config, config.getini(INI))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Any:
    if parent.config.getini(INI):
        from guard.testing.plugin import collected

        return collected(file_path, parent)
    return None


@pytest.fixture
def guardtrail() -> Iterator[Desk]:
    """A local issuer, frozen clock, memory state, records in a list: `with guardtrail.task(guard, origin=..., intent=...)`."""
    from guard.testing.desk import Desk

    with Desk() as desk:
        yield desk
