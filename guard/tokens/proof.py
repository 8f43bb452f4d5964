"""Proof of possession: that who presents a bound token holds the key it names (RFC 7800, RFC 9449, RFC 8705). Pure: replay is a mark that
the caller takes in the same transaction as what the call takes.

| proof           | where                        | header          | claims                                        | is good                         |
|-----------------|------------------------------|-----------------|-----------------------------------------------|---------------------------------|
| `guard-pop+jwt` | one call, in process and MCP | `alg, typ, jwk` | `aud, iat, jti, ath, tool, args`, no other    | 60 s, once                      |
| `dpop+jwt`      | one HTTP request             | `alg, typ, jwk` | `jti, htm, htu, iat, ath`, `nonce` if demanded | 60 s, once, and within its `exp`, `nbf` |
| `x5t#S256`      | one TLS connection           | -               | -                                             | as long as the connection lives |

`ath`: base64url SHA-256 of the whole presented text, a chain's too: a proof for a chain is none for a part of it (A085, A100). `args`: the same of
the arguments as they were handed over, as RFC 8785. 60 s are the whole window, the clocks' difference included; `iat` may lie 5 s ahead (A101).

`htu` (A106) is compared without query and fragment, with scheme and host in lower case, without the scheme's own port, an empty path as `/`;
anything else must be equal: a host with a trailing dot is another host, `%2F` is not `/`. User information in a URL is refused.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, NoReturn
from urllib.parse import urlsplit

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_TIME, SKEW
from guard.tokens.jose import NotStrict, b64url_encode, split, strict_json, token_json
from guard.tokens.keys import Key, KeysRefused, holder_key

__all__ = ["DPOP", "KEPT", "POP", "WINDOW", "NonceWanted", "digest", "verify_certificate", "verify_dpop", "verify_kept", "verify_pop"]

POP: Final = "guard-pop+jwt"
DPOP: Final = "dpop+jwt"
WINDOW: Final = 60
KEPT: Final = 2 * WINDOW
"""Seconds a used proof is remembered: longer than it is good, so that clocks of two verifiers may differ by most of a minute."""

MAX_PROOF: Final = 4096
_CLAIMS: Final = frozenset({"aud", "iat", "jti", "ath", "tool", "args"})
_JTI: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_PORTS: Final = {"https": 443, "http": 80}


class NonceWanted(TokenRefused):
    """The proof is good but for the server's nonce (RFC 9449 section 8): the door answers `use_dpop_nonce` with a fresh one."""


def digest(text: str | bytes) -> str:
    """base64url SHA-256: `ath` of a presented text, `args` of canonical arguments."""
    return b64url_encode(sha256(text.encode("ascii") if isinstance(text, str) else text).digest())


def verify_pop(proof: str, delegation: Delegation, presented: str, *, tool: str, args: bytes, now: int) -> str:
    """The replay mark of a good proof for this very call; or `TokenRefused` (`token.proof`) and nothing else.

    `presented`: the token or chain as it was presented. `args`: canonical arguments (RFC 8785). `now`: epoch seconds.
    """
    key, claims = _opened(proof, POP)
    _holds(key, delegation)
    if claims.keys() != _CLAIMS:
        _refuse("has other claims than " + ", ".join(sorted(_CLAIMS)))
    if claims["aud"] != delegation.audience or type(claims["aud"]) is not str:
        _refuse("is for another audience")
    _fresh(claims, now)
    if claims["ath"] != digest(presented):
        _refuse("is for another token")
    if claims["tool"] != tool:
        _refuse("is for another tool")
    if claims["args"] != digest(args):
        _refuse("is for other arguments")
    return _mark(key, claims)


def verify_kept(proof: str, thumbprint: str, *, tool: str, args: bytes) -> None:
    """That the key of this thumbprint has signed a proof for this very call, whenever that was; else `TokenRefused`. It lets nobody in: for a proof
    that was verified when it came and is kept as evidence. Under which token it came is not looked at: the token is not kept."""
    key, claims = _opened(proof, POP)
    if key.thumbprint != thumbprint or claims.keys() != _CLAIMS or claims["tool"] != tool or claims["args"] != digest(args):
        _refuse("is not what was signed")


