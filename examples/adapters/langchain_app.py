"""A LangChain agent whose model is a script: what is allowed, denied, asked, and what becomes of an ask. No model, no key.

Prints:

    wipe    error    wipe denied: refund-order does not use wipe
    look    success  order A-17: paid 49
    refund  waits for somebody of treasury
    refund  success  refunded 40 on A-17
    the model was offered look, refund
"""

from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from guard import Guard, LocalIssuer
from guard.adapters.langchain import GuardMiddleware
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


class Script(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        OFFERED.update(tool.name for tool in tools)
        return self


def call(id: str, name: str, **args: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"id": id, "name": name, "args": args, "type": "tool_call"}])


OFFERED: set[str] = set()
says = [
    call("c1", "wipe", order="A-17"),
    call("c2", "look", order="A-17"),
    call("c3", "refund", order="A-17", amount="40"),
    AIMessage("done"),
]
agent: Any = create_agent(
    Script(messages=iter(says)), [look, refund, wipe], middleware=[GuardMiddleware(guard)], checkpointer=InMemorySaver()
)
thread: Any = {"configurable": {"thread_id": "1"}}


def show(messages: list[Any]) -> None:
    for message in messages:
        if isinstance(message, ToolMessage):
            print(f"{message.name:7} {message.status:8} {message.text.partition('[')[0].partition(';')[0].strip()}")


with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
    result = agent.invoke({"messages": [("user", "refund order A-17")]}, thread)
    show(result["messages"])
    (waits,) = result["__interrupt__"]
    print(f"{waits.value['tool']:7} waits for somebody of treasury")
    desk.approve(waits.value["id"], iam.login("bob", groups=["treasury"]))
    result = agent.invoke(Command(resume={"type": "approve"}), thread)
    show(result["messages"][-2:])

print("the model was offered", ", ".join(sorted(OFFERED)))
