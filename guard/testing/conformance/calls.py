"""Behaviours of a call: what runs, what the model reads, what is written down."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from guard.testing.conformance.script import Call, Delegate, Script
from guard.testing.conformance.stage import Stage, behaviour, holds, nothing_leaks, one_each, refused, same, stopped
from guard.testing.conformance.world import SECRET, World, taskless

__all__: list[str] = []


@behaviour("an allowed call runs its body once, with the model's arguments, and the model reads the result")
def allow(stage: Stage) -> None:
    trace = stage.play((Call("c1", "look", {"order": "A-17", "pages": 2}),))
    same(trace.error, None)
    same(stage.world.runs("look"), [{"order": "A-17", "pages": 2}])
    holds("the model reads the result", "order A-17, 2 page(s)" in trace.answers["c1"].text, trace.answers)
    same(trace.final, "done")


@behaviour("a denied call does not run; the model reads the reason and the smallest fix, and goes on")
def deny(stage: Stage) -> None:
    trace = stage.play((Call("c1", "refund", {"order": "A-17", "amount": "51"}),), (Call("c2", "look", {"order": "A-17"}),))
    same(stage.world.runs("refund"), [])
    refused(trace, "c1", "amount", "args.constraint")
    same(stage.world.runs("look"), [{"order": "A-17", "pages": 1}])
    same(trace.final, "done")
    same(
        [(r.tool, r.verdict, str(r.code)) for r in stage.world.decisions],
        [("refund", "deny", "args.constraint"), ("look", "allow", "permit")],
    )


@behaviour("the body gets the arguments as policy saw them: defaults filled in, paths resolved")
def resolved(stage: Stage) -> None:
    notes = stage.world.folder / "notes"
    notes.mkdir()
    (stage.world.folder / "elsewhere").mkdir()
    (notes / "way").symlink_to(notes / "real")
    (notes / "out").symlink_to(stage.world.folder / "elsewhere")
    trace = stage.play(
        (Call("c1", "save", {"file": f"{notes}/way/x.txt", "text": "a"}),),
        (Call("c2", "save", {"file": f"{notes}/out/y.txt", "text": "b"}),),
    )
    same(stage.world.runs("save"), [{"file": str(notes.resolve() / "real" / "x.txt"), "text": "a"}])
    refused(trace, "c2", "args.constraint")


@behaviour("a body that raises: outcome `error`, the exception takes the framework's own way, and its text is in no record or span")
def tool_raises(stage: Stage) -> None:
    trace = stage.play((Call("c1", "fail", {"order": SECRET}),))
    same(stage.world.runs("fail"), [{"order": SECRET}])
    holds("the model or the program hears of it", trace.error is not None or "c1" in trace.answers, trace)
    same([outcome.status for outcome in stage.world.outcomes], ["error"])
    nothing_leaks(stage.world)


@behaviour("a guard that raises: the body does not run")
def guard_crashes(stage: Stage) -> None:
    stage.world.crash()
    trace = stage.play((Call("c1", "look", {"order": "A-17"}),))
    same(stage.world.ran, [])
    stopped(trace, "c1")


@behaviour("a guard that raises while the list of tools is shortened: nothing is offered or run that was not judged")
def hiding_crashes(stage: Stage) -> None:
    stage.world.crash("visible")
    trace = stage.play((Call("c1", "wipe", {"order": "A-17"}),), (Call("c2", "look", {"order": "A-17"}),))
    for shown in trace.shown:
        holds("what is never allowed is not shown", "wipe" not in shown, shown)
    same([ran.tool for ran in stage.world.ran], [record.tool for record in stage.world.decisions if record.verdict == "allow"])
    same(stage.world.runs("wipe"), [])


@behaviour("a state store that is down, or panics: the body does not run, the denial is recorded")
def state_down(stage: Stage) -> None:
    stage.world.state.error = BaseException(f"panic: {SECRET}")
    trace = stage.play((Call("c1", "refund", {"order": "A-17", "amount": "5"}),))
    same(stage.world.ran, [])
    refused(trace, "c1", "state.unavailable")
    codes = [str(record.code) for record in stage.world.decisions]
    same(set(codes), {"state.unavailable"})
    holds(
        "one record, and one more where the list of tools is a request of its own",
        len(codes) == 1 or (stage.driver.carries and len(codes) == 2),
        codes,
    )


@behaviour("a guard that is too slow: the body does not run", deadline=0.5)
def guard_is_late(stage: Stage) -> None:
    stage.world.state.seconds = 2.0
    trace = stage.play((Call("c1", "refund", {"order": "A-17", "amount": "5"}),))
    same(stage.world.ran, [])
    refused(trace, "c1")


@behaviour("calls of one turn, some allowed, some denied: each is answered for itself")
def parallel(stage: Stage) -> None:
    calls = tuple(Call(f"c{i}", "refund", {"order": f"A-{i}", "amount": "9" if i % 2 else "51"}) for i in range(6))
    trace = stage.play((*calls, Call("c6", "wipe", {"order": "A-6"}), Call("c7", "look", {"order": "A-7"})))
    same(sorted(str(args["order"]) for args in stage.world.runs("refund")), ["A-1", "A-3", "A-5"])
    same(stage.world.runs("wipe"), [])
    for each in ("c0", "c2", "c4"):
        refused(trace, each, "args.constraint")
    refused(trace, "c6", "intent.tool")
    for each, text in (("c1", "refunded 9 on A-1"), ("c3", "refunded 9 on A-3"), ("c5", "refunded 9 on A-5"), ("c7", "order A-7")):
        holds(f"{each} is answered with its own result", text in trace.answers[each].text, trace.answers[each])
    one_each(stage.world)


@behaviour("parallel calls race for the last unit of a limit: never more bodies than units")
def race(stage: Stage) -> None:
    trace = stage.play(tuple(Call(f"c{i}", "refund", {"order": f"A-{i}", "amount": "1"}) for i in range(8)))
    same(len(stage.world.runs("refund")), 3)
    same(sum("limit.calls" in answer.text for answer in trace.answers.values()), 5)
    one_each(stage.world)


@behaviour("a run that is cancelled in a body: outcome `unknown`, the record says so", modes=("async",))
def cancel(stage: Stage) -> None:
    app = stage.driver.build(stage.world, ((Call("c1", "slow", {"order": "A-1"}),), (Call("c2", "look", {"order": "A-1"}),), "done"))

    async def play() -> None:
        task = asyncio.ensure_future(stage.driver.arun(app))
        while not stage.world.began.is_set():
            holds("the body begins", not task.done(), task)
            await asyncio.sleep(0.01)
        task.cancel()
        try:
            trace = await task
        except asyncio.CancelledError:
            return
        holds("a cancelled run does not go on", trace.final is None, trace)

    asyncio.run(play())
    same(stage.world.runs("look"), [])
    with stage.world.open():  # whoever left the body behind has left the task by now; a second opening sees what stands
        pass
    same([record.tool for record in stage.world.decisions], ["slow"])
    ends = {"ok"} if stage.world.ended.is_set() else {"unknown"}  # nothing cancels a thread: there the body came to its end
    holds("nothing else is said of it", {outcome.status for outcome in stage.world.outcomes} <= ends, stage.world.outcomes)


@behaviour("the body runs in the task of its call, also in a worker thread")
def context(stage: Stage) -> None:
    trace = stage.play((Call("c1", "where", {"order": "A-1"}), Call("c2", "where", {"order": "A-2"})))
    same(trace.error, None)
    same([ran.task for ran in stage.world.ran], [stage.world.id] * 2)
    same({record.task for record in stage.world.decisions}, {stage.world.id})


@behaviour("the model is offered only what the delegation and the intent could ever allow")
def hidden(stage: Stage) -> None:
    trace = stage.play((Call("c1", "look", {"order": "A-17"}),))
    holds("the model was offered tools", bool(trace.shown), trace)
    for shown in trace.shown:
        holds("what is allowed is shown", {"look", "refund", "pay"} <= set(shown), shown)
        holds("what is never allowed is not", "wipe" not in shown, shown)


@behaviour("a tool that was hidden, and is called all the same, does not run")
def hidden_called(stage: Stage) -> None:
    trace = stage.play((Call("c1", "wipe", {"order": "A-17"}),))
    same(stage.world.ran, [])
    stopped(trace, "c1")


@behaviour("a tool nobody has does not run, whatever its name looks like")
def hallucinated(stage: Stage) -> None:
    trace = stage.play((Call("c1", "erase_everything", {}),))
    same(stage.world.ran, [])
    stopped(trace, "c1")


@behaviour("arguments that are missing, unknown or of the wrong type do not reach the body")
def bad_arguments(stage: Stage) -> None:
    wrong: list[dict[str, object]] = [{"order": ["A-17"], "amount": "5"}, {"order": "A-17"}, {"order": "A-17", "amount": "5", "to": "x"}]
    trace = stage.play(tuple(Call(f"c{i}", "refund", args) for i, args in enumerate(wrong)))
    same(stage.world.ran, [])
    for i in range(len(wrong)):
        stopped(trace, f"c{i}")


@behaviour("no task is open: nothing runs")
def no_task(stage: Stage) -> None:
    with taskless(stage.world.guard):
        stage.world.token = "nobody"  # of a framework that carries it
        trace = stage.play((Call("c1", "look", {"order": "A-17"}),))
    same(stage.world.ran, [])
    stopped(trace, "c1")


@behaviour("the tools of a sub-agent are guarded like its parent's, or the adapter reports them before the run starts")
def sub_agent(stage: Stage) -> None:
    script: Script = ((Call("s1", "wipe", {"order": "A-1"}),), (Call("s2", "look", {"order": "A-1"}),), "helped")
    trace = stage.play((Delegate("d1", "helper", script),))
    same(stage.world.runs("wipe"), [], "what a sub-agent wiped")
    if stage.world.decisions:
        same([(r.tool, r.verdict) for r in stage.world.decisions], [("wipe", "deny"), ("look", "allow")])
    else:
        report = stage.driver.coverage(stage.app)
        holds(
            "it was refused to start, and the report names what no guard covers",
            trace.error is not None and not all(report.values()),
            trace,
            report,
        )


@behaviour("the ways past the adapter that a framework offers end at a sealed body", modes=("sync",))
def bypass(stage: Stage) -> None:
    world = stage.world
    world.sealed = True
    stage.app = stage.driver.build(world, ("done",))
    ways = stage.driver.bypass(stage.app, Call("c1", "wipe", {"order": "A-17"}))
    holds("the driver knows ways past its adapter", bool(ways))
    for way, came in ways.items():
        holds(f"{way} wiped nothing", not world.runs("wipe"), came)


@behaviour("two tenants in one process: each call is judged by its own guard and task", modes=("async",))
def two_tenants(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        other = World(Path(folder), tenant="globex", asynchronous=True)
        here, there = (Call("c1", "where", {"order": "A-1"}),), (Call("c1", "where", {"order": "A-2"}),)
        driver = stage.driver

        async def play(world: World, script: Script) -> None:
            app = await asyncio.to_thread(driver.build, world, script)
            trace = await driver.arun(app)
            same(trace.error, None)

        async def both() -> None:
            await asyncio.gather(one(stage.world, (here, here, "done")), one(other, (there, there, "done")))

        async def one(world: World, script: Script) -> None:
            with world.open(driver.carries):
                await play(world, script)

        asyncio.run(both())
        for world, order in ((stage.world, "A-1"), (other, "A-2")):
            same([(ran.args["order"], ran.task) for ran in world.ran], [(order, world.id)] * len(world.ran))
            same({record.task for record in world.decisions}, {world.id})
            holds("both ran", len(world.ran) >= 1, world.ran)


@behaviour("one call: one decision, one record, one span")
def one_record(stage: Stage) -> None:
    stage.play(
        (Call("c1", "look", {"order": "A-1"}),),
        (Call("c2", "refund", {"order": "A-1", "amount": "51"}),),
        (Call("c3", "look", {"order": "A-2"}),),
    )
    same([(record.tool, record.verdict) for record in stage.world.decisions], [("look", "allow"), ("refund", "deny"), ("look", "allow")])
    one_each(stage.world)


@behaviour("no argument value or token is in what the model reads of a denial, nor in records and spans")
def no_secret(stage: Stage) -> None:
    trace = stage.play((Call("c1", "look", {"order": SECRET}),), (Call("c2", "refund", {"order": "A-1", "amount": SECRET}),))
    same(stage.world.ran, [])
    for each, answer in trace.answers.items():
        for secret in (SECRET, stage.world.token):
            holds(f"the refusal of {each} has no value in it", secret not in answer.text, answer.text)
    holds("and no exception either", SECRET not in str(trace.error), trace.error)
    nothing_leaks(stage.world)
