"""`guardtrail doctor`: which tools and sub-agents of a program no guard stands before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

from guard.cli.modules import attribute, load_module
from guard.cli.output import NO, YES, CannotAnswer, Json, WrongUsage, answers, columns, count, dump, say
from guard.errors import ConfigError

__all__ = ["FRAMEWORKS", "doctor"]

FRAMEWORKS = {
    "agent_framework": "agent_framework",
    "agents": "openai_agents",
    "claude_agent_sdk": "claude_agent_sdk",
    "crewai": "crewai",
    "fastmcp": "fastmcp",
    "google.adk": "google_adk",
    "guard.adapters": "plain",
    "langchain": "langchain",
    "langgraph": "langchain",
    "llama_index": "llamaindex",
    "mcp": "mcp_server",
    "pydantic_ai": "pydantic_ai",
    "smolagents": "smolagents",
    "strands": "strands",
}
"""Package of an agent's class (or of a class it is derived from) -> the adapter that can walk it."""


class Line(NamedTuple):
    """One tool or sub-agent. `path`: from the name in the module down."""

    path: str
    covered: bool
    why: str


@answers
def doctor(
    coverage: Annotated[
        str,
        typer.Option("--coverage", help="The module with your agent, or the agent itself.", metavar="MODULE[:NAME]", show_default=False),
    ],
    as_json: Json = False,
) -> int:
    """Walk the agents of a module: which tools and sub-agents does no guard stand before?

    MODULE is imported from the working directory, nothing of it is run. Without NAME, every agent of a supported framework in it and every list of functions.
    What an adapter cannot see (docs/adapters) this cannot either: `@guard.tool` on the function itself is what holds then.

    \b
    guardtrail doctor --coverage app
    guardtrail doctor --coverage app.agents:triage

    \b
    exit: 0 a guard stands before everything that was found, 1 it does not, 3 nothing was found
    --json: {"ok", "module", "found": [{"path", "covered", "why"}]}
    """
    module_name, colon, name = coverage.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *(name.split(".") if colon else ()))):
        raise WrongUsage(f"`{coverage}` is not of the form MODULE or MODULE:NAME, as in `app:agent`")
    module = load_module(module_name)
    named = (
        {name: attribute(module, module_name, name)}
        if colon
        else {key: value for key, value in vars(module).items() if not key.startswith("_")}
    )
    found = list(_found(named))
    if not found:
        raise CannotAnswer(f"nothing to look at: {coverage} holds no agent of a supported framework and no list of functions")
    ok = all(line.covered for line in found)
    if as_json:
        dump({"ok": ok, "module": coverage, "found": [line._asdict() for line in found]})
        return YES if ok else NO
    rows = [("yes" if line.covered else "NO", line.path, line.why) for line in found]
    for text in columns([("guarded", "tool or sub-agent", ""), *rows], gap=3):
        say(text)
    missing = sum(not line.covered for line in found)
    say(f"{count(len(found), 'place')}, a guard before each" if ok else f"{count(missing, 'place')} of {len(found)} with no guard")
    return YES if ok else NO


def _found(named: Mapping[str, object]) -> Iterator[Line]:
    seen: set[int] = set()
    for name, value in named.items():
        if id(value) in seen:
            continue  # one agent under two names
        seen.add(id(value))
        adapter = _adapter(value)
        if adapter is not None:
            yield from _walked(adapter, name, value)
        elif functions := _functions(value):
            for key, function in functions:
                covered = hasattr(function, "__guardtrail__")
                yield Line(f"{name} > {key}", covered, "" if covered else "decorate it with `@guard.tool`, or hand it to an adapter only")


def _adapter(value: object) -> str | None:
    """By the packages of its class and of those it is derived from; a class itself is no agent."""
    if isinstance(value, type):
        return None
    for each in type(value).__mro__:
        parts = each.__module__.split(".")
        for package in (parts[0], ".".join(parts[:2])):
            if package in FRAMEWORKS:
                return FRAMEWORKS[package]
    return None


def _walked(adapter: str, name: str, value: object) -> Iterator[Line]:
    try:
        walk: Callable[[object], Sequence[Any]] = import_module(f"guard.adapters.{adapter}").coverage
    except (ConfigError, ImportError) as error:  # the framework is too old for the adapter, or there is none
        yield Line(name, False, str(error))
        return
    try:
        seen = [(str(one.path), one.covered is True, str(one.why)) for one in walk(value)]
    except Exception as error:  # what cannot be walked is not covered
        seen = [("?", False, f"could not be walked: {type(error).__name__}")]
    for path, covered, why in seen:
        yield Line(f"{name} > {path}", covered, why)


def _functions(value: object) -> list[tuple[str, object]]:
    """Of a list, tuple or dict that holds functions and nothing else."""
    items = (
        list(value.items()) if isinstance(value, Mapping) else [(None, each) for each in value] if isinstance(value, list | tuple) else []
    )
    if not items or not all(callable(each) and not isinstance(each, type) for _, each in items):
        return []
    return [(str(key if key is not None else getattr(each, "__name__", "?")), each) for key, each in items]
