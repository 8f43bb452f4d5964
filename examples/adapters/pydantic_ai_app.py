"""A Pydantic AI agent whose model is a function: what is denied, allowed, asked, and what becomes of an ask. No model, no key.

Prints:

    wipe    failed   wipe denied: refund-order does not use wipe
    look    success  order A-17: paid 49
    refund  waits for somebody of treasury
    refund  success  refunded 40 on A-17
    the model was offered look, refund
"""

import asyncio
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from guard import Guard, LocalIssuer
from guard.adapters.pydantic_ai import GuardCapability
from guard.approvals import Approvals

iam = LocalIssuer("acme-dev")
desk = Approvals("memory:", trust=iam)
guard = Guard(Path(__file__).with_name("refunds.yaml"), trust=iam, approvals=desk)


def look(order: str) -> str:
    """Look at an order."""
    return f"order {order}: paid 49"


def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount} on {order}"


def wipe(order: str) -> str:
    """Wipe an order."""
    return "wiped"


says = iter(
    [
        ToolCallPart("wipe", {"order": "A-17"}, "c1"),
        ToolCallPart("look", {"order": "A-17"}, "c2"),
        ToolCallPart("refund", {"order": "A-17", "amount": "40"}, "c3"),
        TextPart("done"),
    ]
)
offered: set[str] = set()


def script(messages: Any, info: AgentInfo) -> ModelResponse:
    offered.update(tool.name for tool in info.function_tools)
    return ModelResponse([next(says)])


agent: Any = Agent(
    FunctionModel(script),
    tools=[look, refund, wipe],
    capabilities=[GuardCapability(guard)],
    output_type=[str, DeferredToolRequests],
)


def show(messages: list[Any]) -> None:
    for part in (part for message in messages for part in message.parts):
        if isinstance(part, ToolReturnPart):
            print(f"{part.tool_name:7} {part.outcome:8} {str(part.content).partition('[')[0].partition(';')[0].strip()}")


async def main() -> None:
    async with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
        result = await agent.run("Refund 40 on A-17.")
        show(result.new_messages())
        for call in result.output.approvals:
            request = result.output.metadata[call.tool_call_id]
            print(f"{request['tool']:7} waits for somebody of treasury")
            await desk.aapprove(request["id"], iam.login("bob", groups=["treasury"]))
        yes = DeferredToolResults(approvals={call.tool_call_id: True for call in result.output.approvals})
        result = await agent.run(message_history=result.all_messages(), deferred_tool_results=yes)
        show(result.new_messages())
    print("the model was offered", ", ".join(sorted(offered)))


asyncio.run(main())
