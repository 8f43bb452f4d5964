"""`HolderKey`: the private key of an agent. It signs hops and proofs, and is never shown.

key = HolderKey.generate()                       # or HolderKey.load("agent.pem")
with guard.task(token, key=key): ...             # `token` names the key in its `cnf`
hop = key.attenuate(token, actor="mailer", key=other.public, tools=["send_email"], ttl="5m")
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from guard.constraints import canonical
from guard.errors import ConfigError
from guard.identity._files import secret_bytes
from guard.identity.local import _constraint, _ttl
from guard.tokens.chain import link
from guard.tokens.details import read_details
from guard.tokens.jose import MAX_TOKEN, b64url_encode, split, strict_json
from guard.tokens.keys import KeysRefused, holder_key
from guard.tokens.narrow import grant_exceeds
from guard.tokens.proof import DPOP, POP, digest
from guard.tokens.rules import HOP, MAX_LINKS
from guard.tokens.text import is_name

__all__ = ["HolderKey"]

_ES256 = ECAlgorithm(ECAlgorithm.SHA256)
_ED25519 = OKPAlgorithm()
_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class HolderKey:
    """A private key, ES256 or Ed25519. Not pickled, not copied; its repr is the thumbprint of its public half."""

    __slots__ = ("__alg", "__private", "clock", "public", "thumbprint")

    def __init__(self, private: _Private, *, clock: Callable[[], float] = time.time) -> None:
        """Use `generate` or `load`. `clock`: epoch seconds, for tests."""
        made: dict[str, Any]
        names: tuple[str, ...]
        if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
            made, names, self.__alg = _ES256.to_jwk(private.public_key(), as_dict=True), ("kty", "crv", "x", "y"), "ES256"
        elif isinstance(private, ed25519.Ed25519PrivateKey):
            made, names, self.__alg = _ED25519.to_jwk(private.public_key(), as_dict=True), ("kty", "crv", "x"), "Ed25519"
        else:
            raise ConfigError("HolderKey: the key must be an EC key on P-256 or an Ed25519 key")
        self.__private = private
        self.clock = clock
        self.public: Mapping[str, str] = {name: str(made[name]) for name in names}
        """The public half as a JWK: what a token's `cnf` names."""
        self.thumbprint = holder_key(dict(self.public)).thumbprint
        """RFC 7638."""

    @classmethod
    def generate(cls, alg: str = "ES256", *, clock: Callable[[], float] = time.time) -> HolderKey:
        """A fresh key in memory. `alg`: `ES256` or `Ed25519`."""
        if alg not in ("ES256", "Ed25519"):
            raise ConfigError("HolderKey: `alg` is ES256 or Ed25519")
        return cls(ec.generate_private_key(ec.SECP256R1()) if alg == "ES256" else ed25519.Ed25519PrivateKey.generate(), clock=clock)

    @classmethod
    def load(cls, path: str | Path, *, clock: Callable[[], float] = time.time) -> HolderKey:
        """The key in a file, PEM (PKCS 8, not encrypted) or a private JWK. A file that others may open is refused."""
        raw = secret_bytes(path, who="HolderKey", what="a private key")
        private = _read(raw)
        if private is None:
            raise ConfigError(f"HolderKey: {path} holds no private key that can be used: PEM or JWK, EC P-256 or Ed25519")
        return cls(private, clock=clock)

    def __repr__(self) -> str:
        return f"HolderKey({self.thumbprint})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a HolderKey holds a private key and is neither pickled nor copied")

    def prove(self, presented: str, tool: str, args: Mapping[str, object] | bytes, *, audience: str | None = None) -> str:
        """A proof (`guard-pop+jwt`) for one call of `tool` with `args` under the token or chain `presented`. Good for 60 s, once.

        `args`: as they are handed over, or their RFC 8785 bytes. `audience`: of the token; None: read from it.
        """
        aud = audience if audience is not None else str(_claims(presented.partition("~")[0])["aud"])
        claims = {
            "aud": aud,
            "iat": int(self.clock()),
            "jti": secrets.token_urlsafe(16),
            "ath": digest(presented),
            "tool": tool,
            "args": digest(args if isinstance(args, bytes) else canonical(dict(args))),
        }
        return self._sign({"alg": self.__alg, "typ": POP, "jwk": self.public}, claims)

    def dpop(self, method: str, url: str, *, presented: str | None = None, nonce: str | None = None) -> str:
        """A DPoP proof (RFC 9449) for one HTTP request: the `DPoP` header. Good for a minute, once.

        `url`: of the request; query and fragment are left out. `presented`: the token or chain that goes with it; None: a request for a token.
        `nonce`: the server's, where it has demanded one.
        """
        where = urlsplit(url)
        claims: dict[str, object] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": urlunsplit((where.scheme, where.netloc, where.path or "/", "", "")),
            "iat": int(self.clock()),
        }
        claims |= {"ath": digest(presented)} if presented is not None else {}
        claims |= {"nonce": nonce} if nonce is not None else {}
        return self._sign({"alg": self.__alg, "typ": DPOP, "jwk": self.public}, claims)

    def attenuate(
        self,
        presented: str,
        *,
        actor: str,
        key: Mapping[str, object] | HolderKey,
        tools: Sequence[str] | Mapping[str, Mapping[str, object] | None] | None = None,
        limits: Mapping[str, int] = {},
        ttl: str | timedelta | None = None,
        depth: int | None = None,
    ) -> str:
        """The chain `presented` with one more hop: a narrower token for `actor`, who holds `key` (a public JWK). Nobody is asked.

        `tools`: names keep the parent's constraints; a mapping adds constraints on arguments (None: none added); None keeps all.
        `limits`: tool -> calls, never above the parent's. `ttl`: None: as long as the parent. `depth`: how many hops may follow; None: as many as
        the parent's allows. Raises `ConfigError` where this key does not hold the parent, or the hop would be wider or too deep.
        """
        seconds = int(ttl.total_seconds()) if isinstance(ttl, timedelta) else None if ttl is None else _ttl(ttl)
        return self._hop(presented, actor, key, lambda parent: _narrowed(parent, tools, limits), seconds, depth)

    def hand_on(self, presented: str, actor: str, details: Sequence[Mapping[str, object]], seconds: int | None) -> tuple[str, HolderKey]:
        """The chain with one more hop for `actor`, who holds the key that comes with it, made here. `details`: what it grants; that it is no
        wider is for whoever verifies it. Raises `ConfigError` as `attenuate` does."""
        child = HolderKey.generate(clock=self.clock)
        return self._hop(presented, actor, child, lambda _: [dict(one) for one in details], seconds, None), child

    def _hop(
        self,
        presented: str,
        actor: str,
        key: Mapping[str, object] | HolderKey,
        narrowed: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
        seconds: int | None,
        depth: int | None,
    ) -> str:
        last = presented.rpartition("~")[2]
        parent, root = _claims(last), _claims(presented.partition("~")[0])
        cnf = parent.get("cnf")
        jwk = cnf.get("jwk") if isinstance(cnf, dict) else None
        try:
            mine, child = holder_key(jwk).thumbprint == self.thumbprint, dict(key.public if isinstance(key, HolderKey) else key)
            other = holder_key(child).thumbprint
        except KeysRefused:
            mine, child, other = False, {}, ""
        if not mine or not child:
            raise ConfigError("attenuate: the parent's `cnf.jwk` is not this key, or `key` is no public JWK")
        if other == self.thumbprint:
            raise ConfigError("attenuate: `key` is this key; a hop hands over to another")
        if not is_name(actor):
            raise ConfigError("attenuate: `actor` must be a visible name of at most 256 characters")
        dep, most = parent.get("dep", 0), parent.get("mdp", 0)
        if not isinstance(dep, int) or not isinstance(most, int) or dep >= most or presented.count("~") + 2 > MAX_LINKS:
            raise ConfigError("attenuate: the root allows no hop here (`mdp`)")
        issued_at, ends = int(self.clock()), int(parent["exp"])
        claims: dict[str, object] = {
            "par": link(last),
            "dep": dep + 1,
            "mdp": most if depth is None else max(dep + 1, min(most, dep + 1 + depth)),
            "iat": issued_at,
            "exp": ends if seconds is None else min(ends, issued_at + seconds),
            "jti": secrets.token_urlsafe(9),
            "aud": root["aud"] if isinstance(root["aud"], str) else root["aud"][0],
            "act": {"sub": actor},
            "cnf": {"jwk": child},
            "authorization_details": narrowed(parent),
        }
        hop = self._sign({"alg": self.__alg, "typ": HOP}, claims)
        if len(hop) > MAX_TOKEN:
            raise ConfigError(f"attenuate: the hop would be longer than {MAX_TOKEN // 1024} KiB")
        return f"{presented}~{hop}"

    def _sign(self, header: Mapping[str, object], claims: Mapping[str, object]) -> str:
        signed = f"{b64url_encode(_json(header))}.{b64url_encode(_json(claims))}"
        private = self.__private
        raw = signed.encode("ascii")
        signature = private.sign(raw) if isinstance(private, ed25519.Ed25519PrivateKey) else _ES256.sign(raw, private)
        return f"{signed}.{b64url_encode(signature)}"


