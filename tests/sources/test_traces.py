"""The law of foreign order: whatever the spans and however they are written, the calls are those of `naive.py`. And what that may cost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.sources import Found, Seen, _safe, documents, read, traces
from guard.sources.lines import Lines
from guard.sources.objects import of_object
from guard.sources.spans import Span
from guard.sources.traces import Traces
from tests.sources.naive import calls_of
from tests.sources.test_sources import seen_of, tool

IDS = [f"{n:016x}" for n in range(1, 9)]
ROOT = Path(__file__).resolve().parents[2]


def made(trace: int, ident: str | None, parent: str | None, start: int, kind: str, more: dict[str, Any]) -> dict[str, Any]:
    """A span as an object. `kind`: its tool, or "" for one that is none."""
    attributes: dict[str, Any] = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": kind} if kind else {}
    context = {"trace_id": f"{trace:032x}" if trace else "", "span_id": ident}
    return {"name": "x", "context": context, "parent_id": parent, "start_time": start, "attributes": attributes | more, "status": {}}


MORE = st.fixed_dictionaries(
    {},
    optional={
        "gen_ai.agent.name": st.sampled_from(("boss", "mailer", "\ud800")),
        "session.id": st.sampled_from(("talk", "walk", "")),
        "gen_ai.tool.args": st.sampled_from(('{"a": 1}', '{"b": [1.5, "\\ud800"]}', "{", 7)),
        "gen_ai.tool.call.result": st.sampled_from(("null", "text", '{"a": 1e400}', 1.5, None, [{"x": float("inf")}])),
        "guardtrail.decision": st.sampled_from(("allow", "deny")),
        "guardtrail.step": st.integers(0, 3),
        "error.type": st.just("ValueError"),
    },
)
SPANS = st.lists(
    st.builds(
        made,
        st.integers(0, 3),
        st.none() | st.sampled_from(IDS),
        st.none() | st.sampled_from(IDS),
        st.integers(0, 4) | st.integers(-(1 << 62), 1 << 62),
        st.sampled_from(("", "pay", "pay", "look")),
        MORE,
    ),
    max_size=24,
)


def as_lines(spans: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(span) + "\n" for span in spans)


def as_items(spans: list[dict[str, Any]]) -> str:
    return "[" + ",\n".join(json.dumps(span) for span in spans) + "\n]\n"


def as_document(spans: list[dict[str, Any]]) -> str:
    return json.dumps({"version": 1, "spans": spans, "more": [1]}, indent=1, ensure_ascii=False)


def agree(text: str, spans: list[dict[str, Any]], folder: Path, *, line: bool) -> None:
    path, found = folder / "t.json", Found()
    path.write_text(text, "utf-8", "surrogatepass")
    wanted = calls_of([of_object(span, at if line else 1) for at, span in enumerate(spans, 1)], str(path))
    got = [replace(one, over=()) for one in read([path], found=found)]
    assert (got, found.broken) == (list(_safe(iter(wanted), "", found)), {})


@pytest.mark.parametrize("write", [as_lines, as_items, as_document])
@given(spans=SPANS)
def test_the_calls_of_the_plain_way(write: Any, spans: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        agree(write(spans), spans, Path(folder), line=write is as_lines)


@given(spans=SPANS, more=st.booleans())
def test_a_task_is_over_with_its_last_call_and_not_before(spans: list[dict[str, Any]], more: bool) -> None:
    """Unless another file follows, which may go on with it."""
    for span in spans:
        if span["attributes"].get("session.id") == "walk":
            span["attributes"]["session.id"] = f"{1:032x}"  # the name of a trace
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a", "b")]
        paths[0].write_text(as_lines(spans), "utf-8")
        paths[1].write_text(as_lines([tool("x", 1, "f" * 16)]), "utf-8")
        over: set[str] = set()
        given = list(read(paths if more else paths[:1]))
    for one in given:
        assert one.task[2] not in over
        assert not one.over or not more or one.tool == "x"
        over |= set(one.over)
    assert over >= {one.task[2] for one in given if not more}


@pytest.mark.parametrize("seed", range(6))
def test_many_spans_in_a_small_room(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where nothing fits: batches of seven, three parents remembered, pages that go to the disk."""
    monkeypatch.setattr(traces, "_AT_ONCE", 7)
    monkeypatch.setattr(traces, "_REMEMBERED", 3)
    monkeypatch.setattr(documents, "_CHUNK", 100)
    monkeypatch.setattr(
        "guard.sources.traces._SETTINGS", __import__("guard.sources.traces").sources.traces._SETTINGS.replace("-65536", "2")
    )
    r = Random(seed)
    ids = [f"{n:016x}" for n in range(1, 1500)]
    spans = [
        made(r.choice((1, 1, 1, 2, 3)), r.choice(ids) if r.random() < 0.98 else None, r.choice(ids[: r.choice((5, 1500))]), r.randrange(400),
             r.choice(("", "pay", "look", "send")), {"gen_ai.agent.name": r.choice("abc")} if r.random() < 0.3 else {})
        for _ in range(2000)
    ]  # fmt: skip
    agree((as_lines, as_items)[seed % 2](spans), spans, tmp_path, line=seed % 2 == 0)


def shown(calls: list[Seen]) -> list[tuple[str, object]]:
    return [(one.tool, one.args) for one in calls]


def test_a_call_hides_nothing_by_its_parents(tmp_path: Path) -> None:
    """Each once was taken for the inner trace of another, and so none was a call."""
    a, b, c = "a" * 16, "b" * 16, "c" * 16
    own = tool("pay", 1, a, parent=a, n=1)
    circle = [tool("send", 2, b, parent=c, n=2), tool("send", 3, c, parent=b, n=3), tool("send", 4, "d" * 16, parent=b, n=4)]
    assert shown(seen_of(tmp_path, own, *circle)) == [("pay", {"n": 1}), ("send", {"n": 2}), ("send", {"n": 3}), ("send", {"n": 4})]


