"""MCP, server side: every request that does something passes the guard, whatever it came by.

    from guard.adapters.mcp_server import GuardMiddleware

    server = MCPServer("shop", middleware=[GuardMiddleware(guard)])      # low level: server.middleware.append(GuardMiddleware(guard))

    @server.tool()
    def refund(order: str, amount: str) -> str: ...

| a request                                      | what happens                                                                    |
|------------------------------------------------|---------------------------------------------------------------------------------|
| `tools/call`                                   | a call of that tool; a no is an `isError` result, which models read             |
| `tools/list`                                   | shortened to what the task could ever call; resources and prompts: all or none  |
| `resources/read`, `prompts/get`, anything else | a call of `resources.read`, `prompts.get`, ...: denied where the policy has none |
| handshake, ping, notifications                 | passed on                                                                       |

The task is that of the token which comes with the request: `_meta["guardtrail.io/token"]`, else over HTTP `Authorization: Bearer`. Nothing of the
connection counts, neither its session (fail-open row F47) nor its transport (F36). What a client says of a person's yes starts a call again and
authorizes nothing (F66): only the guard's approvals do. The tool sees neither token nor proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ._core import ConfigError, Denied, Guard, Seen, missing, refusal, request_task, tool_call

try:
    from mcp import MCPError
    from mcp.server import MCPServer
    from mcp.server.lowlevel import Server
    from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND

    from ._mcp import DENIED, LISTS, PASSED, Answers, Carried, Failed, Own, Token, asks, bare, carried, public, refused, wire
except ImportError as error:  # absent, or 1.x, which has no middleware
    raise missing("mcp_server", "mcp", "2.0") from error

__all__ = ["GuardMiddleware", "coverage"]

_PAGES = 1000


class GuardMiddleware:
    """Middleware of `MCPServer` and of the low-level `Server`. Put it first: what stands before it may answer without it.

    `server`: its name in the policy, where tools are written `server/tool`. `token`: of a process that serves one task (a text, or what returns it), for
    requests that bring none; not over HTTP, where anybody may send one. `prompt`: a call that needs approval is shown to the client's user where the
    client can do that (revision 2026-07-28); False, or elsewhere: it is refused, and may be made again once it is approved.
    """

    def __init__(self, guard: Guard, *, server: str | None = None, token: Token = None, prompt: bool = True) -> None:
        if not isinstance(guard, Guard):
            raise ConfigError("GuardMiddleware: `guard` is the Guard that decides")
        self._guard, self._server, self._token, self._prompt = guard, server, token, prompt
        self._bound: set[str] = set()

    async def __call__(self, ctx: Any, call_next: Callable[[Any], Any]) -> Any:
        own = Own(call_next)
        try:
            meta = (ctx.params or {}).get("_meta")
            passed = ctx.request_id is None or ctx.method in PASSED
            came = carried(meta, ctx.request, None if passed else self._token)
            if isinstance(meta, Mapping) and ctx.method != "initialize":
                params = {**ctx.params, "_meta": bare(meta, came.token)}
                ctx = replace(ctx, params=params, meta=bare(ctx.meta or {}, came.token), request=public(ctx.request))
            elif ctx.request is not None:
                ctx = replace(ctx, request=public(ctx.request))
            if passed:
                return await own(ctx)
            if ctx.method == "tools/call":
                return await self._tool(ctx, own, came)
            return await (self._list if ctx.method in LISTS else self._other)(ctx, own, came)
        except Denied as denied:
            raise MCPError(DENIED, refusal(denied), {"code": str(denied.decision.code), "decision": denied.decision.id}) from None
        except Exception as error:
            if isinstance(error, MCPError) or own.raised is error:
                raise  # of the server, its own way
            raise MCPError(INTERNAL_ERROR, "the guard failed; this request has no answer") from None

    async def _tool(self, ctx: Any, own: Own, came: Carried) -> Any:
        params = dict(ctx.params or {})
        name, said = params.get("name"), Answers.of(params.get("inputResponses"))
        if not isinstance(name, str) or params.get("task") is not None:  # a body that runs later runs past this call
            raise MCPError(INVALID_PARAMS, "a call names its tool, and is not one to be carried out later")
        if said.ours is not None:
            params["inputResponses"] = said.rest or None
            if said.ours != "accept":
                return refused("it did not run: the user was asked, and did not accept")
        params = {key: value for key, value in params.items() if value is not None}
        call_id = said.id(came.call_id, params.get("requestState"))
        call = tool_call(name, params.get("arguments"), call_id, server=self._server, proof=came.proof)

        async def execute(**bound: Any) -> Any:
            result = await own(replace(ctx, params=params | {"arguments": bound}))
            if (result.get("isError") if isinstance(result, Mapping) else getattr(result, "is_error", False)) is True:
                raise Failed(result)
            return result

        try:
            async with request_task(self._guard, came.token or "", keep=True):
                if name not in self._bound and self._guard.visible([call.tool]):
                    await self._learn(ctx, own, name)
                return await self._guard.acall(call, execute)
        except Failed as failed:
            return failed.result
        except Denied as denied:
            return asks(denied, ctx if self._prompt and said.ours is None else None) or refused(denied)

    async def _other(self, ctx: Any, own: Own, came: Carried) -> Any:
        """Whatever else a client may ask for is a call of a tool of that name."""
        beside = ("_meta", "inputResponses", "requestState")
        kept = {key: value for key, value in (ctx.params or {}).items() if key in beside}
        args = {key: value for key, value in (ctx.params or {}).items() if key not in beside}
        call = tool_call(ctx.method.replace("/", "."), args, came.call_id, server=self._server, proof=came.proof)
        async with request_task(self._guard, came.token or "", keep=True):
            return await self._guard.acall(call, lambda **bound: own(replace(ctx, params=kept | bound)))

    async def _list(self, ctx: Any, own: Own, came: Carried) -> Any:
        """Shortening a list protects nothing: a call does. Without a token it is empty."""
        found = wire(await own(ctx))
        key, door = LISTS[ctx.method]
        rows = found.get(key, [])
        if not door:
            self._declare(rows)
        names = [tool_call(door or row["name"], None, server=self._server).tool for row in rows]
        visible: set[str] = set()
        if came.token is not None:
            async with request_task(self._guard, came.token, keep=True):
                visible.update(self._guard.visible(names))
        mine = {"cacheScope": "private"} if "cacheScope" in found else {}
        return found | {key: [row for name, row in zip(names, rows, strict=True) if name in visible]} | mine

    async def _learn(self, ctx: Any, own: Own, name: str) -> None:
        """Calls are bound to the schemas of the server's own list, also where nobody has read it yet."""
        cursor: dict[str, Any] = {}
        for _ in range(_PAGES):
            try:
                found = wire(await own(replace(ctx, method="tools/list", params={"_meta": (ctx.params or {}).get("_meta"), **cursor})))
            except MCPError as error:
                if error.code != METHOD_NOT_FOUND:
                    raise
                found = {}  # a server without a list: what the policy declares is what may be sent
                self._bound.add(name)
            self._declare(found.get("tools", []))
            if not found.get("nextCursor"):
                break
            cursor = {"cursor": found["nextCursor"]}

    def _declare(self, rows: Any) -> None:
        for row in rows:
            self._guard.declare(tool_call(row["name"], None, server=self._server).tool, row["inputSchema"])
            self._bound.add(row["name"])


def coverage(server: Any) -> list[Seen]:
    """What a server offers, and whether a guard stands before it: nothing but the SDK's own middleware may come first, as it could answer by itself."""
    if not isinstance(server, (MCPServer, Server)):
        return []
    kinds = [type(each) for each in server.middleware]
    first = next((kind for kind in kinds if not kind.__module__.startswith("mcp.")), None)
    why = "" if first is not None and issubclass(first, GuardMiddleware) else "put GuardMiddleware first in `middleware`"
    names = ["tools/call"]
    if isinstance(server, MCPServer):
        with ThreadPoolExecutor(1) as pool:  # a loop may be running here
            names = [tool.name for tool in pool.submit(asyncio.run, server.list_tools()).result()]
    return [Seen(name, not why, why) for name in [*names, "resources/read", "prompts/get"]]
