"""What a result leaves of a task whose policy asks where values come from, through the whole guard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guard import Denied, Outcome, ToolCall
from tests.runtime.conftest import make_world

POLICY = """
guardtrail: 1
name: post
tools:
  look: {effect: read, returns: {shape: {"[].email": directory}}}
  mail: {effect: send, control: {to: email}, returns: none}
flow: {read: {allow: [any]}, send: {allow: [directory]}}
intents: {refund-order: {params: {order: id, ceiling: decimal}, allow: {look: {}, mail: {args: {to: {any: true}}}}}}
"""
FOUND = [{"email": "bob@acme.example"}]


def stream() -> Iterator[object]:
    yield FOUND


@pytest.mark.parametrize(
    ("outcome", "unknown"),
    [
        (Outcome("ok", FOUND), "deny flow.unknown"),
        (Outcome("ok", []), "deny flow.unknown"),  # nothing found is no reason to ask about what nobody has seen
        (Outcome("ok", None), "deny flow.unknown"),
        (Outcome("ok", [{"count": True}]), "deny flow.unknown"),
        (Outcome("unknown"), "deny flow.unknown"),
        (Outcome("error", None, RuntimeError("no such name")), "deny flow.unknown"),
        (Outcome("ok", ["x"] * 6_000), "ask state.incomplete"),  # more than is kept: it may have been among the rest
    ],
    ids=["found", "an empty list", "nothing", "no value", "unknown", "error", "too much"],
)
def test_what_is_unknown_after(outcome: Outcome, unknown: str) -> None:
    world = make_world(POLICY)
    with world.guard.task(world.mint()):
        world.guard.after(world.guard.before(ToolCall("look", {})), outcome)
        decision = world.guard.before(ToolCall("mail", {"to": "x@evil.example"}))
    assert f"{decision.verdict} {decision.code}" == unknown


def test_a_stream_may_have_held_anything() -> None:
    world = make_world(POLICY)
    with world.guard.task(world.mint()):
        assert list(world.guard.call(ToolCall("look", {}), stream)) == [FOUND]  # type: ignore[call-overload]
        with pytest.raises(Denied) as caught:
            world.guard.call(ToolCall("mail", {"to": "x@evil.example"}), world.body)
    assert (caught.value.decision.verdict, str(caught.value.decision.code)) == ("ask", "state.incomplete")
