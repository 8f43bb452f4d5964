"""Generated policies and chains, run through the real guard and told to the oracle beside it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from guard import Guard, LocalIssuer, ToolCall
from guard.constraints import parse
from guard.errors import Denied
from guard.model import Decision, Delegation, Outcome
from guard.ops import Applied, Op, Refused
from guard.policy import Policy
from guard.policy.data import After, Before, Exclusive, Item, Limit, Once, Returns, Rule, Unless, When
from guard.ports import StateStore
from guard.record import ListSink
from guard.testing import FrozenClock
from guard.workflow.atoms import Live, told_of
from guard.workflow.weigh import reads, weigh
from tests.workflow.oracle import Oracle, Past

BASE = Policy.from_text("""
guardtrail: 1
name: chain
owner: tests@acme.example
tools:
  look: {effect: read, control: {x: id}}
  page: {effect: fetch, control: {x: id}}
  pay: {effect: pay, control: {x: id}, data: {n: int}}
  check: {effect: approve, control: {x: id}, data: {n: int}}
  note: {effect: write, control: {x: id}, errors_have_no_effect: true}
intents:
  work:
    description: Everything.
    allow: {look: {}, page: {}, pay: {}, check: {}, note: {}}
""")
TOOLS = ("look", "page", "pay", "check", "note")
EFFECTS = {"look": "read", "page": "fetch", "pay": "pay", "check": "approve", "note": "write"}
TASKS = {"t1": "alice", "t2": "alice", "t3": "bob"}
HOUR = 3600


def wrap(text: object, kind: str) -> Any:
    return parse(text, origin="policy").typed(kind)


class Proofs:
    """Actor `ghost` has proven nothing."""

    inline = True

    def actor(self, delegation: Delegation) -> str | None:
        return None if delegation.actor == "ghost" else delegation.actor


@dataclass
class World:
    """A policy, what a reload would bring, and the intent's order."""

    policy: Policy
    other: Policy
    order: tuple[str, ...]


# -- policies ------------------------------------------------------------------------------------------------------------------


def _item(r: Random, *, label: bool = True, match: bool = True, args: bool = True) -> Item:
    if label and r.random() < 0.25:
        return Item(label=r.choice(("private", "untrusted")))
    found: dict[str, Any] = {}
    if args and r.random() < 0.3:
        found["x"] = wrap({"eq": r.choice("ab")}, "id")
    joined = {"x": "x"} if match and r.random() < 0.35 else {}
    if r.random() < 0.7:
        return Item(tool=frozenset(r.sample(TOOLS, r.choice((1, 1, 2)))), args=found, match=joined)
    return Item(effect=frozenset({EFFECTS[r.choice(TOOLS)]}), args=found, match=joined)


