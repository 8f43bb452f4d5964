"""What a request says of who sends it, read from its headers alone; and the headers of an answer that says what is missing.

| refused before anything is verified                                                        | status |
|----------------------------------------------------------------------------------------------|--------|
| more than 64 KiB of headers, or more than 128                                                | 431    |
| `Authorization` or `DPoP` twice; a token in the query as well (RFC 6750 2: one method, never several) | 400 |
| another scheme than `Bearer` and `DPoP`, a token with other characters                       | 401    |
| a compressed body: what is read of it would have no bound                                    | 415    |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

from guard.reasons import REASONS, ReasonCode
from guard.tokens.keys import ALGORITHMS
from guard.tokens.rules import MAX_CHAIN

__all__ = ["ALGS", "HttpRefused", "Named", "Sender", "challenges", "client_cert", "path_of", "refusal_of", "sender_of", "tls_certificate"]

ALGS: Final = " ".join(ALGORITHMS)
_MOST = 64 * 1024
_MANY = 128
_CREDENTIALS = re.compile(rb"(?P<scheme>[A-Za-z]{1,16}) +(?P<token>[A-Za-z0-9._~+/=-]+)")
_PROOF = re.compile(rb"[A-Za-z0-9._=-]{1,4096}")
_TOKEN_IN_QUERY = re.compile(rb"(?:^|[&;])access_token=", re.IGNORECASE)
_UNAVAILABLE = frozenset(code for code in ReasonCode if REASONS[code].public == "not available now")

Headers = Iterable[tuple[bytes, bytes]]


class HttpRefused(Exception):
    """An answer instead of the application's. `error`: a word of RFC 6750 or 9449, ""; `code`: ours, ""."""

    def __init__(self, status: int, error: str = "", text: str = "", *, code: str = "", scheme: str = "", nonce: bool = False) -> None:
        super().__init__(text)
        self.status, self.error, self.text, self.code, self.scheme, self.nonce = status, error, text, code, scheme, nonce
        self.scope = ""
        """OAuth scopes that would do, of `insufficient_scope` (RFC 6750 3)."""


class Sender(NamedTuple):
    """Who a request says that it comes from. `proofs`: of its `DPoP` headers, one at most."""

    scheme: Literal["dpop", "bearer"]
    token: str
    proofs: tuple[str, ...]


def sender_of(headers: Headers, query: bytes) -> Sender:
    """Raises HttpRefused."""
    held: dict[bytes, list[bytes]] = {b"authorization": [], b"dpop": [], b"content-encoding": []}
    size = number = 0
    for name, value in headers:
        size += len(name) + len(value)
        number += 1
        lower = name.lower()
        if lower in held:
            held[lower].append(value)
    if size > _MOST or number > _MANY:
        raise HttpRefused(431, "invalid_request", "the headers are too large")
    # Attack: two tokens, of which the proxy looked at one and we at the other.
    if len(held[b"authorization"]) > 1 or len(held[b"dpop"]) > 1:
        raise HttpRefused(400, "invalid_request", "a credential stands in the headers twice")
    if _TOKEN_IN_QUERY.search(query):
        raise HttpRefused(400, "invalid_request", "a token belongs into the header `Authorization`, and nowhere else")
    if any(value.strip().lower() not in (b"", b"identity") for value in held[b"content-encoding"]):
        raise HttpRefused(415, "invalid_request", "compressed content is not taken")
    if not held[b"authorization"]:
        raise HttpRefused(401)  # RFC 6750 3.1: who showed nothing is told no error
    return _credentials(held[b"authorization"][0], held[b"dpop"])


def _credentials(header: bytes, dpop: Sequence[bytes]) -> Sender:
    if len(header) > MAX_CHAIN + 32:
        raise HttpRefused(431, "invalid_request", "the token is too large")
    match = _CREDENTIALS.fullmatch(header)
    scheme = match["scheme"].lower() if match is not None else b""
    if match is None or scheme not in (b"bearer", b"dpop"):
        raise HttpRefused(401, "invalid_token", REASONS[ReasonCode.TOKEN_MALFORMED].public)
    if any(not _PROOF.fullmatch(proof) for proof in dpop):
        raise HttpRefused(401, "invalid_dpop_proof", "the proof is not well formed", scheme="DPoP")
    return Sender("dpop" if scheme == b"dpop" else "bearer", match["token"].decode("ascii"), tuple(proof.decode("ascii") for proof in dpop))


