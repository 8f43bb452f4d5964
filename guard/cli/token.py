"""`guardtrail token`: make a token of the development issuer; look into any token."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import read_stdin, read_token
from guard.cli.output import NO, YES, CannotAnswer, Json, WrongUsage, answers, columns, dump, note, say, styled, table
from guard.cli.trust import development, issuer_file, named, peek
from guard.errors import ConfigError, TokenRefused
from guard.identity import Issuer, LocalIssuer, TrustedIssuers
from guard.record import directory
from guard.record.files import ensure

__all__ = ["app"]

app = typer.Typer(help="Make a development token; look into any token.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
@answers
def mint(
    issuer: Annotated[str, typer.Option(help="The development issuer's name; made on first use.", metavar="NAME", show_default=False)],
    origin: Annotated[str, typer.Option(help="Whom the work is for.", metavar="NAME", show_default=False)],
    actor: Annotated[
        list[str], typer.Option(help="Who acts; repeat it for a chain, the opener first.", metavar="NAME", show_default=False)
    ],
    intent: Annotated[str, typer.Option(help="The kind of task.", metavar="NAME", show_default=False)],
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of the intent: `order=A-17`. Repeatable.", metavar="NAME=VALUE", show_default=False),
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: `30s`, `10m`, `1h`.")] = "10m",
    workload: Annotated[str, typer.Option(help="The software identity it names.")] = "local",
    as_json: Json = False,
) -> int:
    """Print a token of the development issuer. For development and tests: every record made with it says `issuer: local`.

    The issuer's key lies in `$GUARDTRAIL_DIR/issuers/NAME.json` (default `.guardtrail/`); whoever can read it can mint.

    \b
    guardtrail token mint --issuer acme-dev --origin alice --actor support-agent --intent refund-order \\
        --param order=A-17 --param ceiling=50 > task.jwt

    \b
    --json: {"token", "issuer", "file"}
    """
    params = _params(param or [])
    local = _known(issuer)
    try:
        token = local.mint(origin=origin, actor=actor, intent=intent, workload=workload, params=params, ttl=ttl)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    return _printed(token, issuer, as_json)


@app.command()
@answers
def login(
    issuer: Annotated[str, typer.Option(help="Name of the development issuer.", show_default=False)],
    person: Annotated[str, typer.Option(help="Who logs in.", show_default=False)],
    group: Annotated[list[str] | None, typer.Option(help="A group of theirs; may be repeated.", show_default=False)] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: 30s, 10m, 1h.")] = "10m",
    as_json: Json = False,
) -> int:
    """Print a token of a person who acts in person: to approve and reject with. For development and tests; it opens no task.

    The issuer's key is that of `guardtrail token mint`; whoever can read it can be anybody.

    \b
    guardtrail token login --issuer acme-dev --person bob --group treasury > bob.jwt
    guardtrail approve 01KAW5C --token @bob.jwt

    \b
    --json: {"token", "issuer", "file"}
    """
    local = _known(issuer)
    try:
        token = local.login(person, groups=group or [], ttl=ttl)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    return _printed(token, issuer, as_json)


def _printed(token: str, issuer: str, as_json: bool) -> int:
    file = issuer_file(issuer)
    note(f"development issuer {issuer} ({file}); not for production")
    if as_json:
        dump({"token": token, "issuer": issuer, "file": str(file)})
    else:
        say(token)
    return YES


def _known(issuer: str) -> LocalIssuer:
    """The development issuer of this name; made where there is none yet."""
    file = issuer_file(issuer)
    return LocalIssuer.load(file) if file.is_file() else _made(issuer, file)


def _made(name: str, file: Path) -> LocalIssuer:
    """Of several commands that make it at once, one wins and the others use its key."""
    try:
        ensure(directory())
        file.parent.mkdir(mode=0o700, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        LocalIssuer(name).save(draft)
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise CannotAnswer(f"{file} cannot be written: {(error.strerror or type(error).__name__).lower()}") from None
    return LocalIssuer.load(file)


def _params(given: list[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise WrongUsage("a parameter is written `NAME=VALUE`, as in `--param order=A-17`")
        if name in params:
            raise WrongUsage(f"parameter `{name[:60]}` is given twice")
        params[name] = value
    return params


@app.command()
@answers
def inspect(
    token: Annotated[
        str, typer.Argument(help="The token, `@file`, or `-` for standard input.", metavar="[TOKEN|@FILE|-]", show_default=False)
    ] = "-",
    issuer: Annotated[
        str | None, typer.Option(help="Verify it as a token of this issuer: its exact `iss`.", metavar="URL", show_default=False)
    ] = None,
    audience: Annotated[str | None, typer.Option(help="For whom it must be meant.", metavar="NAME", show_default=False)] = None,
    keys: Annotated[
        str | None,
        typer.Option(help="Its keys: a JWKS file, or the address of one; else by its metadata.", metavar="FILE|URL", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what a token says, without believing it; and whether it verifies, where the issuer's key is here.

    The signature is never shown.

    \b
    guardtrail token inspect @task.jwt
    guardtrail token mint ... | guardtrail token inspect

    \b
    --json: {"verified": true | false | null, "code", "text", "header", "claims", "chain": [str], "expires_in": seconds | null}
    Exit 0: verified, or nobody here could verify it; 1: it does not verify or is no token.
    """
    text = read_stdin("the token", most=64 << 10).strip() if token == "-" else read_token(token)
    now = int(datetime.now(UTC).timestamp())
    try:
        header, claims = peek(text)
    except TokenRefused as error:
        return _refused(error, as_json)
    verified, code, why = _verify(text, claims, issuer, audience, keys, now)
    chain, left = _chain(claims), _left(claims, now)
    if as_json:
        dump({"verified": verified, "code": code, "text": why, "header": header, "claims": claims, "chain": chain, "expires_in": left})
    else:
        _show(verified, code, why, header, claims, chain, left)
    return NO if verified is False else YES


