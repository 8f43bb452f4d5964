"""An agent of the Microsoft Agent Framework with a guard before every tool. The model is one that says a script; put a real chat client in its place."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from agent_framework import Agent, BaseChatClient, ChatMiddlewareLayer, ChatResponse, Content, FunctionInvocationLayer, Message

from guard import Guard, LocalIssuer, Policy
from guard.adapters.agent_framework import GuardMiddleware
from guard.record import ListSink

POLICY = Policy.from_text("""
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
intents:
  refund-order:
    description: Refund one order, up to a ceiling.
    params: {order: id, ceiling: decimal}
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 1}}
flow: {read: {allow: [any]}, pay: {allow: [any]}, delete: {allow: [any]}}
""")


def look(order: str) -> dict[str, str]:
    """Look up an order."""
    return {"order": order, "paid": "20"}


def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {Decimal(amount):.2f} on {order}"


def wipe(order: str) -> str:
    """Delete an order."""
    return f"wiped {order}"


def call(id: str, name: str, **args: str) -> Content:
    return Content.from_function_call(call_id=id, name=name, arguments=args)


SCRIPT = [
    [call("c1", "look", order="A-17"), call("c2", "look", order="B-1")],
    [call("c3", "refund", order="A-17", amount="500"), call("c4", "wipe", order="A-17")],
    [call("c5", "refund", order="A-17", amount="20")],
    [Content.from_text("Refunded 20.00 on A-17.")],
]


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    async def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **more: Any) -> ChatResponse:
        return ChatResponse(messages=[Message(role="assistant", contents=SCRIPT.pop(0))])


iam = LocalIssuer("acme-dev")
guard = Guard(POLICY, trust=iam, sinks=[ListSink()])
agent = Agent(client=Scripted(), name="support", tools=[look, refund, wipe], middleware=[GuardMiddleware(guard)])
token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})


async def main() -> None:
    async with guard.task(token):
        response = await agent.run("Refund my order A-17.")
    for message in response.messages:
        for content in message.contents:
            if content.type == "function_result":
                print(f"{content.call_id}: {content.result}")
            elif content.type == "text":
                print(content.text)


asyncio.run(main())
