"""The `tests:` section: traces, one event per line, and what must come of each.

    @mailer +5m send_email(to=["a@b.example"]) -> {id: 7}
    pay(iban="DE89", amount="880") !> gateway said no
    search(query="x") ?>

A prefix `@actor`, `#task` or `+5m` sets who acts, on which task, how much later. `expect`: `allow`, `deny`, `ask`, each with an
optional code prefix or rule id (`deny args.constraint`, `allow few-reads`), or a rule id alone. There is one for each call, or one for
each line; lines that are no calls (`happenings`) then come to `allow`, or to `deny` where the approver may not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from guard.frozen import frozen
from guard.model import Decision
from guard.policy.call import CallError, parse_call
from guard.policy.codes import CODES, PART_OF_ROOM, ROOMS
from guard.policy.data import Case, Event, RunAs
from guard.policy.fields import Word, check_name, take
from guard.policy.happenings import happening
from guard.policy.problems import Mark, Report, suggest
from guard.policy.times import seconds
from guard.policy.yamltext import Leaf, Map, Node, Seq, parse, plain

__all__ = ["Known", "meets", "read_cases"]

_VERDICTS: Final = ("allow", "deny", "ask")
_PREFIX: Final = re.compile(r"(?:@(?P<actor>[\x21-\x7e]+)|#(?P<task>[A-Za-z0-9_.\-]+)|\+(?P<after>[0-9]+[smhd]))(?:[ \t]+|$)", re.ASCII)
_MAX_EVENTS: Final = 500
_MAX_LINE: Final = 1 << 16


@frozen
class Known:
    """What cases may refer to. None: not known here (a case file, a pack alone), so not checked."""

    intents: Mapping[str, Mapping[str, str]] | None
    rules: Collection[str] | None


def read_cases(report: Report, node: Seq, known: Known) -> tuple[Case, ...]:
    cases: list[Case] = []
    names: dict[str, Mark] = {}
    for number, below in enumerate(node.items, 1):
        before = report.errors
        got = take(report, below, "test", f"test {number}")
        if "name" in got:
            first = names.setdefault(got["name"].text, got["name"].at)
            if first is not got["name"].at:
                report.error("duplicate-id", got["name"].at, f"a test of this name is there twice, first in line {first.line}")
        run_as = _run_as(report, got["as"], known) if "as" in got else None
        trace = _trace(report, got["trace"], below, known) if "trace" in got else ()
        if run_as is not None:
            _tasks_of(report, trace, run_as)
            _proven_of(report, trace, run_as, got["as"])
        expect = tuple(_expectation(report, word, known) for word in got.get("expect", ()))
        if trace and "expect" in got and report.errors == before:
            expect = _one_per_line(report, trace, expect, below.entries["expect"].key if isinstance(below, Map) else below.at)
        end = [_expectation(report, word, known) for word in got.get("end", ())]
        if len(end) > 1:
            report.error("expect", got["end"][1].at, "`end` is one verdict")
        if run_as is not None and report.errors == before:
            cases.append(Case(got["name"].text, run_as, trace, expect, end[0] if end else None, report.where(_place(below))))
    return tuple(cases)


def _one_per_line(report: Report, trace: tuple[Event, ...], expect: tuple[str, ...], at: Mark) -> tuple[str, ...]:
    """One expectation for each line; "" for one that is no call, where only calls have theirs."""
    calls = [event for event in trace if event.kind == "call"]
    if len(expect) == len(trace):
        return expect
    if len(expect) != len(calls):
        events = f"{len(trace)} events" if len(calls) == len(trace) else f"{len(calls)} calls in {len(trace)} lines"
        hint = "one for each event" if len(calls) == len(trace) else "one for each call, or one for each line"
        report.error("expect", at, f"the trace has {events} and `expect` has {len(expect)}", hint)
        return expect
    rest = iter(expect)
    return tuple(next(rest) if event.kind == "call" else "" for event in trace)


def _tasks_of(report: Report, trace: tuple[Event, ...], run_as: RunAs) -> None:
    """Where a case says what its other tasks act as, a name that is not there is a slip; where it says nothing, they are as its own."""
    for event in trace if run_as.tasks else ():
        if event.task is not None and event.task not in run_as.tasks:
            at = Mark(event.line, max(1, report.lines[event.line - 1].find(f"#{event.task}") + 1), len(event.task) + 1)
            report.error("trace", at, f"`tasks` has no `{event.task}`", suggest(event.task, run_as.tasks))


def _proven_of(report: Report, trace: tuple[Event, ...], run_as: RunAs, node: Node) -> None:
    """Who is proven and never acts is a slip: who was meant stays unproven."""
    entry = node.entries.get("proven") if isinstance(node, Map) else None
    if run_as.proven is None or entry is None:
        return
    acts = {*run_as.actor, *(name for one in run_as.tasks.values() for name in one.actor), *(each.actor for each in trace if each.actor)}
    for name in sorted(run_as.proven - acts):
        report.error("unknown-actor", entry.key, f"`proven` names `{name}`, who does not act here", suggest(name, acts))


def _place(node: Node) -> Mark:
    return next(iter(node.entries.values())).key if isinstance(node, Map) and node.entries else node.at


def _run_as(report: Report, node: Map, known: Known) -> RunAs | None:
    got = take(report, node, "as", "`as`")
    if "intent" in got and known.intents is not None:
        _check_params(report, got, node, known.intents)
    if any(key not in got for key in ("origin", "actor", "intent")):
        return None
    own = _over(RunAs("", (), ""), got)
    tasks = {}
    for name, entry in got["tasks"].entries.items() if "tasks" in got else ():
        check_name(report, Word(name, entry.key), "policy", "task")
        below = take(report, entry.node, "other_task", f"task `{name}` in `as`")
        if isinstance(entry.node, Map) and not entry.node.entries:
            report.error("value", entry.node.at, f"task `{name}` in `as` says nothing of its own", "leave it out")
        tasks[name] = _over(own, below)
        if known.intents is not None and isinstance(entry.node, Map):
            _check_other(report, got, below, entry.node, known.intents)
    return replace(own, tasks=tasks)


def _check_other(
    report: Report, got: Mapping[str, Any], below: Mapping[str, Any], node: Map, intents: Mapping[str, Mapping[str, str]]
) -> None:
    """The parameters of another task of the case: its own, else the case's, which must fit its intent."""
    if "params" in below:
        _check_params(report, {"intent": got["intent"], **below} if "intent" in got else below, node, intents)
    elif "intent" in below and below["intent"].text in intents:
        own = set(got["params"].entries) if "params" in got else set()
        if own != set(intents[below["intent"].text]):
            text = f"intent `{below['intent'].text}` takes other parameters than the case's own"
            report.error("missing", below["intent"].at, text, "write `params` for this task")
    elif "intent" in below:
        _check_params(report, below, node, intents)


