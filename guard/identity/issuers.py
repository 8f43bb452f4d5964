"""Production: an issuer whose tokens we verify and never imitate."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from guard.errors import ConfigError, TokenRefused
from guard.identity._files import WatchedFile
from guard.reasons import ReasonCode
from guard.tokens import IssuerRules, KeySet, KeysRefused
from guard.tokens.text import is_name

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
    ) -> None:
        """`url`: the exact `iss`. `keys`: a JWKS file. `audience`: the exact `aud` of tokens for this guard. `max_ttl`: the longest
        lifetime a token may have. No option here makes verification weaker.

        `tenant`: whose tasks these are, the url unless said. `task_claim`: the claim that names the task in access tokens without
        `txn`; without it `sid` does.

        The file is read again when it changes. While it cannot be read or is not a usable key set, every token of this issuer is
        refused with `keys.unavailable`: also those that were verified before.
        """
        self.url = _checked_url(url)
        if not is_name(audience):
            raise ConfigError('Issuer: `audience` must be the exact `aud` of tokens for this guard, e.g. audience="refunds"')
        path = _checked_path(keys)
        if not _within(max_ttl):
            raise ConfigError("Issuer: `max_ttl` must be a timedelta from one second to 24 hours")
        if tenant is not None and not is_name(tenant):
            raise ConfigError("Issuer: `tenant` must be a visible name of at most 256 characters")
        self.audience = audience
        self.tenant = tenant or url
        self.max_ttl = max_ttl
        self.task_claim = task_claim
        self._rules(KeySet({}))  # a wrong `task_claim` is an error of today, not of the first token
        self._file = WatchedFile(path, most=_MOST)
        self._current: IssuerRules | None = None
        self._digest: bytes | None = None  # of the file `_current` was made of
        self._generation = 0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Issuer({self.url!r}, audience={self.audience!r}, keys={str(self._file.path)!r})"

    def rules(self, *, refresh: bool = False) -> IssuerRules:
        """How tokens of this issuer are verified now. Looks at the key file at most once a second (`refresh`: now).

        Raises `TokenRefused` `keys.unavailable`.
        """
        with self._lock:  # who comes while another thread reads the file waits for what it says
            if self._file.changed(now=refresh):
                self._read()
            current = self._current
        if current is None:
            raise TokenRefused(ReasonCode.KEYS_UNAVAILABLE)
        return current

    @property
    def generation(self) -> int:
        """Changes with the keys. Looks at the file as `rules` does."""
        try:
            self.rules()
        except TokenRefused:
            pass
        return self._generation

    def _read(self) -> None:
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
            self.url, self.tenant, self.audience, int(self.max_ttl.total_seconds()), keys, local=False, task_claim=self.task_claim
        )


def _checked_url(url: object) -> str:
    """RFC 8414 2: https, no query, no fragment. http only where the tokens do not leave the machine."""
    if isinstance(url, str) and is_name(url) and " " not in url and "\\" not in url:
        try:
            parts = urlsplit(url)
            host = parts.hostname
            usable = bool(host) and parts.port != 0 and "@" not in parts.netloc and "?" not in url and "#" not in url
        except ValueError:
            usable, parts, host = False, None, None
        if usable and parts is not None and host is not None and (parts.scheme == "https" or (parts.scheme == "http" and _loopback(host))):
            return url
    raise ConfigError(
        "Issuer: `url` must be the exact `iss`: https://... without query, fragment or user (http:// only on loopback). "
        'For development there is LocalIssuer("name")'
    )


def _checked_path(keys: object) -> Path:
    if keys is None:
        raise ConfigError(
            "Issuer: fetching keys over HTTP comes with the delegated identity issue; pass keys= (the path of a JWKS file) until then"
        )
    if not isinstance(keys, (str, Path)) or not str(keys) or str(keys).lstrip()[:1] in ("{", "-"):
        raise ConfigError("Issuer: `keys` is the path of a JWKS file, not its content")
    return Path(keys)


def _within(max_ttl: object) -> bool:
    return isinstance(max_ttl, timedelta) and timedelta(seconds=1) <= max_ttl <= _MAX_TTL


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