def path_of(scope: Mapping[str, Any]) -> bytes:
    """The path as it was asked for, percent-encoded, without the query."""
    raw = scope.get("raw_path")
    if isinstance(raw, bytes):
        return raw.partition(b"?")[0]
    return quote(str(scope.get("path", "")), safe="/:@!$&'()*+,;=-._~").encode("ascii")


class Named(NamedTuple):
    """What is the same in every challenge."""

    metadata: str
    bearer: bool


def challenges(refused: HttpRefused, named: Named) -> list[tuple[bytes, bytes]]:
    """`WWW-Authenticate` (RFC 6750 3, RFC 9449 7.1, RFC 9728 5.1), one header for each scheme that may be used."""
    if refused.status != 401 and refused.error != "insufficient_scope":
        return []
    found = []
    for scheme, more in (("DPoP", [f'algs="{ALGS}"']), ("Bearer", [])):
        if (scheme == "Bearer" and not named.bearer) or (refused.scheme and refused.scheme != scheme):
            continue
        said = [f'error="{refused.error}"'] if refused.error else []
        said += [f'error_description="{refused.text}"'] if refused.error and _quotable(refused.text) else []
        said += [f'scope="{refused.scope}"'] if refused.scope and refused.error == "insufficient_scope" else []
        parts = ", ".join([*said, *more, f'resource_metadata="{named.metadata}"'])
        found.append((b"www-authenticate", f"{scheme} {parts}".encode("ascii")))
    return found


def _quotable(text: str) -> bool:
    """RFC 6750 3: `error_description` has these characters only."""
    return bool(text) and all(" " <= char <= "~" and char not in '"\\' for char in text)


def refusal_of(code: ReasonCode, *, entering: bool, text: str = "", nonce: bool = False, scheme: str = "") -> HttpRefused:
    """What a denial is over HTTP. `entering`: nobody is authenticated yet, so nothing but the code's public words is said.

    | the code                             | status | error                                       |
    |--------------------------------------|--------|---------------------------------------------|
    | something cannot be looked at now    | 503    |                                             |
    | `token.proof` with the scheme DPoP   | 401    | `invalid_dpop_proof`, `use_dpop_nonce`      |
    | `token.*`, and of a task as it opens | 401    | `invalid_token`                             |
    | `grant.*`                            | 403    | `insufficient_scope`                        |
    | anything else                        | 403    |                                             |
    """
    said, told = (REASONS[code].public, "") if entering else (text, code.value)
    if code in _UNAVAILABLE:
        return HttpRefused(503, text=said, code=code)
    room = code.value.partition(".")[0]
    if code is ReasonCode.TOKEN_PROOF and scheme == "DPoP":
        error = "use_dpop_nonce" if nonce else "invalid_dpop_proof"
        return HttpRefused(401, error, "a fresh nonce is needed" if nonce else said, code=told, scheme="DPoP", nonce=nonce)
    if code is not ReasonCode.TOKEN_WORKLOAD and (room == "token" or (entering and room in ("task", "identity"))):
        return HttpRefused(401, "invalid_token", said, code=told)
    return HttpRefused(403, "insufficient_scope" if room == "grant" else "", said, code=told)


Certificate = Callable[[Mapping[str, Any]], bytes | None]


def tls_certificate(scope: Mapping[str, Any]) -> bytes | None:
    """The client certificate (DER) of the connection, where the server tells it by the ASGI extension `tls`."""
    tls = (scope.get("extensions") or {}).get("tls")
    chain = tls.get("client_cert_chain") if isinstance(tls, Mapping) else None
    if not chain or tls is None or tls.get("client_cert_error") is not None:
        return None
    from ssl import PEM_cert_to_DER_cert

    try:
        return PEM_cert_to_DER_cert(str(next(iter(chain))).strip())
    except ValueError:
        return None


def client_cert(scope: Mapping[str, Any]) -> bytes | None:
    """The same from the header `Client-Cert` (RFC 9440) of a proxy that ends TLS. Only behind one that removes it from what clients send: whoever
    can send the header is whom it names."""
    from base64 import b64decode

    found = [value for name, value in scope.get("headers", ()) if name.lower() == b"client-cert"]
    match = re.fullmatch(rb":([A-Za-z0-9+/]{1,16384}={0,2}):", found[0].strip()) if len(found) == 1 else None
    if match is None:
        return None
    try:
        return b64decode(match[1], validate=True)
    except ValueError:
        return None
