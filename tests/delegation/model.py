"""What must be true of a delegation, said a second time and simply: tokens as nodes, budgets as counters, a chain as what stands in records.

Nothing here asks the guard. The machine (`machine.py`) holds the guard's answers against it.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard.identity.holder import HolderKey

POLICY = """\
guardtrail: 1
name: shop
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}}
  pay: {effect: pay, control: {order: id}}
  note: {effect: write, control: {order: id}, errors_have_no_effect: true}
intents:
  work:
    description: Work on orders.
    params: {}
    ttl: 24h
    allow: {look: {}, pay: {limit: {calls: 4}}, note: {}}
"""
TOOLS = ("look", "pay", "note")
INTENT = {"pay": 4}
SKEW = 5


def claims_of(text: str) -> dict[str, Any]:
    """Of the last token of a chain, unverified."""
    body = text.rpartition("~")[2].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


@dataclass(frozen=True, eq=False)
class Work:
    """One task. `intent`: None where its tokens are grants alone."""

    txn: str
    origin: str
    session: str
    intent: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One token that somebody holds. `above`: the chain before it, root first. `limits`: its own, by tool; None: counted nowhere."""

    text: str
    work: Work
    actors: tuple[str, ...]
    limits: Mapping[str, int | None]
    key: HolderKey | None
    above: tuple[Node, ...] = ()
    parent: Node | None = None
    """Whom the issuer gave it in exchange for."""
    kid: str = ""
    claims: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", claims_of(self.text))

    def __repr__(self) -> str:
        return f"{self.work.txn}:{'>'.join(self.actors)} {dict(self.limits)}{' bound' if self.key is not None else ''}"

    @property
    def line(self) -> tuple[Node, ...]:
        return (*self.above, self)

    @property
    def path(self) -> str:
        return "~".join(one.claims["jti"] for one in self.line)

    @property
    def ends(self) -> int:
        return min(int(one.claims["exp"]) for one in self.line)

    @property
    def depth(self) -> int:
        """How many hops may still follow."""
        return int(self.claims.get("mdp", 0)) - int(self.claims.get("dep", 0)) if self.key is not None else 0

    def dies_by(self) -> Iterator[tuple[str, str, int]]:
        """(kind, value, time of issue) of everything whose revocation must kill it."""
        for one in self.line:
            at = int(one.claims["iat"])
            yield "credential", one.path, at
            yield "origin", self.work.origin, at
            yield "session", self.work.session, at
            yield "task", self.work.txn, at
            yield "key", one.kid, at
            for actor in one.actors:
                yield "actor", actor, at
            if one.key is not None:
                yield "key", one.key.thumbprint, at
            if one.parent is not None:
                yield from one.parent.dies_by()

    def budgets(self, tool: str) -> Iterator[tuple[tuple[str, ...], int]]:
        """(counter, maximum): each must have room. The root's is its task's, whichever token of the task is used."""
        root, *hops = self.line
        most = root.limits[tool]
        if most is not None:
            yield ("task", self.work.txn, tool), most
        for hop in hops:
            most = hop.limits[tool]
            if most is not None:
                yield ("hop", hop.path, tool), most
        if self.work.intent is not None and tool in INTENT:
            yield ("intent", self.work.txn, tool), INTENT[tool]


class Used:
    """How often what has run."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def room(self, node: Node, tool: str) -> int:
        return max(0, min((most - self.counts[counter] for counter, most in node.budgets(tool)), default=1_000))

    def full(self, node: Node, tool: str) -> list[str]:
        """Which kinds of counters have no room."""
        return sorted({counter[0] for counter, most in node.budgets(tool) if self.counts[counter] >= most})

    def ran(self, node: Node, tool: str) -> None:
        for counter, most in node.budgets(tool):
            self.counts[counter] += 1
            assert self.counts[counter] <= most, f"used {self.counts[counter]} of {most}: {counter[0]} {tool}"


# -- what stands in the records ------------------------------------------------------------------------------------------------------


def records(folder: Path) -> list[dict[str, Any]]:
    """Of one writer at a time, in order; a writer that found its file held goes on in another one."""
    files = sorted(folder.glob("audit*.jsonl"))
    found = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return [one for one in found if one.get("kind") in ("decision", "outcome", "task", "pivot")]


def lineage(record: Mapping[str, Any], delegations: Sequence[Mapping[str, Any]]) -> list[str]:
    """From the origin to who acted, by the records alone. Raises AssertionError where a link is missing.

    A hop's credential names its ancestors; a token from an exchange has the record of that exchange, made by who stands before it.
    """
    issuer, _, path = str(record["credential"]).rpartition("/")
    hops, actors = path.count("~"), list(record["actors"])
    assert issuer and path and len(actors) > hops
    assert record["depth"] == len(actors) - 1
    root = actors[: len(actors) - hops]
    if len(root) == 1:
        return [record["origin"], *actors]
    made = [
        one for one in delegations if one["task"] == record["task"] and one["actors"] == root[:-1] and one["origin"] == record["origin"]
    ]
    assert made, f"no record of who handed on to {root[-1]}"
    return lineage(made[0], delegations) + actors[len(root) - 1 :]
