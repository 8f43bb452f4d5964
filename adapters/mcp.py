"""MCP, client side: every tool call of one `mcp.ClientSession` passes the guard before it leaves the process.

    from guard.adapters.mcp import GuardedSession

    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        tools = GuardedSession(guard, session)
        async with guard.task(token):
            await tools.list_tools()
            result = await tools.call_tool("git_status", {"repo_path": "/srv/app"})

Hand the agent the `GuardedSession` and keep the session to yourself: `session.call_tool` and `session.send_request` are the bare
wire and know no guard. The task comes from the context, never from the connection: on the newest protocol revision an MCP session
is new on every call (fail-open row F47). A server's or a client's "accept" to an elicitation authorizes nothing (row F66):
`input_responses` are not taken here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._core import (
    META_CREDENTIAL,
    META_PROOF,
    META_TOKEN,
    Denied,
    Guard,
    GuardError,
    HolderKey,
    about,
    missing,
    refusal,
    tool_call,
    without_token,
)

try:
    from mcp import ClientSession, MCPError
    from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent
    from opentelemetry.propagate import inject
except ImportError as error:  # absent, or 1.x, which has other names
    raise missing("mcp", "mcp", "2.0") from error

__all__ = ["GuardedSession"]

_NO_ANSWER = (REQUEST_TIMEOUT, CONNECTION_CLOSED)


class ToolError(Exception):
    """The server ran the tool and says that it failed: outcome `error`. Carries the result, which goes to the caller untouched."""

    def __init__(self, result: CallToolResult) -> None:
        super().__init__("the tool answered with isError")
        self.result = result


class NoAnswer(BaseException):
    """Nobody knows whether the tool ran: outcome `unknown`. Not an Exception, because the guard reads an Exception as `error`, and
    the units of a limit may come back after an error. Carries the SDK's own exception, which goes to the caller untouched."""

    def __init__(self, error: Exception) -> None:
        super().__init__("no answer from the MCP server")
        self.error = error


class GuardedSession:
    """The tools of one MCP session, as the current task may use them.

    `server`: its name in the policy, where tools are written `server/tool`; needed where two servers have a tool of the same name.
    `present`: the server has a guard of its own: the task's token and a fresh proof of this call go along in `_meta`. Only for a server that may
    have them; any other never sees the token. `lend`: a server that reads the credential of a call (`credential:` of the policy) in `_meta` finds it there; any
    other never sees it. `raise_denied`: raise `Denied` instead of answering with an `isError` result, which is what a model expects.
    """

    def __init__(
        self,
        guard: Guard,
        session: ClientSession,
        *,
        server: str | None = None,
        raise_denied: bool = False,
        present: HolderKey | None = None,
        lend: bool = False,
    ) -> None:
        self._present = present
        self._lend = lend
        self._guard = guard
        self._session = session
        self._server = server
        self._raise_denied = raise_denied

    async def list_tools(self, *, params: PaginatedRequestParams | None = None) -> ListToolsResult:
        """The tools the current task could ever use; outside a task none. Shortening a list protects nothing: `call_tool` does.

        From here on, calls of the listed tools are bound to their schemas: required arguments, defaults, no unknown ones.
        """
        if self._present is not None:  # its guard shows a task what the task may call
            given: Any = without_token(dict((params and params.meta) or {}), token := self._guard.current().token)
            params = PaginatedRequestParams(cursor=params.cursor if params else None, _meta={**given, META_TOKEN: token})
        listed = await self._session.list_tools(params=params)
        names = {tool.name: self._name(tool.name) for tool in listed.tools}
        for tool in listed.tools:
            self._guard.declare(names[tool.name], tool.input_schema)
        visible = set(self._guard.visible(names.values()))
        return listed.model_copy(update={"tools": [tool for tool in listed.tools if names[tool.name] in visible]})

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Any = None,
        *,
        meta: Mapping[str, object] | None = None,
        call_id: str = "",
    ) -> CallToolResult:
        """`ClientSession.call_tool` under the guard. `call_id`: the id the model gave this call, so that a retry does not run twice.

        A denial is an `isError` result whose text a model can act on; `_meta` names the decision. Everything else is the server's
        own answer or the SDK's own exception.
        """

        async def execute(**bound: Any) -> CallToolResult:
            return await self._send(name, bound, read_timeout_seconds, progress_callback, meta)

        try:
            return await self._guard.acall(tool_call(name, arguments, call_id, server=self._server), execute)
        except ToolError as failed:
            return failed.result
        except NoAnswer as nothing:
            raise nothing.error from None
        except Denied as denied:
            if self._raise_denied:
                raise
            return _refused(denied)

    def _name(self, tool: str) -> str:
        return tool_call(tool, None, server=self._server).tool

    async def _send(
        self, name: str, arguments: dict[str, Any], timeout: float | None, progress: Any, given: Mapping[str, object] | None
    ) -> CallToolResult:
        token = self._guard.current().token
        meta: Any = without_token(given or {}, token)
        if self._present is not None:
            meta |= {META_TOKEN: token, META_PROOF: self._present.prove(token, name, arguments)}
        if self._lend and (credential := _lent(self._guard)) is not None:
            meta |= {META_CREDENTIAL: credential}
        inject(meta)  # `traceparent` of the guard's span: the server's spans become part of this call
        try:
            result = await self._session.call_tool(name, arguments, timeout, progress, meta=meta or None)
        except MCPError as error:
            if error.code in _NO_ANSWER:
                raise NoAnswer(error) from error
            raise  # the server's "no": the tool did not run, or failed
        except Exception as error:  # a result that does not parse, fits no schema, or wants more input: it may have had its effect
            raise NoAnswer(error) from error
        if result.is_error:
            raise ToolError(result)
        return result


def _lent(guard: Guard) -> str | None:
    """What this very call was lent; None where its tool declares nothing."""
    try:
        return guard.credential().reveal()
    except GuardError:
        return None


def _refused(denied: Denied) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=refusal(denied))], is_error=True, _meta=about(denied))
