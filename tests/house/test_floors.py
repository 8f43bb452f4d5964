"""Every floor imports only downward, judges are pure, adapters use public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JUDGES = [
    ROOT / "guard" / "decide.py",
    *(f for room in ("constraints", "tokens", "policy", "workflow") for f in (ROOT / "guard" / room).rglob("*.py")),
]
IMPURE_NAMES = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}
IMPURE_ATTRIBUTES = {
    "getenv",
    "monotonic",
    "now",
    "perf_counter",
    "read_bytes",
    "read_text",
    "today",
    "token_bytes",
    "utcnow",
    "write_text",
}
ADAPTERS = sorted((ROOT / "adapters").glob("*.py"))


def test_the_floors_hold() -> None:
    done = subprocess.run([sys.executable, "tools/floors.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_outside_the_shells_is_in_the_contract() -> None:
    """`exhaustive` sees to the layers; the second contract lists its modules by name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (listed,) = [set(each["source_modules"]) for each in contracts if each["name"].startswith("only the shells")]
    shells = {"adapters", "identity", "packs", "record", "sources", "state", "telemetry"}
    rooms = {file.stem for file in (ROOT / "guard").glob("*.py")} | {each.parent.name for each in (ROOT / "guard").glob("*/__init__.py")}
    assert listed == {f"guard.{room}" for room in rooms - shells - {"__init__"}}


@pytest.mark.parametrize("file", JUDGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_judges_have_no_effects(file: Path) -> None:
    """Clock, keys, state and resolved paths come in as arguments. (`if __name__ == ...` at the end of a file is not the judge.)"""
    body = [node for node in ast.parse(file.read_text("utf-8")).body if not _is_main(node)]
    found = [f"{file.name}:{line} {name}" for node in body for line, name in _impure(node)]
    assert found == []


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _impure(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in IMPURE_NAMES:
            yield node.lineno, node.func.id
        if isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_ATTRIBUTES:
            yield node.lineno, node.func.attr


@pytest.mark.parametrize("file", ADAPTERS, ids=lambda file: file.name)
def test_adapters_use_public_names(file: Path) -> None:
    """Relative imports only, and guard's names through `_core.py` only; there, what users have."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        where = f"{file.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.partition(".")[0] in ("guard", "adapters")], where
        if not isinstance(node, ast.ImportFrom):
            continue
        module = f"{'.' * node.level}{node.module or ''}"
        assert module.partition(".")[0] != "adapters", f"{where}: say `from ._core import ...`"
        house = re.sub(r"^(?:guard(?:\.|$)|\.\.)", "guard.", module).rstrip(".")
        if house.partition(".")[0] == "guard":
            assert file.name == "_core.py", f"{where}: guard's names come through _core.py"
            assert house in ("guard", "guard.errors", "guard.identity", "guard.server", "guard.telemetry"), (
                f"{where}: {house} is not public"
            )
            assert house != "guard" or {a.name for a in node.names} <= _public(), where


def _public() -> set[str]:
    import guard

    return set(guard.__all__)


def test_there_is_no_package_where_a_folder_is_meant() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()
    assert not (ROOT / "policies" / "__init__.py").exists()
