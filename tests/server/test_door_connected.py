"""The door and a real authorization server: a token that it has bound to an agent's key, and its keys over HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guard import Guard, Issuer, Policy
from guard.identity import HolderKey
from guard.record import ListSink
from guard.server import Door
from tests.servers.authorization import TOOLS, AuthorizationServer, new_key

URL = "https://desk.acme.example"
POLICY = """
guardtrail: 1
name: desk
owner: support@acme.example
tools: {look: {effect: read, control: {order: id}}}
flow: {read: {allow: [any]}}
intents: {work: {ttl: 1h, allow: {look: {}}}}
"""


def test_a_token_of_the_real_server(authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    issuer = Issuer(authorization_server.issuer, audience=TOOLS)
    guard = Guard(Policy.from_text(POLICY), trust=issuer, sinks=[ListSink()], deadline=timedelta(seconds=20))

    @guard.tool
    def look(order: str) -> str:
        return order

    async def looks(request: Request) -> Response:
        return JSONResponse(look("A-17"))

    door = Middleware(Door, guard=guard, url=URL, servers=[authorization_server.issuer])
    app = Starlette(routes=[Route("/look", looks)], middleware=[door])
    secret = new_key()
    (tmp_path / "agent.jwk").write_text(json.dumps(secret))
    (tmp_path / "agent.jwk").chmod(0o600)
    key = HolderKey.load(tmp_path / "agent.jwk")
    task = [{"type": "agent_task", "intent": "work"}]
    bound = authorization_server.client_credentials("worker-bound", details=task, dpop=secret)
    plain = authorization_server.client_credentials("worker", details=task)

    async def story() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as agent:

            async def get(token: str, nonce: str | None = None, by: HolderKey = key) -> httpx.Response:
                proof = by.dpop("GET", f"{URL}/look", presented=token, nonce=nonce)
                return await agent.get("/look", headers={"authorization": f"DPoP {token}", "dpop": proof})

            nonce = (await get(bound)).headers["dpop-nonce"]
            found = [await get(bound, nonce), await get(bound, nonce, HolderKey.generate()), await get(plain, nonce)]
            found += [await agent.get("/look", headers={"authorization": f"Bearer {token}"}) for token in (bound, plain)]
            metadata = await agent.get("/.well-known/oauth-protected-resource")
            assert metadata.json()["authorization_servers"] == [authorization_server.issuer]
            return [one.status_code for one in found]

    assert asyncio.run(story()) == [200, 401, 401, 401, 200]
