"""First on the path of programs that tests start (`tests.patience.PYTHONPATH`), which import it by its name: what waits in them waits as long as in the tests.

Nothing is imported for it, so that a program that forgets an import still fails.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

WAITS: dict[str, tuple[str, str, object]] = {
    "guard.runtime": ("Guard", "deadline", timedelta(seconds=5)),
    "guard.record.audit": ("AuditFile", "patience", timedelta(seconds=5)),
    "guard.state.sqlite": ("SqliteState", "timeout", 20.0),
}
"""Module -> class, argument and what it is by default now."""


def wait(module: ModuleType) -> None:
    """Its class, from here on."""
    owner, word, long = WAITS[module.__name__]
    getattr(module, owner).__init__.__kwdefaults__[word] = long


class Patient(MetaPathFinder):
    """Changes those defaults as their modules are imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in WAITS:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((each for each in found if each is not None), None)
        if spec is None or spec.loader is None:
            return spec
        plain = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plain(module)
            wait(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Patient())