def _narrowed(parent: Mapping[str, Any], tools: object, limits: Mapping[str, int]) -> list[dict[str, Any]]:
    """The hop's `authorization_details`, checked against the parent's by the rule the verifier uses."""
    entries: list[dict[str, Any]] = [dict(one) for one in parent.get("authorization_details", [])]
    if tools is None and not limits:
        return entries
    own = [one for one in entries if one.get("type") == "agent_tool"]
    if tools is None:
        tools = sorted({one["tool"] for one in own})
    if isinstance(tools, str) or not isinstance(tools, (Sequence, Mapping)) or not tools or not set(limits) <= set(tools):
        raise ConfigError("attenuate: `tools` is a list of tool names or a mapping of them to constraints; `limits` are of these tools")
    made: list[dict[str, Any]] = []
    for tool in tools:
        # A parent without grants was given the whole task.
        for entry in [one for one in own if one["tool"] == tool] or ([{"type": "agent_tool", "tool": tool}] if not own else []):
            added = tools[tool] if isinstance(tools, Mapping) else None
            new = dict(entry)
            if added is not None:
                new["args"] = {**entry.get("args", {}), **{path: _constraint(raw, f"tools[{tool}].{path}") for path, raw in added.items()}}
            if tool in limits:
                new["limit"] = {"calls": limits[tool]}
            wider = grant_exceeds(_grant(entry, tool), _grant(new, tool))
            if wider is not None:
                raise ConfigError(f"attenuate: tool {tool} would be wider: {wider}")
            made.append(new)
        if not made or made[-1]["tool"] != tool:
            raise ConfigError(f"attenuate: the parent was not granted `{tool}`")
    return made


