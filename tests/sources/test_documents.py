"""Values over several lines: the law is that of `json.loads`, whatever the pieces they are read in; and a table of what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.sources import Found, documents, read
from guard.sources.documents import values_of
from guard.sources.lines import Lines
from tests.sources.test_lines import VALUES, same
from tests.sources.test_sources import TRACE, seen_of, tool

OTHER = VALUES.filter(lambda value: not isinstance(value, list | dict))


def values(raw: bytes, *, chunk: int = 1 << 20) -> tuple[list[Any], int]:
    """What is read, and how much is counted as broken."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK", chunk)
        path, found = Path(folder) / "t", Found()
        path.write_bytes(raw)
        return [value for _, value in values_of(Lines(path, found, lambda _: None))], found.broken[str(path)]


@given(st.lists(VALUES, max_size=5), st.sampled_from((None, 1)), st.booleans(), st.integers(1, 40))
def test_the_items_of_a_list(items: list[Any], indent: int | None, escaped: bool, chunk: int) -> None:
    raw = json.dumps(items, indent=indent, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    got, broken = values(raw, chunk=chunk)
    assert same(got, items) and broken == 0


@given(st.lists(OTHER, max_size=5), st.integers(1, 9))
def test_values_one_after_the_other(items: list[Any], chunk: int) -> None:
    got, broken = values("\n".join(map(json.dumps, items)).encode(), chunk=chunk)
    assert same(got, items) and broken == 0


def request(*spans: int) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]} for span in spans]}


TABLE: list[tuple[str, list[Any], int]] = [
    ("", [], 0),
    (" \n\t", [], 0),
    ("[]", [], 0),
    ("{}", [{}], 0),
    ('{"a": [1, 2]}', [{"a": [1, 2]}], 0),
    ('{"a": 1, "spans": [1, 2], "b": 2}', [1, 2], 0),
    ('{"spans": 7}', [{"spans": 7}], 0),
    ('{"scopeSpans": [1]}', [{"scopeSpans": [1]}], 0),
    ('{"resourceSpans": []}', [], 0),
    ('{"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [1, 2]}, {}, 7]}, 8, {"scope_spans": [{"spans": [3]}]}]}',
     [request(1), request(2), request(3)], 0),
    ('{"resource_spans": [{"instrumentationLibrarySpans": [{"spans": [1]}]}]}', [request(1)], 0),
    ("[1, 2] [3]\n4 5", [1, 2, 3, 4, 5], 0),
    ("[1, 2", [1, 2], 1),
    ("[1, {\"a\": ", [1], 1),
    ("[1, {\"a\": \n[2, 3]", [1, 2, 3], 1),
    ("[1 2]\n3", [1, 3], 1),
    ('[1, "a\n2', [1, 2], 1),
    ("{\n[1]\n2", [2], 1),
    ("{1: 2}\n3", [3], 1),
    ("[1, ]\n2", [1, 2], 1),
    ("x\ny\n1", [1], 2),
    ("[" * 100_000 + "\n1", [1], 1),
    ("9" * 5000 + "\n1", [1], 1),
]  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(("text", "wanted", "broken"), TABLE, ids=range(len(TABLE)))
def test_what_is_read_and_what_is_counted(text: str, wanted: list[Any], broken: int, chunk: int) -> None:
    assert values(text.encode(), chunk=chunk if len(text) < 1000 else 1 << 20) == (wanted, broken)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_the_encodings_of_json(encoding: str) -> None:
    assert values('[1, "\u00e4\U0001f600"]'.encode(encoding), chunk=3) == ([1, "\u00e4\U0001f600"], 0)


def test_a_value_longer_than_a_line_may_be_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LINE_MAX", 100)
    assert values(json.dumps(["x" * 500]).encode() + b"\n[1]", chunk=10) == ([1], 1)


@pytest.mark.parametrize("raw", [b"[\n1,\n\xff", b'[1,\n"\xed\xa0"'])
def test_what_is_no_unicode_is_named(raw: bytes, tmp_path: Path) -> None:
    path, found = tmp_path / "t.json", Found()
    path.write_bytes(raw)
    assert list(read([path], found=found)) == []
    assert found.unreadable == {str(path): "it is no unicode text"}


def test_a_document_that_was_cut_gives_what_it_has(tmp_path: Path) -> None:
    """A list of spans that an exporter could not finish once was no format at all."""
    path, found = tmp_path / "t.json", Found()
    path.write_text(json.dumps([tool("a", 1, "a" * 16), tool("b", 2, "b" * 16), tool("c", 3, "c" * 16)], indent=1)[:-60], "utf-8")
    assert [one.tool for one in read([path], found=found)] == ["a", "b"]
    assert found.broken[str(path)] >= 1


def test_a_list_with_its_items_in_lines_of_their_own(tmp_path: Path) -> None:
    """The last line of such a list is JSON by itself, and once was all that was read."""
    path, found = tmp_path / "t.json", Found()
    path.write_text("[\n" + ",\n".join(json.dumps(tool(name, 1, name * 16)) for name in "abc") + "\n]\n", "utf-8")
    assert [one.tool for one in read([path], found=found)] == ["a", "b", "c"]
    assert not found.broken and not found.unreadable


def test_a_first_line_too_long_to_be_looked_at_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.sources.lines._FIRST", 64)
    lines = [[tool("a", 1, "a" * 16), tool("b", 2, "b" * 16)], {"spans": [tool("c", 3, "c" * 16)]}, tool("d", 4, "d" * 16)]
    assert [one.tool for one in seen_of(tmp_path, *lines)] == ["a", "b", "c", "d"]
    attributes = [{"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}}]
    raw = {"traceId": TRACE, "spanId": "a" * 16, "name": "execute_tool pay", "startTimeUnixNano": "2000", "attributes": attributes}
    one = {"resourceSpans": [{"scopeSpans": [{"spans": [raw]}]}]}
    assert [seen.tool for seen in seen_of(tmp_path, one, {"resourceSpans": []}, one)] == ["pay"]
