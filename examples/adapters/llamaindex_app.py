"""A LlamaIndex agent with a guard before every tool, and a refund that waits for a person. The model says a script; put `llm=OpenAI(...)` in its place.

Prints:
    offered: look, refund
    look: order A-17: paid 40
    refund: refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
    wipe: wipe denied: refund-order does not use wipe [intent.tool]
    refund waits for ['large']
    refund: refunded 40 on A-17
    Refunded 40 on A-17.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM

from guard import Guard, LocalIssuer
from guard.adapters.llamaindex import ApprovalNeeded, guard_agent
from guard.approvals import Approvals
from guard.record import ListSink


def look(order: str) -> str:
    """Look up an order."""
    return f"order {order}: paid 40"


def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount} on {order}"


def wipe(order: str) -> str:
    """Delete an order."""
    return f"wiped {order}"


SCRIPT: list[Any] = [
    ("c1", "look", {"order": "A-17"}),
    ("c2", "refund", {"order": "A-17", "amount": "500"}),
    ("c3", "wipe", {"order": "A-17"}),
    ("c4", "refund", {"order": "A-17", "amount": "40"}),
    "Refunded 40 on A-17.",
]


def say(messages: Any, **_: Any) -> ChatMessage:
    said = SCRIPT[sum(message.role == "tool" for message in messages)]
    if isinstance(said, str):
        return ChatMessage(role="assistant", blocks=[TextBlock(text=said)])
    return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id=said[0], tool_name=said[1], tool_kwargs=said[2])])


async def main() -> None:
    iam = LocalIssuer("acme-dev")
    desk = Approvals("memory:", trust=iam)
    guard = Guard(Path(__file__).with_name("refunds.yaml"), trust=iam, sinks=[ListSink()], approvals=desk, deadline=timedelta(seconds=10))
    agent = guard_agent(
        guard, FunctionAgent(tools=[look, refund, wipe], llm=MockFunctionCallingLLM(response_generator=say), streaming=False)
    )
    token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
    async with guard.task(token):
        print("offered:", ", ".join(tool.metadata.name for tool in await agent.get_tools()))
        handler = agent.run("Refund my order A-17.")
        async for event in handler.stream_events():
            if isinstance(event, ApprovalNeeded):
                print(f"{event.tool_name} waits for {event.request['asks']}")
                await desk.aapprove(event.request["id"], iam.login("bob", groups=["treasury"]))  # bob does this, on a page of his
                handler.ctx.send_event(event.answer(True))
            elif isinstance(event, ToolCallResult):
                print(f"{event.tool_name}: {event.tool_output.content}")
        print(await handler)


if __name__ == "__main__":
    asyncio.run(main())
