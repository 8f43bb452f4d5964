"""Two agents of the OpenAI Agents SDK whose models are scripts: one hands over to the other, and both are guarded. No model, no key.

Prints:

    c1 wipe denied: refund-order does not use wipe
    c2 order A-17: paid 49
    refund waits for somebody of treasury
    c3 refunded 40 on A-17
    the second agent was offered look, refund
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from guard import Guard, LocalIssuer
from guard.adapters.openai_agents import guard_agent, requests
from guard.approvals import Approvals

iam = LocalIssuer("acme-dev")
desk = Approvals("memory:", trust=iam)
guard = Guard(Path(__file__).with_name("refunds.yaml"), trust=iam, approvals=desk)


@function_tool
def look(order: str) -> str:
    """Look at an order."""
    return f"order {order}: paid 49"


@function_tool
def refund(order: str, amount: str) -> str:
    """Refund an amount on an order."""
    return f"refunded {amount} on {order}"


@function_tool
def wipe(order: str) -> str:
    """Wipe an order."""
    return "wiped"


def call(id: str, name: str, **args: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(type="function_call", call_id=id, name=name, arguments=json.dumps(args))


class Script(Model):
    def __init__(self, *says: Any) -> None:
        self.says, self.offered = iter(says), set[str]()

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *rest: Any, **more: Any
    ) -> ModelResponse:
        self.offered |= {tool.name for tool in tools}
        said = next(self.says)
        if isinstance(said, str):
            text = ResponseOutputText(type="output_text", text=said, annotations=[])
            said = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


second = Script(call("c1", "wipe", order="A-17"), call("c2", "look", order="A-17"), call("c3", "refund", order="A-17", amount="40"), "done")
clerk = Agent(name="clerk", model=second, tools=[look, refund, wipe])
triage = guard_agent(Agent(name="triage", model=Script(call("h1", "transfer_to_clerk")), handoffs=[clerk]), guard)
config = RunConfig(tracing_disabled=True)


def show(items: list[Any]) -> None:
    for item in items:
        if item.type == "tool_call_output_item":
            print(item.raw_item["call_id"], item.output.partition("[")[0].partition(";")[0].strip())


async def main() -> None:
    async with guard.task(iam.mint(origin="alice", actor="support", intent="refund-order", params={"order": "A-17", "ceiling": "50"})):
        result = await Runner.run(triage, "Refund 40 on A-17.", run_config=config)
        show(result.new_items)
        state = result.to_state()
        for item in result.interruptions:
            request = requests(result)[item.raw_item.call_id]
            print(request["tool"], "waits for somebody of treasury")
            await desk.aapprove(str(request["id"]), iam.login("bob", groups=["treasury"]))
            state.approve(item)
        result = await Runner.run(triage, state, run_config=config)
        show(result.new_items[-2:])
    print("the second agent was offered", ", ".join(sorted(second.offered)))


asyncio.run(main())