def _grant(entry: Mapping[str, Any], tool: str) -> Any:
    from guard.errors import TokenRefused

    try:
        grants = read_details({"authorization_details": [entry]}).grants or {}
    except TokenRefused:
        grants = {}
    if tool not in grants:
        raise ConfigError(f"attenuate: tools[{tool}] is not a grant a token can carry")
    return grants[tool][0]


def _claims(token: str) -> dict[str, Any]:
    """Of a token of ours, not verified: what we sign rests on it, and whoever verifies that verifies it."""
    from guard.errors import TokenRefused

    try:
        claims: dict[str, Any] = strict_json(split(token).payload)
        if not isinstance(claims["exp"], int) or not isinstance(claims["aud"], (str, list)) or not claims["aud"]:
            raise ValueError
    except (TokenRefused, ValueError, KeyError):
        claims = {}
    if not claims:
        raise ConfigError("this is not a token or chain that can be used: three segments, with `exp` and `aud`")
    return claims


def _read(raw: bytes) -> _Private | None:
    try:
        if raw.lstrip()[:1] == b"{":
            jwk = strict_json(raw.strip())
            found: Any = (_ES256 if jwk.get("kty") == "EC" else _ED25519).from_jwk(dict(jwk))
        else:
            found = load_pem_private_key(raw, None)
    except Exception:  # whatever it is, it is no key; what it said may hold the file's content
        return None
    return found if isinstance(found, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)) else None


def _json(data: Mapping[str, object]) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
