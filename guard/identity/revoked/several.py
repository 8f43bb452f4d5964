"""Several lists of what was taken back, asked in turn: whatever any of them says is dead, is dead."""

from __future__ import annotations

from collections.abc import Sequence

from guard.errors import ConfigError
from guard.model import Delegation
from guard.ports import Revocations

__all__ = ["AnyRevocations"]


class AnyRevocations:
    """`guard.ports.Revocations` over others. One that raises stops the call, whatever the others say; so does one that says anything."""

    def __init__(self, parts: Sequence[Revocations]) -> None:
        if not parts or not all(callable(getattr(part, "find", None)) for part in parts):
            raise ConfigError(
                "`revocations` is a list of what was taken back (`RevocationList`, `StoreRevocations`), or a list of such lists"
            )
        self._parts = tuple(parts)

    def __repr__(self) -> str:
        return f"AnyRevocations({', '.join(map(repr, self._parts))})"

    @property
    def inline(self) -> bool:
        """Only where no part blocks."""
        return all(getattr(part, "inline", False) is True for part in self._parts)

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """What the first of them says."""
        for part in self._parts:
            said = part.find(delegation, now=now)
            if said is not None:
                return said
        return None
