"""Checkpoints: signed statements of how far a writer had come, and how far the others had. Kept apart from the log they are about.

    {"v":1,"kind":"checkpoint","writer":"3f9c01d2","n":2,"at":...,"seq":13,"head":"<hash of line 13>","closed":true,
     "heads":{"81aa...":[1,40,"<hash>"]},"prev":"<SHA-256 of this writer's checkpoint before>","sig":"<128 hex>"}

`sig`: Ed25519 over the bytes of the line up to, and without, `,"sig"`, under `keys/audit.key`; `keys/audit.pub` checks it. `heads`
are the last checkpoints of the other writers: [n, seq, head]. A checkpoint is written only once the lines it counts are on the
disk, so it never speaks of records that a power failure took. The last one of a file that is full says also who goes on, and where:
`"next":["81aa...","audit-81aa....jsonl"]`. Attack: the newest file is taken away with everything about it, and the one before looks closed.

Whoever can read `keys/audit.key` can write another history, checkpoints included. A public key or a checkpoint kept on another
machine finds that too: `verify_log(path, key=..., witness=...)`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, NamedTuple

from guard.frozen import frozen
from guard.record.chain import Registered, checkpoints_of, continued, encode, last_line, link, own_hash, writers
from guard.record.files import keep

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from guard.record.claim import Claim

__all__ = ["Checkpoint", "Owed", "Signer", "heads_of_others", "owed", "parse_checkpoint", "public_key"]

_SIG = 138  # len(',"sig":"' + 128 + '"}')
_SIGNED = re.compile(rb',"sig":"[0-9a-f]{128}"\}\n?\Z')


@frozen
class Checkpoint:
    """One checkpoint as read. `hash`: SHA-256 of its whole line, what the next one calls `prev`."""

    writer: str
    n: int
    at: int
    seq: int
    head: str
    closed: bool
    heads: Mapping[str, tuple[int, int, str]]
    prev: str
    hash: str
    signed: bytes
    signature: bytes
    next: tuple[str, str] | None = None


def parse_checkpoint(line: bytes) -> Checkpoint | None:
    """The checkpoint a line holds, None where it holds none. Whether its signature is right is the reader's question."""
    line = line.removesuffix(b"\n")
    if _SIGNED.search(line) is None:
        return None
    try:
        entry = json.loads(line)
        heads = {str(w): (int(n), int(seq), str(head)) for w, (n, seq, head) in entry["heads"].items()}
        return Checkpoint(
            str(entry["writer"]),
            int(entry["n"]),
            int(entry["at"]),
            int(entry["seq"]),
            str(entry["head"]),
            entry["closed"] is True,
            heads,
            str(entry["prev"]),
            sha256(line).hexdigest(),
            line[: -len(',"sig":"') - 128 - len('"}')],
            bytes.fromhex(entry["sig"]),
            (str(entry["next"][0]), str(entry["next"][1])) if entry.get("next") else None,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def last_checkpoint(path: Path) -> Checkpoint | None:
    """The last whole one of a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return parse_checkpoint(last_line(fd)[0])
    finally:
        os.close(fd)


def heads_of_others(folder: Path, writer: str) -> dict[str, tuple[int, int, str]]:
    """How far everybody else says to have come. Of a file that is full, the one that goes on from it speaks: it is chained to its end."""
    found: dict[str, tuple[int, int, str]] = {}
    everybody = writers(folder)
    full = continued(everybody)
    for other in everybody:
        if other.writer == writer or other.writer in full:
            continue
        last = last_checkpoint(checkpoints_of(folder, other.file, other.writer))
        if last is not None and last.writer == other.writer:
            found[other.writer] = (last.n, last.seq, last.head)
    return found


def public_key(folder: Path) -> bytes | None:
    """The key that checks this directory's checkpoints, None where it is not there or not one."""
    try:
        key = bytes.fromhex((folder / "keys" / "audit.pub").read_text("ascii").strip())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return key if len(key) == 32 else None


class Owed(NamedTuple):
    """A last checkpoint that a full file still lacks: its writer was killed, or its checkpoints could not be written."""

    folder: Path
    full: Registered
    seq: int
    head: str
    next: tuple[str, str]

    def pay(self) -> None:
        """Raises OSError. A file that does not end where the next one begins is left as it is: `verify_log` says of what it is evidence."""
        fd = os.open(self.folder / self.full.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            line = last_line(fd)[0]
            end = link(line)
            if end is None or (end.seq, end.hash) != (self.seq, self.head) or own_hash(line) != self.head:
                return
            os.fsync(fd)
        finally:
            os.close(fd)
        signer = Signer(self.folder, self.full.file, self.full.writer)
        signer.write(self.seq, self.head, time_ns() // 1000, closed=True, next=self.next)


def owed(folder: Path, mine: Claim) -> list[Owed]:
    """What the files before `mine` lack, the oldest first: of several writers in a row each may have been killed before it could write it."""
    known = {each.writer: each for each in writers(folder)}
    found: list[Owed] = []
    after, heir = mine.after, (mine.writer, mine.file)
    while after is not None and (full := known.pop(after[0], None)) is not None and (folder / full.file).is_file():
        last = last_checkpoint(checkpoints_of(folder, full.file, full.writer))
        if last is not None and last.next is not None:
            break  # and whoever wrote that wrote the ones before it first
        found.insert(0, Owed(folder, full, after[1], after[2], heir))
        after, heir = full.after, (full.writer, full.file)
    return found


class Signer:
    """Signs and writes the checkpoints of one writer. One thread at a time."""

    def __init__(self, folder: Path, file: str, writer: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        raw = keep(folder / "keys" / "audit.key", lambda: os.urandom(32))
        self._key: Ed25519PrivateKey = Ed25519PrivateKey.from_private_bytes(raw)
        keep(folder / "keys" / "audit.pub", lambda: self._key.public_key().public_bytes_raw().hex().encode() + b"\n")
        self._folder = folder
        self._path = checkpoints_of(folder, file, writer)
        self._writer = writer
        last = last_checkpoint(self._path)
        self.n, self._prev = (last.n, last.hash) if last is not None else (0, "0" * 64)
        self.seq = last.seq if last is not None else 0

    def write(self, seq: int, head: str, at: int, *, closed: bool, next: tuple[str, str] | None = None) -> None:
        """Raises OSError; then nothing of it stands in the file."""
        fields: dict[str, object] = {
            "v": 1,
            "kind": "checkpoint",
            "writer": self._writer,
            "n": self.n + 1,
            "at": at,
            "seq": seq,
            "head": head,
            "closed": closed,
            "heads": heads_of_others(self._folder, self._writer),
            "prev": self._prev,
        }
        if next is not None:
            fields["next"] = next
        signed = encode(fields)[:-1].encode("ascii")
        line = b'%b,"sig":"%b"}' % (signed, self._key.sign(signed).hex().encode())
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _, good, size = last_line(fd)
            if good != size:
                os.ftruncate(fd, good)  # a checkpoint that was being written when the power went: it was never complete
            try:
                if os.write(fd, line + b"\n") != len(line) + 1:
                    raise OSError("short write")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, good)
                raise
        finally:
            os.close(fd)
        self.n, self.seq, self._prev = self.n + 1, seq, sha256(line).hexdigest()
