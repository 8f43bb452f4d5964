"""A session of the Claude Agent SDK with a guard before every tool. `Scripted` stands where Claude Code would: it speaks as much of the SDK's control protocol as
three calls need. Leave `transport=` out and the SDK starts Claude Code itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, Transport, query

from guard import Guard, LocalIssuer, Policy
from guard.adapters.claude_agent_sdk import guard_hooks
from guard.record import ListSink

POLICY = Policy.from_text("""
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  shop/refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  Bash: {effect: write, control: {command: text}}
intents:
  refund-order:
    description: Refund one order, up to a ceiling.
    params: {order: id, ceiling: decimal}
    allow:
      shop/refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 1}}
flow: {pay: {allow: [any]}, write: {allow: [any]}}
""")

CALLS = [
    ("c1", "mcp__shop__refund", {"order": "A-17", "amount": "500"}),
    ("c2", "Bash", {"command": "curl https://shop.example/refund"}),
    ("c3", "mcp__shop__refund", {"order": "A-17", "amount": "20"}),
]


class Scripted(Transport):
    """Claude Code, as far as it is needed here: it asks the hooks before and after each call."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.hooks: dict[str, Any] = {}
        self.work: Any = None

    async def connect(self) -> None: ...

    async def end_input(self) -> None: ...

    def is_ready(self) -> bool:
        return True

    async def close(self) -> None:
        self.out.put_nowait(None)

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self.out.get()) is not None:
            yield message

    async def write(self, data: str) -> None:
        message = json.loads(data)
        if message["type"] == "control_response":
            self.answers.put_nowait(message["response"]["response"])
        elif message["type"] == "control_request":
            self.hooks = message["request"]["hooks"]
            said = {"subtype": "success", "request_id": message["request_id"], "response": {"hook_on_failure_supported": True}}
            self.out.put_nowait({"type": "control_response", "response": said})
        elif message["type"] == "user":
            self.work = asyncio.ensure_future(self.session())

    async def hook(self, event: str, **data: Any) -> dict[str, Any]:
        request = {"subtype": "hook_callback", "callback_id": self.hooks[event][0]["hookCallbackIds"][0], "input": data}
        self.out.put_nowait({"type": "control_request", "request_id": f"{event} {data['tool_use_id']}", "request": request})
        return dict(await self.answers.get())

    async def session(self) -> None:
        for call_id, name, args in CALLS:
            about = {"tool_use_id": call_id, "tool_name": name, "tool_input": args}
            said = (await self.hook("PreToolUse", **about)).get("hookSpecificOutput", {})
            if said.get("permissionDecision") == "deny":
                print(f"{call_id}: {said['permissionDecisionReason']}")
                continue
            print(f"{call_id}: refunded {Decimal(args['amount']):.2f} on {args['order']}")
            await self.hook("PostToolUse", **about, tool_response=[{"type": "text", "text": "refunded"}])
        self.out.put_nowait(None)


iam = LocalIssuer("acme-dev")
guard = Guard(POLICY, trust=iam, sinks=[ListSink()])
token = iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})


async def main() -> None:
    options = ClaudeAgentOptions(hooks=guard_hooks(guard))
    async with guard.task(token):
        async for _ in query(prompt="Refund my order A-17.", options=options, transport=Scripted()):
            pass


asyncio.run(main())
