"""Tokens that platforms give to the software they run (GitHub Actions, GitLab CI, Kubernetes service accounts), as evidence of a workload.

They are OpenID Connect tokens of `typ` JWT or none, and never a delegation: nobody's origin, task or scope is read from them. What the
platforms send: GitHub `alg, kid, typ, x5t`; GitLab `alg, kid, typ`; Kubernetes `alg, kid` and `aud` as a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from guard.errors import ConfigError, TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.evidence import Json, Workload, checked, for_us, header, times
from guard.tokens.jose import Jws
from guard.tokens.keys import ALGORITHMS, KeySet
from guard.tokens.text import is_name

__all__ = ["WorkloadRules", "verify_oidc"]

# `x5t` (GitHub) is let through and never looked at: keys are found by `kid` among those of the issuer.
_HEADER = frozenset({"alg", "kid", "typ", "x5t"})
_TYPS: frozenset[str | None] = frozenset({"JWT", None})
_ALGORITHMS = frozenset(ALGORITHMS)
_PREFIX = re.compile(r"[^*?]+[:/]")


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """Which tokens of one platform count. `url`: the exact `iss`. `audience`: the exact `aud`. `max_ttl`: seconds that `exp - iat` may be.

    `subjects`: exact `sub`s. `prefixes`: what a `sub` may begin with; each ends with `:` or `/`. `claims`: what else must be said, word for word.
    """

    url: str
    audience: str
    max_ttl: int
    keys: KeySet
    subjects: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.subjects and not self.prefixes:
            raise ConfigError("WorkloadIssuer: `subjects` or `prefixes` say whose tokens count; a platform gives tokens to everybody")
        if not all(is_name(subject) and "*" not in subject for subject in self.subjects):
            raise ConfigError("WorkloadIssuer: `subjects` are exact `sub`s, visible names without `*`")
        # Attack: `repo:acme/desk` as a prefix also lets `repo:acme/desk-of-mallory:...` in.
        if not all(is_name(prefix) and _PREFIX.fullmatch(prefix) for prefix in self.prefixes):
            raise ConfigError("WorkloadIssuer: each of `prefixes` ends with `:` or `/` and has no `*`, e.g. `repo:acme/desk:`")
        if not all(is_name(name) and type(value) is str for name, value in self.claims.items()):
            raise ConfigError("WorkloadIssuer: `claims` are names with the exact text each must have")

    def admits(self, subject: str) -> bool:
        """Whether a `sub` is one of those that count. A prefix alone is nobody."""
        return subject in self.subjects or any(subject.startswith(prefix) and subject != prefix for prefix in self.prefixes)


def verify_oidc(token: str, issuers: Mapping[str, WorkloadRules], *, now: int) -> Workload:
    """The workload that `token` proves, or `TokenRefused` and nothing else. `issuers`: by their exact `iss`. `now`: epoch seconds."""

    def read(jws: Jws, claims: Json) -> Workload:
        alg, kid = header(jws.header, allowed=_HEADER, typs=_TYPS, algorithms=_ALGORITHMS)
        issuer = claims.get("iss")
        rules = issuers.get(issuer) if type(issuer) is str else None
        if rules is None or rules.url != issuer:
            raise TokenRefused(ReasonCode.TOKEN_ISSUER)
        key = rules.keys.find(kid)
        if key is None or not key.verifies(alg, jws.signed, jws.signature):
            raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
        expires_at = times(claims, now=now, max_ttl=rules.max_ttl, issued=True)
        for_us(claims, rules.audience)
        subject = claims.get("sub")
        if not is_name(subject) or not isinstance(subject, str) or not rules.admits(subject):
            raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the claim `sub` is not that of a workload which counts here")
        for name, wanted in rules.claims.items():
            if type(claims.get(name)) is not str or claims[name] != wanted:
                raise TokenRefused(ReasonCode.TOKEN_CLAIMS, f"the claim `{name}` is not what this guard demands of a workload")
        return Workload("oidc", subject, rules.url, kid, expires_at)

    return checked(token, read)
