"""`guardtrail mcp`: the gateway in front of MCP servers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.cli.files import load_layers
from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, clean, columns, count, dump, note, say
from guard.cli.serving import DEADLINE, where
from guard.cli.serving import listen as listen_at
from guard.cli.trust import development, named
from guard.errors import ConfigError, GuardError

if TYPE_CHECKING:
    from guard.gateway.pins import Pins
    from guard.gateway.relay import Relay
    from guard.gateway.server import Server
    from guard.gateway.setup import Spec
    from guard.identity import Issuer, LocalIssuer
    from guard.runtime import Guard

__all__ = ["PINS", "mcp", "open_pins", "specs_of"]

PINS = Path("mcp-pins.json")
_TIME = re.compile(r"([1-9][0-9]{0,4})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
Texts = list[str] | None


def _option(*names: str, help: str, metavar: str) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


Command = Annotated[
    Texts,
    typer.Argument(help="The server, after `--`: a command that speaks MCP over stdio.", metavar="[-- COMMAND...]", show_default=False),
]
Url = Annotated[str | None, _option("--url", help="The server, by the address of its streamable HTTP endpoint.", metavar="URL")]
ServerOption = Annotated[
    Texts, _option("--server", help="A named server: `git=mcp-server-git -r .`, `web=https://...`. Repeatable.", metavar="NAME=...")
]
Servers = Annotated[Path | None, _option("--servers", help="Named servers, from a file with `mcpServers`.", metavar="FILE")]
Name = Annotated[str, _option("--name", help="Name of the one server: the policy says NAME/tool then.", metavar="NAME")]
Env = Annotated[
    Texts, _option("--env", help="For the server's process: NAME from here, or NAME=VALUE. It gets little else.", metavar="NAME[=VALUE]")
]
Header = Annotated[
    Texts, _option("--header", help="For the server at --url: `Name: value`; the gateway's own credential.", metavar="HEADER")
]
PinsOption = Annotated[Path, typer.Option("--pins", help="Where the pinned descriptions are.", metavar="FILE")]


@answers
def mcp(
    command: Command = None,
    policy: Annotated[list[Path] | None, _option("--policy", "-p", help="The policy; several are layers.", metavar="FILE")] = None,
    url: Url = None,
    server: ServerOption = None,
    servers: Servers = None,
    name: Name = "",
    listen: Annotated[
        str | None, _option("--listen", help="Serve HTTP here instead of stdio: 127.0.0.1:8400.", metavar="HOST:PORT")
    ] = None,
    public_url: Annotated[
        str | None, _option("--public-url", help="The endpoint as clients know it (default: where it listens, /mcp).", metavar="URL")
    ] = None,
    token: Annotated[
        str | None, _option("--token", help="On stdio: the token, or `@file` (default: $GUARDTRAIL_TOKEN).", metavar="TOKEN|@FILE")
    ] = None,
    key: Annotated[Path | None, _option("--key", help="On stdio: the private key that token is bound to.", metavar="FILE")] = None,
    local: Annotated[str | None, _option("--local", help="Trust the development issuer of this name.", metavar="NAME")] = None,
    issuer: Annotated[str | None, _option("--issuer", help="Trust this issuer: its exact `iss`.", metavar="URL")] = None,
    audience: Annotated[str | None, _option("--audience", help="For whom its tokens must be meant.", metavar="NAME")] = None,
    keys: Annotated[
        str | None, _option("--keys", help="Its keys: a JWKS file, or its address; else by its metadata.", metavar="FILE|URL")
    ] = None,
    approvers: Annotated[
        str | None, _option("--approvers", help="Audience of the tokens of persons who approve (of the same issuer).", metavar="NAME")
    ] = None,
    state: Annotated[str, typer.Option(help="Where limits and revocations are kept: `sqlite:PATH`, `memory:`.")] = "",
    pins: PinsOption = PINS,
    pin: Annotated[bool, typer.Option("--pin", help="Show the tools as they are now, pin them, and end.")] = False,
    first_use: Annotated[bool, typer.Option("--trust-on-first-use", help="Pin servers that were never pinned, unseen.")] = False,
    allow_origin: Annotated[
        Texts, _option("--allow-origin", help="A web page's origin that may call. Repeatable.", metavar="ORIGIN")
    ] = None,
    open_handshake: Annotated[
        bool, typer.Option("--open-handshake", help="Answer `initialize` and the like without a token: it comes in `_meta`.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long a server may take for one answer.", metavar="TIME")] = "5m",
    env: Env = None,
    header: Header = None,
    as_json: Json = False,
) -> int:
    """Stand in front of MCP servers: every call is judged and recorded, every description pinned.

    In front stdio, or HTTP with --listen; behind a command, a --url, or several --server. A client sees the tools that its token may ever use; of several
    servers as `server__tool`, in the policy `server/tool`. The token never reaches a server. Ends with its input, or with Ctrl-C.

    \b
    guardtrail init --mcp -- mcp-server-git --repository .        a first policy, and pins
    guardtrail token mint --issuer acme-dev --origin alice --actor agent --intent everything-listed > task.jwt
    guardtrail mcp -p policy.yaml --token @task.jwt -- mcp-server-git --repository .
    guardtrail mcp -p policy.yaml --issuer https://iam.acme.example --audience https://tools.acme.example/mcp \\
        --public-url https://tools.acme.example/mcp --listen 127.0.0.1:8400 --url http://127.0.0.1:9000/mcp
    guardtrail mcp --pin --servers servers.yaml                   after a person has looked at what has changed

    \b
    Over HTTP a token comes as `Authorization: Bearer` or `DPoP`, or in `_meta["guardtrail.io/token"]` of each request.
    --json: {"listens", "url", "pins", "servers": [{"name", "where", "protocol", "tools": {name: "pinned"|"changed"|"new"}}]}, once it serves
            (on standard error where standard output is the protocol); with --pin the same, and "ok".
    Exit 0: it was ended, or pinned; 2: wrong usage; 3: a server, the policy, the keys or the pins are not to be had.
    """
    specs = specs_of(command, url, server, servers, name, env, header)
    book = open_pins(pins)
    seconds = _time(timeout)
    if pin:
        return _run(_pin(specs, book, as_json))
    if not policy:
        raise WrongUsage("`--policy FILE` says who may call what; `guardtrail init --mcp -- COMMAND` writes a first one")
    if listen is None and (public_url or allow_origin or open_handshake):
        raise WrongUsage("`--public-url`, `--allow-origin` and `--open-handshake` belong to `--listen`")
    if listen is not None and (token is not None or key is not None):
        raise WrongUsage("`--token` and `--key` are for stdio; over HTTP each request brings its own token")
    from guard.gateway.front_stdio import token_source

    source = token_source(token)
    trust = _trust(local, issuer, audience, keys, source() if listen is None else "")
    guard = _guard(policy, trust, state, approvers, issuer, keys)
    if listen is None:
        return _run(_stdio(guard, specs, book, seconds, first_use, source, key, as_json))
    from guard.gateway.serve import run

    host, port = _address(listen)
    listener = listen_at(host, port)
    endpoint = public_url or f"{where(listener)}/mcp"
    options = {"origins": allow_origin or (), "open_handshake": open_handshake, "servers": [issuer] if issuer else []}
    return _run(_http(guard, specs, book, seconds, first_use, listener, endpoint, options, as_json), run)


# -- what was said -------------------------------------------------------------------------------------------------------------------


def specs_of(
    command: Sequence[str] | None, url: str | None, server: Sequence[str] | None, servers: Path | None, name: str, env: Sequence[str] | None,
    header: Sequence[str] | None,
) -> list[Spec]:  # fmt: skip
    """The servers that a command line names."""
    from guard.gateway.setup import Spec, read_servers, spec_of

    own = bool(command) + bool(url)
    if own + bool(server or servers) != 1:
        raise WrongUsage("say which server: `-- COMMAND...`, `--url URL`, or several by `--server NAME=...` and `--servers FILE`")
    if header and not url:
        raise WrongUsage("`--header` belongs to `--url`; in a file of servers each has `headers`")
    if env and not command:
        raise WrongUsage("`--env` belongs to `-- COMMAND`; in a file of servers each has `env`")
    try:
        if command:
            found = [Spec(name, tuple(command), env=_environment(env or ()))]
        elif url:
            found = [Spec(name, url=url, headers=_header_map(header or ()))]
        else:
            found = [*(read_servers(servers) if servers is not None else ()), *(spec_of(each) for each in server or ())]
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    return found


def _environment(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, said, value = each.partition("=")
        if not said and name not in os.environ:
            raise WrongUsage(f"`--env {name}`: it is not set here")
        found[name] = value if said else os.environ[name]
    return found


def _header_map(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, said, value = each.partition(":")
        if not said or not name.strip():
            raise WrongUsage("`--header` is `Name: value`")
        found[name.strip()] = value.strip()
    return found


def open_pins(path: Path) -> Pins:
    from guard.gateway.pins import Pins

    try:
        return Pins.read(path)
    except ConfigError as error:
        raise CannotAnswer(str(error)) from None


def _time(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise WrongUsage("`--timeout` is a time: `30s`, `5m`")
    return float(int(match[1]) * _SECONDS[match[2]])


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise WrongUsage("`--listen` is HOST:PORT, as in `127.0.0.1:8400`; port 0 takes a free one")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _trust(local: str | None, url: str | None, audience: str | None, keys: str | None, token: str) -> Issuer | LocalIssuer:
    from guard.cli.trust import trusted

    if local is not None and url is not None:
        raise WrongUsage("`--local` and `--issuer` exclude each other")
    if local is not None:
        found = development(local)
        if found is None:
            raise CannotAnswer(f"there is no development issuer `{clean(local)}` here: guardtrail token mint --issuer NAME ... makes one")
        return found
    if url is None and not token:
        raise WrongUsage("say whose tokens count: `--issuer URL --audience NAME`, or `--local NAME` for development")
    return trusted(token or None, url, audience, keys, False)


def _guard(
    policy: Sequence[Path], trust: Issuer | LocalIssuer, state: str, approvers: str | None, issuer: str | None, keys: str | None
) -> Guard:
    from guard.identity import LocalIssuer
    from guard.record import default_sinks, directory
    from guard.record.files import ensure
    from guard.runtime import Guard

    desk = None
    if approvers is not None or isinstance(trust, LocalIssuer):
        from guard.approvals import Approvals

        desk = Approvals(trust=trust if issuer is None or approvers is None else named(issuer, approvers, keys))
    home = directory()
    if not state:
        ensure(home)
        state = f"sqlite:{home / 'state.db'}"
    return Guard(load_layers(policy), trust=trust, state=state, approvals=desk, deadline=DEADLINE, sinks=default_sinks(DEADLINE / 2))


# -- running -------------------------------------------------------------------------------------------------------------------------


def _run(job: Any, run: Callable[[Any], int] = asyncio.run) -> int:
    from guard.gateway.server import ServerError

    # While servers start: what is asked to end ends as with Ctrl-C, and takes the processes that it has started along.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(run(job))
    except ServerError as error:
        raise CannotAnswer(error.message) from None
    except GuardError:
        raise
    except BaseExceptionGroup as group:  # of one thing that failed
        raise group.exceptions[0] from None
    finally:
        signal.signal(signal.SIGTERM, before)


async def _pin(specs: Sequence[Spec], book: Pins, as_json: bool) -> int:
    from guard.gateway.setup import connected

    async with connected(specs, book) as servers:
        shown = _shown(servers, specs, book)
        before = {server.name: dict(server.tools) for server in servers}
        for server in servers:
            server.pin()
        book.save()
    if as_json:
        dump({"ok": True, "pins": str(book.path), "servers": shown})
        return YES
    for name, tools in before.items():
        rows = [[f"{name}/{tool}" if name else tool, each.state, _first(each.shown.get("description"))] for tool, each in tools.items()]
        for line in columns(rows, most=60):
            say(line)
    say(f"pinned {count(sum(len(tools) for tools in before.values()), 'tool')} in {book.path}")
    return YES


def _first(text: object) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[0][:100] if lines else ""


async def _stdio(
    guard: Guard, specs: Sequence[Spec], book: Pins, seconds: float, first_use: bool, source: Any, key: Path | None, as_json: bool
) -> int:
    from guard.gateway.front_stdio import StdioFront
    from guard.gateway.setup import relayed
    from guard.identity import HolderKey
    from guard.record.operator import operator_log

    holder = HolderKey.load(key) if key is not None else None
    async with relayed(guard, specs, book, seconds=seconds, first_use=first_use, log=operator_log()) as relay:
        _begun(relay, specs, book, "", as_json)
        await StdioFront(relay, source, holder).serve()
    return YES


async def _http(
    guard: Guard,
    specs: Sequence[Spec],
    book: Pins,
    seconds: float,
    first_use: bool,
    listener: Any,
    url: str,
    options: Mapping[str, Any],
    as_json: bool,
) -> int:
    from guard.gateway.front_http import HttpFront
    from guard.gateway.serve import serve
    from guard.gateway.setup import relayed
    from guard.record.operator import operator_log

    async with relayed(guard, specs, book, seconds=seconds, first_use=first_use, log=operator_log()) as relay:
        front = HttpFront(relay, url, **options)
        _begun(relay, specs, book, url, as_json, where(listener))
        await serve(front, listener)
    return YES


def _begun(relay: Relay, specs: Sequence[Spec], book: Pins, url: str, as_json: bool, listens: str = "") -> None:
    servers = list(relay.servers.values())
    if as_json:
        said = {"listens": listens or None, "url": url or None, "pins": str(book.path), "servers": _shown(servers, specs, book)}
        if listens:
            dump(said)
        else:
            import json

            sys.stderr.write(json.dumps(said) + "\n")
        return
    parts = []
    for server, spec in zip(servers, specs, strict=True):
        good = sum(tool.state == "pinned" for tool in server.tools.values())
        parts.append(f"{server.name or 'server'} ({spec.where}): {good} of {count(len(server.tools), 'tool')} as pinned")
    note(f"guardtrail mcp: {'; '.join(parts)}" + (f"; listening on {url}" if url else "; on stdio"))


def _shown(servers: Sequence[Server], specs: Sequence[Spec], book: Pins) -> list[dict[str, Any]]:
    return [
        {
            "name": server.name,
            "where": spec.where,
            "protocol": server.version,
            "tools": {name: tool.state for name, tool in server.tools.items()},
        }
        for server, spec in zip(servers, specs, strict=True)
    ]
