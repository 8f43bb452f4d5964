"""Which workload this is: evidence that the process shows, and whom it proves to be. Implements `guard.ports.Proofs`.

| who vouches          | the evidence                                                        | keys                               |
|----------------------|---------------------------------------------------------------------|------------------------------------|
| `TrustBundles`       | a JWT-SVID (SPIFFE)                                                 | a bundle file per trust domain     |
| `WorkloadIssuer`     | a token of a platform (CI runner, Kubernetes)                       | a JWKS file                        |

`Workloads` puts them together: where the evidence of now is found, and the name each workload has as an actor. All files are watched. While
one cannot be read or is not usable, nothing that it vouches for counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar

from guard.errors import ConfigError, TokenRefused
from guard.identity._files import WatchedFile
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.tokens.evidence import Workload
from guard.tokens.jose import MAX_TOKEN
from guard.tokens.keys import MAX_SET, KeySet, KeysRefused
from guard.tokens.oidc import WorkloadRules, verify_oidc
from guard.tokens.svid import Bundle, is_domain, verify_svid
from guard.tokens.text import is_name
from guard.tokens.urls import is_issuer

__all__ = ["Names", "TrustBundles", "WorkloadIssuer", "Workloads", "proven_workload"]

_MAX_TTL = timedelta(hours=24)
_NOT_MINE = (ReasonCode.TOKEN_ISSUER, ReasonCode.TOKEN_CLAIMS, ReasonCode.TOKEN_HEADER, ReasonCode.TOKEN_TYPE)

T = TypeVar("T")


class _Watched(Generic[T]):
    """What a watched file says, read by `read`; nothing while the file is of no use."""

    def __init__(self, path: str | Path, read: Callable[[bytes], T]) -> None:
        self._file, self._read = WatchedFile(Path(path), most=MAX_SET), read
        self._current: T | None = None
        self._digest: bytes | None = None
        self._lock = Lock()
        self.generation = 0

    def look(self) -> T:
        """Looks at the file at most once a second. Raises `TokenRefused` `keys.unavailable`."""
        with self._lock:  # who comes while another thread reads the file waits for what it says
            if self._file.changed():
                self._load()
            current = self._current
        if current is None:
            raise TokenRefused(ReasonCode.KEYS_UNAVAILABLE)
        return current

    def _load(self) -> None:
        found: T | None = None
        digest: bytes | None = None
        try:
            raw = self._file.read()
            digest = sha256(raw).digest()
            if digest == self._digest:
                return
            found = self._read(raw)
        except (OSError, ValueError, KeysRefused):
            digest = None
            self._file.forget()
        self.generation += found is not None or self._current is not None
        self._current, self._digest = found, digest


class TrustBundles:
    """The trust domains whose JWT-SVIDs count."""

    def __init__(self, bundles: Mapping[str, str | Path], *, audience: str, max_ttl: timedelta = timedelta(hours=1)) -> None:
        """`bundles`: trust domain (`acme.example`, no scheme) to a file with its bundle, or with the plain JWK Set of the Workload API.
        `audience`: the exact `aud` of SVIDs for this guard. `max_ttl`: the longest life one may have."""
        self._seconds = _checked("TrustBundles", audience, max_ttl)
        if not bundles or not all(is_domain(domain) for domain in bundles):
            raise ConfigError('TrustBundles: `bundles` names trust domains without scheme, e.g. {"acme.example": "acme.json"}')
        self.audience = audience
        self._bundles = {domain: _Watched(_path(path, "TrustBundles"), Bundle.read) for domain, path in bundles.items()}

    def __repr__(self) -> str:
        return f"TrustBundles({', '.join(self._bundles)})"

    def generation(self) -> int:
        """Changes with any bundle. Looks at the files."""
        return _generation(self._bundles)

    def verify(self, token: str, *, now: int) -> Workload:
        """Raises `TokenRefused` and nothing else."""
        return verify_svid(token, _Looking(self._bundles), audience=self.audience, now=now, max_ttl=self._seconds)


class WorkloadIssuer:
    """A platform whose tokens count as evidence of a workload, and never as a delegation."""

    def __init__(
        self,
        url: str,
        *,
        audience: str,
        keys: str | Path,
        subjects: Sequence[str] = (),
        prefixes: Sequence[str] = (),
        claims: Mapping[str, str] | None = None,
        max_ttl: timedelta = timedelta(hours=1),
    ) -> None:
        """`url`: the exact `iss`. `audience`: the exact `aud`. `keys`: a JWKS file.

        `subjects`: the exact `sub`s that count. `prefixes`: what a `sub` may begin with, ending with `:` or `/`; one of both is needed.
        `claims`: what else must be said, word for word: names can be given up and taken by others, numbers as in GitHub's
        `repository_owner_id` cannot.
        """
        seconds = _checked("WorkloadIssuer", audience, max_ttl)
        if not is_issuer(url):
            raise ConfigError("WorkloadIssuer: `url` must be the exact `iss`: https://... without query, fragment or user")
        if isinstance(subjects, str) or isinstance(prefixes, str):
            raise ConfigError("WorkloadIssuer: `subjects` and `prefixes` are lists")

        def rules(raw: bytes) -> WorkloadRules:
            return made(KeySet.from_jwks(raw))

        def made(found: KeySet) -> WorkloadRules:
            return WorkloadRules(url, audience, seconds, found, frozenset(subjects), tuple(prefixes), dict(claims or {}))

        made(KeySet({}))  # what is wrong with the rules is an error of today, not of the first token
        self.url, self.audience = url, audience
        self._rules = {url: _Watched(_path(keys, "WorkloadIssuer"), rules)}

    def __repr__(self) -> str:
        return f"WorkloadIssuer({self.url!r}, audience={self.audience!r})"

    def generation(self) -> int:
        """Changes with the keys. Looks at the file."""
        return _generation(self._rules)

    def verify(self, token: str, *, now: int) -> Workload:
        """Raises `TokenRefused` and nothing else."""
        return verify_oidc(token, _Looking(self._rules), now=now)


class Vouching(Protocol):
    """Who tells what evidence proves."""

    def generation(self) -> int: ...

    def verify(self, token: str, *, now: int) -> Workload: ...


class Names(Protocol):
    """The name a workload has as an actor; None: it has none. A `Registry` is one, and has `actor_in(workload, delegation)` besides: the name of
    the token's actor, where that is who the workload is registered to be."""

    def actor_of(self, workload: Workload) -> str | None: ...


