"""Recorded runs of any kind as one stream of events (`Seen`). One reader per format, chosen by the first record.

| format   | first record                                        | reader                    |
|----------|-----------------------------------------------------|---------------------------|
| audit    | a record of ours (`kind`, `v`)                      | `audit.py`                |
| otlp     | `resourceSpans`                                     | `otlp.py`                 |
| spans    | a span as an object, a list of them, or `spans: []` | `objects.py`              |
| corpora  | `calls: [...]`, or a case of injected text          | `corpora.py`              |

Of a directory the audit files are read; where there are none, all its `*.jsonl` and `*.json`. What is no record is counted in `Found`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from heapq import heappop, heappush, heapreplace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from guard.sources.audit import is_audit, read_audit
from guard.sources.corpora import is_corpus, read_corpus
from guard.sources.documents import values_of
from guard.sources.lines import Lines
from guard.sources.objects import is_span, read_documents
from guard.sources.otlp import is_otlp, read_otlp
from guard.sources.seen import Found, Seen, Status

__all__ = ["Found", "Seen", "Status", "read"]

_WORD: Final = re.compile(r"[A-Za-z0-9_:.,\-]{1,128}")
_OPEN = 200
"""So many audit files are open at a time."""
_FEW = 100
"""So many values of a document are looked at."""


def read(paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None, found: Found | None = None) -> Iterator[Seen]:
    """The events of `paths`. `progress`: called with bytes read and bytes in all. `found`: what could not be read is counted there."""
    found = found if found is not None else Found()
    files = [file for path in paths for file in _files(path, found)]
    done, total = 0, sum(_size(file) for file in files)

    def told(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    logs: list[tuple[int, Iterator[Seen]]] = []
    rest: list[Iterator[Seen]] = []
    ends: Lines | None = None
    for file in files:
        lines = Lines(file, found, told)
        try:
            name, events = _reader(lines, found)
            began = _began(lines) if name == "audit" else 0
        except OSError as error:
            found.unreadable[str(file)] = (error.strerror or type(error).__name__).lower()
            continue
        found.files += 1
        found.formats[str(file)] = name
        if name == "audit":
            logs.append((began, _safe(events, str(file), found)))
        else:
            rest.append(_safe(events, str(file), found))
        ends = ends if name in ("audit", "unknown") else lines
    if ends is not None:
        ends.last = True  # a trace may go on in the next file: exporters rotate
    for stream in (_merged(logs) if len(logs) > 1 else logs[0][1] if logs else (), *rest):
        for seen in stream:
            found.events += 1
            yield seen


def _began(lines: Lines) -> int:
    """The time of the first record; 0 where it has none."""
    first = lines.first()
    at = first.get("at") if isinstance(first, dict) else None
    return at if type(at) is int else 0


def _merged(logs: list[tuple[int, Iterator[Seen]]]) -> Iterator[Seen]:
    """By time. A file is opened where its first record stands: of a log that was cut into many, few at a time."""
    closed = sorted(((began, number) for number, (began, _) in enumerate(logs)), reverse=True)
    heads: list[tuple[int, int, Seen]] = []
    while closed or heads:
        while closed and len(heads) < _OPEN and (not heads or closed[-1][0] <= heads[0][0]):
            _, number = closed.pop()
            first = next(logs[number][1], None)
            if first is not None:
                heappush(heads, (first.at, number, first))
        if heads:
            _, number, seen = heads[0]
            yield seen
            following = next(logs[number][1], None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following.at, number, following))


def _safe(events: Iterator[Seen], file: str, found: Found) -> Iterator[Seen]:
    """A file that stops being readable ends there. Ids are made words of the state: those of a foreign trace are anybody's text."""
    try:
        for seen in events:
            if seen.id and not _WORD.fullmatch(seen.id):
                seen.id = sha256(seen.id.encode("utf-8", "backslashreplace")).hexdigest()[:32]
            yield seen
    except OSError as error:
        found.unreadable[file] = (error.strerror or type(error).__name__).lower()


def _files(path: Path, found: Found) -> list[Path]:
    if path.is_dir():
        logs = sorted(path.glob("audit*.jsonl"))
        return logs or sorted((*path.glob("*.jsonl"), *path.glob("*.json")))
    if not path.exists():
        found.unreadable[str(path)] = "there is no such file"
        return []
    return [path]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _reader(lines: Lines, found: Found) -> tuple[str, Iterator[Seen]]:
    first = lines.first()
    if is_audit(first):
        return "audit", read_audit(lines)
    if is_otlp(first):
        return "otlp", read_otlp(lines, lines)
    if is_corpus(first):
        return "corpora", read_corpus(lines)
    if _spans(first):
        return "spans", read_documents(lines, lines)
    values, head = values_of(lines), list[tuple[int, Any]]()
    for number, value in values:
        head.append((number, value))
        if is_otlp(value):
            return "otlp", read_otlp(lines, chain(head, values))
        if _spans(value):
            return "spans", read_documents(lines, chain(head, values))
        if len(head) >= _FEW:
            break
    values.close()
    found.unreadable[lines.name] = "no format that can be read" if lines.path.stat().st_size else "it is empty"
    return "unknown", iter(())


def _spans(value: object) -> bool:
    if isinstance(value, dict) and isinstance(value.get("spans"), list):
        value = value["spans"]
    return is_span(value) or (isinstance(value, list) and any(is_span(one) for one in value))
