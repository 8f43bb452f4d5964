"""`guardtrail tts`: the Transaction Token service, and its keys."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from guard.cli.files import show_problem
from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, count, dump, note, say, table
from guard.cli.serving import listen, run, where
from guard.errors import ConfigError

if TYPE_CHECKING:
    from guard.identity.signing import SigningKey

__all__ = ["app"]

app = typer.Typer(help="Make tasks of access tokens: the Transaction Token service.", no_args_is_help=True, rich_markup_mode=None)
keys = typer.Typer(help="The keys it signs with.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys, name="keys")

_LEAD = re.compile(r"([1-9][0-9]{0,4})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_PORT = 8095

Folder = Annotated[Path, typer.Option("--dir", help="The folder of the keys.", metavar="DIR")]


@app.callback()
def _verbs() -> None:
    """Make tasks of access tokens: the Transaction Token service."""


@keys.callback()
def _key_verbs() -> None:
    """The keys it signs with. A running service sees a change within a second."""


@app.command()
@answers
def serve(
    config: Annotated[Path, typer.Option("--config", help="What it issues, for whom, of whose tokens.", metavar="FILE")],
    host: Annotated[
        str | None, typer.Option("--host", help="Where to listen (default: 127.0.0.1).", metavar="ADDRESS", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="(default: that of an issuer on loopback, else 8095)", metavar="N", min=1, max=65535, show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Take access tokens (at+jwt) at /token and answer with transaction tokens (txntoken+jwt) that are never wider.

    A guard trusts it like any issuer: Issuer("https://tts.acme.example", audience="acme.example"). Plain HTTP: put it behind what ends TLS. Ends
    with Ctrl-C. Needs `pip install "guardtrail[server]"`.

    \b
    guardtrail tts keys new --dir tts-keys
    guardtrail tts serve --config tts.yaml

    \b
    tts.yaml    issuer: https://tts.acme.example     its own `iss`; where it is reached
                trust_domain: acme.example           the `aud` of what it issues
                keys: tts-keys
                ttl: 5m                              never longer than the access token
                state: sqlite:.guardtrail/state.db   used proofs, and what was taken back: the guards' own, where they are on this machine
                revoked: revoked.jsonl               a revocation list of the guards, if they have one
                records: .guardtrail                 where every issue and refusal is recorded
                issuers:
                  - {url: https://iam.acme.example, audience: gateway}
                clients:                             `secret`: a file with one; `keys`: a JWKS file of its public keys
                  - {id: gateway, keys: gateway.jwks.json}
                  - {id: planner, secret: planner.secret, acts: true}     an agent: it acts from then on

    \b
    --json: {"issuer", "token_endpoint", "jwks_uri", "listens"}, once it listens
    Exit 0: it was ended; 2: the file is wrong; 3: it cannot listen there, or keys, secrets or store cannot be read.
    """
    from guard.server.ttsconfig import ConfigWrong, read_config, service_of

    try:
        read = read_config(config)
    except ConfigWrong as error:
        for problem in error.problems:
            show_problem(problem)
        raise WrongUsage(f"{config}: {count(len(error.problems), 'error')}") from None
    except ConfigError as error:
        raise CannotAnswer(str(error)) from None
    try:
        service = service_of(read, config.parent)
        asgi = _app(service)
    except ConfigError as error:
        raise CannotAnswer(str(error)) from None
    parts = urlsplit(read.issuer)
    listener = listen(host or "127.0.0.1", port or (parts.port if parts.scheme == "http" and parts.port else _PORT))
    url = read.issuer.removesuffix("/")
    if as_json:
        dump({"issuer": read.issuer, "token_endpoint": service.token_endpoint, "jwks_uri": f"{url}/jwks.json", "listens": where(listener)})
    else:
        note(f"listening on {where(listener)}, as {read.issuer}")
    run(asgi, listener)
    return YES


