"""Claude Agent SDK: a `Transport` that speaks Claude Code's control protocol. It asks the SDK's hooks, as Claude Code does, has the bodies run by the SDK's own
in-process MCP server, and says what a script says. The command line program itself is not run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, Transport, create_sdk_mcp_server, query, tool

from guard.adapters.claude_agent_sdk import coverage, guard_hooks
from guard.testing.conformance import Answer, Call, Delegate, Driver, Mode, Script, Trace, World

__all__ = ["DRIVER", "ClaudeCode"]


class ClaudeCode(Transport):  # type: ignore[misc, unused-ignore]
    """`names`: the tools there are. `answers`: what the model has read. `on_failure`: does it honour the setting?"""

    def __init__(self, script: Script, names: Any, *, on_failure: bool = True, rewrites: Mapping[str, Any] | None = None) -> None:
        self.script, self.names, self.on_failure, self.rewrites = list(script), tuple(names), on_failure, rewrites
        self.answers: dict[str, Answer] = {}
        self.shown: list[tuple[str, ...]] = []
        self.stopped = ""
        self._count = 0
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._hooks: dict[str, Any] = {}
        self._agent: asyncio.Task[None] | None = None
        self._open = False

    # -- what the SDK calls --------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        self._open = True

    def is_ready(self) -> bool:
        return self._open

    async def end_input(self) -> None: ...

    async def close(self) -> None:
        self._open = False
        if self._agent is not None:
            self._agent.cancel()
        self._out.put_nowait(None)

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._out.get()) is not None:
            yield message

    async def write(self, data: str) -> None:
        for line in data.splitlines():
            self._read(json.loads(line))

    def _read(self, message: dict[str, Any]) -> None:
        if message["type"] == "control_request":
            response: dict[str, Any] = {}
            if message["request"]["subtype"] == "initialize":
                self._hooks = message["request"].get("hooks") or {}
                response = {"commands": [], "hook_on_failure_supported": self.on_failure}
            said = {"subtype": "success", "request_id": message["request_id"], "response": response}
            self._out.put_nowait({"type": "control_response", "response": said})
        elif message["type"] == "control_response":
            self._asked.pop(message["response"]["request_id"]).set_result(message["response"])
        elif message["type"] == "user" and self._agent is None:
            self._agent = asyncio.ensure_future(self._session())

    # -- what Claude Code does -----------------------------------------------------------------------------------------------------

    async def _session(self) -> None:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "said", "version": "1"}}
        await self._mcp({"id": 0, "method": "initialize", "params": hello})
        await self._mcp({"method": "notifications/initialized"})
        final = await self._turns(self.script, None)
        result = {"subtype": "success", "duration_ms": 1, "duration_api_ms": 1, "is_error": False, "num_turns": 1, "result": final}
        self._out.put_nowait({"type": "result", "session_id": "s1", **result})
        self._out.put_nowait(None)

    async def _turns(self, script: Any, agent: str | None) -> str | None:
        for said in script:
            self.shown.append(self.names)
            block = [{"type": "text", "text": said}] if isinstance(said, str) else []
            message = {"role": "assistant", "model": "said", "content": block}
            self._out.put_nowait({"type": "assistant", "message": message, "session_id": "s1", "parent_tool_use_id": agent})
            if isinstance(said, str):
                return said
            await asyncio.gather(*(self._one(each, agent) for each in said))
            if self.stopped:
                return None
        return None

    async def _one(self, call: Any, agent: str | None) -> None:
        delegated = isinstance(call, Delegate)
        name = "Agent" if delegated else f"mcp__desk__{call.tool}"
        args = {"subagent_type": call.agent, "prompt": "go"} if delegated else dict(call.args)
        if not delegated and call.tool not in self.names:
            self.answers[call.id] = Answer("No such tool available", True)
            return
        about = {"tool_name": name, "tool_use_id": call.id, "session_id": "s1", "transcript_path": "", "cwd": "/"}
        about |= {"agent_id": agent, "agent_type": "helper"} if agent else {}
        for said in await self._hook("PreToolUse", {**about, "tool_input": args}):
            own = said.get("hookSpecificOutput") or {}
            decision = "deny" if said.get("failed") else own.get("permissionDecision", "")
            if decision in ("deny", "ask", "defer"):
                self.answers[call.id] = Answer(own.get("permissionDecisionReason", said.get("failed", "blocked")), True)
                return
            args = own.get("updatedInput", args)
        args = {**args, **(self.rewrites or {})}
        if delegated:
            text, failed = str(await self._turns(call.script, call.id)), False
        else:
            text, failed = await self._run(call.tool, args)
        event, more = (
            ("PostToolUseFailure", {"error": text}) if failed else ("PostToolUse", {"tool_response": [{"type": "text", "text": text}]})
        )
        for said in await self._hook(event, {**about, "tool_input": args, **more}):
            if said.get("continue") is False:
                self.stopped, text = str(said["stopReason"]), str(said.get("reason"))
        self.answers[call.id] = Answer(text, failed)

    async def _hook(self, event: str, data: dict[str, Any]) -> list[dict[str, Any]]:
        answers = []
        for matcher in self._hooks.get(event, ()):
            for id in matcher["hookCallbackIds"]:
                request = {
                    "subtype": "hook_callback",
                    "callback_id": id,
                    "input": {"hook_event_name": event, **data},
                    "tool_use_id": data["tool_use_id"],
                }
                said = await self._ask(request)
                failed = said["subtype"] == "error" and matcher.get("onFailure") == "block"
                answers.append({"failed": "a hook failed"} if failed else said.get("response") or {})
        return answers

    async def _run(self, name: str, args: Any) -> tuple[str, bool]:
        self._count += 1
        answer = await self._mcp({"id": self._count, "method": "tools/call", "params": {"name": name, "arguments": args}})
        if "error" in answer:
            return str(answer["error"]["message"]), True
        result = answer["result"]
        return "".join(block.get("text", "") for block in result["content"]), bool(result.get("isError", False))

    async def _mcp(self, message: dict[str, Any]) -> Any:
        said = await self._ask({"subtype": "mcp_message", "server_name": "desk", "message": {"jsonrpc": "2.0", **message}})
        return said["response"]["mcp_response"] if said["subtype"] == "success" else {"error": {"message": said["error"]}}

    async def _ask(self, request: dict[str, Any]) -> Any:
        self._count += 1
        id = f"r{self._count}"
        self._asked[id] = asyncio.get_running_loop().create_future()
        self._out.put_nowait({"type": "control_request", "request_id": id, "request": request})
        return await self._asked[id]


def handler(body: Any, name: str) -> Any:
    async def run(args: Any) -> dict[str, Any]:
        said = body(**args)
        return {"content": [{"type": "text", "text": str(await said if asyncio.iscoroutine(said) else said)}]}

    return tool(name, name, {"type": "object", "properties": {}})(run)


class App:
    def __init__(self, world: World, script: Script) -> None:
        self.script = script
        self.bodies = {body.__name__: body for body in world.tools()}
        self.handlers = {name: handler(body, name) for name, body in self.bodies.items()}
        server = create_sdk_mcp_server("desk", tools=list(self.handlers.values()))
        self.options = ClaudeAgentOptions(mcp_servers={"desk": server}, hooks=guard_hooks(world.guard, own=["desk"], permit=True))

        self.answers: dict[str, Answer] = {}

    def transport(self) -> ClaudeCode:
        return ClaudeCode(self.script, self.bodies)

    def again(self) -> None:
        """Somebody has answered, and the model makes the calls that were refused for that once more."""
        waited = {id for id, answer in self.answers.items() if "needs approval" in answer.text}
        turns = [tuple(each for each in said if each.id in waited) for said in self.script if not isinstance(said, str)]
        self.script = (*(turn for turn in turns if turn), "done")


def read(app: App, code: ClaudeCode, messages: list[Any]) -> Trace:
    app.answers |= code.answers
    final = next((message.result for message in messages if type(message).__name__ == "ResultMessage"), None)
    return Trace(answers=app.answers, shown=code.shown, final=final)


LIST = "Claude Code makes the list of tools before any hook; `tools` and `disallowed_tools` of the options are where it is shortened"


class ClaudeDriver(Driver):
    name: ClassVar[str] = "claude_agent_sdk"
    modes: ClassVar[frozenset[Mode]] = frozenset({"sync", "async", "stream"})
    gaps: ClassVar[Mapping[str, str]] = {
        "pause": "Claude Code ignores `defer` where a turn has several calls, and then they run; an ask is a refusal, and the call is made again",
        "hidden": LIST,
        "hiding_crashes": LIST,
    }

    def build(self, world: World, script: Script) -> App:
        return App(world, script)

    def run(self, app: App) -> Trace:
        return asyncio.run(self.arun(app))

    async def arun(self, app: App) -> Trace:
        code = app.transport()
        return read(app, code, [message async for message in query(prompt=prompts(), options=app.options, transport=code)])

    async def astream(self, app: App) -> Trace:
        code = app.transport()
        async with ClaudeSDKClient(options=app.options, transport=code) as client:
            await client.query("go")
            return read(app, code, [message async for message in client.receive_response()])

    def resume(self, app: App, yes: bool) -> Trace:
        return asyncio.run(self.aresume(app, yes))

    async def aresume(self, app: App, yes: bool) -> Trace:
        if not yes:
            return Trace()
        app.again()
        return await self.arun(app)

    def bypass(self, app: App, call: Call) -> Mapping[str, object]:
        body: Any = app.bodies[call.tool]
        return {
            "tool.handler(...)": attempt(lambda: asyncio.run(app.handlers[call.tool].handler(dict(call.args)))),
            "function.__wrapped__(...)": attempt(lambda: body.__wrapped__(**call.args)),
        }

    def coverage(self, app: App) -> Mapping[str, bool]:
        return {seen.path: seen.covered for seen in coverage(app.options)}


async def prompts() -> AsyncIterator[dict[str, Any]]:
    yield {"type": "user", "message": {"role": "user", "content": "go"}, "parent_tool_use_id": None, "session_id": "s1"}


def attempt(way: Any) -> object:
    try:
        return way()
    except Exception as error:
        return error


DRIVER = ClaudeDriver
