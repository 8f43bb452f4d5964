"""Check the floors (pyproject.toml, [tool.importlinter]); quiet when they hold."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    sys.path.insert(0, str(ROOT))
    said = StringIO()
    with redirect_stdout(said):
        code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    if code:
        print(said.getvalue())
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
