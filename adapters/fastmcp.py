"""FastMCP: every request that does something passes the guard, whatever it came by.

    from guard.adapters.fastmcp import GuardMiddleware

    mcp = FastMCP("refunds", middleware=[GuardMiddleware(guard)])

    @mcp.tool
    def refund(order: str, amount: str) -> str: ...

The task is that of the token which comes with the request (`_meta["guardtrail.io/token"]`, else over HTTP `Authorization: Bearer`), on every transport the
same (fail-open row F36), never of a session (F47). A call that a tool makes on the server (`ctx.fastmcp.call_tool`) is judged too, in the task of the request;
one that the program makes itself, outside of any request, in the task of its context. Mounted servers and proxies are behind the middleware of the server that
was called; a tool that is hidden is denied when it is called all the same (F57). What goes past the middleware (`run_middleware=False`, `tool.run`, the
function itself) ends at a sealed body: put `@guard.tool` under `@mcp.tool` (F63).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from ._core import ConfigError, Denied, Guard, Seen, missing, refusal, request_task, tool_call

try:
    from fastmcp import FastMCP
    from fastmcp.server.dependencies import bind_request_context
    from fastmcp.server.middleware import Middleware
    from fastmcp.tools.base import InputRequiredToolResult, ToolResult
    from mcp import MCPError
    from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams

    from ._mcp import DENIED, LISTS, PASSED, Answers, Carried, Failed, Own, Token, asks, bare, carried, public, refused
except ImportError as error:  # absent, or 3.x, which stands on another SDK
    raise missing("fastmcp", "fastmcp", "4.0") from error

__all__ = ["GuardMiddleware", "coverage"]

_ONLY_WATCH: Final = frozenset({"authorization", "dereference", "error_handling", "logging", "ping", "rate_limiting", "timing"})
"""Middleware of FastMCP that never answers a call by itself."""
_BESIDE: Final = ("_meta", "inputResponses", "requestState")
_held: ContextVar[tuple[Any, str | None]] = ContextVar("guardtrail_fastmcp_held", default=(None, None))
"""The request that is carried out, as its tool sees it, and its token: for what the tool calls on this server or on one that is mounted. A request of another
connection is another one, also where it comes in the same context (in memory): it brings a token of its own, or has none."""


class GuardMiddleware(Middleware):  # type: ignore[misc]
    """Middleware of a `FastMCP` server or proxy. Put it first: what stands before it may answer without it (`ResponseCachingMiddleware` does).

    `server`, `token`, `prompt`: as of `guard.adapters.mcp_server.GuardMiddleware`.
    """

    def __init__(self, guard: Guard, *, server: str | None = None, token: Token = None, prompt: bool = True) -> None:
        if not isinstance(guard, Guard):
            raise ConfigError("GuardMiddleware: `guard` is the Guard that decides")
        self._guard, self._server, self._token, self._prompt = guard, server, token, prompt
        self._bound: dict[str, bool] = {}

    async def __call__(self, context: Any, call_next: Any) -> Any:
        own, method, request = Own(call_next), context.method, None
        try:
            request = context.fastmcp_context.request_context if context.fastmcp_context is not None else None
            passed = context.type != "request" or method in PASSED
            came = Carried(None)
            if request is not None:
                within = _held.get()[0] is request._srctx
                came = Carried(_held.get()[1]) if within else carried(request.meta, request.request, None if passed else self._token)
            with _Cleaned(request, came.token):
                if passed:
                    return await own(context)
                if method in LISTS:
                    return await self._list(context, own, came, request)
                async with nullcontext() if request is None else request_task(self._guard, came.token or "", keep=True):
                    return await (self._tool if method == "tools/call" else self._other)(context, own, came, request)
        except Failed as failed:
            return failed.result
        except Denied as denied:
            if method != "tools/call":
                raise MCPError(DENIED, refusal(denied), {"code": str(denied.decision.code), "decision": denied.decision.id}) from None
            again = Answers.of(getattr(context.message, "input_responses", None)).ours is not None
            form = asks(denied, None if again or not self._prompt or request is None else request)
            return InputRequiredToolResult(form) if form is not None else _result(refused(denied))
        except Exception as error:
            if isinstance(error, MCPError) or own.raised is error:
                raise  # of the server, its own way
            raise MCPError(INTERNAL_ERROR, "the guard failed; this request has no answer") from None

    async def _tool(self, context: Any, own: Own, came: Carried, request: Any) -> Any:
        message = context.message
        if not isinstance(message, CallToolRequestParams) or message.task is not None:
            raise MCPError(INVALID_PARAMS, "a call names its tool, and is not one to be carried out later")
        name, said = message.name, Answers.of(message.input_responses)
        if said.ours not in (None, "accept"):
            return _result(refused("it did not run: the user was asked, and did not accept"))
        call = tool_call(name, message.arguments, said.id(came.call_id, message.request_state), server=self._server, proof=came.proof)
        if name not in self._bound and self._guard.visible([call.tool]):
            tool = await context.fastmcp_context.fastmcp.get_tool(name)
            self._learn(tool, name)
        if self._bound.get(name):
            return _result(refused(f"{name} did not run: it may run in the background, when the call it was allowed for is over"))

        async def execute(**bound: Any) -> Any:
            if name not in self._bound:  # what nobody has looked at does not run, also where it is there since
                raise Failed(_result(refused(f"{name} did not run: the server does not know it")))
            changed = message.model_copy(update={"arguments": bound, "input_responses": said.rest or None})
            result = await own(context.copy(message=changed))
            if getattr(result, "is_error", False) is True:
                raise Failed(result)
            return result

        return await self._guard.acall(call, execute)

    async def _other(self, context: Any, own: Own, came: Carried, request: Any) -> Any:
        """Whatever else a client may ask for is a call of a tool of that name."""
        message = context.message
        if isinstance(message, ReadResourceRequestParams):
            args: dict[str, Any] = {"uri": str(message.uri)}
        elif isinstance(message, GetPromptRequestParams):
            args = {"name": message.name} | ({} if message.arguments is None else {"arguments": message.arguments})
        elif isinstance(message, Mapping) and context.method not in ("resources/read", "prompts/get"):
            args = {key: value for key, value in message.items() if key not in _BESIDE}
        else:
            raise MCPError(INVALID_PARAMS, "not a request of this method")

        async def execute(**bound: Any) -> Any:
            if isinstance(message, Mapping):
                kept = {key: bare(value, came.token) if key == "_meta" else value for key, value in message.items() if key in _BESIDE}
                return await own(context.copy(message=kept | bound))
            return await own(context.copy(message=message.model_copy(update=bound)))

        call = tool_call(context.method.replace("/", "."), args, came.call_id, server=self._server, proof=came.proof)
        return await self._guard.acall(call, execute)

    async def _list(self, context: Any, own: Own, came: Carried, request: Any) -> Any:
        """Shortening a list protects nothing: a call does. Without a token, or a task of the program's own, it is empty."""
        rows, door = list(await own(context)), LISTS[context.method][1]
        for row in () if door else rows:
            self._learn(row, row.name)
        if request is not None and came.token is None:
            return []
        async with nullcontext() if request is None else request_task(self._guard, came.token or "", keep=True):
            names = [tool_call(door or row.name, None, server=self._server).tool for row in rows]
            visible = set(self._guard.visible(names))
        return [row for name, row in zip(names, rows, strict=True) if name in visible]

    def _learn(self, tool: Any, name: str) -> None:
        """Calls are bound to the schema of the tool; and may a part of it run when the call is over? One that is not there yet is asked for again."""
        if tool is None:
            return
        self._guard.declare(tool_call(name, None, server=self._server).tool, tool.parameters)
        config = getattr(tool, "task_config", None)
        self._bound[name] = config is not None and config.supports_tasks()


