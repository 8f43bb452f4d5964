"""A gateway as its users run it: the command, in a folder of its own, before a real server. Over stdio, or HTTP on a free loopback port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp.client.session
import mcp.client.stdio
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

from guard import LocalIssuer
from tests.ports import free

# How long the SDK's client waits for a process to answer first (else it speaks as an older one), and to end (else it is killed before it has written all).
mcp.client.session.DISCOVER_TIMEOUT_SECONDS = mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT = 30.0

SERVER = Path(__file__).with_name("server.py")
COMMAND = str(Path(sys.executable).with_name("guardtrail"))
POLICY = """
guardtrail: 1
name: shop
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}, data: {pages: int}, returns: {format: text, labels: [private]}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
  echo: {effect: read, data: {text: text}}
  fail: {effect: write, control: {order: id}, errors_have_no_effect: true}
  slow: {effect: write, control: {order: id}, errors_have_no_effect: true}
  crash: {effect: write, errors_have_no_effect: true}
  big: {effect: read, data: {size: int}}
  steps: {effect: read, data: {number: int}}
  sure: {effect: read}
  certain: {effect: read}
  reload: {effect: write, data: {text: text}}
  share: {effect: share, data: {text: text}}
  resources.read: {effect: read, control: {uri: id}}
  prompts.get: {effect: read, control: {name: name}, data: {arguments: any}}
@MORE@
intents:
  work:
    description: Work on one order.
    params: {order: id}
    ttl: 1h
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}}, limit: {calls: 3}}
      echo: {}
      fail: {args: {order: {eq: $order}}, limit: {calls: 1}}
      slow: {args: {order: {eq: $order}}, limit: {calls: 1}}
      crash: {limit: {calls: 1}}
      big: {}
      steps: {}
      sure: {}
      certain: {}
      reload: {}
      share: {}
      resources.read: {args: {uri: {one_of: ["memo://open"]}}}
      prompts.get: {args: {name: {one_of: [greet]}}}
@ALLOW@
rules:
  - {id: nothing-leaves, when: {tool: [refund, share]}, forbid_after: [{label: private}], then: deny}
"""


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


async def until(happened: Callable[[], bool]) -> None:
    """Wait for it. What a test waits for is seen, not guessed by the clock."""
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.02)


class World:
    """One folder with a policy, an issuer, a server's notes; and what the gateway there has recorded."""

    def __init__(self, folder: Path, *, more: str = "", allow: str = "", policy: str = POLICY) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.notes = folder / "notes"
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy.replace("@MORE@", more).replace("@ALLOW@", allow))
        self.env = {**os.environ, "GUARDTRAIL_DIR": str(self.home)}
        self.env.pop("GUARDTRAIL_TOKEN", None)
        key = self.home / "issuers" / "acme-dev.json"
        key.parent.mkdir(mode=0o700, parents=True)
        LocalIssuer("acme-dev").save(key)
        self.params: dict[str, Any] = {"order": "A-17"}
        self.mine = ""
        """The token that was minted last."""
        self.serving: subprocess.Popen[bytes] | None = None
        self.iam = LocalIssuer.load(self.home / "issuers" / "acme-dev.json")

    def token(self, order: str = "A-17", **options: Any) -> str:
        self.mine = self.iam.mint(origin="alice", actor="agent", intent="work", params={**self.params, "order": order}, ttl="1h", **options)
        return self.mine

    @property
    def ran(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    @property
    def records(self) -> list[dict[str, Any]]:
        log = self.home / "audit.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def decisions(self) -> list[str]:
        """`tool verdict code`, the opening of tasks left out."""
        return [f"{each['tool']} {each['verdict']} {each['code']}" for each in self.records if each["kind"] == "decision"]

    @property
    def outcomes(self) -> list[str]:
        return [f"{each['tool']} {each['status']}" for each in self.records if each["kind"] == "outcome"]

    # -- processes -------------------------------------------------------------------------------------------------------------------

    def behind(self) -> list[str]:
        """The command of the server."""
        return [sys.executable, str(SERVER), str(self.notes), "stdio"]

    @contextmanager
    def server(self, *more: str, port: int = 0) -> Iterator[str]:
        """The same over HTTP: its address."""
        port = port or free()
        with subprocess.Popen(
            [sys.executable, str(SERVER), str(self.notes), "http", str(port), *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            self.serving = process
            try:
                _until_up(port, process)
                yield f"http://127.0.0.1:{port}/mcp"
            finally:
                process.kill()

    def line(self, *given: str, memory: bool = True) -> list[str]:
        state = ["--state", "memory:"] if memory else []
        return [COMMAND, "mcp", "-p", str(self.policy), "--pins", str(self.folder / "pins.json"), *state, *given]

    def run(self, *given: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            [COMMAND, *given], env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, **options
        )

    @contextmanager
    def gateway(self, *given: str, memory: bool = True, pin: bool = True) -> Iterator[Gateway]:
        """Over HTTP. `given`: what comes after the policy."""
        own = ["--trust-on-first-use"] if pin else []
        log = self.folder / "gateway.log"
        with log.open("a") as file:
            line = self.line("--local", "acme-dev", "--listen", "127.0.0.1:0", "--json", *own, *given, memory=memory)
            process = subprocess.Popen(line, env=self.env, cwd=self.folder, stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            assert process.stdout is not None
            said = ""
            while not said.endswith("}\n") or said.count("{") != said.count("}"):
                line_ = process.stdout.readline()
                assert line_, log.read_text()
                said += line_
            yield Gateway(self, process, json.loads(said))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.stdout.close()  # type: ignore[union-attr]
            process.wait()

    @asynccontextmanager
    async def stdio(
        self,
        *given: str,
        mode: str = "auto",
        token: str | None = None,
        pin: bool = True,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        memory: bool = True,
        **options: Any,
    ) -> AsyncIterator[Client]:
        own = ["--trust-on-first-use"] if pin else []
        whole = {**self.env, "GUARDTRAIL_TOKEN": token if token is not None else self.token(), **(env or {})}
        behind = self.behind() if command is None else command
        line = self.line(*own, *given, *(["--", *behind] if behind else []), memory=memory)
        async with Client(
            StdioServerParameters(command=line[0], args=line[1:], env=whole, cwd=str(self.folder)), mode=mode, **options
        ) as client:
            yield client


class Gateway:
    """One that listens."""

    def __init__(self, world: World, process: subprocess.Popen[str], said: dict[str, Any]) -> None:
        self.world, self.process, self.said = world, process, said
        self.url: str = said["url"]

    @asynccontextmanager
    async def client(
        self, token: str | None = None, *, mode: str = "auto", headers: Mapping[str, str] | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        given = headers if headers is not None else {"authorization": f"Bearer {token or self.world.token()}"}
        async with httpx2.AsyncClient(headers=dict(given), timeout=60) as http:
            async with Client(streamable_http_client(self.url, http_client=http), mode=mode, **options) as client:
                yield client

    @property
    def memory(self) -> int:
        """Resident, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError


def _until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None, "the server did not start"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server does not listen")
