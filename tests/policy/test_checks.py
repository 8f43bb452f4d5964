"""`check`: the table checks.yaml, the law that nothing but true allows, and what happens without CEL."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.model import Credential, Delegation
from guard.policy import Policy, cel
from guard.policy.judge import Check, intent_check, judge
from tests.patience import PYTHONPATH
from tests.policy.reading import ROOT, needs_cel

ROWS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "checks.yaml").read_text("utf-8"))
TYPES = {
    "body": "text", "amount": "decimal", "n": "int", "to[]": "email", "tags[]": "name", "items[].id": "id", "items[].price": "decimal",
    "at.city": "name", "at.zip": "id", "ok": "bool", "any": "any",
}  # fmt: skip
CONTROL = frozenset({"to[]", "items[].id"})


@needs_cel
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['check'][:50]} {row['holds']}")
def test_table(row: dict[str, Any]) -> None:
    values = dict(row["args"])
    for name, times in row.get("repeat", {}).items():
        values[name] = values[name] * times
    test = cel.compile(row["check"], TYPES, CONTROL)
    before = perf_counter()
    assert test(values) is (row["holds"] is True)
    assert test.too_large(values) is (row["holds"] == "large")
    assert perf_counter() - before < 5, "fractions of a second, if nothing is wrong"  # without the bound: 4 s to hours


@needs_cel
def test_the_same_question_is_compiled_once() -> None:
    first = cel.compile("size(args.body) < 7", TYPES, CONTROL)
    assert cel.compile("size(args.body) < 7", dict(reversed(TYPES.items())), set(CONTROL)) is first
    assert cel.compile("size(args.body) < 7", TYPES) is not first


# --- the law

_TERMS = st.sampled_from(
    ["size(args.body) < 3", "args.amount < 2.5", "args.amount == 1.0", "args.n > 0", "args.n / (args.n - 1) > 1", "args.ok", "args.any == 1",
     "args.to.all(t, t.endsWith('a'))", "args.tags.exists(t, t == 'a')", "args.items.all(i, i.price > 1.0)", "args.at.city == 'a'",
     "args.any.x == 'a'", "args.to[0] == 'a'", "true", "false"]
)  # fmt: skip
_EXPRESSIONS = st.recursive(
    _TERMS,
    lambda below: (
        st.builds("({} || {})".format, below, below) | st.builds("({} && {})".format, below, below) | st.builds("!({})".format, below)
    ),
    max_leaves=4,
)
_WORDS = st.sampled_from(["", "a", "ab", "abcd"])
_DECIMALS = st.sampled_from(["0", "1", "2.5", "3", "1.00000000000000000001"])
_NULL = st.none()
_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "body": _WORDS | _NULL,
        "amount": _DECIMALS | _NULL,
        "n": st.integers(-1, 2) | st.just(2**63) | _NULL,
        "ok": st.booleans() | _NULL,
        "to": st.lists(_WORDS, max_size=2) | _NULL,
        "tags": st.lists(_WORDS, max_size=2) | _NULL,
        "items": st.lists(st.fixed_dictionaries({}, optional={"id": _WORDS, "price": _DECIMALS | _NULL}), max_size=2) | _NULL,
        "at": st.fixed_dictionaries({}, optional={"city": _WORDS | _NULL, "zip": _WORDS}) | _NULL,
        "any": st.sampled_from([1, "a", {"x": "a"}, [1], True]) | _NULL,
    },
)


def plainly(expression: str, values: dict[str, Any]) -> object:
    """What CEL itself says, with every value untyped but decimals; an exception is an answer that is not True."""
    from cel_expr_python import cel as engine

    def number(name: str, value: Any) -> Any:
        return float(value) if name in ("amount", "price") else value

    data = {f"args.{name}": number(name, value) for name, value in values.items() if value is not None}
    if "args.items" in data:
        data["args.items"] = [{name: number(name, one) for name, one in item.items() if one is not None} for item in values["items"]]
    if "args.at" in data:
        data["args.at"] = {name: one for name, one in values["at"].items() if one is not None}
    tops = {path.partition(".")[0].removesuffix("[]") for path in TYPES}
    try:
        made = engine.NewEnv(variables=dict.fromkeys((f"args.{name}" for name in tops), engine.Type.DYN)).compile(expression)
        return made.eval(data=data).value()
    except RuntimeError as error:
        return error


def delegation() -> Delegation:
    return Delegation("txntoken+jwt", "t", "i", "x", Credential("i", "j", "k"), "alice", "person", ("a",), 0, 1, "aud", "work")


def permission(expression: str, args: str = "{n: {range: {max: 1}, optional: true}}") -> Check:
    quoted = expression.replace("'", "''")
    types = "control: {'to[]': name, 'items[].id': id}, data: {body: text, amount: decimal, n: int, 'tags[]': name, 'items[].price': decimal, at.city: name, at.zip: id, ok: bool, any: any}"
    text = (
        f"guardtrail: 1\nname: t\nowner: o\ntools: {{do: {{effect: write, {types}}}}}\n"
        f"intents:\n  work: {{allow: {{do: {{args: {args}, check: '{quoted}'}}}}}}\n"
    )
    policy = Policy.from_text(text)
    check = intent_check(policy, delegation(), policy.intents["work"], {}, "do")
    assert isinstance(check, Check)
    return check


@needs_cel
@settings(deadline=None, max_examples=400)
@given(_EXPRESSIONS, _VALUES)
def test_nothing_but_true_allows_and_a_check_only_narrows(expression: str, values: dict[str, Any]) -> None:
    check = permission(expression)
    allowed = isinstance(judge((check,), values), Check)
    n = values.get("n")
    if allowed:
        assert plainly(expression, values) is True
        assert n is None or n <= 1, "what the arguments' own constraint refuses, no check admits"
        for name in ("body", "amount", "n", "ok", "to", "tags", "items", "at", "any"):
            assert f"args.{name}" not in expression or values.get(name) is not None
        assert "args.amount" not in expression or Decimal(values["amount"]) == Decimal(str(float(values["amount"])))


@needs_cel
@settings(deadline=None, max_examples=200)
@given(_EXPRESSIONS.filter(lambda text: "items" not in text and "at.city" not in text and "args.n" not in text), _VALUES)
def test_where_all_is_there_true_allows(expression: str, values: dict[str, Any]) -> None:
    whole = {
        "body": "a",
        "ok": True,
        "any": 1,
        "amount": "1",
        "to": ["a"],
        "tags": ["a"],
        **{k: v for k, v in values.items() if v not in (None, [])},
    }
    if whole["amount"] == "1.00000000000000000001":
        whole["amount"] = "1"
    whole.pop("n", None)
    assert isinstance(judge((permission(expression),), whole), Check) is (plainly(expression, whole) is True)


# --- what is said


@needs_cel
def test_what_a_refusal_says() -> None:
    check = permission("size(args.body) < 3 && args.tags.all(t, t != 'x')")
    assert check.permit.text == "n is at most 1; `check` is true"
    short = judge((check,), {"body": "secret", "tags": ["a"]})
    large = judge((check,), {"body": "s" * 500_000, "tags": ["a"] * 100})
    other = judge((check,), {"body": "secret", "n": 7})
    assert [(str(f.code), f.text, f.fix, f.where) for f in (short, large, other)] == [  # type: ignore[union-attr]
        ("args.check", "`check` of intent work is not true of these arguments", "arguments of which it is true", "policy.yaml:6:76"),
        ("args.size", "the arguments are too large for the `check` of intent work", "smaller arguments", "policy.yaml:6:76"),
        ("args.constraint", "argument n must be at most 1 of intent work", "arguments inside what the intent allows", "policy.yaml:6:34"),
    ]


# --- without the extra

POLICY = """guardtrail: 1
name: t
owner: o@acme.example
tools: {mail: {effect: write, data: {body: text}}}
intents:
  work: {description: d, allow: {mail: {check: "size(args.body) < 4"}}}
