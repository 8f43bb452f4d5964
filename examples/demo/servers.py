"""The two third-party MCP servers, each a child process over stdio, stopped with the block that started it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TextIO

from mcp import ClientSession, StdioServerParameters, stdio_client
from world import GIT_ENV

__all__ = ["folder", "git_server", "missing", "web_server"]

_SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


def folder() -> Path:
    """The environment of the servers: `.venv-demo-servers` beside the Makefile, or where GUARDTRAIL_DEMO_SERVERS says."""
    given = os.environ.get("GUARDTRAIL_DEMO_SERVERS")
    return Path(given) if given else Path(__file__).resolve().parents[2] / ".venv-demo-servers"


def missing() -> str | None:
    """One line that names what is not installed and the command that installs it; None where everything is."""
    for name in ("mcp-server-git", "mcp-server-fetch"):
        if not _command(name).exists():
            return f"{name} is not installed in {folder()}: make demo-env"
    return None


def git_server(repository: Path, log: TextIO) -> AbstractAsyncContextManager[ClientSession]:
    # Talks to this repository only, whatever path a call names.
    return _session(
        StdioServerParameters(command=str(_command("mcp-server-git")), args=["--repository", str(repository)], env=GIT_ENV), log
    )


def web_server(log: TextIO) -> AbstractAsyncContextManager[ClientSession]:
    # Loopback is refused by this server unless told otherwise. Its PATH holds no node: with node it would run `npm install` at the
    # first page, and no proxy may stand between it and loopback.
    env = {"PATH": str(folder() / _SCRIPTS), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    args = ["--allow-private-ips", "--ignore-robots-txt"]
    return _session(StdioServerParameters(command=str(_command("mcp-server-fetch")), args=args, env=env), log)


def _command(name: str) -> Path:
    return folder() / _SCRIPTS / (name + (".exe" if sys.platform == "win32" else ""))


@asynccontextmanager
async def _session(server: StdioServerParameters, log: TextIO) -> AsyncIterator[ClientSession]:
    async with stdio_client(server, errlog=log) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session
