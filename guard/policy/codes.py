"""The reason codes a policy may name: in `expect` and in `asks`. Those of the sources are known before their judge is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guard.policy.data import SOURCES
from guard.reasons import ReasonCode

__all__ = ["CODES", "PART_OF_ROOM", "ROOMS"]

CODES: Final = frozenset(
    {str(code) for code in ReasonCode}
    | {f"flow.{source}" for source in SOURCES}
    | {"flow.carries", "asked.not_asked", "asked.delegated", "ask.too_many", "task.suspended", "policy.older"}
)
ROOMS: Final = frozenset(code.partition(".")[0] for code in CODES)
PART_OF_ROOM: Final[Mapping[str, str]] = {"flow": "flow", "asked": "asked", "ask": "asks"}
"""The part of the language whose judge speaks these codes."""
