"""Results as they come: structured, rendered, broken, hostile."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from guard.constraints import parse
from guard.policy.data import Leaf, Returns, Variant
from guard.workflow.shapes import Observed, labels, leaves
from guard.workflow.snapshot import MAX_CHARS, MAX_LEAVES, snapshot

SHAPE = {
    "vendor": Leaf("structured"),
    "iban": Leaf("directory"),
    "note": Leaf("text"),
    "items[].id": Leaf("id"),
    "tags": Leaf("structured"),
}
JSON = Returns(shape=SHAPE)


def seen(observed: Observed) -> dict[tuple[str, object], str]:
    return {(one.path, one.value): one.source for one in observed.items if not one.key}


def test_names_of_fields_that_are_data() -> None:
    returns = Returns(
        shape={
            "{}": Leaf("name"),
            "by.who{}": Leaf("directory", {"kind": parse({"eq": "team"}, origin="policy")}, "text"),
            "kind": Leaf("text"),
        }
    )
    found = leaves(returns, {"Hotel Luna": {"rating": 4}, "by": {"who": {"a@x.example": "rw"}}, "kind": "team"}, {})
    assert seen(found)["{}", "Hotel Luna"] == "structured"
    assert seen(found)["by.who{}", "a@x.example"] == "directory"
    assert {one.value for one in found.items if one.key} == {"rating", "who"}
    other = leaves(returns, {"by": {"who": {"a@x.example": "rw"}}, "kind": "free"}, {})
    assert seen(other)["by.who{}", "a@x.example"] == "text"


class Model(BaseModel):
    vendor: str = "Globex"
    iban: str = "DE89"
    when: date = date(2027, 3, 1)


@dataclass
class Record:
    vendor: str = "Globex"
    iban: str = "DE89"


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    vendor: str
    iban: str


class McpResult(BaseModel):
    content: list[dict[str, Any]] = []
    structuredContent: dict[str, Any] | None = None
    isError: bool = False


STRUCTURED: list[object] = [
    {"vendor": "Globex", "iban": "DE89"},
    OrderedDict(vendor="Globex", iban="DE89"),
    Model(),
    Record(),
    Pair("Globex", "DE89"),
    McpResult(content=[{"type": "text", "text": "vendor: Evil"}], structuredContent={"vendor": "Globex", "iban": "DE89"}),
    {"content": [{"type": "text", "text": "x"}], "structuredContent": {"vendor": "Globex", "iban": "DE89"}, "isError": False},
    McpResult(content=[{"type": "text", "text": '{"vendor": "Globex", "iban": "DE89"}'}]),
    '{"vendor": "Globex", "iban": "DE89"}',
    b'{"vendor": "Globex", "iban": "DE89"}',
]


@pytest.mark.parametrize("value", STRUCTURED, ids=[type(value).__name__ for value in STRUCTURED])
def test_forms_of_results(value: object) -> None:
    observed = leaves(JSON, value, {})
    found = seen(observed)
    assert found["vendor", "Globex"] == "structured"
    assert found["iban", "DE89"] == "directory"
    assert observed.complete and observed.degraded is None and not observed.failed


def test_places() -> None:
    found = leaves(JSON, {"items": [{"id": 1, "x": "y"}, {"id": "2"}], "tags": ["a", "b"], "note": "n", "deep": {"iban": "DE"}}, {})
    assert seen(found) == {
        ("items[].id", 1): "structured", ("items[].id", "2"): "structured", ("", "y"): "text", ("tags", "a"): "structured",
        ("tags", "b"): "structured", ("note", "n"): "text", ("", "DE"): "text",
    }  # fmt: skip
    assert [one.record for one in found.items if one.path == "items[].id"] == [1, 2]
    assert seen(leaves(JSON, {"items": [{"id": 1}]}, {}, creates=True)) == {("items[].id", 1): "made_here"}


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("json", '{"iban": "DE89", "iban": "GB29"}'),
        ("json", '{"iban": NaN}'),
        ("json", "iban: DE89"),
        ("json", "[" * 100_000),
        ("yaml", "iban: DE89\niban: GB29"),
        ("yaml", "iban: !!python/object:os.system DE89"),
        ("yaml", "a: &a DE89\niban: *a"),
        ("yaml", "iban: DE89\n---\niban: GB29"),
        ("yaml", "x: [" * 1000),
        ("yaml", "# " + "x" * 300_000 + "\niban: DE89"),
        ("keyvalue", "iban: DE89\niban: GB29"),
        ("keyvalue", "vendor: a iban: GB29\niban: DE89"),
        ("keyvalue", "vendor: a IBAN : GB29\niban: DE89"),
        ("keyvalue", "hello\niban: DE89"),
    ],
)
def test_what_does_not_parse_is_text(format: Any, text: str) -> None:
    observed = leaves(Returns(format=format, shape=SHAPE), text, {})
    assert observed.degraded is not None
    assert {one.source for one in observed.items} <= {"text"}


def test_keyvalue_is_weak() -> None:
    observed = leaves(Returns(format="keyvalue", shape=SHAPE), "iban: DE89\nvendor: Globex", {})
    assert observed.weak
    assert seen(observed) == {("iban", "DE89"): "directory", ("vendor", "Globex"): "structured"}


def test_conditions_look_at_their_own_record() -> None:
    sender = parse({"one_of": "$me"}, origin="policy", params=frozenset({"me"}))
    shape = {"[].sender": Leaf("author"), "[].to[]": Leaf("structured", {"[].sender": sender}, "author")}
    mails = [
        {"sender": "me@x.example", "to": ["a@x.example"]},
        {"sender": "evil@x.example", "to": ["b@x.example"]},
        {"to": ["c@x.example"]},
    ]
    found = seen(leaves(Returns(shape=shape), mails, {}, ["me@x.example"]))
    assert found["[].to[]", "a@x.example"] == "structured"
    assert found["[].to[]", "b@x.example"] == "author"
    assert found["[].to[]", "c@x.example"] == "author", "a field that is missing does not hold"


def _eq(value: object) -> Any:
    return parse({"eq": value}, origin="policy")


def test_variants() -> None:
    returns = Returns(
        labels=("untrusted",),
        shape={"x": Leaf("text")},
        variants=(Variant({"channel": _eq("private")}, ("private",), {"x": Leaf("structured")}),),
    )
    assert labels(returns, {"channel": "private"}) == ("private",)
    assert labels(returns, {"channel": "public"}) == ("untrusted",)
    assert set(labels(returns, {})) == {"private", "untrusted"}, "what cannot be told latches both"
    assert seen(leaves(returns, {"x": "y"}, {"channel": "private"})) == {("x", "y"): "structured"}
    assert seen(leaves(returns, {"x": "y"}, {})) == {("x", "y"): "text"}
    assert labels(None, {}) == ("untrusted",)
    assert leaves(Returns(none=True), {"x": "y"}, {}) == Observed()


class Raises(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise KeyError("x")

    def __len__(self) -> int:
        return 1


class RaisesHard(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        raise RecursionError

    def __iter__(self) -> Iterator[str]:
        yield "x"

    def __len__(self) -> int:
        return 1


class Changes(dict[str, object]):
    """Grows while it is looked at."""

    def items(self) -> Any:
        for key in list(self.keys()):
            self[f"{key}x"] = 1
            yield key, dict.__getitem__(self, key)
        raise RuntimeError("dictionary changed size during iteration")


@pytest.mark.parametrize("value", [Raises(), RaisesHard(), Changes(a=1), object(), iter([1]), lambda: 1, {"x": object()}, [Raises()]])
def test_what_cannot_be_observed_is_said_to_be_so(value: object) -> None:
    observed = leaves(JSON, value, {})
    assert observed.failed and not observed.complete and observed.items == ()


def test_huge_deep_cyclic_binary() -> None:
    assert not (many := leaves(JSON, list(range(100_000, 200_000)), {})).complete
    assert len(many.items) <= MAX_LEAVES
    deep: object = "bottom"
    for _ in range(10_000):
        deep = [deep]
    assert not (below := leaves(JSON, deep, {})).complete and not below.failed
    nested: dict[str, object] = {"iban": "DE89"}
    nested["self"] = nested
    cyclic = leaves(JSON, nested, {})
    assert cyclic.degraded == "cyclic" and seen(cyclic) == {("", "DE89"): "text"}
    binary = leaves(JSON, {"iban": "DE89", "blob": b"\xff\xfe"}, {})
    assert binary.degraded == "binary" and seen(binary) == {("", "DE89"): "text"}
    long = leaves(Returns(format="text"), "x" * (2 * MAX_CHARS), {})
    assert not long.complete and sum(len(str(one.value)) for one in long.items) <= MAX_CHARS
    cut = leaves(JSON, '{"iban": "DE89"}' + " " * (2 * MAX_CHARS), {})
    assert not cut.complete and {one.source for one in cut.items} <= {"text"}


def test_the_copy_is_what_is_indexed() -> None:
    value = {"iban": "DE89", "items": [{"id": 1}]}
    copied = snapshot(value)
    value["iban"] = "GB29"
    value["items"].append({"id": 2})  # type: ignore[attr-defined]
    assert copied.data == {"iban": "DE89", "items": [{"id": 1}]}


def test_other_things() -> None:
    copied = snapshot({"d": date(2027, 3, 1), "n": Decimal("1.5"), "c": Colour.RED, "s": {"b", "a"}, 3: "three", "t": (1, 2), "f": 1.5})
    assert copied.data == {"d": "2027-03-01", "n": Decimal("1.5"), "c": "red", "s": ["a", "b"], "3": "three", "t": [1, 2], "f": 1.5}
    assert snapshot({1: "a", "1": "b"}).problem == "duplicate key"


def test_a_field_name_is_not_a_place() -> None:
    forged = {"items[].id": "X", "items": {"[]": {"id": "Y"}}, "a.b": "Z"}
    shape = {**SHAPE, "a.b": Leaf("directory")}
    assert {one.source for one in leaves(Returns(shape=shape), forged, {}).items} == {"text"}


def test_json_text_of_a_bare_value() -> None:
    found = leaves(Returns(shape={"$": Leaf("structured")}), "2024-05-15", {})
    assert [one.source for one in found.items] == ["structured"]
    assert json.dumps([one.value for one in found.items]) == '["2024-05-15"]'
