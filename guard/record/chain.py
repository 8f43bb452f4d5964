"""The form of a line, of its chain, and of the list of writers.

A line is the record as compact ASCII JSON with four members added at its end, in this order:

    {... the record ...,"writer":"3f9c01d2","seq":7,"prev":"<64 hex>","hash":"<64 hex>"}

`hash` is SHA-256 over the bytes of the line up to, and without, `,"hash"`. `prev` is the `hash` of the line before; of the first
line, SHA-256 over the writer's line in `writers.jsonl`. The bytes as they stand are what is hashed: nothing has to be parsed,
ordered or written again to check a line, and two spellings of one record are two records.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "LINE_MAX",
    "MAIN",
    "After",
    "Link",
    "Registered",
    "chained",
    "checkpoints_of",
    "continued",
    "encode",
    "last_line",
    "link",
    "own_hash",
    "register",
    "writers",
]

LINE_MAX = 1 << 24
"""No line is longer; a longer one was not written by us."""

MAIN = "audit.jsonl"
WRITERS = "writers.jsonl"

_TAIL = re.compile(rb',"writer":"([0-9a-f]{1,32})","seq":([1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}\n?\Z')
_TAIL_MAX = 256
_HASH = 75  # len(',"hash":"' + 64 + '"}')

_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False)


def _prebuilt() -> Callable[[Mapping[str, object]], str]:
    """The C encoder, made once: `JSONEncoder.encode` makes a new one for every record."""
    try:
        from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]

        make: Any = c_make_encoder
        inner = make(None, _JSON.default, encode_basestring_ascii, None, ":", ",", False, False, False)
        join = "".join
        if join(inner({"a": (1, None, True, "\u20ac\n")}, 0)) == '{"a":[1,null,true,"\\u20ac\\n"]}':
            return lambda fields: join(inner(fields, 0))
    except Exception:  # noqa: S110 - another interpreter: the slow way below is right everywhere
        pass
    return _JSON.encode


encode = _prebuilt()


class Link(NamedTuple):
    """The four members at the end of a line."""

    writer: str
    seq: int
    prev: str
    hash: str


def chained(body: str, writer: str, seq: int, prev: str) -> tuple[bytes, str]:
    """The whole line of a record whose JSON is `body`, and its hash."""
    head = f'{body[:-1]},"writer":"{writer}","seq":{seq},"prev":"{prev}"'.encode("ascii")
    digest = sha256(head).hexdigest()
    return head + f',"hash":"{digest}"}}\n'.encode("ascii"), digest


def link(line: bytes) -> Link | None:
    """How a line says it is chained, None where it does not. Says nothing about whether its hash is right: `own_hash`."""
    found = _TAIL.search(line, max(0, len(line) - _TAIL_MAX))
    if found is None:
        return None
    writer, seq, prev, digest = found.groups()
    return Link(writer.decode(), int(seq), prev.decode(), digest.decode())


def own_hash(line: bytes) -> str:
    """What the hash of a line must be."""
    return sha256(line.removesuffix(b"\n")[:-_HASH]).hexdigest()


def last_line(fd: int) -> tuple[bytes, int, int]:
    """(last line that has its end, where the good part of the file ends, size of the file); b"" where there is none."""
    size = os.fstat(fd).st_size
    step = 1 << 16
    while True:
        start = max(0, size - step)
        block = os.pread(fd, size - start, start)
        end = block.rfind(b"\n") + 1
        before = block.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if start == 0 or (end and before) or step > LINE_MAX:
            return block[before:end], start + end if end else 0, size
        step *= 4


After = tuple[str, int, str]


class Registered(NamedTuple):
    """One line of `writers.jsonl`. `genesis`: the `prev` of this writer's first line, its hash; so the chain goes on from `after`.

    `after`: (writer, number of its last record, hash of that) whose full file this one continues; None: it continues none.
    """

    writer: str
    file: str
    genesis: str
    after: After | None = None


def register(folder: Path, writer: str, file: str, at: int, after: After | None = None) -> Registered:
    """Add a writer to the list, durably, before its first line."""
    fields = {"v": 1, "kind": "writer", "writer": writer, "file": file, "at": at, "pid": os.getpid()}
    line = encode({**fields, "after": after} if after is not None else fields)
    fd = os.open(folder / WRITERS, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = ("\n" if torn else "").encode() + line.encode("ascii") + b"\n"
        if os.write(fd, data) != len(data):
            raise OSError("short write")
        os.fsync(fd)
    finally:
        os.close(fd)
    return Registered(writer, file, sha256(line.encode("ascii")).hexdigest(), after)


def writers(folder: Path) -> list[Registered]:
    """Everybody who ever wrote here, in the order of registration. A line that is not one is nobody's: its file counts as foreign."""
    found: list[Registered] = []
    try:
        lines = (folder / WRITERS).read_bytes().split(b"\n")
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
            writer, file = entry["writer"], entry["file"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(writer, str) and isinstance(file, str) and "/" not in file:
            found.append(Registered(writer, file, sha256(line).hexdigest(), _after(entry.get("after"))))
    return found


def _after(given: object) -> After | None:
    if (
        isinstance(given, list)
        and len(given) == 3
        and isinstance(given[1], int)
        and isinstance(given[0], str)
        and isinstance(given[2], str)
    ):
        return given[0], given[1], given[2]
    return None


def continued(known: Iterable[Registered]) -> dict[str, Registered]:
    """Writer -> who went on in another file when its own was full. Nobody writes such a file any more."""
    return {entry.after[0]: entry for entry in known if entry.after is not None}


def checkpoints_of(folder: Path, file: str, writer: str) -> Path:
    """The file of a writer's checkpoints."""
    return folder / ("checkpoints.jsonl" if file == MAIN else f"checkpoints-{writer}.jsonl")
