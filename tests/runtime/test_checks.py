"""`check` through the whole house: checks.yaml, said, recorded, and judged again from the records; and what it costs who has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.model import Decision, Outcome
from guard.policy.judge import Check
from guard.record import AuditFile, ListSink
from guard.replay import Replay
from guard.sources import read
from guard.testing import FrozenClock
from guard.workflow.limits import Context
from guard.workflow.plan import make_plan
from tests.policy.reading import needs_cel
from tests.policy.test_checks import delegation

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "checks.yaml").read_text("utf-8"))
SECRETS = ("secretive", "a long one", "a@x.example", "xxxxxxxx")


def run(policy: Policy, folder: Path) -> list[Decision]:
    clock = FrozenClock()
    iam = LocalIssuer("post", clock=lambda: clock.now().timestamp())
    guard = Guard(policy, trust=iam, sinks=[AuditFile(folder)], clock=clock)
    made = []
    for number, row in enumerate(TABLE["calls"]):
        token = iam.mint(
            origin="alice", actor="worker", intent="work", params={"who": "a@x.example", "most": "200"}, ttl="10m", txn=f"t{number}"
        )
        args = dict(row["args"])
        if "repeat" in row:
            args["body"] *= row["repeat"]
        with guard.task(token):
            dry = guard.check(ToolCall(row["tool"], args))
            decision = guard.before(ToolCall(row["tool"], args))
            if not decision.blocks:
                guard.after(decision, Outcome("ok"))
        assert (dry.verdict, dry.code) == (decision.verdict, decision.code)
        made.append(decision)
    return made


def called(verdict: str, code: str) -> str:
    return verdict if verdict in ("allow", "ask") else code


@needs_cel
def test_judged_recorded_and_judged_again(tmp_path: Path) -> None:
    policy = Policy.from_text(TABLE["policy"])
    decisions = run(policy, tmp_path)
    expected = [row["expect"] for row in TABLE["calls"]]
    assert [called(d.verdict, str(d.code)) for d in decisions] == expected
    text = "".join(file.read_text("utf-8") for file in tmp_path.glob("audit*.jsonl"))
    lines = [one for one in map(json.loads, text.splitlines()) if one["kind"] == "decision"]
    assert [line.get("atoms", {}) for line in lines] == [row["atoms"] for row in TABLE["calls"]]
    assert not any(secret in text or any(secret in f.text for d in decisions for f in d.findings) for secret in SECRETS)

    replay = Replay([policy])
    judged = [one for seen in read([tmp_path]) for one in replay.feed(seen)]
    judged += replay.close()
    again = [one for one in judged if one.seen.kind == "call"]
    assert [called(one.verdict, one.code) for one in again] == expected
    assert all(not one.not_judged for one in again)
    inline = [[(f.judge, f.says, f.code, f.rule, f.where, f.mode) for f in d.findings if f.says != "permit"] for d in decisions]
    assert [
        [(f.judge, f.says, f.code, f.rule, f.where, f.mode) for f in one.findings if f.says != "permit"]
        for one in again
        if one.code != "args.constraint"  # its place is in the text of the record only
    ] == [found for found, row in zip(inline, TABLE["calls"], strict=True) if row["expect"] != "args.constraint"]


@needs_cel
def test_under_another_policy_it_is_said_that_the_check_was_not_judged(tmp_path: Path) -> None:
    run(Policy.from_text(TABLE["policy"]), tmp_path)
    replay = Replay([Policy.from_text(TABLE["policy"].replace("size(args.body) < 8", "size(args.body) < 9"))])
    judged = [one for seen in read([tmp_path]) for one in replay.feed(seen)]
    again = {one.seen.task[2]: one for one in [*judged, *replay.close()] if one.seen.kind == "call"}
    assert set(again["t2"].not_judged) == {"arguments of intent work", "rule few"}


@needs_cel
def test_the_words_of_a_refusal() -> None:
    policy = Policy.from_text(TABLE["policy"])
    clock = FrozenClock()
    iam = LocalIssuer("post", clock=lambda: clock.now().timestamp())
    guard = Guard(policy, trust=iam, sinks=[ListSink()], clock=clock)
    with guard.task(iam.mint(origin="alice", actor="worker", intent="work", params={"who": "a@x.example", "most": "200"}, ttl="10m")):
        decision = guard.check(ToolCall("mail", {"to": ["a@x.example"], "body": "secretive", "tags": ["t"]}))
        ok = guard.check(ToolCall("pay", {"iban": "A", "amount": "5", "note": "why"}))
    refused = next(f for f in decision.findings if f.judge == "intent")
    line = next(n for n, text in enumerate(TABLE["policy"].splitlines(), 1) if "mail: {args" in text)
    column = TABLE["policy"].splitlines()[line - 1].index('check: "(size') + len("check: ") + 1
    assert (str(refused.code), refused.where) == ("args.check", f"policy.yaml:{line}:{column}")
    assert refused.text == "`check` of intent work is not true of these arguments"
    assert decision.fix == "arguments of which it is true"
    permitted = next(f for f in ok.findings if f.judge == "intent")
    assert permitted.text.endswith("; `check` is true")


@needs_cel
def test_a_check_asks_nothing_more_of_the_plan() -> None:
    """A tool whose intent has only `check` keeps the plain path of every day: one transaction, nothing read."""
    text = TABLE["policy"].partition("rules:")[0].replace("params: {who: email, most: decimal}", "").replace(
        'args: {"to[]": {eq: $who}, check: {eq: "yes", optional: true}}, ', ""
    ).replace("max: $most", 'max: "9"')  # fmt: skip
    plan = make_plan([Policy.from_text(text)], delegation(), "mail", Context("k", "t", "alice", "a", b"k", b"k", None, None, 0, 0))
    assert plan.plain and isinstance(plan.choices[0][0], Check)
