"""What a wheel holds beyond `guard/`: the adapters and the policy packs, under names nobody else owns, and what pytest loads.

An editable install gets neither: a copy would go stale, and `guard.adapters` and `guard.packs` find the folders of the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = (("adapters", "*.py", "guard/adapters"), ("policies", "*.yaml", "guard/_packs"))
ENTRY = "_guardtrail_pytest.py"


class Folders(BuildHookInterface):  # type: ignore[type-arg]
    """File by file, so that `guard/adapters/__init__.py` stays the one of the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for folder, pattern, target in FOLDERS:
            for file in sorted((Path(self.root) / folder).glob(pattern)):
                if file.name == "__init__.py":
                    raise ValueError(f"{folder}/ is a folder, not a package: remove {folder}/__init__.py")
                build_data["force_include"][str(file)] = f"{target}/{file.name}"
        build_data["force_include"][str(Path(self.root) / ENTRY)] = ENTRY
