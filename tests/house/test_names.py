"""The public names, and what `import guard` costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import guard
from guard import adapters, packs
from guard.errors import ConfigError
from guard.reasons import REASONS, ReasonCode

ROOT = Path(__file__).resolve().parents[2]

PUBLIC = [
    "ApprovalRequired",
    "Decision",
    "Delegation",
    "Denied",
    "Finding",
    "Guard",
    "GuardError",
    "Issuer",
    "LocalIssuer",
    "Outcome",
    "Policy",
    "ReasonCode",
    "Sink",
    "StateStore",
    "Task",
    "ToolCall",
]


def test_sixteen_names() -> None:
    assert list(guard.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(guard, name).__doc__, f"{name} says nothing about itself"


@pytest.mark.parametrize("module", ["guard.adapters", "guard.errors", "guard.telemetry", "guard.testing"])
def test_public_modules_say_what_is_public(module: str) -> None:
    home = importlib.import_module(module)
    for name in home.__all__:
        assert hasattr(home, name)


@pytest.mark.parametrize("name", ["tool", "task"])
def test_the_package_is_not_a_guard(name: str) -> None:
    with pytest.raises(ConfigError, match=rf'`guard.{name}`: `guard` is the package here; make one first: `guard = Guard\("policy.yaml"'):
        getattr(guard, name)


def test_other_names_are_missing_as_usual() -> None:
    assert not hasattr(guard, "tools")


HEAVY = {"asyncio", "duckdb", "httpx", "redis", "requests", "rich", "sqlite3", "structlog", "typer"}


def test_import_guard_is_light() -> None:
    """In a fresh process; `asyncio` too: the synchronous path needs no event loop."""
    script = "import sys, guard; print(*sorted(name for name in sys.modules if '.' not in name))"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(said.stdout.split())


def test_what_feeds_revocations_is_loaded_when_used() -> None:
    """A guard with what is in memory needs none of it."""
    script = "import sys, guard; print(*sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    later = (
        "guard.approvals",
        "guard.asking",
        "guard.constraints.confusables",
        "guard.tokens.approval",
        "guard.identity.revoked",
        "guard.identity.signals",
        "guard.identity.telemetry",
        "guard.server",
        "guard.tokens.events",
        "starlette",
    )
    assert [name for name in said.stdout.split() if name.startswith(later)] == []


def test_a_call_under_a_local_issuer_speaks_no_http(tmp_path: Path) -> None:
    """Also with an issuer of which nothing is asked. The policy, a task and a call load nothing of HTTP."""
    script = """
import sys
from guard import Guard, Issuer, LocalIssuer, Policy, ToolCall
from guard.record import ListSink
iam = LocalIssuer("acme-dev")
text = "guardtrail: 1\\nname: p\\ntools: {look: {effect: read}}\\nintents: {i: {allow: {look: {}}}}"
guard = Guard(Policy.from_text(text), trust=[iam, Issuer("https://iam.acme.example", audience="x")], sinks=[ListSink()])
with guard.task(iam.mint(origin="alice", actor="a", intent="i")):
    assert guard.call(ToolCall("look", {}), lambda: 5) == 5
print(*sorted(name for name in sys.modules if '.' not in name))
"""
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(said.stdout.split())


def test_one_file_speaks_http() -> None:
    """Its bounds hold for every request only as long as nobody else makes one."""
    speakers = {"aiohttp", "http", "httpx", "requests", "urllib3"}
    found = {
        str(file.relative_to(ROOT))
        for room in ("guard", "adapters")
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if (isinstance(node, ast.Import) and any(a.name.partition(".")[0] in speakers or a.name == "urllib.request" for a in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and ((node.module or "").partition(".")[0] in speakers or node.module == "urllib.request")
            and node.module != "http.server"  # who listens makes no request
        )
    }
    assert found == {"guard/identity/http.py"}


def test_every_code_has_a_reason() -> None:
    assert set(REASONS) == set(ReasonCode)
    for code, reason in REASONS.items():
        assert reason.meaning, code
        assert reason.public, code


PACKS = [
    "baseline",
    "coding-agent",
    "destructive",
    "exfiltration",
    "filesystem",
    "four-eyes",
    "git-maintainer",
    "http-egress",
    "lethal-trifecta",
    "memory-poisoning",
    "money",
    "runaway",
    "secrets",
]
ALL_PACKS = ", ".join(f"`{name}`" for name in PACKS)


def test_packs_are_found_by_name() -> None:
    assert packs.packs() == PACKS
    for name in packs.packs():
        assert packs.pack_path(name).read_text("utf-8").startswith(("guardtrail:", "#"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("baselin", "there is no policy pack `baselin`; did you mean `baseline`?"),
        ("zzz", f"there is no policy pack `zzz`; there are {ALL_PACKS}"),
        ("../policies/baseline", f"there is no policy pack `../policies/baseline`; there are {ALL_PACKS}"),
        ("baseline.cases", "there is no policy pack `baseline.cases`; did you mean `baseline`?"),
    ],
)
def test_an_unknown_pack(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        packs.pack_path(name)
    assert str(caught.value) == said


@pytest.mark.parametrize("text", [None, '[project]\nname = "other"\n', '# name = "guardtrail"\n', b"\xff\xfe"])
def test_adapters_of_a_folder_that_is_no_checkout(text: str | bytes | None, tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    here = tmp_path / "guard" / "adapters"
    here.mkdir(parents=True)
    if text is not None:
        (tmp_path / "pyproject.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert adapters._checkout(here) == []


def test_adapters_of_a_checkout(tmp_path: Path) -> None:
    here = tmp_path / "guard" / "adapters"
    here.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "guardtrail"\n', "utf-8")
    assert adapters._checkout(here) == []
    (tmp_path / "adapters").mkdir()
    assert adapters._checkout(here) == [str(tmp_path / "adapters")]
    (here / "mcp.py").write_text("", "utf-8")
    assert adapters._checkout(here) == []
