"""What a client may ask for, and what becomes of it. The task is the current one of the guard; no session of any protocol is asked whose it is (row F47).

| method                                   | is                                                                    | without a word of the policy |
|------------------------------------------|-----------------------------------------------------------------------|------------------------------|
| `initialize`, `server/discover`, `ping`  | answered here                                                         | answered                     |
| `tools/list`                             | the pinned tools that the delegation can ever call, in pages          | empty                        |
| `tools/call`                             | a call of `tool`, `server/tool` where servers have names              | denied `tool.unknown`        |
| `resources/read`                         | a call of `resources.read`, argument `uri`                            | denied                       |
| `prompts/get`                            | a call of `prompts.get`, arguments `name`, `arguments`                | denied                       |
| `completion/complete`                    | a call of `completion.complete`, arguments `ref`, `argument`, `context` | denied                     |
| the lists of resources and prompts       | what a dry run of the same call would not deny                        | empty                        |
| a server's `elicitation/create`, `sampling/createMessage`, `roots/list` | calls of `elicitation.create`, ... in the task of the call that caused them | denied |
| anything else, subscriptions too         | not known here                                                        | `Method not found`           |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, Final

from guard.errors import Denied, GuardError
from guard.gateway.answers import (
    ADDRESS_WANTED,
    CHALLENGED,
    OF_AN_ERA,
    Client,
    Failed,
    Going,
    Halted,
    Paused,
    cleaned,
    error_result,
    refusal,
    said_no,
    shown_name,
)
from guard.gateway.carry import Carried, holds, onward, read_meta
from guard.gateway.pages import page
from guard.gateway.pins import digest
from guard.gateway.reads import Reads, Then
from guard.gateway.routes import Routes
from guard.gateway.rpc import ENVELOPE, HANDSHAKE, INVALID_PARAMS, INVALID_REQUEST, META_SERVER, NO_METHOD, Refused, answer, error
from guard.gateway.seals import Seals
from guard.gateway.server import NoAnswer, Server, ServerError
from guard.model import ToolCall
from guard.reasons import ReasonCode
from guard.record.carried import came_from
from guard.runtime import Guard

__all__ = ["ASKED", "RESERVED", "Log", "Relay"]

ASKED: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What servers ask of clients -> the capability by which clients say that they answer."""
RESERVED: Final = frozenset({"resources.read", "prompts.get", "completion.complete", *(each.replace("/", ".") for each in ASKED)})
"""Names in a policy that are no tools of a server. Attack: a server calls a tool `resources.read`, and may do what reading may."""
_ROUNDS: Final = 8
_MOST_JOBS: Final = 256
WHO: Final = {"name": "guardtrail", "version": "0.1.0"}

Log = Callable[..., None]


