"""`make` on a machine that lacks something: one line, which names it and the command that installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ["apt-get", "awk", "cat", "cksum", "dirname", "env", "git", "grep", "make", "rm", "sh", "tail"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with only what is asked for; `apt-get` stands for the system's package manager and is never run."""
    for name in NEEDED:
        found = shutil.which(name)
        (tmp_path / name).symlink_to(found if found and name != "apt-get" else "/bin/false")
    return tmp_path


def said(machine: Path, *words: str, **environ: str) -> str:
    env = {"PATH": str(machine), **environ}
    done = subprocess.run([shutil.which("make") or "make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.partition("*** ")[2]


@pytest.mark.parametrize("target", ["test", "demo"])
def test_no_git(target: str, machine: Path) -> None:
    (machine / "git").unlink()
    assert said(machine, target) == "git not found: apt-get install git.  Stop."


def test_no_python(machine: Path) -> None:
    assert said(machine, "test") == "python3.11+ not found, or older than 3.11: apt-get install python3 python3-venv.  Stop."


def test_only_an_old_python(machine: Path) -> None:
    _script(machine / "python3", "exit 1")
    assert said(machine, "test") == "python3.11+ not found, or older than 3.11: apt-get install python3 python3-venv.  Stop."


def test_no_venv_module(machine: Path) -> None:
    _script(machine / "python3", 'case "$2" in *ensurepip*) exit 1;; *print*) echo python3.12-venv;; esac')
    assert said(machine, "demo") == "python3 has no venv module: apt-get install python3.12-venv.  Stop."


def test_no_package_index(tmp_path: Path) -> None:
    """The script by itself, in a folder of its own, with an index nobody serves."""
    (tmp_path / "key").write_text("", "utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    command = ["sh", str(ROOT / "tools" / "setup.sh"), "env", "key", "--retries", "1", "guardtrail-nobody"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "the package index cannot be reached, see env.log: connect, or name yours: pip config set global.index-url URL\n"
    assert not (tmp_path / "env" / ".ready").exists()


def _script(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    file.chmod(0o755)


def test_help_teaches() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench", "generate"):
        assert f"make {target} " in done.stdout