def _rule(r: Random, number: int) -> Rule:
    when = When(
        tools=frozenset(r.sample(TOOLS, r.choice((1, 2, 3)))) if r.random() < 0.7 else frozenset(),
        args={"x": wrap({"eq": r.choice("ab")}, "id")} if r.random() < 0.25 else {},
    )
    then: Any = r.choice(("deny", "deny", "deny", "ask", "alert", "suspend"))
    unless = Unless(None, {"x": wrap({"eq": "c"}, "id")}, frozenset()) if r.random() < 0.2 else None
    rule = Rule(f"r{number}", when, then, where=f"p:{number}", unless=unless, monitor=r.random() < 0.08)
    if rule.monitor:
        from datetime import date

        rule = replace(rule, until=date(2027, 1, 1))
    match r.choice(("after", "after", "order", "before", "before", "limit", "denied", "apart", "apart", "none", "end")):
        case "after":
            return replace(rule, after=After(tuple(_item(r) for _ in range(r.choice((1, 1, 2, 3))))))
        case "order":
            return replace(rule, after=After(tuple(_item(r, match=False) for _ in range(r.choice((2, 3)))), in_order=True))
        case "before":
            item = _item(r, label=False)
            distinct: Any = r.choice((None, None, "person", "actor"))
            consume = bool(item.match) and r.random() < 0.5
            when = when if when.tools else replace(when, tools=frozenset({r.choice(TOOLS)}))
            return replace(rule, when=when, before=Before(item, "ok", distinct, r.choice((None, HOUR)), consume))
        case "limit":
            per: Any = r.choice(((), ("origin",), ("args.x",)))
            window = r.choice((None, HOUR))
            if r.random() < 0.5:
                return replace(
                    rule, then=r.choice(("deny", "ask", "suspend")), limit=Limit(Decimal(r.choice((1, 2, 3))), None, window, per)
                )
            when = replace(when, tools=frozenset({"pay"}))
            return replace(rule, when=when, then=r.choice(("deny", "ask")), limit=Limit(Decimal(10), "n", window, per))
        case "denied":
            return replace(rule, when=When(), limit=Limit(Decimal(r.choice((1, 2, 3))), None, r.choice((None, HOUR)), (), denied=True))
        case "apart":
            a, b = r.sample(TOOLS, 2)
            extra = {"x": wrap({"eq": "a"}, "id")} if r.random() < 0.2 else {}
            by: Any = r.choice(("person", "actor", "origin"))
            items = (Item(tool=frozenset({a}), args=extra), Item(tool=frozenset({b})))
            return replace(rule, exclusive=Exclusive(items, by, r.choice(((), ("x",)))))
        case "end":
            item = Item(tool=frozenset({r.choice(TOOLS)}))
            verb: Any = {"before": Before(item)} if r.random() < 0.6 else {"after": After((_item(r, match=False, args=False),))}
            return replace(rule, when=When(end=True), then="deny", unless=None, monitor=False, until=None, **verb)
        case _:
            return replace(rule, when=replace(when, args={"x": wrap({"eq": "z"}, "id")}))


def _plain(r: Random, number: int) -> Rule:
    """A rule a reload may bring in the middle: it rests on what is stored for every tool."""
    while True:
        rule = _rule(r, number)
        items = rule.after.items if rule.after is not None and not rule.after.in_order else ()
        if items and not rule.monitor and not any(item.args or item.match for item in items):
            return rule


def make_world(r: Random) -> World:
    once = Once(("x",), r.choice((None, HOUR))) if r.random() < 0.3 else None
    labels = {"look": ("private",), "page": ("untrusted",), "note": ("private",)}
    tools = {
        name: replace(tool, returns=Returns(labels=labels.get(name, ())), once=once if name == "pay" else None)
        for name, tool in BASE.tools.items()
    }
    order = tuple(r.sample(TOOLS, r.choice((2, 3)))) if r.random() < 0.3 else ()
    intents = {"work": replace(BASE.intents["work"], order=order)}
    rules = tuple(_rule(r, i) for i in range(r.choice((1, 2, 3, 5))))
    policy = replace(BASE, tools=tools, intents=intents, rules=rules, digest=f"{r.getrandbits(64):016x}")
    other = replace(policy, rules=(*rules, _plain(r, 90)), digest=f"{r.getrandbits(64):016x}")
    return World(policy, other, order)


# -- chains --------------------------------------------------------------------------------------------------------------------


