"""A smolagents agent with a guard before every tool. The model says a script; put `model=InferenceClientModel()` in its place.

Prints:
    offered: look, refund, final_answer
    order A-17: paid 20
    refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
    wipe denied: refund-order does not use wipe [intent.tool]
    refunded 20 on A-17
    Refunded 20 on A-17.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from smolagents import LogLevel, Model, ToolCallingAgent, tool
from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole

from guard import Guard, LocalIssuer
from guard.adapters.smolagents import guard_agent
from guard.record import ListSink


@tool
def look(order: str) -> str:
    """Look up an order.

    Args:
        order: Its number.
    """
    return f"order {order}: paid 20"


@tool
def refund(order: str, amount: str) -> str:
    """Refund an amount on an order.

    Args:
        order: Its number.
        amount: How much.
    """
    return f"refunded {amount} on {order}"


@tool
def wipe(order: str) -> str:
    """Delete an order.

    Args:
        order: Its number.
    """
    return f"wiped {order}"


SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("look", {"order": "A-17"}),
    ("refund", {"order": "A-17", "amount": "500"}),
    ("wipe", {"order": "A-17"}),
    ("refund", {"order": "A-17", "amount": "20"}),
    ("final_answer", {"answer": "Refunded 20 on A-17."}),
]


class Script(Model):
    turn = 0

    def generate(self, messages: Any, tools_to_call_from: Any = (), **_: Any) -> ChatMessage:
        if self.turn == 0:
            print("offered:", ", ".join(each.name for each in tools_to_call_from))
        name, arguments = SCRIPT[self.turn]
        self.turn += 1
        call = ChatMessageToolCall(ChatMessageToolCallFunction(arguments=arguments, name=name), f"c{self.turn}", "function")
        return ChatMessage(role=MessageRole.ASSISTANT, content="so:", tool_calls=[call])


def main() -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Path(__file__).with_name("refunds.yaml"), trust=iam, sinks=[ListSink()], deadline=timedelta(seconds=10))
    agent = guard_agent(guard, ToolCallingAgent(tools=[look, refund, wipe], model=Script(), verbosity_level=LogLevel.OFF))
    with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
        said = agent.run("Refund 20 on A-17.")
    for step in agent.memory.steps[1:-1]:
        print(step.observations)
    print(said)


if __name__ == "__main__":
    main()
