"""The calls of foreign traces in order, however many there are: sorted in a temporary database, not in memory.

| question                      | answer                                                                                                 |
|-------------------------------|--------------------------------------------------------------------------------------------------------|
| which trace comes first       | the one whose first call started first; else the one seen first                                        |
| which call of a trace         | by start, then by depth, then by id. Foreign order is an assumption: clocks differ                     |
| which step of its task        | as it says itself; else counted, also where the task goes on in another trace                            |
| a span seen twice             | counts once, as it was seen first                                                                      |
| a tool span right under one of the same tool | a framework and another layer traced one call: it counts once, as the outer span, with what only the inner ones say |
| spans that are each other's parents | nobody is outer: each counts. Attack: a call that is its own parent and so is nobody's                   |

The database belongs to this process, has no name in the file system, and is gone with the reader. SQLite holds the first 64 MiB of it in memory and writes
what is more to a file of its own (`SQLITE_TMPDIR`, `TMPDIR`, else `/var/tmp`), arguments and results of the calls among it, as in the trace.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Self

from guard.sources.lines import Lines, value_of
from guard.sources.seen import Seen
from guard.sources.spans import DEPTH, Span, agent_of, seen_of, task_of, tool_of

__all__ = ["Traces"]

_SETTINGS: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; PRAGMA cache_size = -65536;
CREATE TABLE traces (t INTEGER PRIMARY KEY, name BLOB UNIQUE);
CREATE TABLE spans (
  n INTEGER PRIMARY KEY, t INTEGER, id BLOB, parent BLOB, start INTEGER, tool BLOB, agent BLOB, task BLOB, failed INTEGER, line INTEGER,
  UNIQUE (t, id)
);
CREATE TABLE said (n INTEGER PRIMARY KEY, attributes TEXT);
BEGIN
"""
_ADD: Final = "INSERT OR IGNORE INTO spans VALUES (?,?,?,?,?,?,?,?,?,?)"
_SAY: Final = "INSERT INTO said VALUES (?,?)"
# `CROSS JOIN` is SQLite's word for "in this order": every span looks its parent up.
_SORT: Final = """
CREATE TABLE inside AS SELECT c.n AS n, p.n AS outer FROM spans c CROSS JOIN spans p ON p.t = c.t AND p.id = c.parent
  WHERE c.tool IS NOT NULL AND p.tool = c.tool;
CREATE UNIQUE INDEX inside_n ON inside (n);
CREATE INDEX inside_outer ON inside (outer);
CREATE TABLE hangs AS WITH RECURSIVE hang (n) AS (
  SELECT n FROM inside WHERE outer NOT IN (SELECT n FROM inside)
  UNION ALL SELECT inside.n FROM hang JOIN inside ON inside.outer = hang.n) SELECT n FROM hang;
DELETE FROM inside WHERE n NOT IN (SELECT n FROM hangs);
CREATE TABLE places AS SELECT n, place FROM
  (SELECT n, id, row_number() OVER (PARTITION BY t ORDER BY n) - 1 AS place FROM spans WHERE t IN (SELECT t FROM spans WHERE id IS NULL))
  WHERE id IS NULL;
CREATE UNIQUE INDEX places_n ON places (n);
CREATE TABLE turns (t INTEGER PRIMARY KEY, turn INTEGER);
INSERT INTO turns SELECT t, row_number() OVER (ORDER BY min(start), t) FROM spans NOT INDEXED WHERE tool IS NOT NULL GROUP BY t;
CREATE TABLE ends (turn INTEGER, name BLOB);
INSERT INTO ends SELECT max(turn), name FROM
  (SELECT task AS name, t FROM spans WHERE task IS NOT NULL UNION ALL SELECT name, t FROM traces) JOIN turns USING (t) GROUP BY name;
CREATE INDEX ends_turn ON ends (turn)
"""
# A task may go on in another trace: it is over with the last one that names it, or is called like it.
_OVER: Final = "SELECT name FROM turns CROSS JOIN ends ON ends.turn = turns.turn WHERE turns.t = ? LIMIT 1000"
_ORDER: Final = """
SELECT spans.t, spans.start, spans.n FROM spans CROSS JOIN turns ON turns.t = spans.t
  WHERE spans.tool IS NOT NULL AND spans.n NOT IN (SELECT n FROM inside) ORDER BY turns.turn, spans.start, spans.n
"""
_ONE: Final = """
SELECT traces.name, id, parent, start, tool, agent, task, failed, line, attributes, place
  FROM spans JOIN traces USING (t) JOIN said USING (n) LEFT JOIN places USING (n) WHERE n = ?
"""
_INSIDE: Final = "SELECT n, attributes FROM inside JOIN spans USING (n) JOIN said USING (n) WHERE outer = ? ORDER BY start DESC, n DESC"
_PLACE: Final = "SELECT t, parent, id, place FROM spans LEFT JOIN places USING (n) WHERE n = ?"
_ABOVE: Final = "SELECT parent, agent, task FROM spans WHERE t = ? AND id = ?"
_AT_ONCE = 1000
_BYTES = 1 << 20
_FAR: Final = (1 << 63) - 1
_REMEMBERED = 1 << 15
"""Spans whose parents are looked up once."""