def test_a_call_traced_by_three_layers_counts_once_with_what_each_says(tmp_path: Path) -> None:
    outer, middle, inner = (
        tool("pay", n, one, parent=above) for n, one, above in ((1, "a" * 16, None), (2, "b" * 16, "a" * 16), (3, "c" * 16, "b" * 16))
    )
    for span in (outer, middle):
        del span["attributes"]["gen_ai.tool.args"]
    inner["attributes"] |= {"gen_ai.tool.args": '{"n": 1}', "guardtrail.decision": "deny", "guardtrail.code": "limit.calls"}
    middle["attributes"]["guardtrail.code"] = "rule.limit"
    (one,) = seen_of(tmp_path, inner, outer, middle)
    assert (one.args, one.verdict, one.code, one.status, one.span) == ({"n": 1}, "deny", "rule.limit", "not_executed", "a" * 16)


def test_of_two_layers_inside_the_one_that_started_first_is_heard(tmp_path: Path) -> None:
    outer, late, first = (
        tool("pay", n, one * 16, parent=above) for n, one, above in ((1, "a", None), (3, "b", "a" * 16), (2, "c", "a" * 16))
    )
    for code, span in (("late", late), ("first", first)):
        span["attributes"] |= {"guardtrail.code": code, f"gen_ai.tool.args.{code}": 1}
    (one,) = seen_of(tmp_path, late, first, outer)
    assert (one.code, one.args) == ("first", {})


def test_a_time_no_clock_has_is_a_call_all_the_same(tmp_path: Path) -> None:
    found = seen_of(tmp_path, tool("c", 1 << 80, "c" * 16), tool("b", 5, "b" * 16), tool("a", -(1 << 80), "a" * 16))
    assert [one.tool for one in found] == ["a", "b", "c"]


def test_attributes_that_cannot_be_written_down_are_counted(tmp_path: Path) -> None:
    path, found = tmp_path / "t.jsonl", Found()
    deep = as_lines([tool("a", 1, "a" * 16)]).replace('"gen_ai.tool.args": "{}"', '"x": ' + "[" * 900 + "]" * 900)
    path.write_text(as_lines([tool("b", 1, "b" * 16)]) + deep, "utf-8")
    calls = list(read([path], found=found))
    assert len(calls) + sum(found.broken.values()) == 2


@pytest.mark.parametrize("write", [as_lines, as_items])
def test_progress_goes_on_while_the_calls_are_given(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a file is done when it was read; and never more than there is."""
    monkeypatch.setattr(traces, "_AT_ONCE", 10)
    path, told = tmp_path / "t.jsonl", list[int]()
    path.write_text(write([tool("a", n, f"{n:016x}") for n in range(1, 101)]), "utf-8")
    whole, before = path.stat().st_size, list[int]()
    for number, _ in zip(count(1), read([path], progress=lambda done, total: told.append(done)), strict=False):
        before += [told[-1]] if number in (1, 60) else []
    assert told == sorted(told) and told[-1] == whole
    assert whole * 0.45 < before[0] < whole * 0.55 < before[1] < whole


def test_a_temporary_file_that_takes_no_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_SETTINGS", traces._SETTINGS + "; PRAGMA max_page_count = 20")
    path, found = tmp_path / "t.jsonl", Found()
    path.write_text(as_lines([tool("a", n, f"{n:016x}", text="x" * 200) for n in range(1, 2000)]), "utf-8")
    assert list(read([path], found=found)) == []
    assert "temporary file" in found.unreadable[str(path)] and "full" in found.unreadable[str(path)]


@pytest.mark.parametrize("asked", [traces._ONE, traces._INSIDE, traces._OVER, traces._ABOVE, traces._PLACE])
def test_what_is_asked_for_every_call_is_looked_up_and_not_searched_for(asked: str) -> None:
    """A quarter of a million traces once took the square of that: an index on a column without a type is not used."""
    with sqlite3.connect("") as base:
        for statement in f"{traces._SETTINGS};{traces._SORT}".split(";"):
            base.execute(statement)
        plan = [row[3] for row in base.execute(f"EXPLAIN QUERY PLAN {asked}", (1,) * asked.count("?"))]
    base.close()
    assert plan and not [step for step in plan if step.startswith("SCAN")]


def test_nothing_is_left_behind_where_nobody_reads_to_the_end(tmp_path: Path) -> None:
    with Traces(Lines(tmp_path / "x", Found(), lambda _: None)) as room:
        room.add(Span("t", "a", "", "execute_tool a", 1, {"gen_ai.operation.name": "execute_tool"}, False))
        calls = room.calls()
        assert next(calls).tool == "a"
    with pytest.raises(Exception, match="closed"):
        list(room.calls())


PEAK = """
import re, sys
from pathlib import Path
from guard.sources import read
for path in sys.argv[1:]:
    assert sum(1 for _ in read([Path(path)])) == 40_000
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    """Forty thousand calls of two kilobytes, 90 MB: as lines, and as one list. Read whole they took 165 MiB and 338."""
    spans = [tool("a", n, f"{n:016x}", text="x" * 2000) for n in range(1, 40_001)]
    paths = [tmp_path / "lines.jsonl", tmp_path / "list.json"]
    for path, write in zip(paths, (as_lines, as_items), strict=True):
        path.write_text(write(spans), "utf-8")
    said = subprocess.run([sys.executable, "-c", PEAK, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(said.stdout) / 1024 < 140
