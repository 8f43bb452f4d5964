"""What may look like something else is marked, and shown; nothing is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guard.constraints.confusables import marks_in, marks_of, shown

ROWS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "confusables.yaml").read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row["text"]))
def test_row(row: dict[str, Any]) -> None:
    for control, expected in ((True, row["control"]), (False, row["data"])):
        assert [f"{mark.at} {mark.kind}" for mark in marks_in(row["text"], control=control)] == expected


@given(st.text(), st.booleans())
def test_every_character_is_shown_or_numbered(text: str, control: bool) -> None:
    marks = marks_in(text, control=control)
    assert [mark.at for mark in marks] == sorted({mark.at for mark in marks}) and all(text[mark.at] == mark.char for mark in marks)
    made = shown(text, marks)
    for mark in reversed(marks):
        text = f"{text[: mark.at]}[U+{ord(mark.char):04X}]{text[mark.at + 1 :]}"
    assert made == text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_has_no_marks(text: str) -> None:
    assert marks_in(text) == []


def test_marks_of_arguments_know_where_they_are() -> None:
    args = {"to": ["a@x.example", "\u0430lice@x.example"], "note": {"\u0430": "\u00a0"}, "order": "\u00a0"}
    found = [(mark.path, mark.at, mark.kind) for mark in marks_of(args, ("to[]", "order"))]
    assert found == [("to[1]", 0, "mixed"), ("order", 0, "blank")]
    assert [mark.path for mark in marks_of({"p\u0430y": 1, "x": [True, None, 1.5]})] == ["p\u0430y (its name)"]
