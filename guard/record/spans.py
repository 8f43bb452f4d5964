"""`Spans`: one OpenTelemetry span per call, under the names of `guard/telemetry.py`.

| the decision | spans                                                                                                     |
|--------------|-----------------------------------------------------------------------------------------------------------|
| allow        | the framework's own `execute_tool` span of this tool, enriched; else `execute_tool {tool}`, around the body|
| deny         | the same, ended at once: status ERROR, `error.type` = `guardtrail.denied.<code>`; below it `authorize {tool}`|
| ask          | the same without an error: nobody has refused yet                                                          |

Around them stands the span of the task (`guard/record/roots.py`).

Attributes are there from the start, those a sampler may go by first; events, links and status only where there is something to say.
The decision stands as an event too: some backends take no logs. Names, codes, keyed hashes; no values.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from guard.events import DecisionRecord, OutcomeRecord
from guard.model import Decision, Finding
from guard.record.attributes import Attributes, executes, facts_of, held_by, more_facts, unnamed
from guard.record.files import directory
from guard.record.metrics import Metrics
from guard.record.roots import Roots, fired, violation_facts
from guard.telemetry import (
    APPROVALS,
    CALL_ID,
    CREDENTIAL_LENT,
    DECISION,
    DECISION_ID,
    ERROR_TYPE,
    EVENT_DECISION,
    EVENT_VIOLATION,
    EXECUTED,
    LINK,
    MODE,
    OPENINFERENCE_KIND,
    OPERATION,
    OUTCOME,
    SCOPE,
    SPAN_AUTHORIZE,
    SPAN_EXECUTE,
    STEP,
    TASK_ID,
    TOOL_NAME,
    WITNESSES,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, Tracer

    from guard.record.tracer import OwnProvider, OwnTracer

__all__ = ["CallSpan", "Spans"]

_HELD = 4096
_LOOK = 0.001
"""Seconds after which the program is asked again whether it has set a provider. (A task that opens asks at once.)"""


class Spans:
    """Opens the span of a call. Stands in the list of sinks and is driven apart from them: it is open before the record, which names it.

    `provider`: where spans go; None follows the program and the OTEL_* variables (see `guard/record/provider.py`). `meters`: where metrics
    go (`guard/record/metrics.py`); None: the program's meter provider, nothing without one. Whatever fails here costs a span, never a call.
    """

    required = False
    inline = True

    def __init__(self, provider: TracerProvider | OwnProvider | None = None, meters: MeterProvider | None = None) -> None:
        # Here, once, and not at the first call: importing the SDK takes longer than a decision may.
        from opentelemetry import context, trace
        from opentelemetry.trace import status

        from guard.record.tracer import OwnSpan, OwnTracer

        self._trace: Any = trace
        self._own: Any = OwnTracer
        self._own_span: Any = OwnSpan
        self._context: Any = context
        self._status: Any = status
        self._given = provider
        self._tracer: Tracer | OwnTracer | None = provider.get_tracer(SCOPE) if provider is not None else None
        self._ours = False
        self._ready = provider is not None
        self._lock = threading.Lock()
        self._fixed: dict[int, tuple[Any, str, dict[str, Any]]] = {}
        self._seen: dict[str, SpanContext] = {}
        self._before: dict[str, SpanContext] = {}
        self._holders: dict[str, list[Any]] = {}
        self._roots = Roots(trace, context, status)
        self._current: tuple[Any, Any] = (None, None)
        """The last context a call was made in, and the span that is current there: a context never changes."""
        self._next_look = 0.0
        self._metrics = Metrics(meters)
        self.decided = self._metrics.decided
        """A call was decided and recorded: measure it."""

    # A sink in name: records are not its business.

    def decision(self, record: DecisionRecord) -> None:
        pass

    def outcome(self, record: OutcomeRecord) -> None:
        pass

    def start(self, decision: Decision, task: Any, call_id: str, ns: int) -> CallSpan | None:
        """The span of a call that was just decided, not yet recorded. `task`: its TaskState, None outside one. Never raises."""
        try:
            tracer = self._tracer if self._ready and (not self._ours or monotonic() < self._next_look) else self._resolve()
            if tracer is None:
                return None
            name, attributes = self._attributes(decision, task)
            if call_id:
                attributes[CALL_ID] = call_id[:256]
            if decision.verdict != "allow" or decision.mode == "monitor":
                attributes.update(more_facts(decision))
            elif decision.witnesses:
                attributes[WITNESSES] = decision.witnesses
            holder = None if task is None else self._holders.get(task.key)
            links = None
            if decision.witnesses or (holder is not None and holder[0] is not task.delegation):
                links = self._links(decision, task, holder)
            here = self._context.get_current()
            known, current = self._current
            if known is not here:
                current = self._trace.get_current_span(here)
                self._current = here, current
            # Below the span of a task there is nothing to enrich.
            own = id(current) in self._roots.spans or not self._enriched(current, decision, attributes, links)
            span: Any = self._open(tracer, name, attributes, links, task, here, current, ns) if own else current
            for each in decision.findings:
                if each.rule is not None:
                    self._violated(span, decision, task)
                    break
            made = CallSpan(self, tracer, span, own, here, ns)
            self._remember(decision, task, holder, made.where)
            return made
        except Exception:
            return None

    def late(self, finding: Finding, decision: Decision, task: Any, span: CallSpan | None) -> None:
        """A rule fired on a call that has ended. Never raises."""
        try:
            self._metrics.violated((finding,), decision, task)
            if span is not None:
                span.violated(finding, decision)
            self._roots.violated(task.key, (finding,), decision)
        except Exception:  # noqa: S110 - an event less
            pass

    def opened(self, task: Any, policy: str) -> None:
        """A task was opened. Never raises."""
        self._metrics.look()
        try:
            tracer = self._tracer if self._ready and not self._ours else self._resolve()
            if tracer is not None:
                self._roots.begin(tracer, task, facts_of(task, ""), policy)
        except Exception:  # noqa: S110 - a span less
            pass

    def ended(self, task: Any, decision: Decision) -> None:
        """The end of a task was decided. Never raises."""
        try:
            self._metrics.violated(fired(decision.findings), decision, task)
            tracer = self._tracer if self._ready and not self._ours else self._resolve()
            if tracer is not None:
                self._roots.end(tracer, task, facts_of(task, ""), decision)
        except Exception:  # noqa: S110 - a span less
            pass

    def _enriched(self, current: Any, decision: Decision, attributes: Attributes, links: list[Any] | None) -> bool:
        """The convention's rule on double spans: where the framework traces this very execution, its span gets our attributes."""
        if not (current.is_recording() and executes(current, decision.tool)):
            return False
        current.set_attributes(attributes)
        for link in links or ():
            current.add_link(link.context, link.attributes)
        return True

    def _open(
        self, tracer: Any, name: str, attributes: Attributes, links: list[Any] | None, task: Any, here: Context, current: Any, ns: int
    ) -> Any:
        # Nothing is current in another thread or context: there the call stands below its task all the same.
        parent = self._roots.parent(task.key) if task is not None and current is self._trace.INVALID_SPAN else None
        if links is None and parent is None and type(tracer) is self._own:
            return tracer.below(current, name, attributes, ns)
        return tracer.start_span(name, parent or here, attributes=attributes, links=links, start_time=ns)

    def _violated(self, span: Any, decision: Decision, task: Any) -> None:
        violations = fired(decision.findings)
        for finding in violations:
            span.add_event(EVENT_VIOLATION, violation_facts(finding, decision))
        if violations and task is not None:
            self._roots.violated(task.key, violations, decision)

    # -- what stands on a span ---------------------------------------------------------------------------------------------------

    def _attributes(self, decision: Decision, task: Any) -> tuple[str, Attributes]:
        """Name and attributes of a call that is allowed without remark: all there when the sampler is asked."""
        tool = decision.tool
        plan = None if task is None else task.plans.get(tool)
        held = self._fixed.get(id(plan))
        if held is None or held[0] is not plan:
            held = (plan, f"{SPAN_EXECUTE} {tool[:128]}", _allowed(task, tool))
            if len(self._fixed) >= _HELD:
                self._fixed.clear()
            if plan is not None:  # the plan of one delegation, tool and load of the policies
                self._fixed[id(plan)] = held
        attributes = held[2].copy()  # with all the places there are: putting them in one by one takes longer
        attributes[DECISION_ID], attributes[STEP] = decision.id, decision.step
        if decision.verdict != "allow":
            attributes[DECISION], attributes[EXECUTED] = decision.verdict, False
        elif decision.mode != "enforce":
            attributes[MODE] = decision.mode
        return held[1], attributes

    def _links(self, decision: Decision, task: Any, holder: list[Any] | None) -> list[Any] | None:
        """To the spans of the witnesses, to those whose values flowed into this call, and, where the task changed hands, to the last one of
        who held it before."""
        links: list[Any] | None = None
        if decision.witnesses:
            kinds = (("flow" if f.judge == "flow" else "witness", each) for f in decision.findings for each in f.witnesses)
            # Those no finding names were put there by whoever made the decision.
            for kind, witness in dict.fromkeys((*kinds, *unnamed(decision))):
                seen = self._seen.get(witness) or self._before.get(witness)
                if seen is not None:
                    links = links or []
                    links.append(self._trace.Link(seen, {LINK: kind}))
        if holder is not None and holder[0] is not task.delegation and held_by(holder[0]) != held_by(task.delegation):
            links = links or []
            links.append(self._trace.Link(holder[1], {LINK: "pivot"}))
        return links

    def _remember(self, decision: Decision, task: Any, holder: list[Any] | None, where: SpanContext) -> None:
        self._seen[decision.id] = where
        if len(self._seen) >= _HELD:  # the older half goes as a whole: taking the oldest one by one costs more with every one taken
            self._before, self._seen = self._seen, {}
        if task is None:
            return
        if holder is not None:
            holder[0], holder[1] = task.delegation, where
        else:
            if len(self._holders) >= _HELD:
                self._holders.clear()
            self._holders[task.key] = [task.delegation, where]

    # -- where spans go ----------------------------------------------------------------------------------------------------------

    def _resolve(self) -> Tracer | OwnTracer | None:
        """The tracer. The program may set its provider after the guard was made: as long as only ours is there, it is asked again."""
        from guard.record.provider import disabled, embedded, of_the_program

        program = of_the_program()
        self._next_look = monotonic() + _LOOK
        with self._lock:
            if program is not None and (self._ours or not self._ready):
                self._tracer, self._ours, self._ready = (None if disabled() else program.get_tracer(SCOPE)), False, True
            elif not self._ready:
                own = None if disabled() else embedded(directory())
                self._tracer = own.get_tracer(SCOPE) if own is not None else None
                self._ours, self._ready = True, True
            return self._tracer


