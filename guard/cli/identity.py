"""`guardtrail identity`: who is in the registry, and what is wrong with it."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import show_problem
from guard.cli.output import NO, UNKNOWN, YES, CannotAnswer, Json, answers, count, dump, note, say, table
from guard.identity._files import WatchedFile
from guard.identity.registered import MOST, Identity, RegistryUnreadable, read_registry

__all__ = ["app"]

app = typer.Typer(help="Look into a registry of identities.", no_args_is_help=True, rich_markup_mode=None)

_FileArgument = Annotated[
    Path, typer.Argument(help="The registry: YAML, JSON, or a SCIM ListResponse.", metavar="FILE", show_default=False)
]
_Issuer = Annotated[
    str | None, typer.Option("--issuer", help="Only those that tokens of this issuer can name.", metavar="URL", show_default=False)
]


@app.callback()
def _verbs() -> None:
    """Look into a registry of identities: agents, workloads, service accounts and their keys."""


@app.command("list")
@answers
def list_(file: _FileArgument, issuer: _Issuer = None, as_json: Json = False) -> int:
    """Who is in the registry: kind, name, owner, environment, how old its secret is, what is wrong.

    \b
    guardtrail identity list registry.yaml
    guardtrail identity list agents.scim.json --issuer https://idp.example

    \b
    --json: {"ok": true, "identities": [{"kind", "id", "owner", "environment", "issuer", "origin", "third_party",
             "keys", "spiffe", "of", "status", "workloads", "age_days", "overdue", "findings": [code]}]}
    Exit 0: listed; 3: the file cannot be read, or is wrong (each error with its place).
    """
    identities = _read(file, issuer, as_json)
    if identities is None:
        return UNKNOWN
    now = time.time()
    if as_json:
        dump({"ok": True, "identities": [_dict(one, now) for one in identities]})
    else:
        _show(identities, now)
        note(count(len(identities), "identity", "identities"))
    return YES


@app.command()
@answers
def check(file: _FileArgument, issuer: _Issuer = None, as_json: Json = False) -> int:
    """What a guard would object to: no owner, a secret not rotated in time, suspended or retired entries.

    Run it where the registry is exported, so that the owner hears of it before the agent is denied.

    \b
    guardtrail identity check registry.yaml
    guardtrail identity check registry.yaml --issuer https://idp.example

    \b
    --json: {"ok": bool, "identities": number, "findings": [{"kind", "id", "owner", "code", "text"}]}
    Exit 0: nothing; 1: findings; 3: the file cannot be read, or is wrong (each error with its place).
    """
    identities = _read(file, issuer, as_json)
    if identities is None:
        return UNKNOWN
    now = time.time()
    found = [(one, code) for one in identities for code in _codes(one, now)]
    if as_json:
        rows = [{"kind": one.kind, "id": one.id, "owner": one.owner, "code": code, "text": _text(one, code)} for one, code in found]
        dump({"ok": not found, "identities": len(identities), "findings": rows})
    else:
        for one, code in found:
            say(("found", "bold red"), f"  {code}  {one.kind} {one.id}: {_text(one, code)}")
        say(f"{count(len(identities), 'identity', 'identities')}, {count(len(found), 'finding')}")
    return NO if found else YES


def _read(file: Path, issuer: str | None, as_json: bool) -> list[Identity] | None:
    """The identities; None where the file is wrong and every error was said."""
    try:
        raw = WatchedFile(file, most=MOST).read()
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a regular file of a sensible size"
        raise CannotAnswer(f"registry {file} cannot be read: {why.lower()}") from None
    try:
        found = read_registry(raw, str(file))
    except RegistryUnreadable as error:
        if not error.problems:
            raise CannotAnswer(str(error)) from None
        if as_json:
            dump(
                {"ok": False, "error": {"code": str(error.code), "text": str(error)}, "problems": [asdict(each) for each in error.problems]}
            )
        else:
            for problem in error.problems:
                show_problem(problem)
            say(f"{count(len(error.problems), 'error')}; a registry that is wrong denies every call")
        return None
    return [one for one in found if issuer is None or one.issuer in (None, issuer)]


def _codes(one: Identity, now: float) -> list[str]:
    codes = ["identity.suspended"] if one.status != "active" else []
    if one.owner is None and one.kind != "key":  # a key is owned by whom it belongs to
        codes.append("identity.unowned")
    if one.overdue(now):
        codes.append("identity.overdue")
    return codes


def _text(one: Identity, code: str) -> str:
    if code == "identity.suspended":
        return one.status
    if code == "identity.unowned":
        return "nobody owns it"
    if one.rotated is None:
        return "no day on which it was rotated"
    return f"rotated {_day(one.rotated)}, every {(one.rotate_every or 0) // 86400} days"


def _show(identities: list[Identity], now: float) -> None:
    rows = [
        (one.kind, one.id, one.owner or (f"(of {one.of})" if one.of else "-"), one.environment or "-", _age(one, now), ", ".join(_words(one, now)))
        for one in sorted(identities, key=lambda one: (one.kind, one.id))
    ]  # fmt: skip
    table(("kind", "id", "owner", "environment", "age", "to do"), rows, numbers=frozenset((4,)))


def _words(one: Identity, now: float) -> list[str]:
    words = {"identity.suspended": one.status, "identity.unowned": "no owner", "identity.overdue": "overdue"}
    return [words[code] for code in _codes(one, now)]


def _age(one: Identity, now: float) -> str:
    return "-" if one.rotated is None else f"{_days(one.rotated, now)}d"


def _days(since: int, now: float) -> int:
    return int((now - since) // 86400)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _dict(one: Identity, now: float) -> dict[str, Any]:
    names = ("kind", "id", "owner", "environment", "issuer", "origin", "third_party", "keys", "spiffe", "of", "status")
    age = None if one.rotated is None else _days(one.rotated, now)
    programs = [{"issuer": issuer, "subject": subject} for issuer, subject in one.workloads]
    return {
        **{name: getattr(one, name) for name in names},
        "workloads": programs,
        "age_days": age,
        "overdue": one.overdue(now),
        "findings": _codes(one, now),
    }
