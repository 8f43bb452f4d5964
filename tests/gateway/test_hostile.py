"""A server that means harm, and what of it reaches a client."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from guard.gateway.links import HttpLink
from guard.gateway.pins import Pins
from guard.gateway.server import Server
from tests.gateway.test_http import call, post
from tests.gateway.world import World, text_of, until

POLICY = """
guardtrail: 1
name: hostile
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  resources.read: {effect: read, control: {uri: id}}
  elicitation.create: {effect: read, data: {message: text}}
@TOOLS@
intents:
  work:
    description: Everything.
    params: {order: id}
    ttl: 1h
    allow: {look: {}, resources.read: {}, elicitation.create: {}, twice: {}, spoof: {}, address: {}, flood: {}, junk: {}, two: {}, nothing: {}, wrong: {}}
scopes: {"orders.read": [look], "orders.all": [look, junk]}
""".replace(
    "@TOOLS@",
    "\n".join(f"  {name}: {{effect: read}}" for name in ("twice", "spoof", "address", "flood", "junk", "two", "nothing", "wrong")),
)


@pytest.mark.parametrize("front", ["stdio", "http"])
def test_what_a_server_makes_of_its_answers(tmp_path: Path, front: str) -> None:
    world = World(tmp_path, policy=POLICY)
    behind = [sys.executable, str(Path(__file__).with_name("hostile.py"))]
    told: list[Any] = []

    async def progress(*given: Any) -> None:
        told.append(given)

    async def drive(client: Any) -> None:
        listed = (await client.list_tools()).tools
        assert sorted(tool.name for tool in listed) == ["address", "flood", "junk", "look", "nothing", "spoof", "two", "wrong"]
        assert "ssh" not in str(listed)
        for name in ("resources.read", "elicitation.create"):
            assert "tool.unknown" in text_of(await client.call_tool(name, {}))
        assert "tool.changed" in text_of(await client.call_tool("twice", {}))
        spoofed = await client.call_tool("spoof", {})
        assert (
            text_of(spoofed) == "spoof"
            and not [key for key in spoofed.meta or {} if key.startswith("guardtrail.io")]
            and spoofed.meta["own"] == 1
        )
        sent = await client.call_tool("address", {})
        assert sent.is_error and "evil" not in sent.model_dump_json()
        with pytest.raises(MCPError) as address:
            await client.read_resource("memo://in")
        assert "evil" not in address.value.error.model_dump_json()
        with pytest.raises(MCPError) as spoof:  # the gateway's own word for a no
            await client.read_resource("memo://no")
        assert spoof.value.error.code != -32010
        async with asyncio.timeout(100):
            assert text_of(await client.call_tool("flood", {}, progress_callback=progress)) == "flood"
        for name in ("junk", "two", "junk"):
            assert text_of(await client.call_tool(name, {})) == name
        assert "is not known" in text_of(await client.call_tool("nothing", {}))
        with pytest.raises(MCPError):
            await client.call_tool("wrong", {})
        assert text_of(await client.call_tool("look", {"order": "A-17"})) == "look"

    async def main() -> None:
        if front == "stdio":
            async with world.stdio(command=behind, mode="legacy") as client:
                await drive(client)
        else:
            with world.gateway("--", *behind) as gate:
                async with gate.client() as client:
                    await drive(client)

    asyncio.run(main())
    assert [
        each for each in world.decisions if each.startswith("sampling")
    ] == [] or "sampling.createMessage deny tool.unknown" in world.decisions
    assert world.outcomes.count("nothing unknown") == 1 and world.outcomes.count("wrong error") == 1


def test_a_challenge_names_the_scopes_that_would_do(tmp_path: Path) -> None:
    world = World(tmp_path, policy=POLICY)
    with world.gateway("--", sys.executable, str(Path(__file__).with_name("hostile.py"))) as gate:
        answer = post(gate, call(), token=world.token(tools=["junk"]))
        assert answer.status_code == 403
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert 'scope="orders.all orders.read"' in answer.headers["www-authenticate"]


def test_what_was_taken_back_is_a_bad_token(tmp_path: Path) -> None:
    """A task that is kept open is asked about with every call."""
    world = World(tmp_path)
    world.run("init", "--mcp", "-o", "x.yaml", "--pins", str(tmp_path / "pins.json"), "--", *world.behind())
    with world.gateway("--", *world.behind(), memory=False) as gate:
        token = world.token()
        assert "order A-17" in post(gate, call(), token=token).text
        assert world.run("revoke", "--actor", "agent", "--state", f"sqlite:{world.home / 'state.db'}").returncode == 0
        time.sleep(1.5)
        answer = post(gate, call(), token=token)
        assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
        listing = post(gate, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, token=token)
        assert listing.status_code == 401
    assert world.ran == ["look A-17"]


def test_a_server_that_never_takes_a_notification_is_greeted_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: it answers `initialize`, and leaves what follows unanswered; the gateway, and every other server of it, would wait for ever."""
    monkeypatch.setattr("guard.gateway.server._POST", 0.2)
    gone: list[str] = []
    says: dict[str, dict[str, Any]] = {
        "server/discover": {"error": {"code": -32601, "message": "no"}},
        "initialize": {"result": {"protocolVersion": "2025-06-18", "capabilities": {}}},
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                message = json.loads(await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])))
                if message["method"] in says:
                    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **says[message["method"]]}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            gone.append("a connection")
        finally:
            writer.close()

    async def play() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
            server = Server("slow", HttpLink(url, {}), Pins.read(tmp_path / "pins.json"))
            async with asyncio.timeout(30):
                await server.start()
            assert server.version == "2025-06-18"
            await server.close()
            await until(lambda: bool(gone))  # the one on which nothing came back

    asyncio.run(play())
