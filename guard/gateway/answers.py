"""What becomes of a call that gives no result, in the words of the protocol; and who waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from typing import Any, Final, Protocol

from guard.errors import ApprovalRequired, Denied
from guard.gateway.rpc import DENIED, INTERNAL, NO_ANSWER, Refused
from guard.gateway.server import NoAnswer, ServerError
from guard.model import ToolCall

__all__ = [
    "ADDRESS_WANTED",
    "CHALLENGED",
    "OF_AN_ERA",
    "Client",
    "Failed",
    "Going",
    "Halted",
    "Paused",
    "about_decision",
    "cleaned",
    "denial",
    "error_result",
    "refusal",
    "said_no",
    "shown_name",
]

CHALLENGED: Final = ("grant.", "token.")
"""What another token could cure: over HTTP it is said in the way of RFC 6750."""
ADDRESS_WANTED: Final = -32042
"""By this error a server of 2025-11-25 sends a person to an address: a question that is not asked as one."""
OF_AN_ERA: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
"""Members of results that belong to the connection, not to what was asked."""


def cleaned(result: Mapping[str, Any]) -> dict[str, Any]:
    """A server's result without what belongs to its connection. What clients read as the gateway's word in `_meta`, no server says."""
    found = {key: value for key, value in result.items() if key not in OF_AN_ERA}
    meta = found.get("_meta")
    if isinstance(meta, Mapping):
        found["_meta"] = {key: value for key, value in meta.items() if not key.startswith("guardtrail.io/")}
    return found


class Client(Protocol):
    """Who sent the request, for as long as it is answered. `modern`: of the era of the envelope. `raises`: a missing grant becomes the transport's own
    challenge; then `Denied` is raised for it."""

    modern: bool
    raises: bool

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """A notification within the answer. Must not block."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request of a server, to the client. Raises Refused."""


class Failed(Exception):
    """The server says that its tool failed. Its text is what the tool said: values in it are text from then on."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        parts = result.get("content")
        texts = (
            [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
            if isinstance(parts, list)
            else []
        )
        super().__init__("\n".join(texts))
        self.result = result


class Paused(BaseException):
    """The server wants answers before it goes on. Carries what the client is told."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        super().__init__("input required")
        self.result = result


class Halted(NoAnswer):
    """The server wanted what nobody lets it have."""


class Going:
    """A call on its way: where requests that the server makes because of it are judged. `whose`: the token, which is a delegation."""

    def __init__(self, client: Client, context: Context, whose: str, progress: str | int | None) -> None:
        self.client, self.context, self.whose, self.progress = client, context, whose, progress


def shown_name(call: ToolCall) -> str:
    """A tool's name as a text may carry it: the client chose it."""
    return call.tool if call.tool.isascii() and call.tool.isprintable() and len(call.tool) <= 257 else "(unnamed)"


def about_decision(denied: Denied) -> dict[str, Any]:
    decision = denied.decision
    about = {"code": str(decision.code), "decision": decision.id}
    if isinstance(denied, ApprovalRequired):
        about["request"] = str(denied.request["id"])
    return about


def refusal(denied: Denied) -> dict[str, Any]:
    """What a model reads instead of a result."""
    return error_result(denied.for_model(), {f"guardtrail.io/{name}": value for name, value in about_decision(denied).items()})


def denial(method: str, denied: Denied, *, modern: bool) -> dict[str, Any]:
    """What becomes of a request whose task does not open. Raises Refused where models read no results of it."""
    if method != "tools/call":
        raise Refused(DENIED, denied.for_model(), about_decision(denied))
    return refusal(denied) | ({"resultType": "complete"} if modern else {})


def said_no(failed: ServerError) -> Refused:
    """A server's own no, for a client. An address to go to is none; nor is what clients read as the gateway's word."""
    if failed.code == ADDRESS_WANTED:
        return Refused(INTERNAL, "the server sends a person to an address, which is denied")
    code = NO_ANSWER if failed.code is None else INTERNAL if failed.code in (DENIED, NO_ANSWER) else failed.code
    return Refused(code, failed.message, failed.data)


def error_result(text: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True, "_meta": dict(meta)}
