"""The registry of identities that are no persons: who owns an agent, which keys are its own, is it still in use.

IAM is the system of record; this reads what it exports (a file, or SCIM 2.0) and changes nothing there. What is said of a delegation:

| found of who acts                                          | code                    | effect                |
|------------------------------------------------------------|-------------------------|-----------------------|
| it is not registered, under the issuer of its token        | `identity.unregistered` | `unregistered` (deny) |
| nobody owns it                                             | `identity.unowned`      | `unowned` (ask)       |
| it, or the key it is bound to, was not rotated in time     | `identity.overdue`      | `overdue` (alert)     |
| it, its key, or the workload it runs in is suspended or retired | `identity.suspended` | deny                |
| the key it is bound to is another's, or not one of its own | `identity.key`          | deny                  |
| the registry cannot be read                                | `identity.unavailable`  | deny                  |

It also says under which name who acts counts for a separation of duty: its own id, where a key or a workload that is registered to it has been proven
(`proofs`, and as `names` of `Workloads`).

Findings are made with the plan of a task, not at a call: `generation` changes with the registry, and when something comes due, and whoever holds
an older one is verified anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple, Protocol, get_args

from guard.errors import ConfigError
from guard.identity._files import WatchedFile
from guard.identity.bound import BoundProofs
from guard.identity.registered import MOST, Identity, RegistryUnreadable, read_registry
from guard.model import Delegation, Finding, Says
from guard.ports import Proofs
from guard.reasons import ReasonCode
from guard.suggest import did_you_mean
from guard.tokens.evidence import Workload

__all__ = ["Effect", "Registry", "RegistrySource"]

Effect = Literal["deny", "ask", "alert"]
_SAYS: Mapping[str, Says] = {"deny": "forbid", "ask": "ask", "alert": "permit"}
_NEVER = float("inf")


class RegistrySource(Protocol):
    """Where the identities come from."""

    name: str

    def changed(self) -> bool:
        """May `read` give another answer than before? Never blocks."""
        ...

    def read(self) -> tuple[Identity, ...]:
        """All identities. Raises `RegistryUnreadable`. Never blocks on anything outside this machine."""
        ...


class _Index(NamedTuple):
    """What is known, looked up by what stands in tokens. `why`: it cannot be relied on."""

    identities: tuple[Identity, ...] = ()
    names: Mapping[tuple[str | None, str], Identity] = {}
    keys: Mapping[str, Identity] = {}
    programs: Mapping[tuple[str, str], Identity] = {}
    why: str = ""

    def named(self, issuer: str, name: str | None) -> Identity | None:
        """By its name under that issuer, else under any, else by its SPIFFE id."""
        if name is None:
            return None
        return self.names.get((issuer, name)) or self.names.get((None, name))

    def holder(self, thumbprint: str) -> tuple[Identity | None, Identity | None]:
        """Whose key it is, and the entry of the key itself where it has one."""
        found = self.keys.get(thumbprint)
        if found is None or found.kind != "key":
            return found, None
        return self.names.get((found.issuer, found.of or "")), found

    def program(self, workload: Workload) -> Identity | None:
        """Whom the registry says the workload is, while that one is in use."""
        found = self.programs.get(("", workload.id) if workload.kind == "jwt-svid" else (workload.issuer, workload.id))
        return found if found is not None and found.status == "active" else None


class Registry:
    """`guard.ports.Registrations`, for `Guard(..., registry=...)`.

    `source`: a YAML or JSON file (our own form, or a SCIM ListResponse), looked at once a second; or a `RegistrySource`, as
    `guard.identity.iam.ScimSource`. `unregistered`, `unowned`, `overdue`: `deny`, `ask` or `alert` (a permit that stands in the record).
    `chain`: judge every actor of the chain, and an origin that is a workload, not only who acts. A source that cannot be read denies
    every call; it does not raise here, so that a guard can start before its IAM does.
    """

    inline = True  # no I/O but one `stat` a second, and reading the file when it changed

    def __init__(
        self,
        source: str | Path | RegistrySource,
        *,
        unregistered: Effect = "deny",
        unowned: Effect = "ask",
        overdue: Effect = "alert",
        chain: bool = False,
        clock: Callable[[], float] = time.time,
        check_every: float = 1.0,
    ) -> None:
        for name, effect in (("unregistered", unregistered), ("unowned", unowned), ("overdue", overdue)):
            if effect not in _SAYS:
                known = get_args(Effect)
                raise ConfigError(f"Registry: `{name}` is one of {', '.join(known)}{did_you_mean(str(effect), known)}")
        if isinstance(source, str) and "://" in source:
            raise ConfigError("Registry: a URL is read by `guard.identity.iam.ScimSource(url, bearer=FILE)`")
        self._source = _File(Path(source), check_every) if isinstance(source, str | Path) else source
        self._effects: Mapping[str, Says] = {
            ReasonCode.IDENTITY_UNREGISTERED: _SAYS[unregistered],
            ReasonCode.IDENTITY_UNOWNED: _SAYS[unowned],
            ReasonCode.IDENTITY_OVERDUE: _SAYS[overdue],
        }
        self._chain = chain
        self._clock = clock
        self._index = _Index(why="was not read yet")
        self._due = _NEVER
        self._generation = 0
        self._lock = Lock()
        self._refresh()

    def __repr__(self) -> str:
        return f"Registry({self._source.name}, {len(self._index.identities)} identities)"

    @property
    def identities(self) -> tuple[Identity, ...]:
        """All of them. Raises `RegistryUnreadable`."""
        self._refresh()
        if why := self._index.why:
            raise RegistryUnreadable(f"the registry {why}")
        return self._index.identities

    @property
    def generation(self) -> int:
        """Changes with the source, and when something comes due."""
        self._refresh()
        return self._generation

    def findings(self, delegation: Delegation) -> tuple[Finding, ...]:
        """What is said of who acts under `delegation`; nothing where all is well."""
        self._refresh()
        index, now = self._index, self._clock()
        if index.why:
            return (Finding("token", "forbid", ReasonCode.IDENTITY_UNAVAILABLE, text=f"the registry {index.why}"),)
        found: list[Finding] = []
        for issuer, name in self._who(delegation):
            found += self._of(index, index.named(issuer, name), name, now)
        for hop in (*getattr(delegation, "above", ()), delegation):
            found += self._key(index, hop, now)
        software = index.named(delegation.issuer, delegation.workload)
        if software is not None and software.status != "active":
            found.append(_suspended(software))
        return tuple(dict.fromkeys(found))

    def owner(self, delegation: Delegation) -> str | None:
        """Who answers for who acts; None where nobody does, or it is not known. For records: never raises, never blocks."""
        self._refresh()
        found = self._index.named(delegation.issuer, delegation.actor)
        return found.owner if found is not None and found.kind != "key" else None

    def proofs(self, beside: Proofs | None = None) -> Proofs:
        """`guard.ports.Proofs`: the registered name of who acts, by the key of its token. A `Guard` with this registry has it by itself.

        `beside`: what else proves: `Workloads`. Where a key and a workload prove two identities, nobody is proven.
        """
        return BoundProofs(self, beside)

    def proven(self, delegation: Delegation) -> str | None:
        """The id of who acts, where the key its token is bound to is registered to it and both are in use."""
        holder = self.holder(delegation)
        return None if holder is None or holder is not self.acting(delegation) else holder.id

    def acting(self, delegation: Delegation) -> Identity | None:
        """Who acts, as it is registered. Identities are compared and not names: two issuers may each have one of the same name."""
        self._refresh()
        found = self._index.named(delegation.issuer, delegation.actor)
        return found if found is not None and found.kind != "key" else None

    def holder(self, delegation: Delegation) -> Identity | None:
        """To whom the key is registered that the token is bound to, while both are in use."""
        self._refresh()
        thumbprint = delegation.credential.thumbprint
        if thumbprint is None:
            return None
        holder, key = self._index.holder(thumbprint)
        if holder is None or holder.status != "active" or (key is not None and key.status != "active"):
            return None
        return holder

    # -- `guard.identity.workload.Names` ---------------------------------------------------------------------------------------

    def program(self, workload: Workload) -> Identity | None:
        """Whom the workload is registered to be, while that one is in use."""
        self._refresh()
        return self._index.program(workload)

    def actor_of(self, workload: Workload) -> str | None:
        """Its id."""
        found = self.program(workload)
        return None if found is None else found.id

    def actor_in(self, workload: Workload, delegation: Delegation) -> str | None:
        """The id of who acts, where the workload is registered to be that one."""
        found = self.program(workload)
        return None if found is None or found is not self.acting(delegation) else found.id

    # -- judging ---------------------------------------------------------------------------------------------------------------

    def _who(self, d: Delegation) -> Iterator[tuple[str, str]]:
        if self._chain:
            if d.origin_kind == "workload" and d.origin not in d.actors:
                yield d.issuer, d.origin
            for actor in d.actors[:-1]:
                yield d.issuer, actor
        yield d.issuer, d.actor

    def _of(self, index: _Index, one: Identity | None, name: str, now: float) -> Iterator[Finding]:
        if one is None or one.kind == "key":
            yield self._said(ReasonCode.IDENTITY_UNREGISTERED, f"{name} is not registered", "an entry for it in the registry")
            return
        if one.status != "active":
            yield _suspended(one)
        if one.owner is None:
            yield self._said(ReasonCode.IDENTITY_UNOWNED, f"{one.id} has no owner in the registry", "an owner for it in the registry")
        if one.overdue(now):
            yield self._said(ReasonCode.IDENTITY_OVERDUE, f"{one.id} was not rotated in time", "rotate its secret at the issuer")

    def _key(self, index: _Index, d: Delegation, now: float) -> Iterator[Finding]:
        """Attack A073: `act` names one, and the key the token is bound to is another's."""
        thumbprint = d.credential.thumbprint
        if thumbprint is None:
            return
        holder, key = index.holder(thumbprint)
        actor = index.named(d.issuer, d.actor)
        if holder is not None and holder is not actor:
            yield _forbid(ReasonCode.IDENTITY_KEY, f"the key of the token is not registered to {d.actor} but to {holder.id}")
        elif holder is None and actor is not None and _has_keys(index, actor):
            yield _forbid(ReasonCode.IDENTITY_KEY, f"the key of the token is not one of those registered to {actor.id}")
        if key is not None:
            if key.status != "active":
                yield _suspended(key)
            if key.overdue(now):
                yield self._said(ReasonCode.IDENTITY_OVERDUE, f"{key.id} was not rotated in time", "another key")

    def _said(self, code: ReasonCode, text: str, fix: str) -> Finding:
        return Finding("token", self._effects[code], code, text=text, fix=fix)

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        due = self._clock() >= self._due
        if not due and not self._source.changed():
            return
        with self._lock:
            before = self._index
            try:
                identities = self._source.read()
                index = before if identities == before.identities and not before.why else _indexed(identities)
            except RegistryUnreadable as error:
                index = _Index(why=f"cannot be relied on: {error}")
            except Exception as error:  # a source of somebody else's: what it raises is no answer
                index = _Index(why=f"cannot be relied on: {type(error).__name__}")
            now = self._clock()
            self._index = index  # before the number: who sees the new number must find the new identities
            self._due = min((one.due for one in index.identities if one.due is not None and one.due > now), default=_NEVER)
            if due or index != before:
                self._generation += 1


