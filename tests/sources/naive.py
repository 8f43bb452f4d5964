"""The order of foreign calls, the plain way: everything in memory, every question asked anew. What `guard.sources.traces` must agree with."""

from __future__ import annotations

from collections.abc import Iterable

from guard.sources import Seen
from guard.sources.spans import DEPTH, Span, agent_of, seen_of, task_of, tool_of


def calls_of(spans: Iterable[Span], file: str) -> list[Seen]:
    traces: dict[str, dict[str, Span]] = {}
    for span in spans:
        trace = traces.setdefault(span.trace, {})
        trace.setdefault(span.id or f"#{len(trace)}", span)  # seen twice: as it was seen first
    with_calls = [trace for trace in traces.values() if any(map(tool_of, trace.values()))]
    with_calls.sort(key=lambda trace: min(span.start for span in trace.values() if tool_of(span)))
    calls = [seen for trace in with_calls for seen in _of_trace(trace, file)]
    for at, seen in enumerate(calls, 1):
        seen.step = seen.step or [one.task for one in calls[:at]].count(seen.task)
    return calls


def _of_trace(trace: dict[str, Span], file: str) -> list[Seen]:
    outer = {
        key: span.parent
        for key, span in trace.items()
        if tool_of(span) and span.parent in trace and tool_of(trace[span.parent]) == tool_of(span)
    }
    inside = {key for key in outer if _outermost(key, outer) is not None}
    order = sorted((key for key, span in trace.items() if tool_of(span) and key not in inside), key=lambda key: _turn(trace, key))
    return [_seen(trace, key, inside, file) for key in order]


def _outermost(key: str, outer: dict[str, str]) -> str | None:
    """None for one in a circle, or below one: it hangs nowhere."""
    for _ in range(len(outer) + 1):
        if key not in outer:
            return key
        key = outer[key]
    return None


def _above(trace: dict[str, Span], key: str) -> list[Span]:
    """The span itself and those above it."""
    found: list[Span] = []
    while len(found) < DEPTH and key in trace:
        found.append(trace[key])
        key = trace[key].parent
    return found


def _turn(trace: dict[str, Span], key: str) -> tuple[int, int, str]:
    return trace[key].start, len(_above(trace, key)), key


def _merged(trace: dict[str, Span], key: str, inside: set[str]) -> dict[str, object]:
    """What it says itself comes first, then the first span inside and all inside that, then the next one."""
    found = dict(trace[key].attributes)
    for inner in sorted(
        (each for each in inside if trace[each].parent == key), key=lambda each: (trace[each].start, list(trace).index(each))
    ):
        found = {**_merged(trace, inner, inside), **found}
    return found


def _seen(trace: dict[str, Span], key: str, inside: set[str], file: str) -> Seen:
    span = trace[key]
    agents: list[str] = []
    tasks: list[str] = []
    for each in _above(trace, key):
        if (agent := agent_of(each)) and agents[-1:] != [agent]:
            agents.append(agent)
        tasks += [task_of(each)] if task_of(each) else []
    whole = Span(span.trace, span.id, span.parent, span.name, span.start, _merged(trace, key, inside), span.failed, span.line)
    return seen_of(whole, tool_of(span), key=key, task=tasks[0] if tasks else "", actors=agents[::-1], file=file)