def _refused(error: TokenRefused, as_json: bool) -> int:
    if as_json:
        dump(
            {
                "verified": False,
                "code": str(error.reason),
                "text": str(error),
                "header": None,
                "claims": None,
                "chain": [],
                "expires_in": None,
            }
        )
    else:
        say(styled("deny"), f"  {error.reason}  {error}")
    return NO


def _verify(
    text: str, claims: dict[str, Any], issuer: str | None, audience: str | None, keys: str | None, now: int
) -> tuple[bool | None, str | None, str]:
    """(verified, code, words); None where there is nobody to ask."""
    known: Issuer | LocalIssuer | None
    if issuer is not None:
        if audience is None:
            raise WrongUsage("`--issuer` needs `--audience`: for whom its tokens must be meant")
        known = named(issuer, audience, keys)
    else:
        known = development(claims.get("iss"))
    if known is None:
        return None, None, "no key of this issuer is here; nothing below is proven"
    try:
        delegation = TrustedIssuers(known).verify(text, now=now)
    except TokenRefused as error:
        if str(error.reason) == "keys.unavailable":
            raise CannotAnswer(str(error), code=error.code) from None
        return False, str(error.reason), str(error)
    return True, "permit", f"by {'the development issuer ' if delegation.local else ''}{delegation.issuer}, key {delegation.credential.kid}"


def _chain(claims: dict[str, Any]) -> list[str]:
    """origin > opener > ... > who acts now. RFC 8693: the outermost `act` acts now."""
    actors: list[str] = []
    act = claims.get("act")
    while isinstance(act, dict) and len(actors) < 900:
        actors.append(str(act.get("sub", "?")))
        act = act.get("act")
    return [str(claims.get("sub", "?")), *reversed(actors)]


def _left(claims: dict[str, Any], now: int) -> int | None:
    expires = claims.get("exp")
    return expires - now if type(expires) is int else None


_TIMES = ("exp", "iat", "nbf", "auth_time")


def _show(
    verified: bool | None, code: str | None, why: str, header: dict[str, Any], claims: dict[str, Any], chain: list[str], left: int | None
) -> None:
    word = {True: ("verified", "green"), False: ("NOT VERIFIED", "bold red"), None: ("NOT VERIFIED", "bold yellow")}[verified]
    say(word, f"  {code}  {why}" if verified is False else f"  {why}")
    rows = [["who", " > ".join(chain)], ["expires", _lifetime(left)]]
    for line in columns([[f"{label:8}", text] for label, text in rows], gap=1):
        say(line)
    table(
        ["", "claim", "value"],
        [["header", name, _value(name, value)] for name, value in header.items()]
        + [["", name, _value(name, value)] for name, value in claims.items()],
    )


def _lifetime(left: int | None) -> str:
    if left is None:
        return "never said"
    ago = "" if left > 0 else " ago"
    minutes, rest = divmod(abs(left), 60)
    hours, minutes = divmod(minutes, 60)
    spent = " ".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number) or "0s"
    return f"in {spent}" if left > 0 else f"{spent}{ago}: it is no longer valid"


def _value(name: str, value: object) -> str:
    if name in _TIMES and type(value) is int and 0 <= value < 1 << 40:
        try:
            return f"{value}  ({datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC)"
        except (ValueError, OverflowError, OSError):
            return str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
