"""The tables: normal forms of values, what each kind admits, what does not parse."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard.constraints import ConstraintError, ValueRefused, canonical, normalise, parse

HERE = Path(__file__).parent


def table(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = yaml.load((HERE / name).read_text("utf-8"), yaml.SafeLoader)
    return rows


@pytest.mark.parametrize("row", table("values.yaml"), ids=lambda row: f"{row['type']}-{str(row.get('refused') or row['is'])[:40]}")
def test_values(row: dict[str, Any]) -> None:
    if "refused" in row:
        with pytest.raises(ValueRefused) as caught:
            normalise(row["type"], row["value"])
        assert str(caught.value) == "", "a refusal shows no value"
        return
    normal = normalise(row["type"], row["value"])
    assert (type(normal), normal) == (type(row["is"]), row["is"])
    assert normalise(row["type"], normal) == normal, "a normal form is its own normal form"


@pytest.mark.parametrize(
    ("kind", "value", "normal"),
    [
        ("decimal", Decimal("20.50"), "20.5"),
        ("date", date(2027, 3, 1), "2027-03-01"),
        ("date", datetime(2027, 3, 1, 10, tzinfo=UTC), "2027-03-01T10:00:00+00:00"),
        ("path", Path("/srv/notes"), "/srv/notes"),
        ("any", Decimal("1.0"), "1"),
    ],
)
def test_python_values(kind: str, value: object, normal: str) -> None:
    assert normalise(kind, value) == normal


@pytest.mark.parametrize("kind", ["text", "id", "name", "email", "url", "path", "any", "secret", "command"])
@pytest.mark.parametrize("value", ["\ud800", b"bytes", object(), {1, 2}, {1: 2}], ids=["surrogate", "bytes", "object", "set", "key"])
def test_never_a_value(kind: str, value: object) -> None:
    with pytest.raises(ValueRefused):
        normalise(kind, value)


def test_paths_are_resolved_by_the_machine(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "link").symlink_to(tmp_path / "secret")
    real = os.path.realpath(tmp_path)
    assert normalise("path", f"{real}/notes/link/x", resolve=os.path.realpath) == f"{real}/secret/x"
    assert normalise("path", f"{real}/notes/../secret", resolve=os.path.realpath) == f"{real}/secret"


@pytest.mark.parametrize("row", table("matches.yaml"), ids=lambda row: str(row["of"])[:60])
def test_matches(row: dict[str, Any]) -> None:
    constraint = parse(row["of"])
    assert [value for value in row["admits"] if not constraint.matches(value)] == []
    assert [value for value in row["refuses"] if constraint.matches(value)] == []
    assert parse(row["of"], origin="policy").matches(row["admits"][0])
    assert constraint.text.startswith("must ")
    for leaf in leaves(row["of"]):  # what a token holds is in none of its texts
        assert len(leaf) < 3 or leaf not in f"{constraint.text} {constraint.fact}"


def leaves(raw: object) -> list[str]:
    if isinstance(raw, dict):
        return [leaf for inner in raw.values() for leaf in leaves(inner)]
    if isinstance(raw, list):
        return [leaf for inner in raw for leaf in leaves(inner)]
    return [raw] if isinstance(raw, str) else []


@pytest.mark.parametrize("row", table("refused.yaml"), ids=lambda row: str(row["raw"])[:60])
def test_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ConstraintError) as caught:
        read = parse(row["raw"], origin=row.get("in", "token"), params={"order"})
        read.typed(row["type"])
    assert row.get("says", "") in str(caught.value)
    assert row.get("hint", "") in (caught.value.suggestion or "")


@pytest.mark.parametrize(
    ("raw", "kind", "text", "fact"),
    [
        ({"eq": "$order"}, "id", "must equal $order", "equals $order"),
        (
            {"range": {"min": "0.01", "max": "$order"}},
            "decimal",
            "must be at least 0.01 and at most $order",
            "is at least 0.01 and at most $order",
        ),
        ({"url": {"under": "$order"}}, "url", "must be under $order", "is under $order"),
        ({"email": {"domain": "acme.example"}}, "email", "must be an address at acme.example", "is an address at acme.example"),
        ({"one_of": ["a", "b"]}, "id", "must be one of a, b", "is one of a, b"),
        ({"eq": "hunter2"}, "secret", "must equal ...", "equals ..."),
        ({"any_of": [{"eq": "a"}, {"prefix": "b"}]}, "id", "must equal a or begin with b", "equals a or begins with b"),
    ],
)
def test_words(raw: dict[str, object], kind: str, text: str, fact: str) -> None:
    read = parse(raw, origin="policy", params={"order"}).typed(kind)
    assert (read.text, read.fact) == (text, fact)
    bound = read.bind({"order": "CANARY"})
    assert (bound.text, bound.fact) == (text, fact), "a parameter's value is never said"


def test_parameters() -> None:
    read = parse({"one_of": ["$a", "x", "$b"]}, origin="policy", params={"a", "b"}).typed("id")
    assert read.params == {"a", "b"}
    assert not read.matches("x"), "without its parameters it admits nothing"
    bound = read.bind({"a": "A-1", "b": "$c"})
    assert [bound.matches(value) for value in ("A-1", "x", "$c", "$a")] == [True, True, True, False]
    assert not parse({"range": {"max": "$a"}}, origin="policy", params={"a"}).bind({"a": "lots"}).matches("1")
    assert not parse({"url": {"under": "$a"}}, origin="policy", params={"a"}).bind({"a": "lots"}).matches("https://a/")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"range": {"min": "100.00", "max": "50"}}, '`min: "100.00"` is above its own `max: "50"`'),
        ({"range": {"above": 5, "below": 5}}, "`above: 5` is not below its own `below: 5`"),
        ({"len": {"min": 3, "max": 2}}, "`min: 3` is above its own `max: 2`"),
        ({"eq": "a", "one_of": ["b"]}, "its own values do not meet its other conditions"),
        ({"any_of": [{"len": {"min": 3, "max": 2}}]}, "no alternative can be met"),
        ({"range": {"min": 1, "max": 1}}, None),
        ({"eq": "a"}, None),
    ],
)
def test_never_matches(raw: dict[str, object], why: str | None) -> None:
    said = parse(raw).never_matches
    assert said == why if why is None else said is not None and said.startswith(why)


@pytest.mark.parametrize(
    ("raw", "low"),
    [
        ({"range": {"min": "0.01"}}, "0.01"),
        ({"range": {"above": 3, "min": 1}}, "3"),
        ({"range": {"max": 3}}, None),
        ({"one_of": [5, "2.5"]}, "2.5"),
        ({"one_of": [5, "x"]}, None),
        ({"any_of": [{"eq": 5}, {"range": {"min": 1}}]}, "1"),
        ({"any_of": [{"eq": 5}, {"any": True}]}, None),
    ],
)
def test_lower_bound(raw: dict[str, object], low: str | None) -> None:
    assert parse(raw).lower_bound() == (None if low is None else Decimal(low))


def test_canonical_is_rfc_8785() -> None:
    import rfc8785

    for value in (
        {"b": 1, "a": '\u20ac\n"\\\x7f'},
        {"\u20ac": 1, "\U0001f600": 2, "\ufb33": 3},
        [1e21, 1.5, -0.0, 1e-7],
        {"a": [None, True, {}]},
        "x",
        [],
    ):
        assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]
    for bad in ({"a": 2**53}, {"a": float("nan")}, {"a": object()}):
        with pytest.raises(ValueError):
            canonical(bad)
