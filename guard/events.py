"""Record format v1: what is written about a call, plain and frozen. No argument value, no token, no person's name.

`DecisionRecord` is written before the body, `OutcomeRecord` after it, joined by the decision id. Hash chaining, sequence and
writer are added by the audit file; they are not part of the thing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Literal

from guard.frozen import another, frozen
from guard.model import Finding, finding_dict

__all__ = [
    "FORMAT",
    "ApprovalRecord",
    "DecisionRecord",
    "OutcomeRecord",
    "PivotRecord",
    "Record",
    "TaskRecord",
    "decision_like",
    "filled",
    "outcome_like",
]

FORMAT = 1


@frozen
class DecisionRecord:
    """One decision. Every record joins credential, workload, human origin and the position in the chain.

    `at`: epoch microseconds of the guard's clock. `origin`: keyed pseudonym of the person. `issuer`: "local" for a `LocalIssuer`,
    else the issuer's URL. `sync`: how durable the record must be before the body runs: `os` (handed to the operating system),
    `group` (fsync shared with others), `each`. `count`: more than 1 where equal refusals before authentication are aggregated.

    For replay, left out where empty: `atoms`: what was asked of argument values, site -> answer, never a value. `labels`: those that
    latched with this call. `order`: its commit number in the tenant; of a call that was not let, the number it was judged before; 0 where
    no rule looks over the tenant. `state`: names the state that counts so: another one (a new `memory:`) counts anew. `judged`: step and
    settles of the task at which its past was read.
    `tools`: digest of the tools section. `generation`: the policies that judged it. `proven`: the registry name of the actor, where it has
    proven to be one. `owner`: who answers for the actor, by the registry. `subject`: keyed pseudonym of the token's `sub`, where `origin` is
    that of the person it names besides.
    """

    id: str
    at: int
    tenant: str
    task: str
    step: int
    call: str
    tool: str
    effects: tuple[str, ...]
    verdict: str
    mode: str
    code: str
    findings: tuple[Finding, ...]
    fix: str | None
    witnesses: tuple[str, ...]
    policy: str
    intent: str | None
    issuer: str
    credential: str
    kid: str
    origin: str
    origin_kind: str
    actors: tuple[str, ...]
    workload: str | None
    args_hmac: str
    sync: Literal["os", "group", "each"] = "os"
    trace: str = ""
    span: str = ""
    count: int = 1
    atoms: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    order: int = 0
    judged: tuple[int, int] | None = None
    tools: str = ""
    generation: str = ""
    proven: str = ""
    subject: str = ""
    state: str = ""
    owner: str = ""
    kind: str = field(default="decision", init=False)
    like: DecisionRecord | None = field(default=None, init=False, compare=False, repr=False)
    """A record that says the same but for what varies from call to call (`decision_like`): it was made into text once."""

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "decision",
            "id": self.id,
            "at": self.at,
            "tenant": self.tenant,
            "task": self.task,
            "step": self.step,
            "call": self.call,
            "tool": self.tool,
            "effects": self.effects,
            "verdict": self.verdict,
            "mode": self.mode,
            "code": self.code,
            "findings": [finding_dict(f) for f in self.findings],
            "fix": self.fix,
            "witnesses": self.witnesses,
            "policy": self.policy,
            "intent": self.intent,
            "issuer": self.issuer,
            "credential": self.credential,
            "kid": self.kid,
            "origin": self.origin,
            "origin_kind": self.origin_kind,
            "actors": self.actors,
            "depth": max(len(self.actors) - 1, 0),
            "workload": self.workload,
            "args_hmac": self.args_hmac,
            "trace": self.trace,
            "span": self.span,
            "count": self.count,
            **filled(
                atoms=self.atoms,
                labels=self.labels,
                order=self.order,
                judged=self.judged,
                tools=self.tools,
                generation=self.generation,
                proven=self.proven,
                subject=self.subject,
                state=self.state,
                owner=self.owner,
            ),
        }


@frozen
class OutcomeRecord:
    """What the body did. `error`: the exception's type name only. `micros`: wall time of the body.

    For replay, left out where empty: `settled`: number of this settle in the task. `order`: its commit number in the tenant, where
    rules look over it. `facts`: answers of tests on remembered facts, per key hash. `learnt`: values the ledger took from the result.
    `late`: what was found when the call had ended, and has suspended the task.
    `credential`: what its body was lent, left out where nothing was: `id` (its issuer and `jti` where it says so, else a keyed hash; absent where none was
    obtained), `resource`, `scope` that was asked for, `expires` (epoch seconds), `parent` (the credential it was made from), `taken_back`, and `why` not.
    """

    decision: str
    at: int
    task: str
    step: int
    tool: str
    status: Literal["not_executed", "ok", "error", "unknown"]
    error: str | None = None
    micros: int = 0
    settled: int = 0
    order: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    learnt: int = 0
    late: Finding | None = None
    credential: Mapping[str, object] = field(default_factory=dict)
    kind: str = field(default="outcome", init=False)
    like: OutcomeRecord | None = field(default=None, init=False, compare=False, repr=False)
    """As `DecisionRecord.like` (`outcome_like`)."""

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "outcome",
            "decision": self.decision,
            "at": self.at,
            "task": self.task,
            "step": self.step,
            "tool": self.tool,
            "status": self.status,
            "error": self.error,
            "micros": self.micros,
            **filled(
                settled=self.settled,
                order=self.order,
                facts=self.facts,
                learnt=self.learnt,
                late=None if self.late is None else finding_dict(self.late),
                credential=self.credential,
            ),
        }


decision_like: Callable[..., DecisionRecord] = another(DecisionRecord, "like", "id", "at", "step", "call", "args_hmac", "trace", "span")
outcome_like: Callable[..., OutcomeRecord] = another(OutcomeRecord, "like", "decision", "at", "step", "micros")
"""The record of an ordinary call, like another one of the same tool and delegation, which is given twice: as what it is like, and in the field."""


@frozen
class PivotRecord:
    """A task changed hands: another credential, workload or actor than at its last sight (`changed`)."""

    at: int
    task: str
    changed: tuple[str, ...]
    before: str
    credential: str
    actors: tuple[str, ...]
    workload: str | None
    origin: str
    kind: str = field(default="pivot", init=False)

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "pivot",
            "at": self.at,
            "task": self.task,
            "changed": self.changed,
            "before": self.before,
            "credential": self.credential,
            "actors": self.actors,
            "workload": self.workload,
            "origin": self.origin,
        }


@frozen
class TaskRecord:
    """The verdict on `task.end` with its code. `rules`: those that do not let it end, left out where there are none.

    `policy`: that judged it.
    """

    at: int
    task: str
    verdict: str
    code: str
    steps: int
    rules: tuple[str, ...] = ()
    policy: str = ""
    kind: str = field(default="task", init=False)

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "task",
            "at": self.at,
            "task": self.task,
            "verdict": self.verdict,
            "code": self.code,
            "steps": self.steps,
            **filled(rules=self.rules, policy=self.policy),
        }


@frozen
class ApprovalRecord:
    """A person's word that changed what a task may do, and what became of a request.

    `what`: `endorse` (one value of `argument` of `tool`), `declassify` (`label`); `asked` (a request was made), `approved`, `rejected`, `used` (by the call
    `decision`). `by`: keyed pseudonym of the person, "" where nobody has answered yet. `value`: keyed hash of what was endorsed, never the value.
    `approval`: its id. `request`: the decision that asked; `asks`: what the answer covers.
    """

    at: int
    task: str
    what: Literal["endorse", "declassify", "asked", "approved", "rejected", "used"]
    by: str
    approval: str
    tool: str = ""
    argument: str = ""
    value: str = ""
    label: str = ""
    request: str = ""
    asks: tuple[str, ...] = ()
    decision: str = ""
    kind: str = field(default="approval", init=False)

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "approval",
            "at": self.at,
            "task": self.task,
            "what": self.what,
            "by": self.by,
            "approval": self.approval,
            **filled(
                tool=self.tool,
                argument=self.argument,
                value=self.value,
                label=self.label,
                request=self.request,
                asks=self.asks,
                decision=self.decision,
            ),
        }


def filled(**members: object) -> dict[str, object]:
    """Those that say something: a record pays for what it holds, in size and in hashing."""
    return {name: value for name, value in members.items() if value}


Record = ApprovalRecord | DecisionRecord | OutcomeRecord | PivotRecord | TaskRecord
