"""One call weighed on its plan: every pure judge asked once, and what the call would take from the shared state.

What a call reads comes before it is weighed (`reads`), what was read comes in as `answers`; nothing here looks anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from guard.model import Finding, Signal
from guard.ops import Absent, Drop, Op, Refused
from guard.policy.judge import Check, judge, refused
from guard.reasons import ReasonCode
from guard.workflow.atoms import Live, Values
from guard.workflow.events import left_behind, look
from guard.workflow.limits import Claim, Context, LimitSource
from guard.workflow.marks import once_key
from guard.workflow.plan import Plan, Weighed
from guard.workflow.rules import excused
from guard.workflow.verb import Hold

if TYPE_CHECKING:
    from guard.policy.data import Rule
    from guard.workflow.flowtable import Sourced

__all__ = ["approved", "keep_counters", "reads", "weigh", "weigh_plain"]

_NO_SIGNALS: Final[Mapping[str, Signal]] = {}
_NOBODY: Final[Mapping[str, str]] = {}


def reads(plan: Plan, values: Values, context: Context) -> tuple[Op, ...]:
    """What must be read from the store before the call can be weighed; () where nothing looks back."""
    if not plan.past and not plan.events.places:
        return ()
    ops: list[Op] = []
    for rule in plan.past:
        ops += rule.reads(values, context)
    if plan.events.places and plan.tool is not None:
        ops += look(plan.events, plan.tool, values)
    return tuple(ops)


def weigh_plain(plan: Plan, values: Mapping[str, object]) -> Weighed:
    """`weigh` for a `plain` plan whose counters stand: the call of every day, and it costs nothing that it does not need."""
    if plan.agreed is not None:
        for checks in plan.choices:
            test = checks[0].test
            if test is not None and test(values) is not None:
                break
        else:
            return plan.agreed.weighed
    findings: list[Finding] = [*plan.always]
    clear = plan.possible
    for checks in plan.choices:
        found = judge(checks, values)
        if type(found) is Check:
            findings.append(found.permit)
        else:
            findings.append(found)  # type: ignore[arg-type]
            clear = False
    made: Weighed = _new(Weighed, (findings, [], clear, (), (), (), (), ()))
    return made


_new: Final[Any] = tuple.__new__


def weigh(
    plan: Plan,
    values: Values,
    context: Context,
    decision: str,
    now: int,
    answers: Sequence[object] = (),
    signals: Mapping[str, Signal] = _NO_SIGNALS,
    cleared: Mapping[str, str] = _NOBODY,
    *,
    seen: bool = False,
    sourced: Sourced | None = None,
    votes: Sequence[Finding] = (),
) -> Weighed:
    """Ask every pure judge; collect what the call would take. Findings in the order token, grants, intent, flow, asked, rules.

    `answers`: of `reads`, in its order. `cleared`: the asks that approvals cover, with what is said of them. `seen`: see `events.left_behind`. `sourced`: what the
    sources say of it, None: not known, and then no `unless: {flow: ...}` excuses. `votes`: what the prompt's words say.
    """
    findings: list[Finding] = list(plan.always)
    claims: list[Claim] = []
    sources = _permissions(plan, values, findings)
    masks: Mapping[str, Sequence[str]] | None = None
    written: Sequence[Op] = ()
    if sourced is not None:
        masks, written = sourced.masks.letters, sourced.marks
        findings += sourced.findings
    findings += votes
    for rule in plan.rules:
        if not rule.always and not rule.matches(values):
            continue
        if rule.limit is not None:
            silent = rule.rule.unless is not None and excused(rule.rule, plan, values, masks)
            sources.append((rule.limit, silent))
            continue
        finding = rule.judge(values, now, signals)
        if finding is not None:
            findings.append(_unless(rule.rule, finding, plan, values, masks))
    holds: list[Hold] = []
    at = _past(plan, values, context, now, answers, findings, holds, masks)
    if sources:
        name = plan.tool.name if plan.tool is not None else ""
        for source, silent in sources:
            claim = source.claim(context, name, values, decision, now)
            if isinstance(claim, Finding):
                findings.append(claim)
            else:
                claims.append(claim.silenced() if silent else claim)
    if cleared:
        findings = [approved(found, cleared) for found in findings]
        claims = [claim.silenced() if claim.source.cleared(cleared) else claim for claim in claims]
    clear = plan.possible and all(found.says == "permit" or found.mode == "monitor" for found in findings)
    tool, events = plan.tool, plan.events
    if tool is None or (events.light and (seen or not clear)):
        return _weighed(
            findings, claims, clear, _arranged([*holds, *plan.order]) if holds else plan.order, written if clear else (), (), (), ()
        )
    holds += plan.order
    if tool.once is not None:
        holds.append(Hold(Absent(once_key(tool, values, context)), _repeated))
    if not clear:
        return _weighed(findings, claims, clear, _arranged(holds), (), (), (), ())
    left = left_behind(events, tool, values, context, decision, answers[at:], seen=seen)
    kept = [*left.marks, *written]  # what it writes stays also if it does not run: then that learns nothing new, the strict side
    return _weighed(findings, claims, clear, _arranged([*holds, *left.holds]), kept, left.unmark, left.forget, left.labels)


def keep_counters(weighed: Weighed | None, plan: Plan) -> Weighed | None:
    """The same without taking back the counters of the tool: other calls have rested on them."""
    if weighed is None:
        return None
    counters = frozenset(plan.events.counters)
    return weighed._replace(unmark=[op for op in weighed.unmark if op.key not in counters])  # type: ignore[union-attr]


def _weighed(*fields: Any) -> Weighed:
    made: Weighed = _new(Weighed, fields)
    return made


def _permissions(plan: Plan, values: Values, findings: list[Finding]) -> list[tuple[LimitSource, bool]]:
    """Grants and intent. Written down: which of several permissions admitted the call, and the argument on which it was refused; that
    the only one permitted, a record says already (`atoms.told_of`).
    """
    sources: list[tuple[LimitSource, bool]] = []
    for checks in plan.choices:
        found = judge(checks, values.values) if type(values) is Live else _told(checks, values)
        if isinstance(found, Finding):
            findings.append(found)
            if type(values) is Live and checks and checks[0].test is not None:
                failed = checks[0].test(values.values)
                values.told[checks[0].judge] = failed[0] if failed is not None else ""
            continue
        if type(values) is Live and len(checks) > 1:
            values.told[found.judge] = checks.index(found)
        findings.append(found.permit)
        if plan.limits:
            source = plan.limits.get(id(found))
            if source is not None:
                sources.append((source, False))
    return sources


def _told(checks: tuple[Check, ...], values: Values) -> Check | Finding:
    """In replay: the permission that was found then, or the refusal."""
    first = checks[0]
    answer = values.ask(first.judge, lambda _: None)
    if type(answer) is int and 0 <= answer < len(checks):
        return checks[answer]
    return refused(first, str(answer))


def _unless(rule: Rule, finding: Finding, plan: Plan, values: Values, masks: Mapping[str, Sequence[str]] | None) -> Finding:
    """The finding of a rule that fires, or a permit that says it is excused."""
    if rule.unless is not None and excused(rule, plan, values, masks):
        return Finding("rules", "permit", ReasonCode.PERMIT, rule.id, rule.where, "excused")
    return finding


def _past(
    plan: Plan, values: Values, context: Context, now: int, answers: Sequence[object], findings: list[Finding], holds: list[Hold],
    masks: Mapping[str, Sequence[str]] | None,
) -> int:  # fmt: skip
    """Ask the rules that look back; where their answers end."""
    at = 0
    for rule in plan.past:
        n = len(rule.reads(values, context))
        finding, held = rule.judge(values, context, answers[at : at + n], now)
        at += n
        if finding is not None:
            findings.append(_unless(rule.rule, finding, plan, values, masks))
        else:
            holds += held
    return at


def _arranged(holds: list[Hold]) -> list[Hold]:
    """What only looks before what takes, and nothing taken twice: two rules may rest on the same end, and both consume it."""
    takes = {hold.op: hold for hold in holds if type(hold.op) is Drop}
    return [*(hold for hold in holds if type(hold.op) is not Drop), *takes.values()] if takes else holds


def approved(finding: Finding, cleared: Mapping[str, str]) -> Finding:
    """The finding, or a permit where an approval covers its ask."""
    if finding.says == "ask" and finding.mode == "enforce" and (finding.rule or str(finding.code)) in cleared:
        return replace(finding, says="permit", code=ReasonCode.PERMIT, text=cleared[finding.rule or str(finding.code)], fix=None)
    return finding


def _repeated(refused: Refused) -> Finding:
    text = "it ran before with the same values, or may have"
    witnesses = (str(refused.value),) if refused.value else ()
    return Finding("state", "forbid", ReasonCode.CALL_ALREADY_RUN, text=text, witnesses=witnesses)
