"""A small shop as a real MCP server with a guard of its own, on every transport: in memory, over stdio as a child process, over streamable HTTP.

python shop_mcp.py FOLDER          serves stdio; FOLDER has the issuer's key and takes records and the list of what ran
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import CallToolResult, ElicitResult, InputRequiredResult, PaginatedRequestParams

from guard import Guard, LocalIssuer, Policy
from guard.approvals import Approvals
from guard.identity import RevocationList
from guard.record import AuditFile
from guard.telemetry import META_TOKEN
from tests.adapters.common import POLICY, ROOT, listening


class Shop:
    """The folder a server works in, and everything that can be known from outside of it."""

    def __init__(self, folder: Path, kind: str) -> None:
        """`kind`: the module beside this one that makes the server, and is its script."""
        self.folder, self.kind = folder, kind
        if not (folder / "iam.json").exists():
            LocalIssuer("acme-dev").save(folder / "iam.json")
        self.iam = LocalIssuer.load(folder / "iam.json")
        self.desk = Approvals(f"sqlite:{folder / 'asks.db'}", trust=self.iam, folder=folder / "approvals")

        self.taken_back = RevocationList()
        self._guard: Guard | None = None

    def guard(self) -> Guard:
        """One for every server of this process."""
        if self._guard is None:
            policy, sinks = Policy.from_text(POLICY, file="shop.yaml"), [AuditFile(self.folder / "records")]
            self._guard = Guard(policy, trust=self.iam, sinks=sinks, approvals=self.desk, revocations=self.taken_back)
        return self._guard

    def make(self, **options: Any) -> Any:
        return import_module(f"tests.adapters.{self.kind}").make(self, **options)

    def token(self, intent: str = "refund-order", order: str = "A-17", **more: Any) -> str:
        return self.iam.mint(origin="alice", actor="support", intent=intent, params={"order": order}, **more)

    def note(self, tool: str) -> None:
        with (self.folder / "ran").open("a") as file:
            file.write(tool + "\n")

    @property
    def ran(self) -> list[str]:
        return (self.folder / "ran").read_text().split() if (self.folder / "ran").exists() else []

    @property
    def records(self) -> list[dict[str, Any]]:
        files = sorted((self.folder / "records").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    @property
    def codes(self) -> list[str]:
        return [f"{record['verdict']} {record['code']}" for record in self.records if "verdict" in record and "code" in record]


def add_tools(server: Any, shop: Shop, context: Any, fault: type[Exception]) -> None:
    """`context`: the class of the argument in which a tool finds its request. `fault`: the framework's own exception for a tool that fails."""

    def look(order: str, pages: int = 1) -> str:
        shop.note("look")
        return f"order {order}, {pages} page(s)"

    def refund(order: str, amount: str) -> str:
        shop.note("refund")
        return f"refunded {amount} on {order}"

    def wipe(order: str) -> str:
        shop.note("wipe")
        return "wiped"

    def unmapped() -> str:
        shop.note("unmapped")
        return "ran"

    def fail(order: str) -> str:
        shop.note("fail")
        raise fault("hunter2-9f1c")

    def echo(ctx):  # type: ignore[no-untyped-def]
        """What a tool can see of its request."""
        shop.note("echo")
        found = ctx.request_context
        request = getattr(found, "request", None)
        headers = dict(request.headers) if request is not None else {}
        return json.dumps({"meta": dict(found.meta or {}), "headers": headers}, default=str)

    def order(id: str) -> str:
        shop.note("order")
        return f"order {id}"

    def greet(topic: str = "nothing") -> str:
        shop.note("greet")
        return f"speak of {topic}"

    echo.__annotations__ = {"ctx": context, "return": str}
    for body in (look, refund, wipe, unmapped, fail, echo):
        server.tool()(body)
    server.resource("shop://orders/{id}")(order)
    server.prompt()(greet)


class Wire:
    """One connection of the official client to the server."""

    def __init__(self, shop: Shop, client: Client) -> None:
        self.shop, self.client = shop, client

    async def call(self, tool: str, args: Any = None, *, token: str | None = "", meta: Any = None, answers: Any = None) -> Any:
        """`token` "": one of the ordinary task; None: none is sent."""
        sent = dict(meta or {}) | ({} if token is None else {META_TOKEN: token or self.shop.token()})
        return await self.client.session.call_tool(tool, args, meta=sent or None, input_responses=answers, allow_input_required=True)  # type: ignore[call-overload]

    async def listed(self, token: str | None) -> list[str]:
        meta: Any = {} if token is None else {META_TOKEN: token}
        return [tool.name for tool in (await self.client.session.list_tools(params=PaginatedRequestParams(_meta=meta))).tools]


def said(result: Any) -> str:
    assert isinstance(result, CallToolResult), result
    return "\n".join(part.text for part in result.content if part.type == "text")


def asked(result: Any) -> InputRequiredResult:
    assert isinstance(result, InputRequiredResult), result
    return result


async def _yes(*_: Any) -> ElicitResult:
    """Of a client that says yes to everything."""
    return ElicitResult(action="accept", content={})


Served = Callable[..., Any]
"""`(shop, make=..., **options of the client) -> async context manager of a Wire`."""


@asynccontextmanager
async def in_memory(shop: Shop, *, make: Callable[[Shop], Any] = Shop.make, **options: Any) -> AsyncIterator[Wire]:
    server = make(shop)
    async with Client(getattr(server, "_mcp_server", server), elicitation_callback=_yes, **options) as client:
        yield Wire(shop, client)


@asynccontextmanager
async def over_stdio(shop: Shop, *, make: Callable[[Shop], Any] = Shop.make, **options: Any) -> AsyncIterator[Wire]:
    process = StdioServerParameters(
        command=sys.executable, args=[str(ROOT / "tests" / "adapters" / f"{shop.kind}.py"), str(shop.folder)], env={"PYTHONPATH": str(ROOT)}
    )
    async with Client(stdio_client(process), elicitation_callback=_yes, **options) as client:
        yield Wire(shop, client)


@asynccontextmanager
async def over_http(shop: Shop, *, make: Callable[[Shop], Any] = Shop.make, http: Any = None, **options: Any) -> AsyncIterator[Wire]:
    server = make(shop)
    app = server.http_app() if hasattr(server, "http_app") else server.streamable_http_app()
    async with AsyncExitStack() as stack:
        url = stack.enter_context(listening(app))
        http = await stack.enter_async_context(http or create_mcp_http_client())
        async with Client(streamable_http_client(f"{url}/mcp", http_client=http), elicitation_callback=_yes, **options) as client:
            yield Wire(shop, client)


TRANSPORTS: dict[str, Served] = {"memory": in_memory, "stdio": over_stdio, "http": over_http}
