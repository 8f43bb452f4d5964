"""A desk for the command line: a folder with functions and a policy, a runner in this process, and real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from guard.cli import app
from tests.patience import PYTHONPATH
from tests.refunds import with_look

ROOT = Path(__file__).resolve().parents[2]

TOOLS = '''
from decimal import Decimal


def refund(order: str, amount: Decimal) -> str:
    """Give money back."""
    return f"refunded {amount} on {order}"


def send_email(to: str, body: str) -> None:
    """Send one message."""


TOOLS = [refund, send_email]
'''

POLICY = (
    with_look("{}")
    + """\
rules:
  - {id: few-looks, when: {tool: look}, limit: {calls: 1}, mode: monitor, until: 2030-01-01}
tests:
  - name: the ordinary run
    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: "50"}}
    trace: |
      look(order="A-17")
      refund(order="A-17", amount="20")
    expect: [allow, allow]
"""
)


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Said]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `tools.py` and `policy.yaml`; records go to `.guardtrail` in it."""
    (tmp_path / "tools.py").write_text(TOOLS, "utf-8")
    (tmp_path / "policy.yaml").write_text(POLICY, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUARDTRAIL_DIR", ".guardtrail")
    monkeypatch.delenv("GUARDTRAIL_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def cli(desk: Path) -> Run:
    """Run a command in this process."""

    def run(*words: str, input: str | bytes | None = None) -> Said:
        result = CliRunner().invoke(app, list(words), input=input, prog_name="guardtrail")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process(desk: Path) -> Run:
    """Run a command as a process of its own."""

    def run(*words: str, input: str | None = None, env: dict[str, str] | None = None) -> Said:
        code = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; main()"
        surroundings = {**os.environ, "PYTHONPATH": PYTHONPATH, **(env or {})}
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=desk, env=surroundings, input=input, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def told_by(process: subprocess.Popen[str]) -> Any:
    """The JSON that a server prints when it listens. One that ends instead prints nothing more for ever."""
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    while lines[-1:] != ["}\n"]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return json.loads("".join(lines))


@pytest.fixture
def token(cli: Run, desk: Path) -> str:
    """A token for order A-17, also in `task.jwt`."""
    said = cli("token", "mint", "--issuer", "acme-dev", "--origin", "alice", "--actor", "support", "--intent", "refund-order",
               "--param", "order=A-17", "--param", "ceiling=50")  # fmt: skip
    assert said.code == 0, said.err
    (desk / "task.jwt").write_text(said.out, "utf-8")
    return said.out.strip()


def normal(text: str) -> str:
    """A transcript without what differs from run to run."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "<id>", text)
    text = re.sub(r"acme-dev/[\w-]+", "acme-dev/<jti>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)
    return re.sub(r"\b[0-9a-f]{8,64}\b", "<hex>", text)


@pytest.fixture
def normalised() -> Callable[[str], str]:
    return normal
