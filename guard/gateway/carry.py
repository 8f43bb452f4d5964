"""What travels beside a request, in its `_meta`: the delegation token, which goes no further; the trace, which goes on; the rest.

| in `_meta`                          | for                                                                                   |
|-------------------------------------|---------------------------------------------------------------------------------------|
| `guardtrail.io/token`               | the gateway: under which delegation the call is made                                   |
| `guardtrail.io/proof`               | the gateway: proof of possession for this very call, where the token names a key       |
| `guardtrail.io/call_id`             | the gateway: the id the model gave the call, so that a retry does not run twice        |
| `traceparent`, `tracestate`         | the gateway, whose span becomes part of that trace; a server sees the gateway's own    |
| `io.modelcontextprotocol/*`, progress token | the connection it came on: each connection has its own                        |
| anything else                       | the server, without every entry that holds the token or a hop of it                    |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from guard.gateway.rpc import INVALID_PARAMS, Refused
from guard.record.carried import TRACE, goes_on
from guard.telemetry import META_CALL, META_CREDENTIAL, META_PROOF, META_TOKEN
from guard.tokens.rules import MAX_CHAIN

__all__ = ["Carried", "holds", "onward", "read_meta"]

_OURS: Final = "guardtrail.io/"
_CONNECTION: Final = "io.modelcontextprotocol/"
_TRACE: Final = (*TRACE, "baggage")
_SHORT: Final = 16
"""A part of a token that is shorter than this is no secret of its own."""


class Carried:
    """`_meta` as a client sent it, read."""

    __slots__ = ("call_id", "meta", "progress", "proof", "token")

    def __init__(self, meta: Mapping[str, Any], token: str, proof: str, call_id: str, progress: str | int | None) -> None:
        self.meta, self.token, self.proof, self.call_id, self.progress = meta, token, proof, call_id, progress


def read_meta(params: Mapping[str, Any]) -> Carried:
    """Raises Refused where what is ours in it is not text of a sane length."""
    meta = params.get("_meta")
    if meta is None:
        meta = {}
    if not isinstance(meta, Mapping):
        raise Refused(INVALID_PARAMS, "`_meta` is not an object", status=400)
    progress = meta.get("progressToken")
    if isinstance(progress, bool) or not isinstance(progress, (str, int)):
        progress = None
    return Carried(meta, _text(meta, META_TOKEN, MAX_CHAIN), _text(meta, META_PROOF, 8192), _text(meta, META_CALL, 256), progress)


def _text(meta: Mapping[str, Any], name: str, most: int) -> str:
    value = meta.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise Refused(INVALID_PARAMS, f"`_meta` has a `{name}` that is none", status=400)
    return value


def onward(carried: Mapping[str, Any], token: str, lent: str | None = None) -> dict[str, Any]:
    """The `_meta` a server gets. Called where the guard's own span is current."""
    kept = {name: value for name, value in carried.items() if not name.startswith((_OURS, _CONNECTION)) and name not in _TRACE}
    kept.pop("progressToken", None)
    found = _without(kept, _parts(token)) if kept and token else kept
    if lent is not None:
        found[META_CREDENTIAL] = lent
    goes_on(found)
    return found


def _parts(token: str) -> tuple[str, ...]:
    return tuple(part for part in token.split("~") if len(part) >= _SHORT) or (token,)


def holds(value: object, token: str) -> bool:
    """Does the token, or a hop of it, stand anywhere in `value`? Of no token ("") nothing does."""
    if not token:
        return False
    parts = _parts(token)
    least = min(map(len, parts))
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            if len(one) >= least and any(part in one for part in parts):
                return True
        elif isinstance(one, Mapping):
            stack += one.keys()
            stack += one.values()
        elif isinstance(one, (list, tuple)):
            stack += one
    return False


def _without(data: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    return {name: _scrubbed(value, parts) for name, value in data.items() if not _in(name, parts) and not _in(value, parts)}


def _scrubbed(value: Any, parts: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return _without(value, parts)
    if isinstance(value, (list, tuple)):
        return [_scrubbed(one, parts) for one in value if not _in(one, parts)]
    return value


def _in(value: object, parts: tuple[str, ...]) -> bool:
    return isinstance(value, str) and any(part in value for part in parts)
