"""Where limits, marks and pins live. One contract (`guard.ports.StateStore`, `guard.testing.state_contract`), several stores.

A store is loaded when it is asked for; the one in memory always is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guard.errors import ConfigError
from guard.ports import StateStore
from guard.state.memory import MemoryState
from guard.suggest import did_you_mean

if TYPE_CHECKING:
    from guard.state.sqlite import SqliteState

__all__ = ["MemoryState", "SqliteState", "open_state"]

_FORMS = "`memory:` (one process) or `sqlite:PATH` (one machine)"


def __getattr__(name: str) -> Any:
    if name == "SqliteState":
        from guard.state.sqlite import SqliteState

        return SqliteState
    raise AttributeError(f"module 'guard.state' has no attribute {name!r}")


def open_state(spec: str) -> StateStore:
    """The store that `spec` names. Raises ConfigError where it names none, StateUnavailable where the store cannot be opened."""
    kind, colon, rest = spec.partition(":")
    if not colon:
        near = did_you_mean(spec, ("memory:", "sqlite:PATH")) or (f"; did you mean `sqlite:{spec}`?" if "/" in spec or "." in spec else "")
        raise ConfigError(f"state must be {_FORMS}{near}")
    if kind == "memory":
        if rest:
            raise ConfigError("state `memory:` takes nothing after the colon; did you mean `sqlite:PATH`?")
        return MemoryState()
    if kind == "sqlite":
        if not rest or rest.startswith("//"):
            raise ConfigError("state `sqlite:PATH` is one colon and a file path, as in `sqlite:.guardtrail/state.db`")
        if rest == ":memory:":
            raise ConfigError("state `sqlite::memory:` would be shared with nobody; did you mean `memory:`?")
        from guard.state.sqlite import SqliteState

        return SqliteState(rest)
    if kind in ("redis", "rediss", "valkey"):
        raise ConfigError(f"state `{kind}:` is not supported yet, redis comes with a later release; until then {_FORMS}")
    raise ConfigError(f"state of an unknown kind: it must be {_FORMS}{did_you_mean(kind, ('memory', 'sqlite', 'redis'))}")
