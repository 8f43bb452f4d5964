"""Semantic Kernel has no adapter: `@guard.tool` on the function is what stands before it. Row F60: the filter for automatic calls does not see `kernel.invoke`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from guard import Denied
from guard.testing.conformance import World

sk = pytest.importorskip("semantic_kernel")


def test_the_same_verdict_past_the_filter(tmp_path: Path) -> None:
    from semantic_kernel.exceptions import KernelInvokeException
    from semantic_kernel.filters import FilterTypes
    from semantic_kernel.functions import kernel_function

    world = World(tmp_path, asynchronous=True)
    world.sealed = True
    kernel, seen = sk.Kernel(), []

    @kernel.filter(FilterTypes.AUTO_FUNCTION_INVOCATION)
    async def never(context: Any, following: Any) -> None:
        seen.append(context)

    async def play() -> None:
        kernel.add_functions("desk", [kernel_function(tool, name=tool.__name__) for tool in world.tools("look", "wipe")])
        assert str(await kernel.invoke(plugin_name="desk", function_name="look", order="A-1")) == "order A-1, 1 page(s)"
        with pytest.raises(KernelInvokeException) as refused:
            await kernel.invoke(plugin_name="desk", function_name="wipe", order="A-1")
        assert isinstance(refused.value.__cause__, Denied)

    with world.open():
        asyncio.run(play())
    assert seen == [], "F60"
    assert [ran.tool for ran in world.ran] == ["look"]
    assert [(record.tool, record.verdict) for record in world.decisions] == [("look", "allow"), ("wipe", "deny")]
