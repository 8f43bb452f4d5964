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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from guard.errors import ApprovalRequired, Denied, GuardError
from guard.gateway.carry import Carried, holds, onward, read_meta, traced
from guard.gateway.pages import page
from guard.gateway.rpc import DENIED, ENVELOPE, HANDSHAKE, INVALID_PARAMS, META_SERVER, NO_METHOD, Refused, answer, error
from guard.gateway.seals import Seals
from guard.gateway.server import NoAnswer, Server, ServerError
from guard.model import Decision, ToolCall
from guard.reasons import ReasonCode
from guard.runtime import Guard

__all__ = ["ASKED", "RESERVED", "Client", "Relay", "denial"]

ASKED: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What servers ask of clients -> the capability by which clients say that they answer."""
RESERVED: Final = frozenset({"resources.read", "prompts.get", "completion.complete", *(each.replace("/", ".") for each in ASKED)})
"""Names in a policy that are no tools of a server. Attack: a server calls a tool `resources.read`, and may do what reading may."""
_SEP: Final = "__"
_MOST: Final = 10_000
_ROUNDS: Final = 8
WHO: Final = {"name": "guardtrail", "version": "0.1.0"}
_INSTEAD: Final = {"code": "guardtrail.io/code", "decision": "guardtrail.io/decision", "request": "guardtrail.io/request"}

Log = Callable[..., None]


class Client(Protocol):
    """Who sent the request, for as long as it is answered."""

    modern: bool
    raises: bool
    """Does a missing grant become the transport's own challenge? Then `Denied` is raised for it."""

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification within the answer. Must not block."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request of a server, to the client. Raises Refused."""


class _Failed(Exception):
    """The server says that its tool failed. Its text is what the tool said: values in it are text from then on."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        parts = result.get("content")
        texts = [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)] if isinstance(parts, list) else []
        super().__init__("\n".join(texts))
        self.result = result


class _Paused(BaseException):
    """The server wants answers before it goes on. Carries what the client is told."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        super().__init__("input required")
        self.result = result


class _Halted(NoAnswer):
    """The server wanted what nobody lets it have."""


class _Going:
    """A call on its way: where requests that the server makes because of it are judged."""

    def __init__(self, client: Client, context: Context, task: str, progress: str | int | None) -> None:
        self.client, self.context, self.task, self.progress = client, context, task, progress


