"""The span of a whole task: `invoke_workflow {intent}`, the root of what its calls do, and where the verdict on the chain stands.

| when                                            | what                                                                             |
|-------------------------------------------------|----------------------------------------------------------------------------------|
| the process that first opens the task opens it  | the span begins, below whatever span is current, and becomes the current one     |
| the task is entered again, by whatever token    | nothing: a process has one root per task                                         |
| a rule fires on a call                          | an event on the call's span and on the root: denied, asked, alerted or monitored |
| `task.end()` is refused and the task stays open | an event                                                                         |
| the task ends                                   | verdict, violated rules, evidence; the span ends                                 |
| ... in a process that did not open it           | a span of that moment that says the same of what this process has seen           |

A span is exported when it ends: a task that a crash cut short has none, and its calls name a parent that nobody has. Nothing here raises.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from guard.model import Decision, Finding
from guard.reasons import ReasonCode
from guard.telemetry import (
    CODE,
    DECISION,
    DECISION_ID,
    ERROR_TYPE,
    EVENT_DECISION,
    EVENT_VIOLATION,
    FIRED,
    LINK,
    MODE,
    MONITORED,
    OPERATION,
    POLICY,
    RULE,
    RULES,
    SPAN_WORKFLOW,
    STEP,
    TOOL_NAME,
    WITNESSES,
    WORKFLOW_NAME,
    WORKFLOW_VERDICT,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

    from guard.record.tracer import OwnTracer

__all__ = ["Roots", "fired", "violation_facts"]

_HELD = 4096
_EVIDENCE = 64
Attributes = dict[str, Any]


def fired(findings: Iterable[Finding]) -> list[Finding]:
    """Those of rules that fired: enforced, monitored, or as an alert. A rule that was excused, or has something left, has not."""
    return [f for f in findings if f.rule is not None and f.judge == "rules" and (f.says != "permit" or f.code is not ReasonCode.PERMIT)]


def violation_facts(finding: Finding, decision: Decision) -> Attributes:
    """What stands on the event of a rule that fired."""
    facts: Attributes = {
        RULE: finding.rule or "",
        CODE: str(finding.code),
        MODE: finding.mode,
        FIRED: _word(finding),
        DECISION: decision.verdict,
        DECISION_ID: decision.id,
        TOOL_NAME: decision.tool[:128],
        STEP: decision.step,
    }
    if finding.witnesses:
        facts[WITNESSES] = finding.witnesses[:_EVIDENCE]
    return facts


def _word(finding: Finding) -> str:
    return {"forbid": "deny", "ask": "ask"}.get(finding.says, "alert")


class _Root:
    """One task of this process. `span` None: another process opened it."""

    __slots__ = ("before", "context", "evidence", "monitored", "outer", "over", "rules", "span")

    def __init__(
        self, span: Span | None = None, context: SpanContext | None = None, before: Any = None, outer: _Root | None = None
    ) -> None:
        self.span = span
        self.context = context
        # The context it was opened in, and, if that was inside another task, that task's root.
        self.before = before
        self.outer = outer
        self.over = False
        # Ordered sets: the first that were seen stay.
        self.rules: dict[str, None] = {}
        self.monitored: dict[str, None] = {}
        self.evidence: dict[str, None] = {}

    def note(self, finding: Finding, decision: Decision) -> None:
        told = self.monitored if finding.mode == "monitor" else self.rules
        if len(told) < _EVIDENCE:
            told[finding.rule or ""] = None
        for each in (*finding.witnesses, decision.id):
            if len(self.evidence) < _EVIDENCE:
                self.evidence[each] = None


class Roots:
    """The roots of the tasks that are open in this process, by the task's key. Bounded; the oldest ends without a verdict."""

    def __init__(self, trace: Any, context: Any, status: Any) -> None:
        self._trace = trace
        self._context = context
        self._status = status
        self._open: OrderedDict[str, _Root] = OrderedDict()
        self.spans: dict[int, _Root] = {}
        """By the address of the root's span, which the root keeps alive."""

    def begin(self, tracer: Tracer | OwnTracer, task: Any, attributes: Attributes, policy: str) -> None:
        """A task was opened. If for the first time anywhere: its span, current from here on.

        A process that comes later opens none. It may leave the task without ending it, and nothing would ever end that span.
        """
        if not task.first:
            return
        before = self._context.get_current()
        name, facts = _named(task, attributes, policy)
        span = tracer.start_span(name, attributes=facts)
        outer = self.spans.get(id(self._trace.get_current_span()))
        self._hold(task.key, _Root(span, span.get_span_context(), before, outer))
        self._context.attach(self._trace.set_span_in_context(span))

    def parent(self, key: str) -> Any:
        """The context for a span of this task where nothing else is current (another thread, another context); None: none is known."""
        root = self._open.get(key)
        return self._trace.set_span_in_context(root.span) if root is not None and root.span is not None else None

    def violated(self, key: str, found: Iterable[Finding], decision: Decision) -> None:
        """Rules fired on a call of the task."""
        root = self._open.get(key)
        if root is None:
            root = _Root()
            self._hold(key, root)
        for finding in found:
            root.note(finding, decision)
            if root.span is not None:
                root.span.add_event(EVENT_VIOLATION, violation_facts(finding, decision))

    def end(self, tracer: Tracer | OwnTracer, task: Any, attributes: Attributes, decision: Decision) -> None:
        """What came of ending the task. It is over where its state says closed."""
        root = self._open.get(task.key)
        if not task.closed:
            if root is not None and root.span is not None:
                root.span.add_event(EVENT_DECISION, {**_end_facts(decision), DECISION_ID: decision.id})
                for finding in fired(decision.findings):
                    root.note(finding, decision)
            return
        self._open.pop(task.key, None)
        if root is None:
            root = _Root()
        for finding in fired(decision.findings):
            root.note(finding, decision)
        facts = _verdict(root, decision)
        self._leave(root)
        violated = decision.verdict != "allow" or bool(root.rules or root.monitored)
        span = root.span
        if span is None or (violated and not span.is_recording()):
            # Opened elsewhere, or not sampled. A verdict against the chain must not get lost with that: a root of its own, linked to it.
            name, known = _named(task, attributes, decision.policy)
            links = [self._trace.Link(root.context, {LINK: "caller"})] if root.context is not None and root.context.is_valid else None
            context = None if span is None else self._context.Context()
            if span is not None:
                span.end()
            span = tracer.start_span(name, context=context, attributes={**known, **facts}, links=links)
        else:
            span.set_attributes(facts)
        span.add_event(EVENT_DECISION, {**_end_facts(decision), DECISION_ID: decision.id})
        if decision.verdict == "deny":
            error = f"guardtrail.denied.{decision.code}"
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(self._status.Status(self._status.StatusCode.ERROR, error))
        span.end()

    def _leave(self, root: _Root) -> None:
        """No longer the current span, where it is. (In the context of another thread it never was.)"""
        root.over = True
        self.spans.pop(id(root.span), None)
        if root.span is not None and self._trace.get_current_span() is root.span:
            before, outer = root.before, root.outer
            while outer is not None and outer.over:  # tasks that were not left in the order they were opened
                before, outer = outer.before, outer.outer
            self._context.attach(before)

    def _hold(self, key: str, root: _Root) -> None:
        self._open[key] = root
        if root.span is not None:
            self.spans[id(root.span)] = root
        while len(self._open) > _HELD:
            _, oldest = self._open.popitem(last=False)
            self.spans.pop(id(oldest.span), None)
            oldest.over = True
            if oldest.span is not None:
                oldest.span.end()


def _named(task: Any, attributes: Attributes, policy: str) -> tuple[str, Attributes]:
    intent = task.delegation.intent
    facts = {**attributes, OPERATION: SPAN_WORKFLOW, POLICY: policy}
    facts.pop(TOOL_NAME, None)
    if not intent:
        return SPAN_WORKFLOW, facts
    return f"{SPAN_WORKFLOW} {intent[:128]}", {**facts, WORKFLOW_NAME: intent}


def _end_facts(decision: Decision) -> Attributes:
    return {DECISION: decision.verdict, CODE: str(decision.code)}


def _verdict(root: _Root, decision: Decision) -> Attributes:
    facts: Attributes = {WORKFLOW_VERDICT: decision.verdict, CODE: str(decision.code)}
    if root.rules:
        facts[RULES] = tuple(root.rules)
    if root.monitored:
        facts[MONITORED] = ",".join(root.monitored)
    if root.evidence:
        facts[WITNESSES] = tuple(root.evidence)
    return facts
