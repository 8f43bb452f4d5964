"""One small world: a policy, a local issuer, a frozen clock, records in a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.record import ListSink
from guard.testing import FrozenClock

POLICY = """
guardtrail: 1
name: shop
owner: payments@acme.example
tools:
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  look: {effect: read, control: {order: id}}
  note: {effect: write, control: {path: path}, data: {text: text}, errors_have_no_effect: true}
  mail: {effect: send, control: {"to[]": email}, data: {body: text}}
  close: {effect: write}
  wipe: {effect: delete, control: {order: id}}
intents:
  refund-order:
    description: Refund one order, up to a ceiling.
    params: {order: id, ceiling: decimal}
    ttl: 10m
    allow:
      refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: $ceiling}}}, limit: {calls: 1}}
      look: {args: {order: {any: true}}}
      note: {args: {path: {under: /srv/notes}}, limit: {calls: 2}}
      mail: {args: {"to[]": {email: {domain: acme.example}}}}
      close: {}
    order: [refund, close]
rules:
  - {id: few-looks, when: {tool: look}, limit: {calls: 2}, mode: monitor, until: 2030-01-01}
scopes: {"orders.read": [look]}
"""


@dataclass
class World:
    """Everything a test needs, and a count of bodies that ran."""

    guard: Guard
    iam: LocalIssuer
    clock: FrozenClock
    sink: ListSink
    ran: list[str] = field(default_factory=list)

    def mint(self, **over: Any) -> str:
        given: dict[str, Any] = {
            "origin": "alice",
            "actor": "support",
            "intent": "refund-order",
            "params": {"order": "A-17", "ceiling": "50"},
            "ttl": "10m",
        }
        return self.iam.mint(**(given | over))

    def body(self, **args: Any) -> str:
        self.ran.append(repr(sorted(args)))
        return "done"

    def call(self, tool: str, id: str = "", **args: Any) -> object:
        return self.guard.call(ToolCall(tool, args, id), self.body)

    @property
    def codes(self) -> list[str]:
        """Verdict and code of every recorded decision."""
        return [f"{r.verdict} {r.code}" for r in self.sink.decisions]


def make_world(policy: str = POLICY, **options: Any) -> World:
    clock = FrozenClock()
    iam = LocalIssuer("acme-dev", clock=lambda: clock.now().timestamp())
    sink = ListSink()
    options.setdefault("sinks", [sink])
    guard = Guard(Policy.from_text(policy), trust=iam, clock=clock, **options)
    return World(guard, iam, clock, sink)


def only_ports_take_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a guard with a short deadline: what is left of it does not grow less while the machine stands still between two questions. How long a part
    on a helper thread is waited for, and that it is not waited for longer, stays as it is."""
    for name in ("drive", "steps", "judging", "writing", "delegating"):
        monkeypatch.setattr(f"guard.{name}.monotonic", lambda: 0.0)


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def worlds() -> Callable[..., World]:
    return make_world
