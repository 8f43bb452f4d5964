"""The agents themselves, with a model on loopback: Claude Code, Codex, Gemini CLI run our hooks, and what is denied does not run.

Needs their npm packages in `.venv-agents` (`make test-agents` puts them there), or where `GUARDTRAIL_AGENTS` says; else these are skipped. Nothing leaves the
machine: every other address leads to a closed port. Cursor has no package that runs without an account.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hook.conftest import Place, needs_curl
from tests.hook.model import Model, Step
from tests.hook.test_line import stop

AGENTS = Path(os.environ.get("GUARDTRAIL_AGENTS") or Path(__file__).parents[2] / ".venv-agents")
pytestmark = [needs_curl, pytest.mark.slow, pytest.mark.timeout(300)]

CODEX = """model = "gpt-5.1-codex"
model_provider = "loopback"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.loopback]
name = "loopback"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "MODEL_KEY"
[analytics]
enabled = false
[projects."{project}"]
trust_level = "trusted"
"""
GEMINI = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"disableAutoUpdate": True},
}


def patch(file: str) -> Step:
    """As a model writes it that was given no tool for it: Codex takes it for one."""
    return Step("exec_command", {"cmd": f"apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: {file}\n+x\n*** End Patch\nEOF\n"})


def claude(place: Place, url: str) -> tuple[list[str], dict[str, str]]:
    environ = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    return ["claude", "-p", "go", "--allowedTools", "Bash,Read,Write,Edit"], environ


def codex(place: Place, url: str) -> tuple[list[str], dict[str, str]]:
    (place.home / ".codex" / "config.toml").write_text(CODEX.format(url=url, project=place.project))
    return ["codex", "exec", "--dangerously-bypass-hook-trust", "--skip-git-repo-check", "go"], {"MODEL_KEY": "none"}


def gemini(place: Place, url: str) -> tuple[list[str], dict[str, str]]:
    return ["gemini", "--approval-mode", "yolo", "--skip-trust", "-m", "gemini-2.5-flash", "-p", "go"], {
        "GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_TELEMETRY_ENABLED": "false",
    }  # fmt: skip


Run = Callable[[Place, str], tuple[list[str], dict[str, str]]]
CASES: dict[str, tuple[Run, Callable[[Place], list[Step]]]] = {
    "claude-code": (claude, lambda place: [
        Step("Bash", {"command": "mkdir -p ran", "description": "x"}), Step("Bash", {"command": "mkdir -p not; sh -c ls", "description": "x"}),
        Step("Write", {"file_path": f"{place.project}/ran/a", "content": "x"}), Step("Write", {"file_path": f"{place.home}/not", "content": "x"}),
        Step("Read", {"file_path": f"{place.project}/.env"}),
    ]),
    "codex": (codex, lambda place: [
        Step("exec_command", {"cmd": "mkdir -p ran"}), Step("exec_command", {"cmd": "mkdir -p not; sh -c ls"}),
        patch("ran/a"), patch(f"{place.home}/not"),
    ]),
    "gemini-cli": (gemini, lambda place: [
        Step("run_shell_command", {"command": "mkdir -p ran"}), Step("run_shell_command", {"command": "mkdir -p not; sh -c ls"}),
        Step("write_file", {"file_path": f"{place.project}/ran/a", "content": "x"}), Step("write_file", {"file_path": f"{place.project}/.git/not", "content": "x"}),
    ]),
}  # fmt: skip


def run(place: Place, agent: str) -> Model:
    made, steps = CASES[agent]
    folder = {"claude-code": ".claude", "codex": ".codex", "gemini-cli": ".gemini"}[agent]
    (place.home / folder).mkdir(exist_ok=True)
    (place.project / ".env").write_text("KEY=canary-4410\n")
    subprocess.run(["git", "init", "-q", str(place.project)], check=True)
    with Model(steps(place)) as model:
        words, environ = made(place, model.url)
        binary = AGENTS / "node_modules" / ".bin" / words[0]
        if not binary.exists():
            pytest.skip(f"no {words[0]} in {AGENTS.name}")
        nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
        done = subprocess.run(
            [str(binary), *words[1:]],
            cwd=place.project,
            env=place.env | nowhere | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return model


def prepare(place: Place, agent: str, *options: str) -> None:
    if agent == "gemini-cli":
        (place.home / ".gemini").mkdir()
        (place.home / ".gemini" / "settings.json").write_text(json.dumps(GEMINI))
    place.cli("hook", "install", "--agent", agent, "--user", *options)


@pytest.mark.parametrize("agent", CASES)
def test_what_is_denied_does_not_run(place: Place, agent: str) -> None:
    prepare(place, agent)
    try:
        model = run(place, agent)
    finally:
        stop(place)
    assert (place.project / "ran" / "a").read_text().strip() == "x"
    assert not (place.project / "not").exists() and not (place.home / "not").exists() and not (place.project / ".git" / "not").exists()
    told = "\n".join(model.told)
    assert "guardtrail: " in told and "canary-4410" not in told
    decisions = [(each["tool"], each["verdict"]) for each in place.decisions()]
    assert {verdict for _, verdict in decisions} == {"allow", "deny"} and ("resume", "allow") not in decisions
    outcomes = [each["status"] for each in place.records() if each["kind"] == "outcome"]
    assert (
        len(outcomes) == sum(verdict == "allow" for _, verdict in decisions) and "ok" in outcomes
    )  # Codex says nothing of a patch it took from a command
    assert [each["kind"] for each in place.records()][-1] == "task", "the end of the session ended its task"


@pytest.mark.parametrize("agent", CASES)
def test_without_a_daemon_nothing_runs(place: Place, agent: str) -> None:
    """Killed, and nothing starts another: every call is denied, whatever it is."""
    prepare(place, agent, "--no-start")
    place.serve()
    place.kill(signal.SIGKILL)
    model = run(place, agent)
    assert not (place.project / "ran").exists() and not (place.project / "not").exists() and not (place.home / "not").exists()
    assert "the daemon did not answer" in "\n".join(model.told)
