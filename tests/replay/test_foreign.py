"""Foreign traces of any size: what is forgotten on the way changes no judgement."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from guard.policy.load import read_policy
from guard.policy.supported import ALL
from guard.replay import Judged, Replay, fed
from guard.sources import Found, read
from tests.sources.test_sources import TRACE, span

NAMES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "names.yaml").read_text("utf-8"))
POLICY = """
guardtrail: 1
name: desk
owner: a@b.example
tools:
  look: {effect: read, control: {name: text}}
  pay: {effect: pay, control: {to: text}, data: {amount: decimal}}
  send: {effect: send, control: {to: text}}
intents:
  work: {description: Work., allow: {look: {}, pay: {}, send: {}}}
rules:
  - {id: few, when: {tool: look}, limit: {calls: 3}, then: ask}
  - {id: first-look, when: {tool: pay}, require_before: {tool: look, outcome: ok}, then: ask}
  - {id: then-silence, when: {tool: send}, forbid_after: [{tool: pay}], then: ask}
"""
TENANT_WIDE = "  - {id: cap, when: {tool: pay}, limit: {calls: 20, within: 1h, per: [tool]}}\n"


def spans(r: Random, traces: int) -> list[dict[str, Any]]:
    """Calls of tasks that are traces, of such as go on in several, and of one that is called as a trace is."""
    made = []
    for number in range(1, 25 * traces):
        trace = r.randrange(1, traces)
        name = r.choice(("look", "pay", "send"))
        args = {"name": "x"} if name == "look" else {"to": "y", "amount": r.choice(("1", "5"))} if name == "pay" else {"to": "y"}
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.args": json.dumps(args),
        }
        if r.random() < 0.2:
            attributes["session.id"] = r.choice(("talk", f"walk {trace // 4}", f"{min(traces - 1, trace + 1):032x}"))
        context = {"trace_id": f"{trace:032x}", "span_id": f"{number:016x}"}
        start = (trace * 100 + r.randrange(300)) * 1_000_000_000
        made.append({"name": name, "context": context, "start_time": start, "attributes": attributes})
    return made


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("files", [1, 2])
def test_what_is_over_is_forgotten_and_nothing_else(files: int, seed: int, tmp_path: Path) -> None:
    r = Random(seed)
    policy = read_policy(POLICY + (TENANT_WIDE if seed % 2 else ""), parts=ALL)
    paths = [tmp_path / f"{name}.jsonl" for name in "ab"[:files]]
    made = spans(r, 24)
    for at, path in enumerate(paths):
        path.write_text("".join(json.dumps(one) + "\n" for one in made[at::files]), "utf-8")
    keeps, forgets = Replay([policy]), Replay([policy])
    kept: list[Judged] = [one for seen in read(paths) for one in keeps.feed(seen)]
    most, told = 0, list[Judged]()
    for seen in read(paths):
        told += fed(forgets, seen)
        most = max(most, len(forgets._tasks))
    assert [*told, *forgets.close()] == [*kept, *keeps.close()]
    assert forgets.summary == keeps.summary and keeps.summary.violations > 20
    assert forgets._decisions == {}
    assert files > 1 or seed % 2 or most < keeps.summary.tasks  # with rules over the tenant, everything waits for what was read before it


def as_json(args: dict[str, Any]) -> dict[str, Any]:
    return span(**{"gen_ai.tool.args": json.dumps(args)})


def as_object(args: dict[str, Any]) -> dict[str, Any]:
    return span(**{"gen_ai.tool.args": args})


def as_otlp(args: dict[str, Any]) -> dict[str, Any]:
    attributes = [{"key": "gen_ai.tool.args", "value": any_value(args)}]
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": TRACE, "spanId": "a" * 16, "name": "x", "attributes": attributes}]}]}]}


def any_value(value: Any) -> dict[str, Any]:
    match value:
        case dict():
            return {"kvlistValue": {"values": [{"key": key, "value": any_value(one)} for key, one in value.items()]}}
        case list():
            return {"arrayValue": {"values": list(map(any_value, value))}}
        case int():
            return {"intValue": str(value)}
        case _:
            return {"stringValue": value}


@pytest.mark.parametrize("write", [as_json, as_object, as_otlp])
@pytest.mark.parametrize("case", NAMES, ids=lambda case: case["name"])
def test_names_that_are_no_identifiers(case: dict[str, Any], write: Any, tmp_path: Path) -> None:
    allow = {"t": case.get("intent", {}), "look": {}}
    tools = {"t": case["tool"], "look": {"effect": "read", "control": {"thread-id": "id"}}}
    whole = {"guardtrail": 1, "name": "n", "owner": "o@acme.example", "tools": tools, "rules": case.get("rules", [])}
    policy = read_policy(json.dumps({**whole, "intents": {"i": {"description": "d", "allow": allow}}}), parts=ALL)
    for args, verdict, code in case["calls"]:
        one = write(args)
        more = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "guardtrail.intent": "i"}
        if write is as_otlp:
            listed = one["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]
            listed += [{"key": key, "value": {"stringValue": value}} for key, value in more.items()]
        else:
            one["attributes"] |= more
        path, found, run = tmp_path / "t.jsonl", Found(), Replay([policy])
        path.write_text(json.dumps(one) + "\n", "utf-8")
        (told,) = [*(judged for seen in read([path], found=found) for judged in fed(run, seen)), *run.close()]
        assert (told.seen.args, told.verdict, told.code) == (args, verdict, code)
        assert (told.not_judged, found.broken, found.unreadable) == ((), {}, {})
