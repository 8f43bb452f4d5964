"""Replay: events in, judgements out. The same `weigh` as inline, on state in memory.

| what a record says                                 | a replay                                                                        |
|----------------------------------------------------|---------------------------------------------------------------------------------|
| the call ran                                       | leaves behind what it leaves inline, also where it would have been refused      |
| it was refused                                     | leaves nothing but the count of denials                                         |
| refused before anything was judged, or for a failure of the house | is handed on as it stands                                        |
| grants, token, state of the task                   | are handed on: there is no token to judge                                       |
| answers of its questions (`atoms`), same policy    | are read back; under another policy only those that name what was asked         |
| nothing: a foreign trace                           | arguments are bound and asked; its order is assumed                             |

A finding of a replay never suspends and never revokes: it is about the past.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, get_args

from guard.constraints import Binder, BindError
from guard.decide import Ruling, decide
from guard.model import Finding, Judge, Outcome, Verdict
from guard.ops import Add, Applied, Op, Refused
from guard.policy.data import PolicyData
from guard.reasons import ReasonCode
from guard.replay.order import MOST, Waiting
from guard.replay.plans import looked_at, plan_for, seated, tenant_wide, without_params, without_sources
from guard.replay.said import WITHOUT, Judged, Summary
from guard.replay.state import OWN, ReplayState, Tables, tenant_key
from guard.replay.taking import (
    NO_SOURCES,
    as_it_stands,
    besides_of,
    cleared_of,
    forced_of,
    is_blind,
    is_digest,
    path_of,
    wanted_of,
    what_is_left,
    without,
)
from guard.replay.turns import Count, Line, Turns
from guard.sources import Seen
from guard.steps import Taken, refunds
from guard.workflow.asked import asked_of, words_of
from guard.workflow.atoms import Live, NotJudged, Told, Values
from guard.workflow.end import end_reads, weigh_end
from guard.workflow.flowtable import Sourced, SourcePlan
from guard.workflow.ledger import Ledger, Masks
from guard.workflow.limits import Claim, Context
from guard.workflow.observe import learn, observe, opening
from guard.workflow.plan import Plan, Weighed
from guard.workflow.rules import uses_sources
from guard.workflow.settle import settle_ops
from guard.workflow.weigh import keep_counters, reads, weigh

__all__ = ["Replay"]

_ORDER: Final = {judge: at for at, judge in enumerate(get_args(Judge))}
_IDLE = 24 * 3600 * 1_000_000
_BUSY = 100_000
"""A task is forgotten when it is idle for a day, and for so many events besides. Attack: one record from the future, and every open task is."""
_STATE_OK = Finding("state", "permit", ReasonCode.PERMIT, text="reserved")
_KEY: Final = f"{OWN}T"
"""Of every task: each has tables of its own."""
_SECRET: Final = b"replay"
"""Of hashes: they stay in this process, and are the same in every replay."""
_UNTAKEN: Final = str(ReasonCode.RECORD_UNAVAILABLE)
"""The code of a call that was let, and taken back because no sink took its record."""
NO_TOKEN = "grants and intents: a trace has no token"


def _keep(plans: dict[tuple[object, ...], Plan], name: tuple[object, ...], plan: Plan) -> None:
    """Names come from the log: they must not fill the memory."""
    if len(plans) >= 4096:
        plans.clear()
    plans[name] = plan


@dataclass(slots=True)
class _Ran:
    """A call that ran and has not ended yet."""

    plan: Plan
    values: Values
    context: Context
    taken: Taken
    added: bool
    masks: Masks | None = None


@dataclass(slots=True)
class _Task:
    name: tuple[str, str, str]
    opened: int
    waiting: Waiting
    tables: Tables
    line: Line
    decided: tuple[tuple[str, str, str], Count]
    """Its name, and what counts its commits."""
    key: str = _KEY
    last: int = 0
    touched: int = 0
    plans: dict[tuple[object, ...], tuple[Plan, Context]] = field(default_factory=dict)
    contexts: dict[tuple[object, ...], Context] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    open: dict[str, _Ran] = field(default_factory=dict)
    who: Seen | None = None
    ended: bool = False
    begun: bool = False
    prompted: bool = False
    heard: bool = False
    """Its prompt is known, and every result so far: where values come from can be told."""


class _Version:
    """Policies that judge together. `name`: as records name them."""

    def __init__(self, layers: Sequence[PolicyData]) -> None:
        self.layers = tuple(layers)
        self.name = ",".join(f"{layer.name}@{layer.digest[:12]}" for layer in layers)
        self.recorded = without_params(layers, all_args=True)
        self.unknown = without_params(layers, all_args=False)
        self.binders = {name: Binder(name, None, tool.types) for name, tool in layers[0].tools.items()}


class Replay:
    """Feed it the events of a run, in the order they were recorded. `layers`: what judges them. `was`: policies that were loaded for a part of
    the run (a reload): what was recorded under one of them is judged by it.
    """

    def __init__(self, layers: Sequence[PolicyData], was: Sequence[Sequence[PolicyData]] = ()) -> None:
        self._own = _Version(layers)
        self._was = {version.name: version for version in map(_Version, was)}
        every = [layer for version in (self._own, *self._was.values()) for layer in version.layers]
        denied = {rule.limit.window for layer in every for rule in layer.rules if rule.limit is not None and rule.limit.denied}
        self._windows: tuple[int | None, ...] = (None, *sorted(window for window in denied if window is not None))
        together = any(tenant_wide(version.layers) for version in (self._own, *self._was.values()))
        self._turns = Turns() if together else None
        self._store = ReplayState(together=together)
        self._tasks: OrderedDict[tuple[str, str, str], _Task] = OrderedDict()
        self._decisions: OrderedDict[str, tuple[tuple[str, str, str], Count]] = OrderedDict()
        self._tracks = uses_sources(every) or any(layer.asked is not None for layer in every)
        self._kept = frozenset[str]().union(*(looked_at(version.layers, _KEY) for version in (self._own, *self._was.values())))
        self._fed = 0
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._bases: dict[tuple[object, ...], Plan] = {}
        self.summary = Summary()

    # -- events ------------------------------------------------------------------------------------------------------------------

    def feed(self, seen: Seen) -> Iterator[Judged]:
        """What can be judged now that this is known: mostly the event itself, sometimes one before it."""
        if seen.kind == "call":
            if not seen.task[2]:
                yield self._told(Judged(seen, seen.verdict, seen.code, seen.findings))
                return
            task = self._task(seen)
            again = seen.id in self._decisions or seen.code == _UNTAKEN
            if seen.state and seen.state != task.decided[1][1]:
                task.decided = task.name, (task.name[0], seen.state)
            self._decisions[seen.id] = task.decided
            if len(self._decisions) > 1_000_000:
                self._decisions.popitem(last=False)
            yield from self._put(task, seen, task.decided[1], again=again)
        elif seen.kind == "outcome":
            decided = self._decisions.get(seen.id)
            of = self._tasks.get(decided[0]) if decided is not None else None
            if of is None or decided is None:
                self.summary.orphans += decided is None
                return
            of.last = seen.at
            yield from self._put(of, seen, decided[1])
        else:
            # The record names the task's identifier only; where two tenants share one, the end is that of the last one seen.
            key = next((key for key in reversed(self._tasks) if key[2] == seen.task[2] and not self._tasks[key].ended), None)
            seen.task = key or seen.task
            task = self._task(seen)
            task.ended = seen.verdict == "allow"
            if self._turns is None:
                yield from self._go(task, all=True)
                if (judged := self._one(task, seen)) is not None:
                    yield judged
            else:
                yield from self._put(task, seen, task.decided[1])
        while (
            self._fed > _BUSY
            and self._tasks
            and (first := next(iter(self._tasks.items())))[1].touched < self._fed - _BUSY
            and seen.at - first[1].last > _IDLE
            and not first[1].line.waiting
        ):
            yield from self._go(first[1], all=True)
            self._drop(first[0])

    def close(self) -> Iterator[Judged]:
        """Everything that still waits."""
        if self._turns is not None:
            yield from self._taken(self._turns, all=True)
        for key in list(self._tasks):
            yield from self._go(self._tasks[key], all=True)
            self._drop(key)

    def _task(self, seen: Seen) -> _Task:
        task = self._tasks.get(seen.task)
        if task is None:
            self.summary.tasks += 1
            waiting, name = Waiting(MOST // 2 if seen.trust == "proven" else 0), seen.task
            task = _Task(name, seen.at // 1_000_000, waiting, Tables(self._store), Line(name), (name, (name[0], "")))
            self._tasks[name] = task
        else:
            self._tasks.move_to_end(seen.task)
        self._fed += 1
        task.touched = self._fed
        task.last = max(task.last, seen.at)
        return task

    def _drop(self, key: tuple[str, str, str]) -> None:
        self._tasks.pop(key, None)

    def _put(self, task: _Task, seen: Seen, count: Count, *, again: bool = False) -> Iterator[Judged]:
        """An event of a task; then those whose turn it is."""
        turns = self._turns
        if turns is None:
            task.waiting.put(seen)
            return self._go(task)
        return self._taken(turns) if turns.put(seen, task.line, count, again=again) else iter(())

    def _taken(self, turns: Turns, *, all: bool = False) -> Iterator[Judged]:
        for line, seen in turns.take(all=all):
            line.waiting -= 1
            judged = self._one(self._tasks[line.name], seen)
            if judged is not None:
                yield judged
        self.summary.missing, self.summary.late = turns.missing, turns.late

    def _go(self, task: _Task, *, all: bool = False) -> Iterator[Judged]:
        for seen in task.waiting.take(all=all):
            judged = self._one(task, seen)
            if judged is not None:
                yield judged

    def _one(self, task: _Task, seen: Seen) -> Judged | None:
        """An event whose turn it is."""
        if not task.begun:
            self._open(task, seen)
        judged: Judged | None = None
        if seen.kind == "outcome":
            self._settle(task, seen.id, seen)
        elif seen.kind == "call":
            task.who = seen
            judged = self._told(self._call(task, seen))
        else:
            judged = self._told(self._end(task, seen))
        if task.ended and not task.open and not task.line.waiting and (self._turns is not None or seen.kind == "task"):
            self._drop(task.name)  # else what other processes still have in flight may end later
        return judged

    def _open(self, task: _Task, seen: Seen) -> None:
        """The first event of a task: of a trace, what its prompt says."""
        task.begun = True
        if self._tracks and seen.trust != "proven" and seen.prompt is not None:
            task.prompted = task.heard = True
            asked = asked_of(seen.prompt, words_of(self._own.layers))
            me = [one for one in (seen.origin, seen.person) if one]
            ops = opening(Ledger(_SECRET, task.key), seen.prompt, seen.params or {}, me=me, asked=asked)
            self._apply(task, seen.at // 1_000_000, ops)

    def _told(self, judged: Judged) -> Judged:
        said = self.summary
        seen = judged.seen
        said.calls += seen.kind == "call"
        said.assumed += judged.assumed_order
        for name in (WITHOUT,) if WITHOUT in judged.not_judged else judged.not_judged:
            said.not_judged[name, seen.file] += 1
        if judged.verdict in ("deny", "ask"):
            said.violations += 1
            said.violating.add(seen.task)
        if seen.verdict and (judged.verdict, judged.code) != (seen.verdict, seen.code):
            said.differ += 1
        return judged

    def _apply(self, task: _Task, second: int, ops: Sequence[Op], *, commit: bool = True) -> Applied | Refused:
        return self._store.at(task.tables, second, ops, commit=commit)

    def _version(self, seen: Seen) -> _Version:
        """The policies that judge it."""
        return self._was.get(seen.policy, self._own) if self._was else self._own

    # -- one call ----------------------------------------------------------------------------------------------------------------

    def _call(self, task: _Task, seen: Seen) -> Judged:
        earlier = task.open.get(seen.id)
        if earlier is not None and seen.status == "not_executed":
            self._take_back(task, seen, earlier)  # it was let, and then no sink could take its record
        judged = self._judge(task, seen)
        if seen.verdict in ("deny", "ask"):
            key = f"{task.key}|denied" if seen.verdict == "deny" else f"{task.key}|asks"
            windows = self._windows if seen.verdict == "deny" else (None,)
            self._apply(task, seen.at // 1_000_000, [Add(key, 1, None, window, seen.id) for window in windows])
        if seen.status in ("ok", "error", "unknown"):
            self._settle(task, seen.id, seen)
        return judged

    def _judge(self, task: _Task, seen: Seen) -> Judged:
        own = seen.trust == "proven"
        if own and as_it_stands(seen):
            return Judged(seen, seen.verdict, seen.code, seen.findings)
        plan, context, left_out = self._plan(task, seen)
        self.summary.unnumbered += own and bool(plan.wide) and seen.order <= 0 and seen.status != "not_executed"
        findings = besides_of(task.opened, seen, plan)
        values = self._values(seen, plan)
        if isinstance(values, Finding) or any(f.judge == "call" and f.code != ReasonCode.TOOL_UNKNOWN for f in findings):
            findings += [*plan.always, *([values] if isinstance(values, Finding) else [])]
            return self._said(seen, findings, plan, left_out)
        now = seen.at // 1_000_000
        for _ in range(8):
            try:
                return self._weigh(task, seen, plan, context, values, findings, now, left_out)
            except NotJudged as missing:
                plan, more = without(plan, missing.site, values, context, now)
                if not own and seen.args is None and WITHOUT not in left_out:
                    left_out += (WITHOUT,)
                left_out += tuple(name for name in more if name not in left_out)
        return Judged(seen, "", "", (), (*left_out, "the call"), not own)

    def _plan(self, task: _Task, seen: Seen) -> tuple[Plan, Context, tuple[str, ...]]:
        own = seen.trust == "proven"
        params = None if seen.params is None else repr(sorted(seen.params.items()))
        name = (seen.tool, seen.actors, seen.origin, seen.person, seen.proven, seen.intent, self._version(seen).name, params)
        held = task.plans.get(name)
        if held is None:
            context = task.contexts.get(name[1:5])
            if context is None:
                context = Context(
                    task.key, tenant_key(seen.task[0]), seen.origin, seen.actors[-1] if seen.actors else "", _SECRET, _SECRET, seen.person, seen.proven,
                    max(len(seen.actors) - 1, 0), task.opened,
                )  # fmt: skip
                if len(task.contexts) < 4096:
                    task.contexts[name[1:5]] = context
            plan = self._shared_plan((seen.task[0], own, *name), seen, context)
            held = plan, context
            if len(task.plans) < 4096:
                task.plans[name] = held
        plan, context = held
        if own:
            return plan, context, ()
        left_out: tuple[str, ...] = (NO_TOKEN,) if seen.intent is None and self._own.layers[0].intents else ()
        if (plan.sources is not None or plan.asked is not None) and not (task.heard and seen.args is not None):
            why = "the results were not captured" if task.prompted else "the prompt is not known"
            left_out += (f"{NO_SOURCES}: {why}",)
            plan = without_sources(plan)
        blind = [each.rule.id for each in plan.rules if is_blind(each.rule)] + [each.rule.id for each in plan.past if is_blind(each.rule)]
        if blind:
            left_out += tuple(f"rule {name}: a trace has no signals, and proves no actor" for name in blind)
            rules = tuple(each for each in plan.rules if not is_blind(each.rule))
            plan = replace(plan, rules=rules, past=tuple(each for each in plan.past if not is_blind(each.rule)))
        return plan, context, left_out

    def _shared_plan(self, name: tuple[object, ...], seen: Seen, context: Context) -> Plan:
        """One plan for every task of a tenant with the same tool, intent, parameters, and who acts for whom: their keys are the same.

        Of a record's plan, who acts for whom is only in keys of limits: it is compiled once for all and seated. A foreign trace's may ask
        for the origin's own identifiers among its arguments, so each has its own.
        """
        plan = self._plans.get(name)
        if plan is None:
            own = seen.trust == "proven"
            version = self._version(seen)
            base = (version.name, seen.tool, seen.intent, name[-1]) if own else name
            plan = self._bases.get(base)
            if plan is None:
                plan = plan_for(
                    version.recorded if own else version.unknown if seen.params is None else version.layers,
                    seen,
                    context,
                    version.layers,
                    self._kept,
                )
                if not own and seen.intent is None:
                    plan = replace(plan, always=tuple(f for f in plan.always if f.judge == "call"))
                _keep(self._bases, base, plan)
            plan = seated(plan, context)
            _keep(self._plans, name, plan)
        return plan

    def _values(self, seen: Seen, plan: Plan) -> Values | Finding:
        version = self._version(seen)
        if seen.args is not None:
            binder = version.binders.get(seen.tool)
            try:
                return Live(binder.bind(seen.args).values if binder is not None else {})
            except BindError as error:
                return Finding("call", "forbid", error.code, text=str(error))
        atoms = seen.atoms or {}
        if seen.policy and seen.policy != version.name:  # a site that is a digest of what it asks is the same question in any policy
            atoms = {site: answer for site, answer in atoms.items() if is_digest(site.partition(".")[0])}
        told = Told(atoms)
        intent = version.layers[0].intents.get(seen.intent or "")
        permission = intent.allow.get(seen.tool) if intent is not None else None
        if permission is not None and not (permission.args or permission.check or permission.origins):
            told.told["intent"] = 0
        elif seen.policy == version.name:
            said = next((f for f in seen.findings if f.judge == "intent" and not str(f.code).startswith(("limit", "intent"))), None)
            if said is not None:
                told.told.setdefault("intent", 0 if said.says == "permit" else path_of(said.text))
        return told

    def _weigh(
        self, task: _Task, seen: Seen, plan: Plan, context: Context, values: Values, besides: list[Finding], now: int, left_out: tuple[str, ...]
    ) -> Judged:  # fmt: skip
        wanted = reads(plan, values, context)
        answers: Sequence[object] = ()
        if wanted:
            found = self._store.look(task.tables, now, wanted)
            if found is None:
                raise NotJudged("the past")
            answers = found
        ran = seen.status != "not_executed"
        adds = seen.tool not in task.ran
        counts = adds and bool(plan.events.counters)
        cleared = cleared_of(seen)
        sourced, votes = self._sourced(task, seen, plan, context, values, now)
        weighed = weigh(plan, values, context, seen.id, now, answers, cleared=cleared, seen=not counts, sourced=sourced, votes=votes)
        findings = [*besides, *weighed.findings]
        left = weighed
        if not weighed.clear and ran:
            left = what_is_left(plan, values, context, seen.id, answers, weighed, adds)
        taken: Taken | None = None
        if weighed.clear and not any(f.says != "permit" for f in besides):
            ops, first = wanted_of(plan, weighed, seen.id, cleared)
            got = self._apply(task, now, ops, commit=ran)
            if type(got) is Applied:
                findings.append(_STATE_OK)
                findings += [
                    said
                    for claim, value in zip(weighed.claims, got.values[first + len(plan.fixed) :], strict=True)
                    if (said := claim.applied(value))
                ]
                taken = Taken(ops, first, now, weighed)
            else:
                findings += self._trial(task, now, plan, weighed, seen.id, cleared)
        elif plan.fixed or weighed.claims or weighed.holds:
            findings += self._trial(task, now, plan, weighed, seen.id, cleared)
        if ran and plan.tool is not None:
            if taken is None:
                ops, first = forced_of(plan, left, seen.id)
                self._apply(task, now, ops)
                taken = Taken(ops, first, now, left)
            if plan.events.skippable:
                task.ran[seen.tool] = 0 if adds else task.ran.get(seen.tool, 0) + 1
            task.open[seen.id] = _Ran(plan, values, context, taken, adds, sourced.masks if sourced is not None else None)
        return self._said(seen, findings, plan, left_out)

    def _sourced(
        self, task: _Task, seen: Seen, plan: Plan, context: Context, values: Values, now: int
    ) -> tuple[Sourced | None, Sequence[Finding]]:
        """What the sources and the prompt say: from the record, or from the ledger of the replay."""
        origins, asked = plan.sources, plan.asked
        if origins is None and asked is None:
            return None, ()
        if type(values) is Told:
            return origins.judge(values, (), context, seen.id) if origins is not None else None, asked.judge(
                values, ()
            ) if asked is not None else ()
        args = seen.args or {}
        wanted = origins.reads(values, context, args) if origins is not None else ()
        votes = asked.reads(context.task) if asked is not None else ()
        answer = self._apply(task, now, (*wanted, *votes), commit=False) if wanted or votes else None
        found = answer.values if type(answer) is Applied else ()
        return (
            origins.judge(values, found[: len(wanted)], context, seen.id, args) if origins is not None else None,
            asked.judge(values, found[len(wanted) :]) if asked is not None else (),
        )

    def _trial(self, task: _Task, now: int, plan: Plan, weighed: Weighed, by: str, cleared: Mapping[str, str]) -> list[Finding]:
        """Which claims and holds would refuse, each asked alone."""
        asked = [(hold.op, hold.said) for hold in weighed.holds if hold.said is not None]
        claims = [
            Claim(Add(each.key, 1, each.max, each.window, by), each.source, "enforce", False)
            for each in plan.fixed
            if not each.source.cleared(cleared)
        ]
        asked += [(claim.op, claim.refused) for claim in (*claims, *weighed.claims) if not claim.soft]
        answers = ((said, self._apply(task, now, (op,), commit=False)) for op, said in asked)
        return [said(answer) for said, answer in answers if type(answer) is Refused]

    def _said(self, seen: Seen, findings: list[Finding], plan: Plan, left_out: tuple[str, ...]) -> Judged:
        findings.sort(key=lambda found: _ORDER.get(found.judge, -1))
        ruling: Ruling = decide(findings, plan.all_required)
        verdict: Verdict = ruling.verdict
        return Judged(seen, verdict, str(ruling.code), tuple(findings), left_out, seen.trust != "proven")

    # -- ends --------------------------------------------------------------------------------------------------------------------

    def _settle(self, task: _Task, decision: str, seen: Seen) -> None:
        ran = task.open.pop(decision, None)
        if ran is None or seen.status == "not_executed":
            return
        tool = ran.plan.tool
        ops: Sequence[Op] = ()
        if seen.status == "error" and tool is not None and tool.errors_have_no_effect:
            ops = refunds(ran.taken, marks=False)
        elif seen.status == "ok" and tool is not None and (ran.plan.events.ends or ran.plan.events.ended or tool.remember):
            try:
                ops = settle_ops(
                    ran.plan, ran.values, ran.context, decision, Outcome("ok", seen.result), seen.at // 1_000_000, seen=tool.name in task.settled
                )  # fmt: skip
                task.settled.add(tool.name)
            except NotJudged:
                self.summary.not_judged["what the call leaves when it ended well", seen.file] += 1
        if ops:
            self._apply(task, seen.at // 1_000_000, ops)
        if ran.plan.sources is not None and type(ran.values) is Live:
            self._learn(task, decision, seen, ran, ran.plan.sources)

    def _learn(self, task: _Task, decision: str, seen: Seen, ran: _Ran, origins: SourcePlan) -> None:
        """A trace's result into the ledger; where it was not captured, nothing after it can be told."""
        if seen.status == "ok" and not seen.known_result and origins.learns:
            task.heard = False
            return
        outcome = Outcome(seen.status or "ok", seen.result, RuntimeError(str(seen.result or "")) if seen.status == "error" else None)
        ledger = Ledger(_SECRET, task.key)
        me = [one for one in (ran.context.origin, ran.context.person) if one]
        observed = observe(origins, outcome, ran.values.values if type(ran.values) is Live else {}, me)
        learning = learn(origins, ledger, observed, ran.masks or Masks(), decision)
        if learning.ops and type(self._apply(task, seen.at // 1_000_000, learning.ops)) is Refused:
            self._apply(task, seen.at // 1_000_000, learning.full)

    def _take_back(self, task: _Task, seen: Seen, ran: _Ran) -> None:
        del task.open[seen.id]
        taken = ran.taken
        if ran.added and ran.plan.events.skippable:
            if task.ran.get(seen.tool, 0):
                taken = Taken(taken.ops, taken.first, taken.at, keep_counters(taken.left, ran.plan))
            else:
                task.ran.pop(seen.tool, None)
        self._apply(task, seen.at // 1_000_000, refunds(taken))

    def _end(self, task: _Task, seen: Seen) -> Judged:
        """`task.end`, with the delegation of whoever acted last."""
        who = task.who
        intent = who.intent if who is not None else None
        actor = who.actors[-1] if who is not None and who.actors else ""
        context = Context(
            task.key, tenant_key(seen.task[0]), who.origin if who is not None else "", actor, _SECRET, _SECRET, who.person if who is not None else None,
            who.proven if who is not None else None, opened=task.opened,
        )  # fmt: skip
        now = seen.at // 1_000_000
        layers = self._version(seen).layers
        answer = self._apply(task, now, end_reads(layers, intent, context), commit=False)
        findings, _ = weigh_end(layers, intent, context, answer.values if type(answer) is Applied else (), now)
        if not any(f.says != "permit" and f.mode == "enforce" for f in findings):
            findings.append(Finding("task", "permit", ReasonCode.PERMIT, text="the task may end"))
        required: tuple[Judge, ...] = ("task",)
        ruling = decide(findings, required)
        return Judged(seen, ruling.verdict, str(ruling.code), tuple(findings))
