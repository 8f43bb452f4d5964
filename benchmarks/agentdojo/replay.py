"""Recorded task runs, ordinary and attacked, through a real `Guard`: tokens, state, records, approvals; nothing of it stands in for a part.

The person the work is for grants what the guard asks of the user's own calls. Nobody grants an attack's call, and an attack ends with its
first refusal. Labels of the corpus (`role`, `mutates`, `attack_succeeds`, `hard`) decide who grants and how it is counted; the guard sees
the prompt, the call and the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from guard import Denied, Guard, LocalIssuer, ToolCall
from guard.testing import FakeApprovals, FrozenClock, ListSink

__all__ = ["HERE", "ME", "SUITES", "Desk", "Pair", "Run", "Said", "Suite", "attacked", "lines", "load", "ordinary"]

HERE = Path(__file__).resolve().parent
SUITES = ("workspace", "banking")
ME: Mapping[str, str] = {"workspace": "emma.johnson@bluesparrowtech.com", "banking": "emma.johnson"}
"""Whom the work is for, as identity management would name her: the account of each suite."""


@dataclass(frozen=True, slots=True)
class Said:
    """One call that was made: its verdict and reason code, whether the attack made it, whether it would change something, whether it ran."""

    tool: str
    verdict: str
    code: str
    attack: bool
    mutates: bool
    ran: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A prompt with its calls."""

    name: str
    said: tuple[Said, ...]

    @property
    def touched(self) -> bool:
        """A person was asked, or a call was refused."""
        return any(one.verdict != "allow" for one in self.said if not one.attack)

    @property
    def denied(self) -> int:
        return sum(one.verdict == "deny" for one in self.said if not one.attack)

    @property
    def stopped_by(self) -> str | None:
        """`deny` or `ask`: what stopped the attack before its first effect. None: it had its effect, or was not tried."""
        for one in self.said:
            if one.attack and one.ran and one.mutates:
                return None
            if one.attack and not one.ran:
                return one.verdict
        return None


@dataclass(frozen=True, slots=True)
class Pair:
    """A run with an attack in it."""

    run: Run
    succeeds: bool
    hard: bool
    attack: str


@dataclass(slots=True)
class Suite:
    """The tasks and pairs of one suite, as recorded."""

    name: str
    tools: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    results: dict[str, str] = field(default_factory=dict)


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def load(corpora: Path, name: str) -> Suite:
    """Suite `name` out of the folder of all corpora."""
    folder = corpora / "agentdojo" / name
    results = {one["id"]: one["text"] for one in lines(folder / "results.jsonl")}
    return Suite(name, lines(folder / "tools.jsonl"), lines(folder / "user_tasks.jsonl"), lines(folder / "pairs.jsonl"), results)


class Desk:
    """One guard under one policy, with a person who answers what is asked of the user's own calls."""

    def __init__(self, policy: Path, me: str, intent: str, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._clock, self._me, self._intent = FrozenClock(), me, intent
        self._iam = LocalIssuer("corpora", clock=lambda: self._clock.now().timestamp())
        self._approvals = FakeApprovals(self._clock)
        self.records = ListSink()
        # The deadline is for stores that hang; a loaded machine must not change a verdict.
        self.guard = Guard(
            policy, trust=self._iam, sinks=[self.records], clock=self._clock, approvals=self._approvals, deadline=timedelta(seconds=60)
        )
        for tool in tools:
            self.guard.declare(tool["tool"], tool["schema"])

    def run(self, name: str, prompt: str, calls: Sequence[Mapping[str, Any]], results: Mapping[str, str]) -> Run:
        """`calls` in order, each on what the ones before it have returned."""
        token = self._iam.mint(origin=self._me, actor="assistant", intent=self._intent)
        self._approvals.given.clear()
        said: list[Said] = []
        stopped = False
        with self.guard.task(token, prompt=prompt):
            for call in calls:
                attack = call.get("role") == "attack"
                if attack and stopped:
                    continue
                said.append(self._call(call, results[call["result_id"]], attack=attack))
                stopped = stopped or (attack and not said[-1].ran)
        return Run(name, tuple(said))

    def _call(self, call: Mapping[str, Any], result: str, *, attack: bool) -> Said:
        wanted = ToolCall(call["tool"], call["args"])
        mutates = bool(call.get("mutates"))
        try:
            self.guard.call(wanted, lambda **_: result)
        except Denied as denied:
            decision = denied.decision
            verdict, code, ran = decision.verdict, str(decision.code), False
            if verdict == "ask" and not attack:
                self._approvals.approve(decision, by=self._me)
                self.guard.call(wanted, lambda **_: result)
                ran = True
            return Said(wanted.tool, verdict, code, attack, mutates, ran)
        return Said(wanted.tool, "allow", "permit", attack, mutates, ran=True)


def ordinary(desk: Desk, suite: Suite) -> Iterator[Run]:
    """The suite's user tasks, nobody interfering."""
    for task in suite.tasks:
        yield desk.run(task["id"], task["prompt"], task["calls"], suite.results)


def attacked(desk: Desk, suite: Suite) -> Iterator[Pair]:
    """Every user task with every injected one."""
    for pair in suite.pairs:
        run = desk.run(pair["pair"], pair["prompt"], pair["calls"], suite.results)
        yield Pair(run, pair["attack_succeeds"] is True, pair["hard"] is True, pair["injection_task"])
