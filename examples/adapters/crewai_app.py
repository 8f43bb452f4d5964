"""A crew with a guard before every tool. The model says a script; put `llm="openai/gpt-5"` in its place.

Prints:
    offered: look, refund
    look denied: argument order must equal $order of intent refund-order [args.constraint] Instead: a task for the other order.
    order A-17: paid 20
    refund denied: argument amount must be at least 0.01 and at most $ceiling of intent refund-order [args.constraint] Instead: a task for the other ceiling.
    wipe denied: refund-order does not use wipe [intent.tool]
    refunded 20 on A-17
    Refunded 20 on A-17.
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}
os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp())

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

from guard import Guard, LocalIssuer
from guard.adapters.crewai import guard_crew
from guard.record import ListSink


@tool
def look(order: str) -> str:
    """Look up an order."""
    return f"order {order}: paid 20"


@tool
def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount} on {order}"


@tool
def wipe(order: str) -> str:
    """Delete an order."""
    return f"wiped {order}"


SCRIPT: list[Any] = [
    [("look", {"order": "B-1"})],
    [("look", {"order": "A-17"})],
    [("refund", {"order": "A-17", "amount": "500"})],
    [("wipe", {"order": "A-17"})],
    [("refund", {"order": "A-17", "amount": "20"})],
    "Refunded 20 on A-17.",
]


class Script(BaseLLM):
    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        read = [message["content"] for message in messages if message["role"] == "tool"]
        print(read[-1] if read else "offered: " + ", ".join(each["function"]["name"] for each in tools))
        said = SCRIPT[len(read)]
        if isinstance(said, str):
            return said
        return [
            {"id": f"c{len(read)}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}} for name, args in said
        ]

    def supports_function_calling(self) -> bool:
        return True


def main() -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Path(__file__).with_name("refunds.yaml"), trust=iam, sinks=[ListSink()], deadline=timedelta(seconds=10))
    desk = Agent(role="desk", goal="Serve customers", backstory="none", tools=[look, refund, wipe], llm=Script(model="script"))
    crew = guard_crew(guard, Crew(agents=[desk], tasks=[Task(description="Refund A-17.", expected_output="a word", agent=desk)]))
    with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
        print(crew.kickoff().raw)


if __name__ == "__main__":
    main()
