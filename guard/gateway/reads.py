"""Resources, prompts and completion: calls like those of tools, under names that a policy gives (`resources.read`, `prompts.get`, `completion.complete`).

Lists show what a dry run of the same call would not deny. Templates have no URI yet: they are shown where reading is possible at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from guard.errors import Denied
from guard.gateway.answers import CHALLENGED, Client, Halted, about_decision, cleaned, said_no
from guard.gateway.carry import onward, read_meta
from guard.gateway.pages import page
from guard.gateway.routes import Routes
from guard.gateway.rpc import DENIED, INVALID_PARAMS, NO_ANSWER, NO_METHOD, Refused
from guard.gateway.server import NoAnswer, Server, ServerError
from guard.model import ToolCall
from guard.record.carried import came_from
from guard.runtime import Guard

__all__ = ["Judged", "Reads"]

Then = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
Judged = Callable[[Server, str, Mapping[str, Any], Then, str], Awaitable[dict[str, Any]]]
"""(server, method, arguments, what to do if it may be, proof) -> what that gave. Raises Denied."""
_MOST: Final = 10_000


class Reads:
    """Of one relay."""

    def __init__(self, guard: Guard, routes: Routes, judged: Judged, token: Callable[[], str]) -> None:
        self._guard, self._routes, self._judged, self._token = guard, routes, judged, token

    async def read_resource(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        server, uri = self._routes.owner(params.get("uri"))
        return await self._get(server, "resources/read", {"uri": uri}, params, client)

    async def get_prompt(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        shown, given = params.get("name"), params.get("arguments")
        if not isinstance(shown, str) or not (given is None or isinstance(given, Mapping)):
            raise Refused(INVALID_PARAMS, "of prompts/get, `name` is text and `arguments` an object", status=400)
        server, name = self._routes.named(shown)
        return await self._get(server, "prompts/get", {"name": name, **({"arguments": given} if given else {})}, params, client)

    async def complete(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        ref = params.get("ref")
        if not isinstance(ref, Mapping):
            raise Refused(INVALID_PARAMS, "of completion/complete, `ref` is an object", status=400)
        server: Server | None
        if isinstance(ref.get("name"), str):
            server, name = self._routes.named(ref["name"])
            own = {**ref, "name": name}
        else:
            server, uri = self._routes.owner(ref.get("uri"))
            own = {**ref, "uri": uri}
        given = {"ref": own, **{key: params[key] for key in ("argument", "context") if key in params}}
        return await self._get(server, "completion/complete", given, params, client)

    async def _get(
        self, server: Server | None, method: str, given: Mapping[str, Any], params: Mapping[str, Any], client: Client
    ) -> dict[str, Any]:
        if server is None:
            raise Refused(INVALID_PARAMS, "no server behind the gateway has it")
        carried = read_meta(params)
        came_from(carried.meta)

        async def then(bound: Mapping[str, Any]) -> Mapping[str, Any]:
            meta = onward(carried.meta, self._token())
            found = await server.request(method, {**bound, **({"_meta": meta} if meta else {})})
            if found.get("resultType") == "input_required":
                raise Halted("the server wants answers first")
            return cleaned(found)

        try:
            return await self._judged(server, method, given, then, carried.proof)
        except Denied as denied:
            if client.raises and str(denied.decision.code).startswith(CHALLENGED):
                raise
            raise Refused(DENIED, denied.for_model(), about_decision(denied)) from None
        except NoAnswer as nothing:
            raise _no_answer(server, nothing) from None
        except ServerError as failed:
            raise said_no(failed) from None

    # -- lists -------------------------------------------------------------------------------------------------------------------------

    async def list_resources(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        rows = []
        async for server, entry in self._seen("resources/list", "resources", "resources.read", "uri"):
            rows.append({**entry, "uri": self._routes.shown_uri(server, entry.get("uri"))})
        return page("resources", rows, params.get("cursor"))

    async def list_templates(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        rows = []
        async for server, entry in self._seen("resources/templates/list", "resourceTemplates", "resources.read", None):
            rows.append({**entry, "uriTemplate": self._routes.shown_uri(server, entry.get("uriTemplate"))})
        return page("resourceTemplates", rows, params.get("cursor"))

    async def list_prompts(self, params: Mapping[str, Any], client: Client) -> dict[str, Any]:
        rows = []
        async for server, entry in self._seen("prompts/list", "prompts", "prompts.get", "name"):
            rows.append({**entry, "name": self._routes.shown(server, str(entry.get("name")))})
        return page("prompts", rows, params.get("cursor"))

    async def _seen(self, method: str, key: str, tool: str, argument: str | None) -> AsyncIterator[tuple[Server, dict[str, Any]]]:
        for server in self._routes.servers.values():
            name = server.tool_name(tool)
            if not self._guard.visible([name]):
                continue
            async for entry in _pages(server, method, key):
                if argument is None or self._guard.check(ToolCall(name, {argument: entry.get(argument)})).verdict != "deny":
                    yield server, entry


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
        raise _no_answer(server, nothing) from None
    except ServerError as failed:
        if failed.code != NO_METHOD:
            raise said_no(failed) from None


def _no_answer(server: Server, nothing: NoAnswer) -> Refused:
    return Refused(NO_ANSWER, f"{nothing.why} ({server.label})")
