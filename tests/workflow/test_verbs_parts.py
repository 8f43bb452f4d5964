"""Small pieces of the verbs, each as a table."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from guard import Guard, LocalIssuer
from guard.constraints import parse
from guard.model import Delegation
from guard.ops import parse_map
from guard.policy.data import Age, FactTest, Item, Remember, Returns, Tool, Variant
from guard.record import ListSink
from guard.workflow.atoms import Live, NotJudged, Told
from guard.workflow.events import labels_of
from guard.workflow.facts import LARGEST, holds, key_of, remembered
from guard.workflow.limits import Context
from guard.workflow.marks import plain_keys, shape_of
from tests.runtime.conftest import only_ports_take_time
from tests.workflow.chains import BASE

CONTEXT = Context("T", "N", "alice", "worker", b"n", b"t", "alice", None)


def _must(**raw: Any) -> Any:
    return parse(raw, origin="policy")


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        ({"channel": "private"}, ("private",)),
        ({"channel": "secret"}, ("secret", "private")),
        ({"channel": "public"}, ("plain",)),
        ({}, ("private", "secret", "plain")),
        ({"channel": None}, ("private", "secret", "plain")),
    ],
    ids=str,
)
def test_labels_of_variants(args: dict[str, object], labels: tuple[str, ...]) -> None:
    """The first variant that holds; one that cannot be evaluated latches as well, since the caller may not choose its label."""
    returns = Returns(
        labels=("plain",),
        variants=(
            Variant({"channel": _must(eq="private")}, ("private",), {}),
            Variant({"channel": _must(eq="secret")}, ("secret", "private"), {}),
        ),
    )
    tool = Tool("t", ("read",), {"channel": "id"}, frozenset(), True, returns=returns)
    assert labels_of(tool, Live(args)) == labels


@pytest.mark.parametrize(
    ("returns", "labels"),
    [(None, ("untrusted",)), (Returns(none=True), ()), (Returns(), ()), (Returns(labels=("a", "a", "b")), ("a", "b"))],
)
def test_labels(returns: Returns | None, labels: tuple[str, ...]) -> None:
    assert labels_of(Tool("t", ("read",), {}, frozenset(), True, returns=returns), Live({})) == labels


@pytest.mark.parametrize(
    ("item", "keys"),
    [
        (Item(label="private"), ("T|x|l|private",)),
        (Item(tool=frozenset({"pay", "look"})), ("T|x|t|look", "T|x|t|pay")),
        (Item(effect=frozenset({"pay"})), ("T|x|e|pay",)),
        (Item(tool=frozenset({"pay", "look"}), effect=frozenset({"pay"})), ("T|x|t|pay",)),
        (Item(tool=frozenset({"pay"}), match={"x": "x"}), None),
        (Item(tool=frozenset({"pay"}), args={"x": _must(eq="a")}), None),
        (Item(args={"x": _must(eq="a")}), None),
    ],
)
def test_keys_of_an_item(item: Item, keys: tuple[str, ...] | None) -> None:
    assert plain_keys(item, BASE.tools, "T") == keys


def test_a_shape_is_what_it_says() -> None:
    one = Item(tool=frozenset({"pay", "look"}), match={"x": "y", "n": "m"})
    assert shape_of(one) == shape_of(Item(tool=frozenset({"look", "pay"}), match={"n": "m", "x": "y"}))
    others = [
        Item(tool=frozenset({"pay"}), match={"x": "y", "n": "m"}),
        Item(tool=frozenset({"pay", "look"}), match={"x": "y"}),
        Item(effect=frozenset({"pay", "look"}), match={"x": "y", "n": "m"}),
        Item(tool=frozenset({"pay", "look"}), args={"x": _must(eq="a")}),
        Item(tool=frozenset({"pay", "look"}), args={"x": _must(eq=1)}),
    ]
    assert len({shape_of(each) for each in (one, *others)}) == 6
    assert shape_of(one, "person") != shape_of(one, "actor") != shape_of(one)


NOW = 1_800_000_000
DAY_AGO = "2027-01-14T08:00:00"  # NOW - 24 h


@pytest.mark.parametrize(
    ("where", "bounds", "stored", "answer"),
    [
        ({"cabin": _must(eq="business")}, {}, '{"cabin":"business"}', True),
        ({"cabin": _must(eq="business")}, {}, '{"cabin":"economy"}', False),
        ({"cabin": _must(eq="business")}, {}, '{"other":"business"}', False),
        ({"cabin": _must(eq="business")}, {}, None, False),
        ({"cabin": _must(eq="business")}, {}, "no JSON", False),
        ({"cabin": _must(eq="business")}, {}, '["business"]', False),
        ({"made": Age(None, 86_400)}, {}, f'{{"made":"{DAY_AGO}"}}', True),
        ({"made": Age(None, 86_399)}, {}, f'{{"made":"{DAY_AGO}"}}', False),
        ({"made": Age(86_401, None)}, {}, f'{{"made":"{DAY_AGO}"}}', False),
        ({"made": Age(None, 86_400)}, {}, '{"made":"2030-01-01"}', False),
        ({"made": Age(None, 86_400)}, {}, '{"made":"yesterday"}', False),
        ({"made": Age(None, 86_400)}, {}, '{"made":12}', False),
        ({}, {"args.n": {"max": "price"}}, '{"price":"10.0"}', True),
        ({}, {"args.n": {"below": "price"}}, '{"price":"10"}', False),
        ({}, {"args.n": {"max": "price"}}, '{"price":"much"}', False),
        ({}, {"args.none": {"max": "price"}}, '{"price":"10"}', False),
    ],
)
def test_facts(where: Any, bounds: Any, stored: object, answer: bool) -> None:
    live = Live({"n": 10})
    test = FactTest("booking", "args.n", where, bounds)
    assert holds(test, "r.fact.0", stored, live, NOW) is answer
    assert holds(test, "r.fact.0", "anything else", Told(live.told), 0) is answer, "told, not judged anew"
    with pytest.raises(NotJudged):
        holds(test, "r.fact.0", stored, Told({}), NOW)


def test_what_is_remembered() -> None:
    tool = Tool(
        "t", ("read",), {"id": "id"}, frozenset(), True, remember=(Remember("b", "args.id", {"cabin": "cabin", "price": "fare.price"}),)
    )
    live = Live({"id": "a"})
    (op,) = remembered(tool, live, CONTEXT, {"cabin": "x", "fare": {"price": Decimal("1.50")}, "other": 1}, "d1")
    assert (op.key, op.value, op.by) == (key_of(FactTest("b", "args.id"), "s", live, CONTEXT), '{"cabin":"x","price":"1.50"}', "d1")  # type: ignore[union-attr]
    for result in (None, "text", [], {}, {"cabin": ["x"]}, {"cabin": "x" * LARGEST}):
        assert remembered(tool, live, CONTEXT, result, "d1") == []


@pytest.mark.parametrize("text", [None, 7, "", "a", "no map at all", "="])
def test_what_is_no_map_is_empty_or_harmless(text: object) -> None:
    assert all(word == "" for word in parse_map(text))


# -- ports of outside news --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [float("inf"), "Infinity", "NaN", "much"])
def test_a_price_that_is_no_finite_number_bounds_nothing(price: object) -> None:
    test = FactTest("offer", "args.x", bounds={"args.n": {"max": "price"}})
    assert holds(test, "s", json.dumps({"price": "10"}), Live({"x": "a", "n": "10"}), 0)
    assert not holds(test, "s", json.dumps({"price": price}), Live({"x": "a", "n": "10"}), 0)


class Proves:
    """`go_on`: until then it says nothing; `back`: it has."""

    def __init__(self) -> None:
        self.go_on, self.back = threading.Event(), threading.Event()

    def actor(self, delegation: Delegation) -> str | None:
        self.go_on.wait(30)
        self.back.set()
        return delegation.actor


@pytest.mark.parametrize(("late", "proven"), [(False, "worker"), (True, None)])
def test_a_proof_that_is_late_is_none(late: bool, proven: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    only_ports_take_time(monkeypatch)
    iam, proves = LocalIssuer("late"), Proves()
    if not late:
        proves.go_on.set()
    guard = Guard(
        BASE, trust=iam, sinks=[ListSink()], proofs=proves, deadline=timedelta(milliseconds=200) if late else timedelta(seconds=30)
    )
    with guard.task(iam.mint(origin="alice", actor="worker", intent="work")) as task:
        assert task.state.context.actor_proven == proven
        assert proves.back.is_set() is not late
    proves.go_on.set()