rules:
  - {id: short, when: {tool: mail}, check: "size(args.body) < 3"}
"""
_WITHOUT = "import sys; sys.modules['cel_expr_python'] = None\n"


def without_cel(code: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "policy.yaml").write_text(POLICY, "utf-8")
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + code], cwd=folder, capture_output=True, text=True, timeout=60, check=False, input=stdin,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "GUARDTRAIL_DIR": str(folder)},
    )  # fmt: skip


def test_without_the_extra_the_guard_is_not_made(tmp_path: Path) -> None:
    code = """
from guard import Guard, LocalIssuer
from guard.errors import PolicyError
try:
    Guard("policy.yaml", trust=LocalIssuer("x"))
except PolicyError as error:
    print(error)
    print(len(error.problems), {p.line for p in error.problems})
"""
    done = without_cel(code, tmp_path)
    assert done.stderr == ""
    assert "`check` needs CEL, which is not installed here" in done.stdout and 'pip install "guardtrail[cel]"' in done.stdout
    assert done.stdout.splitlines()[-1] == "1 {6}", "one error, at the first check"


@pytest.mark.parametrize(
    ("verb", "exit_code"), [("lint policy.yaml", 1), ("test policy.yaml", 3), ("check --policy policy.yaml --token x.y.z", 3)]
)
def test_without_the_extra_the_verbs_say_so(tmp_path: Path, verb: str, exit_code: int) -> None:
    done = without_cel(
        f"from guard.cli import main; sys.argv = ['guardtrail', *{verb.split()!r}]; main()", tmp_path, '{"tool": "mail", "args": {}}'
    )
    assert done.returncode == exit_code, done.stderr
    said = done.stdout + done.stderr
    assert "`check` needs CEL, which is not installed here" in said and 'pip install "guardtrail[cel]"' in said and "Traceback" not in said


def test_importing_the_guard_does_not_load_cel(tmp_path: Path) -> None:
    code = "import sys, guard; print(sorted(name for name in sys.modules if 'cel' in name.split('.')[-1]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
