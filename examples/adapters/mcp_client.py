"""A client of an MCP server that knows no guard: calls are judged before they leave the process. `python examples/adapters/mcp_client.py`."""

import asyncio

from mcp import Client
from mcp.server import MCPServer

from guard import Guard, LocalIssuer, Policy
from guard.adapters.mcp import GuardedSession
from guard.record import ListSink

POLICY = """
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  wipe: {effect: delete, control: {order: id}}
flow: {read: {allow: [any]}, delete: {allow: [any]}}
intents:
  look-order:
    description: Look at one order.
    params: {order: id}
    allow:
      look: {args: {order: {eq: $order}}}
"""

iam = LocalIssuer("acme-dev")
guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()])
server = MCPServer("shop")


@server.tool()
def look(order: str) -> str:
    """Look up an order."""
    return f"order {order}: paid 20"


@server.tool()
def wipe(order: str) -> str:
    """Forget an order."""
    return f"wiped {order}"


async def main() -> None:
    token = iam.mint(origin="alice", actor="support-agent", intent="look-order", params={"order": "A-17"})
    async with Client(server) as client, guard.task(token):
        tools = GuardedSession(guard, client.session)
        print("offered:", ", ".join(tool.name for tool in (await tools.list_tools()).tools))
        for tool, order in (("look", "A-17"), ("look", "B-99"), ("wipe", "A-17")):
            result = await tools.call_tool(tool, {"order": order})
            print(f"{tool}: {result.content[0].text}")


asyncio.run(main())
