"""Development and tests: an issuer in memory. Every record says `issuer: local`."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from guard.constraints import ConstraintError, parse
from guard.errors import ConfigError, GuardError
from guard.identity._files import secret_bytes, why_not
from guard.model import ExchangeRequest
from guard.reasons import ReasonCode
from guard.tokens import IssuerRules, KeySet, thumbprint
from guard.tokens.claims import MAX_ACTORS, MAX_SCOPES, MAX_TIME
from guard.tokens.details import MAX_ARGS, MAX_CALLS, MAX_ENTRIES, details_of
from guard.tokens.jose import MAX_DEPTH, MAX_INT, MAX_MEMBERS, MAX_TOKEN, NotStrict, b64url_encode, strict_json
from guard.tokens.keys import KeysRefused, holder_key
from guard.tokens.rules import MAX_LINKS
from guard.tokens.text import is_name

__all__ = ["LocalIssuer"]

_MAX_TTL = 24 * 3600
_TTL = re.compile(r"([1-9][0-9]{0,5})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SCOPE = "guardtrail"
"""`scope` is REQUIRED in a transaction token. This one is for no policy to map: it grants nothing."""

_ES256 = ECAlgorithm(ECAlgorithm.SHA256)


class LocalIssuer:
    """An issuer for development and tests: it makes the tokens an IAM would make, and says in every record that it is local."""

    local = True
    inline = True  # it exchanges in memory

    def __init__(self, name: str, *, audience: str = "local", clock: Callable[[], float] = time.time) -> None:
        """A fresh ES256 key in memory. `clock`: epoch seconds, for tests."""
        self._setup(name, audience, clock, ec.generate_private_key(ec.SECP256R1()))

    def _setup(self, name: str, audience: str, clock: Callable[[], float], private: ec.EllipticCurvePrivateKey) -> None:
        if not is_name(name) or "/" in name or ":" in name:
            raise ConfigError('LocalIssuer: `name` is a plain name such as "acme-dev", not a url: it never stands in for a real issuer')
        if not is_name(audience):
            raise ConfigError("LocalIssuer: `audience` must be a visible name of at most 256 characters")
        self.name = name
        self.url = name
        self.audience = audience
        self.clock = clock
        self._private = private
        public: dict[str, Any] = _ES256.to_jwk(private.public_key(), as_dict=True)
        jwk = {"kty": "EC", "crv": "P-256", "x": public["x"], "y": public["y"], "alg": "ES256", "use": "sig"}
        self.kid = thumbprint(jwk)
        self.jwks = json.dumps({"keys": [jwk | {"kid": self.kid}]}, indent=2)
        """The public key as a JWK Set, for `Issuer(keys=...)` and for other verifiers."""
        self._header = b64url_encode(_json({"alg": "ES256", "typ": "txntoken+jwt", "kid": self.kid}))
        self._rules = IssuerRules(name, name, audience, _MAX_TTL, KeySet.from_jwks(self.jwks), local=True)

    def __repr__(self) -> str:
        return f"LocalIssuer({self.name!r}, audience={self.audience!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LocalIssuer holds a private key and is not pickled; use save() and load()")

    def rules(self) -> IssuerRules:
        """How tokens of this issuer are verified."""
        return self._rules

    def mint(
        self,
        *,
        origin: str,
        actor: str | Sequence[str],
        intent: str | None,
        workload: str = "local",
        params: Mapping[str, object] = {},
        ttl: str = "10m",
        tools: Sequence[str] | Mapping[str, Mapping[str, object] | None] | None = None,
        limits: Mapping[str, int] = {},
        scope: str | None = None,
        txn: str | None = None,
        person: str | None = None,
        now: float | None = None,
        key: Mapping[str, object] | None = None,
        depth: int = 0,
        may_act: str | None = None,
    ) -> str:
        """A signed token (`txntoken+jwt`): `actor` works for `origin` on the task `intent` with `params`.

        `actor`: a name, or the chain of names with the opener of the task first and who acts now last. `ttl`: `30s`, `10m`, `1h`.

        Beyond the page, for tests and tools: `tools` adds `agent_tool` grants (names, or name -> args, None for no constraint on them),
        `limits` how many calls each may take; `scope` replaces the scope that grants nothing; `txn` names the task (a second token of
        the same task); `person` names the proven person behind the origin; `now` is the time of issue; `key` is the
        public JWK the token is bound to (`cnf`), `depth` how many hops its holders may add offline (`mdp`); `may_act` names the only actor
        that may take it over. `intent` may be None where
        `tools` or `scope` say what is granted.
        """
        actors = _actors(origin, actor, workload)
        details = _details(intent, params, tools, limits)
        if not details and scope is None:
            raise ConfigError("mint: a token needs an `intent`, `tools` or a `scope`; this one would grant nothing")
        if txn is not None and not is_name(txn):
            raise ConfigError("mint: `txn` must be a visible name of at most 256 characters")
        if person is not None and not is_name(person):
            raise ConfigError("mint: `person` must be a visible name of at most 256 characters")
        if scope is not None and not _is_scope(scope):
            raise ConfigError(f"mint: `scope` is one text of at most {MAX_SCOPES} words separated by single spaces (RFC 6749 section 3.3)")
        issued_at = _issued_at(self.clock() if now is None else now)
        claims: dict[str, object] = {
            "iss": self.name,
            "aud": self.audience,
            "iat": issued_at,
            "exp": issued_at + _ttl(ttl),
            "jti": secrets.token_urlsafe(9),
            "txn": secrets.token_hex(10) if txn is None else txn,
            "sub": origin,
            "scope": _SCOPE if scope is None else scope,
            "req_wl": workload,
            "act": _nested(actors),
        }
        if person is not None:
            claims["person"] = person
        if key is not None:
            claims["cnf"] = {"jwk": _public(key)}
        if depth:
            if type(depth) is not int or not 0 < depth < MAX_LINKS or key is None:
                raise ConfigError(f"mint: `depth` is 1 to {MAX_LINKS - 1} hops, and needs a `key` that signs the first")
            claims["mdp"] = depth
        if may_act is not None:
            if not is_name(may_act):
                raise ConfigError("mint: `may_act` must be a visible name of at most 256 characters")
            claims["may_act"] = {"sub": may_act}
        if details:
            claims["authorization_details"] = details
        payload = _json(claims)
        try:
            strict_json(payload)
        except NotStrict:
            raise ConfigError(f"mint: the token would be deeper than {MAX_DEPTH} levels or have more than {MAX_MEMBERS} members") from None
        token = self.sign(payload)
        if len(token) > MAX_TOKEN:
            raise ConfigError(f"mint: the token would be longer than {MAX_TOKEN // 1024} KiB")
        return token

    def holder(self, actor: str) -> None:
        """The key that a token for `actor` is bound to: to none, here."""
        return

    def login(
        self,
        person: str,
        /,
        *,
        groups: Sequence[str] = (),
        ttl: str = "10m",
        audience: str = "approvals",
        client: str = "local",
        key: Mapping[str, object] | None = None,
        **more: object,
    ) -> str:
        """An access token (`at+jwt`) of a person who acts in person, as an IAM gives one after a login: to approve and reject with
        (`guard.approvals`). It opens no task.

        `key`: the public JWK it is bound to. `more`: other claims, for tests (`sid`, `person`, `scope`).
        """
        if not is_name(person) or not is_name(client) or person == client:
            raise ConfigError("login: `person` and `client` are visible names of at most 256 characters, and two of them")
        if isinstance(groups, str) or not all(map(is_name, groups)):
            raise ConfigError("login: `groups` is a list of names")
        issued_at = _issued_at(self.clock())
        claims: dict[str, object] = {
            "iss": self.name,
            "aud": audience,
            "iat": issued_at,
            "exp": issued_at + _ttl(ttl),
            "jti": secrets.token_urlsafe(9),
            "sub": person,
            "client_id": client,
            "groups": list(groups),
            **({"cnf": {"jwk": _public(key)}} if key is not None else {}),
            **more,
        }
        header = b64url_encode(_json({"alg": "ES256", "typ": "at+jwt", "kid": self.kid}))
        signed = f"{header}.{b64url_encode(_json(claims))}"
        return f"{signed}.{b64url_encode(_ES256.sign(signed.encode('ascii'), self._private))}"

    def exchange(self, request: ExchangeRequest) -> str:
        """`guard.ports.Exchanger`, as an IAM with token exchange does it (RFC 8693): same subject and task, `act` nested, never longer than the
        parent. What it is asked for it gives: that it is not wider is the guard's business, and tested on this.

        Raises GuardError `delegation.refused` for a token of another issuer, or one that has expired.
        """
        d, now = request.delegation, _issued_at(self.clock())
        if d.issuer != self.url or not d.expires_at > now:
            raise GuardError("the token is of another issuer, or has expired", code=ReasonCode.DELEGATION_REFUSED)
        try:
            actors = _actors(d.origin, (*d.actors, request.actor), d.workload)
        except ConfigError as error:
            raise GuardError(str(error).removeprefix("mint: "), code=ReasonCode.DELEGATION_REFUSED) from None
        expires_at = d.expires_at if request.seconds is None else min(d.expires_at, now + request.seconds)
        details = request.details if request.details is not None else details_of(d)
        claims: dict[str, object] = {
            "iss": self.name,
            "aud": self.audience,
            "iat": now,
            "exp": expires_at,
            "jti": secrets.token_urlsafe(9),
            "txn": d.txn,
            "sub": d.origin,
            "scope": " ".join(sorted(request.scopes)) or _SCOPE,
            "req_wl": d.workload,
            "act": _nested(actors),
        }
        claims |= {name: value for name, value in (("person", d.person), ("sid", d.session)) if value is not None}
        if details:
            claims["authorization_details"] = details
        return self.sign(_json(claims))

    def sign(self, payload: bytes) -> str:
        """`payload` as a compact JWS of the kind `mint` makes. Nothing is checked: for tests."""
        signed = f"{self._header}.{b64url_encode(payload)}"
        return f"{signed}.{b64url_encode(_ES256.sign(signed.encode('ascii'), self._private))}"

    def save(self, path: str | Path) -> None:
        """Write name, audience and private key to `path`, readable by the owner only. For the command line; never in production."""
        target = Path(path)
        jwk: dict[str, Any] = _ES256.to_jwk(self._private, as_dict=True)
        text = json.dumps({"guardtrail": "local-issuer", "name": self.name, "audience": self.audience, "key": jwk}, indent=2) + "\n"
        draft: Path | None = None
        try:
            fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            draft = fresh
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(target)
        except (OSError, ValueError) as error:  # ValueError: no path at all
            if draft is not None:
                draft.unlink(missing_ok=True)
            raise ConfigError(f"LocalIssuer: cannot write {target}: {why_not(error)}") from None

    @classmethod
    def load(cls, path: str | Path, *, clock: Callable[[], float] = time.time) -> LocalIssuer:
        """The issuer that `save` wrote. A file that others may read is refused."""
        found = _saved(secret_bytes(path, who="LocalIssuer", what="a private key"))
        if found is None:
            raise ConfigError(f"LocalIssuer: {path} was not written by LocalIssuer.save")
        issuer = cls.__new__(cls)
        issuer._setup(found[0], found[1], clock, found[2])
        return issuer


def _saved(raw: bytes) -> tuple[str, str, ec.EllipticCurvePrivateKey] | None:
    try:
        saved = strict_json(raw)
        name, audience, jwk = saved["name"], saved["audience"], saved["key"]
        private = _ES256.from_jwk(jwk) if isinstance(jwk, dict) else None
    except Exception:
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        return None
    return (name, audience, private) if isinstance(name, str) and isinstance(audience, str) else None


def _actors(origin: object, actor: object, workload: object) -> list[str]:
    for what, value in (("origin", origin), ("workload", workload)):
        if not is_name(value):
            raise ConfigError(f"mint: `{what}` must be a visible name of at most 256 characters, without blanks at its ends")
    if origin == workload:
        raise ConfigError("mint: `origin` and `workload` are the same: a person is not the software that holds the token")
    actors = [actor] if isinstance(actor, str) else list(actor) if isinstance(actor, Sequence) else []
    if not 0 < len(actors) <= MAX_ACTORS or not all(map(is_name, actors)):
        raise ConfigError(f"mint: `actor` is a visible name, or a list of 1 to {MAX_ACTORS} of them with the opener of the task first")
    if len({origin, *actors}) != len(actors) + 1:
        raise ConfigError("mint: the same name stands twice among `origin` and `actor`; a chain does not go in a circle")
    return actors


def _nested(actors: Sequence[str]) -> dict[str, object]:
    """RFC 8693 4.1: who acts now is outermost."""
    act: dict[str, object] = {"sub": actors[0]}
    for name in actors[1:]:
        act = {"sub": name, "act": act}
    return act


def _details(intent: object, params: object, tools: object, limits: object) -> list[dict[str, object]]:
    details: list[dict[str, object]] = []
    if not isinstance(params, Mapping) or len(params) > MAX_ARGS or not all(map(is_name, params)):
        raise ConfigError(f"mint: `params` maps names to values, {MAX_ARGS} at most")
    if intent is not None:
        if not is_name(intent):
            raise ConfigError("mint: `intent` is the name of an intent of the policy")
        details.append({"type": "agent_task", "intent": intent, "params": {name: _plain(value, name) for name, value in params.items()}})
    elif params:
        raise ConfigError("mint: `params` belong to an `intent`")
    if tools is not None:
        details += _tools(tools, limits)
    elif limits:
        raise ConfigError("mint: `limits` belong to `tools`")
    if len(details) > MAX_ENTRIES:
        raise ConfigError(f"mint: a token has at most {MAX_ENTRIES} entries")
    return details


def _tools(tools: object, limits: object) -> list[dict[str, object]]:
    if isinstance(tools, str) or not isinstance(tools, (Sequence, Mapping)) or not all(map(is_name, tools)) or not tools:
        raise ConfigError("mint: `tools` is a list of tool names, or a mapping of tool name to its argument constraints")
    if (
        not isinstance(limits, Mapping)
        or not all(type(n) is int and 0 < n <= MAX_CALLS for n in limits.values())
        or not set(limits) <= set(tools)
    ):
        raise ConfigError("mint: `limits` maps names of `tools` to a number of calls, from 1")
    entries: list[dict[str, object]] = []
    for tool in tools:
        args = tools[tool] if isinstance(tools, Mapping) else None
        if not (args is None or (isinstance(args, Mapping) and len(args) <= MAX_ARGS and all(map(is_name, args)))):
            raise ConfigError(f"mint: tools[{tool}] maps argument names to constraints, {MAX_ARGS} at most")
        entry: dict[str, object] = {"type": "agent_tool", "tool": tool}
        if args is not None:
            entry["args"] = {path: _constraint(raw, f"tools[{tool}].{path}") for path, raw in args.items()}
        if tool in limits:
            entry["limit"] = {"calls": limits[tool]}
        entries.append(entry)
    return entries


def _constraint(raw: object, where: str) -> object:
    plain = _plain(raw, where)
    try:
        parse(plain, origin="token")
    except ConstraintError as error:
        raise ConfigError(f"mint: {where}: {error}{f'; {error.suggestion}' if error.suggestion else ''}") from None
    return plain


def _plain(value: object, name: str, depth: int = 0) -> object:
    """JSON data. Decimals become text, as amounts are written."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigError(f"mint: `{name}` holds half of a surrogate pair, which is not a character") from None
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, int) and -MAX_INT <= value <= MAX_INT:
        return int(value)
    if isinstance(value, float) and isfinite(value):
        return value
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {str(_plain(key, name)): _plain(inner, name, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [_plain(inner, name, depth + 1) for inner in value]
    raise ConfigError(f"mint: `{name}` holds a {type(value).__name__} that has no place in a token; amounts and dates are written as text")


def _public(key: Mapping[str, object]) -> dict[str, object]:
    try:
        holder_key(dict(key))
    except KeysRefused as error:
        raise ConfigError(f"mint: `key` is no public JWK: {error}") from None
    return dict(key)


def _is_scope(scope: object) -> bool:
    if not isinstance(scope, str) or not re.fullmatch(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*", scope):
        return False
    return len(set(scope.split(" "))) <= MAX_SCOPES


def _issued_at(now: object) -> int:
    if not (type(now) is int or type(now) is float) or not 0 <= now <= MAX_TIME - _MAX_TTL:  # NaN is neither
        raise ConfigError("mint: the time of issue (`now`, or what `clock` says) is in epoch seconds, as time.time() gives it")
    return int(now)


def _ttl(ttl: object) -> int:
    match = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_TTL:
        raise ConfigError("mint: `ttl` is written as `30s`, `10m` or `1h`, up to 24h")
    return seconds


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
