"""Chains and proofs as an attacker would make them: any claim, any key, any order. For tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.tokens.chain import link, verify_presented
from guard.tokens.jose import b64url_encode
from guard.tokens.proof import digest, verify_pop
from tests.tokens.forge import AUD, ED, ISSUERS, NOW, claims, jwk, sign, token

HOLDERS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(9)]
PAY = {
    "type": "agent_tool",
    "tool": "pay",
    "args": {"amount": {"range": {"min": 0, "max": 100}}, "note": {"any": True, "optional": True}},
    "limit": {"calls": 5},
}
READ = {"type": "agent_tool", "tool": "read", "args": {"path": {"under": "/srv/data"}}}
ARGS = b'{"amount":5}'


def public(key: Any) -> dict[str, Any]:
    return {name: value for name, value in jwk(key, "x").items() if name in ("kty", "crv", "x", "y")}


def root(**over: object) -> str:
    """A token for alice's payer, bound to the first holder; three hops may follow."""
    given: dict[str, object] = {"scope": ..., "cnf": {"jwk": public(HOLDERS[0])}, "mdp": 3, "authorization_details": [PAY, READ]}
    return token(claims(**(given | over)))


def hop(parent: str, n: int = 1, *, key: Any = None, alg: str = "ES256", header: Mapping[str, object] | None = None, **over: object) -> str:
    """Hop `n` of the chain `parent`, alone. `over` changes its claims, `...` takes one away; `header` its header."""
    key = HOLDERS[n - 1] if key is None else key
    made: dict[str, object] = {
        "par": link(parent.rpartition("~")[2]), "dep": n, "mdp": 3, "iat": NOW - 5, "exp": NOW + 300, "jti": f"h{n}", "aud": AUD,
        "act": {"sub": f"worker-{n}"}, "cnf": {"jwk": public(HOLDERS[n])}, "authorization_details": [PAY, READ],
    }  # fmt: skip
    made.update(over)
    body = json.dumps({name: value for name, value in made.items() if value is not ...}).encode()
    head = json.dumps({"alg": alg, "typ": "guard-att+jwt"} if header is None else dict(header)).encode()
    signed = f"{b64url_encode(head)}.{b64url_encode(body)}"
    return f"{signed}.{b64url_encode(sign(key, signed.encode()))}"


def chain(*overs: Mapping[str, object], first: Mapping[str, object] | None = None) -> str:
    """The root and a hop for each of `overs`."""
    text = root(**(first or {}))
    for n, over in enumerate(overs, 1):
        text += "~" + hop(text, n, **dict(over))  # type: ignore[arg-type]
    return text


def proof(presented: str, key: Any, *, typ: str = "guard-pop+jwt", header: Mapping[str, object] | None = None, **over: object) -> str:
    made: dict[str, object] = {"aud": AUD, "iat": NOW, "jti": "p-1", "ath": digest(presented), "tool": "pay", "args": digest(ARGS)}
    if typ == "dpop+jwt":
        made = {"jti": "p-1", "htm": "POST", "htu": "https://api.example/pay", "iat": NOW, "ath": digest(presented)}
    made.update(over)
    body = json.dumps({name: value for name, value in made.items() if value is not ...}).encode()
    head = json.dumps({"alg": "EdDSA" if key is ED else "ES256", "typ": typ, "jwk": public(key), **(header or {})}).encode()
    signed = f"{b64url_encode(head)}.{b64url_encode(body)}"
    return f"{signed}.{b64url_encode(sign(key, signed.encode()))}"


def refusal(refused: TokenRefused) -> str:
    assert "alice" not in str(refused)
    assert refused.__cause__ is None
    assert refused.__context__ is None, "no exception that holds the token's text hangs on it"
    return str(refused.code)


def folded(text: Any, *, now: int = NOW) -> Delegation | str:
    """The delegation, or the code of the refusal. Any other exception is the test's failure."""
    try:
        return verify_presented(text, ISSUERS, now=now)
    except TokenRefused as refused:
        return refusal(refused)


def verdict(text: Any, *, now: int = NOW) -> str:
    found = folded(text, now=now)
    return found if isinstance(found, str) else "allow"


def shown(text: str, presented: str, *, of: str | None = None, tool: str = "pay", args: bytes = ARGS, now: int = NOW) -> str:
    """Whether the proof `text` proves a call under `presented` (`of`: under whose delegation, where it is another)."""
    found = folded(presented if of is None else of, now=NOW)
    assert isinstance(found, Delegation), found
    try:
        verify_pop(text, found, presented, tool=tool, args=args, now=now)
    except TokenRefused as refused:
        return refusal(refused)
    return "allow"