class Workloads:
    """`guard.ports.Proofs`: `Guard(..., proofs=Workloads(...))`. The actor is proven where the workload's own name is the token's actor."""

    def __init__(
        self,
        *trust: Vouching,
        names: Names | Mapping[str | tuple[str, str], str],
        shown: str | Path | Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`trust`: `TrustBundles`, `WorkloadIssuer`. `names`: SPIFFE id, or (issuer, `sub`), to the name of the actor; each workload has one,
        so that no process can be two for a separation of duty. `shown`: where the evidence of this process is found: a file that the
        platform renews, or a function that answers with the text of now; None: what `showing(text)` says.
        """
        if not trust:
            raise ConfigError("Workloads: name who vouches, e.g. TrustBundles(...)")
        self._trust = trust
        self._names: Names = _Table(names) if isinstance(names, Mapping) else names
        self._file = None if shown is None or callable(shown) else _Watched(_path(shown, "Workloads"), _text)
        self._ask = shown if callable(shown) else None
        # Nothing but one `stat` of each file a second.
        self.inline = self._ask is None and all(getattr(one, "inline", True) is True for one in trust)
        self._clock = clock
        self._here: ContextVar[str | None] = ContextVar("guardtrail_workload", default=None)
        self._last: tuple[str, tuple[int, ...], int, Workload] | None = None

    def __repr__(self) -> str:
        return f"Workloads({', '.join(map(repr, self._trust))})"

    @contextmanager
    def showing(self, text: str) -> Iterator[None]:
        """Within this `with`, and in this context only, `text` is the evidence: for a door that serves several callers."""
        token = self._here.set(text)
        try:
            yield
        finally:
            self._here.reset(token)

    def workload(self, *, now: int | None = None) -> Workload:
        """The workload that is proven now. Raises `TokenRefused`: `token.missing` where nothing is shown."""
        at = int(self._clock()) if now is None else now
        text = self._here.get()
        if text is None:
            text = self._file.look() if self._file is not None else self._ask() if self._ask is not None else None
        if type(text) is not str:
            raise TokenRefused(ReasonCode.TOKEN_MISSING)
        generation = tuple(one.generation() for one in self._trust)
        last = self._last
        if last is not None and last[0] == text and last[1] == generation and last[2] <= at and last[3].live(at):
            return last[3]
        found = self._verify(text, at)
        self._last = (text, generation, at, found)
        return found

    def _verify(self, text: str, now: int) -> Workload:
        """By the first who takes it. Of the refusals that one is told which says more than: not mine."""
        told = ReasonCode.TOKEN_ISSUER
        for one in self._trust:
            try:
                return one.verify(text, now=now)
            except TokenRefused as refused:
                told = refused.reason if len(self._trust) == 1 or refused.reason not in _NOT_MINE else told
        raise TokenRefused(told)

    def name_of(self, workload: Workload) -> str | None:
        """The workload's own name as an actor."""
        name = self._names.actor_of(workload)
        return name if is_name(name) else None

    def actor_of(self, workload: Workload, delegation: Delegation) -> str | None:
        """The name of the token's actor, where the workload is that one; else None.

        A registry is asked for both at once: it knows an identity by several names, and two of one name under different issuers.
        """
        binds = getattr(self._names, "actor_in", None)
        if binds is None:
            name = self.name_of(workload)
            return name if name == delegation.actor else None
        name = binds(workload, delegation)
        return name if is_name(name) else None

    def actor(self, delegation: Delegation) -> str | None:
        """The name of the token's actor where the workload is that one. Any failure: None, and nobody unproven differs from anybody."""
        try:
            return self.actor_of(self.workload(), delegation)
        except Exception:
            return None

    def behind(self, delegation: Delegation, *, now: int) -> Workload:
        """The workload behind a call, for effects that demand one (`proof: workload`). Raises `TokenRefused`: `token.missing` where nothing is
        shown, `token.workload` where it is another than the token's.

        The token's is: evidence that is good at `now`, of a workload which is the token's actor by its name, or to which the token was
        issued (`client_id`, `req_wl` is its SPIFFE id). Attack: a stolen token is used by another proven workload.
        """
        found = self.workload(now=now)
        if self.actor_of(found, delegation) is None and (found.kind != "jwt-svid" or delegation.workload != found.id):
            raise TokenRefused(ReasonCode.TOKEN_WORKLOAD)
        return found


def proven_workload(proofs: object, delegation: Delegation, *, now: int) -> Workload | None:
    """`behind` of `proofs`, what the guard was given; None where no workload is proven. Never raises."""
    try:
        found = proofs.behind(delegation, now=now)  # type: ignore[attr-defined]
        return found if type(found) is Workload and found.live(now) else None
    except Exception:  # a failing source proves nothing, and one that knows no workloads neither
        return None


class _Table:
    """Names from a plain mapping."""

    def __init__(self, names: Mapping[str | tuple[str, str], str]) -> None:
        if not names or not all(is_name(name) for name in names.values()):
            raise ConfigError("Workloads: `names` gives each workload its name as an actor")
        self._names = dict(names)

    def actor_of(self, workload: Workload) -> str | None:
        return self._names.get(workload.id if workload.kind == "jwt-svid" else (workload.issuer, workload.id))


class _Looking(Mapping[str, T]):
    """What the files say, asked only for the one that a token names: one unreadable file does not stop the others."""

    def __init__(self, watched: Mapping[str, _Watched[T]]) -> None:
        self._watched = watched

    def __getitem__(self, name: str) -> T:
        return self._watched[name].look()

    def __iter__(self) -> Iterator[str]:
        return iter(self._watched)

    def __len__(self) -> int:
        return len(self._watched)


def _generation(watched: Mapping[str, _Watched[T]]) -> int:
    for one in watched.values():
        try:
            one.look()
        except TokenRefused:  # it counts as a change all the same
            continue
    return sum(one.generation for one in watched.values())


def _text(raw: bytes) -> str:
    if len(raw) > MAX_TOKEN + 2:
        raise ValueError
    return raw.decode("ascii").strip()


def _path(path: object, who: str) -> Path:
    if not isinstance(path, (str, Path)) or not str(path) or str(path).lstrip()[:1] in ("{", "-") or str(path).startswith("eyJ"):
        raise ConfigError(f"{who}: a file is named by its path, not by its content")
    return Path(path)


def _checked(who: str, audience: object, max_ttl: object) -> int:
    if not is_name(audience):
        raise ConfigError(f'{who}: `audience` must be the exact `aud` of evidence for this guard, e.g. audience="refunds"')
    if not isinstance(max_ttl, timedelta) or not timedelta(seconds=1) <= max_ttl <= _MAX_TTL:
        raise ConfigError(f"{who}: `max_ttl` must be a timedelta from one second to 24 hours")
    return int(max_ttl.total_seconds())
