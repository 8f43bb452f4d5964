"""What the rows are measured on: policies of stated size, guards, and the references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from guard import Guard, LocalIssuer
from guard.drive import drive
from guard.judging import judge_flow
from guard.model import ToolCall
from guard.policy import Policy
from guard.record import ListSink
from guard.steps import Draft

__all__ = ["CALL", "cached_decision", "empty", "make_guard", "policy_text", "span_reference"]

ATTRIBUTES: dict[str, Any] = {f"guardtrail.attribute.{i}": f"value-{i}" for i in range(12)}
CALL = {"order": "A-17", "to": "ops@acme.example", "amount": "20"}


def policy_text(tools: int, rules: int, *, dense: bool) -> str:
    """`tools` tools of three arguments; an intent that constrains all three; `rules` limit rules, spread or all on the first tool."""
    lines = ["guardtrail: 1", "name: bench", "owner: bench@acme.example", "tools:"]
    lines += [f"  tool_{i}: {{effect: read, control: {{order: id, to: email}}, data: {{amount: decimal}}}}" for i in range(tools)]
    lines += [
        "intents:",
        "  work:",
        "    description: Everything.",
        "    params: {order: id, ceiling: decimal}",
        "    ttl: 10h",
        "    allow:",
    ]
    args = '{order: {eq: $order}, to: {email: {domain: acme.example}}, amount: {range: {min: "0.01", max: $ceiling}}}'
    lines += [f"      tool_{i}: {{args: {args}}}" for i in range(tools)]
    lines += ["rules:"]
    for i in range(rules):
        tool = 0 if dense else i * max(1, tools // rules)
        # Twenty limits on one tool, none the same as another: by what they are about, and by what they are counted apart.
        about = (f"tool: tool_{tool}", "effect: read", f"tool: tool_{tool}, intent: work", "effect: read, intent: work")[
            i % 4 if dense else 0
        ]
        per = ("", "origin", "actor", "tool", "origin, actor")[i // 4 % 5 if dense else 0]
        limit = f"{{calls: {100_000_000 + (i % 4 in (1, 3)) * 1000 + (i % 4 < 2) * 100}" + (f", per: [{per}]}}" if per else "}")
        lines.append(f"  - {{id: limit-{i}, when: {{{about}}}, limit: {limit}}}")
    return "\n".join(lines) + "\n"


class _Null(ListSink):
    """Takes records and forgets them."""

    def decision(self, record: object) -> None:
        pass

    def outcome(self, record: object) -> None:
        pass


def make_guard(text: str, **options: Any) -> tuple[Guard, str]:
    """A guard over `text` and a token for its one intent."""
    iam = LocalIssuer("bench")
    options.setdefault("sinks", [_Null()])
    guard = Guard(Policy.from_text(text), trust=iam, **options)
    token = iam.mint(origin="alice", actor="worker", intent="work", params={"order": "A-17", "ceiling": "50"}, ttl="1h")
    return guard, token


def cached_decision(text: str, token_guard: tuple[Guard, str] | None = None, *, key: Any = None) -> Callable[[int], None]:
    """From bound arguments to the committed reservation: no record, no body. The task stays open."""
    guard, token = token_guard or make_guard(text)
    task = guard.task(token, key=key).__enter__()
    house, state = guard._house, task.state
    call = ToolCall("tool_0", CALL)

    def work(n: int) -> None:
        for _ in range(n):
            ruling = drive(judge_flow(house, Draft(house, state, call, dry=False), None), 10.0)
            if ruling.verdict != "allow":
                raise RuntimeError(str(ruling))

    return work


def span_reference() -> Callable[[int], None]:
    """One recording span with 12 attributes."""
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("bench")

    def work(n: int) -> None:
        for _ in range(n):
            tracer.start_span("execute_tool tool_0", attributes=ATTRIBUTES).end()

    return work


def empty() -> Callable[[int], None]:
    def nothing() -> None:
        return None

    def work(n: int) -> None:
        for _ in range(n):
            nothing()

    return work


def directory_guard(text: str, directory: Path, *, program: bool = False, **options: Any) -> tuple[Guard, str]:
    """A guard with the audit file in `directory` and spans through the SDK's batch processor to an exporter that drops them.

    The provider is the embedded one, as where nothing is configured; `program`: the SDK's, as where the program has one of its own.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from guard.record import AuditFile, Spans
    from guard.record.tracer import OwnProvider

    class Drop(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    processor = BatchSpanProcessor(Drop(), max_queue_size=1 << 16)
    if program:
        theirs = TracerProvider()
        theirs.add_span_processor(processor)
        return make_guard(text, sinks=[AuditFile(directory), Spans(provider=theirs)], **options)
    return make_guard(text, sinks=[AuditFile(directory), Spans(provider=OwnProvider(processor))], **options)