def _over(own: RunAs, got: Mapping[str, Any]) -> RunAs:
    """`own` with what `got` says over it."""
    return RunAs(
        got["origin"].text if "origin" in got else own.origin,
        tuple(word.text for word in got["actor"]) if "actor" in got else own.actor,
        got["intent"].text if "intent" in got else own.intent,
        {name: plain(entry.node) for name, entry in got["params"].entries.items()} if "params" in got else own.params,
        got["prompt"].text if "prompt" in got else own.prompt,
        got["person"].text if "person" in got else own.person,
        proven=frozenset(word.text for word in got["proven"]) if "proven" in got else own.proven,
    )


def _check_params(report: Report, got: Mapping[str, Any], node: Map, intents: Mapping[str, Mapping[str, str]]) -> None:
    intent: Word = got["intent"]
    declared = intents.get(intent.text)
    if declared is None:
        report.error(
            "unknown-intent",
            intent.at,
            f"`as` names intent `{intent.text}`, which this policy does not have",
            suggest(intent.text, intents),
        )
        return
    for name, entry in got["params"].entries.items() if "params" in got else ():
        if name not in declared:
            report.error("unknown-param", entry.key, f"intent `{intent.text}` has no parameter `{name}`", suggest(name, declared))
    missing = [name for name in declared if "params" not in got or name not in got["params"].entries]
    if missing and ("params" in got or "params" not in node.entries):
        at = node.entries["params"].key if "params" in node.entries else intent.at
        report.error("missing", at, f"intent `{intent.text}` needs parameter `{missing[0]}`")


# --- traces


def _trace(report: Report, trace: Word, node: Node, known: Known) -> tuple[Event, ...]:
    leaf = node.entries["trace"].node if isinstance(node, Map) else None
    block = isinstance(leaf, Leaf) and leaf.block
    lines = trace.text.split("\n")
    if not block and len([line for line in lines if line.strip()]) > 1:
        report.error("trace", trace.at, "a trace of several lines must be a literal block", "write `trace: |`")
        return ()
    events: list[Event] = []
    before = report.errors
    for offset, line in enumerate(lines):
        text = line.strip()
        if not text or text == "#" or text.startswith("# "):
            continue
        if len(events) >= _MAX_EVENTS:
            report.error("too-large", trace.at, f"a trace has at most {_MAX_EVENTS} events")
            break
        at = _line_mark(report, trace.at, offset, text) if block else trace.at
        event = _event(report, text, at, known)
        if event is not None:
            events.append(event)
    if not events and report.errors == before:
        report.error("trace", trace.at, "the trace is empty")
    return tuple(events)


def _line_mark(report: Report, at: Mark, offset: int, text: str) -> Mark:
    line = at.line + 1 + offset
    source = report.lines[line - 1] if line <= len(report.lines) else ""
    return Mark(line, max(0, source.find(text)) + 1, len(text))


