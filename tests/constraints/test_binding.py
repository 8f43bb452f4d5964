"""A call fitted to its tool: what is refused, what is filled in, and that what policy sees is what runs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from guard.constraints import Binder, BindError, Shape, compile_args, compile_when, parse
from guard.errors import ConfigError

TYPES = {
    "order": "id",
    "amount": "decimal",
    "to[]": "email",
    "page": "url",
    "file": "path",
    "methods[].id": "id",
    "methods[].amount": "decimal",
    "meta": "any",
}


def refund(order: str, amount: Decimal = Decimal(20), *, to: list[str] | None = None) -> None: ...


SIGNATURE = Shape.from_signature(inspect.signature(refund))
SCHEMA = Shape.from_schema(
    {
        "type": "object",
        "properties": {"order": {"type": "string"}, "amount": {"type": "number", "default": 7}, "to": {"type": "array"}},
        "required": ["order"],
        "additionalProperties": False,
    }
)
SOME = {"order": "id", "amount": "decimal", "to[]": "email"}


class Colour(StrEnum):
    RED = "red"


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


# args, code of the refusal, the argument it names
REFUSED: list[tuple[Any, str, str]] = [
    ("order", "args.type", ""),
    ([("order", "A-17")], "args.type", ""),
    ({1: "A-17"}, "args.type", ""),
    ({"ordr": "A-17"}, "args.unknown", "ordr"),
    ({"Order": "A-17"}, "args.unknown", "Order"),
    ({"order ": "A-17"}, "args.unknown", "order "),
    ({"\u043erder": "A-17"}, "args.unknown", "(unnamed)"),
    ({"x" * 100_000: "A-17"}, "args.unknown", "(unnamed)"),
    ({"order": ["A-17"]}, "args.type", "order"),
    ({"order": b"A-17"}, "args.type", "order"),
    ({"order": "A-17\0"}, "args.type", "order"),
    ({"order": "\ud800"}, "args.type", "order"),
    ({"amount": float("nan")}, "args.type", "amount"),
    ({"amount": float("inf")}, "args.type", "amount"),
    ({"amount": 2**64}, "args.type", "amount"),
    ({"amount": 10**100_000}, "args.size", "amount"),
    ({"amount": True}, "args.type", "amount"),
    ({"to": "a@acme.example"}, "args.type", "to"),
    ({"to": ["a@acme.example", None]}, "args.type", "to[]"),
    ({"to": ["a@evil.example,b@acme.example"]}, "args.type", "to[]"),
    ({"to": {"0": "a@acme.example"}}, "args.type", "to"),
    ({"methods": {"id": "x"}}, "args.type", "methods"),
    ({"methods": ["x"]}, "args.type", "methods[]"),
    ({"methods": [{"id": "x", "note": "y"}]}, "args.unknown", "methods[].note"),
    ({"page": "https://good.example@evil.example/"}, "args.type", "page"),
    ({"file": "/srv/%2e%2e/etc"}, "args.type", "file"),
    ({"order": "x" * 10_000_000}, "args.size", "order"),
    ({"meta": deep(100_000)}, "args.size", "meta"),
    ({"meta": [1] * 20_000}, "args.size", "meta"),
    ({"meta": {"x": {1, 2}}}, "args.type", "meta"),
    ({f"a{n}": "x" for n in range(300)}, "args.size", ""),
]


@pytest.mark.parametrize(("args", "code", "argument"), REFUSED, ids=range(len(REFUSED)))
def test_refused(args: Any, code: str, argument: str) -> None:
    with pytest.raises(BindError) as caught:
        Binder("refund", None, TYPES).bind(args, os.path.realpath)
    assert (str(caught.value.code), caught.value.argument) == (code, argument)
    assert len(str(caught.value)) < 200
    assert "A-17" not in str(caught.value)


def test_cycles_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BindError) as caught:
        Binder("t", None, {"meta": "any"}).bind({"meta": loop})
    assert caught.value.code == "args.size"


def test_a_hostile_mapping_is_a_refusal_not_an_exception() -> None:
    class Hostile(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError

    with pytest.raises(BindError):
        Binder("t", None, {"meta": "any"}).bind({"meta": Hostile(a=1)})


@pytest.mark.parametrize(
    ("shape", "args", "kwargs", "answer"),
    [
        (SIGNATURE, (), {"order": "A"}, {"order": "A", "amount": "20"}),
        (SIGNATURE, ("A",), {}, {"order": "A", "amount": "20"}),
        (SIGNATURE, ("A", Decimal(1)), {}, {"order": "A", "amount": "1"}),
        (SIGNATURE, ("A",), {"amount": "5.0", "to": ["a@ACME.example"]}, {"order": "A", "amount": "5", "to": ["a@acme.example"]}),
        (SIGNATURE, (), {}, "args.missing"),
        (SIGNATURE, (None,), {}, "args.missing"),
        (SIGNATURE, ("A", 1, []), {}, "args.unknown"),
        (SIGNATURE, ("A",), {"order": "A"}, "args.unknown"),
        (SIGNATURE, ("A",), {"more": 1}, "args.unknown"),
        (SCHEMA, (), {"order": "A"}, {"order": "A", "amount": "7"}),
        (SCHEMA, (), {"order": "A", "amount": None}, {"order": "A"}),
        (SCHEMA, (), {"amount": 1}, "args.missing"),
        (SCHEMA, ("A",), {}, "args.unknown"),
        (Shape.from_names(["order"]), (), {"order": "A", "amount": 1}, "args.unknown"),
        (Shape.from_schema({}), (), {"order": "A"}, {"order": "A"}),
        (Shape.from_schema({"additionalProperties": False}), (), {"order": "A"}, "args.unknown"),
        (Shape.from_schema("nonsense"), (), {"order": "A"}, "args.unknown"),
        (Shape.from_schema({"properties": [], "required": "order"}), (), {"order": "A"}, {"order": "A"}),
        (None, (), {"order": "A"}, {"order": "A"}),
        (None, (), {}, {}),
    ],
    ids=range(20),
)
def test_shapes(shape: Shape | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], answer: object) -> None:
    binder = Binder("refund", shape, SOME)
    if isinstance(answer, str):
        with pytest.raises(BindError) as caught:
            binder.bind_call(args, kwargs)
        assert caught.value.code == answer
        return
    bound = binder.bind_call(args, kwargs)
    assert bound.values == answer
    named = binder.bind({**dict(zip(shape.names if shape else (), args, strict=False)), **kwargs})
    assert (named.values, named.canonical) == (bound.values, bound.canonical), "by position or by name, it is one call"


@pytest.mark.parametrize("source", ["def f(*order): ...", "def f(order, /): ..."])
def test_parameters_without_a_name(source: str) -> None:
    scope: dict[str, Any] = {}
    exec(source, scope)
    with pytest.raises(ConfigError, match="has no name a caller could use"):
        Shape.from_signature(inspect.signature(scope["f"]))


def test_the_body_gets_what_was_judged(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    to = ["Boss@ACME.example"]
    given = {
        "order": Colour.RED,
        "amount": Decimal("20.00"),
        "to": to,
        "page": "HTTPS://Globex.example:443/%7ea",
        "file": tmp_path / "link" / "x",
    }
    bound = Binder("refund", None, TYPES).bind(given, os.path.realpath)
    real = os.path.realpath(tmp_path)
    assert bound.values == {
        "order": "red",
        "amount": "20",
        "to": ["Boss@acme.example"],
        "page": "https://globex.example/~a",
        "file": f"{real}/real/x",
    }
    assert bound.args == {
        "order": "red",
        "amount": Decimal("20.00"),
        "to": ["Boss@acme.example"],
        "page": "https://globex.example/~a",
        "file": Path(real) / "real" / "x",
    }
    assert (type(bound.args["order"]), type(bound.args["amount"]), type(bound.args["file"])) == (str, Decimal, type(tmp_path))
    to.append("evil@evil.example")
    assert bound.args["to"] == ["Boss@acme.example"], "changed after it was judged"


def test_one_call_one_canonical_form() -> None:
    binder = Binder("refund", None, TYPES)
    forms = [{"order": "A", "amount": "20.0"}, {"amount": 20, "order": "A"}, {"order": "A", "amount": Decimal("2E+1"), "to": None}]
    assert {binder.bind(form).canonical for form in forms} == {b'{"amount":"20","order":"A"}'}


# constraints of a grant, closed or not; the call; what fails: path, or path with `!` where nothing names it
CHECKS: list[tuple[dict[str, Any], bool, dict[str, Any], str | None]] = [
    ({"a": {"eq": "x"}}, True, {"a": "x"}, None),
    ({"a": {"eq": "x"}}, True, {"a": "y"}, "a"),
    ({"a": {"eq": "x"}}, True, {}, "a"),
    ({"a": {"eq": "x"}}, True, {"a": "x", "b": "y"}, "b!"),
    ({"a": {"eq": "x"}}, False, {"a": "x", "b": "y"}, None),
    ({"a": {"eq": "x", "optional": True}}, True, {}, None),
    ({"a": {"eq": "x", "optional": True}}, True, {"a": "y"}, "a"),
    ({}, True, {}, None),
    ({}, True, {"b": "y"}, "b!"),
    ({}, True, {"b": None}, None),
    ({"to[]": {"eq": "x"}}, True, {"to": ["x", "x"]}, None),
    ({"to[]": {"eq": "x"}}, True, {"to": ["x", "y"]}, "to[]"),
    ({"to[]": {"eq": "x"}}, True, {"to": []}, "to[]"),
    ({"to[]": {"eq": "x", "optional": True}}, True, {"to": []}, None),
    ({"to[]": {"eq": "x"}}, True, {"to": "x"}, "to[]"),
    ({"to[]": {"len": {"max": 2}}}, True, {"to": ["long enough", "x"]}, None),
    ({"to[]": {"len": {"max": 2}}}, True, {"to": ["x", "x", "x"]}, "to[]"),
    ({"to[]": {"subset": ["x"]}}, True, {"to": ["x"]}, None),
    ({"to": {"subset": ["x"]}}, True, {"to": ["y"]}, "to"),
    ({"to": {"each": {"eq": "x"}}}, True, {"to": ["x"]}, None),
    ({"m[].id": {"eq": "x"}}, True, {"m": [{"id": "x"}, {"id": "x"}]}, None),
    ({"m[].id": {"eq": "x"}}, True, {"m": [{"id": "x"}, {}]}, "m[].id"),
    ({"m[].id": {"eq": "x"}}, True, {"m": [{"id": "x", "n": 1}]}, "m[].n!"),
    ({"m[].id": {"eq": "x"}}, True, {"m": []}, "m[].id"),
    ({"m[].id": {"eq": "x"}, "m[].n": {"any": True}}, True, {"m": [{"id": "x", "n": 1}]}, None),
    ({"m[]": {"any": True}}, True, {"m": [{"id": "x", "n": 1}]}, None),
    ({"m[].to[]": {"eq": "x"}}, True, {"m": [{"to": ["x"]}, {"to": ["x", "y"]}]}, "m[].to[]"),
    ({"o.p": {"eq": 1}}, True, {"o": {"p": 1}}, None),
    ({"o.p": {"eq": 1}}, True, {"o": {"p": 1, "q": 2}}, "o.q!"),
    ({"o.p": {"eq": 1}}, True, {"o": 1}, "o.p"),
    ({"a": {"eq": "x"}}, True, {"a": "x", "a.b": 1}, "a.b!"),
]


@pytest.mark.parametrize(("args", "closed", "values", "fails"), CHECKS, ids=range(len(CHECKS)))
def test_arguments_of_a_permission(args: dict[str, Any], closed: bool, values: dict[str, Any], fails: str | None) -> None:
    failed = compile_args({path: parse(raw) for path, raw in args.items()}, closed=closed)(values)
    got = None if failed is None else failed[0] + ("" if failed[1] is not None else "!")
    assert got == fails


@pytest.mark.parametrize(
    ("when", "values", "met"),
    [
        ({}, {}, True),
        ({"amount": {"range": {"above": 5}}}, {"amount": "6"}, True),
        ({"amount": {"range": {"above": 5}}}, {"amount": "5"}, False),
        ({"amount": {"range": {"above": 5}}}, {}, True),
        ({"to[]": {"eq": "x"}}, {"to": ["y", "x"]}, True),
        ({"to[]": {"eq": "x"}}, {"to": ["y"]}, False),
        ({"to[]": {"len": {"min": 2}}}, {"to": ["y"]}, False),
        ({"to[]": {"len": {"min": 2}}}, {"to": ["y", "z"]}, True),
        ({"m[].n": {"eq": 1}}, {"m": [{"n": 2}, {}]}, True),
        ({"m[].n": {"eq": 1}}, {"m": [{"n": 2}]}, False),
        ({"a": {"eq": 1}, "b": {"eq": 2}}, {"a": 1, "b": 3}, False),
    ],
    ids=range(11),
)
def test_when(when: dict[str, Any], values: dict[str, Any], met: bool) -> None:
    assert compile_when({path: parse(raw) for path, raw in when.items()})(values) is met
