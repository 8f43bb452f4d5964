"""`guard.adapters.<framework>`: one module per agent framework.

In an installed package the modules lie beside this file. In a checkout they lie in the folder `adapters/` at its root, which is
not an import name (an ML library owns `adapters`); only there, and only if no adapter is packaged, that folder is added to the
package's own path. `sys.path` and the working directory have no say.
"""

from __future__ import annotations

from pathlib import Path

__all__: list[str] = []


def _checkout(here: Path) -> list[str]:
    if any(file.name != "__init__.py" for file in here.glob("*.py")):
        return []
    root = here.parent.parent
    folder = root / "adapters"
    try:
        ours = '\nname = "guardtrail"\n' in (root / "pyproject.toml").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [str(folder)] if ours and folder.is_dir() else []


__path__.extend(_checkout(Path(__file__).resolve().parent))
