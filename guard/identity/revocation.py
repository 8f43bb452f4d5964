"""What was taken back. Asked on every call, before the body; a body in flight is not stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple, get_args

from guard.errors import ConfigError, GuardError
from guard.identity._files import WatchedFile
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.suggest import did_you_mean
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.rules import MADE_OF
from guard.tokens.text import is_name

__all__ = ["KINDS", "RevocationKind", "RevocationList", "lineage", "read_entries", "revocable"]

RevocationKind = Literal["credential", "session", "origin", "actor", "key", "task"]
KINDS: tuple[str, ...] = get_args(RevocationKind)
_MOST = 64 * 1024 * 1024
_ALWAYS = float("inf")
_LOOKS = (0.0, 0.0005, 0.005, 0.02)
"""Seconds to wait for the rest of a line that another process is writing."""

_Index = dict[tuple[str, str], dict[str | None, float]]
"""(kind, value) -> issuer (None: any) -> tokens issued before this second are dead."""


class Entry(NamedTuple):
    kind: str
    value: str
    issuer: str | None
    at: float


class RevocationList:
    """`guard.ports.Revocations` in memory, or over a file that several processes share.

    | kind       | value                                   | what dies                                              |
    |------------|-----------------------------------------|--------------------------------------------------------|
    | credential | `jti`                                   | that token, whatever its text, and what was made of it |
    | session    | `sid`                                   | every token of that session                            |
    | origin     | `sub`, or the claim `person`            | tokens issued before `at`: a later login works again   |
    | actor      | a name anywhere in the chain            | every token it acts or acted under                     |
    | key        | `kid`, or the thumbprint of a bound key | every token signed with, or bound to, that key         |
    | task       | `txn`                                   | every token of that task                               |

    The file holds one JSON object a line, as `revoke` writes it; it is looked at once a second. A file that is missing, unreadable or
    has a line that cannot be understood makes `find` raise, naming file and line, and the guard denies with `revocation.unavailable`.
    An empty file is an empty list; `revoke` never makes the file: a list that was lost would come back with one entry, and give life to
    all the others.
    """

    inline = True  # no I/O but one `stat` a second, and reading the file when it changed

    def __init__(self, path: str | Path | None = None, *, clock: Callable[[], float] = time.time, check_every: float = 1.0) -> None:
        self._path = None if path is None else Path(path)
        self._file = None if self._path is None else WatchedFile(self._path, most=_MOST, every=check_every)
        self._clock = clock
        self._own: _Index = {}
        self._index: _Index = {}
        self._broken = ""  # why the file cannot be relied on
        self._digest: bytes | None = None  # of the file `_index` was made of
        self._generation = 0
        self._lock = Lock()
        if self._file is not None:
            self._refresh(now=True)

    def __repr__(self) -> str:
        return f"RevocationList({str(self._path) if self._path else 'in memory'}, {len(self)} entries)"

    def __len__(self) -> int:
        with self._lock:
            return sum(len(issuers) for issuers in self._index.values())

    @property
    def generation(self) -> int:
        """Changes with every entry, and with the file."""
        self._refresh()
        return self._generation

    def revoke(self, kind: RevocationKind, value: str, *, issuer: str | None = None, at: float | None = None) -> None:
        """Take back `value`. `issuer` None: of any issuer. `at`: only tokens issued before that time (epoch seconds).

        Without `at` an origin is revoked up to now (who logs in again gets a token that counts), everything else for good. With a file
        the entry is on the disk when this returns; the file must be there, be it empty.
        """
        if kind not in KINDS:
            raise ConfigError(f"revoke: `kind` is one of {', '.join(KINDS)}{did_you_mean(str(kind), KINDS)}")
        if not is_name(value) or not (issuer is None or is_name(issuer)):
            raise ConfigError("revoke: `value` and `issuer` are names as they stand in tokens")
        if at is None:
            at = self._clock() if kind == "origin" else _ALWAYS
        elif not _is_time(at):
            raise ConfigError("revoke: `at` is a time in epoch seconds")
        entry = Entry(kind, value, issuer, float(at))
        if self._path is not None:
            _append(self._path, entry)
        with self._lock:
            _put(self._own, entry)
            _put(self._index, entry)
            self._generation += 1

    def find(self, delegation: Delegation, *, now: int) -> str | None:
        """What of `delegation` is revoked, or None. Raises where the file cannot be relied on."""
        if self._file is not None:
            self._refresh()
        if why := self._broken:
            raise GuardError(f"the revocation list {self._path} {why}", code=ReasonCode.REVOCATION_UNAVAILABLE)
        index = self._index
        if not index:
            return None
        for one in lineage(delegation):
            issuer, issued_at = one.issuer, one.issued_at
            for kind, value in revocable(one):
                issuers = index.get((kind, value))
                if issuers is not None and (issuers.get(issuer, 0) > issued_at or issuers.get(None, 0) > issued_at):
                    return f"actor {value}" if kind == "actor" else kind
        return None

    def _refresh(self, *, now: bool = False) -> None:
        if self._file is None or not self._file.changed(now=now):
            return
        with self._lock:
            index, digest = None, None
            try:
                raw = _content(self._file)
                digest = sha256(raw).digest()
                if digest == self._digest:
                    return
                index = _read(raw)
            except _Unusable as why:
                self._broken, self._digest = str(why), None
                self._file.forget()
            if index is not None:
                self._broken, self._digest = "", digest
                for key, issuers in self._own.items():  # written by us, and gone from the file: somebody shortened it
                    for issuer, at in issuers.items():
                        _put(index, Entry(*key, issuer, at))
                self._index = index
            self._generation += 1


def lineage(d: Delegation) -> tuple[Delegation, ...]:
    """The delegation and every one above it: any of them taken back kills it."""
    return (*d.above, d)


def revocable(d: Delegation) -> Iterator[tuple[str, str]]:
    """Everything of one delegation that can be taken back, as (kind, value)."""
    yield "credential", d.credential.jti
    if MADE_OF in d.credential.jti:  # by a token service, of another one that is named before it
        yield "credential", d.credential.jti.rpartition(MADE_OF)[0]
    if d.session is not None:
        yield "session", d.session
    yield "origin", d.origin
    if d.person is not None:
        yield "origin", d.person
    for actor in d.actors:
        yield "actor", actor
    yield "key", d.credential.kid
    if d.credential.thumbprint is not None:
        yield "key", d.credential.thumbprint
    yield "task", d.txn


def _is_time(at: object) -> bool:
    return (type(at) is int or type(at) is float) and isfinite(at)


def _put(index: _Index, entry: Entry) -> None:
    """One assignment: whoever looks at the same time sees the entry or does not, and a dictionary he holds never changes."""
    issuers = index.get((entry.kind, entry.value), {})
    index[entry.kind, entry.value] = {**issuers, entry.issuer: max(entry.at, issuers.get(entry.issuer, 0))}


def _append(path: Path, entry: Entry) -> None:
    line: dict[str, object] = {"kind": entry.kind, "value": entry.value}
    if entry.issuer is not None:
        line["issuer"] = entry.issuer
    if entry.at != _ALWAYS:
        line["at"] = entry.at
    data = (json.dumps(line) + "\n").encode("ascii")
    why = "a part of a line was written"
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            if not _ends_a_line(handle):  # somebody's torn line: ours must not become its end, and go when that line is taken out
                data = b"\n" + data
            if os.write(handle, data) == len(data):
                os.fsync(handle)
                return
        finally:
            os.close(handle)
    except FileNotFoundError:
        why = f"there is no such file; an empty one is an empty list: touch {path}"
    except OSError as error:
        why = error.strerror or "it cannot be opened"
    raise GuardError(
        f"the revocation list {path} could not be written, nothing was revoked there: {why}", code=ReasonCode.REVOCATION_UNAVAILABLE
    )


def _ends_a_line(handle: int) -> bool:
    end = os.lseek(handle, 0, os.SEEK_END)
    if end == 0:
        return True
    os.lseek(handle, end - 1, os.SEEK_SET)
    return os.read(handle, 1) == b"\n"


class _Unusable(Exception):
    """Why the file cannot be relied on. Names the line, never what stands in it: a list of who lost what is nobody's business."""


