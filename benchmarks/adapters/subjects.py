"""One framework's bare tool call, the same call guarded, and bare in-memory MCP calls, in turns, one call each. Runs in the framework's own environment; prints one
JSON line.

One call each, and not batches: a tool call of an agent comes after other work, with cold caches. In a batch of one kind the cheapest is flattered most: a guarded call
costs about twice as much between two runs of a graph as in a loop of its own, and so does an MCP call.

python -m benchmarks.adapters.subjects NAME ROUNDS
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import process_time_ns
from typing import Any

from benchmarks.house import CALL, directory_guard, policy_text
from guard import Guard

BATCH = 20
"""Calls of a round; the median is over all of them."""
Once = Callable[[], Awaitable[object]]
"""One call of the tool, by the framework's own means."""


def tool_0(order: str, to: str, amount: str) -> str:
    """Does nothing."""
    return "done"


@asynccontextmanager
async def plain(guard: Guard) -> AsyncIterator[tuple[Once, Once]]:
    """A function of one's own in a dispatch loop: parse the model's arguments, call, make the answer; beside `Toolbox.answer`."""
    from guard.adapters.plain import Toolbox

    box = Toolbox(guard, [tool_0])
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "", "type": "function", "function": {"name": "tool_0", "arguments": json.dumps(CALL)}}],
    }
    number = iter(range(1 << 60))

    async def bare() -> object:
        call: Any = message["tool_calls"][0]
        return {"role": "tool", "tool_call_id": call["id"], "content": tool_0(**json.loads(call["function"]["arguments"]))}

    async def guarded() -> object:
        message["tool_calls"][0]["id"] = f"c{next(number)}"  # type: ignore[index]
        return box.answer(message)

    yield bare, guarded


@asynccontextmanager
async def langchain(guard: Guard) -> AsyncIterator[tuple[Once, Once]]:
    """A `ToolNode` of LangGraph in a graph of its own, with one tool call."""
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    from guard.adapters.langchain import tool_node

    number = iter(range(1 << 60))

    def graph(node: Any) -> Once:
        made = StateGraph(MessagesState)
        made.add_node("tools", node)
        made.add_edge(START, "tools")
        made.add_edge("tools", END)
        app = made.compile()

        async def once() -> object:
            call = {"name": "tool_0", "args": CALL, "id": f"c{next(number)}", "type": "tool_call"}
            return await app.ainvoke({"messages": [AIMessage("", tool_calls=[call])]})

        return once

    made = tool(tool_0)
    yield graph(ToolNode([made])), graph(tool_node(guard, [made]))


@asynccontextmanager
async def openai_agents(guard: Guard) -> AsyncIterator[tuple[Once, Once]]:
    """`FunctionTool.on_invoke_tool`, as the runner calls it."""
    from agents import Agent, function_tool
    from agents.tool_context import ToolContext

    from guard.adapters.openai_agents import guard_agent

    number = iter(range(1 << 60))
    text = json.dumps(CALL)

    def invoke(agent: Any) -> Once:
        (made,) = agent.tools

        async def once() -> object:
            context = ToolContext(context=None, tool_name="tool_0", tool_call_id=f"c{next(number)}", tool_arguments=text)
            return await made.on_invoke_tool(context, text)

        return once

    agent = Agent(name="bench", tools=[function_tool(tool_0)])
    yield invoke(agent), invoke(guard_agent(agent, guard))


@asynccontextmanager
async def fastmcp(guard: Guard) -> AsyncIterator[tuple[Once, Once]]:
    """A client and a server in one process."""
    from fastmcp import Client, FastMCP
    from mcp.types import PaginatedRequestParams

    from guard.adapters.fastmcp import GuardMiddleware

    token = guard.current().token
    bare, guarded = FastMCP("bench"), FastMCP("bench", middleware=[GuardMiddleware(guard)])
    for server in (bare, guarded):
        server.tool(tool_0)
    async with Client(bare) as there, Client(guarded) as here:
        await here.session.list_tools(params=PaginatedRequestParams(_meta={"guardtrail.io/token": token}))  # as a host does, once
        yield lambda: there.call_tool("tool_0", CALL), lambda: here.call_tool("tool_0", CALL, meta={"guardtrail.io/token": token})


@asynccontextmanager
async def fastmcp_call() -> AsyncIterator[Once]:
    """The reference: a client and a server of FastMCP in one process."""
    from fastmcp import Client, FastMCP

    server = FastMCP("reference")
    server.tool(tool_0)
    async with Client(server) as client:
        yield lambda: client.call_tool("tool_0", CALL)


@asynccontextmanager
async def sdk_call() -> AsyncIterator[Once]:
    """The other one: a client and a server of the SDK in one process."""
    from mcp import Client
    from mcp.server import MCPServer

    server = MCPServer("bench")
    server.tool()(tool_0)
    async with Client(server) as client:
        yield lambda: client.call_tool("tool_0", CALL)


SUBJECTS: dict[str, Callable[[Guard], Any]] = {each.__name__: each for each in (plain, langchain, openai_agents, fastmcp)}


async def measured(name: str, rounds: int, folder: Path) -> dict[str, float]:
    """Microseconds of a call, medians: `bare`, what the guard `added`, and of the two references."""
    guard, token = directory_guard(policy_text(100, 20, dense=False), folder)
    with guard.task(token):
        async with SUBJECTS[name](guard) as (bare, guarded), fastmcp_call() as other, sdk_call() as sdk:
            await _prove(folder, guarded)
            reference = bare if name == "fastmcp" else other
            times: dict[Once, list[int]] = {bare: [], guarded: [], reference: [], sdk: []}
            gc.collect()
            gc.disable()
            for turn in range(rounds * BATCH):
                for once in times if turn % 2 else reversed(times):
                    times[once].append(await _time(once))
                if turn % 200 == 0:
                    gc.collect()
            gc.enable()
    micros = {once: median(took[BATCH:]) / 1000 for once, took in times.items()}  # the first ones warm up
    found = {"bare_us": micros[bare], "added_us": micros[guarded] - micros[bare], "fastmcp_us": micros[reference], "sdk_us": micros[sdk]}
    return {key: round(each, 1) for key, each in found.items()}


async def _prove(folder: Path, guarded: Once) -> None:
    """What is measured really passes the guard, and is allowed."""
    said = repr(await guarded())
    if not _recorded(folder) or "done" not in said:
        raise SystemExit(f"the guarded call did not run under the guard: {said[:300]}")


def _recorded(folder: Path) -> bool:
    return any('"kind":"outcome"' in file.read_text("utf-8") for file in folder.glob("*.jsonl"))


async def _time(once: Once) -> int:
    began = process_time_ns()
    await once()
    return process_time_ns() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(asyncio.run(measured(sys.argv[1], int(sys.argv[2]), Path(made)))))
