"""Rows `chain.*`: the same call at position 10, 1,000 and 100,000 of a task, in turns.

Twenty rules of every kind are about the measured tool. Of twenty calls before it one brings twenty values the task has not seen, so that
at position 100,000 its ledger has been full for long. A task at position 10 does not stay there: each round takes another one.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import process_time_ns
from typing import Any

from benchmarks.house import _Null
from benchmarks.measure import Row
from guard import Guard, LocalIssuer, Policy
from guard.ops import Add, Applied, Mark
from guard.state import MemoryState, SqliteState

__all__ = ["POLICY", "Chain", "chain_rows", "chains", "copied", "held"]

POLICY = """
guardtrail: 1
name: chain
owner: bench@acme.example
tools:
  find:
    effect: read
    control: {order: id}
    returns: {format: json, labels: [untrusted], shape: {"[].id": id, "[].email": directory, "[].note": text}}
  look: {effect: read, control: {order: id}, returns: none}
  act: {effect: read, control: {order: id}, data: {amount: decimal}, returns: {format: json, shape: {id: id}}}
  send: {effect: send, control: {to: email}, data: {body: text}, carries: [email], returns: none}
  vault: {effect: read, control: {order: id}, returns: {format: json, labels: [secret]}}
  wipe: {effect: write, control: {order: id}, returns: none}
flow:
  read: {allow: [any]}
  write: {allow: [any]}
  send: {allow: [prompt, params, directory], ask: [structured, text], carries: {allow: [prompt, params, directory], ask: [text, structured]}}
intents:
  work:
    description: Everything.
    params: {order: id}
    ttl: 24h
    allow:
      find: {args: {order: {glob: "A-*"}}}
      look: {args: {order: {glob: "A-*"}}}
      act: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: "1000"}}}}
      send: {args: {to: {email: {domain: acme.example}}}}
      vault: {}
      wipe: {}
rules:
  - {id: l1, when: {tool: act}, limit: {calls: 100000001}}
  - {id: l2, when: {effect: read}, limit: {calls: 100000002}}
  - {id: l3, when: {tool: act}, limit: {calls: 100000003, per: [origin]}}
  - {id: l4, when: {effect: read}, limit: {calls: 100000004, within: 24h, per: [actor]}}
  - {id: l5, when: {tool: act}, limit: {sum: args.amount, max: "900000000"}}
  - {id: l6, when: {tool: act}, limit: {sum: args.amount, max: "800000000", per: [origin]}}
  - {id: l7, when: {tool: act}, limit: {calls: 100000005, per: [args.order]}}
  - {id: l8, limit: {denied: 20}}
  - {id: f1, when: {tool: act}, forbid_after: [{tool: wipe}]}
  - {id: f2, when: {tool: act}, forbid_after: [{label: secret}, {label: untrusted}], then: ask}
  - {id: f3, when: {tool: act}, forbid_after: [{tool: wipe, args: {order: {eq: Z-1}}}]}
  - {id: f4, when: {tool: act}, forbid_after: [{tool: find}, {tool: wipe}], in_order: true}
  - {id: f5, when: {tool: act}, forbid_after: [{label: untrusted}], unless: {flow: [prompt, params]}}
  - {id: b1, when: {tool: act}, require_before: {tool: find, outcome: ok}}
  - {id: b2, when: {tool: act}, require_before: {tool: find, outcome: ok, match: {order: args.order}}}
  - {id: b3, when: {tool: act}, require_before: {tool: find, outcome: ok, within: 24h}}
  - {id: e1, exclusive: [{tool: act}, {tool: wipe}], by: origin, per: [args.order]}
  - {id: e2, exclusive: [{tool: act}, {tool: vault}], by: person}
  - {id: n1, when: {tool: act, args: {amount: {range: {above: "999"}}}}, then: ask}
  - {id: r1, when: {tool: act}, require: {args.order: {glob: "A-*"}}}
