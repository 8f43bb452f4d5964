"""What is counted, on the program's own meters; nothing, at the price of a comparison, where it has none.

| instrument                                                 | kind            | labels                                              |
|------------------------------------------------------------|-----------------|-----------------------------------------------------|
| `guardtrail.decision.duration`                             | histogram, s    | decision, mode, code, effect, intent                |
| `guardtrail.workflow.violations`                           | counter         | rule, code, decision, mode, tool, effect, intent    |
| `guardtrail.coverage.calls`, `guardtrail.coverage.known`   | counters        | none                                                |

A duration is from the call's arrival to its record being handed over; a violation is a rule that fired, whether it denied, asked, alerted or
was monitored; coverage is `known / calls`: of all calls those whose credential, workload and origin are known.

Labels never hold an id. Nor what a caller may choose: the name of a tool no policy knows, or of an intent, comes from a model or a token, and
every new label is a new time series for somebody's database to keep. (Attack: a thousand made-up tools.)
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from guard.model import Decision, Finding
from guard.reasons import ReasonCode
from guard.record.roots import fired
from guard.telemetry import (
    CODE,
    COVERAGE_CALLS,
    COVERAGE_KNOWN,
    DECISION,
    DECISION_DURATION,
    EFFECT,
    INTENT,
    MODE,
    RULE,
    SCOPE,
    TOOL_NAME,
    VIOLATIONS,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["Metrics"]

_LOOK = 1.0
"""Seconds after which the program is asked again whether it has set a provider. (A task that opens asks at once.)"""
_HELD = 1024
_BOUNDS = (0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
Labels = dict[str, str]


class Metrics:
    """`provider`: where to; None: the provider the program has set or will set. Nothing here raises."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._duration: Any = None
        self._violations: Any = None
        self._calls: Any = None
        self._known: Any = None
        self._next = 0.0
        self._labels: dict[tuple[Any, ...], Labels] = {}
        if provider is not None:
            self._make(provider)

    def look(self) -> None:
        """Has the program set a provider by now?"""
        if self._duration is None:
            self._next = monotonic() + _LOOK
            try:
                from opentelemetry import metrics

                provider = metrics.get_meter_provider()
                # The proxy stands for none yet, the no-op for none wanted.
                if not type(provider).__name__.startswith(("_Proxy", "NoOp")):
                    self._make(provider)
            except Exception:  # noqa: S110 - a metric less
                pass

    def _make(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(SCOPE)
        about = "from a call's arrival to its recorded decision"
        try:
            duration = meter.create_histogram(DECISION_DURATION, "s", about, explicit_bucket_boundaries_advisory=_BOUNDS)
        except TypeError:  # before opentelemetry-api 1.30; the program's view decides then
            duration = meter.create_histogram(DECISION_DURATION, "s", about)
        self._violations = meter.create_counter(VIOLATIONS, "{violation}", "workflow rules that fired, also monitored ones")
        self._calls = meter.create_counter(COVERAGE_CALLS, "{call}", "calls decided")
        self._known = meter.create_counter(COVERAGE_KNOWN, "{call}", "calls whose credential, workload and origin are known")
        self._duration = duration

    def decided(self, decision: Decision, task: Any, since: float) -> None:
        """A call was decided and recorded. `since`: monotonic seconds at which it arrived."""
        now = monotonic()
        if self._duration is None:
            if now < self._next:
                return
            self.look()
            if self._duration is None:
                return
        try:
            self._duration.record(max(0.0, now - since), self._of(decision, task))
            self._calls.add(1)
            if task is not None and task.credential and task.origin and task.delegation.workload:
                self._known.add(1)
        except Exception:  # noqa: S110 - a metric less
            pass
        self.violated(fired(decision.findings), decision, task)

    def violated(self, found: Sequence[Finding], decision: Decision, task: Any) -> None:
        """Rules fired on a call, or on the end of a task."""
        if self._duration is None or not found:
            return
        try:
            base = self._of(decision, task)
            for finding in found:
                labels = {**base, RULE: finding.rule or "", CODE: str(finding.code), MODE: finding.mode}
                tool = _spec(decision, task)
                if tool is not None:
                    labels[TOOL_NAME] = decision.tool
                self._violations.add(1, labels)
        except Exception:  # noqa: S110 - a metric less
            pass

    def _of(self, decision: Decision, task: Any) -> Labels:
        """The labels of a decision, kept: there are few different ones."""
        spec = _spec(decision, task)
        effect = ",".join(spec.effects) if spec is not None else ""
        intent = _intent(decision, task)
        key = (decision.verdict, decision.mode, decision.code, effect, intent)
        labels = self._labels.get(key)
        if labels is None:
            labels = {DECISION: decision.verdict, MODE: decision.mode, CODE: str(decision.code)}
            if effect:
                labels[EFFECT] = effect
            if intent:
                labels[INTENT] = intent
            if len(self._labels) < _HELD:
                self._labels[key] = labels
        return labels


def _spec(decision: Decision, task: Any) -> Any:
    """The tool as the policy has it; None for one it does not know."""
    plan = task.plans.get(decision.tool) if task is not None else None
    return plan.tool if plan is not None else None


def _intent(decision: Decision, task: Any) -> str:
    """The intent, where the policy knows it: it allows only what it knows, and says so where it does not."""
    if task is None or not task.delegation.intent:
        return ""
    if decision.verdict == "allow":
        return str(task.delegation.intent)
    judged = any(f.judge == "intent" for f in decision.findings)
    unknown = any(f.code == ReasonCode.INTENT_UNKNOWN for f in decision.findings)
    return str(task.delegation.intent) if judged and not unknown else ""
