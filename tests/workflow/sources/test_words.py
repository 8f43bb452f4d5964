"""What stands in a text, what a value is compared as, what a prompt asks for."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.model import Finding
from guard.ops import Applied, Lookup
from guard.policy.data import Asked, Tool
from guard.state import MemoryState
from guard.workflow.asked import AskedState, asked_key, asked_of, judge
from guard.workflow.called import named_ids
from guard.workflow.entities import KINDS, entities
from guard.workflow.forms import forms, leaf_forms, one_form
from guard.workflow.grams import grams
from tests.workflow.sources.desk import NOW, table

ENTITIES, GRAMS, ASKED = table("entities.yaml"), table("grams.yaml"), table("asked.yaml")


@pytest.mark.parametrize("row", ENTITIES, ids=[row["text"][:40] for row in ENTITIES])
def test_entities(row: dict[str, Any]) -> None:
    found = entities(row["text"])
    for kind in set(row) - {"text"}:
        assert sorted({one.value for one in found if one.kind == kind}) == sorted(set(row[kind])), kind


@pytest.mark.parametrize("row", GRAMS, ids=[row["text"][:40] for row in GRAMS])
def test_grams(row: dict[str, Any]) -> None:
    found = grams(row["text"])
    assert set(row["has"]) <= set(found)
    assert not set(row.get("not", ())) & set(found)


@pytest.mark.parametrize("row", ASKED, ids=[row["text"][:40] for row in ASKED])
def test_asked(row: dict[str, Any]) -> None:
    state = asked_of(row["text"], row.get("words"))
    flags = {"delegated", "refers", "several"}
    for word in set(row) - {"text", "words"} - flags:
        assert (word in state.classes) == row[word], (word, state)
    for flag in flags & set(row):
        assert getattr(state, flag) == row[flag], (flag, state)
    store = MemoryState()
    store.apply([*state.ops("t"), *state.ops("t")], now=NOW)
    answer = store.apply([Lookup(asked_key("t"))], now=NOW)
    assert isinstance(answer, Applied)
    assert AskedState.read(answer.values[0]) == state


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delete the file with ID '13' now", ["13"]),
        ("ids 4, 5 and 6 or 7; the rest stays", ["4", "5", "6", "7"]),
        ("id_: '12'\nsize: 7", ["12"]),
        ("transaction no. 7, file #9", ["7", "9"]),
        ("Number 5 is alive", ["5"]),
        ("13 files of 2 people, at 10:00", []),
        ("the idea 13, a kid 4, valid 5", []),
        ("id of the file, no 7up", []),
        ("", []),
    ],
)
def test_ids_that_a_text_calls_ids(text: str, expected: list[str]) -> None:
    assert sorted(named_ids(text)) == sorted(expected)


def _tool(*effects: str) -> Tool:
    return Tool("t", effects, {}, frozenset(), True)


@pytest.mark.parametrize(
    ("effects", "state", "expected"),
    [
        (("read",), AskedState(), None),
        (("pay",), AskedState(frozenset({"pay"})), "permit permit"),
        (("pay",), AskedState(), "forbid asked.not_asked"),
        (("pay",), None, "forbid asked.not_asked"),
        (("send",), AskedState(), "ask asked.not_asked"),
        (("pay",), AskedState(delegated=True), "ask asked.delegated"),
        (("send",), AskedState(delegated=True), "ask asked.not_asked"),
        (("pay", "send"), AskedState(frozenset({"pay"})), "ask asked.not_asked"),
        (("read", "pay"), AskedState(frozenset({"pay"})), "permit permit"),
    ],
)
def test_asked_judge(effects: tuple[str, ...], state: AskedState | None, expected: str | None) -> None:
    finding: Finding | None = judge(_tool(*effects), Asked({"pay": "deny", "send": "ask"}, "ask"), state)
    assert (f"{finding.says} {finding.code}" if finding else None) == expected


def test_asked_without_delegated_stays_a_deny() -> None:
    finding = judge(_tool("pay"), Asked({"pay": "deny"}), AskedState(delegated=True))
    assert finding is not None
    assert (finding.says, finding.code) == ("forbid", "asked.not_asked")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("email", "a@b.example", (("email", "a@b.example"),)),
        ("decimal", "880", ()),
        ("decimal", "1880.5", (("num", "1880.5"),)),
        ("int", 7, ()),
        ("bool", True, ()),
        ("id", 7, (("num", "7"), ("line", "7"))),
        ("id", "13", (("line", "13"),)),
        ("text", "abc", ()),
        ("text", "abcd", (("line", "abcd"),)),
        ("any", True, ()),
        ("any", ["a@b.example"], ()),
        ("path", "/home/a/n.txt", (("path", "/home/a/n.txt"), ("line", "/home/a/n.txt"))),
        ("name", "Spotify", (("line", "Spotify"),)),
        ("text", "Bob <x@evil.example>", (("line", "Bob <x@evil.example>"), ("email", "x@evil.example"))),
        ("name", "DE89 3704 0044 0532 0130 00", (("line", "DE89 3704 0044 0532 0130 00"), ("iban", "DE89370400440532013000"))),
    ],
)
def test_forms_of_arguments(kind: str, value: object, expected: tuple[tuple[str, str], ...]) -> None:
    assert forms(kind, value) == expected


@pytest.mark.parametrize(
    ("value", "classes"),
    [
        ("Bob <bob@b.example>", {"line", "email"}),
        ("bob@b.example", {"line", "email"}),
        ("contact bob@b.example now", {"line"}),
        ("12", set()),
        (12, set()),
        (12345, {"num", "line"}),
        (float("nan"), set()),
        (10**400, set()),
        (None, set()),
        ("2024-05-13", {"line", "date"}),
        ("x" * 5000, set()),
    ],
)
def test_forms_of_leaves(value: object, classes: set[str]) -> None:
    found = {form[0] for form in leaf_forms(value)}
    assert found - {"path", "phone", "iban"} == classes


def test_joined_siblings_are_not_numbers_by_accident() -> None:
    assert one_form("00123") == ("line", "00123")
    assert one_form("20.00") == one_form(20) == ("num", "20")
    assert one_form(True) != one_form(1)


def test_no_leaf_is_slow() -> None:
    begin = time.thread_time()
    for text in (
        " " * 390 + "@",
        "<" * 200 + "@" + ">" * 190,
        "a" * 380 + "@<",
        "-" * 250 + ".x",
        "a-" * 120 + ".",
        "1 " * 30,
        "(" * 40,
        "a." * 2000,
    ):
        for _ in range(500):
            leaf_forms(text, declared=True)
            one_form(text)
    assert time.thread_time() - begin < 8


@given(st.text(max_size=400))
def test_scanners_never_raise_and_are_deterministic(text: str) -> None:
    found = entities(text)
    assert found == entities(text)
    assert len(found) == len(set(found))
    assert {one.kind for one in found} <= set(KINDS)
    assert grams(text) == grams(text)
    asked_of(text)
    assert leaf_forms(text) == leaf_forms(text)


@given(st.text("a@.:/ -+0123456789DE\"'()<>#", max_size=300), st.integers(0, 20))
def test_limits_hold(text: str, most: int) -> None:
    assert len(entities(text, max(most, 1))) <= max(most, 1)
    assert len(grams(text, most=max(most, 1))) <= max(most, 1)


HOSTILE = [
    "a" * 500_000, "@" * 500_000, "a@" * 250_000, "://" * 150_000, "https://" * 60_000, "a." * 250_000, "1" * 500_000, "1 " * 250_000,
    "DE89 " * 100_000, "(" * 500_000, "[](" * 150_000, "-" * 500_000, "'" * 500_000, "\"a" * 200_000, "+1-" * 150_000, "1,000" * 100_000,
    "May 1 " * 80_000, "2024-01-01 " * 45_000, "/" * 500_000, "a/" * 250_000, "do what " * 60_000, "follow the " * 45_000, "\u00a0" * 500_000,
    "x:" * 250_000, "Name <" * 80_000, "as it is " * 50_000, "tasks " * 80_000, "do " * 160_000,
    "id " * 160_000, "#1" * 250_000, "id 1, " * 80_000, "pay the " * 60_000, "address a b " * 40_000, "send " * 100_000, "2 a b c " * 60_000, "let set send " * 40_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:8].strip() or "blank" for text in HOSTILE])
def test_no_text_makes_the_scanners_slow(text: str) -> None:
    """Half a megabyte, the worst repetition for each scanner: seconds would mean a quadratic one, which takes minutes here."""
    begin = time.thread_time()
    entities(text)
    grams(text[: 1 << 16])
    asked_of(text)
    named_ids(text)
    leaf_forms(text)
    assert time.thread_time() - begin < 8
