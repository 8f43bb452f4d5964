"""The law of reading: whatever the line, its value is that of `json.loads`, or both refuse it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.sources.lines import value_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
ODD = [
    b"", b"{", b'{"a":1,"a":2}', b'{"":1}', b"1e400", b"-1e400", b"NaN", b"-Infinity", b"01", b"-0", b"-0.0", b"1.", b".5", b"+1", b"1E5", b"1" * 5000,
    b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xff"', b'"\xed\xa0\x80"', b'"\x00"', b'"\\u0000"', b'"\t"', b"\xef\xbb\xbf1", '{"a":1}'.encode("utf-16"),
    b"[" * 250 + b"]" * 250, b"[" * 100_000, b"1 2", b"[1,]", b'{"a":1,}', b"{a:1}", b"'a'", b"1\n", b" \n[1 ]\r\n", b"true", b"True", b"nul", b"//1",
    b"0.1", b"123456789.123456789e-300", b"2.2250738585072011e-308", b"9007199254740993.0", b"0x10", b"1_0", b"inf", b"nan", b"Infinit", b'"\x7f\\/"',
]  # fmt: skip


def read(parse: Any, line: bytes) -> Any:
    try:
        return parse(line)
    except (ValueError, RecursionError) as error:
        return type(error) if isinstance(error, RecursionError) else ValueError


def same(one: Any, other: Any) -> bool:
    """Equal in value and kind; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_odd_lines(line: bytes) -> None:
    assert same(read(value_of, line), read(json.loads, line))


@given(VALUES, st.booleans())
def test_any_value(value: object, escaped: bool) -> None:
    line = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    assert same(read(value_of, line), read(json.loads, line))


@given(VALUES, st.data())
def test_a_broken_line(value: object, data: st.DataObject) -> None:
    line = bytearray(json.dumps(value).encode())
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] = data.draw(st.integers(0, 255))
    assert same(read(value_of, bytes(line)), read(json.loads, bytes(line)))
