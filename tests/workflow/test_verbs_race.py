"""What a judge read is still so when its call is committed: somebody comes in between, and the call is judged again.

The store here is the real one; between a read and the reservation that rests on it, it lets one other call through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from guard import Guard, LocalIssuer, ToolCall
from guard.constraints import parse
from guard.model import Decision, Delegation, Outcome, Signal
from guard.ops import Applied, Drop, Lookup, Op, Put, Refused
from guard.policy.data import After, Before, Exclusive, Item, Limit, Once, Returns, Rule, Unless, When
from guard.ports import StateStore
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from guard.taskflow import task_key
from guard.testing import FrozenClock
from tests.workflow.chains import BASE, wrap

LONG = timedelta(seconds=60)
"""A loaded machine must not change a verdict."""


class Between(MemoryState):
    """Lets `let_in` happen once, before the next list that is committed."""

    let_in: Callable[[], object] | None = None

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        if commit and self.let_in is not None:
            other, self.let_in = self.let_in, None
            other()
        return super().apply(ops, now=now, commit=commit)


class Desk:
    def __init__(
        self, *rules: Rule, order: tuple[str, ...] = (), once: Once | None = None, store: MemoryState | None = None, signals: Any = None
    ) -> None:
        labels = {"look": ("private",), "page": ("untrusted",)}
        tools = {n: replace(t, returns=Returns(labels=labels.get(n, ())), once=once if n == "pay" else None) for n, t in BASE.tools.items()}
        intents = {"work": replace(BASE.intents["work"], order=order)}
        self.between, self.clock, self.sink = Between(), FrozenClock(), ListSink()
        self.store: StateStore = store or self.between
        self.iam = iam = LocalIssuer("race", clock=lambda: self.clock.now().timestamp())
        self.policy = policy = replace(BASE, tools=tools, intents=intents, rules=rules)
        self.guard = Guard(policy, trust=iam, state=self.store, sinks=[self.sink], clock=self.clock, signals=signals, deadline=LONG)
        self.tasks = {
            name: self.guard.task(iam.mint(origin=name, actor="worker", intent="work", ttl="1h", txn=name)) for name in ("alice", "bob")
        }
        for task in self.tasks.values():
            task.__enter__()

    def again(self, *rules: Rule) -> Desk:
        """Another process on the same store, which has loaded other policies; the same tasks."""
        other = object.__new__(Desk)
        other.clock, other.sink = self.clock, ListSink()
        policy = replace(self.policy, rules=rules, digest="another")
        other.guard = Guard(policy, trust=self.iam, state=self.store, sinks=[other.sink], clock=self.clock, deadline=LONG)
        other.tasks = {name: other.guard.task(task.token) for name, task in self.tasks.items()}
        for task in other.tasks.values():
            task.__enter__()
        return other

    def begin(self, tool: str, who: str = "alice", **args: object) -> Decision:
        with self.tasks[who]:
            return self.guard.before(ToolCall(tool, {"x": "a"} | args))

    def call(self, tool: str, who: str = "alice", status: str = "ok", **args: object) -> Decision:
        decision = self.begin(tool, who, **args)
        if not decision.blocks:
            with self.tasks[who]:
                self.guard.after(decision, Outcome(status))  # type: ignore[arg-type]
        return decision


def _rule(**verb: Any) -> Rule:
    return Rule("r", verb.pop("when", When(tools=frozenset({"pay"}))), verb.pop("then", "deny"), where="p:1", **verb)


PAY = {"n": 1}
NOT = Unless(None, {"x": wrap({"eq": "z"}, "id")}, frozenset())
SAME = {"x": "x"}
RACES: dict[str, tuple[Rule, list[str], str, str]] = {
    # rule, calls before, the call that comes in between, the verdict of `pay`
    "forbid_after, hard": (_rule(after=After((Item(tool=frozenset({"page"})),))), [], "page", "deny"),
    "forbid_after, two items": (
        _rule(after=After((Item(tool=frozenset({"page"})), Item(tool=frozenset({"look"}))))),
        ["look"],
        "page",
        "deny",
    ),
    "forbid_after, a label": (_rule(after=After((Item(label="untrusted"),))), [], "page", "deny"),
    "forbid_after, ask": (_rule(after=After((Item(tool=frozenset({"page"})),)), then="ask"), [], "page", "ask"),
    "forbid_after, unless": (_rule(after=After((Item(tool=frozenset({"page"})),)), unless=NOT), [], "page", "deny"),
    "forbid_after, match": (_rule(after=After((Item(tool=frozenset({"page"}), match=SAME),))), [], "page", "deny"),
    "in_order": (_rule(after=After((Item(tool=frozenset({"look"})), Item(tool=frozenset({"page"}))), True)), ["look"], "page", "deny"),
    "exclusive, hard": (
        _rule(exclusive=Exclusive((Item(tool=frozenset({"pay"})), Item(tool=frozenset({"check"}))), "origin")),
        [],
        "check",
        "deny",
    ),
    "exclusive, ask": (
        _rule(exclusive=Exclusive((Item(tool=frozenset({"pay"})), Item(tool=frozenset({"check"}))), "origin"), then="ask"),
        [],
        "check",
        "ask",
    ),
    "denied": (_rule(when=When(), limit=Limit(Decimal(1), denied=True)), [], "refused", "deny"),
    "consumed by another": (
        _rule(before=Before(Item(tool=frozenset({"check"}), match=SAME), "ok", None, None, True)),
        ["check"],
        "pay",
        "deny",
    ),
}


@pytest.mark.parametrize("name", RACES)
def test_one_comes_in_between(name: str) -> None:
    rule, earlier, other, verdict = RACES[name]
    denying = replace(
        rule,
        id="other",
        when=When(tools=frozenset({"note"})),
        after=None,
        before=None,
        exclusive=None,
        limit=None,
        then="deny",
        where="p:2",
    )
    desk = Desk(rule, denying)
    for tool in earlier:
        assert not desk.call(tool, **(PAY if tool in ("pay", "check") else {})).blocks

    def come_in() -> None:
        if other == "refused":
            assert desk.call("note").verdict == "deny"
        else:
            assert desk.call(other, **(PAY if other in ("pay", "check") else {})).verdict == "allow"

    desk.between.let_in = come_in
    decision = desk.begin("pay", **PAY)
    assert decision.verdict == verdict
    assert [f.rule for f in decision.findings if f.says in ("forbid", "ask")] == ["r"]


def test_order_and_once_are_held() -> None:
    desk = Desk(order=("pay", "look"))
    desk.between.let_in = lambda: desk.call("look")
    assert desk.begin("pay", **PAY).code == "intent.order"
    desk = Desk(once=Once(("x",)))
    first: list[Decision] = []
    desk.between.let_in = lambda: first.append(desk.call("pay", "bob", **PAY))
    again = desk.begin("pay", **PAY)
    assert again.code == "call.already_run"
    assert again.witnesses == (first[0].id,)


def test_judged_again_at_most_three_times() -> None:
    """Ground that moves under every try is denied, not asked for ever."""
    tries: list[int] = []

    class Moving(MemoryState):
        def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
            at = next((i for i, op in enumerate(ops) if type(op) is Drop), None)
            if at is None or not commit:
                return super().apply(ops, now=now, commit=commit)
            tries.append(at)
            return Refused(at, None, "", int(now.timestamp()))

    desk = Desk(_rule(before=Before(Item(tool=frozenset({"check"}), match=SAME), "ok", None, 3600, True)), store=Moving())
    desk.call("check", **PAY)
    assert desk.begin("pay", **PAY).code == "call.contended"
    assert len(tries) == 3
    assert desk.call("look").verdict == "allow"


def test_a_store_that_fails_the_read_denies() -> None:
    class Blind(MemoryState):
        def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
            if not commit:
                raise OSError("gone")
            return super().apply(ops, now=now, commit=commit)

    desk = Desk(_rule(after=After((Item(label="untrusted"),))), store=Blind())
    assert desk.begin("pay", **PAY).code == "state.unavailable"
    assert desk.begin("look").verdict == "allow", "no rule looks back there"


def test_four_eyes_across_two_tasks() -> None:
    """Joined by account and amount, by another person, within the half hour, each approval used once."""
    item = Item(tool=frozenset({"check"}), match={"x": "x", "n": "n"})
    desk = Desk(_rule(before=Before(item, "ok", "person", 1800, True), then="ask"))
    assert desk.begin("pay", n=6).verdict == "ask"
    assert desk.call("check", n=6).verdict == "allow"
    assert desk.begin("pay", n=6).verdict == "ask", "one's own approval"
    assert desk.call("check", "bob", n=3).verdict == "allow"
    assert desk.begin("pay", n=6).verdict == "ask", "another amount"
    assert desk.call("check", "bob", "unknown", n=6).verdict == "allow"
    assert desk.begin("pay", n=6).verdict == "ask", "nobody knows whether it was approved"
    assert desk.call("check", "bob", n=6).verdict == "allow"
    assert desk.call("pay", n=6).verdict == "allow"
    assert desk.begin("pay", n=6).verdict == "ask", "used"
    desk.call("check", "bob", n=6)
    desk.clock.advance(1800)
    assert desk.begin("pay", n=6).verdict == "ask", "half an hour ago"


def test_maker_and_checker_across_two_tasks() -> None:
    desk = Desk(_rule(when=When(), exclusive=Exclusive((Item(tool=frozenset({"pay"})), Item(tool=frozenset({"check"}))), "person", ("x",))))
    first = desk.call("check", "alice", n=1)
    second = desk.begin("pay", "alice", n=1)
    assert (second.code, second.witnesses) == ("rule.exclusive", (first.id,))
    assert desk.call("pay", "alice", x="b", n=1).verdict == "allow", "another account"
    assert desk.call("pay", "bob", n=1).verdict == "allow"
    assert desk.begin("check", "bob", n=1).code == "rule.exclusive"


@pytest.mark.parametrize("tool", ["look", "pay"])
def test_a_record_that_fails_takes_back_what_was_left(tool: str) -> None:
    """The body does not run: no counter, no `once`, and a consumed end is back. A label stays, which is the strict side."""
    rules = (
        _rule(before=Before(Item(tool=frozenset({"check"}), match=SAME), "ok", None, None, True)),
        Rule("after", When(tools=frozenset({"page"})), "deny", after=After((Item(label="private"),)), where="p:2"),
    )
    desk = Desk(*rules, once=Once(("x",)))
    desk.call("check", n=1)
    desk.sink.decision = _fail  # type: ignore[method-assign]
    assert desk.begin(tool, **(PAY if tool == "pay" else {})).code == "record.unavailable"
    del desk.sink.decision
    assert desk.begin("page").verdict == ("deny" if tool == "look" else "allow"), "a label that was set stays set"
    assert desk.call("pay", **PAY).verdict == "allow", "the end that was consumed is back, and `once`"
    desk.call("look")
    assert desk.begin("page").code == "rule.forbid_after"


def _fail(record: object) -> None:
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("signal", "verdict"),
    [
        (None, "ask"),
        (Signal(True, 0), "allow"),
        (Signal(False, 0), "ask"),
        (Signal("yes", 0), "ask"),
        (Signal(True, -900), "ask"),
        (Signal(True, -899), "allow"),
        (Signal(True, 60), "ask"),
        ("nonsense", "ask"),
        (OSError("gone"), "ask"),
    ],
    ids=str,
)
def test_a_signal_must_be_there_fresh_and_right(signal: object, verdict: str) -> None:
    class Port:
        inline = True

        def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> dict[str, Any]:
            assert names == ("device.compliant",)
            if isinstance(signal, OSError):
                raise signal
            if isinstance(signal, Signal):
                return {"device.compliant": replace(signal, at=now + signal.at)}
            return {} if signal is None else {"device.compliant": signal}

    rule = _rule(signals={"device.compliant": parse({"eq": True}, origin="policy")}, then="ask")
    desk = Desk(rule, signals=Port())
    assert desk.begin("pay", **PAY).verdict == verdict
    assert desk.begin("look").verdict == "allow"


def test_who_was_not_reloaded_does_not_judge_on() -> None:
    """The newest loaded policy governs the next call; a process with the older one is refused, and never overwrites it."""
    desk = Desk()
    assert desk.call("look").verdict == "allow"
    newer = desk.again(_rule(after=After((Item(tool=frozenset({"look"})),))))
    assert newer.begin("pay", **PAY).code == "rule.forbid_after", "the new rule sees the past"
    assert desk.begin("look").code == "policy.older"
    assert newer.begin("look").verdict == "allow"


def test_a_dry_run_judges_under_newer_policies_than_the_task_has_seen() -> None:
    """As the call would, which puts the newer policies first; and it leaves the older ones standing."""
    desk = Desk()
    desk.call("look")
    newer = desk.again(_rule(after=After((Item(tool=frozenset({"look"})),))))
    key = task_key(desk.tasks["alice"].delegation)
    older, mine = (Put(f"{key}|life", one.guard._house.generation) for one in (desk, newer))
    now = desk.clock.now()
    with newer.tasks["alice"]:
        desk.store.apply([older], now=now)
        for _ in range(2):
            assert newer.guard.check(ToolCall("look", {"x": "a"})).verdict == "allow"
            assert newer.guard.check(ToolCall("pay", {"x": "a", **PAY})).code == "rule.forbid_after"
        assert desk.store.apply([Lookup(older.key)], now=now).values == (older.value,)  # type: ignore[union-attr]
    assert newer.begin("look").verdict == "allow"
    assert desk.store.apply([Lookup(older.key)], now=now).values == (mine.value,)  # type: ignore[union-attr]
    with desk.tasks["alice"]:
        assert desk.guard.check(ToolCall("look", {"x": "a"})).code == "policy.older", (
            "a dry run of the older ones is refused as the call is"
        )
    with newer.tasks["alice"]:
        for ended, code in (("ended:x", "task.ended"), ("suspended:r", "task.suspended"), ("nonsense", "state.unavailable")):
            desk.store.apply([Put(older.key, ended)], now=now)
            assert newer.guard.check(ToolCall("look", {"x": "a"})).code == code


def test_a_rule_that_counts_from_now_on_asks_in_a_running_task() -> None:
    desk = Desk()
    desk.call("look")
    desk.clock.advance(5)
    shaped = _rule(after=After((Item(tool=frozenset({"look"}), args={"x": wrap({"eq": "a"}, "id")}),)))
    newer = desk.again(shaped)
    assert newer.begin("pay", **PAY).code == "state.incomplete"
    assert newer.begin("page").verdict == "allow", "the rule is not about it"


def test_a_dry_run_leaves_nothing() -> None:
    desk = Desk(
        _rule(before=Before(Item(tool=frozenset({"check"}), match=SAME), "ok", None, None, True)),
        Rule("after", When(tools=frozenset({"page"})), "suspend", after=After((Item(label="private"),)), where="p:2"),
    )
    desk.call("check", n=1)
    before = repr((desk.between._counts, desk.between._marks))
    with desk.tasks["alice"]:
        for _ in range(2):
            assert desk.guard.check(ToolCall("pay", {"x": "a", "n": 1})).verdict == "allow"
            assert desk.guard.check(ToolCall("look", {"x": "a"})).verdict == "allow"
    assert repr((desk.between._counts, desk.between._marks)) == before
    desk.call("look")
    with desk.tasks["alice"]:
        assert desk.guard.check(ToolCall("page", {"x": "a"})).code == "rule.forbid_after"
    assert desk.begin("note").verdict == "allow", "a dry run suspends nothing"


@pytest.mark.parametrize("then", ["deny", "ask"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_many_at_once_do_only_one_of_two(kind: str, then: str, tmp_path: Path) -> None:
    """Eight processes' worth of guards on one store: whoever is first decides which of the two is done, and nobody does the other."""
    rule = _rule(
        when=When(), exclusive=Exclusive((Item(tool=frozenset({"pay"})), Item(tool=frozenset({"check"}))), "person", ("x",)), then=then
    )
    allowed: dict[str, set[str]] = {f"v{n}": set() for n in range(12)}
    store: Any = MemoryState() if kind == "memory" else SqliteState(tmp_path / "s.db", timeout=30)
    store.born = FrozenClock().now()
    first = Desk(rule, store=store)
    start = threading.Barrier(6)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            desk = first.again(rule)
            start.wait(30)
            for x, done in allowed.items():
                tool = ("pay", "check")[(number + len(x)) % 2]
                if desk.begin(tool, x=x, n=1).verdict == "allow":
                    done.add(tool)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(len(done) == 1 for done in allowed.values()), allowed


