"""The kit finds what is broken: each driver here has one fault of a real adapter, and the behaviours that must notice it do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from guard import Denied, ToolCall
from guard.testing.conformance import BEHAVIOURS, Answer, Mode, Trace, cases, gap, run
from tests.conformance.drivers.loop import App, LoopDriver


class RunsAnyway(LoopDriver):
    """A hook whose "no" is overlooked."""

    def _call(self, app: App, call: Any) -> None:
        super()._call(app, call)
        if app.trace.answers[call.id].failed and call.tool in app.tools:
            app.tools[call.tool](**call.args)


class SwallowsCrashes(LoopDriver):
    """F49: every exception but one class is swallowed, and the tool runs."""

    def _call(self, app: App, call: Any) -> None:
        try:
            result = app.world.guard.call(ToolCall(call.tool, call.args, id=call.id), app.tools[call.tool])
        except Denied as denied:
            app.trace.answers[call.id] = Answer(denied.for_model(), True)
            return
        except Exception:
            result = app.tools[call.tool](**call.args)
        app.trace.answers[call.id] = Answer(str(result), False)


class ShowsAll(LoopDriver):
    """The list is not shortened."""

    def run(self, app: App) -> Trace:
        trace = super().run(app)
        trace.shown = [tuple(app.tools)]
        return trace


class TrustsTheFramework(LoopDriver):
    """F66: whoever says yes is believed."""

    def resume(self, app: App, yes: bool) -> Trace:
        for call in app.script[0] if yes and not isinstance(app.script[0], str) else ():
            app.tools[call.tool](**call.args)  # type: ignore[union-attr]
        return super().resume(app, yes)


class RunsAgain(LoopDriver):
    """F67, F68: what was resumed runs its step again, under another id."""

    again = 0

    def resume(self, app: App, yes: bool) -> Trace:
        self.again += 1
        return super().resume(app, yes)

    def _call(self, app: App, call: Any) -> None:
        try:
            result = app.world.guard.call(ToolCall(call.tool, call.args, id=f"{call.id}-{self.again}"), app.tools[call.tool])
        except Denied as denied:
            app.trace.answers[call.id] = Answer(denied.for_model(), True)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)


class OwnArguments(LoopDriver):
    """F54: the body gets what the model said, not what was judged."""

    def _call(self, app: App, call: Any) -> None:
        try:
            result = app.world.guard.call(ToolCall(call.tool, call.args, id=call.id), lambda **_: app.tools[call.tool](**call.args))
        except Denied as denied:
            app.trace.answers[call.id] = Answer(denied.for_model(), True)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)


class ChecksOnly(LoopDriver):
    """The verdict of a dry run, and then the body: nothing is recorded, nothing is counted."""

    def _call(self, app: App, call: Any) -> None:
        decision = app.world.guard.check(ToolCall(call.tool, call.args, id=call.id))
        if decision.blocks:
            app.trace.answers[call.id] = Answer(decision.for_model(), True)
        else:
            app.trace.answers[call.id] = Answer(str(app.tools[call.tool](**call.args)), False)


class Chatty(LoopDriver):
    """The refusal repeats the call."""

    def _call(self, app: App, call: Any) -> None:
        super()._call(app, call)
        answer = app.trace.answers[call.id]
        app.trace.answers[call.id] = Answer(f"{answer.text} ({dict(call.args)})", answer.failed)


class Silent(LoopDriver):
    """The model reads a result where there was a refusal."""

    def _call(self, app: App, call: Any) -> None:
        super()._call(app, call)
        app.trace.answers[call.id] = Answer("ok", False)


class OpenWithoutATask(LoopDriver):
    """No identity, no check."""

    def _call(self, app: App, call: Any) -> None:
        try:
            app.world.guard.current()
        except Denied:
            app.trace.answers[call.id] = Answer(str(app.tools[call.tool](**call.args)), False)
        else:
            super()._call(app, call)


class OneGuardForAll(LoopDriver):
    """F49's neighbour: a hook that is global to the process."""

    first: list[Any] = []  # noqa: RUF012

    async def _acall(self, app: App, call: Any) -> None:
        self.first.append(app.world.guard)
        try:
            result = await self.first[0].acall(ToolCall(call.tool, call.args, id=call.id), app.tools[call.tool])
        except Denied as denied:
            app.trace.answers[call.id] = Answer(denied.for_model(), True)
        else:
            app.trace.answers[call.id] = Answer(str(result), False)


class CallsCancelledFailed(LoopDriver):
    """A body that was stopped half-way counts as one that did nothing."""

    async def _acall(self, app: App, call: Any) -> None:
        async def body(**args: Any) -> Any:
            try:
                return await app.tools[call.tool](**args)
            except asyncio.CancelledError:
                raise RuntimeError("cancelled") from None

        await app.world.guard.acall(ToolCall(call.tool, call.args, id=call.id), body)


class Unsealed(LoopDriver):
    """The bare function is one attribute away."""

    def bypass(self, app: App, call: Any) -> Any:
        return {"tool.inner": next(body for body in _bare(app) if body.__name__ == call.tool)(**call.args)}


def _bare(app: App) -> list[Any]:
    app.world.sealed = False
    return app.world.tools()


FAULTS: list[tuple[type[LoopDriver], str, Mode]] = [
    (RunsAnyway, "deny", "sync"),
    (RunsAnyway, "state_down", "sync"),
    (RunsAnyway, "hidden_called", "sync"),
    (RunsAnyway, "parallel", "sync"),
    (RunsAnyway, "bad_arguments", "sync"),
    (RunsAnyway, "forged", "sync"),
    (RunsAnyway, "guard_is_late", "sync"),
    (SwallowsCrashes, "guard_crashes", "sync"),
    (ShowsAll, "hidden", "sync"),
    (TrustsTheFramework, "forged", "sync"),
    (TrustsTheFramework, "ask_reject", "sync"),
    (TrustsTheFramework, "ask_approve", "sync"),
    (RunsAgain, "beside", "sync"),
    (OwnArguments, "resolved", "sync"),
    (ChecksOnly, "one_record", "sync"),
    (ChecksOnly, "same_chain", "sync"),
    (ChecksOnly, "race", "sync"),
    (Chatty, "no_secret", "sync"),
    (Chatty, "ask_leaks_nothing", "sync"),
    (Silent, "deny", "sync"),
    (Silent, "allow", "sync"),
    (OpenWithoutATask, "no_task", "sync"),
    (OneGuardForAll, "two_tenants", "async"),
    (CallsCancelledFailed, "cancel", "async"),
    (Unsealed, "bypass", "sync"),
]


@pytest.mark.parametrize(("driver", "behaviour", "mode"), FAULTS, ids=lambda part: getattr(part, "__name__", part))
def test_a_fault_is_found(driver: type[LoopDriver], behaviour: str, mode: Mode) -> None:
    with pytest.raises(Exception) as found:
        run(driver(), behaviour, mode)
    assert not isinstance(found.value, NotImplementedError), found.value


def test_every_behaviour_is_a_case() -> None:
    assert {name for name, _ in cases()} == set(BEHAVIOURS)
    assert all(behaviour.why for behaviour in BEHAVIOURS.values())
    assert gap(LoopDriver, "allow", "stream") == LoopDriver.gaps["stream"]
    assert gap(LoopDriver, "allow", "sync") is None
