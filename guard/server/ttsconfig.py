"""The file of a Transaction Token service: what is in it, checked, and the service made of it. Paths in it are beside the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from guard.errors import ConfigError, Problem
from guard.identity._files import WatchedFile, secret_bytes, why_not
from guard.identity.issuers import Issuer
from guard.identity.revocation import RevocationList
from guard.identity.revoked.statuses import StatusLists
from guard.identity.signing import Ring
from guard.policy.problems import Mark, Report, suggest
from guard.policy.times import seconds
from guard.policy.yamltext import Map, Node, parse, place, plain
from guard.ports import Verifier
from guard.record import AuditFile, Blinds, directory
from guard.server.issuing import TokenService
from guard.server.requesters import Requester
from guard.state import open_state
from guard.tokens import KeySet
from guard.tokens.issue import MAX_TTL
from guard.tokens.text import is_name
from guard.tokens.urls import is_issuer

__all__ = ["Config", "ConfigWrong", "read_config", "service_of"]

_MOST = 1 << 20
_LEAST_SECRET = 24
_PATIENCE = timedelta(seconds=2.5)
"""How long a record may wait: many clients ask at once, and each would rather wait for a busy disk than come again."""


class ConfigWrong(ConfigError):
    """The file is wrong; `problems` has every error with its place, and no value: secrets could have been put there."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("a visible name of at most 256 characters")
    return value


def _issuer(value: str) -> str:
    if not is_issuer(value):
        raise ValueError("an https URL without query and fragment (http on loopback only)")
    return value


def _span(value: str) -> str:
    if not (0 < (seconds(value) or 0) <= 24 * 3600):
        raise ValueError("a time up to 24h: `5m`")
    return value


def _short(value: str) -> str:
    if not (0 < (seconds(value) or 0) <= MAX_TTL):
        raise ValueError("a short time, up to 1h: `5m`")
    return value


Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_issuer)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _IssuerPart(_Part):
    """An issuer whose access tokens are taken; the members are those of `guard.Issuer`, but `tenant` and `client`; and its status lists."""

    url: Url
    audience: Name
    keys: Text | None = None
    max_ttl: Annotated[str, AfterValidator(_span)] = "1h"
    task_claim: Name | None = None
    algorithms: list[Text] | None = None
    may_act: bool = False
    status_lists: Annotated[list[Text], Field(min_length=1)] | None = None


class _ClientPart(_Part):
    id: Name
    secret: Text | None = None
    keys: Text | None = None
    workload: Name | None = None
    acts: Name | Literal[True] | None = None


class Config(_Part):
    """The whole file."""

    issuer: Url
    trust_domain: Name
    keys: Text
    issuers: Annotated[list[_IssuerPart], Field(min_length=1, max_length=64)]
    clients: Annotated[list[_ClientPart], Field(min_length=1, max_length=4096)]
    ttl: Annotated[str, AfterValidator(_short)] = "5m"
    tenant: Name | None = None
    state: Text = "sqlite:tts.db"
    revoked: Text | None = None
    records: Text | None = None
    scopes: dict[Name, list[Name]] | None = None
    one_namespace: bool = False


def read_config(path: Path) -> Config:
    """Raises ConfigWrong with every error and its place, ConfigError where the file cannot be read."""
    try:
        text = WatchedFile(path, most=_MOST).read().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"tts: {path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"tts: {path} cannot be read: {why_not(error).lower()}") from None
    report = Report(text, str(path))
    tree = parse(text, report)
    found: Config | None = None
    if isinstance(tree, Map):
        try:
            found = Config.model_validate(plain(tree))
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False, include_input=False):
                _tell(report, tree, each)
    elif not report.failed:
        report.error(
            "tts", Mark(1, 1), "the file of a token service is a mapping with `issuer`, `trust_domain`, `keys`, `issuers` and `clients`"
        )
    if found is not None:
        _sound(found, report)
    if report.failed or found is None:
        raise ConfigWrong(report.problems)
    return found


def _tell(report: Report, tree: Node, error: Any) -> None:
    """One finding of pydantic, at the place in the file it is about."""
    at = place(tree, error["loc"])
    last = str(error["loc"][-1])[:64] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"issuers": _IssuerPart, "clients": _ClientPart}
        known = parts.get(str(error["loc"][0]), Config).model_fields
        report.error("unknown-key", at, f"`{last}` is not known here", suggest(last, known))
    elif error["type"] == "missing":
        report.error("missing-key", at, f"`{last}` is missing")
    else:
        member = next((f"`{step}`: " for step in reversed(error["loc"]) if isinstance(step, str)), "")
        report.error("value", at, member + str(error["msg"]).removeprefix("Value error, "))