class Traces:
    """Takes spans in any order (`add`), gives the calls among them in theirs (`calls`). One file, one use, in a `with`.

    Raises OSError where the temporary file does not take them.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._rows: list[tuple[object, ...]] = []
        self._texts: list[tuple[int, str]] = []
        self._added = self._bytes = 0
        # Generators end wherever the last reference goes, which may be another thread.
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._trace = lru_cache(_REMEMBERED)(self._number)
        self._above = lru_cache(_REMEMBERED)(self._looked_up)

    def __enter__(self) -> Self:
        self._script(_SETTINGS)
        self._lines.halve()
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def add(self, span: Span) -> None:
        """Raises ValueError, RecursionError for attributes that cannot be written down."""
        tool = tool_of(span)
        if tool:
            text = json.dumps(span.attributes)
            self._texts.append((self._added, text))
            self._bytes += len(text)
        start = max(-_FAR, min(_FAR, span.start))  # no clock says more; a call is not lost for it
        self._rows.append((
            self._added, self._trace(span.trace), _bytes(span.id), _bytes(span.parent), start, _bytes(tool), _bytes(agent_of(span)),
            _bytes(task_of(span)), span.failed, span.line,
        ))  # fmt: skip
        self._added += 1
        if len(self._rows) >= _AT_ONCE or self._bytes >= _BYTES:
            self._write()

    def calls(self) -> Iterator[Seen]:
        """All of them, once every span was added. The last call of a trace says which tasks are over, if nothing else is read after this file."""
        self._write()
        self._script(_SORT)
        total = self._rows_of("SELECT count(*) FROM spans WHERE tool IS NOT NULL AND n NOT IN (SELECT n FROM inside)")[0][0]
        given = 0
        steps: dict[str, Counter[str]] = {}  # by task and issuer
        for t, rows in groupby(self._each(_ORDER), itemgetter(0)):
            before: Seen | None = None
            for seen in self._of_trace(t, rows):
                if before is not None:
                    yield before
                _, issuer, task = seen.task
                counted = steps.setdefault(task, Counter())
                counted[issuer] += 1
                seen.step = seen.step or counted[issuer]
                before = seen
                given += 1
                if not given % _AT_ONCE:
                    self._lines.given(given, total)
            over = [_text(name) for (name,) in self._rows_of(_OVER, t)]
            for task in over:
                steps.pop(task, None)
            if before is not None:
                before.over = tuple(over) if self._lines.last else ()
                yield before
        self._lines.given(1, 1)

    def _of_trace(self, t: int, rows: Iterable[tuple[int, int, int]]) -> Iterator[Seen]:
        merged = bool(self._rows_of("SELECT 1 FROM inside LIMIT 1"))
        for _, group in groupby(rows, itemgetter(1)):
            for n in self._by_depth([n for _, _, n in group]):
                try:
                    yield self._call(n, t, merged=merged)
                except (TypeError, ValueError, RecursionError):  # nobody knows what a span may hold; one that says nothing is no end
                    self._lines.broken()

    # -- one call ------------------------------------------------------------------------------------------------------------------

    def _by_depth(self, group: list[int]) -> list[int]:
        """Those of one trace that started together."""
        return group if len(group) == 1 else sorted(group, key=self._depth)

    def _depth(self, n: int) -> tuple[int, str]:
        """How many spans stand above it, itself among them; its key."""
        ((t, parent, key, place),) = self._rows_of(_PLACE, n)
        depth = 1
        while depth < DEPTH and parent is not None and (above := self._above(t, parent)) is not None:
            parent, depth = above[0], depth + 1
        return depth, f"#{place}" if key is None else _text(key)

    def _call(self, n: int, t: int, *, merged: bool) -> Seen:
        ((name, ident, parent, start, tool, agent, task, failed, line, attributes, place),) = self._rows_of(_ONE, n)
        agents = [agent] if agent is not None else []
        for _ in range(DEPTH - 1):
            above = self._above(t, parent) if parent is not None else None
            if above is None:
                break
            parent, agent, own = above
            if agent is not None and (not agents or agents[-1] != agent):
                agents.append(agent)
            task = own if task is None else task
        found: dict[str, Any] = value_of(attributes)
        if merged:
            self._merge(n, found)
        span = Span(_text(name), _text(ident), "", "", start, found, bool(failed), line)
        return seen_of(
            span, _text(tool), key=span.id or f"#{place}", task=_text(task), actors=[_text(one) for one in reversed(agents)],
            file=self._lines.name,
        )  # fmt: skip

    def _merge(self, n: int, found: dict[str, Any]) -> None:
        """What only the spans inside say. The inner one may be the guard's, which knows what was decided."""
        waiting = self._rows_of(_INSIDE, n)
        while waiting:
            inner, attributes = waiting.pop()
            for name, value in value_of(attributes).items():
                found.setdefault(name, value)
            waiting += self._rows_of(_INSIDE, inner)

    # -- the database --------------------------------------------------------------------------------------------------------------

    def _looked_up(self, t: int, ident: bytes) -> tuple[bytes | None, bytes | None, bytes | None] | None:
        """Parent, agent and task of a span; None where the trace does not hold it."""
        rows = self._rows_of(_ABOVE, t, ident)
        return rows[0] if rows else None

    def _number(self, name: str) -> int:
        key = name.encode("utf-8", "surrogatepass")
        self._rows_of("INSERT OR IGNORE INTO traces (name) VALUES (?)", key)
        return int(self._rows_of("SELECT t FROM traces WHERE name = ?", key)[0][0])

    def _write(self) -> None:
        rows, texts, self._rows, self._texts, self._bytes = self._rows, self._texts, [], [], 0
        try:
            self._base.executemany(_ADD, rows)
            self._base.executemany(_SAY, texts)
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def _script(self, text: str) -> None:
        for statement in text.split(";"):
            self._rows_of(statement)

    def _rows_of(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._base.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _unusable(error) from None

    def _each(self, statement: str) -> Iterator[Any]:
        try:
            for row in self._base.execute(statement):  # noqa: UP028 - `yield from` closes the cursor, which then may outlive the database
                yield row
        except sqlite3.Error as error:
            raise _unusable(error) from None


def _unusable(error: sqlite3.Error) -> OSError:
    return OSError(0, f"it cannot be sorted: the temporary file fails ({error})")


def _bytes(text: str) -> bytes | None:
    """Anybody's text: also what is no Unicode."""
    return text.encode("utf-8", "surrogatepass") if text else None


def _text(raw: bytes | None) -> str:
    return raw.decode("utf-8", "surrogatepass") if raw is not None else ""
