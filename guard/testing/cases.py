"""Run one entry of a policy's `tests:` through the real guard: real tokens, real state, real records, a frozen clock.

Every event is `guard.before` and, unless it was blocked, `guard.after` with the outcome the trace states. An event without prefix
acts as the case's `as:` on the case's own task. `#other` is another task of the same origin, intent and parameters; `@mailer` is a
sub-agent of the task, handed its work by the case's actor (or a member of `as: {actor: [...]}`, itself); `+5m` moves the clock
before the event. `as: {tasks: {bob: {...}}}` says what `#bob` acts as.

| line                       | what happens                                                                                |
|----------------------------|---------------------------------------------------------------------------------------------|
| `signal(name, value)`      | it is said from then on, of everybody                                                       |
| `approve(ask, by=person)`  | the person answers the last call of the task that asked for it: the same call again may run |
| `user_says("...")`         | more of the user's own words; behind `@mailer`, of that agent's                             |

`as: {proven: [payer, clearer]}` says which actors have proven to be one, by a key and a workload of their own; the others have proven nothing.
Without it whoever acts has what `proof:` of the policy demands, and for `distinct: actor` nobody differs from anybody.

Tokens are refreshed as they run out, as a client would: what a policy says of time is its `ttl` and `within`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Self

from guard.errors import Denied
from guard.frozen import frozen
from guard.identity import LocalIssuer
from guard.identity.holder import HolderKey
from guard.model import Decision, Outcome, ToolCall
from guard.policy import Policy
from guard.policy.cases import meets
from guard.policy.data import Case, Event, RunAs
from guard.record import ListSink
from guard.runtime import Guard, Task
from guard.testing.clock import FrozenClock
from guard.testing.fakes import FakeApprovals, FakeCredentials, FakeProofs, FakeSignals

__all__ = ["CaseResult", "Step", "run_case"]

_TTL = 3600
_SPARE = 30  # seconds before the end of a token at which it is refreshed
_END = "task.end"


@frozen
class Step:
    """One event of a case: its line, what was expected, what came."""

    text: str
    expected: str
    got: Decision
    ok: bool


@frozen
class CaseResult:
    """How a case came out. `steps` ends with the first one that failed. `message`: what went wrong, empty where nothing did."""

    name: str
    ok: bool
    steps: tuple[Step, ...]
    message: str
    where: str = ""

    @property
    def failed(self) -> int:
        """The number of the step that failed, from 1; 0 where none did."""
        return 0 if self.ok else len(self.steps)


def run_case(policy: Policy | Sequence[Policy], case: Case) -> CaseResult:
    """Run `case` under `policy` (several are layers). Stops at the first step that is not as expected. Never runs a tool.

    Raises PolicyError or ConfigError where the policies do not make a guard together.
    """
    with _Desk(policy, case) as desk:
        steps: list[Step] = []
        for event, expected in zip(case.trace, case.expect, strict=True):
            desk.clock.advance(event.after)
            if event.kind != "call":
                wrong = desk.happens(event)
                if wrong:
                    return CaseResult(case.name, False, tuple(steps), f"line {event.line}: {wrong}", case.where)
                continue
            steps.append(_step(event.text, expected, desk.event(event)))
            if not steps[-1].ok:
                return _result(case, steps)
        if case.end is not None:
            steps.append(_step(_END, case.end, desk.end()))
        return _result(case, steps)


def _step(text: str, expected: str, got: Decision) -> Step:
    return Step(text, expected, got, meets(expected, got))


def _result(case: Case, steps: Sequence[Step]) -> CaseResult:
    last = steps[-1] if steps else None
    if last is None:
        return CaseResult(case.name, True, (), "", case.where)
    message = "" if last.ok else f"expected {last.expected}, got {_got(last.got, case.run_as.intent)}"
    return CaseResult(case.name, last.ok, tuple(steps), message, case.where)


def _got(decision: Decision, intent: str) -> str:
    """`allow by intent pay-invoice (policy.yaml:31): amount is at most $ceiling`"""
    said = decision.deciding
    if decision.verdict == "allow":
        said = next((f for f in decision.findings if f.judge == "intent" and f.says == "permit"), None)
        head = f"allow by intent {intent}" if said is not None else "allow"
    else:
        head = f"{decision.verdict} {decision.code}"
        if said is not None and said.rule:
            head += f" by rule {said.rule}"
    place = f" ({said.where})" if said is not None and said.where else ""
    return f"{head}{place}" + (f": {said.text}" if said is not None and said.text else "")


class _Desk:
    """One guard for one case, with the tasks the case has opened."""

    def __init__(self, policy: Policy | Sequence[Policy], case: Case) -> None:
        self.clock = FrozenClock()
        self._case = case
        self._issuer = LocalIssuer("cases", clock=lambda: self.clock.now().timestamp())
        # The deadline is for stores that hang; a case has none, and a loaded machine must not change a verdict.
        deadline = timedelta(seconds=60)
        self._signals, self._approvals = FakeSignals(self.clock), FakeApprovals(self.clock)
        proven = case.run_as.proven
        self._guard = Guard(
            policy, trust=self._issuer, sinks=[ListSink()], clock=self.clock, deadline=deadline, signals=self._signals,
            approvals=self._approvals, proofs=FakeProofs({name: name for name in proven or ()}, proven), credentials=FakeCredentials(),
        )  # fmt: skip
        layers = policy if isinstance(policy, Sequence) else [policy]
        # Where the policy demands a proof, whoever acts in the case has one, unless the case says who has proven to be one.
        self._key = HolderKey.generate(clock=lambda: self.clock.now().timestamp()) if any(layer.proof for layer in layers) else None
        self._asked: dict[tuple[str, str], Decision] = {}
        self._open = ExitStack()
        self._tasks: dict[tuple[str, str | None], tuple[Task, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._open.close()
        except Denied:  # what ending the task comes to is a test only where the case says `end:`
            pass

    def event(self, event: Event) -> Decision:
        """Judge one event and settle it with its outcome."""
        try:
            task = self._task(event.task or "", event.actor)
        except Denied as denied:
            return denied.decision
        with task:
            decision = self._guard.before(ToolCall(event.tool, event.args))
            if not decision.blocks:
                self._guard.after(decision, _outcome(event))
        for ask in decision.request()["asks"] if decision.verdict == "ask" else ():  # type: ignore[attr-defined]
            self._asked[event.task or "", str(ask)] = decision
        return decision

    def happens(self, event: Event) -> str:
        """A line that is no call; what is wrong with it, or nothing."""
        if event.kind == "signal":
            self._signals.say(str(event.args["name"]), event.args["value"])
        elif event.kind == "user_says":
            try:
                with self._task(event.task or "", event.actor) as task:
                    task.user_says(str(event.args["text"]), quoted=str(event.args["quoted"]))
            except Denied as denied:
                return str(denied)
        else:
            ask, groups = str(event.args["ask"]), event.args["groups"]
            asked = self._asked.get((event.task or "", ask))
            if asked is None:
                return f"no call has asked for `{ask}`"
            named = groups if isinstance(groups, list) else [groups]
            self._approvals.approve(asked, ask, by=str(event.args["by"]), groups=[str(one) for one in named])
        return ""

    def end(self) -> Decision:
        """End the case's own task."""
        try:
            return self._task("", None).end()
        except Denied as denied:
            return denied.decision

    def _task(self, name: str, actor: str | None) -> Task:
        now = self.clock.monotonic()
        known = self._tasks.get((name, actor))
        if known is not None and now < known[1]:
            return known[0]
        chain = self._chain(name, actor)
        key = self._key if self._case.run_as.proven is None or chain[-1] in self._case.run_as.proven else None
        task = self._open.enter_context(self._guard.task(self._mint(name, chain, key), prompt=self._who(name).prompt, key=key))
        self._tasks[name, actor] = task, now + _TTL - _SPARE
        return task

    def _who(self, name: str) -> RunAs:
        own = self._case.run_as
        return own.tasks.get(name, own)

    def _chain(self, name: str, actor: str | None) -> list[str]:
        chain = list(self._who(name).actor)
        if actor is None:
            return chain
        return chain[: chain.index(actor) + 1] if actor in chain else [*chain, actor]

    def _mint(self, name: str, chain: list[str], key: HolderKey | None) -> str:
        run_as = self._who(name)
        return self._issuer.mint(
            origin=run_as.origin,
            actor=chain,
            intent=run_as.intent,
            params=run_as.params,
            ttl=f"{_TTL}s",
            txn=f"case-{name or 'own'}",
            person=run_as.person,
            key=None if key is None else key.public,
        )


def _outcome(event: Event) -> Outcome:
    return Outcome(event.status, event.result, RuntimeError(event.error) if event.status == "error" else None)