class _File:
    """A file that others write. Missing, unreadable or wrong: every look says so, until it is mended."""

    def __init__(self, path: Path, every: float) -> None:
        self.name = path.name
        self._file = WatchedFile(path, most=MOST, every=every)
        self._held: tuple[bytes, tuple[Identity, ...] | RegistryUnreadable] = (b"", RegistryUnreadable("was not read yet"))

    def changed(self) -> bool:
        return self._file.changed()

    def read(self) -> tuple[Identity, ...]:
        try:
            raw = self._file.read()
        except (OSError, ValueError) as error:
            self._file.forget()
            why = (error.strerror if isinstance(error, OSError) else None) or "not a regular file of a sensible size"
            raise RegistryUnreadable(f"{self.name} cannot be read: {why}") from None
        digest = sha256(raw).digest()
        if digest != self._held[0]:  # one written a moment ago is read at each look, and understood once
            try:
                self._held = digest, read_registry(raw, self.name)
            except RegistryUnreadable as error:
                self._held = digest, error
        found = self._held[1]
        if isinstance(found, RegistryUnreadable):
            raise RegistryUnreadable(str(found), found.problems)
        return found


def _indexed(identities: Sequence[Identity]) -> _Index:
    names: dict[tuple[str | None, str], Identity] = {}
    for one in identities:
        for each in one.spiffe:
            names[one.issuer, each] = one
    names |= {(one.issuer, one.id): one for one in identities}
    programs = {("", each): one for one in identities for each in one.spiffe}
    programs |= {each: one for one in identities for each in one.workloads}
    return _Index(tuple(identities), names, {each: one for one in identities for each in one.keys}, programs)


def _has_keys(index: _Index, actor: Identity) -> bool:
    return bool(actor.keys) or any(one.kind == "key" and (one.issuer, one.of) == (actor.issuer, actor.id) for one in index.identities)


def _suspended(one: Identity) -> Finding:
    return _forbid(ReasonCode.IDENTITY_SUSPENDED, f"{one.id} is {one.status} in the registry")


def _forbid(code: ReasonCode, text: str) -> Finding:
    return Finding("token", "forbid", code, text=text)
