"""A desk for tests: a policy, a task and a store, and of the pipeline only what sources need. Real parts, no flow, no records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from guard.constraints import Binder
from guard.model import Finding, Outcome
from guard.ops import Applied, Op
from guard.policy.data import PolicyData
from guard.policy.load import read_policy
from guard.policy.supported import ALL
from guard.state import MemoryState
from guard.workflow.asked import AskedState, asked_of, compile_asked
from guard.workflow.atoms import Live, Told
from guard.workflow.flowtable import Sourced, SourcePlan
from guard.workflow.ledger import Ledger, letters_of
from guard.workflow.limits import Context
from guard.workflow.observe import Learning, learn, observe, opening
from guard.workflow.shapes import labels
from guard.workflow.sites import UNRECORDED
from guard.workflow.sources import compile_sources

HERE = Path(__file__).resolve().parent
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"k" * 32


def table(name: str) -> list[dict[str, Any]]:
    rows = yaml.safe_load((HERE / name).read_text("utf-8"))
    assert isinstance(rows, list)
    return rows


def policy(name: str) -> PolicyData:
    return read_policy((HERE / name).read_text("utf-8"), file=name, parts=ALL)


@dataclass
class Desk:
    """One task. `call` judges, and runs what is allowed (or was approved)."""

    policy: PolicyData
    intent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    prompt: str | None = None
    me: Sequence[str] = ("alice@acme.example",)
    state: MemoryState = field(default_factory=MemoryState)
    asked: AskedState | None = None
    labels: set[str] = field(default_factory=set)
    calls: int = 0
    atoms: dict[str, object] = field(default_factory=dict)
    last: Sourced | None = None
    learning: Learning | None = None

    def __post_init__(self) -> None:
        self.context = Context("n|t", "n", self.me[0], "agent", b"n" * 32, KEY)
        self.ledger = Ledger(KEY, "n|t")
        if self.prompt is not None:
            self.asked = asked_of(self.prompt, self.policy.asked.words if self.policy.asked is not None else None)
        types = self.policy.intents[self.intent].params if self.intent else {}
        self.apply(opening(self.ledger, self.prompt, self.params, types, me=self.me, asked=self.asked))

    def apply(self, ops: Sequence[Op], *, commit: bool = True) -> tuple[object, ...] | None:
        answer = self.state.apply(ops, now=NOW, commit=commit)
        return answer.values if isinstance(answer, Applied) else None

    def plan(self, tool: str) -> SourcePlan:
        plan = compile_sources([self.policy], self.policy.tools[tool], self.intent, self.params)
        assert plan is not None
        return plan

    def judge(self, tool: str, args: Mapping[str, object]) -> list[Finding]:
        spec, plan = self.policy.tools[tool], self.plan(tool)
        self.values = Binder(tool, None, spec.types).bind(args).values
        live = Live(self.values)
        answers = self.apply(plan.reads(live, self.context), commit=False)
        assert answers is not None
        self.last = plan.judge(live, answers, self.context, f"d{self.calls}")
        self.atoms = live.told
        record = {site: told for site, told in live.told.items() if site not in UNRECORDED}
        again = plan.judge(Told(record), (), self.context, f"d{self.calls}")
        assert (again.findings, again.masks) == (self.last.findings, self.last.masks), "a replay without values says something else"
        vote = compile_asked([self.policy], spec)
        votes = vote.judge(live, self.apply(vote.reads(self.context.task), commit=False) or ()) if vote is not None else []
        assert vote is None or vote.judge(Told(live.told), ()) == votes
        return [*self.last.findings, *votes]

    def call(
        self, tool: str, args: Mapping[str, object], result: object = None, *, error: str | None = None, approved: bool = False
    ) -> str:
        """The verdict with the code that decides it: `allow`, `ask flow.text`, `deny args.from`."""
        self.calls += 1
        findings = self.judge(tool, args)
        verdict = verdict_of(findings)
        if verdict == "allow" or approved:
            self.run(tool, Outcome("error", None, RuntimeError(error)) if error is not None else Outcome("ok", result))
        return verdict

    def run(self, tool: str, outcome: Outcome) -> None:
        assert self.last is not None
        plan, by = self.plan(tool), f"d{self.calls}"
        self.apply(self.last.marks)
        self.labels |= set(labels(self.policy.tools[tool].returns, self.values, self.me))
        seen = observe(plan, outcome, self.values, self.me)
        self.learning = learn(plan, self.ledger, seen, self.last.masks, by)
        if self.learning.ops and self.apply(self.learning.ops) is None:
            self.apply(self.learning.full)

    def letters(self, *forms: tuple[str, str]) -> str:
        """The letters that the ledger has for any of these forms."""
        answers = self.apply(self.ledger.reads(self.ledger.hashes(forms)), commit=False) or ()
        return "".join(sorted({letter for answer in answers for letter in letters_of(answer)}))


def verdict_of(findings: Sequence[Finding]) -> str:
    for says, word in (("forbid", "deny"), ("ask", "ask")):
        for one in findings:
            if one.says == says:
                return f"{word} {one.code}"
    return "allow"
