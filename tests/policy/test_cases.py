"""Traces, expectations, times."""

from __future__ import annotations

import pytest

from guard.errors import PolicyError
from guard.model import Decision, Finding, Mode, Says, Verdict
from guard.policy import cases_from_text
from guard.policy.call import CallError, parse_call
from guard.policy.cases import meets
from guard.policy.data import Event
from guard.policy.times import seconds
from guard.reasons import ReasonCode


def trace(*lines: str) -> tuple[Event, ...]:
    body = "".join(f"      {line}\n" for line in lines)
    expect = ", ".join("allow" for _ in lines)
    text = f"tests:\n  - name: t\n    as: {{origin: alice, actor: a, intent: i}}\n    trace: |\n{body}    expect: [{expect}]\n"
    return cases_from_text(text).tests[0].trace


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("a(x=1)", Event("a", {"x": 1})),
        ('a(x="1", y=[True, None, -2.5], z={"k": "v"})', Event("a", {"x": "1", "y": [True, None, -2.5], "z": {"k": "v"}})),
        ("a() -> {id: 7, at: 2026-01-01, on: yes}", Event("a", {}, result={"id": 7, "at": "2026-01-01", "on": "yes"})),
        ("a() -> plain text, as it is", Event("a", {}, result="plain text, as it is")),
        ("a() !> gone: 404", Event("a", {}, "error", error="gone: 404")),
        ("a() ?>", Event("a", {}, "unknown")),
        ("@bob #t-2 +5m a()", Event("a", {}, actor="bob", task="t-2", after=300)),
        ("+24h @b a(x='(\"') -> [1]", Event("a", {"x": '("'}, result=[1], actor="b", after=86400)),
        ("server/tool-name.x(a=1)", Event("server/tool-name.x", {"a": 1})),
        ("rеfund(a=1)", Event("rеfund", {"a": 1})),  # a homoglyph may be called, to show that it is denied
        ('a(x="\\ud800")', Event("a", {"x": "\ud800"})),
        ("a(x=18446744073709551616)", Event("a", {"x": 2**64})),
        ('a(from="VIE", to="CDG", in = "é", class=1)', Event("a", {"from": "VIE", "to": "CDG", "in": "é", "class": 1})),
        ('a(x="from=é", is=["is"], with={"in": 2})', Event("a", {"x": "from=é", "is": ["is"], "with": {"in": 2}})),
    ],
)
def test_events(line: str, event: Event) -> None:
    (got,) = trace(line)
    assert got.line == 5 and got.text == line
    assert (got.tool, got.args, got.status, got.result, got.error) == (event.tool, event.args, event.status, event.result, event.error)
    assert (got.actor, got.task, got.after) == (event.actor, event.task, event.after)


def test_several_events_keep_their_lines() -> None:
    assert [(event.tool, event.line) for event in trace("a()", "b()", "c()")] == [("a", 5), ("b", 6), ("c", 7)]


@pytest.mark.parametrize(
    "call",
    ["a(x=" + "[" * 100000, "a(x=" + "-" * 100000 + "1)", "a(x=" + "1+" * 50000 + "1)", "a(" + "(" * 1000, "a(x=" + "9" * 10000 + ")", "a(x=__import__('os'))", "a(x=1if 1else 2)", "a(x=b'x')", "a(x=...)", "a(x={1, 2})", "a(x=[y for y in []])", "a(x=lambda: 1)", "a(x=(y:=1))", "a(*[1])", "a(x=1j)", "a(x=0x10)", "a(from=1, from=2)", "a(from)", "a(x=from)", "a(from 1)", "a(x=[from=1])", "a(None=1)", "a(True=1)", "a(x", "a(", ""],
)  # fmt: skip
def test_only_literals(call: str) -> None:
    with pytest.raises(CallError):
        parse_call(call)


def test_nesting_is_capped_before_python_parses() -> None:
    assert parse_call("a(x=" + "[" * 30 + "]" * 30 + ")").tool == "a"
    with pytest.raises(CallError, match="nested too deep"):
        parse_call("a(x=" + "[" * 40 + "]" * 40 + ")")


def test_a_long_line_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        trace('a(x="' + "x" * 70_000 + '")')
    assert [p.code for p in caught.value.problems] == ["lint.too-large"]


def decision(verdict: Verdict, code: ReasonCode, *findings: Finding) -> Decision:
    return Decision("d", verdict, "enforce", code, findings, None, (), "t", 1, "pay", "h", "p@0")


def finding(says: Says, rule: str | None = None, mode: Mode = "enforce") -> Finding:
    return Finding("rules", says, ReasonCode.RULE_LIMIT, rule, mode=mode)


@pytest.mark.parametrize(
    ("expected", "made", "met"),
    [
        ("allow", decision("allow", ReasonCode.PERMIT), True),
        ("allow", decision("deny", ReasonCode.ARGS_CONSTRAINT), False),
        ("deny", decision("deny", ReasonCode.ARGS_CONSTRAINT), True),
        ("deny args", decision("deny", ReasonCode.ARGS_CONSTRAINT), True),
        ("deny args.constraint", decision("deny", ReasonCode.ARGS_CONSTRAINT), True),
        ("deny arg", decision("deny", ReasonCode.ARGS_CONSTRAINT), False),
        ("deny args.const", decision("deny", ReasonCode.ARGS_CONSTRAINT), False),
        ("ask args", decision("deny", ReasonCode.ARGS_CONSTRAINT), False),
        ("deny cap", decision("deny", ReasonCode.RULE_LIMIT, finding("forbid", "cap")), True),
        ("deny cap", decision("deny", ReasonCode.RULE_LIMIT, finding("forbid", "other")), False),
        ("cap", decision("deny", ReasonCode.RULE_LIMIT, finding("forbid", "cap")), True),
        ("cap", decision("allow", ReasonCode.PERMIT, finding("forbid", "cap", "monitor")), True),
        ("allow cap", decision("allow", ReasonCode.PERMIT, finding("forbid", "cap", "monitor")), True),
        ("cap", decision("allow", ReasonCode.PERMIT), False),
    ],
)
def test_expectations(expected: str, made: Decision, met: bool) -> None:
    assert meets(expected, made) is met


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("10m", 600), ("1h", 3600), ("24h", 86400), ("7d", 604800), ("3660d", 3660 * 86400)]
)
def test_times(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "0m", "-1m", "1.5h", "1 h", "1H", "10min", "٣m", "3661d", "999999999d", "1h30m", "01m", "1m\n"])
def test_not_times(text: str) -> None:
    assert seconds(text) is None
