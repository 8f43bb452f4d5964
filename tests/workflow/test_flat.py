"""P3 without a clock: what a call costs the store and the hash function is the same at position 10 and at position 1,000 of a task.

Counted at two places every cost of a task's past would pass: a store that wraps the one in memory, and the three functions of the
standard library through which the guard hashes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from guard import Guard, LocalIssuer, Policy
from guard.ops import Add, Applied, Op, Refused, Tally
from guard.record import ListSink
from guard.state import MemoryState
from guard.testing import FrozenClock
from guard.workflow.ledger import MAX_VALUES

POLICY = """
guardtrail: 1
name: flat
owner: tests@acme.example
tools:
  find: {effect: read, control: {order: id}, returns: {format: json, labels: [untrusted], shape: {id: id, email: directory, note: text}}}
  act: {effect: write, control: {order: id}, data: {amount: decimal}, returns: {format: json, shape: {id: id}}}
  send: {effect: send, control: {to: email}, data: {body: text}, carries: [email], returns: none}
  wipe: {effect: delete, control: {order: id}, returns: none}
flow:
  read: {allow: [any]}
  write: {allow: [any]}
  delete: {allow: [any]}
  send: {allow: [prompt, params, directory], carries: {allow: [prompt, params, directory]}}
intents:
  work:
    description: Everything.
    params: {order: id}
    ttl: 24h
    allow:
      find: {args: {order: {eq: $order}}}
      act: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: "10"}}}}
      send: {args: {to: {email: {domain: acme.example}}}}
      wipe: {args: {order: {eq: $order}}}
    order: [act, wipe]
rules:
  - {id: calls, when: {tool: act}, limit: {calls: 1000000}}
  - {id: sums, when: {tool: act}, limit: {sum: args.amount, max: "1000000", within: 24h, per: [origin]}}
  - {id: tries, limit: {denied: 20}}
  - {id: after, when: {tool: [act, send]}, forbid_after: [{tool: wipe}]}
  - {id: both, when: {tool: [act, send]}, forbid_after: [{label: untrusted}, {tool: wipe}], then: ask}
  - {id: turn, when: {tool: [act, send]}, forbid_after: [{tool: find}, {tool: wipe}], in_order: true}
  - {id: before, when: {tool: [act, send]}, require_before: {tool: find, outcome: ok, within: 24h}}
  - {id: match, when: {tool: act}, require_before: {tool: find, outcome: ok, match: {order: args.order}}}
  - {id: apart, exclusive: [{tool: act}, {tool: wipe}], by: origin, per: [args.order]}
"""


class Counting(MemoryState):
    """Counts lists, operations by kind, and the bytes that go in and come out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        answer = super().apply(ops, now=now, commit=commit)
        self.seen["lists"] += 1
        for op in ops:
            self.seen[type(op).__name__] += len(op.keys) if isinstance(op, Tally) else 1
            self.seen["bytes asked"] += sum(len(part) for part in op if isinstance(part, str))
        if isinstance(answer, Applied):
            self.seen["bytes answered"] += sum(len(value) for value in answer.values if isinstance(value, str))
        return answer


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes handed to SHA-256 and HMAC by anything of the guard."""
    seen: Counter[str] = Counter()
    digest, sha = hmac.digest, hashlib.sha256

    def count_digest(key: bytes, message: bytes, name: str) -> bytes:
        seen["hmac"] += len(message)
        return digest(key, message, name)

    def count_sha(data: bytes = b"", **more: Any) -> Any:
        seen["sha256"] += len(data)
        return sha(data, **more)

    monkeypatch.setattr(hmac, "digest", count_digest)
    import guard.judging
    import guard.workflow.limits
    import guard.workflow.marks

    for module in (guard.judging, guard.workflow.limits, guard.workflow.marks):
        monkeypatch.setattr(module, "sha256", count_sha)
    return seen


class World:
    def __init__(self) -> None:
        self.store, clock = Counting(), FrozenClock()
        iam = LocalIssuer("x", clock=lambda: clock.now().timestamp())
        self.guard = Guard(
            Policy.from_text(POLICY), trust=iam, state=self.store, sinks=[ListSink()], clock=clock, deadline=timedelta(seconds=60)
        )
        token = iam.mint(origin="alice", actor="worker", intent="work", params={"order": "A-1"}, ttl="24h")
        self.guard.task(token, prompt="Work on A-1, write to ops@acme.example").__enter__()
        self.found = 0

        @self.guard.tool
        def find(order: str) -> object:
            self.found += 1
            return {"id": f"X-{self.found:06d}", "email": f"u{self.found:06d}@acme.example", "note": "nothing"}

        @self.guard.tool
        def act(order: str, amount: str) -> object:
            return {"id": "Y-000001"}

        @self.guard.tool
        def send(to: str, body: str) -> None:
            return None

        self.calls: dict[str, Callable[[], object]] = {
            "find": lambda: find(order="A-1"),
            "act": lambda: act(order="A-1", amount="0.50"),
            "send": lambda: send(to="ops@acme.example", body="A-1 is done, says u000001@acme.example"),
        }

    def grow(self, to: int) -> None:
        names = ("find", "find", "act", "find", "send")
        for n in range(self.store.seen["steps"], to):
            self.calls[names[n % len(names)]]()
        self.store.seen["steps"] = max(to, self.store.seen["steps"])

    def cost(self, hashed: Counter[str]) -> dict[str, dict[str, int]]:
        """Of each kind of call, what it asked of the store and hashed."""
        found: dict[str, dict[str, int]] = {}
        for name, call in self.calls.items():
            call()  # what the call before left to be done is the same then
            before, hashed_before = Counter(self.store.seen), Counter(hashed)
            call()
            found[name] = {**(Counter(self.store.seen) - before), **(hashed - hashed_before)}
        return found


def test_a_call_costs_the_same_at_position_10_and_1000(hashed: Counter[str]) -> None:
    world = World()
    world.grow(10)
    early = world.cost(hashed)
    world.grow(1_000)
    assert world.cost(hashed) == early
    assert all(cost["lists"] in (2, 3) and cost["hmac"] > 0 for cost in early.values())  # read, reserve, settle; and something was counted


def test_a_full_ledger_costs_one_list_more_and_only_where_there_is_something_new(hashed: Counter[str]) -> None:
    world = World()
    world.grow(10)
    early = world.cost(hashed)
    stored = next(key for key in world.store._counts if key.endswith("|s"))
    world.store.apply([Add(stored, MAX_VALUES)], now=FrozenClock().now())
    full = world.cost(hashed)
    assert {**full["send"], "bytes answered": 0} == {**early["send"], "bytes answered": 0}  # it is told that the ledger is full
    for name in ("find", "act"):
        assert full[name]["lists"] == early[name]["lists"] + 1
        assert (full[name]["hmac"], full[name].get("Lookup")) == (early[name]["hmac"], early[name].get("Lookup"))
    keys = len(world.store._counts) + len(world.store._marks)
    for _ in range(50):
        world.calls["find"]()
    assert len(world.store._counts) + len(world.store._marks) == keys  # what a task holds is bounded
