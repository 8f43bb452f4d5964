"""Two agents: one hands a narrower task to the other over A2A. No model, no key, loopback only: `python examples/adapters/a2a_agents.py`."""

import asyncio
import logging

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Message, Part, Role, SendMessageRequest
from starlette.applications import Starlette

from guard import Denied, Guard, LocalIssuer, Policy
from guard.adapters.a2a import GuardExecutor, GuardHandler, GuardInterceptor
from guard.record import ListSink

logging.disable(logging.WARNING)

POLICY = """
guardtrail: 1
name: refunds
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
flow: {read: {allow: [any]}, pay: {allow: [any]}}
intents:
  refund-order:
    description: Refund one order.
    params: {order: id}
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: "50"}}}, limit: {calls: 1}}
"""
iam = LocalIssuer("acme-dev")
here = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()])  # of the agent that asks
there = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()])  # of the one that answers: in practice another process


@there.tool
async def look(order: str) -> str:
    return f"order {order}: paid 20"


@there.tool
async def refund(order: str, amount: str) -> str:
    return f"refunded {amount} on {order}"


class Clerk(AgentExecutor):
    """Does everything it is asked to, whoever asks."""

    async def execute(self, context, event_queue):
        said = []
        for call in (look("A-17"), look("B-99"), refund("A-17", "20")):
            try:
                said.append(await call)
            except Denied as denied:
                said.append(str(denied))
        await event_queue.enqueue_event(Message(role=Role.ROLE_AGENT, message_id="1", parts=[Part(text="\n".join(said))]))

    async def cancel(self, context, event_queue):
        raise NotImplementedError


card = AgentCard(
    name="clerk",
    description="Looks up and refunds orders.",
    version="1",
    capabilities=AgentCapabilities(),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="orders", name="orders", description="Orders.", tags=["orders"])],
    supported_interfaces=[AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url="http://127.0.0.1/")],
)
handler = GuardHandler(there, DefaultRequestHandler(GuardExecutor(there, Clerk()), InMemoryTaskStore(), card))
server = httpx.ASGITransport(Starlette(routes=create_jsonrpc_routes(handler, "/")))  # no socket: it is only an example


async def main() -> None:
    narrow = GuardInterceptor(here, actor="clerk", tools=["look"], ttl="2m")  # it may look, and not refund
    client = ClientFactory(ClientConfig(httpx_client=httpx.AsyncClient(transport=server))).create(card, [narrow])
    request = SendMessageRequest(message=Message(role=Role.ROLE_USER, message_id="0", parts=[Part(text="see to order A-17")]))
    token = iam.mint(origin="alice", actor="support-agent", intent="refund-order", params={"order": "A-17"})
    async with here.task(token):
        async for event in client.send_message(request):
            print(event.message.parts[0].text)
    try:
        async for event in client.send_message(request):
            print(event)
    except Denied as denied:
        print("not sent:", denied)
    await client.close()


asyncio.run(main())
