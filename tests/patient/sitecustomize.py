"""First on the path of programs that tests start, which import it by its name: a guard in them waits as long as one in the tests (tests/conftest.py).

Nothing is imported for it, so that a program that forgets an import still fails.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

WAITS = {"guard.runtime": ("Guard", "deadline"), "guard.record.audit": ("AuditFile", "patience")}


class Patient(MetaPathFinder):
    """Changes those defaults as their modules are imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in WAITS:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((each for each in found if each is not None), None)
        if spec is None or spec.loader is None:
            return spec
        plain, (owner, word) = spec.loader.exec_module, WAITS[name]

        def exec_module(module: ModuleType) -> None:
            plain(module)
            getattr(module, owner).__init__.__kwdefaults__[word] = timedelta(seconds=5)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Patient())