def _content(file: WatchedFile) -> bytes:
    """The file as it is between two appends. Raises `_Unusable`.

    A line that crosses a page appears in two steps to whoever reads meanwhile: look again.
    """
    try:
        for wait in _LOOKS:
            raw = file.read()
            if not raw or raw.endswith(b"\n"):
                return raw
            time.sleep(wait)
        return file.read()
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a regular file of a sensible size"
        raise _Unusable(f"cannot be read: {why}") from None


def read_entries(path: Path) -> list[Entry]:
    """What stands in a file. Raises GuardError `revocation.unavailable`."""
    try:
        index = _read(_content(WatchedFile(path, most=_MOST)))
    except _Unusable as why:
        raise GuardError(f"the revocation list {path} {why}", code=ReasonCode.REVOCATION_UNAVAILABLE) from None
    return [Entry(*key, issuer, at) for key, issuers in index.items() for issuer, at in issuers.items()]


def _read(raw: bytes) -> _Index:
    """The whole file. Raises `_Unusable` where any line is not understood: half a list is not a list."""
    index: _Index = {}
    number = 0
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            if line.strip():
                _put(index, _entry(line))
        except ValueError:
            raise _Unusable(f"cannot be relied on: line {number} is no entry; repair it") from None
    if raw and not raw.endswith(b"\n"):  # an entry, and perhaps the beginning of a longer one
        raise _Unusable(f"cannot be relied on: line {number}, the last one, has no end; repair it")
    return index


def _entry(line: bytes) -> Entry:
    members = strict_json(line, depth=1)
    kind, value, issuer, at = (members.get(name) for name in ("kind", "value", "issuer", "at"))
    if (
        not members.keys() <= {"kind", "value", "issuer", "at"}
        or kind not in KINDS
        or not is_name(value)
        or (kind == "origin" and at is None)
    ):
        raise NotStrict
    if ("issuer" in members and not is_name(issuer)) or ("at" in members and type(at) not in (int, float)):
        raise NotStrict
    return Entry(str(kind), str(value), None if issuer is None else str(issuer), _ALWAYS if not isinstance(at, (int, float)) else float(at))