def test_two_rules_may_rest_on_the_same_end() -> None:
    """Both consume it, or one of them only looks: the call takes it once."""
    item = Item(tool=frozenset({"check"}), match=SAME)
    taking = _rule(before=Before(item, "ok", None, None, True))
    looking = replace(taking, id="other", where="p:2", before=Before(item, "ok", None, 3600, False))
    for rules in ((taking, replace(taking, id="other", where="p:2")), (taking, looking), (looking, taking)):
        desk = Desk(*rules)
        desk.call("check", n=1)
        assert desk.call("pay", **PAY).verdict == "allow"
        assert desk.begin("pay", **PAY).code == "rule.require_before"


# -- counters that many calls rest on -------------------------------------------------------------------------------------------


class Refuses(ListSink):
    """Refuses the record of one decision, after `meanwhile`."""

    meanwhile: Callable[[], object] | None = None

    def decision(self, record: Any) -> None:
        if self.meanwhile is not None:
            other, self.meanwhile = self.meanwhile, None
            other()
            raise OSError("full")
        super().decision(record)


def test_a_call_does_not_rest_on_counters_that_are_being_taken_back() -> None:
    """Two first calls of one tool; the one that adds fails to be recorded after the other was judged and before that one reserves."""
    desk = Desk(_rule(after=After((Item(tool=frozenset({"look"})),))))
    sink = Refuses()
    desk.guard._house.sinks = (sink,)
    judged, failed = threading.Event(), threading.Event()
    second: list[Decision] = []
    others: list[threading.Thread] = []

    def rest() -> None:
        other = threading.Thread(target=lambda: second.append(desk.begin("look", x="b")))

        def wait() -> None:
            judged.set()
            assert failed.wait(20)

        desk.between.let_in = wait  # before the reservation of the second call
        others.append(other)
        other.start()
        assert judged.wait(20)

    sink.meanwhile = rest
    assert desk.begin("look").code == "record.unavailable"
    failed.set()
    others[0].join(20)
    assert second[0].verdict == "allow"
    assert desk.call("pay", **PAY).verdict == "deny"


def test_who_rests_and_who_takes_back() -> None:
    """Counters stand as long as somebody rests on them."""
    state = Desk(_rule(then="ask")).tasks["alice"].state
    assert not state.rests("look"), "nobody has added"
    state.ran["look"] = [False]
    assert state.takes_back("look"), "nobody rests: taken back"
    assert not state.rests("look"), "and from then on nobody may"
    state.ran["look"] = [False]
    assert state.rests("look")
    assert not state.takes_back("look"), "somebody rests: they stay"
    assert state.rests("look")
