"""Behaviours of a call that waits for a person. A framework's own yes may make the call again; it authorizes nothing (DESIGN section 9)."""

from __future__ import annotations

from guard.testing.conformance.script import Call, Trace
from guard.testing.conformance.stage import Stage, behaviour, holds, refused, same
from guard.testing.conformance.world import SECRET

__all__: list[str] = []

BIG = Call("c1", "pay", {"to": "bob", "amount": "2000.25"})
ALSO = Call("c2", "pay", {"to": "carol", "amount": "3000"})


def waits(stage: Stage, trace: Trace, *ids: str) -> None:
    """No body ran; a person is asked; the framework waits, or the model reads that approval is needed."""
    same(stage.world.runs("pay"), [], "bodies that ran before anybody answered")
    holds("a person is asked", len(list(stage.world.desk.pending())) >= 1)
    if "pause" in stage.driver.gaps:
        for each in ids:
            refused(trace, each, "needs approval")
        return
    holds("the run waits", trace.final is None and trace.error is None, trace)
    holds("for a call of the model", bool(trace.pending) and set(trace.pending) <= set(ids), trace.pending)
    for each in trace.pending:
        holds(
            "the pause shows the request of the guard",
            {"id", "task", "tool", "args_hmac", "asks"} <= set(trace.requests[each]),
            trace.requests,
        )
        holds("without a value", "2000.25" not in str(trace.requests[each]) and "bob" not in str(trace.requests[each]), trace.requests)


def go_on(stage: Stage, yes: bool) -> Trace:
    """Answer until nothing waits any more: some frameworks ask one by one."""
    trace = stage.resume(yes)
    for _ in range(4):
        if not trace.pending:
            break
        if yes:
            stage.world.approve()
        trace = stage.resume(yes)
    return trace


@behaviour("a call that needs a person waits; once somebody who may has approved it, it runs once, and the model reads the result")
def ask_approve(stage: Stage) -> None:
    waits(stage, stage.play((BIG,)), "c1")
    same(stage.world.approve(), 1)
    trace = go_on(stage, yes=True)
    same(stage.world.runs("pay"), [BIG.args])
    holds("the model reads the result", "paid 2000" in trace.answers["c1"].text, trace.answers)
    same(trace.final, "done")


@behaviour("a call a person said no to does not run, whatever the framework says; the no is on record")
def ask_reject(stage: Stage) -> None:
    waits(stage, stage.play((BIG,)), "c1")
    same(stage.world.reject(), 1)
    trace = stage.resume(yes=True)
    same(stage.world.runs("pay"), [])
    refused(trace, "c1", "ask.rejected")
    same([(record.verdict, str(record.code)) for record in stage.world.decisions], [("ask", "rule.match"), ("deny", "ask.rejected")])


@behaviour("the framework's own no: the call does not run, and the run goes on or ends")
def framework_no(stage: Stage) -> None:
    waits(stage, stage.play((BIG,)), "c1")
    trace = stage.resume(yes=False)
    same(stage.world.runs("pay"), [])
    holds("no exception that nobody expects", trace.error is None, trace.error)


@behaviour("the framework's own yes without a person's: the call does not run (a forged approval)")
def forged(stage: Stage) -> None:
    waits(stage, stage.play((BIG,)), "c1")
    stage.resume(yes=True)
    same(stage.world.runs("pay"), [])
    same({record.verdict for record in stage.world.decisions}, {"ask"})


@behaviour("one approval, one run: the same call again asks again, another amount was never approved")
def approval_replay(stage: Stage) -> None:
    stage.play((BIG,))
    stage.world.approve()
    go_on(stage, yes=True)
    same(stage.world.runs("pay"), [BIG.args])
    stage.play((Call("c8", "pay", BIG.args),))
    stage.resume(yes=True)
    stage.play((Call("c9", "pay", {"to": "bob", "amount": "2001"}),))
    stage.resume(yes=True)
    same(stage.world.runs("pay"), [BIG.args])


@behaviour("two calls of one turn wait; both approved, each runs exactly once, however often the framework runs its step again")
def resumed_once(stage: Stage) -> None:
    waits(stage, stage.play((BIG, ALSO)), "c1", "c2")
    stage.world.approve()
    trace = go_on(stage, yes=True)
    same(sorted(str(args["to"]) for args in stage.world.runs("pay")), ["bob", "carol"])
    same(trace.final, "done")
    same(len([record for record in stage.world.decisions if record.verdict == "allow"]), 2)


@behaviour("a call beside one that waits runs once, and not again when the run goes on")
def beside(stage: Stage) -> None:
    stage.play((Call("c0", "refund", {"order": "A-1", "amount": "5"}), BIG))
    same(stage.world.runs("pay"), [])
    stage.world.approve()
    trace = go_on(stage, yes=True)
    same(stage.world.runs("pay"), [BIG.args])
    same(stage.world.runs("refund"), [{"order": "A-1", "amount": "5"}])
    holds("both are answered", "refunded 5" in trace.answers["c0"].text and "paid 2000" in trace.answers["c1"].text, trace.answers)


@behaviour("what a person is shown and what waits hold no secret of the call in clear")
def ask_leaks_nothing(stage: Stage) -> None:
    trace = stage.play((Call("c1", "pay", {"to": SECRET, "amount": "2000.25"}),))
    same(stage.world.runs("pay"), [])
    for text in [
        *map(repr, trace.requests.values()),
        *(answer.text for answer in trace.answers.values()),
        *map(repr, stage.world.sink.records),
    ]:
        holds("no value", SECRET not in text, text[:300])
