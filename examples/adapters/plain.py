"""A dispatch loop of one's own with a `Toolbox`. A real program asks its model where `MODEL` is asked here; the model of this one says what a real one might."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

from guard import Guard, LocalIssuer, Policy
from guard.adapters.plain import Toolbox
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


def refund(order: str, amount: Decimal) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount:.2f} on {order}"


def wipe(order: str) -> str:
    """Delete an order."""
    return f"wiped {order}"


def calls(*made: tuple[str, str, dict[str, object]]) -> dict[str, Any]:
    said = [{"id": each, "type": "function", "function": {"name": name, "arguments": json.dumps(args)}} for each, name, args in made]
    return {"role": "assistant", "content": None, "tool_calls": said}


MODEL = iter(
    [
        calls(("c1", "look", {"order": "A-17"}), ("c2", "look", {"order": "B-1"})),
        calls(("c3", "refund", {"order": "A-17", "amount": "500"}), ("c4", "wipe", {"order": "A-17"})),
        calls(("c5", "refund", {"order": "A-17", "amount": "20"})),
        {"role": "assistant", "content": "Refunded 20.00 on A-17."},
    ]
)


def main() -> None:
    iam = LocalIssuer("acme-dev")
    guard = Guard(POLICY, trust=iam, sinks=[ListSink()], deadline=timedelta(seconds=10))
    box = Toolbox(guard, [look, refund, wipe])
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Refund my order A-17."}]
    with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
        print("offered:", ", ".join(each["function"]["name"] for each in box.definitions("chat")))
        while True:
            said = next(MODEL)  # client.chat.completions.create(model=..., messages=messages, tools=box.definitions("chat"))
            answers = box.answer(said)
            messages += [said, *answers.messages]
            if not answers.messages:
                break
            for each in answers.messages:
                print(f"{each['tool_call_id']}: {each['content']}")
    print(said["content"])


if __name__ == "__main__":
    main()