def verify_dpop(
    proofs: Sequence[str], delegation: Delegation, presented: str, *, method: str, url: str, now: int, nonces: Container[str] | None = None
) -> str:
    """The replay mark of the one good DPoP proof of an HTTP request (RFC 9449 section 4.3); or `TokenRefused` and nothing else.

    `proofs`: the values of every `DPoP` header; more than one is refused (A105). `nonces`: those of ours that count; None: none is demanded.
    """
    if len(proofs) != 1:
        _refuse("must come alone, in exactly one DPoP header")
    key, claims = _opened(proofs[0], DPOP)
    _holds(key, delegation)
    if claims.get("htm") != method or type(method) is not str:  # case-sensitive (RFC 9110 9.1)
        _refuse("is for another method")
    here, there = _url(url), _url(claims.get("htu"))
    if here is None or here != there:
        _refuse("is for another URL")
    _fresh(claims, now)
    _bounded(claims, now)
    if claims.get("ath") != digest(presented):
        _refuse("is for another token")
    mark = _mark(key, claims)
    if nonces is not None:
        nonce = claims.get("nonce")
        if type(nonce) is not str or nonce not in nonces:
            raise NonceWanted(ReasonCode.TOKEN_PROOF, "the proof has none of this server's nonces")
    return mark


def verify_certificate(delegation: Delegation, certificate: bytes | None) -> None:
    """RFC 8705 3.1: the client certificate of the connection (DER) is the one the token names; else `TokenRefused`."""
    if delegation.bound != "x5t#S256":
        _refuse("by certificate came with a token that names none")
    if certificate is None or digest(certificate) != delegation.credential.thumbprint:
        _refuse("by certificate: the connection has none, or another than the token names")


def _opened(proof: object, typ: str) -> tuple[Key, dict[str, object]]:
    """Form, `typ`, the key in the header, the signature, the claims."""
    if type(proof) is not str or len(proof) > MAX_PROOF:
        _refuse("is missing or too large")
    jws, claims, found = None, None, None
    try:
        jws = split(proof)
        found = _header(jws.header, typ)
        claims = token_json(jws.payload)
    except (TokenRefused, KeysRefused, NotStrict):
        pass
    if jws is None or claims is None or found is None:  # outside the handler: a cause would hold the proof's text
        _refuse("is not well formed")
    alg, key = found
    if not key.verifies(alg, jws.signed, jws.signature):
        _refuse("has a bad signature")
    return key, claims


@lru_cache(maxsize=128)  # one agent's proofs share their header; refusals are not kept
def _header(raw: bytes, typ: str) -> tuple[str, Key] | None:
    """Only `alg`, `typ`, `jwk`, and in it nothing private (A108)."""
    if len(raw) > 2048:
        return None
    members = strict_json(raw)
    if members.keys() != {"alg", "typ", "jwk"} or members["typ"] != typ or type(members["alg"]) is not str:
        return None
    return members["alg"], holder_key(members["jwk"])


def _holds(key: Key, delegation: Delegation) -> None:
    """A proof binds no token that does not name the key (A104)."""
    if delegation.bound != "jkt":
        _refuse("came with a token that names no key")
    if key.thumbprint != delegation.credential.thumbprint:
        _refuse("is by another key than the token names")


def _fresh(claims: dict[str, object], now: int) -> None:
    at = claims.get("iat")
    if type(at) is not int or not 0 <= at <= MAX_TIME or not now - WINDOW <= at <= now + SKEW:
        _refuse("is too old, or from the future")


def _bounded(claims: dict[str, object], now: int) -> None:
    """RFC 7519 4.1.4, 4.1.5: RFC 9449 asks for neither `exp` nor `nbf`, but a JWT that says one is not to be taken beyond it."""
    ends, begins = claims.get("exp", MAX_TIME), claims.get("nbf", 0)
    if type(ends) is not int or type(begins) is not int or not (ends > now - SKEW and begins <= now + SKEW):
        _refuse("is over, or not good yet")


def _mark(key: Key, claims: dict[str, object]) -> str:
    jti = claims.get("jti")
    if type(jti) is not str or not _JTI.fullmatch(jti):
        _refuse("has no valid `jti`")
    return f"proof|{key.thumbprint}|{jti}"


def _url(url: object) -> tuple[str, str, int, str] | None:
    """Scheme, host, port, path."""
    if type(url) is not str or not url.isascii() or not url.isprintable() or " " in url or "\\" in url or len(url) > 2048:
        return None
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    return scheme, host, _PORTS[scheme] if port is None else port, parts.path or "/"


def _refuse(what: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_PROOF, f"the proof {what}")
