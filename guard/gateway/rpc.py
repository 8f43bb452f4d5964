"""JSON-RPC 2.0 as MCP uses it: reading messages, the errors, the names of the two eras of the protocol.

| era       | revisions               | a request                                                                      |
|-----------|-------------------------|--------------------------------------------------------------------------------|
| handshake | 2024-11-05 … 2025-11-25 | after `initialize`, which settles the revision for the connection               |
| envelope  | 2026-07-28              | stands alone: revision and capabilities in its `_meta`; servers send no requests |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

__all__ = [
    "DENIED", "ENVELOPE", "HANDSHAKE", "HEADER_MISMATCH", "INTERNAL", "INVALID_PARAMS", "INVALID_REQUEST", "META_CAPABILITIES", "META_CLIENT",
    "META_SERVER", "META_VERSION", "NO_ANSWER", "NO_METHOD", "PARSE", "UNSUPPORTED_VERSION", "Refused", "answer", "dumps", "error", "is_id", "loads",
    "notification", "request", "strict",
]  # fmt: skip

HANDSHAKE: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
ENVELOPE: Final = ("2026-07-28",)
META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"

PARSE, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
NO_ANSWER: Final = -32001
"""Nobody knows what became of the request."""
DENIED: Final = -32010
"""The guard said no; `data.code` says why. Of `tools/call` a no is a result with `isError`, which models read."""


class Refused(Exception):
    """A JSON-RPC error for whoever sent the request. `status`: of the HTTP answer it comes in."""

    def __init__(self, code: int, message: str, data: Any = None, *, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.message, self.data, self.status = code, message, data, status

    def error(self, id: object) -> dict[str, Any]:
        return error(id, self.code, self.message, self.data)


def request(id: object, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
    return made if params is None else {**made, "params": params}


def notification(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return made if params is None else {**made, "params": params}


def answer(id: object, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": result}


def error(id: object, code: int, message: str, data: Any = None) -> dict[str, Any]:
    said: dict[str, Any] = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": id, "error": said if data is None else {**said, "data": data}}


def is_id(value: object) -> bool:
    """Text or a whole number; `true` is neither."""
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


def dumps(message: object) -> bytes:
    """One line, ASCII: no line separator of Unicode can end it early."""
    return _encode(message).encode("ascii")


def loads(raw: bytes | str) -> Any:
    """What a server sent. Raises ValueError."""
    try:
        return json.loads(raw, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def strict(raw: bytes) -> Any:
    """What a client sent: UTF-8, and no name twice. Raises ValueError. Attack: two members `name`, of which we judge one and the server runs the other."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")
