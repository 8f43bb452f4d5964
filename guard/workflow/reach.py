"""Argument paths: `name`, `name[]`, `name[].field`, `name.field` -> the values found there."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["reach"]


def reach(path: str, values: Mapping[str, object]) -> list[object]:
    """Every value at `path`, in order; empty where there is none. Null counts as absent."""
    found: list[object] = [values]
    for step in path.split("."):
        name, items = (step[:-2], True) if step.endswith("[]") else (step, False)
        below: list[object] = []
        for value in found:
            inner = value.get(name) if isinstance(value, Mapping) else None
            if items and isinstance(inner, (list, tuple)):
                below.extend(inner)
            elif inner is not None and not items:
                below.append(inner)
        found = below
    return [value for value in found if value is not None]
