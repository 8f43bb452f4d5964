"""Readers: every format gives the same events, and nothing that is broken is fatal or silent."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.sources import Found, Seen, read
from guard.sources.lines import Lines
from guard.sources.spans import span_id

CASES = yaml.safe_load((Path(__file__).parent / "spans.yaml").read_text("utf-8"))
CORPORA = Path(os.environ.get("GUARDTRAIL_CORPORA") or Path(__file__).parents[3] / "shared" / "corpora")
TRACE, ROOT, CALL = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def span(name: str = "execute_tool", start: int = 2_000, ident: str = CALL, parent: str | None = ROOT, **attributes: Any) -> dict[str, Any]:
    context = {"trace_id": TRACE, "span_id": ident}
    return {"name": name, "context": context, "parent_id": parent, "start_time": start, "attributes": attributes, "status": {}}


def tool(name: str, start: int, ident: str, parent: str | None = ROOT, **args: Any) -> dict[str, Any]:
    return span(
        "execute_tool",
        start,
        ident,
        parent,
        **{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.args": json.dumps(args)},
    )


def seen_of(folder: Path, *values: Any, found: Found | None = None) -> list[Seen]:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return list(read([path], found=found))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_spans(case: dict[str, Any], tmp_path: Path) -> None:
    found = seen_of(tmp_path, span(case.get("span", "x"), **case["attributes"]))
    if case["call"] is None:
        assert found == []
    else:
        (one,) = found
        got = {name: list(value) if isinstance(value := getattr(one, name), tuple) else value for name in case["call"]}
        assert got == case["call"]


@pytest.mark.parametrize("case", [case for case in CASES if case["call"] and "nested" not in case["name"]], ids=lambda case: case["name"])
def test_the_same_as_otlp(case: dict[str, Any], tmp_path: Path) -> None:
    attributes = [
        {"key": k, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}} for k, v in case["attributes"].items()
    ]
    raw = {"traceId": TRACE, "spanId": CALL, "name": case.get("span", "x"), "startTimeUnixNano": "2000", "attributes": attributes}
    (one,) = seen_of(tmp_path, {"resourceSpans": [{"scopeSpans": [{"spans": [raw]}]}]})
    got = {name: list(value) if isinstance(value := getattr(one, name), tuple) else value for name in case["call"]}
    assert got == case["call"]


@pytest.mark.parametrize(
    ("given", "size", "wanted"),
    [
        (CALL, 8, CALL),
        ("0x" + CALL.upper(), 8, CALL),
        (int(CALL, 16), 8, CALL),
        (str(int(TRACE, 16)), 16, TRACE),
        (b64encode(bytes.fromhex(CALL)).decode(), 8, CALL),
        (b64encode(bytes.fromhex(TRACE)).decode().rstrip("="), 16, TRACE),
        ("", 8, ""),
        ("0" * 16, 8, ""),
        (None, 8, ""),
        ("run-7", 8, "run-7"),
    ],
)
def test_ids(given: object, size: int, wanted: str) -> None:
    assert span_id(given, size) == wanted


def test_order_is_by_start_and_not_as_written(tmp_path: Path) -> None:
    found = seen_of(tmp_path, tool("c", 30, "c" * 16), tool("a", 10, "a" * 16), tool("b", 20, "b" * 16))
    assert [(one.tool, one.step) for one in found] == [("a", 1), ("b", 2), ("c", 3)]


def test_a_call_counts_once(tmp_path: Path) -> None:
    outer, inner = tool("a", 10, "a" * 16, x=1), tool("a", 11, "b" * 16, parent="a" * 16, x=1)
    assert [one.args for one in seen_of(tmp_path, inner, outer, outer)] == [{"x": 1}]


def test_agents_and_conversation_come_from_above(tmp_path: Path) -> None:
    root = span("invoke_agent", 1, ROOT, None, **{"gen_ai.agent.name": "boss", "gen_ai.conversation.id": "talk"})
    inner = span("invoke_agent", 2, "d" * 16, ROOT, **{"gen_ai.agent.name": "mailer"})
    (one,) = seen_of(tmp_path, tool("a", 3, "a" * 16, parent="d" * 16), inner, root)
    assert (one.actors, one.task) == (("boss", "mailer"), ("", "", "talk"))


def test_a_missing_parent_or_a_circle_is_no_end(tmp_path: Path) -> None:
    found = seen_of(
        tmp_path, tool("a", 1, "a" * 16, parent="b" * 16), tool("b", 2, "b" * 16, parent="a" * 16), tool("c", 3, "c" * 16, parent="9" * 16)
    )
    assert [one.tool for one in found] == ["a", "b", "c"]


BROKEN = [
    "{",
    "[]",
    "null",
    '{"spans": 3}',
    '{"context": {}, "attributes": 7}',
    '{"context": 1, "attributes": {}, "start_time": "yesterday"}',
    "[" * 100_000,
]


def test_broken_lines_are_counted(tmp_path: Path) -> None:
    path, found = tmp_path / "t.jsonl", Found()
    good = [json.dumps(tool("a", 1, "a" * 16)), json.dumps(tool("b", 2, "b" * 16))]
    path.write_text("\n".join([good[0], *BROKEN, good[1], good[1][:40]]), "utf-8")
    assert [one.tool for one in read([path], found=found)] == ["a", "b"]
    assert found.broken[str(path)] == len(BROKEN)  # `[]` is a list of no spans, and the last line is cut


RECORD = {"v": 1, "kind": "decision", "id": "a", "at": 1, "tenant": "x", "task": "t", "issuer": "i", "step": 1, "tool": "p"}
RECORD |= {"verdict": "allow", "code": "permit", "findings": [{"judge": "token", "says": "permit", "code": "permit"}]}
FAULTS: list[dict[str, Any]] = [
    {"findings": [7]}, {"findings": 7}, {"findings": [{"judge": [], "says": "permit", "code": "x"}]}, {"judged": [1]}, {"judged": 1}, {"at": 1 << 70},
    {"at": "1"}, {"intent": ["q"]}, {"atoms": [1]}, {"step": None}, {"id": 3}, {"kind": "outcome"}, {"actors": 3}, {"order": "x"}, {"task": None},
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_record_that_is_none_is_counted(fault: dict[str, Any], tmp_path: Path) -> None:
    found = Found()
    (one,) = seen_of(tmp_path, RECORD, RECORD | fault, found=found)
    assert (one.trust, one.id, sum(found.broken.values())) == ("proven", "a", 1)


def test_an_overlong_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.sources.lines.LINE_MAX", 64)
    path, found = tmp_path / "t.jsonl", Found()
    path.write_text('{"a": 1}\n' + json.dumps("x" * 1000) + '\n{"b": 2}\n', "utf-8")
    assert [value for _, value in Lines(path, found, lambda _: None)] == [{"a": 1}, {"b": 2}]
    assert found.broken[str(path)] == 1


@pytest.mark.parametrize("text", ["", "\n\n", "no json\n", '{"other": 1}\n', "[1, 2]", "\x00\xff"])
def test_what_is_no_format_is_named(text: str, tmp_path: Path) -> None:
    path, found = tmp_path / "x.jsonl", Found()
    path.write_text(text, "utf-8")
    assert list(read([path, tmp_path / "nowhere"], found=found)) == []
    assert set(found.unreadable) == {str(path), str(tmp_path / "nowhere")}


def test_progress_comes_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(tool("a", 1, "a" * 16)) + "\n", "utf-8")
    list(read([path], progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(
    ("path", "calls"),
    [
        ("traces", 4),
        ("agentdojo/banking/pairs.jsonl", 489),
        ("agentdojo/workspace/user_tasks.jsonl", 84),
        ("tau2/airline_tasks.jsonl", 142),
    ],
)
def test_corpora(path: str, calls: int) -> None:
    if not CORPORA.is_dir():
        pytest.skip("the corpora are not here: GUARDTRAIL_CORPORA names their folder")
    found = Found()
    events = list(read([CORPORA / path], found=found))
    assert (len(events), sum(found.broken.values()), found.unreadable) == (calls, 0, {})
    assert all(one.tool and one.args is not None and one.status == "ok" for one in events)
    assert len({(one.task, one.id) for one in events}) == calls