"""
PROMPT = "Work on order A-17 and tell ops@acme.example and audit@acme.example"
SENT = {"to": "ops@acme.example", "body": "Order A-17 is done, ask audit@acme.example"}


@dataclass(slots=True)
class Chain:
    """One task. `act`, `send`: the calls that are measured, each judged, recorded, run and settled. `steps`: calls so far."""

    task: Any
    store: Any
    find: Callable[..., object]
    look: Callable[..., object]
    act: Callable[..., object]
    send: Callable[..., object]
    steps: int = 0

    def grow(self, to: int) -> None:
        """Real calls up to position `to`."""
        for n in range(self.steps, to):
            turn = n % 20
            if turn == 0:
                self.find(order="A-17")
            elif turn == 8:
                self.act(order="A-17", amount="0.01")
            elif turn == 9:
                self.send(**SENT)
            else:
                self.look(order="A-17")
        self.steps = max(self.steps, to)

    def run(self, call: Callable[[Chain], object], n: int) -> int:
        """CPU nanoseconds of `n` calls."""
        began = process_time_ns()
        for _ in range(n):
            call(self)
        return process_time_ns() - began


def one_act(chain: Chain) -> object:
    return chain.act(order="A-17", amount="0.01")


def one_send(chain: Chain) -> object:
    return chain.send(**SENT)


class Chains:
    """Tasks of one issuer under `POLICY`, each under a guard of its own where its store is its own."""

    def __init__(self) -> None:
        self.iam = LocalIssuer("bench")
        self._policy = Policy.from_text(POLICY)
        self._guards: dict[int, Guard] = {}

    def token(self, txn: str) -> str:
        return self.iam.mint(origin="alice", actor="worker", intent="work", params={"order": "A-17"}, ttl="24h", txn=txn)

    def open(self, store: Any, token: str) -> Chain:
        guard = self._guards.get(id(store))
        if guard is None:
            guard = self._guards[id(store)] = Guard(
                self._policy, trust=self.iam, state=store, sinks=[_Null()], deadline=timedelta(seconds=60)
            )
        seen = 0

        @guard.tool
        def find(order: str) -> object:
            nonlocal seen
            seen += 10
            return [{"id": f"X-{n:06d}", "email": f"u{n:06d}@acme.example", "note": "nothing new"} for n in range(seen, seen + 10)]

        @guard.tool
        def look(order: str) -> object:
            return None

        @guard.tool
        def act(order: str, amount: str) -> object:
            return {"id": "Y-000001"}

        @guard.tool
        def send(to: str, body: str) -> object:
            return None

        task = guard.task(token, prompt=PROMPT)
        task.__enter__()

        def within(body: Callable[..., object]) -> Callable[..., object]:
            frame = guard._current.get()

            def call(**args: object) -> object:
                guard._current.set(frame)
                return body(**args)

            return call

        return Chain(task, store, within(find), within(look), within(act), within(send))


def copied(source: MemoryState, target: Any) -> None:
    """What stands in `source`, through the operations of a store: 100,000 calls on disk would take a minute more. Windows are left out."""
    now = datetime.now(UTC)
    at = int(now.timestamp())
    ops: list[Any] = [Add(key, total, None, None, by) for key, (total, by) in source._counts.items()]
    ops += [Mark(key, by, None if ends is None else max(ends - at, 1), value) for key, (value, by, ends) in source._marks.items()]
    for i in range(0, len(ops), 500):
        if type(target.apply(ops[i : i + 500], now=now)) is not Applied:
            raise RuntimeError("not copied")


def held(store: MemoryState) -> tuple[int, int]:
    """Bytes and keys a store in memory holds: tables, keys, values."""
    tables = (store._counts, store._marks, store._windows)
    size = sum(sys.getsizeof(table) for table in tables)
    for table in tables:
        for key, value in table.items():
            size += sys.getsizeof(key) + sys.getsizeof(value) + sum(sys.getsizeof(part) for part in value if type(part) is not int)
    return size, sum(map(len, tables))


def _against(
    chain: Chain, at_ten: Callable[[], Chain], call: Callable[[Chain], object], rounds: int, batch: int
) -> tuple[float, float, float]:
    """Median CPU microseconds of a call, of one at position 10, and median of the rounds' ratios."""
    ours, theirs, ratios = list[float](), list[float](), list[float]()
    call(chain)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            fresh = at_ten()
            call(fresh)
            if i % 2:
                subject, reference = chain.run(call, batch), fresh.run(call, batch)
            else:
                reference, subject = fresh.run(call, batch), chain.run(call, batch)
            ours.append(subject / batch / 1000)
            theirs.append(reference / batch / 1000)
            ratios.append(subject / reference)
            if i % 8 == 0:
                gc.collect()
    finally:
        gc.enable()
    return median(ours), median(theirs), median(ratios)


def chains(rounds: int, *, far: int = 100_000, batch: int = 20) -> Iterator[Row]:
    """`far`: the last position. Position 10: from 10 to `batch` calls later; each round another task, all made before the measuring."""
    house = Chains()
    with tempfile.TemporaryDirectory() as folder:
        grown: dict[int, tuple[Chain, str]] = {}
        sizes: list[str] = []
        for position in (10, 1_000, far):
            token = house.token(f"chain-{position}")
            chain = house.open(MemoryState(), token)
            chain.grow(position)
            grown[position] = chain, token
            size, keys = held(chain.store)
            sizes.append(f"{size:,} bytes in {keys:,} keys at {position:,}")
        print(f"{'':24} a task in memory: {'; '.join(sizes)}")
        for kind, where in (("", "memory"), ("_sqlite", "SQLite")):
            near = MemoryState() if not kind else SqliteState(Path(folder) / "near.db")
            waiting: list[Chain] = []

            def at_ten(near: Any = near, waiting: list[Chain] = waiting, kind: str = kind) -> Chain:
                return waiting.pop()

            subjects: dict[int, Chain] = {}
            for position in (1_000, far):
                chain, token = grown[position]
                if kind:
                    disk = SqliteState(Path(folder) / f"{position}.db")
                    copied(chain.store, disk)
                    chain = house.open(disk, token)
                subjects[position] = chain
            rows: tuple[tuple[str, int, Callable[[Chain], object], float], ...] = (
                ("chain.1000", 1_000, one_act, 1.1),
                (f"chain.{far}", far, one_act, 1.1),
                (f"chain.sink_{far}", far, one_send, 1.15),
            )
            for name, position, call, bar in rows:
                for n in range(rounds):
                    fresh = house.open(near, house.token(f"near-{kind}-{name}-{n}"))
                    fresh.grow(10)
                    waiting.append(fresh)
                ours, _, ratio = _against(subjects[position], at_ten, call, rounds, batch)
                yield Row(f"{name}{kind}", round(ours, 2), f"position 10, {where}", round(ratio, 3), None if kind else bar)


def chain_rows(rounds: int) -> Iterator[Row]:
    """Few rounds are a smoke test: then a short chain, whose rows are named by its length and have no bar."""
    if rounds > 10:
        yield from chains(rounds)
    else:
        for row in chains(rounds, far=3_000):
            yield replace(row, bar=None)
