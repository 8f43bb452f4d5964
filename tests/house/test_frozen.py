"""`frozen` makes what `@dataclass(frozen=True, slots=True)` makes, as far as anybody can see."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from guard.constraints.constraint import Constraint
from guard.events import DecisionRecord, OutcomeRecord
from guard.frozen import another, frozen
from guard.model import Bound, Credential, Decision, Finding, Outcome, ToolCall


class Plain:
    """A thing."""

    first: str
    second: int = 2
    hidden: object = field(default=None, compare=False, repr=False)
    many: dict[str, int] = field(default_factory=dict, hash=False)
    kind: str = field(default="plain", init=False)

    def loud(self) -> str:
        return self.first.upper()


Theirs: Any = dataclass(frozen=True, slots=True)(type("Thing", (), dict(vars(Plain))))
Ours: Any = frozen(type("Thing", (), dict(vars(Plain))))
GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}), (("a", 3), {}), (("a",), {"second": 3}), (("b", 3, object()), {}), (("a", 2, None, {"x": 1}), {}), ((), {"first": "a"}),
]  # fmt: skip


def test_the_same_to_look_at() -> None:
    for args, kwargs in GIVEN:
        ours, theirs = Ours(*args, **kwargs), Theirs(*args, **kwargs)
        assert repr(ours) == repr(theirs)
        assert [getattr(ours, f.name) for f in fields(ours)] == [getattr(theirs, f.name) for f in fields(theirs)]
        assert ours.loud() == theirs.loud()
    assert [f.name for f in fields(Ours)] == [f.name for f in fields(Theirs)]
    assert Ours.__match_args__ == Theirs.__match_args__
    assert Ours.__slots__ == Theirs.__slots__
    assert list(inspect.signature(Ours).parameters) == list(inspect.signature(Theirs).parameters)


def test_the_same_to_compare() -> None:
    for one, kw in GIVEN:
        for two, kw2 in GIVEN:
            assert (Ours(*one, **kw) == Ours(*two, **kw2)) == (Theirs(*one, **kw) == Theirs(*two, **kw2))
    assert Ours("a") != Theirs("a")
    assert Ours("a") != "a"


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("a", 1, 2, 3, 4), {}), (("a",), {"first": "b"}), (("a",), {"other": 1})])
def test_the_same_to_misuse(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for cls in (Ours, Theirs):
        with pytest.raises(TypeError):
            cls(*args, **kwargs)


def test_a_hash_is_of_what_is_compared() -> None:
    assert hash(Credential("i", "j", "k")) == hash(Credential("i", "j", "k"))
    assert {Credential("i", "j", "k"): 1}[Credential("i", "j", "k")] == 1
    with pytest.raises(TypeError):
        hash(ToolCall("t", {}))


@pytest.mark.parametrize("cls", [Bound, Constraint, Decision, DecisionRecord, Outcome, OutcomeRecord, ToolCall])
def test_frozen_whichever_way_it_was_made(cls: Any) -> None:
    taken = [f.name for f in fields(cls) if f.init]
    needed = [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]
    for given in (needed, taken):
        values = [f"v{i}" for i in range(len(given))]
        for one in (cls.__new__(cls, *values), cls(**dict(zip(given, values, strict=True)))):
            assert type(one) is cls
            assert all(getattr(one, f.name) == getattr(cls(*values), f.name) for f in fields(cls))
            with pytest.raises(FrozenInstanceError):
                setattr(one, taken[0], "other")
            with pytest.raises(FrozenInstanceError):
                delattr(one, taken[0])
            with pytest.raises((FrozenInstanceError, AttributeError)):
                one.new = 1
    if needed:
        with pytest.raises(TypeError, match=needed[-1]):
            cls(*values[: len(needed) - 1])


def test_a_default_is_made_anew_each_time() -> None:
    assert ToolCall("a").args == {}
    assert ToolCall("a").args is not ToolCall("b").args


def test_copied_replaced_and_pickled() -> None:
    one = Finding("rules", "forbid", "rule.limit", rule="few")  # type: ignore[arg-type]
    for other in (copy.copy(one), copy.deepcopy(one), replace(one), pickle.loads(pickle.dumps(one))):  # noqa: S301 - our own
        assert other == one
        assert type(other) is Finding
    assert replace(one, rule="many").rule == "many"


def test_what_it_cannot_make_it_refuses() -> None:
    with pytest.raises(TypeError, match="base"):
        frozen(type("Child", (Finding,), {"__annotations__": {"more": int}, "more": 1}))


def test_after_it_is_filled() -> None:
    class Checked:
        many: int

        def __post_init__(self) -> None:
            if self.many < 0:
                raise ValueError("many")

    made: Any = frozen(Checked)
    assert made(1).many == 1
    with pytest.raises(ValueError, match="many"):
        made(-1)


def test_another_says_the_same_but_for_what_is_named() -> None:
    first = Ours("a", 3, "x", {"y": 1})
    made = another(Ours, "hidden", "first")(first, "z", "b")
    assert type(made) is Ours
    assert made == replace(first, first="b")
    assert made.hidden == "z"
    assert made.many is first.many
    with pytest.raises(FrozenInstanceError):
        made.first = "c"
