"""`guardtrail doctor --coverage`: on functions and on agents that cannot be walked. Real frameworks: tests/conformance/test_doctor.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
POLICY = """guardtrail: 1
name: p
owner: o@acme.example
tools: {look: {effect: read, control: {order: id}}}
intents: {i: {description: d, allow: {look: {args: {order: {any: true}}}}}}
"""
APP = """
from guard import Guard, LocalIssuer
guard = Guard("policy.yaml", trust=LocalIssuer("x"))

@guard.tool
def look(order: str) -> str: return order

def wipe(order: str) -> str: return order

GOOD = [look]
BOTH = {"look": look, "wipe": wipe}
NUMBERS = [1, 2]
"""
BROKEN = """
import types
class Agent: pass
Agent.__module__ = "smolagents.agents"
agent = Agent()
"""


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "140", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from guard.cli import main; main()", "doctor", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "empty.py").write_text("x = 1\n")
    return tmp_path


def test_all_covered(folder: Path) -> None:
    code, out, _ = run(folder, "--coverage", "app:GOOD")
    assert (code, out.splitlines()[-1]) == (0, "1 place, a guard before each")


def test_one_is_not(folder: Path) -> None:
    code, out, _ = run(folder, "--coverage", "app", "--json")
    assert code == 1
    said = json.loads(out)
    assert [(line["path"], line["covered"]) for line in said["found"]] == [
        ("GOOD > look", True),
        ("BOTH > look", True),
        ("BOTH > wipe", False),
    ]


def test_what_cannot_be_walked_is_not_covered(folder: Path) -> None:
    code, out, _ = run(folder, "--coverage", "broken")
    assert code == 1
    assert "NO" in out


@pytest.mark.parametrize(("words", "expected"), [("empty", 3), ("nowhere", 2), ("app.py", 2), ("app:NOTHING", 2), ("app:", 2), ("a b", 2)])
def test_nothing_to_look_at_is_no_pass(words: str, expected: int, folder: Path) -> None:
    assert run(folder, "--coverage", words)[0] == expected
