"""The demo from end to end, as a user runs it; and the proof that its world would show the damage if nobody stopped it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def servers() -> Path:
    """The environment of the two third-party servers, made by `make demo-env` as a user makes it."""
    given = os.environ.get("GUARDTRAIL_DEMO_SERVERS")
    if given:
        return Path(given)
    made = subprocess.run(["make", "demo-env"], cwd=ROOT, capture_output=True, text=True, timeout=850)
    if made.returncode and "the package index cannot be reached" in made.stderr:
        pytest.skip(f"the demo's servers cannot be installed: {made.stderr.strip()}")
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / ".venv-demo-servers"


def run(servers: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "GUARDTRAIL_DEMO_SERVERS": str(servers), **env}
    return subprocess.run([sys.executable, str(DEMO / "run.py"), *options], env=surroundings, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def own(servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under another name: by it the children of the demo are known from those of other tests, which may run beside these."""
    link = tmp_path_factory.mktemp("own") / "servers"
    link.symlink_to(servers, target_is_directory=True)
    return link


@pytest.fixture(scope="session")
def told(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    records = tmp_path_factory.mktemp("demo") / "records"
    before = _worked()
    done = run(own, "--json", "--records", str(records))
    assert done.returncode == 0, done.stdout + done.stderr
    assert _worked() - before < 60, "a minute, on a machine that has nothing else to do"
    return json.loads(done.stdout), records


def _worked() -> float:
    """Seconds that processors have worked for children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_was_decided(told: tuple[dict[str, Any], Path]) -> None:
    rows = [(row["tool"], row["verdict"], row["mode"], row["code"], row["outcome"]) for row in told[0]["steps"]]
    assert rows == [
        ("fetch", "allow", "enforce", "permit", "ok"),
        ("git_status", "allow", "enforce", "permit", "ok"),
        ("git_add", "allow", "enforce", "permit", "ok"),
        ("git_commit", "allow", "enforce", "permit", "ok"),
        ("fetch", "deny", "enforce", "args.constraint", "not_executed"),
        ("git_reset", "deny", "enforce", "intent.tool", "not_executed"),
        ("git_commit", "deny", "enforce", "limit.calls", "not_executed"),
        ("git_log", "allow", "monitor", "permit", "ok"),
    ]
    why = [row["why"] for row in told[0]["steps"]]
    assert "$page" in why[0]
    assert "$page" in why[4]
    assert "git_reset" in why[5]
    assert "step 4" in why[6]
    assert "few-reads" in why[7]
    assert all(row["fix"] for row in told[0]["steps"] if row["verdict"] == "deny")


def test_what_really_happened(told: tuple[dict[str, Any], Path]) -> None:
    assert told[0]["world"] == {
        "git": {"commits": 1, "index_clean": True, "index_untouched": True, "last_commit_files": ["CHANGELOG.md"]},
        "web": {"requests": 1, "collected": 0},
    }


def test_what_was_recorded(told: tuple[dict[str, Any], Path]) -> None:
    result, records = told
    assert result["records"] == {"decisions": 8, "outcomes": 5, "known": 8}
    assert result["verify"]["ok"]
    assert result["verify"]["text"].startswith("whole log ok (")
    assert result["tampered"] == {"ok": False, "text": "found: record 6 was changed after it was written"}
    written = (records / "audit.jsonl").read_text()
    for secret in ("127.0.0.1", "Release 1.2", "alice"):  # no argument, no parameter, no person's name; the policy's own words may stand
        assert secret not in written


def test_look_next_works(told: tuple[dict[str, Any], Path]) -> None:
    result, _ = told
    setting, command, verb, decision = result["next"].split()
    name, _, folder = setting.partition("=")
    done = subprocess.run([command, verb, decision], env={**os.environ, name: folder}, capture_output=True, text=True, timeout=60)
    assert decision == result["steps"][4]["id"]
    assert "args.constraint" in done.stdout, done.stdout + done.stderr


def test_the_page_a_person_reads(servers: Path, tmp_path: Path) -> None:
    done = run(servers, "--records", str(tmp_path / "records"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("guardtrail demo: a scripted agent, two real MCP servers (git, fetch)")
    assert lines[1].endswith("prepare-release   alice > orchestrator > release-agent   local issuer, 10 min")
    assert lines[2].split() == ["#", "tool", "decision", "why", "smallest", "fix"]
    assert [line.split()[:3] for line in lines[3:11]] == [
        ["1", "fetch", "allow"],
        ["2", "git_status", "allow"],
        ["3", "git_add", "allow"],
        ["4", "git_commit", "allow"],
        ["5", "fetch", "deny"],
        ["6", "git_reset", "deny"],
        ["7", "git_commit", "deny"],
        ["8", "git_log", "allow"],
    ]
    assert [line[:18].rstrip() for line in lines[12:]] == ["really happened", "records", "audit verify", "a tampered copy", "look next"]
    assert "\x1b" not in done.stdout
    assert "mcp-server" in done.stderr  # progress goes beside the results


def test_without_the_guard_the_same_agent_does_the_damage(servers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the world's own counts tell the difference."""
    monkeypatch.syspath_prepend(str(DEMO))
    monkeypatch.setenv("GUARDTRAIL_DEMO_SERVERS", str(servers))
    import agent
    import servers as demo_servers
    import world

    async def main() -> dict[str, Any]:
        with world.PageServer() as web, (tmp_path / "log").open("w") as log:
            repo = world.Repo(tmp_path / "repo")
            async with demo_servers.git_server(repo.path, log) as git, demo_servers.web_server(log) as fetch:

                async def call(tool: str, args: Mapping[str, object]) -> str:
                    result = await (fetch if tool == "fetch" else git).call_tool(tool, dict(args))
                    return "\n".join(part.text for part in result.content if part.type == "text")

                await agent.work(call, web.url, str(repo.path), repo.mark)
            return {"git": repo.facts(), "web": web.facts()}

    seen = asyncio.run(main())
    assert seen["web"] == {"requests": 2, "collected": 1}
    assert seen["git"]["index_untouched"] is False


def test_its_children_end_with_it(own: Path, told: tuple[dict[str, Any], Path]) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("looks for processes in /proc")
    until = time.monotonic() + 30
    while alive := [line for line in _command_lines() if str(own / "bin" / "mcp-server").encode() in line]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"GUARDTRAIL_DEMO_SERVERS": "/nowhere"}, "mcp-server-git is not installed in /nowhere: make demo-env\n"),
        ({"PATH": "/nowhere"}, "git not found: apt-get install git (or your system's package manager)\n"),
    ],
)
def test_a_missing_part_is_named_in_one_line(tmp_path: Path, env: dict[str, str], says: str) -> None:
    done = run(tmp_path, "--json", **env)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", says)


def test_differences_are_said(monkeypatch: pytest.MonkeyPatch, told: tuple[dict[str, Any], Path]) -> None:
    monkeypatch.syspath_prepend(str(DEMO))
    import story

    result = json.loads(json.dumps(told[0]))
    assert story.differs(result) == []
    result["world"]["web"]["collected"] = 1
    result["verify"]["ok"] = False
    result["steps"][7]["mode"] = "enforce"
    assert story.differs(result) == [
        "one call is allowed with a monitored finding",
        "the page server saw one request, none to /collect",
        "the log verifies",
    ]


def test_the_servers_are_pinned() -> None:
    lines = [line for line in (DEMO / "requirements-servers.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert all("==" in line for line in lines)
    assert {"mcp-server-git", "mcp-server-fetch", "mcp"} <= {line.partition("==")[0] for line in lines}
