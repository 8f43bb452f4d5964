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
from heapq import merge
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
"""So many audit files are merged by time; more are read one after the other."""
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

    logs: list[Iterator[Seen]] = []
    rest: list[Iterator[Seen]] = []
    ends: Lines | None = None
    for file in files:
        lines = Lines(file, found, told)
        try:
            name, events = _reader(lines, found)
        except OSError as error:
            found.unreadable[str(file)] = (error.strerror or type(error).__name__).lower()
            continue
        found.files += 1
        found.formats[str(file)] = name
        (logs if name == "audit" else rest).append(_safe(events, str(file), found))
        ends = ends if name in ("audit", "unknown") else lines
    if ends is not None:
        ends.last = True  # a trace may go on in the next file: exporters rotate
    streams = [merge(*logs, key=lambda seen: seen.at)] if 1 < len(logs) <= _OPEN else logs
    for stream in (*streams, *rest):
        for seen in stream:
            found.events += 1
            yield seen


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
