"""DSPy has no adapter: `@guard.tool` on the function is what stands before its tools. Row F52: its callbacks only watch, and what they raise is swallowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard import Denied
from guard.testing.conformance import World

dspy = pytest.importorskip("dspy")


class Refuses(dspy.utils.callback.BaseCallback):  # type: ignore[misc, name-defined, unused-ignore]
    """F52: this does not stop a tool."""

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        raise ValueError("no")


def test_a_callback_that_raises_stops_nothing_and_the_guard_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sealed = True
    look, wipe = (dspy.Tool(tool) for tool in world.tools("look", "wipe"))
    assert set(look.args) == {"order", "pages"}
    with world.open(), dspy.context(callbacks=[Refuses()]):
        assert look(order="A-1") == "order A-1, 1 page(s)"
        with pytest.raises(Denied, match="intent.tool"):
            wipe(order="A-1")
    assert [ran.tool for ran in world.ran] == ["look"]
    assert [(record.tool, record.verdict) for record in world.decisions] == [("look", "allow"), ("wipe", "deny")]


def test_an_agent_reads_the_refusal_and_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sealed = True
    steps = [
        {"next_thought": "t", "next_tool_name": "wipe", "next_tool_args": {"order": "A-1"}},
        {"next_thought": "t", "next_tool_name": "look", "next_tool_args": {"order": "A-1"}},
        {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "r", "answer": "done"},
    ]
    with world.open(), dspy.context(lm=dspy.utils.DummyLM(steps)):
        said = dspy.ReAct("question -> answer", tools=world.tools("look", "wipe"))(question="q")
    assert said.answer == "done"
    assert "wipe denied" in said.trajectory["observation_0"]
    assert said.trajectory["observation_1"] == "order A-1, 1 page(s)"
    assert [ran.tool for ran in world.ran] == ["look"]
