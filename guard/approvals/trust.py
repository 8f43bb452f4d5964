"""Whose tokens approvers may show. Kept with each request, so that whoever answers it elsewhere needs to be told nothing, and cannot bring an issuer
of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from guard.errors import ConfigError, KeysWanted, TokenRefused
from guard.identity import Issuer, LocalIssuer
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.tokens import IssuerRules, KeySet, split, token_json
from guard.tokens.approval import read_approver
from guard.tokens.text import is_name

__all__ = ["AUDIENCE", "Trust"]

AUDIENCE = "approvals"
"""`aud` of the tokens a development issuer makes for approvers (`LocalIssuer.login`)."""
_PATIENCE = 10.0


class _Known(NamedTuple):
    """One issuer. `issuer` None: its keys stand in `rules`, which do not change. `clients`: who may have got the token for the person; None: whoever."""

    rules: IssuerRules | None
    issuer: Issuer | None
    groups: str
    clients: tuple[str, ...] | None = None

    def now(self) -> IssuerRules:
        if self.rules is not None:
            return self.rules
        assert self.issuer is not None
        return self.issuer.rules()


class Trust(Mapping[str, IssuerRules]):
    """Issuers of approvers' tokens by their exact `iss`. `groups`: the claim that holds a person's groups, or issuer -> claim. `clients`: the
    `client_id`s whose tokens count; None: all."""

    def __init__(
        self,
        trust: Issuer | LocalIssuer | Sequence[Issuer | LocalIssuer],
        groups: str | Mapping[str, str] = "groups",
        clients: Sequence[str] | None = None,
    ) -> None:
        given = list(trust) if isinstance(trust, Sequence) else [trust]
        if not given or not all(isinstance(each, Issuer | LocalIssuer) for each in given):
            raise ConfigError("Approvals: `trust` is an Issuer, a LocalIssuer or a list of them: whose tokens approvers show")
        claims = {each.url: groups if isinstance(groups, str) else groups.get(each.url, "groups") for each in given}
        if not all(map(is_name, claims.values())) or (not isinstance(groups, str) and not set(groups) <= set(claims)):
            raise ConfigError("Approvals: `groups` is the name of the claim that holds a person's groups, or a mapping of issuer to claim")
        if clients is not None and (isinstance(clients, str) or not clients or not all(map(is_name, clients))):
            raise ConfigError("Approvals: `clients` is a list of `client_id`s: those of the pages where persons log in to approve")
        self._known = {each.url: _known(each, claims[each.url], clients) for each in given}
        if len(self._known) != len(given):
            raise ConfigError("Approvals: `trust` names an issuer twice")

    def __getitem__(self, url: str) -> IssuerRules:
        return self._known[url].now()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def tenant(self, url: str) -> str | None:
        """Whose approvers its tokens are; None where it is not known here."""
        known = self._known.get(url)
        if known is None:
            return None
        return known.rules.tenant if known.rules is not None else known.issuer.tenant if known.issuer is not None else None

    def apart(self, trust: object) -> None:
        """Raises ConfigError where a token of a task would be an approver's too. Attack: an agent approves with the token it works under."""
        given: Sequence[Any] = trust if isinstance(trust, Sequence) else [trust]
        for each in given:
            known = self._known.get(getattr(each, "url", ""))
            audience = (known.rules or known.issuer) if known is not None else None
            if audience is not None and audience.audience == getattr(each, "audience", None):
                raise ConfigError(
                    f"Approvals: approvers' tokens of {each.url} have the audience of the tasks' tokens, {each.audience}; "
                    'another one keeps them apart: Issuer(url, audience="approvals")'
                )

    def read(self, token: str, *, now: int) -> tuple[Delegation, frozenset[str]]:
        """Who presents `token`, and their groups. Waits for keys that are not here. Raises `TokenRefused`."""
        groups = {url: known.groups for url, known in self._known.items()}
        wanted: tuple[Issuer, str | None] | None = None
        refused: TokenRefused | None = None
        for _ in range(2):
            try:
                person, found = read_approver(token, self, groups=groups, now=now)
                clients = self._known[person.issuer].clients
                if clients is not None and person.workload not in clients:
                    # Attack: an exchange that leaves no `act` turns the token an agent holds of a person into one of the person alone.
                    raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the token was given to a client with which nobody approves")
                return person, found
            except KeysWanted as error:
                refused, issuer = error, self._known[error.issuer].issuer
                wanted = (issuer, error.kid) if issuer is not None else None
            except TokenRefused as error:
                refused = error
                wanted = self._unknown(token) if error.reason is ReasonCode.TOKEN_SIGNATURE else None
            if wanted is None:
                break
            try:
                wanted[0].fetching(wanted[1]).result(timeout=_PATIENCE)
            except TimeoutError:
                break
        assert refused is not None
        raise refused

    def _unknown(self, token: str) -> tuple[Issuer, str] | None:
        """A `kid` nobody knows may be a new key of an issuer whose keys come over HTTP."""
        jws = split(token)
        url, kid = token_json(jws.payload).get("iss"), token_json(jws.header).get("kid")
        known = self._known.get(url) if isinstance(url, str) else None
        if known is None or known.issuer is None or not isinstance(kid, str) or known.issuer.rules().keys.find(kid) is not None:
            return None
        return (known.issuer, kid) if known.issuer.wants(kid) else None

    def plain(self) -> list[dict[str, Any]]:
        """As it is kept."""
        return [_plain(url, known) for url, known in self._known.items()]

    @classmethod
    def from_plain(cls, rows: Sequence[Mapping[str, Any]]) -> Trust:
        """What `plain` made."""
        made = cls.__new__(cls)
        made._known = {row["url"]: _from(row) for row in rows}
        return made


