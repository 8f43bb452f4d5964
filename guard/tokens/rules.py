"""What is configured about one issuer, as data."""

from __future__ import annotations

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.tokens.keys import KeySet
from guard.tokens.text import is_name

__all__ = ["IssuerRules"]

# Claims that never name a task. `jti` changes with every refresh: a task would forget what it has done. Who a token is for or held by
# is the same in many tasks: they would become one.
_NEVER_A_TASK = frozenset(
    {
        "jti",
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "nbf",
        "client_id",
        "req_wl",
        "scope",
        "act",
        "cnf",
        "authorization_details",
        "person",
        "owner",
    }
)


@frozen
class IssuerRules:
    """How tokens of one issuer are verified.

    `url`: the exact `iss`. `audience`: the exact `aud`. `max_ttl`: seconds that `exp - iat` may be. `local`: a development issuer;
    every record says so. `task_claim`: the claim that names the task where an `at+jwt` has no `txn`; without one `sid` does.
    """

    url: str
    tenant: str
    audience: str
    max_ttl: int
    keys: KeySet
    local: bool = False
    task_claim: str | None = None

    def __post_init__(self) -> None:
        if self.task_claim is None:
            return
        if not is_name(self.task_claim):
            raise ConfigError("`task_claim` is the name of the claim that names the task, e.g. `task_id`")
        if self.task_claim in _NEVER_A_TASK:
            raise ConfigError(
                f"`{self.task_claim}` cannot name the task of a token: it must stay the same for all tokens of one task and differ between tasks"
            )
