"""The MCP gateway over HTTP: the official SDK's client calls one tool of one real server directly, through the gateway, and through a bare pass-through.

Wall time of a call, p50, in turns in one run; the ratio is the median of the rounds'. The pass-through is the gateway's own HTTP stack (the same server in front,
the same client behind, every message read and written once) and nothing else: no token, no guard, no pins.

    python -m benchmarks.gateway server PORT | pass PORT URL        what the rows start
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter_ns, sleep
from typing import Any

from benchmarks.measure import Row

__all__ = ["gateway_rows"]

POLICY = """
guardtrail: 1
name: bench
owner: bench@acme.example
tools: {look: {effect: read, control: {order: id}, data: {pages: int}, returns: {format: text}}}
intents: {work: {description: Look., params: {order: id}, ttl: 10h, allow: {look: {args: {order: {eq: $order}}}}}}
"""
ARGS = {"order": "A-17", "pages": 2}


def gateway_rows(rounds: int) -> Iterator[Row]:
    """`added`: (through - direct) / direct. The bar stands at the revision that hosts and servers in the field speak; of the newest, whose direct call costs less,
    the figure informs: there the bare pass-through alone adds about half a call."""
    with tempfile.TemporaryDirectory() as folder, _started(Path(folder)) as (direct, through, bare, kept, token):
        older = asyncio.run(_measure([direct, through, kept], token, rounds, "legacy"))
        newest = asyncio.run(_measure([direct, through, bare], token, rounds, "auto"))

    def row(name: str, times: list[list[float]], one: int, other: int, reference: str, bar: float | None = None, *, less: int = 1) -> Row:
        ratio = median(a / b for a, b in zip(times[one], times[other], strict=True)) - less
        micros = (median(times[one]) - less * median(times[other])) / 1000
        return Row(name, round(micros, 1), reference, round(ratio, 3), bar)

    yield row("gateway.http_added", older, 1, 0, "direct, 2025-11-25", 0.5)
    yield row("gateway.http_added_sqlite", older, 2, 0, "direct, 2025-11-25")
    yield row("gateway.http_added_newest", newest, 1, 0, "direct, 2026-07-28")
    yield row("gateway.bare_added_newest", newest, 2, 0, "direct, 2026-07-28")
    yield row("gateway.vs_passthrough", newest, 1, 2, "bare pass-through", 1.3, less=0)


async def _measure(urls: Sequence[str], token: str, rounds: int, mode: str) -> list[list[float]]:
    """Of each: the p50 of every round, in nanoseconds."""
    times: list[list[float]] = [[] for _ in urls]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(url, token, mode)) for url in urls]
        for turn in range(rounds + 1):
            order = list(enumerate(clients))
            for number, client in order if turn % 2 else reversed(order):
                took = []
                for _ in range(20):
                    start = perf_counter_ns()
                    answer = await client.call_tool("look", ARGS)
                    took.append(perf_counter_ns() - start)
                    if answer.is_error:
                        raise RuntimeError(str(answer))
                if turn:
                    times[number].append(median(took))
    return times


@asynccontextmanager
async def _client(url: str, token: str, mode: str = "auto") -> AsyncIterator[Any]:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            yield client


@contextmanager
def _started(folder: Path) -> Iterator[tuple[str, str, str, str, str]]:
    from guard import LocalIssuer

    (folder / "policy.yaml").write_text(POLICY)
    key = folder / "home" / "issuers" / "bench.json"
    key.parent.mkdir(parents=True, mode=0o700)
    LocalIssuer("bench").save(key)
    iam = LocalIssuer.load(key)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*line: str, port: int) -> str:
        env = {**os.environ, "GUARDTRAIL_DIR": str(folder / "home")}
        processes.append(subprocess.Popen([*line], env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until = monotonic() + 30
        while monotonic() < until and processes[-1].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}/mcp"
            sleep(0.05)
        raise RuntimeError(f"{line[0]} does not listen")

    own = [sys.executable, str(Path(__file__).resolve())]
    command = str(Path(sys.executable).with_name("guardtrail"))
    ports = [_free() for _ in range(4)]
    try:
        direct = start(*own, "server", str(ports[0]), port=ports[0])
        gate = [command, "mcp", "-p", "policy.yaml", "--local", "bench", "--url", direct, "--trust-on-first-use"]
        through = start(*gate, "--state", "memory:", "--listen", f"127.0.0.1:{ports[1]}", port=ports[1])
        bare = start(*own, "pass", str(ports[2]), direct, port=ports[2])
        kept = start(*gate, "--listen", f"127.0.0.1:{ports[3]}", port=ports[3])
        sleep(1.1)  # a token is to be younger than the store, by the second
        token = iam.mint(origin="alice", actor="worker", intent="work", params={"order": "A-17"}, ttl="1h")
        yield direct, through, bare, kept, token
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _server(port: int) -> None:
    import uvicorn
    from mcp.server import MCPServer

    server = MCPServer("bench", version="1", log_level="ERROR")

    @server.tool()
    def look(order: str, pages: int = 1) -> str:
        return f"order {order}, {pages} page(s)"

    # As the SDK installs it: uvicorn by itself.
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=port, log_level="error", loop="asyncio", http="h11")


async def _pass(port: int, url: str) -> None:
    from guard.cli.serving import listen
    from guard.gateway.links import HttpLink
    from guard.gateway.rpc import dumps, strict
    from guard.gateway.serve import serve

    link = HttpLink(url, {})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name.startswith(b"mcp-")}
        answer = dumps(await link.exchange(strict(body), headers, lambda message: None))
        about = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": about})
        await send({"type": "http.response.body", "body": answer})

    await serve(app, listen("127.0.0.1", port))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        _server(int(sys.argv[2]))
    elif sys.argv[1] == "pass":
        from guard.gateway.serve import run

        run(_pass(int(sys.argv[2]), sys.argv[3]))
    else:
        print(json.dumps([[row.name, row.cpu_us_median, row.ratio] for row in gateway_rows(int(sys.argv[2]))]))
