"""Chains of one, two and three tokens, each call with its proof. A hop is one token of a chain.

| row     | ours                                                         | against                                                        |
|---------|--------------------------------------------------------------|----------------------------------------------------------------|
| `first` | the chain and a proof, verified as never seen before         | `jwt.decode` of each of these tokens, with keys that are loaded |
| `cached`| a decision under the chain, its proof made and verified      | the same under a token that stands alone, with its proof       |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import time
from typing import Any

import jwt

from benchmarks.house import CALL, cached_decision, make_guard, policy_text
from benchmarks.measure import Row, interleave
from guard import Guard, LocalIssuer, Policy
from guard.constraints import canonical
from guard.identity.holder import HolderKey
from guard.tokens.chain import verify_presented
from guard.tokens.keys import holder_key
from guard.tokens.proof import verify_pop

__all__ = ["delegation_rows"]

GRANT = {"order": {"eq": "A-17"}, "to": {"email": {"domain": "acme.example"}}, "amount": {"range": {"min": 0, "max": 50}}}


def made(iam: LocalIssuer, hops: int) -> tuple[str, list[HolderKey]]:
    """A chain of `hops` tokens, each with its own grants, and its holders' keys."""
    keys = [HolderKey.generate() for _ in range(hops)]
    text = iam.mint(
        origin="alice", actor="worker", intent="work", params={"order": "A-17", "ceiling": "50"}, ttl="1h", key=keys[0].public, depth=max(hops - 1, 1),
        tools={"tool_0": GRANT},
    )  # fmt: skip
    for n in range(1, hops):
        text = keys[n - 1].attenuate(text, actor=f"helper-{n}", key=keys[n], tools={"tool_0": GRANT})
    return text, keys


def first(hops: int) -> tuple[Callable[[int], None], Callable[[int], None]]:
    iam = LocalIssuer("bench")
    text, keys = made(iam, hops)
    args, now = canonical(CALL), int(time())
    proof = keys[-1].prove(text, "tool_0", args)
    rules = iam.rules()
    issuers = {rules.url: rules}
    signers: list[Any] = [next(iter(rules.keys)).public, *(holder_key(dict(key.public)).public for key in keys)]
    tokens = [*zip(text.split("~"), signers, strict=False), (proof, signers[-1])]

    def ours(n: int) -> None:
        for _ in range(n):
            found = verify_presented(text, issuers, now=now)
            verify_pop(proof, found, text, tool="tool_0", args=args, now=now)

    def theirs(n: int) -> None:
        for _ in range(n):
            for token, key in tokens:
                jwt.decode(token, key, algorithms=["ES256"], audience=rules.audience)

    return ours, theirs


def cached(hops: int) -> Callable[[int], None]:
    text = policy_text(100, 20, dense=False)
    iam = LocalIssuer("bench")
    token, keys = made(iam, hops)
    guard: Guard = Guard(Policy.from_text(text), trust=iam, sinks=make_guard(text)[0]._house.sinks)
    return cached_decision(text, (guard, token), key=keys[-1])


def delegation_rows(rounds: int) -> Iterator[Row]:
    for hops in (1, 2, 3):
        ours, theirs = first(hops)
        yield interleave(f"delegation.hops{hops}_first", ours, f"jwt.decode of {hops + 1}", theirs, bar=1.0, rounds=rounds, batch=30)
    alone = cached(1)
    for hops in (1, 2, 3):
        yield interleave(f"delegation.hops{hops}_cached", cached(hops), "cached, one token", alone, bar=1.35, rounds=rounds, batch=50)