class _Cleaned:
    """The request as tools, proxies and other middleware see it: without what is the guard's."""

    __slots__ = ("_bound", "_ctx", "_held", "_token")

    def __init__(self, request: Any, token: str | None) -> None:
        self._ctx, self._token = None if request is None else _public(request._srctx, token), token

    def __enter__(self) -> None:
        if self._ctx is not None:
            self._bound = bind_request_context(self._ctx)
            self._bound.__enter__()
            self._held = _held.set((self._ctx, self._token))

    def __exit__(self, *raised: object) -> None:
        if self._ctx is not None:
            _held.reset(self._held)
            self._bound.__exit__(*raised)


def _public(ctx: Any, token: str | None) -> Any:
    params = ctx.params if isinstance(ctx.params, Mapping) else {}
    changes: dict[str, Any] = {"request": public(ctx.request)}
    if isinstance(params.get("_meta"), Mapping):
        rest = Answers.of(params.get("inputResponses")).rest
        kept = {key: value for key, value in params.items() if key != "inputResponses"} | ({"inputResponses": rest} if rest else {})
        changes |= {"params": kept | {"_meta": bare(params["_meta"], token)}, "meta": bare(ctx.meta or {}, token)}
    return replace(ctx, **changes)


def _result(refusal: Any) -> ToolResult:
    return ToolResult(content=refusal.content, meta=refusal.meta, is_error=True)


def coverage(server: Any) -> list[Seen]:
    """What a server offers, mounted servers included, and whether a guard stands before it: nothing that could answer by itself may come first."""
    if not isinstance(server, FastMCP):
        return []
    why = "put GuardMiddleware first in `middleware`"
    for each in server.middleware:
        if isinstance(each, GuardMiddleware):
            why = ""
            break
        home, _, module = type(each).__module__.rpartition(".")
        if home != "fastmcp.server.middleware" or module not in _ONLY_WATCH:
            why = f"{why}: {type(each).__name__} stands before it, and may answer without it"
            break
    with ThreadPoolExecutor(1) as pool:  # a loop may be running here
        tools = pool.submit(asyncio.run, server.list_tools(run_middleware=False)).result()
    return [Seen(name, not why, why) for name in [*(tool.name for tool in tools), "resources/read", "prompts/get"]]
