"""Google ADK with a guard before every tool of its runner. The model is one that says a script; put `model="gemini-2.5-flash"` in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from guard import Guard, LocalIssuer, Policy
from guard.adapters.google_adk import GuardPlugin
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


def call(name: str, **args: str) -> types.Part:
    return types.Part(function_call=types.FunctionCall(name=name, args=args))


SCRIPT = [
    [call("look", order="A-17"), call("look", order="B-1")],
    [call("refund", order="A-17", amount="500"), call("wipe", order="A-17")],
    [call("refund", order="A-17", amount="20")],
    [types.Part(text="Refunded 20.00 on A-17.")],
]


class Scripted(BaseLlm):
    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:
        yield LlmResponse(content=types.Content(role="model", parts=SCRIPT.pop(0)))


iam = LocalIssuer("acme-dev")
guard = Guard(POLICY, trust=iam, sinks=[ListSink()])
agent = LlmAgent(name="support", model=Scripted(model="scripted"), tools=[look, refund, wipe])
runner = InMemoryRunner(app=App(name="refunds", root_agent=agent, plugins=[GuardPlugin(guard)]))
asyncio.run(runner.session_service.create_session(app_name="refunds", user_id="alice", session_id="s1"))

message = types.Content(role="user", parts=[types.Part(text="Refund my order A-17.")])
token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})
with guard.task(token):
    for event in runner.run(user_id="alice", session_id="s1", new_message=message):
        for part in event.content.parts:
            if part.function_response is not None:
                print(f"{part.function_response.name}: {part.function_response.response}")
            elif part.text:
                print(part.text)
