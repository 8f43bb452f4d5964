"""Policies from where a guard is pointed at: files, paths, or policies already read. Loaded when used: reading them takes a parser and a linter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from guard.errors import ConfigError
from guard.policy import Policy, check_layers

__all__ = ["PolicySource", "load_layers"]

PolicySource: TypeAlias = str | Path | Policy


def load_layers(policy: PolicySource | Sequence[PolicySource]) -> tuple[Policy, ...]:
    sources: Sequence[PolicySource] = [policy] if isinstance(policy, str | Path | Policy) else list(policy)
    if not sources:
        raise ConfigError('a guard needs a policy: `Guard("policy.yaml", trust=...)`')
    return check_layers([each if isinstance(each, Policy) else _read(Path(each)) for each in sources])


def _read(path: Path) -> Policy:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"policy {path} cannot be read: {error.strerror or type(error).__name__}", code="policy.unavailable") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"policy {path} is not UTF-8", code="policy.unavailable") from None
    return Policy.from_text(text, file=str(path))