@keys.command()
@answers
def new(
    dir: Folder = Path("tts-keys"),
    alg: Annotated[str, typer.Option("--alg", help="ES256 or Ed25519.", metavar="ALG")] = "ES256",
    after: Annotated[str, typer.Option("--signs-after", help="How long it is published before it signs.", metavar="TIME")] = "10m",
    now: Annotated[
        bool, typer.Option("--now", help="Sign with it at once: guards that do not know it refuse its tokens for up to 30 s.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make a key. It is published at once, and signs when every guard has it; the older ones sign no more from then on.

    The first one signs at once, and makes `txn.key` beside it, which names tasks. Keep a copy of that file: without it every token that lives is another
    task, with its limits whole.

    \b
    guardtrail tts keys new --dir tts-keys
    guardtrail tts keys new --dir tts-keys --now            after one was stolen

    \b
    --json: {"kid", "alg", "state", "signs_from"}           signs_from: epoch seconds
    Exit 0: made; 2: wrong usage; 3: the folder cannot be read or written.
    """
    from guard.identity.signing import ALGORITHMS, make_key

    match = _LEAD.fullmatch(after)
    if match is None:
        raise WrongUsage("`--signs-after` is a time: `10m`, `1h`")
    if alg not in ALGORITHMS:
        raise WrongUsage(f"`--alg` is {' or '.join(ALGORITHMS)}")
    key = _asked(lambda: make_key(dir, alg=alg, lead=0 if now else int(match[1]) * _SECONDS[match[2]]))
    if as_json:
        dump({"kid": key.kid, "alg": key.alg, "state": "new" if key.signs_from > key.made else "signing", "signs_from": key.signs_from})
    elif key.signs_from > key.made:
        say(f"made {key.kid}: published now, signs from {_time(key.signs_from)}")
    else:
        say(f"made {key.kid}: signs now")
    return YES


@keys.command("list")
@answers
def list_(dir: Folder = Path("tts-keys"), as_json: Json = False) -> int:
    """Every key: does it sign, is it published, how old is it.

    \b
    new      published, signs later        retired  signs no more, published until its last token is over
    signing  signs                         over     neither
    older    published, signs no more      stolen   neither

    \b
    guardtrail tts keys list --dir tts-keys

    \b
    --json: {"keys": [{"kid", "alg", "state", "published", "made", "signs_from", "retired"}]}   times: epoch seconds or null
    Exit 0: listed; 3: the folder cannot be read.
    """
    from guard.identity.signing import read_keys, signing

    found, now = _asked(lambda: read_keys(dir)), time.time()
    current = signing(found, now)
    if as_json:
        dump({"keys": [_dict(key, now, current) for key in found]})
        return YES
    rows = [
        [key.kid, key.alg, key.state(now, current), "yes" if key.published(now) else "no", _time(key.made), _time(key.signs_from)]
        for key in found
    ]
    if rows:
        table(["kid", "alg", "state", "published", "made", "signs from"], rows)
    note(f"{count(len(rows), 'key')} in {dir}")
    return YES


@keys.command()
@answers
def retire(
    kid: Annotated[str, typer.Argument(help="Which, as `list` names it.", metavar="KID", show_default=False)],
    dir: Folder = Path("tts-keys"),
    stolen: Annotated[bool, typer.Option("--stolen", help="Do not publish it any more either: its tokens end.")] = False,
    as_json: Json = False,
) -> int:
    """Sign with a key no more, and take its private half off the disk.

    It stays published until the last token it signed is over (an hour and a minute). --stolen takes it out at once; guards see that at their next refresh, 300 s
    at most. Within a second: guardtrail revoke --key KID --state ...

    \b
    guardtrail tts keys retire 20261128-9f3a61c2 --dir tts-keys
    guardtrail tts keys retire 20261128-9f3a61c2 --dir tts-keys --stolen

    \b
    --json: {"kid", "state", "published_until"}             epoch seconds; null: it is not
    Exit 0: done, or done before; 3: there is no such key, it is the only one that can sign, or the folder cannot be written.
    """
    from guard.identity.signing import KEPT, retire_key

    key = _asked(lambda: retire_key(dir, kid, stolen=stolen))
    until = None if key.stolen or key.retired is None else key.retired + KEPT
    if as_json:
        dump({"kid": key.kid, "state": "stolen" if key.stolen else "retired", "published_until": until})
    elif until is None:
        say(f"retired {key.kid}: not published any more; guards drop its tokens within 300 s")
        note(f"within a second: guardtrail revoke --key {key.kid} --state sqlite:PATH")
    else:
        say(f"retired {key.kid}: published until {_time(until)}")
    return YES


def _asked(ask: Any) -> Any:
    try:
        return ask()
    except ConfigError as error:
        raise CannotAnswer(str(error)) from None


def _dict(key: SigningKey, now: float, current: SigningKey | None) -> dict[str, object]:
    return {
        "kid": key.kid, "alg": key.alg, "state": key.state(now, current), "published": key.published(now), "made": key.made,
        "signs_from": key.signs_from, "retired": key.retired,
    }  # fmt: skip


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _app(service: Any) -> object:
    from guard.server import tts_app

    return tts_app(service)