def _sound(config: Config, report: Report) -> None:
    """What must hold between the members."""

    def wrong(text: str) -> None:
        report.error("tts", Mark(1, 1), text)

    for client in config.clients:
        if (client.secret is None) == (client.keys is None):
            wrong(f"client {client.id}: exactly one of `secret` and `keys`, a file each, says how it proves who it is")
    if len({client.id for client in config.clients}) != len(config.clients):
        wrong("two clients have one `id`")
    if len({one.url for one in config.issuers}) != len(config.issuers) or config.issuer in {one.url for one in config.issuers}:
        wrong("an issuer stands twice, or is this service itself")
    if len(config.issuers) > 1 and not config.one_namespace:
        # In the tokens of this service nothing tells the alice of one issuer from the alice of another.
        wrong(
            "several issuers: say `one_namespace: true` if they name persons, agents, sessions and tasks alike; else run one service for each"
        )


def service_of(config: Config, beside: Path, *, clock: Callable[[], float] = time.time) -> TokenService:
    """The service, its folder of keys, its store and its records. Raises ConfigError, StateUnavailable."""

    def at(text: str) -> Path:
        return beside / text

    records = at(config.records) if config.records is not None else directory()
    state = config.state
    if state.startswith("sqlite:") and len(state) > 7:
        state = f"sqlite:{at(state[7:])}"
    lists = [RevocationList(at(config.revoked), clock=clock, check_every=0)] if config.revoked is not None else []
    blinds = Blinds(records)
    statuses = {one.url: one.status_lists for one in config.issuers}

    def over(verifier: Verifier, issuers: Sequence[Issuer]) -> Verifier:
        for issuer in issuers:
            uris = statuses[issuer.url]
            if uris is not None:
                verifier = StatusLists(issuer, uris=uris).over(verifier)
        return verifier

    return TokenService(
        url=config.issuer,
        domain=config.trust_domain,
        ring=Ring(at(config.keys), clock=clock),
        issuers=[_issuer_of(one, at) for one in config.issuers],
        clients=[_requester(one, at) for one in config.clients],
        store=open_state(state),
        notes=AuditFile(records, patience=_PATIENCE),
        pseudonym=blinds.origin,
        revocations=lists,
        over=over,
        listed=frozenset(url for url, uris in statuses.items() if uris is not None),
        ttl=seconds(config.ttl) or 300,
        tenant=config.tenant,
        scopes=None if config.scopes is None else {name: tuple(tools) for name, tools in config.scopes.items()},
        clock=clock,
    )


def _issuer_of(one: _IssuerPart, at: Callable[[str], Path]) -> Mapping[str, Any]:
    keys = one.keys if one.keys is None or "://" in one.keys else at(one.keys)
    max_ttl = timedelta(seconds=seconds(one.max_ttl) or 3600)
    return {
        "url": one.url,
        "audience": one.audience,
        "keys": keys,
        "max_ttl": max_ttl,
        "task_claim": one.task_claim,
        "algorithms": one.algorithms,
        "may_act": one.may_act,
    }


def _requester(one: _ClientPart, at: Callable[[str], Path]) -> Requester:
    workload, acts = one.workload or one.id, one.id if one.acts is True else one.acts
    if one.keys is not None:
        try:
            raw = WatchedFile(at(one.keys), most=_MOST).read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"tts: client {one.id}: {at(one.keys)} cannot be read: {why_not(error).lower()}") from None
        return Requester(one.id, workload, acts, keys=KeySet.from_jwks(raw))
    file = at(one.secret or "")
    lines = [line.strip() for line in secret_bytes(file, who="tts", what="a client's secret").splitlines() if line.strip()]
    if not 1 <= len(lines) <= 2 or not all(len(line) >= _LEAST_SECRET and line.isascii() for line in lines):
        raise ConfigError(
            f"tts: client {one.id}: {file} holds one secret of {_LEAST_SECRET} characters or more, or two lines of them while it is being changed"
        )
    return Requester(one.id, workload, acts, secrets=tuple(sha256(line).digest() for line in lines))