def _known(issuer: Issuer | LocalIssuer, claim: str, clients: Sequence[str] | None) -> _Known:
    only = None if clients is None else tuple(clients)
    if isinstance(issuer, LocalIssuer):
        return _Known(replace(issuer.rules(), audience=AUDIENCE), None, claim, only)
    return _Known(None, issuer, claim, only)


def _plain(url: str, known: _Known) -> dict[str, Any]:
    issuer, rules = known.issuer, known.rules
    both = {"url": url, "groups": known.groups, "clients": None if known.clients is None else list(known.clients)}
    if issuer is None:
        assert rules is not None
        return {**both, "tenant": rules.tenant, "max_ttl": rules.max_ttl, "jwks": _published(rules.keys)}
    keys = issuer.keys if issuer.keys is None or "://" in issuer.keys else str(Path(issuer.keys).absolute())
    algorithms = None if issuer.algorithms is None else {typ: sorted(names) for typ, names in issuer.algorithms.items()}
    return {
        **both, "audience": issuer.audience, "tenant": issuer.tenant, "max_ttl": int(issuer.max_ttl.total_seconds()), "keys": keys,
        "algorithms": algorithms,
    }  # fmt: skip


def _published(keys: KeySet) -> str:
    """A development issuer's one key as the JWK Set it came from."""
    import json

    from jwt.algorithms import ECAlgorithm

    rows = []
    for key in keys:
        jwk = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(key.public, as_dict=True)
        rows.append({**{name: jwk[name] for name in ("kty", "crv", "x", "y")}, "kid": key.kid, "alg": "ES256"})
    return json.dumps({"keys": rows})


def _from(row: Mapping[str, Any]) -> _Known:
    clients = None if row["clients"] is None else tuple(row["clients"])
    if "jwks" in row:
        keys = KeySet.from_jwks(row["jwks"])
        return _Known(IssuerRules(row["url"], row["tenant"], AUDIENCE, row["max_ttl"], keys, local=True), None, row["groups"], clients)
    algorithms = row["algorithms"]
    given = algorithms.get("") if algorithms is not None and "" in algorithms else algorithms
    ttl = timedelta(seconds=row["max_ttl"])
    issuer = Issuer(row["url"], audience=row["audience"], keys=row["keys"], max_ttl=ttl, tenant=row["tenant"], algorithms=given)
    return _Known(None, issuer, row["groups"], clients)
