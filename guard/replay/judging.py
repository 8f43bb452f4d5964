"""One recorded event, when its turn has come: the same `weigh` as inline, on state in memory; and what it leaves there.

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

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from guard.decide import Ruling, decide
from guard.model import Finding, Judge, Outcome, Verdict
from guard.ops import Add, Applied, Op, Refused
from guard.reasons import ReasonCode
from guard.replay.said import WITHOUT, Judged, Summary
from guard.replay.state import ReplayState, tenant_key
from guard.replay.taking import as_it_stands, besides_of, cleared_of, forced_of, wanted_of, what_is_left, without
from guard.replay.task import SECRET, Ran, Task
from guard.replay.versions import Versions
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

__all__ = ["Judging"]

_ORDER: Final = {judge: at for at, judge in enumerate(get_args(Judge))}
_STATE_OK = Finding("state", "permit", ReasonCode.PERMIT, text="reserved")


class Judging:
    """What is judged stays in `store`; what could not be is counted in `summary`."""

    def __init__(self, versions: Versions, summary: Summary) -> None:
        self._versions, self._summary = versions, summary
        self.store = ReplayState(together=versions.together)
        denied = {rule.limit.window for layer in versions.layers for rule in layer.rules if rule.limit is not None and rule.limit.denied}
        self._windows: tuple[int | None, ...] = (None, *sorted(window for window in denied if window is not None))
        self._tracks = uses_sources(versions.layers) or any(layer.asked is not None for layer in versions.layers)

    def open(self, task: Task, seen: Seen) -> None:
        """The first event of a task: of a trace, what its prompt says."""
        task.begun = True
        if self._tracks and seen.trust != "proven" and seen.prompt is not None:
            task.prompted = task.heard = True
            asked = asked_of(seen.prompt, words_of(self._versions.own.layers))
            me = [one for one in (seen.origin, seen.person) if one]
            ops = opening(Ledger(SECRET, task.key), seen.prompt, seen.params or {}, me=me, asked=asked)
            self._apply(task, seen.at // 1_000_000, ops)

    def call(self, task: Task, seen: Seen) -> Judged:
        """A call: judged, and what is known of how it went."""
        earlier = task.open.get(seen.id)
        if earlier is not None and seen.status == "not_executed":
            self._take_back(task, seen, earlier)  # it was let, and then no sink could take its record
        judged = self._judge(task, seen)
        if seen.verdict in ("deny", "ask"):
            key = f"{task.key}|denied" if seen.verdict == "deny" else f"{task.key}|asks"
            windows = self._windows if seen.verdict == "deny" else (None,)
            self._apply(task, seen.at // 1_000_000, [Add(key, 1, None, window, seen.id) for window in windows])
        if seen.status in ("ok", "error", "unknown"):
            self.settle(task, seen.id, seen)
        return judged

    def _judge(self, task: Task, seen: Seen) -> Judged:
        own = seen.trust == "proven"
        if own and as_it_stands(seen):
            return Judged(seen, seen.verdict, seen.code, seen.findings)
        plan, context, left_out = self._versions.plan(task, seen)
        self._summary.unnumbered += own and bool(plan.wide) and seen.order <= 0 and seen.status != "not_executed"
        findings = besides_of(task.opened, seen, plan)
        values = self._versions.values(seen)
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

    def _weigh(
        self, task: Task, seen: Seen, plan: Plan, context: Context, values: Values, besides: list[Finding], now: int, left_out: tuple[str, ...]
    ) -> Judged:  # fmt: skip
        wanted = reads(plan, values, context)
        answers: Sequence[object] = ()
        if wanted:
            found = self.store.look(task.tables, now, wanted)
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
            task.open[seen.id] = Ran(plan, values, context, taken, adds, sourced.masks if sourced is not None else None)
        return self._said(seen, findings, plan, left_out)

    def _sourced(
        self, task: Task, seen: Seen, plan: Plan, context: Context, values: Values, now: int
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

    def _trial(self, task: Task, now: int, plan: Plan, weighed: Weighed, by: str, cleared: Mapping[str, str]) -> list[Finding]:
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

    def _apply(self, task: Task, second: int, ops: Sequence[Op], *, commit: bool = True) -> Applied | Refused:
        return self.store.at(task.tables, second, ops, commit=commit)

    # -- ends --------------------------------------------------------------------------------------------------------------------

    def settle(self, task: Task, decision: str, seen: Seen) -> None:
        """How a call ended: what it leaves, and what was learnt of its result."""
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
                self._summary.not_judged["what the call leaves when it ended well", seen.file] += 1
        if ops:
            self._apply(task, seen.at // 1_000_000, ops)
        if ran.plan.sources is not None and type(ran.values) is Live:
            self._learn(task, decision, seen, ran, ran.plan.sources)

    def _learn(self, task: Task, decision: str, seen: Seen, ran: Ran, origins: SourcePlan) -> None:
        """A trace's result into the ledger; where it was not captured, nothing after it can be told."""
        if seen.status == "ok" and not seen.known_result and origins.learns:
            task.heard = False
            return
        outcome = Outcome(seen.status or "ok", seen.result, RuntimeError(str(seen.result or "")) if seen.status == "error" else None)
        ledger = Ledger(SECRET, task.key)
        me = [one for one in (ran.context.origin, ran.context.person) if one]
        observed = observe(origins, outcome, ran.values.values if type(ran.values) is Live else {}, me)
        learning = learn(origins, ledger, observed, ran.masks or Masks(), decision)
        if learning.ops and type(self._apply(task, seen.at // 1_000_000, learning.ops)) is Refused:
            self._apply(task, seen.at // 1_000_000, learning.full)

    def _take_back(self, task: Task, seen: Seen, ran: Ran) -> None:
        del task.open[seen.id]
        taken = ran.taken
        if ran.added and ran.plan.events.skippable:
            if task.ran.get(seen.tool, 0):
                taken = Taken(taken.ops, taken.first, taken.at, keep_counters(taken.left, ran.plan))
            else:
                task.ran.pop(seen.tool, None)
        self._apply(task, seen.at // 1_000_000, refunds(taken))

    def end(self, task: Task, seen: Seen) -> Judged:
        """`task.end`, with the delegation of whoever acted last."""
        who = task.who
        intent = who.intent if who is not None else None
        actor = who.actors[-1] if who is not None and who.actors else ""
        context = Context(
            task.key, tenant_key(seen.task[0]), who.origin if who is not None else "", actor, SECRET, SECRET, who.person if who is not None else None,
            who.proven if who is not None else None, opened=task.opened,
        )  # fmt: skip
        now = seen.at // 1_000_000
        layers = self._versions.of(seen).layers
        answer = self._apply(task, now, end_reads(layers, intent, context), commit=False)
        findings, _ = weigh_end(layers, intent, context, answer.values if type(answer) is Applied else (), now)
        if not any(f.says != "permit" and f.mode == "enforce" for f in findings):
            findings.append(Finding("task", "permit", ReasonCode.PERMIT, text="the task may end"))
        required: tuple[Judge, ...] = ("task",)
        ruling = decide(findings, required)
        return Judged(seen, ruling.verdict, str(ruling.code), tuple(findings))
