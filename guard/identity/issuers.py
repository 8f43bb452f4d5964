"""Production: an issuer whose tokens we verify and never imitate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NoReturn

from guard.errors import ConfigError, GuardError, KeysWanted, TokenRefused
from guard.identity._files import WatchedFile
from guard.ports import Credentials, Exchanger
from guard.reasons import ReasonCode
from guard.tokens import IssuerRules, KeySet, KeysRefused
from guard.tokens.rules import by_typ
from guard.tokens.text import is_name
from guard.tokens.urls import is_endpoint, is_issuer, plain

if TYPE_CHECKING:
    from concurrent.futures import Future

    from guard.identity.client import Client
    from guard.identity.remote import RemoteKeys

__all__ = ["Issuer"]

_MOST = 512 * 1024
_MAX_TTL = timedelta(hours=24)


class Issuer:
    """An OAuth issuer (IAM) whose tokens count."""

    def __init__(
        self,
        url: str,
        *,
        audience: str,
        keys: str | Path | None = None,
        max_ttl: timedelta = timedelta(hours=1),
        tenant: str | None = None,
        task_claim: str | None = None,
        algorithms: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        client: Client | Sequence[Client] | None = None,
        may_act: bool = False,
    ) -> None:
        """`url`: the exact `iss`. `audience`: the exact `aud` of tokens for this guard. `max_ttl`: the longest lifetime a token may have.
        `keys`: a JWKS file, or the https address of a key set; None: where the issuer's metadata says (RFC 8414, OpenID Connect
        Discovery), asked when the first token comes. No option here makes verification weaker. `may_act`: a token without that claim (RFC
        8693 section 4.4) is handed on to nobody. Where a token has it, only whom it names takes it over, with or without this.

        `tenant`: whose tasks these are, the url unless said. `task_claim`: the claim that names the task in access tokens without
        `txn`; without it `sid` does. `algorithms`: the only ones that count, of those each key may be used with; as a mapping by `typ`
        (`{"at+jwt": ["ES256"]}`), where a kind of token that is not named does not count at all.
        `client`: as whom this program asks for narrower tokens (`task.delegate`) and for what tools need downstream (`credential:`); a list
        where it acts as several agents.

        A file is read again when it changes. While it cannot be read or is not a usable key set, every token of this issuer is
        refused with `keys.unavailable`: also those that were verified before. Keys over HTTP go by `guard/identity/remote.py`: nobody
        waits for a server who was verified before, and keys that nobody confirmed for an hour are none.
        """
        self.url = _checked_url(url)
        if not is_name(audience):
            raise ConfigError('Issuer: `audience` must be the exact `aud` of tokens for this guard, e.g. audience="refunds"')
        source = _checked_keys(keys, self.url)
        if not _within(max_ttl):
            raise ConfigError("Issuer: `max_ttl` must be a timedelta from one second to 24 hours")
        if tenant is not None and not is_name(tenant):
            raise ConfigError("Issuer: `tenant` must be a visible name of at most 256 characters")
        self.may_act = may_act is not False  # a wrong type is the stricter one
        self.audience = audience
        self.tenant = tenant or url
        self.max_ttl = max_ttl
        self.task_claim = task_claim
        self.keys = None if source is None else str(source)
        """Where its keys are: a file, an address, or None: where its metadata says."""
        self.algorithms = self._algorithms = by_typ(algorithms)
        self.exchanger: Exchanger | None = None
        self.lender: Credentials | None = None
        if client is not None:
            from guard.identity.downstream import DownstreamTokens
            from guard.identity.exchange import Endpoint, TokenExchange, by_actor

            endpoint, clients = Endpoint(url), by_actor(client)
            self.exchanger = TokenExchange(endpoint, clients, audience)
            self.lender = DownstreamTokens(endpoint, clients)
        self._rules(KeySet({}))  # a wrong `task_claim` is an error of today, not of the first token
        self._file = WatchedFile(source, most=_MOST) if isinstance(source, Path) else None
        self._remote: RemoteKeys | None = None
        if self._file is None:
            from guard.identity.remote import RemoteKeys

            self._remote = RemoteKeys(self.url, None if source is None else str(source), self._rules)
        self._current: IssuerRules | None = None
        self._digest: bytes | None = None  # of the file `_current` was made of
        self._generation = 0
        self._lock = Lock()

    def __repr__(self) -> str:
        keys = "" if self._file is None else f", keys={str(self._file.path)!r}"
        return f"Issuer({self.url!r}, audience={self.audience!r}{keys})"

    @property
    def remote(self) -> bool:
        """Whether its keys come over HTTP."""
        return self._remote is not None

    def rules(self, *, refresh: bool = False) -> IssuerRules:
        """How tokens of this issuer are verified now. Looks at the key file at most once a second (`refresh`: now).

        Raises `TokenRefused` `keys.unavailable`; where they would come over HTTP and are not here, as `KeysWanted`.
        """
        if self._remote is not None:
            return self._remote.look() or self._wanting(self._remote)
        assert self._file is not None
        with self._lock:  # who comes while another thread reads the file waits for what it says
            if self._file.changed(now=refresh):
                self._read()
            current = self._current
        if current is None:
            raise TokenRefused(ReasonCode.KEYS_UNAVAILABLE)
        return current

    def wants(self, kid: str) -> bool:
        """Whether a token's `kid`, which is not among the keys, is a reason to fetch them anew."""
        return self._remote is not None and self._remote.wants(kid)

    def fetching(self, kid: str | None = None) -> Future[bool]:
        """Begin to fetch the keys, or join who is at it. Never raises; the answer is whether the keys are new. `kid`: what for."""
        if self._remote is None:
            raise ConfigError(f"{self!r}: its keys are in a file")
        return self._remote.fetch(kid)

    def fetch(self, seconds: float = 10.0) -> None:
        """Have the keys here before the first call, e.g. when a server starts. Raises `GuardError` `keys.unavailable`."""
        if self._remote is not None and self._remote.look() is None:
            try:
                self.fetching().result(timeout=seconds)
            except TimeoutError:
                pass
            if self._remote.look() is None:
                raise GuardError(f"{self._why(self._remote)}", code=ReasonCode.KEYS_UNAVAILABLE)

    def _wanting(self, remote: RemoteKeys) -> NoReturn:
        raise KeysWanted(self.url, self._why(remote))

    def _why(self, remote: RemoteKeys) -> str:
        return f"the issuer's keys could not be fetched: {remote.failed or 'there was no time yet'}"

    @property
    def generation(self) -> int:
        """Changes with the keys. Looks at the file as `rules` does; over HTTP, begins what is due and waits for nothing."""
        if self._remote is not None:
            self._remote.look()
            return self._remote.generation
        try:
            self.rules()
        except TokenRefused:
            pass
        return self._generation

    def _read(self) -> None:
        assert self._file is not None
        found: IssuerRules | None = None
        digest: bytes | None = None
        try:
            raw = self._file.read()
            digest = sha256(raw).digest()
            if digest == self._digest:
                return
            found = self._rules(KeySet.from_jwks(raw))
        except (OSError, ValueError, KeysRefused):
            digest = None
            self._file.forget()
        if found is not None or self._current is not None:
            self._generation += 1
        self._current, self._digest = found, digest

    def _rules(self, keys: KeySet) -> IssuerRules:
        return IssuerRules(
            self.url,
            self.tenant,
            self.audience,
            int(self.max_ttl.total_seconds()),
            keys,
            may_act=self.may_act,
            local=False,
            task_claim=self.task_claim,
            algorithms=self._algorithms,
        )


def _checked_url(url: object) -> str:
    if isinstance(url, str) and is_issuer(url):
        return url
    raise ConfigError(
        "Issuer: `url` must be the exact `iss`: https://... without query, fragment or user (http:// only on loopback). "
        'For development there is LocalIssuer("name")'
    )


def _checked_keys(keys: object, url: str) -> Path | str | None:
    """A file, an address, or None: by metadata."""
    if keys is None:
        return None
    if isinstance(keys, str) and "://" in keys:
        if not is_endpoint(keys, loopback=plain(url)):
            raise ConfigError(
                "Issuer: `keys` is an https:// address (http:// only where `url` is on loopback too), or the path of a JWKS file"
            )
        return keys
    if not isinstance(keys, (str, Path)) or not str(keys) or str(keys).lstrip()[:1] in ("{", "-"):
        raise ConfigError("Issuer: `keys` is the path of a JWKS file or the https:// address of a key set, not its content")
    return Path(keys)


def _within(max_ttl: object) -> bool:
    return isinstance(max_ttl, timedelta) and timedelta(seconds=1) <= max_ttl <= _MAX_TTL
