"""A Strands agent with a guard before every tool. The model is one that says a script; leave `model=` out for a real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from strands import Agent, tool
from strands.models import Model

from guard import Guard, LocalIssuer, Policy
from guard.adapters.strands import GuardHooks
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


@tool
def look(order: str) -> dict[str, str]:
    """Look up an order."""
    return {"order": order, "paid": "20"}


@tool
def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {Decimal(amount):.2f} on {order}"


@tool
def wipe(order: str) -> str:
    """Delete an order."""
    return f"wiped {order}"


SCRIPT: list[Any] = [
    [("look", {"order": "A-17"}), ("look", {"order": "B-1"})],
    [("refund", {"order": "A-17", "amount": "500"}), ("wipe", {"order": "A-17"})],
    [("refund", {"order": "A-17", "amount": "20"})],
    "Refunded 20.00 on A-17.",
]


class Scripted(Model):
    def update_config(self, **config: Any) -> None: ...

    def get_config(self) -> dict[str, Any]:
        return {}

    def structured_output(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *args: Any, **more: Any) -> AsyncIterator[Any]:
        said = SCRIPT.pop(0)
        blocks = [({"start": {}}, {"text": said})] if isinstance(said, str) else []
        for place, (name, given) in enumerate([] if isinstance(said, str) else said):
            use = {"toolUseId": f"{len(messages)}.{place}", "name": name}
            blocks.append(({"start": {"toolUse": use}}, {"toolUse": {"input": json.dumps(given)}}))
        yield {"messageStart": {"role": "assistant"}}
        for start, delta in blocks:
            yield {"contentBlockStart": start}
            yield {"contentBlockDelta": {"delta": delta}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if isinstance(said, str) else "tool_use"}}


iam = LocalIssuer("acme-dev")
guard = Guard(POLICY, trust=iam, sinks=[ListSink()])
agent = Agent(model=Scripted(), tools=[look, refund, wipe], hooks=[GuardHooks(guard)], callback_handler=None)
token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
with guard.task(token):
    result = agent("Refund my order A-17.")

for message in agent.messages:
    for block in message["content"]:
        if "toolResult" in block:
            answer = block["toolResult"]
            print(f"{answer['status']}: {answer['content'][0]['text']}")
print(result)
