"""Nothing here is about how fast the machine is: an issuer is waited for longer than it stands still."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is about an issuer that does not answer waits for less."""
    monkeypatch.setattr("guard.lending.OBTAIN", 30.0)
    monkeypatch.setattr("guard.lending.RETURN", 30.0)
