"""The headers of the newest revision that repeat what stands in the body, for routers that read no body: `Mcp-Method`, `Mcp-Name`, `Mcp-Param-*`.

Attack: a proxy lets `Mcp-Name: read_file` pass, and the body says `delete_file`. Where the two differ, nothing is judged and nothing runs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from guard.gateway.rpc import (
    ENVELOPE,
    HANDSHAKE,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    META_CAPABILITIES,
    META_VERSION,
    UNSUPPORTED_VERSION,
    Refused,
)

__all__ = ["Repeats", "era_of", "matching", "param_headers", "repeated", "request_headers"]

_NAMED: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_ONCE: Final = ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id")
_CODED: Final = re.compile(r"=\?base64\?(?P<text>.*)\?=")
_SAFE: Final = re.compile(r"[\x20-\x7E]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_DEEP: Final = 8

Headers = Mapping[str, Sequence[str]]
"""Lower-case name -> its values."""
Repeats = Sequence[tuple[tuple[str, ...], str]]


def era_of(method: str, params: Mapping[str, Any], headers: Headers | None) -> bool:
    """True for the envelope's era. Raises Refused where header and body name different revisions, or one that nobody here speaks.

    `headers` None: there are none, as over standard input and output.
    """
    meta = params.get("_meta")
    said = meta.get(META_VERSION) if isinstance(meta, Mapping) else None
    if headers is None:
        if said is None or method == "initialize":
            return False
    else:
        for name in _ONCE:
            if len(headers.get(name, ())) > 1:
                raise Refused(HEADER_MISMATCH, f"the header {name} stands there twice", status=400)
        told = next(iter(headers.get("mcp-protocol-version", ())), None)
        if said is None and (told is None or told in HANDSHAKE):
            return False
        if told in HANDSHAKE and method == "initialize":
            return False
        if said is None and told in ENVELOPE:
            raise Refused(INVALID_PARAMS, f"`_meta` lacks {META_VERSION}", status=400)
        if said is not None and told != said:
            raise Refused(HEADER_MISMATCH, "MCP-Protocol-Version and the body name different revisions", status=400)
        said = said or told
    if said not in ENVELOPE:
        asked = said if isinstance(said, str) and len(said) < 32 else None
        raise Refused(
            UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": [*HANDSHAKE, *ENVELOPE], "requested": asked}, status=400
        )
    if not isinstance(meta, Mapping) or not isinstance(meta.get(META_CAPABILITIES), Mapping):
        raise Refused(INVALID_PARAMS, f"`_meta` lacks {META_CAPABILITIES}", status=400)
    return True


def matching(method: str, params: Mapping[str, Any], headers: Headers, *, modern: bool, repeats: Repeats = ()) -> None:
    """`repeats`: of the tool that is called. Raises Refused where a header says something else than the body. Of older revisions there are no such headers; one that is there must be right."""
    told = next(iter(headers.get("mcp-method", ())), None)
    if told != method and (modern or told is not None):
        raise Refused(HEADER_MISMATCH, "Mcp-Method and the body name different methods", status=400)
    key = _NAMED.get(method)
    values = headers.get("mcp-name", ())
    if key is None:
        if values and not modern:
            raise Refused(HEADER_MISMATCH, "Mcp-Name with a method that has no name", status=400)
    elif (modern or values) and (not values or _decoded(values[0]) != params.get(key)):
        raise Refused(HEADER_MISMATCH, f"Mcp-Name and `{key}` in the body differ", status=400)
    if method == "tools/call":
        _parameters(params.get("arguments") or {}, headers, repeats, needed=modern)


def _parameters(arguments: object, headers: Headers, repeats: Repeats, *, needed: bool) -> None:
    for path, token in repeats:
        name, value = f"mcp-param-{token}".lower(), _rendered(_at(arguments, path))
        values = headers.get(name, ())
        if len(values) > 1 or (values and _decoded(values[0]) != value) or (needed and not values and value is not None):
            raise Refused(HEADER_MISMATCH, f"{name} and the arguments differ", status=400)


def request_headers(method: str, params: Mapping[str, Any]) -> dict[str, str]:
    """Of a request of ours."""
    found = {"mcp-method": method}
    name = params.get(_NAMED.get(method, ""))
    return found | ({"mcp-name": _encoded(name)} if isinstance(name, str) else {})


def param_headers(repeats: Repeats, arguments: object) -> dict[str, str]:
    """Of a call of ours."""
    values = ((f"mcp-param-{token}", _rendered(_at(arguments, path))) for path, token in repeats)
    return {name: _encoded(value) for name, value in values if value is not None}


def repeated(schema: object) -> Repeats:
    """What a tool's schema wants repeated in headers (`x-mcp-header`): the path of an argument, and the header's own part of the name."""
    return tuple(_annotated(schema))


def _annotated(schema: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Properties, and properties of properties, that name a header."""
    properties = schema.get("properties") if isinstance(schema, Mapping) and len(path) < _DEEP else None
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        if not isinstance(inner, Mapping):
            continue
        token = inner.get("x-mcp-header")
        if isinstance(token, str) and _TOKEN.fullmatch(token) and inner.get("type") in ("string", "integer", "boolean"):
            yield (*path, str(name)), token
        yield from _annotated(inner, (*path, str(name)))


def _at(arguments: object, path: Sequence[str]) -> object:
    for name in path:
        if not isinstance(arguments, Mapping):
            return None
        arguments = arguments.get(name)
    return arguments


def _rendered(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return str(value) if isinstance(value, (str, int, float)) else None
    except ValueError:
        return None


def _encoded(value: str) -> str:
    if _SAFE.fullmatch(value) and value == value.strip() and not _CODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8', 'replace')).decode('ascii')}?="


def _decoded(value: str) -> str | None:
    match = _CODED.fullmatch(value)
    if match is None:
        return value
    try:
        raw = base64.b64decode(match["text"], validate=True)
        return raw.decode("utf-8") if base64.b64encode(raw).decode("ascii") == match["text"] else None
    except (binascii.Error, ValueError):
        return None