def _allowed(task: Any, tool: str) -> dict[str, Any]:
    """What stands on the span of an ordinary call."""
    fixed = {OPERATION: SPAN_EXECUTE, TOOL_NAME: tool[:128]} if task is None else facts_of(task, tool)
    return {**fixed, DECISION: "allow", MODE: "enforce", EXECUTED: True, DECISION_ID: "", STEP: 0}


class CallSpan:
    """The span of one call. Nothing here raises."""

    __slots__ = ("_end", "_here", "_ns", "_own", "_room", "_span", "_token", "_tracer", "span_id", "trace_id", "where")

    def __init__(self, room: Spans, tracer: Any, span: Any, own: bool, here: Context, ns: int) -> None:
        self._room = room
        self._tracer = tracer
        self._span = span
        self._own = own
        self._here = here
        self._ns = ns
        self._token: Any = None
        self._end = False
        if type(span) is room._own_span:
            self.where: SpanContext = span.where
            self.trace_id, self.span_id = span.trace_id, span.span_id
        else:
            where = self.where = span.get_span_context()
            trace_id, span_id = where.trace_id, where.span_id
            # All zeros is "no span" in OpenTelemetry; in a record that is no text.
            self.trace_id = f"{trace_id:032x}" if trace_id else ""
            self.span_id = f"{span_id:016x}" if span_id else ""

    def attach(self) -> None:
        """Make it the current span: what the body does appears below it."""
        if self._own:
            try:
                room = self._room
                self._token = room._context.attach(room._trace.set_span_in_context(self._span, self._here))
            except Exception:
                self._token = None

    def detach(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                self._room._context.detach(token)
            except Exception:  # noqa: S110 - a span less
                pass

    def lent(self, name: str) -> None:
        """The body was lent a credential of this id."""
        try:
            self._span.set_attribute(CREDENTIAL_LENT, name[:1024])
        except Exception:  # noqa: S110 - a span less
            pass

    def approved(self, said: tuple[str, ...]) -> None:
        """The call runs because persons have answered: what was asked, and their pseudonyms."""
        try:
            self._span.set_attribute(APPROVALS, tuple(each.removeprefix("approved: ") for each in said))
        except Exception:  # noqa: S110 - a span less
            pass

    def denied(self, decision: Decision) -> None:
        """The body will not run: say so, and end. `decision` may differ from the one at the start: no sink took its record."""
        try:
            more = more_facts(decision)
            if decision.verdict == "deny":
                error = f"guardtrail.denied.{decision.code}"
                more[ERROR_TYPE] = error
                status = self._room._status
                self._span.set_status(status.Status(status.StatusCode.ERROR, error))
            facts: Attributes = {DECISION: decision.verdict, MODE: decision.mode, EXECUTED: False}
            self._span.set_attributes({**facts, **more})
            self._span.add_event(EVENT_DECISION, {**facts, **more, DECISION_ID: decision.id})
            self._authorize(decision, {**facts, **more})
        except Exception:  # noqa: S110 - a span less
            pass
        self._finish()

    def _authorize(self, decision: Decision, facts: Attributes) -> None:
        """The decision as a span of its own, which observability pages show as a guardrail. Status unset: the check itself worked."""
        room = self._room
        parent = self._span.get_span_context()
        facts = {**facts, OPENINFERENCE_KIND: "GUARDRAIL", TOOL_NAME: decision.tool[:128], DECISION_ID: decision.id, TASK_ID: decision.task}
        facts.pop(ERROR_TYPE, None)
        name = f"{SPAN_AUTHORIZE} {decision.tool[:128]}"
        if self._span.is_recording():
            context, links = room._trace.set_span_in_context(self._span), None
        else:
            # The caller's trace is not sampled. A refusal must not get lost with it: a root of its own, linked to where it happened.
            context = room._context.Context()
            links = [room._trace.Link(parent, {LINK: "caller"})] if parent.is_valid else None
        self._tracer.start_span(name, context=context, attributes=facts, links=links, start_time=self._ns).end()

    def violated(self, finding: Finding, decision: Decision) -> None:
        self._span.add_event(EVENT_VIOLATION, violation_facts(finding, decision))

    def end(self, record: OutcomeRecord) -> None:
        """The body has ended."""
        try:
            if record.status != "ok":
                status = self._room._status
                self._span.set_attributes(
                    {OUTCOME: record.status, EXECUTED: record.status != "not_executed", ERROR_TYPE: record.error or record.status}
                )
                if record.status != "not_executed":
                    self._span.set_status(status.Status(status.StatusCode.ERROR, record.status))
        except Exception:  # noqa: S110 - a span less
            pass
        self._finish()

    def _finish(self) -> None:
        if self._own and not self._end:
            self._end = True
            try:
                self._span.end()
            except Exception:  # noqa: S110 - a span less
                pass
