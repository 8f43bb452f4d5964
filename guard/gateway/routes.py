"""Which server a name leads to. With one server, names are its own; with several, `server__tool`, `server__prompt` and `server+uri`.

In a policy it is `server/tool` wherever the server has a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from guard.gateway.headers import Repeats
from guard.gateway.rpc import INVALID_PARAMS, Refused
from guard.gateway.server import Server

__all__ = ["Routes"]

_SEP: Final = "__"
"""Hosts hand tool names to models, and some models take letters, digits, `_` and `-` only."""


class Routes:
    """The servers by name."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = {server.name: server for server in servers}
        self._alone = servers[0] if len(servers) == 1 else None

    def named(self, shown: str) -> tuple[Server | None, str]:
        """Server and own name of a tool or prompt, by the name clients see."""
        if self._alone is not None:
            return self._alone, shown
        name, found, own = shown.partition(_SEP)
        return (self.servers.get(name), own) if found else (None, shown)

    def shown(self, server: Server, name: str) -> str:
        return name if self._alone is not None else f"{server.name}{_SEP}{name}"

    def owner(self, shown: object) -> tuple[Server | None, str]:
        """Server and own URI of a resource. Raises Refused."""
        if not isinstance(shown, str):
            raise Refused(INVALID_PARAMS, "`uri` is text", status=400)
        if self._alone is not None:
            return self._alone, shown
        name, _, uri = shown.partition("+")
        return self.servers.get(name), uri

    def shown_uri(self, server: Server, uri: object) -> object:
        return uri if self._alone is not None else f"{server.name}+{uri}"

    def repeats(self, shown: object) -> Repeats:
        """Of a tool as clients name it: which arguments stand in headers too."""
        server, tool = self.named(shown) if isinstance(shown, str) else (None, "")
        known = server.tools.get(tool) if server is not None else None
        return known.repeats if known is not None else ()
