"""What the two adapters of MCP servers share: what comes with a request, what goes back. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from mcp.types import CallToolResult, ElicitRequest, ElicitRequestFormParams, InputRequiredResult, TextContent
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from ._core import (
    META_CALL,
    META_PROOF,
    META_TOKEN,
    ApprovalRequired,
    Denied,
    about,
    refusal,
    without_token,
)

__all__ = [
    "DENIED",
    "LISTS",
    "PASSED",
    "PROMPT",
    "Answers",
    "Carried",
    "Failed",
    "Own",
    "Token",
    "asks",
    "bare",
    "carried",
    "public",
    "refused",
    "wire",
]

DENIED: Final = -32010
"""JSON-RPC code of a no to anything but `tools/call`; `data.code` says why. As the gateway has it."""
PROMPT: Final = "guardtrail.io/approval"
"""Under which a client is asked to show its user what waits for approval."""
PASSED: Final = frozenset({"initialize", "ping", "server/discover", "logging/setLevel"})
LISTS: Final = {
    "tools/list": ("tools", ""),
    "resources/list": ("resources", "resources.read"),
    "resources/templates/list": ("resourceTemplates", "resources.read"),
    "prompts/list": ("prompts", "prompts.get"),
}
"""Lists: the key of the rows, and the tool without which there is nothing to see ("": each row is one)."""
Token = str | Callable[[], str] | None


class Failed(Exception):
    """The tool ran and says that it failed: outcome `error`. Carries the result, which goes to the client untouched."""

    def __init__(self, result: Any) -> None:
        super().__init__("the tool answered with isError")
        self.result = result


class Own:
    """The rest of the server, and what it raised: that is the server's own, everything else the guard's."""

    raised: Exception | None = None

    def __init__(self, call_next: Callable[[Any], Any]) -> None:
        self._next = call_next

    async def __call__(self, ctx: Any) -> Any:
        try:
            return await self._next(ctx)
        except Exception as error:
            self.raised = error
            raise


class Carried(NamedTuple):
    """What came with a request. `token` None: none; a token that is no text, or that came twice, is one that does not verify."""

    token: str | None
    proof: str = ""
    call_id: str = ""


def carried(meta: object, request: Any, own: Token) -> Carried:
    """What a request brings, and the token of the process where it brings none and did not come over HTTP."""
    found = meta if isinstance(meta, Mapping) else {}
    proof, call_id = (value if isinstance(value := found.get(key), str) else "" for key in (META_PROOF, META_CALL))
    token = found[META_TOKEN] if META_TOKEN in found else _bearer(request)
    if token is None and META_TOKEN not in found and request is None:
        token = own() if callable(own) else own
    elif token is None and META_TOKEN in found:
        token = ""
    return Carried(token if token is None or isinstance(token, str) else "", proof, call_id)


def _bearer(request: Any) -> str | None:
    sent = [] if request is None else request.headers.getlist("authorization")
    parts = [(scheme.lower(), text.strip()) for scheme, _, text in (value.partition(" ") for value in sent)]
    tokens = [text for scheme, text in parts if scheme == "bearer"]
    return None if not tokens else tokens[0] if len(sent) == 1 else ""


def bare(meta: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    """`_meta` without what is the guard's: a tool that has the token could act as the agent everywhere the token is good."""
    kept = {key: value for key, value in meta.items() if key not in (META_TOKEN, META_PROOF, META_CALL)}
    if not token:
        return kept
    text = repr(kept)  # one pass; what a token consists of stands in it as it is
    return without_token(kept, token) if any(part in text for part in token.split("~")) else kept


def public(request: Any) -> Any:
    """The HTTP request without credentials; itself where it has none."""
    if request is None or "authorization" not in request.headers:
        return request
    headers = [pair for pair in request.scope["headers"] if pair[0].lower() not in (b"authorization", b"dpop")]
    return type(request)({**request.scope, "headers": headers}, request.receive)


class Answers(NamedTuple):
    """What a client says that its user said. `ours`: to what the guard asked; None: nothing. `rest`: to what the tool asked, and goes to the tool.

    Attack (fail-open row F66): an "accept" that comes ready-made. It makes the call again, and that is all it does."""

    ours: Any
    rest: dict[str, Any]

    @classmethod
    def of(cls, answers: object) -> Answers:
        found = answers if isinstance(answers, Mapping) else {}
        ours = found.get(PROMPT)
        action = ours.get("action") if isinstance(ours, Mapping) else getattr(ours, "action", None)
        return cls(action or "none" if PROMPT in found else None, {key: value for key, value in found.items() if key != PROMPT})

    def id(self, call_id: str, state: object) -> str:
        """A tool's second round is another call: what it was answered is part of the identity."""
        if not call_id or not (self.rest or state):
            return call_id
        return f"{call_id}#{sha256(json.dumps([self.rest, state], sort_keys=True, default=repr).encode()).hexdigest()[:16]}"


def asks(denied: Denied, ctx: Any) -> InputRequiredResult | None:
    """A prompt for the client's user, where this connection has such a thing: what waits, and that they cannot approve it."""
    can = ctx.session.client_capabilities if ctx is not None and ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else None
    form = can.elicitation if can is not None else None
    if not isinstance(denied, ApprovalRequired) or form is None or (form.form is None and form.url is not None):
        return None
    text = f"{refusal(denied)} To accept is to try again, and approves nothing."
    params = ElicitRequestFormParams(message=text, requested_schema={"type": "object", "properties": {}})
    return InputRequiredResult(input_requests={PROMPT: ElicitRequest(params=params)}, _meta=about(denied))


def refused(denied: Denied | str) -> CallToolResult:
    text = denied if isinstance(denied, str) else refusal(denied)
    meta = None if isinstance(denied, str) else about(denied)
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True, _meta=meta)


def wire(result: Any) -> dict[str, Any]:
    return dict(result) if isinstance(result, Mapping) else result.model_dump(by_alias=True, mode="json", exclude_none=True)
