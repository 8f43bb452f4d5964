"""From what an operator writes to a gateway: which servers, where their pins are, what the guard is.

servers.yaml, the form that MCP hosts use:

    mcpServers:
      git: {command: mcp-server-git, args: [--repository, .]}
      web: {url: "https://tools.acme.example/mcp", headers: {Authorization: "Bearer ${TOOLS_TOKEN}"}}
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.gateway.links import HttpLink, StdioLink
from guard.gateway.pins import Pins
from guard.gateway.relay import ASKED, Log, Relay
from guard.gateway.server import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from guard.runtime import Guard

__all__ = ["Spec", "connected", "read_servers", "relayed", "spec_of"]

_NAME: Final = re.compile(r"[A-Za-z0-9](?:_?[A-Za-z0-9.\-]){0,62}")  # no `__`: it stands between server and tool
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MEMBERS: Final = frozenset({"command", "args", "env", "cwd", "url", "headers", "type", "lend"})


@frozen
class Spec:
    """One server: a command, or an address."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    lend: bool = False

    @property
    def where(self) -> str:
        return self.url or "stdio"


def spec_of(text: str) -> Spec:
    """`name=command with arguments`, `name=https://...`. Raises ConfigError."""
    name, found, rest = text.partition("=")
    if not found or not rest.strip():
        raise ConfigError("a server is `NAME=COMMAND ...` or `NAME=https://...`")
    rest = rest.strip()
    if rest.startswith(("http://", "https://")):
        return Spec(_named(name), url=rest)
    try:
        command = tuple(shlex.split(rest))
    except ValueError:
        raise ConfigError(f"server `{_named(name)}`: the command has a quote that does not end") from None
    return Spec(_named(name), command)


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError("a server's name is up to 64 letters, digits, `.`, `_` and `-`, without `__`, and begins with a letter or digit")
    return name


def read_servers(path: Path) -> list[Spec]:
    """Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"servers {path} cannot be read: {why}") from None
    try:
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            import yaml

            found = yaml.safe_load(text)
    except Exception:
        raise ConfigError(f"servers {path}: it is neither YAML nor JSON") from None
    servers = found.get("mcpServers") if isinstance(found, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise ConfigError(f"servers {path}: it has no `mcpServers`, a mapping of names to servers")
    return [_read(str(name), each) for name, each in servers.items()]


def _read(name: str, given: object) -> Spec:
    name = _named(name)
    if not isinstance(given, dict) or not set(given) <= _MEMBERS:
        raise ConfigError(f"server `{name}` has `command`, `args`, `env`, `cwd`, or `url`, `headers`; and `lend`")
    command, url, args = given.get("command"), given.get("url"), given.get("args", [])
    if (command is None) == (url is None) or not isinstance(command or url, str) or not isinstance(args, list):
        raise ConfigError(f"server `{name}` has a `command` with `args`, or a `url`")
    env, headers, cwd, lend = given.get("env", {}), given.get("headers", {}), given.get("cwd"), given.get("lend", False)
    if (
        not isinstance(env, dict)
        or not isinstance(headers, dict)
        or not (cwd is None or isinstance(cwd, str))
        or not isinstance(lend, bool)
    ):
        raise ConfigError(f"server `{name}`: `env` and `headers` are mappings of text, `cwd` is text, `lend` true or false")
    words = () if command is None else tuple(_filled(name, str(word)) for word in (command, *args))
    texts = {str(key): _filled(name, str(value)) for key, value in env.items()}
    return Spec(name, words, url or "", texts, {str(key): _filled(name, str(value)) for key, value in headers.items()}, cwd, lend)


def _filled(server: str, text: str) -> str:
    """`${NAME}` from the environment of the gateway."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"server `{server}` needs the environment variable {match[1]}, which is not set")
        return found

    return _VARIABLE.sub(value, text)


def _server(spec: Spec, pins: Pins, seconds: float, capabilities: Mapping[str, Any], hub: list[Relay]) -> Server:
    def unasked(message: Mapping[str, Any]) -> None:
        if hub:
            hub[0].heard(spec.name, message)

    def changed(server: Server) -> None:
        if hub:
            hub[0].changed(server)

    link = HttpLink(spec.url, spec.headers) if spec.url else StdioLink(spec.command, spec.env, spec.cwd, unasked)
    return Server(spec.name, link, pins, seconds=seconds, capabilities=capabilities, lend=spec.lend, changed=changed)


@asynccontextmanager
async def connected(
    specs: Sequence[Spec],
    pins: Pins,
    *,
    seconds: float = 300.0,
    capabilities: Mapping[str, Mapping[str, Any]] | None = None,
    hub: list[Relay] | None = None,
) -> AsyncIterator[list[Server]]:
    """The servers, started. Raises ServerError where one of them is not to be had. `hub`: whoever listens to them, once it is there."""
    if len({spec.name for spec in specs}) != len(specs):
        raise ConfigError("two servers have the same name")
    hub = hub if hub is not None else []
    async with AsyncExitStack() as stack:
        servers = []
        for spec in specs:
            server = _server(spec, pins, seconds, (capabilities or {}).get(spec.name, {}), hub)
            stack.push_async_callback(server.close)
            await server.start()
            servers.append(server)
        yield servers


@asynccontextmanager
async def relayed(
    guard: Guard, specs: Sequence[Spec], pins: Pins, *, seconds: float = 300.0, first_use: bool = False, log: Log = lambda *_, **__: None
) -> AsyncIterator[Relay]:
    """A relay over these servers. Raises ServerError, ConfigError: a server that nobody has pinned, unless `first_use`: then it is pinned as it is."""
    hub: list[Relay] = []
    capabilities = {spec.name: _capabilities(guard, spec.name) for spec in specs}
    async with connected(specs, pins, seconds=seconds, capabilities=capabilities, hub=hub) as servers:
        unknown = [server for server in servers if not pins.knows(server.name)]
        if unknown and not first_use:
            names = ", ".join(server.label for server in unknown)
            raise ServerError(
                f"nobody has pinned the tools of {names} ({pins.path}): look at them and pin them with `--pin`, or say `--trust-on-first-use`"
            )
        for server in unknown:
            server.pin()
            log("pinned at first use", server=server.name, tools=len(server.tools))
        if unknown:
            pins.save()
        relay = Relay(guard, servers, log=log)
        hub.append(relay)
        for server in servers:
            relay.changed(server)
        yield relay


def _capabilities(guard: Guard, name: str) -> dict[str, Any]:
    """What a server is told that clients can do: what the policy names."""
    found: dict[str, Any] = {}
    for method, capability in ASKED.items():
        tool = method.replace("/", ".")
        try:
            guard.argument_names(f"{name}/{tool}" if name else tool)
        except ConfigError:
            continue
        found[capability] = {}
    return found
