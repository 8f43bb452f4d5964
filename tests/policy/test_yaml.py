"""What one YAML reader reads differently from another, or from the author, does not load. Each row is one such text."""

from __future__ import annotations

import time

import pytest

from guard.errors import PolicyError
from guard.policy import Policy
from guard.policy.problems import Report
from guard.policy.yamltext import MAX_BYTES, MAX_DEPTH, parse, plain

HEAD = "guardtrail: 1\nname: t\nowner: o\ntools: {look: {effect: read}}\n"


def read(text: str) -> object:
    report = Report(text, "p.yaml")
    node = parse(text, report)
    assert node is not None, [str(problem) for problem in report.problems]
    return plain(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[on, off, yes, no, y, n, On, NO]", ["on", "off", "yes", "no", "y", "n", "On", "NO"]),
        ("[true, True, TRUE, false, tRUE]", [True, True, True, False, "tRUE"]),
        ("[null, ~, Null, NULL, nULL]", [None, None, None, None, "nULL"]),
        ("[2026-01-01, 2026-01-01T00:00:00Z, 12:30, 12:30:45]", ["2026-01-01", "2026-01-01T00:00:00Z", "12:30", "12:30:45"]),
        ("[1_000, 0b11, 1e3, .5, -1, +2, 0x1F, 0o17, 0]", ["1_000", "0b11", 1000.0, 0.5, -1, 2, 31, 15, 0]),
        ('["true", \'1\', "null"]', ["true", "1", "null"]),
        ("on: yes", {"on": "yes"}),
        ('"<<": a', {"<<": "a"}),
        ("a: '!x'", {"a": "!x"}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: |\r\n  x\r\n  y\r\n", {"a": 1, "b": "x\ny\n"}),
        ("a: \u00e4\u4e2d\U0001f600", {"a": "\u00e4\u4e2d\U0001f600"}),
    ],
)
def test_types_are_those_of_yaml_1_2_core(text: str, value: object) -> None:
    assert read(text) == value


REFUSED = [
    ("a: 1\nb: 2\na: 3", "3:1 lint.duplicate-key"),
    ('a: 1\n"a": 2', "2:1 lint.duplicate-key"),
    ("a: {b: 1, b: 1}", "1:11 lint.duplicate-key"),
    ("a: &x 1\nb: *x", "1:4 lint.anchor, 2:4 lint.anchor"),
    ("&x a: 1", "1:1 lint.anchor"),
    ("a: *x", "1:4 lint.anchor"),
    ("a: !!str 1", "1:4 lint.tag"),
    ("a: !!python/object/apply:os.system [ls]", "1:4 lint.tag"),
    ("a: ! x", "1:4 lint.tag"),
    ("<<: {a: 1}", "1:1 lint.merge"),
    ("a: 010", "1:4 lint.number"),
    ("a: -007.5", "1:4 lint.number"),
    ("a: .nan", "1:4 lint.number"),
    ("a: -.inf", "1:4 lint.number"),
    ("a: 1e999", "1:4 lint.number"),
    ("a: " + "9" * 5000, "1:4 lint.number"),
    ("a: 1\n---\nb: 1", "2:1 lint.document"),
    ("%YAML 1.1\n---\na: 1", "1:1 lint.document"),
    ("1: a", "1:1 lint.yaml"),
    ("true: a", "1:1 lint.yaml"),
    (": a", "1:1 lint.yaml"),
    ("? [a]\n: b", "1:3 lint.yaml"),
    ("{[a]: b}", "1:2 lint.yaml"),
    ("a:\n\tb: 1", "2:1 lint.yaml"),
    ("a:\n  b: 1\n\tc: 2", "3:1 lint.yaml"),
    ("a:\tb", "1:3 lint.yaml"),
    ("a: b: c", "1:5 lint.yaml"),
    ("a: [1, 2", "1:9 lint.yaml"),
    ("a: 'x", "1:6 lint.yaml"),
    ("a: @x", "1:4 lint.yaml"),
    ("a: \0", "1:4 lint.character"),
    ("a: \x1b[31m", "1:4 lint.character"),
    ("a: \ud800", "1:4 lint.character"),
    ("a: 1\n\ufeffb: 2", "2:1 lint.character"),
    ("a: 1 # \u2028b: 2", "1:8 lint.character"),
    ("a: 1 # \x85b: 2", "1:8 lint.character"),
    ("a: 1\rb: 2", "1:5 lint.character"),
    ("# \u202ecba\na: 1", "1:3 lint.character"),
    ('a: "\\0"', "1:4 lint.character"),
    ('a: "\\uD800"', "1:4 lint.character"),
    ('a: "\\u202e"', "1:4 lint.character"),
    ('a: "\\U00110000"', "1:7 lint.yaml"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[repr(text[:30]) for text, _ in REFUSED])
def test_refused_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(text)
    assert ", ".join(f"{p.line}:{p.column} {p.code}" for p in caught.value.problems) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 30_000,
        "- " * 100_000,
        "? " * 100_000,
        "".join(f"{' ' * n}a:\n" for n in range(1200)),
        "a: " + "[" * 100_000 + "]" * 100_000,
    ],
    ids=["lists", "mappings", "block lists", "complex keys", "block mappings", "closed lists"],
)
def test_deep_nesting_is_refused_and_not_recursed_into(text: str) -> None:
    """fail_open F03: another policy parser took its process down at a thousand nested brackets."""
    started = time.thread_time()
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(text)
    assert caught.value.problems[0].code in ("lint.too-deep", "lint.yaml")
    assert time.thread_time() - started < 5


def test_nesting_up_to_the_cap_is_read() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None


def test_size_is_checked_before_parsing() -> None:
    started = time.thread_time()
    for text in ("x" * (2 << 20), "\u4e2d" * (MAX_BYTES // 2), "\0" * (2 << 20)):
        with pytest.raises(PolicyError) as caught:
            Policy.from_text(text)
        assert [p.code for p in caught.value.problems] == ["lint.too-large"]
    assert time.thread_time() - started < 1


def test_a_file_of_control_characters_is_reported_shortly() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text("\0" * 200_000)
    assert 0 < len(caught.value.problems) <= 20


def test_values_are_capped() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text("[" + "1," * 100_001 + "]")
    assert caught.value.problems[0].code == "lint.too-large"


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n", "\ufeff", "---\n", "~", "null"])
def test_nothing_is_not_a_policy(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(text)
    assert [p.code for p in caught.value.problems if p.code in ("lint.empty", "lint.type")]


@pytest.mark.parametrize("text", ["just text", "[a]", "12", "true"])
def test_a_policy_is_a_mapping(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(text)
    assert [(p.line, p.column, p.code) for p in caught.value.problems] == [(1, 1, "lint.type")]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_places_are_the_same_for_both_line_endings(ending: str) -> None:
    text = (HEAD + "rules:\n  - {id: a, when: {tool: lok}}\n").replace("\n", ending)
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.excerpt) == (6, 26, "  - {id: a, when: {tool: lok}}")


def test_a_byte_order_mark_moves_nothing() -> None:
    assert Policy.from_text("\ufeff" + HEAD).name == "t"
    with pytest.raises(PolicyError) as caught:
        Policy.from_text("\ufeffguardtral: 1\nname: t\ntools: {look: {effect: read}}\n")
    assert {(p.line, p.column) for p in caught.value.problems} == {(1, 1)}