class Listening:
    """A store, and what it answered lately to lists that change nothing."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._heard: deque[tuple[Sequence[Op], Applied | Refused]] = deque(maxlen=8)
        self.inline = getattr(store, "inline", False)
        self.born = getattr(store, "born", None)

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        answer = self._store.apply(ops, now=now, commit=commit)
        if not commit and len(ops) > 1:
            self._heard.appendleft((ops, answer))
        return answer

    def answers(self, asked: Sequence[Op]) -> Sequence[object] | None:
        """The answers to `asked`, where that was asked lately."""
        if not asked:
            return ()
        for ops, answer in self._heard:
            if tuple(ops)[: len(asked)] == tuple(asked) and isinstance(answer, Applied):
                return answer.values[: len(asked)]
        return None


class Desk:
    """The guards of one chain on one store, and the oracle that is told the same."""

    def __init__(self, world: World, store: StateStore) -> None:
        self.world, self.store = world, Listening(store)
        self.clock = FrozenClock()
        self.iam = LocalIssuer("chains", clock=lambda: self.clock.now().timestamp())
        self.oracle = Oracle()
        self.policy = world.policy
        self.rolled_back = False
        self.flying: list[tuple[Guard, Any, Decision, Past]] = []
        self.ended: set[str] = set()
        self.stack = ExitStack()
        self._tokens: dict[tuple[str, str], str] = {}
        self.start()

    def start(self) -> None:
        """A process begins; what was in flight in the one before never ends there."""
        self.guard = Guard(
            self.policy,
            trust=self.iam,
            state=self.store,
            sinks=[ListSink()],
            clock=self.clock,
            deadline=timedelta(seconds=60),
            proofs=Proofs(),
        )
        self.open: dict[tuple[str, str], Any] = {}

    def task(self, name: str, actor: str) -> Any:
        task = self.open.get((name, actor))
        if task is None:
            token = self._tokens.get((name, actor))
            if token is None:
                chain = ["worker"] if actor == "worker" else ["worker", actor]
                token = self.iam.mint(origin=TASKS[name], actor=chain, intent="work", ttl="1h", txn=name)
                self._tokens[name, actor] = token
            task = self.guard.task(token)
            self.stack.enter_context(task)  # never left here: leaving the outermost would end the task
            self.open[name, actor] = task
        return task

    def close(self) -> None:
        self.stack.pop_all()

    def begin(self, name: str, actor: str, tool: str, args: dict[str, object]) -> str | None:
        """One call decided by both; what they disagree in, or None."""
        spec = self.policy.tools[tool]
        proven = None if actor == "ghost" else actor
        call = Past(spec, args, name, TASKS[name], TASKS[name], proven, int(self.clock.now().timestamp()), self.policy.rules)
        verdict, found = self.oracle.judge(call, self.policy, self.world.order)
        try:
            task = self.task(name, actor)
        except Denied as denied:
            decision = denied.decision
        else:
            self.guard._current.set(None)
            with task:
                decision = self.guard.before(ToolCall(tool, dict(args)))
        if not decision.blocks:
            self.flying.append((self.guard, self.open[name, actor], decision, call))
        unsure = self.told_again(tool, args, name, actor)
        if unsure is not None:
            return unsure
        got = {
            str(f.code) if f.code == "task.suspended" else f.rule or str(f.code)
            for f in decision.findings
            if f.says != "permit" and f.mode == "enforce"
        }
        if {"task.ended", "task.suspended"} & found:
            agree = decision.verdict == "deny" and str(decision.code) in found
        else:
            agree = decision.verdict == verdict and got == found
        return (
            None
            if agree
            else f"{tool} {args} of {name} by {actor}: oracle {verdict} {sorted(found)}, guard {decision.verdict} {decision.code} {sorted(got)}"
        )

    def told_again(self, tool: str, args: dict[str, object], name: str, actor: str) -> str | None:
        """The record's atoms alone must lead to the same questions and the same answers as the values did."""
        record = self.guard._house.sinks[0].decisions[-1]  # type: ignore[attr-defined]
        task = self.open.get((name, actor))
        if task is None or record.tool != tool or not record.atoms:
            return None
        plan, context = task.state.plan(self.guard._house, tool), task.state.context
        live, told = Live(args), told_of(record.atoms, record.findings)
        asked = reads(plan, live, context)
        if reads(plan, told, context) != asked:
            return f"{tool}: other questions without values: {record.atoms}"
        answers = self.store.answers(asked)
        if answers is None:
            return f"{tool}: the past was not read"
        at = int(self.clock.now().timestamp())
        one, two = (weigh(plan, values, context, "d", at, answers) for values in (live, told))
        if one._replace(holds=(), claims=[]) != two._replace(holds=(), claims=[]):
            return f"{tool}: judged otherwise without values: {record.atoms}"
        if [hold.op for hold in one.holds] != [hold.op for hold in two.holds] or [c.op for c in one.claims] != [c.op for c in two.claims]:
            return f"{tool}: takes something else without values: {record.atoms}"
        return None

    def end(self, at: int, status: str) -> None:
        guard, task, decision, call = self.flying.pop(at)
        with task:
            guard.after(decision, Outcome(status, None, RuntimeError("no") if status == "error" else None))  # type: ignore[arg-type]
        self.oracle.ended(call, status, int(self.clock.now().timestamp()))

    def end_task(self, name: str) -> str | None:
        if name in self.oracle.ended_tasks or name in self.oracle.suspended:
            return None
        try:
            task = self.task(name, "worker")
        except Denied as denied:
            return f"opening {name}: {denied.code}"
        for i in reversed(range(len(self.flying))):
            if self.flying[i][3].task == name and self.flying[i][0] is self.guard:
                self.end(i, "unknown")  # as the guard does with what is open
        objects = self.oracle.end_task(name, self.policy, int(self.clock.now().timestamp()))
        try:
            got = task.end()
        except Denied as denied:
            got = denied.decision
        found = {f.rule for f in got.findings if f.says != "permit" and f.mode == "enforce"}
        if not objects:
            self.oracle.ended_tasks.add(name)
            self.open = {key: one for key, one in self.open.items() if key[0] != name}
        return None if found == objects else f"end of {name}: oracle {sorted(objects)}, guard {got.verdict} {got.code} {found}"


