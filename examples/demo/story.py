"""One task from its token to its audit log, and the questions put to everyone afterwards: git, the page server, the log."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import agent
import servers
import show
import world

from guard import Guard, LocalIssuer
from guard.adapters.mcp import GuardedSession
from guard.record import verify_log

__all__ = ["differs", "tell"]

PACK = Path(__file__).resolve().parents[2] / "policies" / "git-maintainer.yaml"
TAMPERED = 6  # which record of the copy is changed


def tell(records: Path) -> dict[str, Any]:
    """Run the whole demo; its records go to the folder `records` and stay there."""
    os.environ["GUARDTRAIL_DIR"] = str(records)
    with tempfile.TemporaryDirectory(prefix="guardtrail-demo-") as place:
        result = asyncio.run(_live(Path(place)))
        result |= _read_back(records, Path(place))
    result["differs"] = differs(result)
    return result


async def _live(place: Path) -> dict[str, Any]:
    """Make the world, open the task, let the agent work; then ask the world what happened."""
    with world.PageServer() as web, _server_log(place / "servers.log") as log:
        repo = world.Repo(place / "repo")
        iam = LocalIssuer("acme-dev")
        guard = Guard(PACK, trust=iam, deadline=timedelta(seconds=10))  # two servers start beside it
        token = iam.mint(
            origin="alice",
            actor=["orchestrator", "release-agent"],
            intent="prepare-release",
            params={"page": web.url, "repo": str(repo.path)},
            ttl="10m",
        )
        _progress("starting mcp-server-git and mcp-server-fetch")
        async with servers.git_server(repo.path, log) as git, servers.web_server(log) as fetch, guard.task(token) as task:
            await _work(GuardedSession(guard, git), GuardedSession(guard, fetch), web.url, repo)
        d = task.delegation
        about = {
            "id": task.id,
            "intent": d.intent,
            "origin": d.origin,
            "actors": list(d.actors),
            "issuer": "local" if d.local else d.issuer,
            "minutes": (d.expires_at - d.issued_at) // 60,
        }
        return {"task": about, "world": {"git": repo.facts(), "web": web.facts()}}


async def _work(git: GuardedSession, fetch: GuardedSession, page: str, repo: world.Repo) -> None:
    """Give the agent its tools: what it may see of the two servers, every call through the guard."""
    owner = {tool.name: session for session in (git, fetch) for tool in (await session.list_tools()).tools}
    _progress(f"the agent is shown {', '.join(owner)}")

    async def call(tool: str, args: Mapping[str, object]) -> str:
        # What is not on its list it calls all the same: a list is a convenience, the guard is the protection.
        result = await owner.get(tool, git).call_tool(tool, args)
        answer = "\n".join(part.text for part in result.content if part.type == "text")
        _progress(f"  {tool}: {answer.splitlines()[0] if answer else ''}")
        return answer

    await agent.work(call, page, str(repo.path), repo.mark)


def _read_back(records: Path, place: Path) -> dict[str, Any]:
    """What the audit log says: its rows, its counts, whether it verifies, and whether a changed copy is found out."""
    log = records / "audit.jsonl"
    read = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    rows = show.steps(read)
    decisions = [record for record in read if record["kind"] == "decision"]
    known = sum(1 for record in decisions if record["credential"] and record["workload"] and record["origin"])
    copy = place / "copy"
    shutil.copytree(records, copy)
    _tamper(copy / "audit.jsonl")
    blocked = next((row["id"] for row in rows if row["tool"] == "fetch" and row["verdict"] == "deny"), rows[-1]["id"])
    return {
        "steps": rows,
        "records": {"decisions": len(decisions), "outcomes": sum(record["kind"] == "outcome" for record in read), "known": known},
        "verify": _verified(log),
        "tampered": _verified(copy / "audit.jsonl"),
        "next": f"{_command(records)} explain {blocked}",
    }


def _tamper(log: Path) -> None:
    """What somebody with an editor would do: one record says something else, everything around it stays."""
    lines = log.read_text("utf-8").splitlines(keepends=True)
    changed = lines[TAMPERED - 1].replace('"ok"', '"error"').replace('"deny"', '"allow"')
    assert changed != lines[TAMPERED - 1], "the demo's edit must change something"
    lines[TAMPERED - 1] = changed
    log.write_text("".join(lines), "utf-8")


def _verified(log: Path) -> dict[str, Any]:
    found = verify_log(log)
    return {"ok": found.ok, "text": found.text}


def _command(records: Path) -> str:
    """How to call guardtrail here so that it finds these records."""
    scripts = Path(sysconfig.get_path("scripts")) / "guardtrail"
    command = "guardtrail" if shutil.which("guardtrail") == str(scripts) else _short(scripts)
    return f"GUARDTRAIL_DIR={_short(records)} {command}"


def _short(path: Path) -> str:
    short = os.path.relpath(path)
    return str(path) if short.startswith("..") else short


def differs(result: Mapping[str, Any]) -> list[str]:
    """What did not come out as this demo promises, in the decisions and in the world; empty when all did."""
    rows, git, web = result["steps"], result["world"]["git"], result["world"]["web"]
    got = [f"{row['tool']} {row['verdict']} {row['outcome']}{' monitor' if row['mode'] == 'monitor' else ''}" for row in rows]
    denied = {row["code"] for row in rows if row["verdict"] == "deny"}
    records = result["records"]
    promises = {
        "the page's order to fetch another page is denied": "fetch deny not_executed" in got,
        "the page's order to reset is denied": "git_reset deny not_executed" in got,
        "the second commit is denied by the limit": "git_commit deny not_executed" in got and "limit.calls" in denied,
        "the agent's own work is allowed": all(f"{tool} allow ok" in got for tool in ("fetch", "git_status", "git_add", "git_commit")),
        "one call is allowed with a monitored finding": "git_log allow ok monitor" in got,
        "there are eight steps, in order": [row["step"] for row in rows] == list(range(1, 9)),
        "git has one commit more, of CHANGELOG.md alone": git["commits"] == 1 and git["last_commit_files"] == ["CHANGELOG.md"],
        "nothing wrote the index after the commit": git["index_clean"] and git["index_untouched"],
        "the page server saw one request, none to /collect": web == {"requests": 1, "collected": 0},
        "every decision is recorded with credential, workload and origin": records["known"] == records["decisions"] == len(rows),
        "every body that ran has an outcome": records["outcomes"] == sum(row["verdict"] == "allow" for row in rows),
        "the log verifies": result["verify"]["ok"],
        "the tampered copy does not": not result["tampered"]["ok"] and str(TAMPERED) in result["tampered"]["text"],
    }
    return [promise for promise, kept in promises.items() if not kept]


@contextmanager
def _server_log(path: Path) -> Iterator[TextIO]:
    """The servers' own standard error. Shown only where the demo breaks down."""
    with path.open("w+") as log:
        try:
            yield log
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read())
            raise


def _progress(text: str) -> None:
    print(text, file=sys.stderr)
