"""`guardtrail ssf`: the receiver of security events as a process of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from guard.cli.files import read_text
from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, dump, note
from guard.errors import ConfigError
from guard.identity import Issuer
from guard.suggest import did_you_mean
from guard.tokens.events import ALGORITHMS

__all__ = ["app"]

app = typer.Typer(help="Receive security events (SSF, CAEP, RISC).", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _verbs() -> None:
    """Receive security events (SSF, CAEP, RISC)."""


@app.command()
@answers
def serve(
    issuer: Annotated[str, typer.Option("--issuer", help="The sender: the exact `iss` of its events.", metavar="URL")],
    audience: Annotated[str, typer.Option("--audience", help="Who we are to it: the exact `aud`.", metavar="NAME")],
    keys: Annotated[Path, typer.Option("--keys", help="The sender's JWKS file.", metavar="FILE")],
    state: Annotated[str, typer.Option("--state", help="The guards' state store.", metavar="sqlite:PATH")],
    owns: Annotated[
        list[str] | None,
        typer.Option(
            "--owns", help="An issuer of whose tokens it may speak (default: its own); may be repeated.", metavar="URL", show_default=False
        ),
    ] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option("--algorithm", help="What it signs with (default: RS256, PS256, ES256).", metavar="ALG", show_default=False),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="A source of telemetry and the file with its bearer token; may be repeated.",
            metavar="NAME=FILE",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.", metavar="N", min=0, max=65535)] = 8090,
    as_json: Json = False,
) -> int:
    """Take pushed security events at /events, telemetry at /signals, and write what they mean where the guards look.

    Plain HTTP: put it behind what ends TLS. Ends with Ctrl-C. Needs `pip install "guardtrail[server]"`.

    \b
    guardtrail ssf serve --issuer https://idp.acme.example --audience https://agents.acme.example/events --keys idp.json
                         --owns https://iam.acme.example --state sqlite:.guardtrail/state.db --source edr=edr.token

    \b
    --json: {"events": URL, "signals": URL | null}, once it listens
    Exit 0: it was ended; 2: wrong usage; 3: it cannot listen there, or the store or the keys cannot be read.
    """
    from guard.identity.revoked import Inbox, StoreRevocations, Transmitter
    from guard.identity.signals import SignalFeed, Source
    from guard.state import open_state

    if not state.startswith("sqlite:"):
        raise WrongUsage(f"`--state` is `sqlite:PATH`, the store that the guards have{did_you_mean(state, ('sqlite:',))}")
    if not Path(state.removeprefix("sqlite:")).is_file():
        raise CannotAnswer(f"there is no store {state.removeprefix('sqlite:')}; a guard makes it when it starts")
    try:
        sender = Transmitter(Issuer(issuer, audience=audience, keys=keys), owns=owns or None, algorithms=algorithm or ALGORITHMS)
        sender.sender()
        store = open_state(state)
        tokens = dict(_source(one) for one in source or ())
        mine = frozenset(owns or [issuer])
        feed = SignalFeed(store, sources=[Source(name, mine, frozenset({"device.*", "risk.*", "assurance.*"})) for name in tokens])
        inbox = Inbox([sender], StoreRevocations(store), feed)
        asgi = _app(inbox, feed if tokens else None, tokens)
        listener = _listen(host, port)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if as_json:
            dump({"events": f"{where}/events", "signals": f"{where}/signals" if tokens else None})
        else:
            note(f"listening on {where}/events")
        _run(asgi, listener)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    return YES


def _app(inbox: object, feed: object, tokens: dict[str, str]) -> object:
    from guard.server import events_app

    return events_app(inbox, feed=feed, sources=tokens)  # type: ignore[arg-type]


def _source(given: str) -> tuple[str, str]:
    name, equals, file = given.partition("=")
    if not name or not equals or not file:
        raise WrongUsage("`--source` is NAME=FILE: the source's name, and the file that holds its bearer token")
    return name, read_text(Path(file), "token file", most=4096).strip()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CannotAnswer(f"cannot listen on {host} port {port}: {(error.strerror or 'no such address').lower()}") from None


def _run(app: object, listener: socket.socket) -> None:
    try:
        import uvicorn
    except ImportError:
        raise ConfigError('guardtrail ssf serve needs uvicorn: pip install "guardtrail[server]"') from None
    # No access log: nothing that was sent may end up in one.
    level = "debug" if os.environ.get("GUARDTRAIL_DEBUG") == "1" else "warning"
    config = uvicorn.Config(app, access_log=False, log_level=level, server_header=False, lifespan="off")  # type: ignore[arg-type]
    uvicorn.Server(config).run(sockets=[listener])
