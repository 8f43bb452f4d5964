"""`guardtrail init --mcp`: what running servers say of their tools, guessed into a policy, and pinned."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from guard.cli.guess import Argument, Guess, guess_schema
from guard.cli.mcp import open_pins
from guard.cli.output import CannotAnswer, note
from guard.errors import ConfigError
from guard.policy.table import NAMES
from guard.record import directory
from guard.record.files import ensure

if TYPE_CHECKING:
    from guard.gateway.pins import Pins
    from guard.gateway.server import Server
    from guard.gateway.setup import Spec

__all__ = ["asked_servers"]


def asked_servers(specs: Sequence[Spec], path: Path) -> tuple[str, str, list[Guess]]:
    """Where the tools are from, what a policy of them is called, and each as guessed. The pins are written, and the store of `guardtrail mcp` is there."""
    from guard.gateway.server import ServerError

    book = open_pins(path)
    try:
        guesses = asyncio.run(_ask(specs, book))
    except (ServerError, ConfigError) as error:
        raise CannotAnswer(str(error)) from None
    if not guesses:
        raise CannotAnswer("there are no tools to describe")
    store()
    first = specs[0]
    called = first.name or (PurePath(first.command[0]).name if first.command else "mcp")
    return "--mcp -- " + ", ".join(_shown(spec) for spec in specs), called, guesses


def _shown(spec: Spec) -> str:
    """For a comment: the program, without its arguments, in which anything may stand."""
    text = spec.url.partition("?")[0] if spec.url else PurePath(spec.command[0]).name
    return re.sub(r"[^\x21-\x7E]", "?", text)[:80]


async def _ask(specs: Sequence[Spec], book: Pins) -> list[Guess]:
    from guard.gateway.setup import connected

    async with connected(specs, book) as servers:
        found = [each for server, spec in zip(servers, specs, strict=True) for each in _tools(server, here=not spec.url)]
        for server in servers:
            if book.knows(server.name):
                _as_it_was(server)
            server.pin()
        book.save()
    return found


def _as_it_was(server: Server) -> None:
    """Attack: a server that was looked at changes its descriptions, and whoever asks it for a policy once more pins them unseen. Raises CannotAnswer."""
    unlike = sorted(name for name, tool in server.tools.items() if tool.state != "pinned")
    said = [f"`{name}`" if re.match(NAMES["tool"], name) else "a tool with a strange name" for name in unlike[:5]]
    if server.instructions and not server.pinned_instructions():
        said.append("its instructions")
    if said:
        other = "" if server.name else "; another server than that one has a name (`--name`)"
        raise CannotAnswer(
            f"{server.label} was pinned before, and now says something else: {', '.join(said)}; look at it and pin it (`guardtrail mcp --pin`), "
            f"then ask again{other}"
        )


def _tools(server: Server, *, here: bool) -> list[Guess]:
    """`here`: on this machine; else its paths are not ours to resolve, and stay text."""
    from guard.gateway.relay import RESERVED

    found = []
    for name, tool in server.tools.items():
        full = server.tool_name(name)
        if name in RESERVED or not re.match(NAMES["tool"], full) or "/" in name:
            note(f"note: a tool of {server.label} is left out: its name is none that a policy can say")
            continue
        guess = guess_schema(full, name, tool.shown["inputSchema"], tool.shown.get("annotations"))
        for argument in guess.left_out:
            shown = argument if argument.isascii() and argument.isprintable() and len(argument) <= 64 else "an argument with a strange name"
            note(f"note: `{full}`: {shown} is left out; a policy cannot name it")
        arguments = tuple(each if here or each.type != "path" else Argument(each.path, "name", each.control) for each in guess.arguments)
        found.append(Guess(guess.name, guess.effect, guess.sure, arguments))
    return found


def store() -> None:
    """The state that `guardtrail mcp` uses: made now, so that tokens that are minted from here on are younger than it (`state.incomplete`)."""
    from guard.state import SqliteState

    home = directory()
    ensure(home)
    SqliteState(str(home / "state.db")).close()
