"""A FastMCP server whose tools are guarded, and a client that brings a token with each call. No model, no key: `python examples/adapters/fastmcp_server.py`."""

import asyncio

from fastmcp import Client, FastMCP

from guard import Guard, LocalIssuer, Policy
from guard.adapters.fastmcp import GuardMiddleware
from guard.record import ListSink

POLICY = """
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
flow: {read: {allow: [any]}, pay: {allow: [any]}, delete: {allow: [any]}}
intents:
  refund-order:
    description: Refund one order, up to a ceiling.
    params: {order: id, ceiling: decimal}
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 1}}
"""

iam = LocalIssuer("acme-dev")
guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()])
server = FastMCP("refunds", middleware=[GuardMiddleware(guard)])


@server.tool
def look(order: str) -> str:
    """Look up an order."""
    return f"order {order}: paid 20"


@server.tool
def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount} on {order}"


@server.tool
def wipe(order: str) -> str:
    """Forget an order."""
    return f"wiped {order}"


async def main() -> None:
    token = iam.mint(origin="alice", actor="support-agent", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
    async with Client(server) as client:
        for tool, args in (
            ("look", {"order": "A-17"}),
            ("look", {"order": "B-99"}),
            ("refund", {"order": "A-17", "amount": "20"}),
            ("refund", {"order": "A-17", "amount": "20"}),
            ("wipe", {"order": "A-17"}),
        ):
            result = await client.session.call_tool(tool, args, meta={"guardtrail.io/token": token})
            print(f"{tool}: {result.content[0].text}")
        result = await client.session.call_tool("look", {"order": "A-17"})
        print(f"without a token: {result.content[0].text}")


asyncio.run(main())