def _along(at: Mark, offset: int, width: int = 1) -> Mark:
    return Mark(at.line, at.column + offset, max(1, width))


def _event(report: Report, text: str, at: Mark, known: Known) -> Event | None:
    """One line. The place of an error is as far along the line as it was read."""
    if len(text) > _MAX_LINE:
        report.error("too-large", at, f"an event is at most {_MAX_LINE} characters")
        return None
    found: dict[str, Any] = {"actor": None, "task": None, "after": 0}
    start = 0
    while prefix := _PREFIX.match(text, start):
        for name, value in prefix.groupdict().items():
            if value is None:
                continue
            if found[name]:
                report.error("trace", _along(at, start), "a prefix stands twice")
            found[name] = seconds(value) if name == "after" else value
            if found[name] is None:
                report.error("trace", _along(at, start, len(value) + 1), "this is not a time", "write `+30s`, `+10m`, `+24h` or `+7d`")
                return None
        start = prefix.end()
    happens, event = happening(report, text, start, at, None if known.rules is None else frozenset(known.rules))
    if happens:
        return None if event is None else replace(event, **found)
    try:
        call = parse_call(text, start)
    except CallError as error:
        report.error("trace", _along(at, error.offset), str(error), error.suggestion)
        return None
    outcome = _outcome(report, text, call.end, at)
    if outcome is None:
        return None
    return Event(call.tool, call.args, outcome[0], outcome[1], outcome[2], found["actor"], found["task"], found["after"], at.line, text)


def _outcome(report: Report, text: str, end: int, at: Mark) -> tuple[Any, object, str] | None:
    """What stands after the call: nothing, `-> result`, `!> error`, `?>`."""
    rest = text[end:].lstrip()
    offset = len(text) - len(rest)
    arrow, after = rest[:2], rest[2:]
    if not rest or rest.startswith("#"):
        return "ok", None, ""
    if arrow == "->" and after.strip():
        value = _result(report, after, _along(at, offset + 2))
        return None if value is None else ("ok", plain(value), "")
    if arrow == "!>" and after.strip():
        return "error", None, after.strip()
    if arrow == "?>" and (not after.strip() or after.lstrip().startswith("#")):
        return "unknown", None, ""
    report.error("trace", _along(at, offset), "after a call stands nothing, `-> result`, `!> error` or `?>`")
    return None


def _result(report: Report, text: str, at: Mark) -> Node | None:
    own = Report("\n" * (at.line - 1) + " " * (at.column - 1) + text, report.file, report.parts)
    node = parse(text, own, line=at.line, column=at.column)
    for problem in own.problems:
        report.error(
            problem.code.removeprefix("lint."),
            Mark(problem.line, problem.column, problem.width),
            f"result: {problem.text}",
            problem.suggestion,
        )
    if node is None and not own.failed:
        report.error("trace", at, "a result must follow `->`")
    return node


# --- expectations


def _expectation(report: Report, word: Word, known: Known) -> str:
    parts = word.text.split()
    verdict = parts[0] if parts else ""
    if verdict in _VERDICTS and len(parts) <= 2:
        if len(parts) == 2:
            _check_reason(report, parts[1], _along(word.at, word.text.rfind(parts[1]), len(parts[1])), known)
    elif len(parts) == 1 and (known.rules is None or verdict in known.rules):
        pass
    else:
        hint = suggest(verdict, {*_VERDICTS, *(known.rules or ())})
        report.error("expect", word.at, "an expectation is `allow`, `deny` or `ask`, with an optional code or rule id, or a rule id", hint)
    return " ".join(parts)


def _check_reason(report: Report, reason: str, at: Mark, known: Known) -> None:
    head = reason.partition(".")[0]
    part = PART_OF_ROOM.get(head)
    if part is not None and reason in CODES and report.lacks(part, at, reason):
        return
    if reason in CODES or reason in ROOMS or (known.rules is None or reason in known.rules):
        return
    hint = suggest(reason, {*CODES, *(known.rules or ())})
    report.error("expect", at, f"`{reason[:60]}` is neither a reason code nor a rule of this policy", hint)


def meets(expected: str, decision: Decision) -> bool:
    """Whether the decision is what the case expects.

    A verdict; with a code prefix, whole words of the deciding code (`args` is met by `args.constraint`, not by `argsx`); with a rule
    id, that rule fired on the call (enforced, monitored or as an alert). A rule id alone: it fired, whatever the verdict.
    """
    verdict, _, reason = expected.partition(" ")
    if verdict not in _VERDICTS:
        verdict, reason = "", verdict
    if verdict and decision.verdict != verdict:
        return False
    code = str(decision.code)
    return not reason or code == reason or code.startswith(f"{reason}.") or any(finding.rule == reason for finding in decision.findings)
