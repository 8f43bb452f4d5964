"""An adapter whose framework is not there says so in one line, and how to get it."""

from __future__ import annotations

import importlib

import pytest

from guard.errors import ConfigError
from tests.conformance.adapters import ADAPTERS, installed

ABSENT = [name for name, one in ADAPTERS.items() if one.newest and one.suite and not installed(name)]


@pytest.mark.parametrize("name", ABSENT)
def test_missing(name: str) -> None:
    with pytest.raises(ConfigError, match=rf'guard\.adapters\.{name} needs .* pip install "guardtrail\[{name}\]"'):
        importlib.import_module(f"guard.adapters.{name}")
