"""What the driver of a framework is asked for. A driver decides nothing and asserts nothing: it builds an agent as the adapter's own page of docs does, with
the framework's fake model in place of a real one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from guard.testing.conformance.script import Call, Script, Trace
from guard.testing.conformance.world import World

__all__ = ["Driver", "Mode"]

Mode = Literal["sync", "async", "stream"]


class Driver(ABC):
    """One framework. Made anew for every case.

    `name`: of the adapter (`guard.adapters.<name>`). `modes`: how its agents can be run; a missing one stands in `gaps`. `gaps`: behaviour (or mode, or
    `behaviour/mode`) -> why the framework has no such thing, in a sentence a user can read; such a case is an expected failure, and one that passes all
    the same is an error. The key `pause` says why there is no pause: then an ask is a refusal the model reads, and `resume` makes the calls again.
    `carries`: the task's token comes with each request (MCP, A2A): the world opens no task around the run. `ids`: tools get the model's call ids; a
    framework that has none, or gives tools none, says False.
    """

    name: ClassVar[str]
    modes: ClassVar[frozenset[Mode]]
    gaps: ClassVar[Mapping[str, str]] = {}
    carries: ClassVar[bool] = False
    ids: ClassVar[bool] = True

    @abstractmethod
    def build(self, world: World, script: Script) -> Any:
        """An agent with `world.tools(...)`, guarded by the adapter, whose model says `script`. Called outside of any event loop, in the open task."""

    def run(self, app: Any) -> Trace:
        """Run it from the beginning, synchronously."""
        raise NotImplementedError

    async def arun(self, app: Any) -> Trace:
        """The same, awaited. Cancelling it cancels the run."""
        raise NotImplementedError

    async def astream(self, app: Any) -> Trace:
        """The same through the framework's streaming interface, read to its end."""
        raise NotImplementedError

    def resume(self, app: Any, yes: bool) -> Trace:
        """Answer everything that waits with the framework's own yes or no, and go on. Where the framework has no pause: make the same calls again, with the
        same ids, as a program does that has read `ApprovalRequired`; a no then is not to make them."""
        raise NotImplementedError

    async def aresume(self, app: Any, yes: bool) -> Trace:
        raise NotImplementedError

    def bypass(self, app: Any, call: Call) -> Mapping[str, object]:
        """Ways past the adapter that the framework offers (`tool.invoke`, `tool.func`, `tool.__wrapped__`, a session below): way -> what came of trying it (a
        value or an exception). The bodies are sealed (`world.sealed`)."""
        raise NotImplementedError

    def coverage(self, app: Any) -> Mapping[str, bool]:
        """The adapter's own report before a run: path of each tool and sub-agent -> does a guard stand before it?"""
        raise NotImplementedError
