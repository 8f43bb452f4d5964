"""What is configured about one issuer, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.suggest import did_you_mean
from guard.tokens.keys import ALGORITHMS, KeySet
from guard.tokens.text import is_name

__all__ = ["HOP", "MADE_OF", "MAX_CHAIN", "MAX_LINKS", "IssuerRules", "by_typ"]

_TYPS = ("at+jwt", "txntoken+jwt", "secevent+jwt", "statuslist+jwt", "token-introspection+jwt")
_ANY = ""
_TWINS = frozenset({"EdDSA", "Ed25519"})
"""Two names of one algorithm (RFC 9864): who allows one allows the other. Which of them a key's tokens say is the key's matter."""

MAX_CHAIN = 32 * 1024
"""Characters of a chain, all its tokens together."""
MAX_LINKS = 8
"""So many tokens a chain may have, its root included."""
HOP = "guard-att+jwt"
"""`typ` of an offline hop (`chain.py`)."""
MADE_OF = "^"
"""In a `jti`, between that of a subject token and what tells the tokens apart that a service made of it. Not `~`: that is a path in a chain."""

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

    `url`: the exact `iss`. `may_act`: a token without that claim is handed on to nobody. `audience`: the exact `aud`. `max_ttl`: seconds that `exp - iat` may be. `local`: a development issuer;
    every record says so. `task_claim`: the claim that names the task where an `at+jwt` has no `txn`; without one `sid` does.
    `algorithms`: what `by_typ` made of a configured list; None: whatever each key is for. `derive`: (issuer, jti) -> the task of a token
    that names none, instead of `sid`: a token service has it, for whom one token is one task (`guard.tokens.issue`).
    """

    url: str
    tenant: str
    audience: str
    max_ttl: int
    keys: KeySet
    may_act: bool = False
    local: bool = False
    task_claim: str | None = None
    algorithms: Mapping[str, frozenset[str]] | None = None
    derive: Callable[[str, str], str] | None = None

    def admits(self, typ: str, alg: str) -> bool:
        """Whether a token of this `typ` (without `application/`) may be signed with `alg`. Besides this, each key has its own one."""
        found = self.algorithms
        return found is None or alg in (found[_ANY] if _ANY in found else found.get(typ, ()))

    def __post_init__(self) -> None:
        if self.task_claim is None:
            return
        if not is_name(self.task_claim):
            raise ConfigError("`task_claim` is the name of the claim that names the task, e.g. `task_id`")
        if self.task_claim in _NEVER_A_TASK:
            raise ConfigError(
                f"`{self.task_claim}` cannot name the task of a token: it must stay the same for all tokens of one task and differ between tasks"
            )


def by_typ(algorithms: object) -> Mapping[str, frozenset[str]] | None:
    """A configured narrowing as `IssuerRules` has it: a list for every kind of token, or a mapping by `typ`. Raises `ConfigError`.

    Nothing can be added this way: what is not on the list of the house (`ALGORITHMS`) is an error, not a wish.
    """
    if algorithms is None:
        return None
    given = algorithms if isinstance(algorithms, Mapping) else {_ANY: algorithms}
    if not given:
        raise ConfigError("`algorithms` names no kind of token: nothing would count")
    found: dict[str, frozenset[str]] = {}
    for typ, names in given.items():
        if isinstance(algorithms, Mapping) and typ not in _TYPS:
            raise ConfigError(f"`algorithms` is by `typ`: {', '.join(_TYPS)}{did_you_mean(str(typ), _TYPS)}")
        if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
            raise ConfigError('`algorithms` are lists of names, e.g. ["ES256", "Ed25519"]')
        several = frozenset(str(name) for name in names)
        if not several or not several <= ALGORITHMS.keys():
            raise ConfigError(f"`algorithms` are some of {', '.join(ALGORITHMS)}")
        found[typ] = several | _TWINS if several & _TWINS else several
    return found