def run_chain(seed: int, make: Callable[[], StateStore], steps: int = 24) -> str | None:
    """The first prefix on which guard and oracle disagree, in words; None where they agree on all of them."""
    r = Random(seed)
    world = make_world(r)
    desk = Desk(world, make())
    try:
        for step in range(steps):
            said = _step(r, desk)
            if said is not None:
                rules = "\n  ".join(map(_shown, desk.policy.rules))
                return f"seed {seed}, step {step}: {said}\n  {rules}"
    finally:
        desk.close()
    return None


def _shown(rule: Rule) -> str:
    """A rule without what it leaves out."""
    return re.sub(r"(\w+=(None|frozenset\(\)|\(\)|\{\}|''|False|'medium')(, )?|origin=.*?kind=\w+\), |datetime.date)", "", repr(rule))


def _step(r: Random, desk: Desk) -> str | None:
    dice = r.random()
    if dice < 0.62 or (dice < 0.9 and not desk.flying):
        tool = r.choice(TOOLS)
        args: dict[str, object] = {"x": r.choice("aabc")} if r.random() < 0.93 else {}
        if tool in ("pay", "check"):
            args["n"] = r.choice((1, 3, 6))
        said = desk.begin(r.choice(("t1", "t1", "t2", "t3")), r.choice(("worker", "worker", "helper", "ghost")), tool, args)
        if said is None and desk.flying and desk.flying[-1][2].tool == tool and r.random() < 0.6:
            desk.end(len(desk.flying) - 1, "ok")
        return said
    if dice < 0.9:
        desk.end(r.randrange(len(desk.flying)), r.choice(("ok", "ok", "error", "unknown")))
    elif dice < 0.95:
        desk.clock.advance(r.choice((1, 1, 5, 2 * HOUR)))
        desk._tokens.clear()
        desk.open.clear()
    elif dice < 0.97:
        if r.random() < 0.5 and not desk.rolled_back:  # a process that starts with policies that were left behind is stale
            desk.policy = desk.world.other
        desk.start()
    elif dice < 0.985:
        desk.policy = r.choice((desk.world.policy, desk.world.other))
        desk.rolled_back = desk.policy is desk.world.policy
        desk.guard.reload(desk.policy)
    else:
        return desk.end_task(r.choice(tuple(TASKS)))
    return None
