"""Examples of adapters: each runs by itself, and prints what its first lines say after "Prints:"."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]


def example_prints(name: str, folder: Path) -> None:
    """`examples/adapters/<name>_app.py` (a file named as its framework would hide it), in an empty folder."""
    script = ROOT / "examples" / "adapters" / f"{name}_app.py"
    said = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    expected = textwrap.dedent(said.partition("Prints:\n")[2]).strip("\n") + "\n"
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, str(script)], cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected
