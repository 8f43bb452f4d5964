"""`guardtrail ssf`: the receiver of security events as a process of its own, pushed to or asking for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from guard.cli.files import read_text
from guard.cli.output import NO, UNKNOWN, YES, CannotAnswer, Json, WrongUsage, answers, count, dump, note, say
from guard.cli.serving import listen, run, where
from guard.errors import ConfigError, GuardError
from guard.identity import Issuer
from guard.suggest import did_you_mean
from guard.tokens.events import ALGORITHMS

if TYPE_CHECKING:
    from guard.identity.revoked import Inbox, Poller
    from guard.identity.revoked.inbox import Receipt
    from guard.identity.signals import SignalFeed

__all__ = ["app"]

_HELD = 60.0
"""Seconds that a sender may hold an answer."""

app = typer.Typer(help="Receive security events (SSF, CAEP, RISC).", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _verbs() -> None:
    """Receive security events (SSF, CAEP, RISC)."""


Sender = Annotated[str, typer.Option("--issuer", help="The sender: the exact `iss` of its events.", metavar="URL")]
Us = Annotated[str, typer.Option("--audience", help="Who we are to it: the exact `aud`.", metavar="NAME")]
Keys = Annotated[Path, typer.Option("--keys", help="The sender's JWKS file.", metavar="FILE")]
State = Annotated[str, typer.Option("--state", help="The guards' state store.", metavar="sqlite:PATH")]
Owns = Annotated[
    list[str] | None,
    typer.Option(
        "--owns", help="An issuer of whose tokens it may speak (default: its own); may be repeated.", metavar="URL", show_default=False
    ),
]
Algorithms = Annotated[
    list[str] | None,
    typer.Option("--algorithm", help="What it signs with (default: RS256, PS256, ES256).", metavar="ALG", show_default=False),
]


@app.command()
@answers
def serve(
    issuer: Sender,
    audience: Us,
    keys: Keys,
    state: State,
    owns: Owns = None,
    algorithm: Algorithms = None,
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
    try:
        tokens = _sources(source or ())
        inbox, feed = _inbox(issuer, audience, keys, state, owns, algorithm, frozenset(tokens))
        asgi = _app(inbox, feed if tokens else None, tokens)
        listener = listen(host, port)
        url = where(listener)
        if as_json:
            dump({"events": f"{url}/events", "signals": f"{url}/signals" if tokens else None})
        else:
            note(f"listening on {url}/events")
        run(asgi, listener)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    return YES


@app.command()
@answers
def poll(
    url: Annotated[str, typer.Option("--url", help="Where the sender keeps our events (its poll endpoint).", metavar="URL")],
    issuer: Sender,
    audience: Us,
    keys: Keys,
    state: State,
    owns: Owns = None,
    algorithm: Algorithms = None,
    token: Annotated[
        Path | None,
        typer.Option("--token", help="A file with the bearer token by which it knows us.", metavar="FILE", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Take what is there, and end.")] = False,
    as_json: Json = False,
) -> int:
    """Ask for security events (RFC 8936), where no sender can reach us, and write what they mean where the guards look.

    Without --once it asks for ever: the sender may hold an answer until there is an event, so one arrives when it happens. A sender that does not
    answer is asked again after 1, 2, 4, ... 30 s. What was taken is acknowledged with the next request: whatever is lost on the way
    comes again, and is known. Ends with Ctrl-C.

    \b
    guardtrail ssf poll --url https://idp.acme.example/ssf/poll --token poll.token --issuer https://idp.acme.example
                        --audience https://agents.acme.example/events --keys idp.json --state sqlite:.guardtrail/state.db

    \b
    --json: one line for each event: {"jti", "entries", "signals", "repeated", "idle"} or {"jti", "refused"}
            with --once one value: {"taken": [...], "refused": {jti: why}, "left": N}
    Exit 0: all was taken, or it was ended; 1 (--once): an event was refused; 2: wrong usage;
         3: (--once) the sender did not answer, or something was left; the store or the keys cannot be read.
    """
    from guard.identity.revoked import Poller
    from guard.identity.revoked.asking import posting
    from guard.tokens.urls import is_endpoint

    if not is_endpoint(url, loopback=True):
        raise WrongUsage("`--url` is an https URL without user and fragment (http only on this machine)")
    try:
        inbox, _ = _inbox(issuer, audience, keys, state, owns, algorithm)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    known = {} if token is None else {"Authorization": f"Bearer {_bearer(token)}"}
    poller = Poller(url, inbox, post=posting(30.0 if once else _HELD, 4 << 20), client=lambda: known)
    return _once(poller, as_json) if once else _for_ever(poller, as_json)


def _once(poller: Poller, as_json: bool) -> int:
    polled = poller.drain()
    receipts = [one for each in polled for one in each.receipts]
    refused = {jti: why for each in polled for jti, why in each.refused.items()}
    left = polled[-1].left if polled else 0
    if as_json:
        dump({"taken": [_told(one) for one in receipts], "refused": refused, "left": left})
    else:
        _show(receipts, refused)
        note(f"{count(len(receipts), 'event')} taken, {len(refused)} refused" + (f", {left} left: ask again" if left else ""))
    return UNKNOWN if left else NO if refused else YES


def _for_ever(poller: Poller, as_json: bool) -> int:
    note("asking; Ctrl-C ends it")
    pause = 1.0
    try:
        while True:
            started = monotonic()
            why, polled = "", None
            try:
                polled = poller.poll(wait=True)
                _show(polled.receipts, polled.refused, as_json=as_json)
                why = f"{count(polled.left, 'event')} could not be taken now" if polled.left else ""
            except GuardError as error:
                # Held until our own time was over: nothing has happened, and nothing is wrong.
                why = str(error) if monotonic() - started < _HELD - 5 else ""
            if why:
                note(f"{why}; asked again in {pause:.0f} s")
                sleep(pause)
                pause = min(pause * 2, 30.0)
                continue
            pause = 1.0
            if polled is not None and not polled.receipts and not polled.refused and not polled.more:
                sleep(max(0.0, 1.0 - (monotonic() - started)))  # a sender that does not hold its answer is not asked in a loop
    except KeyboardInterrupt:
        return YES


def _show(receipts: Iterable[Receipt], refused: Mapping[str, str], *, as_json: bool = False) -> None:
    for one in receipts:
        if as_json:
            _line(_told(one))
        else:
            did = [count(one.entries, "entry", "entries")] if one.entries else []
            did += [count(one.signals, "signal")] if one.signals else []
            did += ["was here before"] if one.repeated else []
            did += [f"no effect: {', '.join(one.idle)}"] if one.idle else []
            say(f"{one.jti}  {'; '.join(did) or 'nothing in it'}")
    for jti, why in refused.items():
        if as_json:
            _line({"jti": jti, "refused": why})
        else:
            say(f"{jti}  ", ("refused", "bold red"), f": {why}")


def _told(one: Receipt) -> dict[str, object]:
    return {"jti": one.jti, "entries": one.entries, "signals": one.signals, "repeated": one.repeated, "idle": list(one.idle)}


def _line(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _bearer(file: Path) -> str:
    text = read_text(file, "token file", most=8192).strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise CannotAnswer(f"token file {file} does not hold one bearer token")
    return text


def _inbox(
    issuer: str,
    audience: str,
    keys: Path,
    state: str,
    owns: list[str] | None,
    algorithm: list[str] | None,
    sources: frozenset[str] = frozenset(),
) -> tuple[Inbox, SignalFeed]:
    """What takes the events of this sender, and the feed of its signals. Raises WrongUsage, CannotAnswer, ConfigError."""
    from guard.identity.revoked import Inbox, StoreRevocations, Transmitter
    from guard.identity.signals import SignalFeed, Source
    from guard.state import open_state

    path = Path(state.removeprefix("sqlite:"))
    if not state.startswith("sqlite:"):
        raise WrongUsage(f"`--state` is `sqlite:PATH`, the store that the guards have{did_you_mean(state, ('sqlite:',))}")
    if not path.is_file():
        raise CannotAnswer(f"there is no store {path}; a guard makes it when it starts")
    sender = Transmitter(Issuer(issuer, audience=audience, keys=keys), owns=owns or None, algorithms=algorithm or ALGORITHMS)
    sender.sender()
    store = open_state(state)
    mine = frozenset(owns or [issuer])
    feed = SignalFeed(store, sources=[Source(name, mine, frozenset({"device.*", "risk.*", "assurance.*"})) for name in sources])
    return Inbox([sender], StoreRevocations(store), feed), feed


def _app(inbox: object, feed: object, tokens: dict[str, str]) -> object:
    from guard.server import events_app

    return events_app(inbox, feed=feed, sources=tokens)  # type: ignore[arg-type]


def _sources(given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, token in map(_source, given):
        if name in found:
            raise WrongUsage(f"`--source` names {name} twice")
        found[name] = token
    return found


def _source(given: str) -> tuple[str, str]:
    name, equals, file = given.partition("=")
    if not name or not equals or not file:
        raise WrongUsage("`--source` is NAME=FILE: the source's name, and the file that holds its bearer token")
    return name, read_text(Path(file), "token file", most=4096).strip()
