"""Agno has no adapter: `@guard.tool` on the function is what stands before its tools. Rows F53 (an async hook on a sync run is skipped), F54 (changed arguments)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard.testing.conformance import World

functions = pytest.importorskip("agno.tools.function")


async def skipped(name: str, func: Any, args: dict[str, Any]) -> Any:
    raise RuntimeError("no")  # F53: never awaited on a synchronous run


def other_order(name: str, func: Any, args: dict[str, Any]) -> Any:
    return func(order="A-2")  # F54: the body gets what it was called with all the same


def execute(tool: Any, hook: Any, **args: Any) -> Any:
    function = functions.Function.from_callable(tool)
    function.process_entrypoint()
    function.tool_hooks = [hook]
    return functions.FunctionCall(function=function, arguments=args, call_id="c1").execute()


@pytest.mark.parametrize("hook", [skipped, other_order])
def test_the_guard_stands_whatever_becomes_of_hooks(hook: Any, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sealed = True
    look, wipe = world.tools("look", "wipe")
    with world.open():
        assert execute(look, hook, order="A-1").status == "success"
        denied = execute(wipe, hook, order="A-1")
        outside = execute(look, hook, order="B-1")
    assert (denied.status, denied.result) == ("failure", None)
    assert "intent.tool" in denied.error
    assert [ran.tool for ran in world.ran] == [record.tool for record in world.decisions if record.verdict == "allow"]
    assert all(str(ran.args["order"]).startswith("A-") for ran in world.ran), "what ran is what was judged"
    assert outside.status == "failure" or hook is other_order