class Relay:
    """Between clients and the servers behind."""

    def __init__(self, guard: Guard, servers: Sequence[Server], *, log: Log = lambda *_, **__: None) -> None:
        self.guard = guard
        self.servers = {server.name: server for server in servers}
        self.listeners: set[Callable[[], None]] = set()
        self._log = log
        self._alone = servers[0] if len(servers) == 1 else None
        self._going: dict[str, set[_Going]] = {server.name: set() for server in servers}
        self._jobs: set[asyncio.Task[Any]] = set()
        self._seals = Seals()

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

    def heard(self, name: str, message: Mapping[str, Any], going: _Going | None = None) -> None:
        """Beside an answer: progress goes on, requests are judged, a new list is read."""
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, Mapping) else {}
        if method == "notifications/progress":
            if going is not None and going.progress is not None:
                told = {key: params[key] for key in ("progress", "total", "message") if key in params}
                going.client.tell("notifications/progress", {"progressToken": going.progress, **told})
        elif method == "notifications/tools/list_changed":
            self._start(self._reread(self.servers[name]))
        elif "id" in message and isinstance(method, str):
            self._asked(name, message["id"], method, params, going)

    async def _reread(self, server: Server) -> None:
        try:
            await server.reread()
        except (ServerError, NoAnswer) as failed:
            self._log("tools could not be read again", server=server.name, why=type(failed).__name__)

    def _asked(self, name: str, id: object, method: str, params: Mapping[str, Any], going: _Going | None) -> None:
        server, waiting = self.servers[name], self._going[name]
        if method == "ping":
            self._start(server.post(answer(id, {})))
            return
        if going is None and len({one.task for one in waiting}) == 1:
            going = next(iter(waiting))  # all that wait are of one task: it is that one's doing
        if method not in ASKED or going is None:
            self._start(server.post(error(id, NO_METHOD, "not known here")))
            return
        self._start(self._answer(server, id, method, params, going), going.context.copy())

    async def _answer(self, server: Server, id: object, method: str, params: Mapping[str, Any], going: _Going) -> None:
        try:
            said = answer(id, await self._judged(server, method, params, lambda given: going.client.ask(method, given)))
        except Denied:
            said = error(id, -32600, f"{method} is denied by policy")
        except Refused as refused:
            said = refused.error(id)
        except Exception:
            said = error(id, -32603, "no answer")
        await server.post(said)

    async def _judged(
        self, server: Server, method: str, params: Mapping[str, Any], then: Callable[[Mapping[str, Any]], Any], proof: str = ""
    ) -> dict[str, Any]:
        """A call that is no tool's: `a/b` is called `a.b` in a policy. Raises Denied and whatever `then` raises."""
        args = {key: value for key, value in params.items() if key not in ("_meta", "inputResponses", "requestState", "task")}
        call = ToolCall(server.tool_name(method.replace("/", ".")), args, proof=proof)
        if holds(args, self._token()):
            raise await self._no(call, ReasonCode.ARGS_TOKEN, "the delegation token stands in the arguments")

        async def execute(**bound: Any) -> Any:
            return await then(bound)

        found: dict[str, Any] = dict(await self.guard.acall(call, execute))
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
        result = {key: value for key, value in found.items() if key not in _OF_AN_ERA}
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

    def schema(self, shown: object) -> object:
        """Of a tool as clients name it, where it is known."""
        server, tool = self._route(shown) if isinstance(shown, str) else (None, "")
        known = server.tools.get(tool) if server is not None else None
        return known.shown.get("inputSchema") if known is not None else None

    def _route(self, shown: str) -> tuple[Server | None, str]:
        """A name as clients see it: `server__tool` where there are several servers."""
        if self._alone is not None:
            return self._alone, shown
        name, found, tool = shown.partition(_SEP)
        return (self.servers.get(name), tool) if found else (None, shown)

    def _shown(self, server: Server, name: str) -> str:
        return name if self._alone is not None else f"{server.name}{_SEP}{name}"

    async def _list_tools(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        await asyncio.gather(*(server.fresh() for server in self.servers.values()))
        rows = [(server, name) for server in self.servers.values() for name, tool in server.tools.items() if tool.state == "pinned"]
        seen = set(self.guard.visible(server.tool_name(name) for server, name in rows))
        tools = [
            {**server.tools[name].shown, "name": self._shown(server, name)} for server, name in rows if server.tool_name(name) in seen
        ]
        return page("tools", tools, params.get("cursor"))

    async def _call_tool(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        shown, given = params.get("name"), params.get("arguments")
        if not isinstance(shown, str) or not (given is None or isinstance(given, Mapping)):
            raise Refused(INVALID_PARAMS, "of tools/call, `name` is text and `arguments` an object", status=400)
        carried = read_meta(params)
        traced(carried.meta)
        server, tool = self._route(shown)
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
            if client.raises and str(denied.decision.code).startswith("grant."):
                raise
            return _refusal(denied)

    async def _fit(self, server: Server, tool: str, call: ToolCall) -> None:
        """What the guard cannot see of a call. Raises Denied."""
        known = server.tools.get(tool)
        if tool in RESERVED:
            raise await self._no(call, ReasonCode.TOOL_UNKNOWN, "this name stands for what is no tool")
        if known is None:
            raise await self._no(call, ReasonCode.TOOL_UNKNOWN, f"{server.label} does not list it")
        if known.state != "pinned":
            how = "describes it otherwise than it was pinned" if known.state == "changed" else "lists it, and it was never pinned"
            raise await self._no(call, ReasonCode.TOOL_CHANGED, f"{server.label} {how}", "a person looks at it and pins it: guardtrail mcp --pin")
        if holds(call.args, self._token()):
            raise await self._no(call, ReasonCode.ARGS_TOKEN, "the delegation token stands in the arguments", "the same call without it")

    async def _resumed(self, call: ToolCall, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answers that came with the call. Raises Denied where nobody asked."""
        if "inputResponses" not in params and "requestState" not in params:
            return {}
        responses = params.get("inputResponses", {})
        good, state = self._seals.open(params.get("requestState"), self._about(call), responses)
        if not good or holds(responses, self._token()):
            raise await self._no(call, ReasonCode.CALL_UNASKED, "answers came with the call, and it has asked for none", "the same call without them")
        return {"inputResponses": responses, **({} if state is None else {"requestState": state})}

    def _about(self, call: ToolCall) -> str:
        from guard.gateway.pins import digest

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
            going = _Going(client, copy_context(), ".".join(self.guard.current().delegation.task), carried.progress)
            meta = onward(carried.meta, self.guard.current().token, self._lent(server))
            given = {"name": tool, "arguments": bound, **({"_meta": meta} if meta else {}), **resumed}
            self._going[server.name].add(going)
            try:
                result = await self._until_done(server, call, given, going)
            finally:
                self._going[server.name].discard(going)
            if result.get("isError") is True:
                raise _Failed(result)
            return result

        try:
            found: dict[str, Any] = await self.guard.acall(call, execute)
            return found
        except _Failed as failed:
            return dict(failed.result)
        except _Paused as paused:
            return dict(paused.result)
        except NoAnswer as nothing:
            self._log("no answer", server=server.name, tool=tool, why=nothing.why)
            more = "" if isinstance(nothing, _Halted) else ": look whether it did before you call it again"
            return _error_result(f"{shown_name(call)}: {nothing.why} ({server.label}); whether it ran is not known{more}", {"guardtrail.io/outcome": "unknown"})
        except ServerError as failed_:
            if failed_.code is None:
                self._log("not reached", server=server.name, tool=tool)
                return _error_result(failed_.message, {"guardtrail.io/outcome": "error"})
            raise Refused(failed_.code, failed_.message, failed_.data) from None

    async def _until_done(self, server: Server, call: ToolCall, given: dict[str, Any], going: _Going) -> dict[str, Any]:
        """The result of a call; what the server wants to know in between is judged, and asked of the client in the way of its own era."""
        for _ in range(_ROUNDS):
            result = await server.request(
                "tools/call", given, lambda message: self.heard(server.name, message, going), progress=going.progress is not None
            )
            if result.get("resultType") != "input_required":
                return {key: value for key, value in result.items() if key not in _OF_AN_ERA}
            asks, state = result.get("inputRequests"), result.get("requestState")
            if not isinstance(asks, Mapping) or not all(isinstance(each, Mapping) and each.get("method") in ASKED for each in asks.values()):
                raise _Halted("the server asked for what is not known here")
            answers: dict[str, Any] = {}
            for key, each in asks.items():
                try:
                    answers[key] = await self._input(server, each, going.client)
                except Denied:
                    raise _Halted(f"the server asked for {each['method']}, which is denied by policy") from None
                except Refused:
                    raise _Halted(f"the server asked for {each['method']}, and the client has no answer") from None
            if going.client.modern:
                sealed = self._seals.close(state, self._about(call), list(asks))
                raise _Paused({"resultType": "input_required", "inputRequests": dict(asks), "requestState": sealed})
            given = {**given, "inputResponses": answers, **({} if state is None else {"requestState": state})}
        raise _Halted("the server asks without an end")

    async def _input(self, server: Server, asked: Mapping[str, Any], client: Client) -> Mapping[str, Any]:
        params = asked.get("params")

        async def then(given: Mapping[str, Any]) -> Mapping[str, Any]:
            return {} if client.modern else await client.ask(asked["method"], given)

        return await self._judged(server, asked["method"], params if isinstance(params, Mapping) else {}, then)

    def _lent(self, server: Server) -> str | None:
        if not server.lend:
            return None
        try:
            return self.guard.credential().reveal()
        except GuardError:  # its tool declares none
            return None

    # -- resources, prompts, completion ------------------------------------------------------------------------------------------------

    async def _read_resource(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        server, uri = self._owner(params.get("uri"))
        return await self._get(server, "resources/read", {"uri": uri}, params, client)

    async def _get_prompt(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        shown, given = params.get("name"), params.get("arguments")
        if not isinstance(shown, str) or not (given is None or isinstance(given, Mapping)):
            raise Refused(INVALID_PARAMS, "of prompts/get, `name` is text and `arguments` an object", status=400)
        server, name = self._route(shown)
        return await self._get(server, "prompts/get", {"name": name, **({"arguments": given} if given else {})}, params, client)

    async def _complete(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        ref = params.get("ref")
        if not isinstance(ref, Mapping):
            raise Refused(INVALID_PARAMS, "of completion/complete, `ref` is an object", status=400)
        if isinstance(ref.get("name"), str):
            server, name = self._route(ref["name"])
            own = {**ref, "name": name}
        else:
            server, uri = self._owner(ref.get("uri"))
            own = {**ref, "uri": uri}
        given = {"ref": own, **{key: params[key] for key in ("argument", "context") if key in params}}
        return await self._get(server, "completion/complete", given, params, client)

    def _owner(self, shown: object) -> tuple[Server | None, str]:
        """A resource as clients see it: `server+uri` where there are several servers."""
        if not isinstance(shown, str):
            raise Refused(INVALID_PARAMS, "`uri` is text", status=400)
        if self._alone is not None:
            return self._alone, shown
        name, _, uri = shown.partition("+")
        return self.servers.get(name), uri

    async def _get(
        self, server: Server | None, method: str, given: Mapping[str, Any], params: Mapping[str, Any], client: Client
    ) -> dict[str, Any]:
        if server is None:
            raise Refused(INVALID_PARAMS, "no server behind the gateway has it")
        carried = read_meta(params)
        traced(carried.meta)

        async def then(bound: Mapping[str, Any]) -> dict[str, Any]:
            meta = onward(carried.meta, self.guard.current().token)
            found = await server.request(method, {**bound, **({"_meta": meta} if meta else {})})
            if found.get("resultType") == "input_required":
                raise _Halted("the server wants answers first")
            return {key: value for key, value in found.items() if key not in _OF_AN_ERA}

        try:
            return await self._judged(server, method, given, then, carried.proof)
        except Denied as denied:
            if client.raises and str(denied.decision.code).startswith("grant."):
                raise
            raise Refused(DENIED, denied.for_model(), _about_decision(denied)) from None
        except NoAnswer as nothing:
            raise Refused(-32001, f"{nothing.why} ({server.label})") from None
        except ServerError as failed:
            raise Refused(failed.code if failed.code is not None else -32001, failed.message, failed.data) from None

    async def _list(self, method: str, key: str, params: Mapping[str, Any], asking: Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]] | None]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        for server in self.servers.values():
            of = "resources.read" if "resources" in method else "prompts.get"
            if not self.guard.visible([server.tool_name(of)]):
                continue
            async for entry in _pages(server, method, key):
                asked = asking(entry)
                if asked is not None and self._would(ToolCall(server.tool_name(of), asked[1])).verdict == "deny":
                    continue
                own = dict(entry)
                if key == "prompts":
                    own["name"] = self._shown(server, str(entry["name"]))
                elif self._alone is None:
                    name = "uri" if key == "resources" else "uriTemplate"
                    own[name] = f"{server.name}+{entry.get(name)}"
                found.append(own)
        return page(key, found, params.get("cursor"))

    def _would(self, call: ToolCall) -> Decision:
        return self.guard.check(call)

    async def _list_resources(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        return await self._list("resources/list", "resources", params, lambda entry: ("", {"uri": entry.get("uri")}))

    async def _list_templates(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        return await self._list("resources/templates/list", "resourceTemplates", params, lambda entry: None)

    async def _list_prompts(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        return await self._list("prompts/list", "prompts", params, lambda entry: ("", {"name": entry.get("name")}))


async def _pages(server: Server, method: str, key: str) -> AsyncIterator[dict[str, Any]]:
    if method.partition("/")[0] not in server.capabilities:
        return
    cursor, number = None, 0
    try:
        while number < _MOST:
            found = await server.request(method, {} if cursor is None else {"cursor": cursor})
            entries = found.get(key)
            for entry in entries if isinstance(entries, list) else ():
                number += 1
                if isinstance(entry, dict):
                    yield entry
            cursor = found.get("nextCursor")
            if not isinstance(cursor, str) or not entries:
                return
    except NoAnswer as nothing:
        raise Refused(-32001, f"{nothing.why} ({server.label})") from None
    except ServerError as failed:
        if failed.code != NO_METHOD:
            raise Refused(failed.code if failed.code is not None else -32001, failed.message) from None


def shown_name(call: ToolCall) -> str:
    """A tool's name as a text may carry it: the client chose it."""
    return call.tool if call.tool.isascii() and call.tool.isprintable() and len(call.tool) <= 257 else "(unnamed)"


def _about_decision(denied: Denied) -> dict[str, Any]:
    decision = denied.decision
    about = {"code": str(decision.code), "decision": decision.id}
    if isinstance(denied, ApprovalRequired) and denied.request is not None:
        about["request"] = str(denied.request["id"])
    return about


def _refusal(denied: Denied) -> dict[str, Any]:
    return _error_result(denied.for_model(), {_INSTEAD[key]: value for key, value in _about_decision(denied).items()})


def denial(method: str, denied: Denied, *, modern: bool) -> dict[str, Any]:
    """What becomes of a request whose task does not open. Raises Refused where models read no results of it."""
    if method != "tools/call":
        raise Refused(DENIED, denied.for_model(), _about_decision(denied))
    return _refusal(denied) | ({"resultType": "complete"} if modern else {})


def _error_result(text: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True, "_meta": dict(meta)}


_OF_AN_ERA: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
_CACHED: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"})
_METHODS: Final[Mapping[str, Callable[[Relay, Mapping[str, Any], Client], Any]]] = {
    "initialize": Relay._initialize,
    "server/discover": Relay._discover,
    "ping": Relay._ping,
    "tools/list": Relay._list_tools,
    "tools/call": Relay._call_tool,
    "resources/list": Relay._list_resources,
    "resources/templates/list": Relay._list_templates,
    "resources/read": Relay._read_resource,
    "prompts/list": Relay._list_prompts,
    "prompts/get": Relay._get_prompt,
    "completion/complete": Relay._complete,
}