class Relay:
    """Between clients and the servers behind."""

    def __init__(self, guard: Guard, servers: Sequence[Server], *, log: Log = lambda *_, **__: None) -> None:
        self.guard = guard
        self.routes = Routes(servers)
        self.servers = self.routes.servers
        self.listeners: set[Callable[[], None]] = set()
        self._log = log
        self._going: dict[str, set[Going]] = {server.name: set() for server in servers}
        self._jobs: set[asyncio.Task[Any]] = set()
        self._rereading: dict[str, bool] = {}
        self._seals = Seals()
        self._reads = Reads(guard, self.routes, self._judged, self._token)

    # -- what servers say by themselves ----------------------------------------------------------------------------------------------

    def changed(self, server: Server) -> None:
        """Its tools were read again. The guard binds calls to their schemas from now on."""
        for name in [name for name in server.tools if name in RESERVED]:
            del server.tools[name]
        for name, tool in server.tools.items():
            if tool.state == "pinned":
                self.guard.declare(server.tool_name(name), tool.shown["inputSchema"])
        unlike = sorted(name for name, tool in server.tools.items() if tool.state != "pinned")
        if unlike:
            self._log("tools are not as pinned, and denied", server=server.name, tools=unlike[:20], number=len(unlike))
        for listener in self.listeners:
            listener()

    def heard(self, name: str, message: Mapping[str, Any], going: Going | None = None) -> None:
        """Beside an answer: progress goes on, requests are judged, a new list is read."""
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, Mapping) else {}
        if method == "notifications/progress":
            if going is not None and going.progress is not None:
                told = {key: params[key] for key in ("progress", "total", "message") if key in params}
                going.client.tell("notifications/progress", {"progressToken": going.progress, **told})
        elif method == "notifications/tools/list_changed":
            if name not in self._rereading:
                self._rereading[name] = False
                self._start(self._reread(self.servers[name]))
            else:
                self._rereading[name] = True  # once more, after the one that is on its way
        elif "id" in message and isinstance(method, str):
            self._asked(name, message["id"], method, params, going)

    async def _reread(self, server: Server) -> None:
        try:
            again = True
            while again:
                self._rereading[server.name] = False
                await server.reread()
                again = self._rereading[server.name]
        except (ServerError, NoAnswer) as failed:
            self._log("tools could not be read again", server=server.name, why=type(failed).__name__)
        finally:
            del self._rereading[server.name]

    def _asked(self, name: str, id: object, method: str, params: Mapping[str, Any], going: Going | None) -> None:
        server, waiting = self.servers[name], self._going[name]
        if len(self._jobs) > _MOST_JOBS:
            return  # a server that asks so much is not answered
        if method == "ping":
            self._start(server.post(answer(id, {})))
            return
        if going is None and len({one.whose for one in waiting}) == 1:
            going = next(iter(waiting))  # all that wait are of one delegation: it is that one's doing
        if method not in ASKED or going is None:
            self._start(server.post(error(id, NO_METHOD, "not known here")))
            return
        self._start(self._answer(server, id, method, params, going), going.context.copy())

    async def _answer(self, server: Server, id: object, method: str, params: Mapping[str, Any], going: Going) -> None:
        try:
            said = answer(id, await self._judged(server, method, params, lambda given: self._person(going.client, method, given)))
        except Denied:
            said = error(id, -32600, f"{method} is denied by policy")
        except Refused as refused:
            said = refused.error(id)
        except Exception:
            said = error(id, -32603, "no answer")
        await server.post(said)

    async def _judged(self, server: Server, method: str, params: Mapping[str, Any], then: Then, proof: str = "") -> dict[str, Any]:
        """A call that is no tool's: `a/b` is called `a.b` in a policy. Raises Denied and whatever `then` raises."""
        args = {key: value for key, value in params.items() if key not in ("_meta", "inputResponses", "requestState", "task")}
        call = ToolCall(server.tool_name(method.replace("/", ".")), args, proof=proof)
        if holds(args, self._token()):
            raise await self._no(call, ReasonCode.ARGS_TOKEN, "the delegation token stands in the arguments")

        async def execute(**bound: Any) -> Any:
            return await then(bound)

        found: dict[str, Any] = dict(await self.guard.acall(call, execute))
        return found

    async def _person(self, client: Client, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is answered to a server. Attack: it asks for the token. Raises Refused."""
        found = await client.ask(method, given)
        if holds(found, self._token()):
            raise Refused(INVALID_REQUEST, "the delegation token stands in the answer")
        return found

    async def _no(self, call: ToolCall, code: ReasonCode, text: str, fix: str = "") -> Denied:
        return Denied(await self.guard.arefuse(call, code, text, fix))

    def _start(self, job: Any, context: Context | None = None) -> None:
        task = asyncio.get_running_loop().create_task(job, context=context)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # -- what clients ask for ----------------------------------------------------------------------------------------------------------

    async def handle(self, method: str, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        """The result. Raises Refused; Denied where `client.raises`."""
        answers = _METHODS.get(method)
        if answers is None or (client.modern and method in ("initialize", "ping")) or (not client.modern and method == "server/discover"):
            raise Refused(NO_METHOD, "Method not found", status=404)
        found = await answers(self, params, client)
        result = {key: value for key, value in found.items() if key not in OF_AN_ERA}
        if not client.modern:
            return result
        kind = found.get("resultType")
        result["resultType"] = kind if kind == "input_required" else "complete"
        if method in _CACHED:
            result |= {"ttlMs": 0, "cacheScope": "private"}  # what one delegation sees is nobody else's
        return result

    async def _initialize(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        asked = params.get("protocolVersion")
        return {"protocolVersion": asked if asked in HANDSHAKE else HANDSHAKE[-1], "serverInfo": WHO, **self._introduction()}

    async def _discover(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        return {"supportedVersions": list(ENVELOPE), **self._introduction(), "_meta": {META_SERVER: WHO}}

    def _introduction(self) -> dict[str, Any]:
        can: dict[str, Any] = {"tools": {"listChanged": bool(self.listeners)}}
        for capability in ("resources", "prompts", "completions"):
            if any(capability in server.capabilities for server in self.servers.values()):
                can[capability] = {}
        said = [text for server in self.servers.values() if (text := server.pinned_instructions())]
        return {"capabilities": can, **({"instructions": "\n\n".join(said)} if said else {})}

    async def _ping(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        return {}

    async def _list_tools(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        await asyncio.gather(*(server.fresh() for server in self.servers.values()))
        rows = [(server, name) for server in self.servers.values() for name, tool in server.tools.items() if tool.state == "pinned"]
        seen = set(self.guard.visible(server.tool_name(name) for server, name in rows))
        tools = [
            {**server.tools[name].shown, "name": self.routes.shown(server, name)} for server, name in rows if server.tool_name(name) in seen
        ]
        return page("tools", tools, params.get("cursor"))

    async def _call_tool(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        shown, given = params.get("name"), params.get("arguments")
        if not isinstance(shown, str) or not (given is None or isinstance(given, Mapping)):
            raise Refused(INVALID_PARAMS, "of tools/call, `name` is text and `arguments` an object", status=400)
        carried = read_meta(params)
        came_from(carried.meta)
        if holds(shown, self._token()):
            shown = "(unnamed)"  # records hold the names of unknown tools, and no token
        server, tool = self.routes.named(shown)
        call = ToolCall(server.tool_name(tool) if server is not None else shown, given or {}, carried.call_id, carried.proof)
        try:
            if server is None:
                raise await self._no(call, ReasonCode.TOOL_UNKNOWN, "no server behind the gateway has it")
            await self._fit(server, tool, call)
            resumed = await self._resumed(call, params)
            if resumed:  # the same call goes on: what it answered before is not handed out again
                call = ToolCall(call.tool, call.args, "", call.proof)
            return await self._run(server, tool, call, carried, client, resumed)
        except Denied as denied:
            if client.raises and str(denied.decision.code).startswith(CHALLENGED):
                raise
            return refusal(denied)

    async def _fit(self, server: Server, tool: str, call: ToolCall) -> None:
        """What the guard cannot see of a call. Raises Denied."""
        await server.looked_at()
        known = server.tools.get(tool)
        if tool in RESERVED:
            raise await self._no(call, ReasonCode.TOOL_UNKNOWN, "this name stands for what is no tool")
        if known is None:
            raise await self._no(call, ReasonCode.TOOL_UNKNOWN, f"{server.label} does not list it")
        if server.unread:
            raise await self._no(
                call, ReasonCode.TOOL_CHANGED, f"{server.label} does not say what its tools are now", "try again in a minute"
            )
        if known.state != "pinned":
            how = "describes it otherwise than it was pinned" if known.state == "changed" else "lists it, and it was never pinned"
            raise await self._no(
                call, ReasonCode.TOOL_CHANGED, f"{server.label} {how}", "a person looks at it and pins it: guardtrail mcp --pin"
            )
        if holds(call.args, self._token()):
            raise await self._no(call, ReasonCode.ARGS_TOKEN, "the delegation token stands in the arguments", "the same call without it")

    async def _resumed(self, call: ToolCall, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answers that came with the call. Raises Denied where nobody asked."""
        if "inputResponses" not in params and "requestState" not in params:
            return {}
        responses = params.get("inputResponses", {})
        good, state = self._seals.open(params.get("requestState"), self._about(call), responses)
        if not good or holds(responses, self._token()):
            raise await self._no(
                call, ReasonCode.CALL_UNASKED, "answers came with the call, and it has asked for none", "the same call without them"
            )
        return {"inputResponses": responses, **({} if state is None else {"requestState": state})}

    def _about(self, call: ToolCall) -> str:
        return digest([*self._task(), call.tool, call.args])

    def _token(self) -> str:
        try:
            return self.guard.current().token
        except Denied:  # outside a task: the call itself is denied, and recorded
            return ""

    def _task(self) -> tuple[str, ...]:
        try:
            return self.guard.current().delegation.task
        except Denied:
            return ()

    async def _run(
        self, server: Server, tool: str, call: ToolCall, carried: Carried, client: Client, resumed: Mapping[str, Any]
    ) -> dict[str, Any]:
        async def execute(**bound: Any) -> dict[str, Any]:
            going = Going(client, copy_context(), self.guard.current().token, carried.progress)
            meta = onward(carried.meta, self.guard.current().token, self._lent(server))
            given = {"name": tool, "arguments": bound, **({"_meta": meta} if meta else {}), **resumed}
            self._going[server.name].add(going)
            try:
                result = await self._until_done(server, call, given, going)
            finally:
                self._going[server.name].discard(going)
            if result.get("isError") is True:
                raise Failed(result)
            return result

        try:
            found: dict[str, Any] = await self.guard.acall(call, execute)
            return found
        except Failed as failed:
            return dict(failed.result)
        except Paused as paused:
            return dict(paused.result)
        except NoAnswer as nothing:
            self._log("no answer", server=server.name, tool=tool, why=nothing.why)
            more = "" if isinstance(nothing, Halted) else ": look whether it did before you call it again"
            return error_result(
                f"{shown_name(call)}: {nothing.why} ({server.label}); whether it ran is not known{more}",
                {"guardtrail.io/outcome": "unknown"},
            )
        except ServerError as failed_:
            if failed_.code == ADDRESS_WANTED:
                return error_result(
                    f"{shown_name(call)}: the server sends a person to an address, which is denied", {"guardtrail.io/outcome": "error"}
                )
            if failed_.code is None:
                self._log("not reached", server=server.name, tool=tool)
                return error_result(failed_.message, {"guardtrail.io/outcome": "error"})
            raise said_no(failed_) from None

    async def _until_done(self, server: Server, call: ToolCall, given: dict[str, Any], going: Going) -> dict[str, Any]:
        """The result of a call; what the server wants to know in between is judged, and asked of the client in the way of its own era."""
        for _ in range(_ROUNDS):
            result = await server.request(
                "tools/call", given, lambda message: self.heard(server.name, message, going), progress=going.progress is not None
            )
            if result.get("resultType") != "input_required":
                return cleaned(result)
            asks, state = result.get("inputRequests"), result.get("requestState")
            if not isinstance(asks, Mapping) or not all(
                isinstance(each, Mapping) and each.get("method") in ASKED for each in asks.values()
            ):
                raise Halted("the server asked for what is not known here")
            answers: dict[str, Any] = {}
            for key, each in asks.items():
                try:
                    answers[key] = await self._input(server, each, going.client)
                except Denied:
                    raise Halted(f"the server asked for {each['method']}, which is denied by policy") from None
                except Refused:
                    raise Halted(f"the server asked for {each['method']}, and the client has no answer") from None
            if going.client.modern:
                sealed = self._seals.close(state, self._about(call), list(asks))
                raise Paused({"resultType": "input_required", "inputRequests": dict(asks), "requestState": sealed})
            given = {**given, "inputResponses": answers, **({} if state is None else {"requestState": state})}
        raise Halted("the server asks without an end")

    async def _input(self, server: Server, asked: Mapping[str, Any], client: Client) -> Mapping[str, Any]:
        params = asked.get("params")

        async def then(given: Mapping[str, Any]) -> Mapping[str, Any]:
            return {} if client.modern else await self._person(client, asked["method"], given)

        return await self._judged(server, asked["method"], params if isinstance(params, Mapping) else {}, then)

    def _lent(self, server: Server) -> str | None:
        if not server.lend:
            return None
        try:
            return self.guard.credential().reveal()
        except GuardError:  # its tool declares none
            return None


_CACHED: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"}
)
_METHODS: Final[Mapping[str, Callable[[Relay, Mapping[str, Any], Client], Awaitable[dict[str, Any]]]]] = {
    "initialize": Relay._initialize,
    "server/discover": Relay._discover,
    "ping": Relay._ping,
    "tools/list": Relay._list_tools,
    "tools/call": Relay._call_tool,
    "resources/list": lambda relay, params, client: relay._reads.list_resources(params, client),
    "resources/templates/list": lambda relay, params, client: relay._reads.list_templates(params, client),
    "resources/read": lambda relay, params, client: relay._reads.read_resource(params, client),
    "prompts/list": lambda relay, params, client: relay._reads.list_prompts(params, client),
    "prompts/get": lambda relay, params, client: relay._reads.get_prompt(params, client),
    "completion/complete": lambda relay, params, client: relay._reads.complete(params, client),
}
